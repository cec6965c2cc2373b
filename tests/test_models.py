"""The three wrappers, run by lmms-eval in this process on the bundled micro models."""

import shutil
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from helpers import ChatRecorder, answers, evaluate, indexed, spoiled_task, usages
from lmms_eval.api.instance import Instance
from lmms_eval.caching.response_cache import ResponseCache
from loguru import logger

from comem_lmms import __version__, micro
from comem_lmms.errors import UserError
from comem_lmms.knowledge import KnowledgeBase
from comem_lmms.models import caching
from comem_lmms.models.baseline import Baseline
from comem_lmms.models.comem import CoMEM
from comem_lmms.models.vanilla_rag import VanillaRAG

PIXELS = 112 * 112


@pytest.fixture
def own_knowledge(knowledge, tmp_path):
    """A copy of MicroSeek's knowledge base that a test may spoil."""
    folder = tmp_path / "kb"
    shutil.copytree(knowledge.folder, folder)
    return folder


@pytest.mark.parametrize("model", ["baseline", "vanilla_rag", "comem"])
def test_batch_size_does_not_change_an_answer(model):
    one, eight = (evaluate(model, batch_size=size) for size in (1, 8))
    assert len(answers(one)) == 384
    assert answers(one) == answers(eight)
    assert [u["input_tokens"] for u in usages(one)] == [u["input_tokens"] for u in usages(eight)]
    assert [u["retrieved"] for u in usages(one)] == [u["retrieved"] for u in usages(eight)]


def test_what_an_answer_cost_is_logged():
    results = evaluate("comem", model_args="top_k=2", limit=4, batch_size=3)
    usage = usages(results)[0]
    assert usage["memory_vectors"] == 16
    assert len(usage["retrieved"]) == len(usage["scores"]) == 2
    assert usage["query"] == "image"
    assert 1 > usage["scores"][0] > usage["scores"][1] > 0  # of two images that are not the question's own
    assert usage["input_tokens"] > 20
    assert usage["output_tokens"] >= 1
    assert set(usage["seconds"]) == {"retrieve", "encode", "answer"}
    assert set(usage["fingerprints"]) == {"knowledge", "retrieval", "vlm", "memory_encoder", "compat"}
    assert 0 < usage["first_token"] < 3 * usage["seconds"]["answer"]  # which is a third of its batch's
    assert (usage["peak_memory"] is None) == (not torch.cuda.is_available())
    assert usage["bank_bytes"] is None
    assert results["throughput"]["avg_first_token_seconds"] > 0
    assert "avg_bank_bytes" not in results["throughput"]
    told = results["efficiency"]["by_task"]["microseek"]
    assert told["total_input_tokens"] == sum(u["input_tokens"] for u in usages(results))
    libraries = ("torch", "transformers", "peft")
    assert usage["versions"] == {"comem-lmms": __version__, **{name: version(name) for name in libraries}}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_gpu_memory_is_that_of_models_and_answers():
    results = evaluate("comem", limit=4, batch_size=2, log_samples=True)
    peak = usages(results)[0]["peak_memory"]
    weights = sum(file.stat().st_size for file in Path(micro.resolve("micro", "vlm")).glob("*.safetensors"))
    assert weights < peak <= torch.cuda.get_device_properties(0).total_memory
    assert results["throughput"]["avg_peak_memory_bytes"] == peak


def test_no_items_is_the_baseline():
    baseline = answers(evaluate("baseline", limit=8, batch_size=4))
    for model in ("vanilla_rag", "comem"):
        assert answers(evaluate(model, model_args="top_k=0", limit=8, batch_size=4)) == baseline


def test_rag_and_comem_get_the_same_items():
    rag, comem = (usages(evaluate(model, limit=8, batch_size=8)) for model in ("vanilla_rag", "comem"))
    assert [u["retrieved"] for u in rag] == [u["retrieved"] for u in comem]
    assert rag[0]["input_tokens"] > comem[0]["input_tokens"] + 3 * 100


def test_baseline_equals_the_wrapper_of_lmms_eval():
    """Same answers as lmms-eval's own Qwen2.5-VL, alone and as our base.

    It is fixed to bfloat16, in which padding turns near ties, and it makes up its batches in another order: one by one.
    """
    pytest.importorskip("decord")
    own = evaluate("baseline", model_args="dtype=bfloat16,device=cpu", batch_size=1)
    theirs = f"pretrained={micro.resolve('micro', 'vlm')},device_map=cpu,min_pixels={PIXELS},max_pixels={PIXELS}"
    built_in = evaluate("qwen2_5_vl", model_args=theirs, device="cpu", batch_size=1)
    assert answers(own) == answers(built_in)
    assert len(answers(own)) == 384
    assert len(set(answers(own))) > 10
    based = evaluate("baseline", model_args=f"base=qwen2_5_vl,{theirs}", device="cpu", batch_size=1, limit=48)
    assert answers(based) == answers(built_in)[:48]


