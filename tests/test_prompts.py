"""Knowledge is laid out with the best item next to the question, and nothing of the question is changed."""

import copy

import pytest
from helpers import chat

from comem_lmms.prompts import (
    LAYOUTS,
    MAX_ITEM_CHARACTERS,
    item_text,
    layout_of,
    one_turn,
    rag_messages,
    text_messages,
    text_only_messages,
)
from comem_lmms.records import KnowledgeItem

ITEMS = [KnowledgeItem(str(i), f"title {i}", f"text {i}", image=f"image {i}") for i in range(3)]


def texts(messages):
    return [part["text"] for message in messages for part in message["content"] if part["type"] == "text"]


def test_best_item_stands_next_to_the_question():
    assert texts(rag_messages(chat("who?"), ITEMS)) == ["title 2: text 2", "title 1: text 1", "title 0: text 0", "who?"]


def test_each_item_is_a_turn_of_text_and_image():
    turn = rag_messages(chat("who?"), ITEMS[:1])[0]
    assert turn == {
        "role": "user",
        "content": [{"type": "text", "text": "title 0: text 0"}, {"type": "image", "url": "image 0"}],
    }


def test_system_turn_stays_first():
    system = {"role": "system", "content": [{"type": "text", "text": "be brief"}]}
    assert texts(rag_messages([system, *chat("who?")], ITEMS[:1])) == ["be brief", "title 0: text 0", "who?"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_question_is_not_changed(layout):
    question = chat("who?", "picture")
    before = copy.deepcopy(question)
    assert LAYOUTS[layout](question, []) == before
    LAYOUTS[layout](question, ITEMS)
    assert question == before


def test_text_of_an_item():
    assert item_text(KnowledgeItem("i", "", "only text")) == "only text"
    assert item_text(KnowledgeItem("i", "only title", "")) == "only title"
    assert len(item_text(KnowledgeItem("i", "t", "x" * 9000))) == MAX_ITEM_CHARACTERS


def test_layout_turn_is_turns_in_one():
    question = [{"role": "system", "content": []}, *chat("who?", "picture"), {"role": "assistant", "content": []}]
    turns, turn = LAYOUTS["turns"](question, ITEMS), LAYOUTS["turn"](question, ITEMS)
    assert [m["role"] for m in turn] == ["system", "user", "assistant"]
    assert turn[1]["content"] == [part for m in turns[1:-1] for part in m["content"]]


def test_layout_text_is_one_turn_with_the_image_of_the_question():
    (turn,) = text_messages(chat("who?", "picture"), ITEMS[:2])
    text = "Reference Information: title 1: text 1Reference Information: title 0: text 0who?"
    assert turn == chat(text, "picture")[0]


def test_layout_text_cuts_items_at_500_characters():
    (text,) = texts(text_messages(chat("who?"), [KnowledgeItem("i", "t", "x" * 900)]))
    assert text == f"Reference Information: t: {'x' * 497}who?"


def test_layout_text_only_names_the_question_and_sets_the_system_turn():
    system, turn = text_only_messages(chat("who?"), ITEMS[:2])
    assert system == {"role": "system", "content": [{"type": "text", "text": "You are a helpful assistant."}]}
    text = "Reference Information: title 1: text 1Reference Information:  title 0: text 0Question: who?"
    assert turn == chat(text)[0]


@pytest.mark.parametrize("layout", ["text", "text_only"])
def test_text_layouts_keep_the_system_turn_and_what_follows(layout):
    system = {"role": "system", "content": [{"type": "text", "text": "be brief"}]}
    question = [system, *chat("one?"), {"role": "assistant", "content": []}, *chat("two?")]
    first, second, *rest = LAYOUTS[layout](question, ITEMS)
    assert (first, rest) == (system, question[2:])
    assert texts([second])[0].endswith("one?")


def test_text_layouts_of_a_question_without_words():
    image_only = [{"role": "user", "content": [{"type": "image", "url": "picture"}]}]
    assert text_messages(image_only, ITEMS[:1]) == chat("Reference Information: title 0: text 0", "picture")


def test_layouts_of_the_reference():
    assert [layout_of(family) for family in ("qwen2_5_vl", "llava_next", "llava")] == ["turns", "turns", "text"]
    assert layout_of("gemma3") == "turn"
    assert layout_of("qwen2", sees_images=False) == "text_only"


def simple(question, items, layout="turns", images=("picture",)):
    return one_turn(lambda messages: LAYOUTS[layout](messages, items), question, images)


def test_one_turn_without_markers():
    assert simple("who?", ITEMS[:2]) == ("title 1: text 1\ntitle 0: text 0\nwho?", ["image 1", "image 0", "picture"])


def test_one_turn_gives_items_markers_if_the_question_has_them():
    text, images = simple("who is <image>?", ITEMS[:2])
    assert text == "title 1: text 1\n<image>\ntitle 0: text 0\n<image>\nwho is <image>?"
    assert text.count("<image>") == len(images)


def test_one_turn_numbers_the_markers_in_the_order_of_the_images():
    text, images = simple("is <image 2> or <image 1> older?", ITEMS[:2], images=("left", "right"))
    assert text == "title 1: text 1\n<image 1>\ntitle 0: text 0\n<image 2>\nis <image 4> or <image 3> older?"
    assert images == ["image 1", "image 0", "left", "right"]


def test_words_of_an_item_cannot_pose_as_markers():
    item = KnowledgeItem("i", "HTML", "<image> and <image 1>", image="image")
    assert simple("who?", [item]) == ("HTML: < image> and < image 1>\nwho?", ["image", "picture"])


def test_one_turn_of_an_item_without_image():
    item = KnowledgeItem("i", "t", "x")
    assert simple("<image> who?", [item]) == ("t: x\n<image> who?", ["picture"])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_one_turn_without_items_is_the_question(layout):
    assert simple("who is <image 1>?", [], layout) == ("who is <image 1>?", ["picture"])


def test_one_turn_of_the_text_layouts():
    text = "Reference Information: title 0: text 0"
    assert simple("<image>who?", ITEMS[:1], "text") == (f"{text}<image>who?", ["picture"])
    assert simple("who?", ITEMS[:1], "text_only") == (f"{text}Question: who?", ["picture"])
