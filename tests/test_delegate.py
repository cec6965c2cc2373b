"""What other models of lmms-eval are asked when they answer for us."""

import pytest
from helpers import ChatRecorder, Recorder, answers, evaluate, register, spoiled_task, usages
from lmms_eval.api.instance import Instance
from loguru import logger

from comem_lmms import micro
from comem_lmms.errors import UserError
from comem_lmms.models.baseline import Baseline
from comem_lmms.models.delegate import delegate
from comem_lmms.prompts import item_text

PIXELS = 112 * 112
MICRO = f"pretrained={micro.resolve('micro', 'vlm')},device_map=cpu,min_pixels={PIXELS},max_pixels={PIXELS}"


@pytest.fixture(autouse=True)
def _recorders():
    register("recorder", "simple", "helpers.Recorder")
    register("chat_recorder", "chat", "helpers.ChatRecorder")
    Recorder.asked.clear()


def asked():
    """Number of the document -> text, bytes of the images, arguments of generation; forgets them."""
    noted = {
        place: (context, [image.convert("RGB").tobytes() for image in images], generation)
        for place, (context, images, generation) in Recorder.asked.items()
    }
    Recorder.asked.clear()
    return noted


def pixels(item):
    return item.image.convert("RGB").tobytes()


def test_a_simple_base_alone_is_asked_what_lmms_eval_asks_it():
    direct = evaluate("recorder", limit=7, batch_size=3)
    expected = asked()
    based = evaluate("baseline", model_args="base=recorder", limit=7, batch_size=3)
    assert asked() == expected
    assert len(expected) == 7
    assert answers(based) == answers(direct) == [f"answer {i}" for i in range(7)]


def test_a_simple_base_gets_the_items_in_front_the_best_one_last(knowledge):
    evaluate("recorder", limit=7, batch_size=3)
    alone = asked()
    run = evaluate("vanilla_rag", model_args="base=recorder,top_k=2", limit=7, batch_size=3)
    found = asked()
    for number, usage in enumerate(usages(run)):
        best, second = (knowledge[knowledge.find(id_)] for id_ in usage["retrieved"])
        context, images, generation = found["microseek", number]
        question, image, same = alone["microseek", number]
        assert context == f"{item_text(second)}\n{item_text(best)}\n{question}"
        assert images == [pixels(second), pixels(best), *image]
        assert generation == same
    assert len({tuple(usage["retrieved"]) for usage in usages(run)}) > 3


def test_usage_of_a_simple_base():
    run = evaluate("vanilla_rag", model_args="base=recorder,top_k=2", limit=4, batch_size=4)
    own = evaluate("vanilla_rag", model_args="top_k=2", limit=4, batch_size=4)
    for usage, ours in zip(usages(run), usages(own), strict=True):
        assert usage["input_tokens"] > 100
        assert usage["output_tokens"] == 2
        assert (usage["retrieved"], usage["gold"]) == (ours["retrieved"], ours["gold"])
        assert set(usage["seconds"]) == {"retrieve", "encode", "answer"}


@pytest.mark.parametrize("base", ["recorder", "chat_recorder"])
def test_no_items_is_the_baseline(base):
    evaluate("baseline", model_args=f"base={base}", limit=4, batch_size=2)
    baseline = dict(Recorder.asked)
    Recorder.asked.clear()
    evaluate("vanilla_rag", model_args=f"base={base},top_k=0", limit=4, batch_size=2)
    assert Recorder.asked == baseline


def test_layout_text_on_a_simple_base_has_the_image_of_the_question_only(knowledge):
    evaluate("recorder", limit=3)
    alone = asked()
    run = evaluate("vanilla_rag", model_args="base=recorder,layout=text,top_k=1", limit=3)
    for (place, (context, images, _)), usage in zip(sorted(asked().items()), usages(run), strict=True):
        text = item_text(knowledge[knowledge.find(usage["retrieved"][0])])
        assert context == f"Reference Information: {text[:500]}{alone[place][0]}"
        assert images == alone[place][1]


