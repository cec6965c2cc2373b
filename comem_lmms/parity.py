"""Compares us with outputs of the reference: a folder of them in, one line a quantity with its error out.

    python -m comem_lmms.parity DIR

The folder holds tiny checkpoints, inputs and what the reference's classes computed from them (the memory of items, the
logits and tokens of answers, the loss and its gradients). Ends with status 1 unless all quantities agree within their
tolerances, in float32 on the CPU.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from comem_lmms.encoder import MemoryEncoder, lora_targets
from comem_lmms.errors import UserError, one_line
from comem_lmms.records import KnowledgeItem
from comem_lmms.reference import ReferenceEncoder, ReferenceReader, ReferenceVLM, TextReader, load_parts
from comem_lmms.reference.checkpoint import (
    ENCODER_PREFIXES,
    READER_PREFIX,
    RESAMPLER_PREFIX,
    make_resampler,
    resampler_name,
    todays_name,
)
from comem_lmms.reference.loading import DECODE_OFFSET, share
from comem_lmms.reference.reading import MAX_PIXELS, MIN_PIXELS, fit
from comem_lmms.vlm import FrozenVLM, load_processor

EXACT = 0.0
PIXELS, RESAMPLER, MEMORY, LOGITS, LOSS, GRADIENTS = 1e-6, 1e-4, 1e-4, 5e-4, 1e-4, 2e-4
FAMILIES = {"qwen2_5_vl": "Qwen2.5-VL-tiny", "qwen2_vl": "Qwen2-VL-tiny"}
TEXT_LLM = "Qwen2.5-tiny"
PARTS = (*FAMILIES, "qwen2_5_llm", "train")
TRAINED = "qwen2_5_vl"  # the family of train/ and of the text LLM's encoder


class Check(NamedTuple):
    """One quantity: the largest absolute difference, and what it may be."""

    quantity: str
    error: float
    tolerance: float

    @property
    def holds(self) -> bool:
        """Whether the difference is small enough; NaN is not."""
        return self.error <= self.tolerance

    def __str__(self) -> str:
        return f"{self.quantity:64} {self.error:9.2e} {self.tolerance:9.0e}  {'ok' if self.holds else 'DIFFERS'}"


class Fixtures:
    """The folder, and what all parts of it share."""

    def __init__(self, folder: Path) -> None:
        if not (folder / "inputs/inputs.json").is_file():
            raise UserError(f"{folder} holds no inputs/inputs.json; give a folder of reference outputs")
        self.folder = folder
        self.about = json.loads((folder / "inputs/inputs.json").read_text())
        self.inputs = load_file(folder / "inputs/inputs.safetensors")
        self.resampler = json.loads((folder / "qformer/qformer.json").read_text())["main"]

    def image(self, path: str) -> Image.Image:
        """An image of the inputs."""
        return Image.open(self.folder / "inputs" / path)

    @cached_property
    def items(self) -> list[KnowledgeItem]:
        """The knowledge items, best first."""
        pairs = zip(self.about["knowledge_texts"], self.about["knowledge_images"], strict=True)
        return [KnowledgeItem(str(i), "", text, self.image(path)) for i, (text, path) in enumerate(pairs)]

    def chat(self, prompt: str = "prompt") -> list[dict[str, Any]]:
        """The question."""
        image = {"type": "image", "url": self.image(self.about["question_image"])}
        return [{"role": "user", "content": [image, {"type": "text", "text": self.about[prompt]}]}]

    def parts(self, family: str, name: str = "merged") -> tuple[MemoryEncoder, ReferenceReader]:
        """Encoder and reader of a checkpoint."""
        base = str(self.folder / "base" / FAMILIES[family])
        shape = {"heads": self.resampler["heads"], "depth": self.resampler["depth"]}
        encoder, reader = load_parts(str(self.folder / family / name), base, "float32", "cpu", **shape)
        for vlm in (encoder.vlm, reader):
            vlm.squashes = False  # type: ignore[attr-defined]  # the outputs are those of classes, not scripts
        return encoder, reader


def checks(folder: Path) -> Iterator[Check]:
    """Every quantity of a folder."""
    fixtures = Fixtures(folder)
    yield from _resampler(fixtures)
    for family in FAMILIES:
        if (folder / family).is_dir():
            encoder, reader = fixtures.parts(family)
            yield from _layout(fixtures, family, encoder, reader)
            yield from _encoder(fixtures, family, encoder, reader)
            yield from _answers(fixtures, family, "prefill", encoder, reader)
            yield from _answers(fixtures, family, "long", encoder, reader)
            yield from _base_alone(fixtures, family)
            if (folder / family / "scrambled").is_dir():
                yield from _answers(fixtures, family, "scrambled", *fixtures.parts(family, "scrambled"))
    if (folder / "qwen2_5_llm").is_dir():
        yield from _text_reader(fixtures)
    if (folder / "train").is_dir():
        yield from _training(fixtures)
        yield from _adapter_training(fixtures)


def _resampler(fixtures: Fixtures) -> Iterator[Check]:
    shapes = json.loads((fixtures.folder / "qformer/qformer.json").read_text())
    tensors = load_file(fixtures.folder / "qformer/qformer.safetensors")
    for name in sorted({key.split(".")[0] for key in tensors}):
        state = {
            resampler_name(key.removeprefix(f"{name}.state.")): tensor
            for key, tensor in tensors.items()
            if key.startswith(f"{name}.state.")
        }
        resampler = make_resampler(state, shapes[name]["heads"], shapes[name]["depth"])
        for key in sorted(key for key in tensors if key.startswith(f"{name}.") and key.endswith(".out")):
            case = key.removesuffix(".out")
            x = tensors[f"{name}.batch.x" if case.endswith("nomask") else f"{case}.x"]
            mask = tensors.get(f"{case}.mask", torch.ones(x.shape[:2], dtype=torch.bool))
            yield _close(f"resampler {case}", resampler(x, mask), tensors[key], RESAMPLER)


def _layout(fixtures: Fixtures, family: str, encoder: MemoryEncoder, reader: ReferenceReader) -> Iterator[Check]:
    """Tokens, masks and pixels of items and questions."""
    pixels = np.load(fixtures.folder / "inputs/pixel_values.npz")
    for prompt, name in (("prompt", "question"), ("long_prompt", "long_question")):
        got = reader.prepare([fixtures.chat(prompt)])
        for part in ("input_ids", "attention_mask", "image_grid_thw"):
            yield _equal(f"{family} {name} {part}", got[part], fixtures.inputs[f"{name}_{part}"])
    yield _close(f"{family} question pixels", got["pixel_values"], torch.tensor(pixels["question"]), PIXELS)
    for k in _ks(fixtures.inputs, r"k(\d+)_knowledge_input_ids"):
        got = encoder.tokenize(fixtures.items[:k])
        for part in ("input_ids", "attention_mask", "image_grid_thw"):
            yield _equal(f"{family} k={k} items {part}", got[part], fixtures.inputs[f"k{k}_knowledge_{part}"])
    yield _close(f"{family} items pixels", got["pixel_values"], torch.tensor(pixels["knowledge"]), PIXELS)
    cases = json.loads((fixtures.folder / "inputs/layout_cases.json").read_text())
    for name, case in cases["cases"].items():
        item = KnowledgeItem(name, "", case["text"], fixtures.image(cases["image"]))
        got = encoder.tokenize([item])
        yield _equal(f"{family} text {name} input_ids", got["input_ids"], torch.tensor([case["input_ids"]]))
        masked = (got["attention_mask"][0] == 0).nonzero()[:, 0]
        yield _equal(f"{family} text {name} masked", masked, torch.tensor(case["masked_positions"], dtype=torch.long))
    for case in fixtures.about.get("image_resizing", []):
        width, height = case["original_wh"]
        size = torch.tensor(fit(Image.new("RGB", (width, height))).size)
        yield _equal(f"{family} image {width}x{height} size", size, torch.tensor(case["reference_wh"]))


def _encoder(fixtures: Fixtures, family: str, encoder: MemoryEncoder, reader: ReferenceReader) -> Iterator[Check]:
    with torch.no_grad(), _seen(reader) as asked:
        question = reader.prepare([fixtures.chat()])
        reader.hidden_states(question)
    shown = asked["inputs_embeds"][question["input_ids"] == reader.config.image_token_id]
    for path in _files(fixtures.folder / family, r"encoder_k(\d+)"):
        expected, name = load_file(path), f"{family} {path.stem}"
        k = len(expected["compressed_in_item_order"])
        with torch.no_grad(), _seen(encoder.vlm) as seen:
            memories = encoder.encode(fixtures.items[:k])
            tokens = encoder.tokenize(fixtures.items[:k])
        mask = tokens["attention_mask"].bool()
        if "knowledge_position_ids" in expected:
            got = torch.where(mask, seen["position_ids"][-3:], 1)
            yield _equal(f"{name} position ids", got, expected["knowledge_position_ids"])
        images = seen["inputs_embeds"][tokens["input_ids"] == encoder.vlm.config.image_token_id]
        for part, got, tolerance in (
            ("question_image_embeds", shown, MEMORY),
            ("knowledge_image_embeds", images, MEMORY),
            ("knowledge_inputs_embeds_packed", seen["inputs_embeds"][mask], MEMORY),
            ("last_hidden_state_packed", seen["last_hidden_state"][mask], MEMORY),
            ("compressed_in_item_order", memories, MEMORY),
            ("memory", memories.flip(0).flatten(0, 1)[None], MEMORY),
        ):
            if part in expected:
                yield _close(f"{name} {part}", got, expected[part], tolerance)


def _answers(
    fixtures: Fixtures, family: str, kind: str, encoder: MemoryEncoder, reader: ReferenceReader
) -> Iterator[Check]:
    """First-token logits, decoded tokens and their logits, at the reference's positions and at contiguous ones."""
    for path in _files(fixtures.folder / family, rf"{kind}_k(\d+).*"):
        expected, about = load_file(path), json.loads(path.with_suffix(".json").read_text())
        name, chat = f"{family} {path.stem}", fixtures.chat("long_prompt" if kind == "long" else "prompt")
        k = int(re.search(r"_k(\d+)", path.stem).group(1))  # type: ignore[union-attr]
        prefix = encoder.encode(fixtures.items[:k]).flip(0).flatten(0, 1)
        reader.position_dtype = expected["final_position_ids"].dtype
        for variant, offset in (("reference_offset", about["offset"]), ("contiguous", None)):
            reader.decode_offset = offset
            suffix = "" if offset else "_contiguous"
            with _seen(reader) as seen:
                tokens, logits = _decode(reader, chat, prefix, len(about[f"tokens_{variant}"]))
            yield _equal(f"{name} tokens {variant}", tokens, torch.tensor(about[f"tokens_{variant}"]))
            if f"positions_{variant}" in about:
                steps = torch.tensor(about[f"positions_{variant}"])  # of the last token at each step
                yield _close(f"{name} positions {variant}", seen["steps"], steps, EXACT)
            yield _close(f"{name} decode_logits{suffix}", logits, expected[f"decode_logits{suffix}"], LOGITS)
            if f"tokens_{variant}_rep1.05" in about:
                tokens, _ = _decode(reader, chat, prefix, len(tokens), repetition_penalty=1.05)
                yield _equal(
                    f"{name} tokens {variant} rep1.05", tokens, torch.tensor(about[f"tokens_{variant}_rep1.05"])
                )
        yield _close(f"{name} position ids", seen["position_ids"][-3:], expected["final_position_ids"], EXACT)
        last = seen["last_hidden_state"][:, -1]
        for part, got in (
            ("concatenated_embeddings", seen["inputs_embeds"]),
            ("last_logits", logits[:1]),
            ("final_hidden_state_last_position", last),
            ("all_logits", reader.model.lm_head(seen["last_hidden_state"])),
        ):
            if part in expected:
                yield _close(f"{name} {part}", got, expected[part], MEMORY if "embed" in part else LOGITS)


