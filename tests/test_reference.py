"""Checkpoints of the reference load as they are, and answer the same whatever the batch."""

import dataclasses
import json
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from helpers import chat, evaluate, usages
from loguru import logger
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from comem_lmms import reference
from comem_lmms.encoder import MemoryEncoder
from comem_lmms.errors import UserError
from comem_lmms.knowledge import KnowledgeBase
from comem_lmms.models.arguments import MemoryArguments
from comem_lmms.models.loading import Parts
from comem_lmms.models.memorize import memorize
from comem_lmms.parity import Fixtures
from comem_lmms.reference.checkpoint import Checkpoint
from comem_lmms.reference.reading import squash
from comem_lmms.vlm import FrozenVLM

FLOAT32 = {"dtype": "float32", "device": "cpu"}


@pytest.fixture(scope="module")
def merged(fixtures):
    return str(fixtures / "parity/qwen2_5_vl/merged")


@pytest.fixture(scope="module")
def base(fixtures):
    return str(fixtures / "parity/base/Qwen2.5-VL-tiny")


@pytest.fixture(scope="module")
def parts(merged, base):
    return reference.load(merged, base, **FLOAT32)


def clean(merged, base):
    parts = Parts(MemoryArguments(pretrained=base, memory_encoder=merged, compat="clean", dtype="float32"), "cpu")
    return parts.encoder, parts.reader


def rewrite(merged, folder, change, shards=1):
    """The checkpoint with ``change(tensors)``, in so many shards."""
    shutil.copytree(merged, folder, copy_function=shutil.copyfile)
    folder.chmod(0o755)
    path = folder / "model.safetensors"
    tensors = change(load_file(path))
    path.unlink()
    names = sorted(tensors)
    weight_map = {}
    for i in range(shards):
        file = f"model-{i + 1:05}-of-{shards:05}.safetensors" if shards > 1 else path.name
        save_file({name: tensors[name] for name in names[i::shards]}, folder / file)
        weight_map |= dict.fromkeys(names[i::shards], file)
    if shards > 1:
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return str(folder)


def logits(parts, questions, knowledge):
    encoder, reader = parts
    memory = encoder.encode([knowledge[0], knowledge[1]]).flatten(0, 1)
    return reader.logits([chat("What is this?", questions[0]["image"])], [memory])


@pytest.mark.parametrize("compat", ["reference", "clean", "text"])
def test_a_batch_is_its_rows(merged, base, fixtures, knowledge, questions, compat):
    reader = str(fixtures / "parity/base/Qwen2.5-tiny") if compat == "text" else None
    encoder, vlm = clean(merged, base) if compat == "clean" else reference.load(merged, base, reader, **FLOAT32)
    items = encoder.encode([knowledge[i] for i in range(5)])
    chats = [chat("x " * (7 * i) + q["question"], q["image"]) for i, q in enumerate(questions[:5])]
    prefixes = [items[:k].flatten(0, 1) for k in (3, 0, 1, 5, 2)]
    alone = [vlm.generate([c], [p], max_new_tokens=6)[0] for c, p in zip(chats, prefixes, strict=True)]
    assert vlm.generate(chats, prefixes, max_new_tokens=6) == alone
    assert vlm.generate(chats, prefixes, max_new_tokens=6, use_cache=False) == alone
    assert len({answer.text for answer in alone}) > 1


def test_decoding_jumps_only_in_reference_mode(parts, questions, knowledge):
    """The first token is the same, and so is everything without memory."""
    encoder, reader = parts
    contiguous = reference.ReferenceReader("contiguous", reader.model, reader.processor)
    question = [chat(questions[0]["question"], questions[0]["image"])]
    memory = [encoder.encode([knowledge[0]])[0]]
    assert torch.equal(reader.logits(question, memory), contiguous.logits(question, memory))
    assert reader.generate(question, max_new_tokens=6) == contiguous.generate(question, max_new_tokens=6)
    assert reader.generate(question, memory, max_new_tokens=6) != contiguous.generate(
        question, memory, max_new_tokens=6
    )