def test_every_question_of_a_batch_gets_its_own_items():
    """Chat models too take the first request's function for a whole batch."""
    run = evaluate("vanilla_rag", model_args="base=chat_recorder,top_k=1", limit=12, batch_size=12)
    for (task, number), (_, messages, _) in Recorder.asked.items():
        assert (task, len(messages)) == ("microseek", 2)
        assert usages(run)[number]["retrieved"][0] == usages(run)[number]["gold"]  # as everywhere in MicroSeek
    texts = {messages[0]["content"][0]["text"] for _, messages, _ in Recorder.asked.values()}
    assert len(texts) == len({usage["gold"] for usage in usages(run)}) > 3
    assert ChatRecorder.asked is Recorder.asked


def test_tasks_do_not_mix_in_a_batch(tmp_path, questions):
    tasks = spoiled_task(tmp_path, questions[100:], questions[102]["image"])
    arguments = {"task_manager": tasks, "limit": 4, "batch_size": 8}
    evaluate("vanilla_rag", ("microseek", "spoiled"), model_args="base=recorder,top_k=1", **arguments)
    found = asked()
    expected = [q["image"].convert("RGB").tobytes() for q in (*questions[:4], *questions[100:104])]
    places = [(task, number) for task in ("microseek", "spoiled") for number in range(4)]
    assert [found[place][1][-1] for place in places] == expected


def test_answers_of_a_base_that_changes_its_arguments_come_from_the_cache(tmp_path):
    arguments = {"limit": 5, "batch_size": 2, "use_cache": str(tmp_path)}
    first = evaluate("vanilla_rag", model_args="base=recorder", **arguments)
    again = evaluate("vanilla_rag", model_args="base=recorder", **arguments)
    assert answers(again) == answers(first)
    assert usages(again) == [None] * 5


def test_the_simple_qwen_of_lmms_eval(questions):
    """Alone it answers as it does without us, and with items a batch of eight answers as one by one does."""
    pytest.importorskip("decord")
    name = register("simple_qwen2_5_vl", "simple", "lmms_eval.models.simple.qwen2_5_vl.Qwen2_5_VL")
    direct = evaluate(name, model_args=MICRO, device="cpu", batch_size=1, limit=12)
    alone = evaluate("baseline", model_args=f"base={name},{MICRO}", device="cpu", batch_size=1, limit=12)
    assert answers(alone) == answers(direct)
    one, eight = (
        evaluate("vanilla_rag", model_args=f"base={name},{MICRO},top_k=1", device="cpu", batch_size=size, limit=12)
        for size in (1, 8)
    )
    assert answers(one) == answers(eight)
    assert sum(a == q["answer"] for a, q in zip(answers(one), questions, strict=False)) >= 11  # guessing gives 1 in 40


def test_dummy():
    run = evaluate("vanilla_rag", model_args="base=dummy,response=yes,top_k=1", limit=2)
    assert answers(run) == ["yes", "yes"]
    assert [usage["retrieved"][0] for usage in usages(run)] == [usage["gold"] for usage in usages(run)]


def test_a_base_without_its_packages_is_one_clear_line():
    with pytest.raises(UserError, match=r"base='llava' cannot be used \(name .* is not defined\); install what it"):
        Baseline(base="llava")


def test_a_base_that_cannot_be_loaded_is_one_clear_line():
    with pytest.raises(UserError, match=r"base='llava_hf' cannot be loaded \(\w+: .*/nowhere"):
        Baseline(base="llava_hf", pretrained="/nowhere", device="cpu")


def test_a_base_that_answers_nothing_is_warned_about():
    register("silent", "simple", "helpers.Silent")
    lines: list[str] = []
    sink = logger.add(lines.append, level="WARNING", format="{message}")
    for base in ("silent", "recorder"):
        evaluate("baseline", model_args=f"base={base}", limit=3)
    logger.remove(sink)
    assert [line for line in lines if "answered nothing" in line] == [
        "base='silent' answered nothing to all 3 questions; see its errors above\n"
    ]


def test_a_task_without_visuals_is_refused_for_simple_bases():
    metadata = {"task": "t", "doc_id": 0, "repeats": 1}
    arguments = ("who?", lambda doc: [], {}, 0, "t", "test")
    request = Instance("generate_until", arguments, 0, metadata)
    with pytest.raises(UserError, match="task t has no doc_to_visual"):
        delegate(Recorder(), {"t": {"test": [{}]}}, [request], [[]], lambda chat, hits: chat)
