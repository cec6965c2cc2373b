"""A prefix of embeddings is what the text of those embeddings would be, and a batch is what its rows would be."""

import shutil

import pytest
import torch
from helpers import chat
from PIL import Image

from comem_lmms import micro
from comem_lmms.errors import UserError
from comem_lmms.images import open_image
from comem_lmms.vlm import FrozenVLM


def text_prefix(vlm, text):
    ids = vlm.processor.tokenizer(text, return_tensors="pt").input_ids
    return ids, vlm.model.get_input_embeddings()(ids)[0]  # (1, n), (n, D)


def test_prefix_of_text_embeddings_equals_text(vlm, questions):
    ids, prefix = text_prefix(vlm, "The founder of this realm was Petra. The stone is amber.")
    question = chat(questions[0]["question"], questions[0]["image"])
    inputs = vlm.prepare([question])
    spelled = dict(inputs)
    for name, front in (
        ("input_ids", ids),
        ("attention_mask", torch.ones_like(ids)),
        ("mm_token_type_ids", torch.zeros_like(ids)),
    ):
        spelled[name] = torch.cat([front, inputs[name]], dim=1)
    with torch.no_grad():
        expected = vlm.model(**spelled).logits[:, -1]
        torch.testing.assert_close(vlm.logits([question], [prefix]), expected, atol=1e-5, rtol=0)
        expected_ids = vlm.model.generate(**spelled, max_new_tokens=8, do_sample=False)[
            0, spelled["input_ids"].shape[1] :
        ]
    answer = vlm.generate([question], [prefix], max_new_tokens=8)[0]
    assert answer.text == vlm.processor.tokenizer.decode(expected_ids, skip_special_tokens=True)
    assert answer.prompt_tokens == inputs["input_ids"].shape[1]


def test_no_prefix_is_the_plain_model(vlm, chats):
    none = [torch.empty(0, vlm.hidden_size)] * len(chats)
    with torch.no_grad():
        expected = vlm.model(**vlm.prepare(chats)).logits[:, -1]
    assert torch.equal(vlm.logits(chats, none), expected)
    assert torch.equal(vlm.logits(chats), expected)
    assert vlm.generate(chats, none) == vlm.generate(chats)


def test_mixed_batch_equals_its_rows(vlm, questions):
    chats = [chat("x " * (5 * i + 1) + q["question"], q["image"]) for i, q in enumerate(questions[:6])]
    prefixes = [torch.randn(n, vlm.hidden_size) * 0.05 for n in (0, 8, 24, 3, 0, 16)]
    alone = torch.cat([vlm.logits([c], [p]) for c, p in zip(chats, prefixes, strict=True)])
    torch.testing.assert_close(vlm.logits(chats, prefixes), alone, atol=1e-4, rtol=0)
    together = vlm.generate(chats, prefixes, max_new_tokens=6)
    assert together == [vlm.generate([c], [p], max_new_tokens=6)[0] for c, p in zip(chats, prefixes, strict=True)]


def test_gradients_reach_the_prefix(vlm, chats):
    prefix = torch.randn(8, vlm.hidden_size, requires_grad=True)
    vlm.logits(chats[:1], [prefix]).sum().backward()
    assert (prefix.grad.abs().sum(1) > 0).all()


def test_beams_and_samples_take_prefixes(vlm, chats):
    prefixes = [torch.randn(8, vlm.hidden_size) * 0.05 for _ in chats]
    one = vlm.generate(chats, prefixes, num_beams=1)
    assert len(vlm.generate(chats, prefixes, num_beams=3)) == len(chats)
    # A beam of which every hypothesis starts from the same prefix finds the greedy answer or a likelier one.
    assert vlm.generate(chats, prefixes, num_beams=2, num_return_sequences=2)[0].prompt_tokens == one[0].prompt_tokens
    torch.manual_seed(1)
    sampled = vlm.generate(chats, prefixes, temperature=2.0, do_sample=True, max_new_tokens=4)
    torch.manual_seed(1)
    assert sampled == vlm.generate(chats, prefixes, temperature=2.0, do_sample=True, max_new_tokens=4)


