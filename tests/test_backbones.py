"""Memory is the same thing in every VLM family: checked on a tiny random model of each one's real architecture."""

from pathlib import Path

import pytest
import tiny
import torch
from helpers import chat
from tiny import CHATS, ITEMS, RESAMPLER, image
from transformers import BatchFeature

from comem_lmms.backbones import BACKBONES, backbone
from comem_lmms.doctor import check_encoder, check_reader
from comem_lmms.encoder import MemoryEncoder, layout_fingerprint
from comem_lmms.errors import UserError
from comem_lmms.records import KnowledgeItem
from comem_lmms.vlm import FrozenVLM, extend

ITEMS_OF = [[0], [], [1, 2], [3], [4, 5], [], [5, 0], [2]]  # of each chat


@pytest.fixture(scope="module", params=tiny.FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def folder(family: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp(family)
    tiny.save(family, folder)
    return str(folder)


@pytest.fixture(scope="module")
def vlm(folder: str) -> FrozenVLM:
    return FrozenVLM.load(folder, device="cpu")


@pytest.fixture(scope="module")
def encoder(folder: str) -> MemoryEncoder:
    """An encoder on a VLM of its own, as if it were trained."""
    torch.manual_seed(2)
    encoder = MemoryEncoder.create(FrozenVLM.load(folder, device="cpu"), RESAMPLER, rank=4)
    for name, parameter in encoder.vlm.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    encoder._adapted.eval()
    return encoder


@pytest.fixture(scope="module")
def prefixes(encoder: MemoryEncoder) -> list[torch.Tensor]:
    """Of each chat, (8 * k, D)."""
    memories = encoder.encode(ITEMS)
    return [memories[items].flatten(0, 1) for items in ITEMS_OF]


def test_every_row_is_tested():
    assert set(tiny.FAMILIES) == set(BACKBONES)


def test_row_is_of_its_family(family, vlm):
    assert vlm.config.model_type == family
    assert vlm.backbone is BACKBONES[family]


def test_memory_does_not_depend_on_the_batch(encoder):
    alone = torch.cat([encoder.encode([item]) for item in ITEMS])
    assert alone.shape == (len(ITEMS), 8, tiny.WIDTH)
    torch.testing.assert_close(encoder.encode(ITEMS), alone, atol=1e-5, rtol=0)
    torch.testing.assert_close(encoder.encode(ITEMS[::-1]).flip(0), alone, atol=1e-5, rtol=0)
    distances = torch.cdist(alone.flatten(1), alone.flatten(1)) + torch.eye(len(ITEMS)) * 1e9
    assert distances.min() > 0.5  # by text, by image, and by having one


def test_answers_do_not_depend_on_the_batch(vlm, prefixes):
    def answers(size: int) -> list:
        batches = [slice(i, i + size) for i in range(0, len(CHATS), size)]
        return [a for b in batches for a in vlm.generate(CHATS[b], prefixes[b], max_new_tokens=6, eos_token_id=-1)]

    alone = answers(1)
    assert answers(3) == alone
    assert answers(len(CHATS)) == alone
    assert len({answer.text for answer in alone}) > 2


def test_memory_counts_where_there_is_one(vlm, prefixes):
    change = (vlm.logits(CHATS, prefixes) - vlm.logits(CHATS)).abs().amax(1)
    for items, by in zip(ITEMS_OF, change.tolist(), strict=True):
        assert by > 0.1 if items else by < 1e-4


def test_no_memory_is_the_plain_model(vlm):
    messages = [[{**m, "content": [_for_transformers(part) for part in m["content"]]} for m in c] for c in CHATS]
    plain = vlm.processor.apply_chat_template(
        messages,
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"padding": True, "padding_side": "left"},
    )
    with torch.no_grad():
        expected = vlm.model(**plain).logits[:, -1]
    assert torch.equal(vlm.logits(CHATS), expected)
    none = [torch.empty(0, vlm.hidden_size)] * len(CHATS)
    assert torch.equal(vlm.logits(CHATS, none), expected)
    assert vlm.generate(CHATS, none, max_new_tokens=4) == vlm.generate(CHATS, max_new_tokens=4)


def _for_transformers(part: dict) -> dict:
    return part if part["type"] == "text" else {"type": "image", "image": part["url"]}


def test_prefix_of_text_embeddings_is_the_text(vlm):
    ids = vlm.processor.tokenizer("It was Petra.", add_special_tokens=False, return_tensors="pt").input_ids
    prefix = vlm.model.get_input_embeddings()(ids)[0]
    for question, logits in zip(CHATS, vlm.logits(CHATS, [prefix] * len(CHATS)), strict=True):
        inputs = vlm.prepare([question])
        for name in {"input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids"} & set(inputs):
            front = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}.get(name, torch.zeros_like(ids))
            inputs[name] = torch.cat([front, inputs[name]], dim=1)
        with torch.no_grad():
            expected = vlm.model(**inputs).logits[0, -1]
        torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)


