"""Registration is light, harmless and complete, and missing data is noticed before a model is loaded."""

import pytest

from comem_lmms.errors import UserError

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


UNPREPARED = {
    "utils.py": "from comem_lmms.data import prepared\nFOLDER = prepared('viquae')\n",
    "lacking.yaml": "task: lacking\ntag: tagged\ndataset_path: !function utils.FOLDER\n",
    "../elsewhere/needs_data.py": "from comem_lmms.data import prepared\nFOLDER = prepared('viquae')\n",
    "wrapped.yaml": "task: wrapped\ndataset_path: !function needs_data.FOLDER\n",
    "wrong.yaml": "task: wrong\ndataset_path: !function no_such_module.FOLDER\n",
    "inner.yaml": "group: inner\ntask: [{task: lacking}]\n",
    "outer.yaml": "group: outer\ntask: [inner, outer]\n",
}
COMMAND = """
import sys
from comem_lmms import plugin
folder = sys.argv.pop(1)
plugin.task_folder = lambda: folder
from lmms_eval.__main__ import cli_evaluate
cli_evaluate()
"""


@pytest.fixture
def unprepared(tmp_path, monkeypatch):
    """A folder of tasks whose data is missing."""
    monkeypatch.setenv("COMEM_DATA", str(tmp_path / "nothing"))
    folder = tmp_path / "tasks"
    folder.mkdir()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path / "elsewhere"))
    for name, text in UNPREPARED.items():
        (folder / name).write_text(text)
    return folder


def test_missing_data_is_noticed_before_the_model_is_loaded(run, unprepared):
    """By lmms-eval itself, which would complain of the model, and with a traceback."""
    command = ("python", "-c", COMMAND, str(unprepared), "--model", "baseline", "--model_args", "pretrained=/nowhere")
    done = run(*command, "--tasks", "outer", check=False)
    assert done.returncode == 2
    assert done.stdout.splitlines()[-1].startswith("comem-lmms: viquae is not prepared (there is no ")
    assert done.stdout.splitlines()[-1].endswith("run: comem-lmms data prepare viquae")
    assert "Traceback" not in done.stdout
    assert "/nowhere" not in done.stdout.split("Namespace")[0]
    assert "lacking" in run(*command, "--tasks", "list").stdout


def test_missing_data_is_an_exception_for_a_program(unprepared, monkeypatch):
    """From Python, where ending the program would take a notebook's work with it."""
    from helpers import ChatRecorder
    from lmms_eval.evaluator import simple_evaluate
    from lmms_eval.tasks import TaskManager

    from comem_lmms import plugin

    monkeypatch.setattr(plugin, "task_folder", lambda: str(unprepared))
    manager = TaskManager()
    for name in ("inner", "lacking", "wrapped"):
        with pytest.raises(UserError, match=r"^viquae is not prepared .* comem-lmms data prepare viquae$"):
            simple_evaluate(model=ChatRecorder(), tasks=[name], task_manager=manager)
    with pytest.raises(ImportError, match="no_such_module"):
        simple_evaluate(model=ChatRecorder(), tasks=["wrong"], task_manager=manager)


def test_only_our_missing_data_ends_a_run(unprepared, monkeypatch):
    import lmms_eval.models  # noqa: F401, loads the plugin
    from lmms_eval.tasks import TaskManager

    from comem_lmms import plugin

    elsewhere = TaskManager(include_path=str(unprepared))
    assert elsewhere.match_tasks(["lacking", "outer", "microseek"]) == ["lacking", "microseek", "outer"]
    monkeypatch.setattr(plugin, "task_folder", lambda: str(unprepared))
    ours = TaskManager()
    for name in ("lacking", "tagged", "inner", "outer", "lack*", "wrapped"):
        with pytest.raises(UserError, match=r"^viquae is not prepared .*$"):
            ours.match_tasks([name])
    with pytest.raises(ImportError, match="no_such_module"):
        ours.match_tasks(["wrong"])
    assert ours.match_tasks(["nothing_of_the_kind"]) == []
