"""The memory encoder: knowledge items in, 8 vectors an item in the VLM's embedding space out.

It is the frozen VLM itself with a LoRA adapter, whose last hidden states a resampler reads. Both share one copy of the
base weights: the adapter is on while items are encoded and off at all other times. A saved encoder is a peft adapter
(``adapter_config.json``, ``adapter_model.safetensors``), ``resampler.safetensors`` and ``memory_encoder.json``.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelCardData
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import BatchFeature

from comem_lmms import fingerprints, micro
from comem_lmms.backbones import Backbone
from comem_lmms.errors import UserError, one_line
from comem_lmms.files import fetch, is_hub_id, read_json, write_json
from comem_lmms.prompts import ENCODE_INSTRUCTION, MAX_ITEM_CHARACTERS, item_messages, item_text
from comem_lmms.records import KnowledgeItem
from comem_lmms.resampler import Resampler, ResamplerConfig
from comem_lmms.vlm import FrozenVLM

CONFIG = "memory_encoder.json"
RESAMPLER = "resampler.safetensors"
ADAPTER = "adapter_model.safetensors"
# Raise it when items are tokenized in another way, so that old memories are not taken for new ones.
LAYOUT_VERSION = 1
# What an adapter's configuration says besides what it does; target_modules comes in any order.
NO_PART_OF_A_MEMORY = {
    "base_model_name_or_path",
    "inference_mode",
    "lora_dropout",
    "peft_version",
    "revision",
    "target_modules",
}
FILES = (CONFIG, RESAMPLER, "adapter_config.json", ADAPTER)
# Of an encoder whose adapter is merged: a whole VLM instead.
MERGED_FILES = (CONFIG, RESAMPLER, "config.json")
MERGED_WEIGHTS = "model*.safetensors*"
# By name, so that no record or log of a training that lies beside them is taken for a part.
MERGED_PATTERNS = (MERGED_WEIGHTS, *MERGED_FILES, *fingerprints.SETTINGS, *fingerprints.VOCABULARIES)


CARD = """# Memory encoder for {vlm}

