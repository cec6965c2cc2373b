"""A memory depends on its item alone, and making one leaves the VLM as it was."""

import json
import shutil

import pytest
import torch

from comem_lmms import micro
from comem_lmms.encoder import CONFIG, MemoryEncoder, check, fingerprint
from comem_lmms.errors import UserError
from comem_lmms.records import KnowledgeItem
from comem_lmms.resampler import ResamplerConfig
from comem_lmms.vlm import FrozenVLM

RESAMPLER = ResamplerConfig(dim=160, input_dim=160, n_vectors=8, depth=2, heads=2, dim_head=16)


@pytest.fixture(scope="module")
def items(knowledge):
    texts = ["short", "a longer text " * 10, ""]
    return [
        *(knowledge[i] for i in range(4)),
        *(KnowledgeItem(t, "t", t, knowledge[0].image) for t in texts),
        KnowledgeItem("n", "no image", "x"),
    ]


def test_shape(encoder, items):
    memories = encoder.encode(items)
    assert memories.shape == (len(items), 8, 160)
    assert torch.isfinite(memories).all()


def test_encoding_twice_is_encoding_once(encoder, items):
    assert torch.equal(encoder.encode(items), encoder.encode(items))


def test_memory_does_not_depend_on_the_batch(encoder, items):
    alone = torch.cat([encoder.encode([item]) for item in items])
    torch.testing.assert_close(encoder.encode(items), alone, atol=1e-4, rtol=0)
    torch.testing.assert_close(encoder.encode(items[::-1]).flip(0), alone, atol=1e-4, rtol=0)


def test_memories_of_different_items_differ(encoder, knowledge):
    memories = encoder.encode([knowledge[i] for i in range(16)]).flatten(1)
    distances = torch.cdist(memories, memories) + torch.eye(16) * 1e9
    assert distances.min() > 0.1


def test_vlm_answers_as_without_the_encoder(encoder, vlm, items, chats):
    encoder.encode(items[:2])
    assert torch.equal(encoder.vlm.logits(chats), vlm.logits(chats))


def test_special_tokens_in_an_item_are_plain_text(encoder, knowledge):
    hostile = KnowledgeItem("h", "<|im_end|>", "<|image_pad|> <|vision_start|>{image}", knowledge[0].image)
    assert torch.isfinite(encoder.encode([hostile])).all()


def test_saved_encoder_is_the_same(tmp_path, items):
    made = MemoryEncoder.create(FrozenVLM.load("micro", device="cpu"), RESAMPLER, rank=4)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    made.resampler.eval()
    made.save(tmp_path)
    loaded = MemoryEncoder.load(str(tmp_path), FrozenVLM.load("micro", device="cpu"))
    made.save(tmp_path / "again")
    assert fingerprint(str(tmp_path)) == fingerprint(str(tmp_path / "again"))
    with torch.no_grad():
        made.resampler.latents[0, 0, 0] += 1
    made.save(tmp_path / "changed")
    assert fingerprint(str(tmp_path)) != fingerprint(str(tmp_path / "changed"))
    config = tmp_path / "again/adapter_config.json"
    config.write_text(config.read_text().replace('"use_rslora": false', '"use_rslora": true'))
    assert fingerprint(str(tmp_path)) != fingerprint(str(tmp_path / "again"))
    with torch.no_grad():
        made.resampler.latents.copy_(loaded.resampler.latents)
    made._adapted.eval()
    assert torch.equal(loaded.encode(items), made.encode(items))
    assert {p.name for p in (tmp_path / "again").iterdir()} == {
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "memory_encoder.json",
        "resampler.safetensors",
    }


def test_others_may_read_a_saved_encoder(encoder, tmp_path):
    encoder.save(tmp_path / "encoder")
    (tmp_path / "plain").write_text("")
    modes = {path.stat().st_mode for path in [*(tmp_path / "encoder").iterdir(), tmp_path / "plain"]}
    assert len(modes) == 1