def test_rag_on_a_base_of_lmms_eval_equals_rag_on_our_own():
    pytest.importorskip("decord")
    own = evaluate("vanilla_rag", model_args="dtype=bfloat16,device=cpu", batch_size=1, limit=48)
    theirs = f"pretrained={micro.resolve('micro', 'vlm')},device_map=cpu,min_pixels={PIXELS},max_pixels={PIXELS}"
    based = evaluate("vanilla_rag", model_args=f"base=qwen2_5_vl,{theirs}", device="cpu", batch_size=1, limit=48)
    assert answers(based) == answers(own)
    assert [u["retrieved"] for u in usages(based)] == [u["retrieved"] for u in usages(own)]


def test_generation_arguments_of_the_command_line_are_honoured():
    run = evaluate("baseline", gen_kwargs="max_new_tokens=1", limit=4, batch_size=4)
    assert {u["output_tokens"] for u in usages(run)} == {1}


@pytest.mark.parametrize(
    ("model", "arguments", "message"),
    [
        (Baseline, {"topk": 3}, r"unknown model argument topk=3; known: pretrained, .*max_pixels, base"),
        (CoMEM, {"base": "vllm"}, r"unknown model argument base='vllm'"),
        (VanillaRAG, {"top_k": "many"}, r"top_k='many' must be a whole number of at least 0"),
        (VanillaRAG, {"top_k": 1025}, r"top_k=1025 but knowledge base .* has 1024 items"),
        (VanillaRAG, {"batch_size": 0}, r"batch_size=0 must be a whole number of at least 1"),
        (VanillaRAG, {"retrieval": "gold"}, r"retrieval='gold' is unknown"),
        (VanillaRAG, {"knowledge": "/nowhere"}, r"no knowledge base at /nowhere"),
        (CoMEM, {"memory_encoder": "/nowhere"}, r"no memory encoder at '/nowhere'"),
        (
            CoMEM,
            {"pretrained": micro.resolve("micro", "vlm")},
            r"needs memory_encoder= \(made for it\) or memory_bank=",
        ),
        (CoMEM, {"pretrained": "/nowhere"}, r"pretrained='/nowhere' is not a folder, nor a Hub id"),
        (VanillaRAG, {"knowledge": 2024}, r"no knowledge base at 2024"),
        (VanillaRAG, {"batch_size": "²"}, r"batch_size='²' must be a whole number of at least 1"),
        (Baseline, {"max_pixels": "abc"}, r"max_pixels='abc' must be a whole number of at least 1"),
        (Baseline, {"min_pixels": 9, "max_pixels": 8}, r"min_pixels=9 is more than max_pixels=8"),
        (Baseline, {"device": "xpu"}, r"device='xpu' cannot be used here \(.*\); give another, or cpu"),
        (Baseline, {"base": "no_such_model"}, r"base='no_such_model' is not a model of lmms-eval"),
        (Baseline, {"layout": "turns"}, r"unknown model argument layout='turns'"),
        (VanillaRAG, {"layout": "columns"}, r"layout='columns' is unknown; choose one of turns, turn, text, text_only"),
        (VanillaRAG, {"base": "openai", "topk": 5}, r"topk= would go to base='openai', but looks like top_k="),
        (Baseline, {"device": "cuda:7"}, r"device='cuda:7', but this machine has \d GPUs; give another, or cpu"),
        (VanillaRAG, {"dtype": "int7"}, r"dtype='int7' is unknown"),
    ],
)
def test_bad_arguments_are_one_clear_line_before_a_model_is_loaded(model, arguments, message, monkeypatch):
    monkeypatch.setattr("comem_lmms.models.base.FrozenVLM", None)  # loading a model would fail otherwise
    monkeypatch.setattr("comem_lmms.retrieval.retriever.ClipEmbedder", None)
    lines: list[str] = []
    sink = logger.add(lines.append, level="ERROR", format="{message}")
    with pytest.raises(UserError, match=message):
        model(**arguments)
    logger.remove(sink)
    assert len(lines) == 1
    assert lines[0].count("\n") == 1


def test_more_items_than_there_are_positions():
    with pytest.raises(UserError, match=r"top_k=600 memories of 8 vectors leave no room .* 4096 positions of 'micro'"):
        CoMEM(top_k=600)


def test_a_prompt_longer_than_the_model_was_made_for_is_said_once(vlm, caplog, chats):
    long = [[{"role": "user", "content": [{"type": "text", "text": "badger " * 4100}]}]]
    for _ in range(2):
        vlm.generate([*long, *chats[:1]], max_new_tokens=1)
    assert sum("was made for 4096 positions" in message for message in caplog.messages) == 1


def test_model_args_count_more_than_the_command_line():
    model = Baseline.create_from_arg_string("batch_size=8,dtype=float32", {"batch_size": 1, "max_batch_size": 16})
    assert model.arguments.batch_size == 8
    assert Baseline.create_from_arg_string({}, {"batch_size": "4"}).arguments.batch_size == 4


def test_no_requests_no_answers():
    assert Baseline().generate_until([]) == []