def test_answers_are_decoded_as_the_reference_does(parts, fixtures):
    """Greedy with its penalty, through the call that the wrapper makes, from images and texts."""
    shared = Fixtures(fixtures / "parity")
    encoder, reader = parts
    about = json.loads((shared.folder / "qwen2_5_vl/prefill_k10.json").read_text())
    prefix = encoder.encode(shared.items[:10]).flip(0).flatten(0, 1)
    decode = partial(reader.processor.tokenizer.decode, skip_special_tokens=True)
    tokens = {p: about[f"tokens_reference_offset{p}"] for p in ("", "_rep1.05")}
    assert tokens[""] != tokens["_rep1.05"]
    ask = partial(reader.generate, [shared.chat()], [prefix], max_new_tokens=len(tokens[""]), eos_token_id=[])
    assert ask()[0].text == decode(tokens["_rep1.05"])
    assert ask(repetition_penalty=1.0)[0].text == decode(tokens[""])


def test_large_images_become_squares():
    assert squash(Image.new("RGB", (1000, 400))).size == (512, 512)
    assert squash(Image.new("RGB", (512, 100))).size == (512, 100)


def test_another_model_inf_has_another_fingerprint(merged, base, tmp_path):
    def leak(tensors):
        name = "model_inf.model.layers.1.mlp.down_proj.weight"
        return {**tensors, name: tensors[name] + 0.1}

    leaked = rewrite(merged, tmp_path / "leaked", leak)
    arguments = [f"pretrained={base},memory_encoder={folder},dtype=float32,top_k=1" for folder in (merged, leaked)]
    one, other = (usages(evaluate("comem", model_args=a, limit=1))[0]["fingerprints"] for a in arguments)
    assert {part for part in one if one[part] != other[part]} == {"memory_encoder"}
    assert one.keys() == other.keys()


def test_shards_of_mixed_dtypes_are_one_checkpoint(merged, base, parts, tmp_path, questions, knowledge):
    folder = rewrite(merged, tmp_path / "sharded", dict, shards=3)
    assert len({Checkpoint(folder)[name].dtype for name in Checkpoint(folder).names}) == 2
    sharded = reference.load(folder, base, **FLOAT32)
    assert torch.equal(logits(sharded, questions, knowledge), logits(parts, questions, knowledge))


def test_without_model_inf_the_base_reads(merged, base, parts, tmp_path, questions, knowledge):
    def drop(tensors):
        return {name: tensor for name, tensor in tensors.items() if not name.startswith("model_inf.")}

    dropped = reference.load(rewrite(merged, tmp_path / "dropped", drop), base, **FLOAT32)
    assert torch.equal(logits(dropped, questions, knowledge), logits(parts, questions, knowledge))


def test_model_inf_of_the_checkpoint_is_used(merged, base, parts, tmp_path, questions, knowledge):
    def leak(tensors):
        name = "model_inf.model.layers.1.mlp.down_proj.weight"
        return {**tensors, name: tensors[name] + 0.1}

    leaked = reference.load(rewrite(merged, tmp_path / "leaked", leak), base, **FLOAT32)
    assert not torch.allclose(logits(leaked, questions, knowledge), logits(parts, questions, knowledge), atol=1e-2)


def test_clean_reads_with_the_base_alone(merged, base, questions):
    _, reader = clean(merged, base)
    question = [chat("What is this?", questions[0]["image"])]
    assert torch.equal(reader.logits(question), FrozenVLM.load(base, **FLOAT32).logits(question))