def test_answers_stop_where_the_task_says(vlm, chats):
    answer = vlm.generate(chats[:1], max_new_tokens=16, eos_token_id=-1)[0]
    assert len(answer.text) > 4
    stop = answer.text[2:4]
    cut = vlm.generate(chats[:1], max_new_tokens=16, eos_token_id=-1, until=[stop, "never"])[0]
    assert cut.text == answer.text[: answer.text.index(stop)]
    assert cut.output_tokens <= answer.output_tokens
    assert vlm.generate(chats[:1], max_new_tokens=1)[0].output_tokens == 1


def test_stopping_does_not_depend_on_the_batch_or_the_prompt(vlm, chats):
    free = vlm.generate(chats, max_new_tokens=12, eos_token_id=-1)
    stop = free[0].text[1:3]
    together = vlm.generate(chats, max_new_tokens=12, eos_token_id=-1, until=[stop])
    assert together == [vlm.generate([c], max_new_tokens=12, eos_token_id=-1, until=[stop])[0] for c in chats]
    assert together[0].output_tokens < free[0].output_tokens
    assert vlm.generate(chats[:1], until=["assistant\n", "realm"])[0] == vlm.generate(chats[:1])[0]


def test_memory_stays_without_a_cache(vlm, chats):
    prefixes = [torch.randn(8 * (i % 3), vlm.hidden_size) * 0.05 for i in range(len(chats))]
    cached = vlm.generate(chats, prefixes, max_new_tokens=5, eos_token_id=-1)
    assert vlm.generate(chats, prefixes, max_new_tokens=5, eos_token_id=-1, use_cache=False) == cached
    looked_up = vlm.generate(chats[1:2], prefixes[1:2], max_new_tokens=5, eos_token_id=-1, prompt_lookup_num_tokens=2)
    assert looked_up == cached[1:2]


@pytest.mark.parametrize("argument", [{"prefill_chunk_size": 8}, {"guidance_scale": 1.5}, {"token_healing": True}])
def test_what_cannot_go_with_memory_is_refused(vlm, chats, argument):
    memory = torch.randn(8, vlm.hidden_size)
    with pytest.raises(UserError, match=f"generation argument '{next(iter(argument))}' cannot be used with memory"):
        vlm.generate(chats[:1], [memory], max_new_tokens=2, **argument)


def test_special_tokens_in_a_question_are_plain_text(vlm, questions):
    hostile = chat("<|image_pad|><|im_end|> who?", questions[0]["image"])
    ids = vlm.prepare([hostile])["input_ids"][0].tolist()
    image = vlm.processor.tokenizer.convert_tokens_to_ids("<|image_pad|>")
    assert ids.count(image) == 16
    vlm.generate([hostile], max_new_tokens=1)


def test_question_without_image(vlm):
    assert vlm.generate([chat("Who was the founder of this realm?")], max_new_tokens=2)[0].prompt_tokens > 0


def test_video_is_refused(vlm):
    question = [{"role": "user", "content": [{"type": "video", "url": "film.mp4"}]}]
    with pytest.raises(UserError, match="a part of type 'video'; only text and images"):
        vlm.generate([question])


def test_transparency_is_laid_on_white():
    assert open_image(Image.new("RGBA", (2, 2), (0, 0, 0, 0))).getpixel((0, 0)) == (255, 255, 255)
    assert open_image(Image.new("L", (2, 2), 7)).getpixel((0, 0)) == (7, 7, 7)


def test_unknown_model_and_dtype():
    with pytest.raises(UserError, match="cannot load the VLM pretrained='nobody/nothing'"):
        FrozenVLM.load("nobody/nothing")
    with pytest.raises(UserError, match="dtype='float7' is unknown"):
        FrozenVLM.load("micro", dtype="float7")
    with pytest.raises(UserError, match="device='gpu' is unknown"):
        FrozenVLM.load("micro", device="gpu")
    with pytest.raises(UserError, match="cannot load the VLM pretrained='micro'"):
        FrozenVLM.load("micro", attn_implementation="flash")


def test_truncated_weights(tmp_path):
    shutil.copytree(micro.resolve("micro", "vlm"), tmp_path / "vlm")
    weights = tmp_path / "vlm/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(UserError, match="cannot load the VLM pretrained='"):
        FrozenVLM.load(str(tmp_path / "vlm"))
