"""Registration is light, harmless and complete."""

PROGRAM = """
import sys
import lmms_eval.models as models
heavy = {"torch", "transformers", "datasets", "faiss", "open_clip", "lmms_eval.tasks", "comem_lmms.models"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
assert {"baseline", "vanilla_rag", "comem"} <= set(models.list_available_models())
"""


def test_registration_imports_nothing_heavy(run):
    run("python", "-c", PROGRAM)


def test_our_import_hook_is_gone_once_used(run, tmp_path):
    run(
        "python",
        "-c",
        "import sys, lmms_eval.models\n"
        "hooks = [f for f in sys.meta_path if type(f).__module__ == 'comem_lmms.plugin']\n"
        "assert len(hooks) == 1\n"
        "import importlib.util; importlib.util.find_spec('lmms_eval.tasks')  # a look alone uses nothing up\n"
        "import lmms_eval.tasks\n"
        "assert not set(hooks) & set(sys.meta_path)\n"
        "from lmms_eval.tasks import TaskManager\n"
        "assert 'microseek' in TaskManager().all_tasks\n"
        f"assert 'microseek' in TaskManager(include_path={str(tmp_path)!r}).all_tasks\n",
    )


def test_an_unknown_lmms_eval_costs_nothing_but_a_warning(monkeypatch, caplog):
    import lmms_eval.models
    import lmms_eval.tasks

    from comem_lmms import plugin

    monkeypatch.delattr(lmms_eval.models, "AVAILABLE_CHAT_TEMPLATE_MODELS")
    monkeypatch.delattr(lmms_eval.tasks, "TaskManager")
    assert {m.model_id for m in plugin.manifests()} == set(plugin.MODELS)
    assert sum("failed" in message for message in caplog.messages) == 2


def test_every_registered_class_is_a_chat_model_of_that_name():
    from lmms_eval.models import get_model

    from comem_lmms.plugin import MODELS

    for name in MODELS:
        kind = get_model(name)
        assert kind.name == name
        assert not kind.is_simple