def _base_alone(fixtures: Fixtures, family: str) -> Iterator[Check]:
    path = fixtures.folder / family / "base_alone.safetensors"
    if not path.is_file():
        return
    expected, about = load_file(path), json.loads(path.with_suffix(".json").read_text())
    name = str(fixtures.folder / "base" / FAMILIES[family])
    base = FrozenVLM.load(name, "float32", "cpu")
    reader = ReferenceReader(name, base.model, load_processor(name, MIN_PIXELS, MAX_PIXELS))
    with _seen(reader) as seen:
        tokens, logits = _decode(reader, fixtures.chat(), None, len(about["tokens"]))
    images = seen["inputs_embeds"][fixtures.inputs["question_input_ids"] == reader.config.image_token_id]
    yield _equal(f"{family} base alone tokens", tokens, torch.tensor(about["tokens"]))
    yield _equal(f"{family} base alone position_ids", seen["position_ids"][-3:], expected["position_ids"])
    yield _equal(f"{family} base alone rope_deltas", base.model.model.rope_deltas, expected["rope_deltas"])
    yield _close(f"{family} base alone image_embeds", images, expected["image_embeds"], MEMORY)
    yield _close(f"{family} base alone decode_logits", logits, expected["decode_logits"], LOGITS)


def _text_reader(fixtures: Fixtures) -> Iterator[Check]:
    encoder, _ = fixtures.parts(TRAINED)
    reader = _llm(fixtures, encoder)
    for path in _files(fixtures.folder / "qwen2_5_llm", r"prefill_k(\d+)"):
        expected, about = load_file(path), json.loads(path.with_suffix(".json").read_text())
        name = f"qwen2_5_llm {path.stem}"
        prefix = encoder.encode(fixtures.items[: about["n_memory"] // encoder.n_vectors]).flip(0).flatten(0, 1)
        tokens, logits = _decode(reader, fixtures.chat(), prefix, len(about["tokens"]))
        with torch.no_grad():
            hidden, embeddings = encoder.read(reader.prepare([fixtures.chat()]))
        yield _equal(f"{name} tokens", tokens, torch.tensor(about["tokens"]))
        for part, got, tolerance in (
            ("memory", prefix[None], MEMORY),
            ("encoder_hidden_states_of_the_question", hidden, MEMORY),
            ("raw_question_embeddings", embeddings, MEMORY),
            ("last_logits", logits[:1], LOGITS),
            ("decode_logits", logits, LOGITS),
        ):
            if part in expected:
                yield _close(f"{name} {part}", got, expected[part], tolerance)


def _training(fixtures: Fixtures) -> Iterator[Check]:
    """The loss of one sample, k items in item order, and its gradients into a merged encoder."""
    path = fixtures.folder / "train/full.safetensors"
    expected, about = load_file(path), json.loads(path.with_suffix(".json").read_text())
    encoder, reader = fixtures.parts(TRAINED)
    learning: dict[str, Tensor] = {
        **{RESAMPLER_PREFIX + name: p for name, p in encoder.resampler.named_parameters()},
        **dict(encoder.vlm.model.named_parameters()),
    }
    k = len(expected["knowledge_input_ids"])
    items, chat, answer = _sample(fixtures, about["sample"], k)
    yield from _batch(expected, encoder.tokenize(items), reader.prepare([chat], reader.answer_turns([chat], [answer])))
    with _seen(reader) as seen:
        loss = _loss(fixtures, about["sample"], encoder, reader, learning, k)
    memory = seen["inputs_embeds"][:, : expected["memory"].shape[1]]
    logits = reader.model.lm_head(seen["last_hidden_state"][:, -expected["logits_of_the_label_part"].shape[1] :])
    yield _close("train full memory", memory, expected["memory"], MEMORY)
    yield _close("train full position ids", seen["position_ids"][-3:], expected["final_position_ids"], EXACT)
    yield _close("train full logits", logits, expected["logits_of_the_label_part"], LOGITS)
    yield Check("train full loss", abs(loss.item() - about["loss"]), LOSS)
    for name, gradient in expected.items():
        if name.startswith("grad."):
            yield _close(f"train full {name}", learning[_todays_full_name(name[5:])].grad, gradient, GRADIENTS)
    for name, norm in about["grad_norms"].items():
        got = learning[_todays_full_name(name)].grad.norm().item()  # type: ignore[union-attr]
        yield Check(f"train full |grad {name}| (relative)", abs(got - norm) / norm, 1e-3)
    text = fixtures.folder / "qwen2_5_llm/train.json"
    if text.is_file():
        llm = _llm(fixtures, encoder, after_image_only=True)
        loss = _loss(fixtures, about["sample"], encoder, llm, {}, len(expected["knowledge_input_ids"]))
        yield Check("qwen2_5_llm train loss", abs(loss.item() - json.loads(text.read_text())["loss"]), LOSS)


def _batch(expected: dict[str, Tensor], items: Any, question: Any) -> Iterator[Check]:
    """What the reference's collator makes of a sample."""
    for part in ("input_ids", "attention_mask", "image_grid_thw"):
        yield _equal(f"train full items {part}", items[part], expected[f"knowledge_{part}"])
        yield _equal(f"train full {part}", question[part], expected[part])


def _adapter_training(fixtures: Fixtures) -> Iterator[Check]:
    """The same loss through an adapter that is not merged."""
    about = json.loads((fixtures.folder / "train/lora.json").read_text())
    expected = load_file(fixtures.folder / "train/lora_grads.safetensors")
    sample = json.loads((fixtures.folder / "train/full.json").read_text())["sample"]
    base = str(fixtures.folder / "base" / FAMILIES[TRAINED])
    shape = {"heads": fixtures.resampler["heads"], "depth": fixtures.resampler["depth"]}
    encoder, reader = _load_adapter(str(fixtures.folder / "train/adapter"), base, **shape)
    learning: dict[str, Tensor] = {
        **{RESAMPLER_PREFIX + name: p for name, p in encoder.resampler.named_parameters()},
        **{name: p for name, p in encoder.vlm.model.named_parameters() if "lora_" in name},
    }
    k = min(3, len(sample["knowledge_image"]))
    with encoder.adapter_on():
        loss = _loss(fixtures, sample, encoder, reader, learning, k)
    yield Check("train adapter loss", abs(loss.item() - about["loss"]), LOSS)
    for name, gradient in expected.items():
        short = name.removeprefix("grad.base_model.model.").replace("modules_to_save.default.", "")
        yield _close(f"train adapter {short}", learning[_todays_full_name(short)].grad, gradient, GRADIENTS)
    for name, norm in about["grad_norms"].items():
        short = name.removeprefix("base_model.model.").replace("modules_to_save.default.", "")
        if not short.startswith(READER_PREFIX):  # the adapter that leaked into the reader (quirk 3)
            got = learning[_todays_full_name(short)].grad.norm().item()  # type: ignore[union-attr]
            yield Check(f"train adapter |grad {short}| (relative)", abs(got - norm) / norm, 1e-3)


def _load_adapter(folder: str, base: str, **shape: int) -> tuple[MemoryEncoder, ReferenceReader]:
    """What the reference's training saves: a peft adapter that holds the resampler too.

    The adapter of the reader's layers, which came about by accident (quirk 3), is left out. The reader shares the tuned
    vision tower, so it is the reference's only within the encoder's `adapter_on`.
    """
    weights = load_file(Path(folder) / "adapter_model.safetensors")
    named = {name.removeprefix("base_model.model."): tensor for name, tensor in weights.items()}
    tuned, reading = (FrozenVLM.load(base, "float32", "cpu").model for _ in range(2))
    processor = load_processor(base, MIN_PIXELS, MAX_PIXELS)
    settings = json.loads((Path(folder) / "adapter_config.json").read_text())
    vlm = ReferenceVLM(folder, tuned, processor)
    lora = LoraConfig(r=settings["r"], lora_alpha=settings["lora_alpha"], target_modules=lora_targets(vlm))
    adapted = get_peft_model(tuned, lora)
    ours = {f"base_model.model.{todays_name(n)}": t for n, t in named.items() if n.startswith(ENCODER_PREFIXES)}
    report: Any = set_peft_model_state_dict(adapted, ours)
    if report.unexpected_keys:
        raise UserError(f"{folder} adapts {report.unexpected_keys[0]}, which our memory encoders do not")
    share(tuned, reading)
    resampler = {resampler_name(n): t for n, t in named.items() if n.startswith(RESAMPLER_PREFIX)}
    encoder = ReferenceEncoder(vlm, adapted.eval(), make_resampler(resampler, **shape))
    return encoder, ReferenceReader(folder, reading, processor, DECODE_OFFSET[tuned.config.model_type])


def _loss(
    fixtures: Fixtures, sample: dict[str, Any], encoder: MemoryEncoder, reader: Any, learning: dict[str, Tensor], k: int
) -> Tensor:
    for parameter in learning.values():
        parameter.requires_grad_(True)
    items, chat, answer = _sample(fixtures, sample, k)
    prefix = encoder.forward(items).flatten(0, 1)  # in item order, unlike inference (quirk 5)
    (loss,) = reader.losses([chat], [answer], [prefix])
    if learning:
        loss.backward()
    return loss.detach()


def _sample(fixtures: Fixtures, sample: dict[str, Any], k: int) -> tuple[list[KnowledgeItem], list[Any], str]:
    """The first k items of a training sample, its question and its answer."""
    items = [
        KnowledgeItem(str(i), "", answer["value"], Image.open(fixtures.folder / path))
        for i, (path, answer) in enumerate(
            zip(sample["knowledge_image"], sample["knowledge_conversations"][1::2], strict=True)
        )
    ][:k]
    question, answer = sample["conversations"]
    parts = [
        {"type": "image", "url": Image.open(fixtures.folder / sample["image"])},
        {"type": "text", "text": question["value"].removeprefix("<image>\n")},
    ]
    return items, [{"role": "user", "content": parts}], answer["value"]


def _todays_full_name(name: str) -> str:
    is_resampler = name.startswith(RESAMPLER_PREFIX)
    return RESAMPLER_PREFIX + resampler_name(name) if is_resampler else todays_name(name)


def _llm(fixtures: Fixtures, encoder: MemoryEncoder, after_image_only: bool = False) -> TextReader:
    folder = str(fixtures.folder / "base" / TEXT_LLM)
    llm = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return TextReader(folder, llm, encoder, after_image_only)


@torch.inference_mode()
def _decode(reader: Any, chat: list, prefix: Tensor | None, n: int, **generation: Any) -> tuple[Tensor, Tensor]:
    """Greedily decoded tokens (n,) and the logits they were chosen by, before any penalty, (n, V)."""
    with reader.prefixed(reader.prepare([chat]), None if prefix is None else [prefix]) as inputs:
        output = reader.model.generate(
            **inputs,
            **generation,
            max_new_tokens=n,
            do_sample=False,
            eos_token_id=[],
            pad_token_id=0,
            output_logits=True,
            return_dict_in_generate=True,
        )
    return output.sequences[0, -n:], torch.cat(output.logits)


@contextmanager
def _seen(vlm: FrozenVLM) -> Iterator[dict[str, Tensor]]:
    """What the language model got and gave when it was first called, and the last position (3,) of each call."""
    seen: dict[str, Tensor] = {}
    steps: list[Tensor] = []

    def look(module: Any, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        steps.append(kwargs["position_ids"][-3:, 0, -1])
        seen["steps"] = torch.stack([step.float() for step in steps])
        if len(steps) == 1:
            seen.update(
                position_ids=kwargs["position_ids"],
                inputs_embeds=kwargs["inputs_embeds"],
                last_hidden_state=output.last_hidden_state,
            )

    hook = vlm.model.model.language_model.register_forward_hook(look, with_kwargs=True)
    try:
        yield seen
    finally:
        hook.remove()


def _close(name: str, got: Tensor | None, expected: Tensor, tolerance: float) -> Check:
    if got is None or got.shape != expected.shape:
        return Check(f"{name}: shape {got if got is None else tuple(got.shape)}", float("inf"), tolerance)
    return Check(name, (got.detach().double() - expected.double()).abs().max().item(), tolerance)


def _equal(name: str, got: Tensor, expected: Tensor) -> Check:
    """Counts what differs."""
    if got.shape != expected.shape:
        return Check(f"{name}: shape {tuple(got.shape)}", float("inf"), EXACT)
    return Check(name, float((got.long() != expected.long()).sum()), EXACT)


def _files(folder: Path, pattern: str) -> list[Path]:
    return [path for path in sorted(folder.glob("*.safetensors")) if re.fullmatch(pattern, path.stem)]


def _ks(names: Any, pattern: str) -> list[int]:
    return sorted(int(found.group(1)) for name in names if (found := re.fullmatch(pattern, name)))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m comem_lmms.parity", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    compared: list[Check] = []
    print(f"{'quantity':64} {'error':>9} {'allowed':>9}")
    try:
        for check in checks(folder):
            print(check, flush=True)
            compared.append(check)
    except UserError as error:
        sys.exit(str(error))
    except (OSError, KeyError) as error:  # a file, or something in one
        sys.exit(f"{folder} is incomplete ({one_line(error)}); copy it again")
    there = [part for part in PARTS if (folder / part).is_dir()]
    if absent := sorted(set(PARTS) - set(there)):
        print(f"not compared, since {folder} has no {', '.join(absent)}")
    empty = [part for part in there if not any(re.match(rf"{part}\b.*(k\d|loss)", c.quantity) for c in compared)]
    if empty:
        print(f"nothing to compare in {', '.join(empty)}: the outputs of the reference are missing")
    agree = sum(check.holds for check in compared)
    print(f"{agree} of {len(compared)} quantities agree with the reference")
    sys.exit(0 if agree == len(compared) and not empty else 1)


if __name__ == "__main__":
    main()