def test_doctor_finds_nothing(vlm, encoder):
    findings = [*check_reader(vlm, CHATS[1:4]), *check_encoder(encoder, ITEMS[1:4])]
    assert all(finding.difference < 1e-4 for finding in findings), "\n".join(map(str, findings))


def test_vlm_answers_as_without_the_encoder(vlm, encoder):
    encoder.encode(ITEMS[:1])
    assert torch.equal(encoder.vlm.logits(CHATS), vlm.logits(CHATS))
    with encoder.adapter_on():
        assert not torch.allclose(encoder.vlm.logits(CHATS), vlm.logits(CHATS), atol=0.01)


def test_adapter_is_on_every_matrix_but_embeddings_and_head(family, vlm, encoder):
    outside = {vlm.model.get_output_embeddings()} | {
        m for m in vlm.model.modules() if isinstance(m, (torch.nn.Embedding, torch.nn.Conv2d, torch.nn.Conv3d))
    }
    others = {id(p) for module in outside for p in module.parameters()}
    matrices = {name for name, p in vlm.model.named_parameters() if p.ndim > 1 and len(p) > 1 and id(p) not in others}
    adapted = {f"{name}.weight" for name, module in encoder.vlm.model.named_modules() if hasattr(module, "base_layer")}
    bare = {name for name in matrices if name.endswith(tiny.FAMILIES[family].bare or ("-",))}
    assert adapted == matrices - bare
    assert len(bare) == len(tiny.FAMILIES[family].bare)
    assert encoder.vlm.model.lm_head.weight.requires_grad is False


def test_saved_encoder_is_the_same(folder, encoder, tmp_path):
    encoder.save(tmp_path)
    loaded = MemoryEncoder.load(str(tmp_path), FrozenVLM.load(folder, device="cpu"))
    assert torch.equal(loaded.encode(ITEMS), encoder.encode(ITEMS))


def test_losses_are_of_answers_to_the_end_of_their_turn_whatever_the_batch(vlm, prefixes):
    answers = ["yes", "the founder was Petra", "no", ""] * 2
    ends = vlm.answer_turns(CHATS, answers)
    tokenizer = vlm.processor.tokenizer
    assert all(token in vlm._special_tokens for end in ends for token in [tokenizer.tokenize(end.strip())[-1]])
    n = torch.tensor([len(tokenizer(end, add_special_tokens=False).input_ids) for end in ends])
    inputs, is_answer = vlm.prepare_answered(CHATS, answers)
    assert torch.equal(is_answer.sum(1), n)
    with torch.no_grad():
        alone = torch.cat([vlm.losses([c], [a], [p]) for c, a, p in zip(CHATS, answers, prefixes, strict=True)])
        torch.testing.assert_close(vlm.losses(CHATS, answers, prefixes), alone, atol=1e-4, rtol=0)
        logits = vlm.model(**inputs).logits[:, :-1].log_softmax(-1)
        chosen = logits.gather(-1, inputs["input_ids"][:, 1:, None])[..., 0] * is_answer[:, 1:]
        torch.testing.assert_close(vlm.losses(CHATS, answers), -chosen.sum(1) / n, atol=1e-4, rtol=0)