def test_repeats_are_answered_each():
    run = evaluate("baseline", limit=3, batch_size=2, repeats=2)
    assert len(run["samples"]["microseek"]) == 3
    assert all(len(sample["resps"][0]) == 2 for sample in run["samples"]["microseek"])


def test_index_of_another_base_is_refused(own_knowledge, knowledge):
    KnowledgeBase.create(own_knowledge, [knowledge.row(i) for i in range(1, 1024)])
    with pytest.raises(UserError, match="is of 1024 items but the base has 1023"):
        VanillaRAG(knowledge=str(own_knowledge))


@pytest.mark.parametrize("model", ["baseline", "vanilla_rag", "comem"])
def test_corrupt_image_names_the_document(tmp_path, questions, model):
    tasks = spoiled_task(tmp_path, questions, {"bytes": b"BM not an image", "path": None})
    with pytest.raises(UserError, match=r"document 2 of task spoiled cannot be read"):
        evaluate(model, ("spoiled",), task_manager=tasks)


def test_documents_without_an_image(tmp_path, questions):
    tasks = spoiled_task(tmp_path, questions, None)
    utils = tmp_path / "utils.py"
    utils.write_text(
        utils.read_text().replace('return [doc["image"]', 'return [] if doc["image"] is None else [doc["image"]')
    )
    with pytest.raises(UserError, match=r"document 2 of task spoiled has no image, and retrieval is by image"):
        evaluate("comem", ("spoiled",), task_manager=tasks)
    assert len(answers(evaluate("baseline", ("spoiled",), task_manager=tasks), "spoiled")) == 4


def test_answers_are_not_taken_from_the_cache_of_another_knowledge_base(own_knowledge, knowledge, tmp_path):
    arguments = {
        "model_args": f"knowledge={own_knowledge}",
        "limit": 8,
        "batch_size": 8,
        "use_cache": str(tmp_path / "cache"),
    }
    first = evaluate("vanilla_rag", **arguments)
    again = evaluate("vanilla_rag", **arguments)
    assert answers(again) == answers(first)
    assert usages(again)[0] is None  # from the cache
    rows = [knowledge.row(i) for i in range(1024)]
    turned = [
        row._replace(title=other.title, text=other.text) for row, other in zip(rows, rows[1:] + rows[:1], strict=True)
    ]
    indexed(KnowledgeBase.create(own_knowledge, turned))
    changed = evaluate("vanilla_rag", **arguments)
    assert usages(changed)[0] is not None
    assert answers(changed) != answers(first)


def test_lmms_eval_still_has_what_its_response_cache_is_extended_by(tmp_path):
    """Its private names and its files, which another version may move."""
    moved = (
        f"lmms-eval {version('lmms-eval')}: %s is not as in 0.7.3; change comem_lmms/models/caching.py, which needs it"
    )

    def one_run(key):
        cache = ResponseCache.create(str(tmp_path), model="recorder")
        for name in caching.PRIVATE:
            assert hasattr(cache, name), moved % f"ResponseCache.{name}"
        assert cache._cache_root == str(tmp_path), moved % "ResponseCache._cache_root"
        if key:
            cache._model_fingerprint_hash = key
        recorder = ChatRecorder()
        recorder.task_dict = {"task": {"test": [{}]}}
        arguments = ("question", lambda doc: [], {"max_new_tokens": 4}, 0, "task", "test")
        request = Instance("generate_until", arguments, 0, {"task": "task", "doc_id": 0, "repeats": 1})
        recorder.asked.clear()
        ResponseCache.execute(cache, recorder, "generate_until", [request])
        return cache, bool(recorder.asked)

    first, asked = one_run("key")
    assert asked
    (database,) = caching._unfinished(tmp_path, tmp_path)
    assert database == Path(first._run_dir, "rank_0.db"), moved % "the place of a run's answers"
    second, asked = one_run("another")
    assert asked, moved % "the use of _model_fingerprint_hash in the key"
    assert caching._adopt(second.db, database) == 1, moved % "the table of answers"
    second.finalize(success=True)
    assert caching._unfinished(tmp_path, tmp_path) == [database], moved % "the mark of a run that is merged"
    third, asked = one_run("key")
    assert not asked, moved % "what it finds again"
    third.close()


def test_an_interrupted_run_resumes(tmp_path, monkeypatch):
    arguments = {"batch_size": 8, "limit": 100, "use_cache": str(tmp_path / "cache")}
    whole = answers(evaluate("vanilla_rag", batch_size=8, limit=100))
    answer, asked = VanillaRAG._answer, []

    def interrupted(self, requests, hits):
        asked.append(len(requests))
        if len(asked) == 2:
            raise KeyboardInterrupt
        return answer(self, requests, hits)

    monkeypatch.setattr(VanillaRAG, "_answer", interrupted)
    with pytest.raises(KeyboardInterrupt):
        evaluate("vanilla_rag", **arguments)
    assert asked == [64, 36]
    assert answers(evaluate("vanilla_rag", **arguments)) == whole
    assert asked == [64, 36, 36]  # the first 64 were not asked again