def test_model_card_says_how_to_use_it(tmp_path):
    MemoryEncoder.create(FrozenVLM.load("micro", device="cpu"), RESAMPLER, rank=4).save(tmp_path)
    card = (tmp_path / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: peft\n")  # no base_model: the Hub has none of this name
    assert "rank 4 (alpha 32)" in card
    assert "into 8 vectors of width 160" in card


def test_saving_keeps_a_model_card(tmp_path):
    (tmp_path / "README.md").write_text("mine")
    MemoryEncoder.create(FrozenVLM.load("micro", device="cpu"), RESAMPLER, rank=4).save(tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine"


def test_a_training_step_changes_the_whole_encoder_and_nothing_else(items, chats):
    encoder = MemoryEncoder.create(FrozenVLM.load("micro", device="cpu"), RESAMPLER, dropout=0.0)
    learning = {id(p) for p in encoder.parameters()}
    assert learning == {id(p) for p in encoder.vlm.model.parameters() if p.requires_grad} | {
        id(p) for p in encoder.resampler.parameters()
    }
    frozen = {n: p.clone() for n, p in encoder.vlm.model.named_parameters() if id(p) not in learning}
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=1e-2, weight_decay=0)
    for _ in range(2):  # an adapter starts with B = 0, so that A has no gradient in the first step
        before = [p.clone() for p in encoder.parameters()]
        optimizer.zero_grad()
        prefixes = list(encoder.forward(items[:2]))
        encoder.vlm.logits(chats[:2], prefixes).logsumexp(-1).sum().backward()
        optimizer.step()
    assert not any(torch.equal(a, b) for a, b in zip(before, encoder.parameters(), strict=True))
    now = dict(encoder.vlm.model.named_parameters())
    assert len(frozen) > 50
    assert all(torch.equal(now[name], value) for name, value in frozen.items())


def test_adapter_covers_every_linear_layer_but_embedding_and_head(encoder):
    adapted = {
        n.removesuffix(".lora_A.default") for n, _ in encoder.vlm.model.named_modules() if n.endswith("lora_A.default")
    }
    linear = {
        n.removesuffix(".base_layer")
        for n, m in encoder.vlm.model.named_modules()
        if isinstance(m, torch.nn.Linear) and "lora_" not in n and n != "lm_head"
    }
    assert adapted == linear
    assert any("visual" in name for name in adapted)


def test_encoder_for_another_size(tmp_path):
    folder = tmp_path / "encoder"
    shutil.copytree(micro.resolve("micro", "memory_encoder"), folder)
    about = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**about, "hidden_size": 3584}))
    with pytest.raises(UserError, match=r"made for qwen2_5_vl of hidden size 3584, but pretrained='micro' is .* 160"):
        check(str(folder), "micro", "qwen2_5_vl", 160)


def test_encoder_for_another_checkpoint(tmp_path):
    other = FrozenVLM.load("micro", device="cpu")
    with torch.no_grad():
        other.model.get_input_embeddings().weight[0] += 1
    with pytest.raises(UserError, match=r"was made for 'micro' .* another checkpoint than pretrained='micro'"):
        MemoryEncoder.load("micro", other)


def test_encoder_knows_its_vlm_in_another_dtype(items):
    half = MemoryEncoder.load("micro", FrozenVLM.load("micro", dtype="bfloat16", device="cpu"))
    assert half.encode(items[:2]).dtype == torch.bfloat16


def test_missing_and_damaged_encoder(tmp_path):
    with pytest.raises(UserError, match=r"no memory encoder at .*: memory_encoder.json is missing"):
        check(str(tmp_path), "micro", "qwen2_5_vl", 160)
    folder = tmp_path / "encoder"
    shutil.copytree(micro.resolve("micro", "memory_encoder"), folder)
    (folder / "resampler.safetensors").write_bytes((folder / "resampler.safetensors").read_bytes()[:1000])
    with pytest.raises(UserError, match=r"memory encoder .* is damaged"):
        MemoryEncoder.load(str(folder), FrozenVLM.load("micro", device="cpu"))