def test_what_became_of_the_reader_is_said_at_load(merged, base, tmp_path):
    def leak(tensors):
        name = "model_inf.model.layers.1.mlp.down_proj.weight"
        return {**tensors, name: tensors[name] + 0.25}

    def drop(tensors):
        return {name: tensor for name, tensor in tensors.items() if not name.startswith("model_inf.")}

    def widen(tensors):
        name = "model_inf.model.norm.weight"
        return {**tensors, name: torch.zeros(65)}

    def spoil(tensors):
        name = "model_inf.model.norm.weight"
        return {**tensors, name: tensors[name] * torch.nan}

    changes = (leak, drop, widen, spoil)
    leaked, dropped, wide, spoilt = (rewrite(merged, tmp_path / change.__name__, change) for change in changes)
    plain = FrozenVLM.load(base, **FLOAT32).model.state_dict()
    assert Checkpoint(spoilt).reader_difference(plain) == torch.inf
    said = []
    handler = logger.add(lambda message: said.append(message.record["message"]))
    try:
        for folder in (merged, leaked, dropped):
            _ = clean(folder, base)
        assert said[0] == f"pretrained={base!r} answers; model_inf of {merged!r} equals it"
        assert re.search(r"model_inf of '.*leak' differs from it by up to 2\.5\de-01 \(quirk 3\)", said[1])
        assert len(said) == 2
        _ = Parts(
            MemoryArguments(pretrained=base, memory_encoder=merged, dtype="bfloat16", compat="clean"), "cpu"
        ).reader
        assert said[2] == said[0]  # in a coarser dtype than the checkpoint's
        for folder in (leaked, dropped):
            _ = Parts(MemoryArguments(pretrained=base, memory_encoder=folder, dtype="float32"), "cpu").reader
        assert f"is measured by `comem-lmms convert {leaked} OUT --base {base}`" in said[3]
        assert len(said) == 4
    finally:
        logger.remove(handler)
    with pytest.raises(UserError, match=r"has model_inf.model.norm.weight, but its base not, or in another shape"):
        clean(wide, base)
    with pytest.raises(UserError, match=r"has model_inf.model.norm.weight, but its base not, or in another shape"):
        reference.convert(wide, base, tmp_path / "out")


def test_unusable_checkpoints(merged, base, tmp_path):
    def without(prefix):
        return lambda tensors: {name: t for name, t in tensors.items() if not name.startswith(prefix)}

    plain = rewrite(merged, tmp_path / "plain", without("knowledge_processor."))
    with pytest.raises(UserError, match=r"has no knowledge_processor\.\*, so it is a plain VLM"):
        reference.load(plain, base, **FLOAT32)
    partial = rewrite(merged, tmp_path / "partial", without("visual.blocks.1."))
    with pytest.raises(UserError, match=r"lacks \d+ weights, the first model.visual.blocks.1"):
        reference.load(partial, base, **FLOAT32)
    sharded = rewrite(merged, tmp_path / "shards", dict, shards=3)
    (tmp_path / "shards/model-00002-of-00003.safetensors").unlink()
    with pytest.raises(UserError, match="a shard is missing"):
        reference.load(sharded, base, **FLOAT32)
    (tmp_path / "shards/model-00002-of-00003.safetensors").write_bytes(b"\x10" * 20)
    with pytest.raises(UserError, match=r"model-00002-of-00003.safetensors is damaged .* download it again"):
        reference.load(sharded, base, **FLOAT32)


@pytest.mark.parametrize("token", ["image", "video"])
def test_an_image_token_in_a_text(parts, knowledge, token):
    item = dataclasses.replace(knowledge[0], text=f"<|{token}_pad|>")
    with pytest.raises(UserError, match=rf"contains <\|{token}_pad\|>, which compat=reference cannot read"):
        parts[0].encode([item])


def test_an_item_is_encoded_alike_in_any_batch(parts, knowledge):
    items = [dataclasses.replace(knowledge[i], text="<image> " * i + knowledge[i].text) for i in range(4)]
    alone = torch.cat([parts[0].encode([item]) for item in items])
    torch.testing.assert_close(parts[0].encode(items[::-1]).flip(0), alone, atol=1e-4, rtol=0)


def test_pixel_limits_reach_what_is_fed_cleanly(merged, base, knowledge):
    given = {"pretrained": base, "memory_encoder": merged, "dtype": "float32"}
    with pytest.raises(UserError, match="max_pixels=200704 has no effect with compat=reference"):
        Parts(MemoryArguments(**given, max_pixels=200704), "cpu")
    parts = Parts(MemoryArguments(**given, compat="clean", min_pixels=784, max_pixels=3136), "cpu")
    tokens = [
        encoder.tokenize([knowledge[0]])["input_ids"].shape[1] for encoder in (parts.encoder, clean(merged, base)[0])
    ]
    assert tokens[0] == tokens[1]  # an emblem is 56 x 56: both are within the limits
    large = dataclasses.replace(knowledge[0], image=knowledge[0].image.resize((560, 560)))
    assert parts.encoder.tokenize([large])["input_ids"].shape[1] == tokens[0]
    assert clean(merged, base)[0].tokenize([large])["input_ids"].shape[1] > tokens[0] + 100