def test_training_reaches_the_memory(encoder):
    items = [ITEMS[i] for i in (1, 3)]
    encoder.vlm.losses(CHATS[:2], ["yes", "no"], list(encoder.forward(items))).mean().backward()
    gradients = {name: p.grad for name, p in encoder.vlm.model.named_parameters() if p.requires_grad}
    silent = [name for name, gradient in gradients.items() if gradient is None or not gradient.any()]
    # LLaVA reads the last but one layer of its vision tower.
    assert all("vision_tower" in name and "layers.1." in name for name in silent)
    encoder.vlm.model.zero_grad()
    encoder.resampler.zero_grad()


def test_special_tokens_are_plain_text(family, vlm, encoder):
    special = set(vlm.processor.tokenizer.convert_tokens_to_ids(list(tiny.FAMILIES[family].tokens.values())))
    hostile = " ".join(tiny.FAMILIES[family].tokens.values())

    def structure(inputs: BatchFeature) -> list[int]:
        return [id_ for id_ in inputs["input_ids"][0].tolist() if id_ in special]

    asked = (chat(text, image(1)) for text in (hostile, "x"))
    assert len({tuple(structure(vlm.prepare([c]))) for c in asked}) == 1
    items = (KnowledgeItem("i", "t", text, image(1)) for text in (hostile, "x"))
    assert len({tuple(structure(encoder.tokenize([i]))) for i in items}) == 1


def test_text_alone(vlm, encoder):
    assert vlm.prepare(CHATS[:1]).keys().isdisjoint({"pixel_values"})
    memory = encoder.encode(ITEMS[:1])
    assert len(vlm.generate(CHATS[:1], list(memory), max_new_tokens=2)) == 1


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder: Path = tmp_path_factory.mktemp("llava")
    tiny.save("llava", folder)
    return str(folder)


def test_processor_without_a_chat_template(llava):
    vlm = FrozenVLM.load(llava, device="cpu")
    vlm.processor.chat_template = None
    with pytest.raises(UserError, match=r"the processor of .* cannot lay out a chat \(.*does not have a chat template"):
        vlm.generate(CHATS[:1])


def test_memories_of_another_chat_template_are_told_apart(llava):
    processor = FrozenVLM.load(llava, device="cpu").processor
    before = layout_fingerprint(processor, BACKBONES["llava"])
    assert layout_fingerprint(processor, BACKBONES["llava"]) == before
    processor.chat_template += " "
    assert layout_fingerprint(processor, BACKBONES["llava"]) != before


def test_chat_that_a_template_does_not_take(llava):
    vlm = FrozenVLM.load(llava, device="cpu")
    vlm.processor.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(UserError, match=r"cannot lay out a chat \(roles must alternate\)"):
        vlm.generate(CHATS[:1])


@pytest.mark.parametrize(
    ("model_type", "reason"),
    [("mllama", r" \(its images enter by cross-attention"), ("fuyu", r" \(its processor"), ("git", ", only for")],
)
def test_refused_families(model_type, reason):
    with pytest.raises(UserError, match=f"memory is not supported for VLMs of type '{model_type}'{reason}"):
        backbone(model_type)


def test_encoder_for_a_refused_family(llava):
    vlm = FrozenVLM.load(llava, device="cpu")
    vlm.config.model_type = "mllama"
    with pytest.raises(UserError, match="memory is not supported for VLMs of type 'mllama'"):
        MemoryEncoder.create(vlm, RESAMPLER)


def test_what_is_unknown_for_every_token_is_refused():
    ids = torch.ones(2, 5, dtype=torch.long)
    inputs = BatchFeature({"input_ids": ids, "attention_mask": ids, "pixel_values": torch.ones(2, 5)})
    assert extend(inputs, 0, before=[[7], []])["input_ids"].tolist() == [[7, *[1] * 5], [0, *[1] * 5]]
    with pytest.raises(UserError, match="whose processor gives cross_attention_mask for every token"):
        extend(BatchFeature({**inputs, "cross_attention_mask": ids[..., None, None]}), 0, before=[[7], []])