Turns a knowledge item (an image and a text) into {vectors} vectors of width {hidden} that {vlm}, unchanged, reads in
front of a question (CoMEM, [arXiv 2505.17670](https://arxiv.org/abs/2505.17670)). {parts}; for
[lmms-eval](https://github.com/EvolvingLMMs-Lab/lmms-eval) with the plugin comem-lmms:

    lmms-eval --model comem --tasks TASK \\
        --model_args pretrained={vlm},memory_encoder={source},knowledge=KNOWLEDGE_BASE
"""


class MemoryEncoder:
    """Encodes knowledge items with a VLM that it leaves as it was.

    Use `create` for a fresh one and `load` for a saved one.

    Args:
        vlm: what encodes.
        adapted: the peft model of its adapter; None for a VLM whose weights are merged with it, which then cannot be
            the one that answers.

    Raises:
        UserError: memory is not supported for the VLM's family.
    """

    def __init__(self, vlm: FrozenVLM, adapted: Any, resampler: Resampler) -> None:
        self.vlm = vlm
        self._layout = vlm.backbone.item
        self.resampler = resampler.to(vlm.device, vlm.model.dtype)
        self._adapted = adapted
        self._adapter = [] if adapted is None else [p for n, p in adapted.named_parameters() if "lora_" in n]
        self._switch_adapter(on=False)

    @property
    def adapter_config(self) -> LoraConfig:
        """Of the adapter."""
        return self._adapted.peft_config["default"]

    @property
    def n_vectors(self) -> int:
        """Vectors an item becomes."""
        return self.resampler.config.n_vectors

    @torch.inference_mode()
    def encode(self, items: Sequence[KnowledgeItem]) -> Tensor:
        """The memories of items, (n, n_vectors, D); an item's memory does not depend on the others."""
        return self.forward(items)

    def forward(self, items: Sequence[KnowledgeItem]) -> Tensor:
        """As `encode`, with gradients into the adapter and the resampler."""
        return self.compress(self.tokenize(items))

    def compress(self, inputs: BatchFeature) -> Tensor:
        """As `forward`, of items that are tokenized already."""
        with self.adapter_on():
            hidden = self.vlm.hidden_states(inputs)  # (n, L, D)
        return self.resampler(hidden, inputs["attention_mask"].bool())

    def read(self, inputs: BatchFeature) -> tuple[Tensor, Tensor]:
        """The encoding VLM's last hidden states of a prompt, and the embeddings it made them from; (B, L, D) each."""
        embeddings: list[Tensor] = []
        hook = self.vlm.model.model.language_model.register_forward_pre_hook(
            lambda _, args, kwargs: embeddings.append(kwargs["inputs_embeds"]), with_kwargs=True
        )
        try:
            with self.adapter_on():
                return self.vlm.hidden_states(inputs), embeddings[0]
        finally:
            hook.remove()

    def tokenize(self, items: Sequence[KnowledgeItem]) -> BatchFeature:
        """What the VLM reads of items: image and instruction from the user, the text from the assistant."""
        images = [item.image for item in items if item.image is not None]
        if self._layout is None:
            texts = self.vlm.render([item_messages(item) for item in items], add_generation_prompt=False)
            return self.vlm.tokenize(texts, images)
        question, answer, image = self._layout
        questions = [
            question.format(image=image if item.image is not None else "", instruction=ENCODE_INSTRUCTION)
            for item in items
        ]
        answers = [answer.format(text=self.vlm.plain(item_text(item))) for item in items]
        return self.vlm.tokenize(questions, images, answers)

    def parameters(self) -> list[torch.nn.Parameter]:
        """What training may change: the adapter and the resampler."""
        return [*self._adapter, *self.resampler.parameters()]

    def train(self, on: bool = True) -> None:
        """Switches the dropout of the adapter, all in which training differs from use: the VLM stays as in use."""
        for name, module in self.vlm.model.named_modules():
            if "lora_dropout" in name:
                module.train(on)

    def save(self, folder: str | Path) -> None:
        """Writes the encoder, not the VLM, and a model card unless there is one."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self._adapted.peft_config["default"].base_model_name_or_path = self.vlm.name
        card = folder / "README.md"
        written = card.read_text() if card.is_file() else None
        self._adapted.save_pretrained(str(folder), save_embedding_layers=False)
        save_file(self.resampler.state_dict(), folder / RESAMPLER)
        about = {
            "vlm": self.vlm.name,
            "vlm_embeddings": self.vlm.embeddings_fingerprint,
            "model_type": self.vlm.config.model_type,
            "hidden_size": self.vlm.hidden_size,
            "resampler": asdict(self.resampler.config),
        }
        card.write_text(written or model_card(about, self.adapter_config.to_dict(), "THIS_REPOSITORY"))  # over peft's
        write_json(folder / CONFIG, about)
        for weights in folder.glob("*.safetensors"):  # safetensors leaves them to their owner alone
            weights.chmod((folder / CONFIG).stat().st_mode)

    @classmethod
    def create(
        cls, vlm: FrozenVLM, resampler: ResamplerConfig, rank: int = 16, alpha: int = 32, dropout: float = 0.05
    ) -> "MemoryEncoder":
        """A fresh encoder; with its adapter untrained (B = 0) the VLM encodes as it is."""
        lora = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=lora_targets(vlm))
        encoder = cls(vlm, get_peft_model(vlm.model, lora), Resampler(resampler))
        for parameter in encoder.parameters():
            parameter.requires_grad_(True)
        return encoder

    @classmethod
    def load(cls, folder: str, vlm: FrozenVLM) -> "MemoryEncoder":
        """A saved encoder on the VLM it was made for, or with a VLM of its own if its adapter is merged.

        Raises:
            UserError: a file is missing or damaged, or the encoder was made for another kind or size of VLM.
        """
        about = check(folder, vlm.name, vlm.config.model_type, vlm.hidden_size)
        path = locate(folder)
        check_vlm(folder, about, vlm)
        try:
            resampler = Resampler(ResamplerConfig(**about["resampler"]))
            resampler.load_state_dict(load_file(path / RESAMPLER))
            resampler = resampler.eval().requires_grad_(False)
            if is_merged(about):
                dtype, attention = str(vlm.model.dtype).removeprefix("torch."), vlm.config._attn_implementation
                own = FrozenVLM.load(str(path), dtype, str(vlm.device), attention)
                return cls(FrozenVLM(folder, own.model, vlm.processor), None, resampler)
            adapted = PeftModel.from_pretrained(vlm.model, str(path))
        except Exception as error:  # safetensors, peft and torch each raise their own for a damaged file
            raise UserError(f"memory encoder {folder!r} is damaged ({one_line(error)}); copy it again") from error
        adapted.requires_grad_(False)
        return cls(vlm, adapted.eval(), resampler)

    def restore(self, folder: Path) -> None:
        """Takes over the weights of a saved encoder of the same shape, and stays as trainable as it is.

        Raises:
            ValueError: the adapter has other weights; safetensors, peft and torch raise their own for damaged files.
        """
        adapter = load_file(folder / ADAPTER)
        other = adapter.keys() ^ get_peft_model_state_dict(self._adapted).keys()
        if other:  # which peft would pass over
            raise ValueError(f"{ADAPTER} has not the weights that belong to this VLM, e.g. {min(other)}")
        set_peft_model_state_dict(self._adapted, adapter)
        self.resampler.load_state_dict(load_file(folder / RESAMPLER))

    def merged(self) -> Any:
        """The VLM's model with the adapter added to its weights; the encoder is of no use afterwards."""
        self._switch_adapter(on=True)
        return self._adapted.merge_and_unload()

    @contextmanager
    def adapter_on(self) -> Iterator[None]:
        """Within the context the VLM is the one that encodes; may be nested."""
        was_on = self._is_on
        self._switch_adapter(on=True)
        try:
            yield
        finally:
            self._switch_adapter(on=was_on)

    def _switch_adapter(self, on: bool) -> None:
        """Switches the adapter, and keeps it as trainable as it was: peft freezes what it switches off."""
        self._is_on = on
        if self._adapted is None:
            return
        trainable = [p.requires_grad for p in self._adapter]
        model = self._adapted.base_model
        model.enable_adapter_layers() if on else model.disable_adapter_layers()
        for parameter, requires_grad in zip(self._adapter, trainable, strict=True):
            parameter.requires_grad_(requires_grad)


def lora_targets(vlm: FrozenVLM) -> list[str]:
    """The names of every linear layer of language model, vision tower and what connects them: all but the head."""
    head = vlm.model.get_output_embeddings()
    modules = vlm.model.named_modules()
    return [name for name, module in modules if isinstance(module, torch.nn.Linear) and module is not head]


def locate(source: str) -> Path:
    """The folder of a saved encoder: ``micro``, a folder, or a repository of the Hub, downloaded if need be."""
    source = micro.resolve(source, "memory_encoder")
    return fetch(source, *FILES, *MERGED_PATTERNS) if is_hub_id(source) else Path(source)


def is_merged(about: dict[str, Any]) -> bool:
    """Whether an encoder's configuration is of one with a VLM of its own."""
    return bool(about.get("merged"))


def fingerprint(source: str) -> str:
    """Of a saved encoder's weights and shape, wherever it lies and whatever VLM name it was saved with."""
    path = locate(source)
    about = read_json(path / CONFIG)
    if is_merged(about):
        lora: dict[str, Any] = {}
        weights = fingerprints.fingerprint([*path.glob(MERGED_WEIGHTS), path / RESAMPLER])
    else:
        lora = {k: v for k, v in read_json(path / "adapter_config.json").items() if k not in NO_PART_OF_A_MEMORY}
        weights = fingerprints.fingerprint(path / name for name in FILES if name.endswith(".safetensors"))
    content = [weights, lora, about["resampler"]]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def layout_fingerprint(processor: Any, row: Backbone) -> str:
    """Of all that decides how an item becomes the input of a VLM, the tokenizer's vocabulary left out."""
    layout = row.item or processor.chat_template
    content = [LAYOUT_VERSION, processor.image_processor.to_dict(), layout, ENCODE_INSTRUCTION, MAX_ITEM_CHARACTERS]
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def model_card(about: dict[str, Any], adapter: dict[str, Any] | None, source: str, **data: Any) -> str:
    """What the Hub shows of a saved encoder.

    Args:
        about: what `CONFIG` holds.
        adapter: the configuration of its adapter; None if that is merged.
        source: what ``memory_encoder=`` is to name.
        data: more of the card's metadata, such as ``license``.
    """
    vlm = about["vlm"]
    parts = "A whole VLM, into which its adapter is merged, and a resampler"
    if adapter is not None:
        parts = f"A LoRA adapter of rank {adapter['r']} (alpha {adapter['lora_alpha']}) and a resampler"
    head = ModelCardData(
        base_model=vlm if is_hub_id(vlm) else None,  # the Hub refuses other names
        library_name="transformers" if adapter is None else "peft",
        pipeline_tag="image-text-to-text",
        tags=["comem", "memory-encoder", "knowledge-based-vqa"],
        **data,
    )
    vectors, hidden = about["resampler"]["n_vectors"], about["hidden_size"]
    text = CARD.format(vlm=vlm, vectors=vectors, hidden=hidden, parts=parts, source=source)
    return f"---\n{head.to_yaml()}\n---\n\n{text}"


def check(folder: str, vlm: str, model_type: str, hidden_size: int) -> dict[str, Any]:
    """Reads an encoder's configuration and compares it with a VLM's, before any weights are loaded.

    Raises:
        UserError: the folder holds no encoder, or one for another kind or size of VLM.
    """
    path = locate(folder)
    about = read_json(path / CONFIG) if (path / CONFIG).is_file() else {}
    for name in MERGED_FILES if is_merged(about) else FILES:
        if not (path / name).is_file():
            raise UserError(f"no memory encoder at {folder!r}: {name} is missing; give the folder of one")
    missing = {"vlm", "vlm_embeddings", "model_type", "hidden_size", "resampler"} - set(about)
    if missing:
        raise UserError(f"memory encoder {folder!r}: {CONFIG} has no {', '.join(sorted(missing))}; copy it again")
    if not isinstance(about["resampler"], dict):
        raise UserError(f"memory encoder {folder!r}: resampler in {CONFIG} is no object; copy it again")
    if (about["model_type"], about["hidden_size"]) != (model_type, hidden_size):
        raise UserError(
            f"memory encoder {folder!r} was made for {about['model_type']} of hidden size {about['hidden_size']}, but "
            f"pretrained={vlm!r} is {model_type} of hidden size {hidden_size}; give the encoder's own VLM "
            f"({about['vlm']}) or another memory_encoder"
        )
    return about


def check_vlm(folder: str, about: dict[str, Any], vlm: FrozenVLM) -> None:
    """Raises UserError if an encoder, whose configuration is ``about``, was made for another checkpoint."""
    made_for, given = about["vlm_embeddings"], vlm.embeddings_fingerprint
    if made_for != given:
        raise UserError(
            f"memory encoder {folder!r} was made for {about['vlm']!r} (embeddings {made_for[:12]}), another "
            f"checkpoint than pretrained={vlm.name!r} ({given[:12]}); give the encoder's own VLM"
        )