def test_memories_for_the_reference_need_its_reader(merged, base, tmp_path, knowledge):
    small = KnowledgeBase.create(tmp_path / "kb", [knowledge.row(0)])
    given = {"pretrained": base, "dtype": "float32", "device": "cpu", "knowledge": str(small.folder)}
    memorize(str(tmp_path / "bank"), MemoryArguments(**given, memory_encoder=merged))
    with pytest.raises(UserError, match=r"was made with compat=reference, whose reader is part of the checkpoint"):
        Parts(MemoryArguments(**given, memory_bank=str(tmp_path / "bank")), "cpu")
    again = Parts(MemoryArguments(**given, memory_bank=str(tmp_path / "bank"), memory_encoder=merged), "cpu")
    assert isinstance(again.reader, reference.ReferenceReader)


def test_for_another_vlm(merged):
    with pytest.raises(UserError, match=r"is a qwen2_5_vl of hidden size 64, but pretrained='micro' is a .* 160"):
        reference.check(merged, "micro", "qwen2_5_vl", 160)


def test_text_llm_of_another_width(merged, base, tmp_path, fixtures):
    config = AutoModelForCausalLM.from_pretrained(fixtures / "parity/base/Qwen2.5-tiny").config
    config.hidden_size = 32
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "llm")
    with pytest.raises(UserError, match="is 32 wide, but memories are 64 wide"):
        reference.load(merged, base, reader=str(tmp_path / "llm"), **FLOAT32)
    with pytest.raises(UserError, match="is 32 wide, but memories are 64 wide"):
        Parts(MemoryArguments(pretrained=base, memory_encoder=merged, reader=str(tmp_path / "llm")), "cpu")


def test_what_cannot_be_converted_is_said_before_the_work(merged, base, tmp_path):
    with pytest.raises(UserError, match="rank=0 leaves no adapter"):
        reference.convert(merged, base, tmp_path / "new", rank=0)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="is not empty and holds no memory encoder"):
        reference.convert(merged, base, tmp_path / "full")

    def without(tensors):
        return {name: t for name, t in tensors.items() if name != "visual.blocks.1.norm1.weight"}

    cut = rewrite(merged, tmp_path / "cut", without)
    with pytest.raises(UserError, match=r"lacks 1 weights of base=.*, the first model.visual.blocks.1.norm1.weight"):
        reference.convert(cut, base, tmp_path / "new")


def test_rounding_is_no_change(merged, base, tmp_path):
    """A base with values that float16 cannot hold exactly, saved by a merge in float16: nothing was trained there."""
    shutil.copytree(base, tmp_path / "base", copy_function=shutil.copyfile)
    (tmp_path / "base").chmod(0o755)
    path = tmp_path / "base/model.safetensors"
    tensors = load_file(path)
    name = next(name for name in tensors if name.endswith("layers.1.input_layernorm.weight"))
    tensors[name] = torch.full_like(tensors[name], 1e-6)
    path.unlink()
    save_file(tensors, path, metadata={"format": "pt"})

    def merge(old):
        given = tensors[name]
        return {
            **old,
            **{n: given.to(t.dtype) for n, t in old.items() if n.endswith("layers.1.input_layernorm.weight")},
        }

    report = reference.convert(rewrite(merged, tmp_path / "merged", merge), str(tmp_path / "base"), tmp_path / "out")
    assert report.unadapted == {}
    assert report.reader == 0


