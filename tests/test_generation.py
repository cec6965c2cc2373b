"""What a task asks for is what transformers gets."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from comem_lmms.generation import FirstToken, cut, generation_arguments


def test_greedy_unless_asked_otherwise():
    assert generation_arguments({}) == ({"max_new_tokens": 128, "do_sample": False}, [])
    assert generation_arguments({"temperature": 0, "top_p": 1.0})[0] == {"max_new_tokens": 128, "do_sample": False}
    assert generation_arguments({"do_sample": False, "temperature": 0.7})[0] == {
        "max_new_tokens": 128,
        "do_sample": False,
    }


def test_sampling_when_asked():
    assert generation_arguments({"temperature": 0.7, "top_p": 0.9})[0] == {
        "max_new_tokens": 128,
        "temperature": 0.7,
        "top_p": 0.9,
        "do_sample": True,
    }
    assert generation_arguments({"do_sample": True})[0] == {"max_new_tokens": 128, "do_sample": True}
    assert generation_arguments({"do_sample": True, "temperature": 0, "top_p": 0.9}) == generation_arguments({})


def test_a_length_is_not_overruled_by_the_default():
    assert generation_arguments({"max_length": 60})[0] == {"max_length": 60, "do_sample": False}
    assert generation_arguments({"max_new_tokens": None})[0] == {"max_new_tokens": 128, "do_sample": False}


def test_other_arguments_go_through():
    arguments, until = generation_arguments(
        {"num_beams": 3, "repetition_penalty": 1.05, "until": "\n\n", "max_new_tokens": 5}
    )
    assert arguments == {"num_beams": 3, "repetition_penalty": 1.05, "max_new_tokens": 5, "do_sample": False}
    assert until == ["\n\n"]


def test_unknown_arguments_are_named_and_dropped(caplog):
    assert "image_aspect_ratio" not in generation_arguments({"image_aspect_ratio": "pad"})[0]
    assert "image_aspect_ratio" in caplog.text


def test_arguments_are_not_changed():
    given_ = {"until": ["a", ""], "temperature": 0}
    assert generation_arguments(given_)[1] == ["a"]
    assert given_ == {"until": ["a", ""], "temperature": 0}


@given(st.text(), st.lists(st.text(min_size=1), max_size=3))
def test_cut_ends_before_the_first_stop(text, until):
    short = cut(text, until)
    assert text.startswith(short)
    assert not any(stop in short for stop in until)


def test_the_first_token_is_noted_and_nothing_ends():
    first = FirstToken()
    assert first.seconds is None
    ids = torch.tensor([[1, 2], [3, 4]])
    assert first(ids, None).tolist() == [False, False]
    noted = first.seconds
    assert noted >= 0
    first(ids, None)
    assert first.seconds == noted
