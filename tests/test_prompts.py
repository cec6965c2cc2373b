"""Knowledge is laid out with the best item next to the question, and nothing of the question is changed."""

import copy

from helpers import chat

from comem_lmms.prompts import MAX_ITEM_CHARACTERS, item_text, rag_messages
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


def test_question_is_not_changed():
    question = chat("who?", "picture")
    before = copy.deepcopy(question)
    assert rag_messages(question, []) == before
    rag_messages(question, ITEMS)
    assert question == before


def test_text_of_an_item():
    assert item_text(KnowledgeItem("i", "", "only text")) == "only text"
    assert item_text(KnowledgeItem("i", "only title", "")) == "only title"
    assert len(item_text(KnowledgeItem("i", "t", "x" * 9000))) == MAX_ITEM_CHARACTERS