LOADING = """
import sys, threading, time
from comem_lmms import reference
def anonymous():  # bytes that are not a mapped file's
    return 1024 * next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("RssAnon"))
def watch():
    while True:
        peak.append(max(peak[-1], anonymous()))
        time.sleep(0.002)
start = anonymous()
peak = [start]
threading.Thread(target=watch, daemon=True).start()
parts = reference.load(*sys.argv[1:], dtype="bfloat16", device="cpu")
weights = {id(p): p for part in (parts[0].vlm, parts[1]) for p in part.model.parameters()}
print(sum(p.numel() * p.element_size() for p in weights.values()), peak[-1] - start)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells what is in memory")
def test_a_checkpoint_is_read_without_a_second_copy(merged, base, tmp_path):
    rows = 1_000_000

    def enlarge(tensors):
        big = ("embed_tokens.weight", "lm_head.weight")
        return {n: torch.zeros(rows, 64, dtype=t.dtype) if n.endswith(big) else t for n, t in tensors.items()}

    folder = Path(rewrite(merged, tmp_path / "big", enlarge, shards=3))
    config = (folder / "config.json").read_text()
    (folder / "config.json").unlink()
    (folder / "config.json").write_text(re.sub(r'"vocab_size": \d+', f'"vocab_size": {rows}', config))
    done = subprocess.run([sys.executable, "-c", LOADING, folder, base], capture_output=True, text=True, check=True)
    weights, peak = map(int, done.stdout.split())
    assert weights > 2 * 2 * 64 * rows
    assert peak < 1.25 * weights


def test_an_odd_resampler(merged, base, tmp_path):
    def change(tensors):
        name = "knowledge_processor.proj_out.weight"
        return {**tensors, name: tensors[name][:-1].contiguous()}

    with pytest.raises(UserError, match=r"knowledge_processor.\* is no Q-Former of the reference"):
        reference.load(rewrite(merged, tmp_path / "odd", change), base, **FLOAT32)


def test_an_attention_that_is_not_installed(merged, base):
    with pytest.raises(
        UserError, match=r"cannot build the checkpoint's VLM \(.*Flash.*\); change attn_implementation="
    ):
        reference.load(merged, base, **FLOAT32, attention="flash_attention_2")


def test_a_converted_checkpoint_is_the_adapter_it_was_merged_from(
    merged, base, fixtures, tmp_path, knowledge, questions
):
    """The merged weights are float16, so that the factors are not those of the adapter but their product nearly is."""
    report = reference.convert(merged, base, tmp_path)
    assert len(report.adapted) == 33
    assert max(report.adapted.values()) < 0.05
    assert report.unadapted == {}
    assert report.reader == 0
    converted = MemoryEncoder.load(str(tmp_path), FrozenVLM.load(base, **FLOAT32))
    encoder, reader = clean(merged, base)
    items = [knowledge[0], knowledge[1]]
    torch.testing.assert_close(converted.encode(items), encoder.encode(items), atol=0.05, rtol=0)
    question = [chat(questions[0]["question"], questions[0]["image"])]
    assert torch.equal(converted.vlm.logits(question), reader.logits(question))


def test_conversion_says_what_it_drops(run, merged, base, tmp_path):
    def change(tensors):
        leaked, norm = "model_inf.model.layers.1.mlp.down_proj.weight", "model.norm.weight"
        return {**tensors, leaked: tensors[leaked] + 0.25, norm: tensors[norm] * 2}

    changed = rewrite(merged, tmp_path / "changed", change)
    printed = run("comem-lmms", "convert", changed, str(tmp_path / "out"), "--base", base, "--rank", "2").stdout
    assert "adapter of rank 2 on 33 weights" in printed
    assert "dropped: the change of model.language_model.norm.weight, 1.00e+00 of its size" in printed
    assert "dropped: model_inf, which differs from the base VLM by up to 2.5" in printed
    failed = run("comem-lmms", "convert", merged, str(tmp_path / "out"), "--base", "micro", check=False)
    assert failed.returncode == 2
    assert "in another shape; give its own base" in failed.stdout


def test_through_the_harness(merged, base):
    arguments = f"pretrained={base},memory_encoder={merged},dtype=float32,top_k=2"
    usage = usages(evaluate("comem", model_args=arguments, limit=2, batch_size=2))
    assert [u["memory_vectors"] for u in usage] == [16, 16]
    assert usage[0]["fingerprints"]["compat"] == "reference"
    usage = usages(evaluate("comem", model_args=arguments + ",compat=clean", limit=1))
    assert usage[0]["fingerprints"]["compat"] == "clean"


def test_our_own_encoder_knows_no_compat_reference():
    with pytest.raises(UserError, match="is not a checkpoint in the reference's layout"):
        evaluate("comem", model_args="compat=reference", limit=1)
    with pytest.raises(UserError, match="compat='dirty' is unknown; choose clean or reference"):
        evaluate("comem", model_args="compat=dirty", limit=1)
