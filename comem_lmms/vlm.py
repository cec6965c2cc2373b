"""The frozen VLM: chats (and memories in front of them) in, answers out. The only place where embeddings are spliced.

A memory enters without any patched model: the prompt gets one placeholder token for each of its vectors, and a hook
on the token embedding replaces the placeholders' rows. Positions, masks, caches and batches stay transformers' own.
"""

import logging
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import torch
from jinja2 import TemplateError
from PIL import Image
from torch import Tensor
from torch.nn.functional import cross_entropy, pad
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, BatchFeature, StoppingCriteriaList

from comem_lmms import micro
from comem_lmms.attention import attend_in_chunks
from comem_lmms.backbones import Backbone, backbone
from comem_lmms.errors import UserError, one_line
from comem_lmms.files import is_hub_id, tensors_fingerprint
from comem_lmms.generation import FirstToken, StopAt, cut, generation_arguments
from comem_lmms.images import images_of, open_image

log = logging.getLogger(__name__)

Chat = Sequence[dict[str, Any]]
DTYPES = ("auto", "float32", "bfloat16", "float16")
# Stands for an answer while its turn is laid out.
MARK = "ANSWER"
# What processors give for every token besides its id, and what that is for a token of text; 0 is for padding.
PER_TOKEN = {"attention_mask": 1, "mm_token_type_ids": 0, "token_type_ids": 0}
# With these ``generate`` embeds a prompt in pieces, twice, or another one.
NOT_BEHIND_MEMORY = {"prefill_chunk_size", "guidance_scale", "token_healing"}


@dataclass(frozen=True)
class Answer:
    """What a VLM said; equal to another of the same text and tokens, however long it took.

    Attributes:
        prompt_tokens, output_tokens: read (memory vectors not counted) and written (the end token included).
        first_token: seconds from when its batch was begun to the first token of the batch.
    """

    text: str
    prompt_tokens: int
    output_tokens: int
    first_token: float | None = field(default=None, compare=False)


class FrozenVLM:
    """A vision-language model and its processor, never trained; `load` makes one."""

    auto_class: ClassVar[Any] = AutoModelForImageTextToText
    sees_images: ClassVar[bool] = True

    def __init__(self, name: str, model: Any, processor: Any) -> None:
        self.name = name
        self.model = model.eval().requires_grad_(False)
        self.processor = processor
        self.config = model.config
        attend_in_chunks(model)
        self._is_too_long = False

    @classmethod
    def load(
        cls,
        pretrained: str,
        dtype: str = "auto",
        device: str | None = None,
        attn_implementation: str | None = None,
        min_pixels: int | None = None,
        max_pixels: int | None = None,
        revision: str | None = None,
    ) -> "FrozenVLM":
        """A model from the Hub or a folder.

        Args:
            pretrained: Hub id or folder, or ``micro``.
            dtype: "auto" (the checkpoint's), "float32", "bfloat16" or "float16".
            device: e.g. "cuda:1"; by default the first GPU, else the CPU.
            attn_implementation: e.g. "sdpa", "eager", "flash_attention_2"; by default transformers' choice.
            min_pixels, max_pixels: limits of an image's area, for processors that know them.

        Raises:
            UserError: there is no such model, or an argument has no such value.
        """
        placement = check_placement(dtype, device)
        read_config(pretrained, revision)
        location = micro.resolve(pretrained, "vlm")
        try:
            model = cls.auto_class.from_pretrained(
                location, revision=revision, dtype=dtype, attn_implementation=attn_implementation
            )
        except Exception as error:  # transformers, safetensors and huggingface_hub each raise their own
            raise UserError(
                f"cannot load the VLM pretrained={pretrained!r} ({one_line(error)}); download it again, or change "
                "the argument that is named"
            ) from error
        model = model.to(placement)  # type: ignore[arg-type]
        return cls(pretrained, model, load_processor(pretrained, min_pixels, max_pixels, revision))

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.device

    @property
    def backbone(self) -> Backbone:
        """The row of the model's family; raises UserError for a family without memory."""
        return backbone(self.config.model_type)

    @property
    def hidden_size(self) -> int:
        """Width of the token embeddings, which is that of a memory vector."""
        return hidden_size(self.config)

    @cached_property
    def embeddings_fingerprint(self) -> str:
        """Of the token embeddings, rounded to bfloat16 so that the dtype a checkpoint is loaded in does not matter."""
        weight = self.model.get_input_embeddings().weight
        return tensors_fingerprint({"embeddings": weight.to(torch.bfloat16)})

    @torch.inference_mode()
    def generate(
        self, chats: Sequence[Chat], prefixes: Sequence[Tensor] | None = None, **gen_kwargs: Any
    ) -> list[Answer]:
        """Answers a batch of chats.

        Args:
            chats: lmms-eval messages, each ending with a user turn.
            prefixes: for each chat the memory vectors to put in front, (n_i, D); n_i may be 0 and differ.
            gen_kwargs: of the task, ``until`` included; see `generation_arguments`.
        """
        first = FirstToken()
        arguments, until = generation_arguments(gen_kwargs)
        if prefixes and (hidden := sorted(NOT_BEHIND_MEMORY & arguments.keys())):
            raise UserError(f"generation argument {hidden[0]!r} cannot be used with memory; take it out of gen_kwargs")
        inputs = self.prepare(chats)
        lengths = inputs["attention_mask"].sum(1).tolist()
        with self.prefixed(inputs, prefixes) as inputs:
            self._check_length(inputs, int(arguments.get("max_new_tokens", 0)))
            prompt = inputs["input_ids"].shape[1] if "input_ids" in inputs else 0  # embeddings are not given back
            stop = [StopAt(until, prompt, self.processor.tokenizer)] if until else []
            arguments = self.model_arguments({"pad_token_id": self.pad_id, **arguments})
            if arguments.get("token_healing"):
                arguments["tokenizer"] = self.processor.tokenizer
            output = self.model.generate(**inputs, **arguments, stopping_criteria=StoppingCriteriaList([first, *stop]))
        new = output[:, prompt:]
        # Several sequences a chat (num_return_sequences) are an answer to a chat each; the first is the best.
        new = new[:: len(new) // len(chats)]
        ends = arguments.get("eos_token_id", self.model.generation_config.eos_token_id)
        ends = {arguments["pad_token_id"], *([ends] if isinstance(ends, int) else ends or [])}
        written = [self._written(ids, ends, until) for ids in new.tolist()]
        return [Answer(text, read, n, first.seconds) for (text, n), read in zip(written, lengths, strict=True)]

    def model_arguments(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Arguments of ``generate`` as the model needs them."""
        return arguments

    def logits(self, chats: Sequence[Chat], prefixes: Sequence[Tensor] | None = None) -> Tensor:
        """Next-token logits after each chat, (B, vocabulary)."""
        with self.prefixed(self.prepare(chats), prefixes) as inputs:
            return self.model(**inputs, logits_to_keep=1).logits[:, -1]

    def losses(self, chats: Sequence[Chat], answers: Sequence[str], prefixes: Sequence[Tensor] | None = None) -> Tensor:
        """Mean cross-entropy of each answer's tokens, the end of the turn included; (B,), differentiable."""
        return self.answer_losses(*self.prepare_answered(chats, answers), prefixes)

    def prepare_answered(self, chats: Sequence[Chat], answers: Sequence[str]) -> tuple[BatchFeature, Tensor]:
        """Model inputs of chats and their answers, and where the answers are, the end of the turn included; (B, L)."""
        ends = self.answer_turns(chats, answers)
        inputs = self.prepare(chats, ends)
        lengths = [len(ids) for ids in self.processor.tokenizer(ends, add_special_tokens=False).input_ids]
        places = torch.arange(inputs["input_ids"].shape[1], 0, -1, device=self.device)
        return inputs, places <= torch.tensor(lengths, device=self.device)[:, None]

    def answer_losses(
        self, inputs: BatchFeature, is_answer: Tensor, prefixes: Sequence[Tensor] | None = None
    ) -> Tensor:
        """Mean cross-entropy, in float32, of the tokens where ``is_answer`` (B, L) is true; (B,), differentiable."""
        logits, ids = self.predict(inputs, is_answer, prefixes)
        losses = cross_entropy(logits.float(), ids, reduction="none")
        return torch.stack([row.mean() for row in losses.split(is_answer.sum(1).tolist())])

    def predict(
        self, inputs: BatchFeature, is_answer: Tensor, prefixes: Sequence[Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Logits (n, vocabulary) of the n tokens where ``is_answer`` (B, L) is true, row by row, and their ids (n,).

        Only those go through the head: its output is the largest tensor of a training step.
        """
        ids = inputs["input_ids"][is_answer]
        with self.prefixed(inputs, prefixes) as inputs:
            hidden = self.hidden_states(inputs)  # (B, L', D), what was put in front at the left
        before = pad(is_answer, (hidden.shape[1] - is_answer.shape[1], 0))[:, 1:]
        return self.model.get_output_embeddings()(hidden[:, :-1][before]), ids

    def prepare(self, chats: Sequence[Chat], answers: Sequence[str] | None = None) -> BatchFeature:
        """Model inputs of a left-padded batch, (B, L), of chats and what is to follow them."""
        images = [open_image(part["url"]) for chat in chats for part in images_of(chat)]
        return self.tokenize(self.render(chats), images, answers)

    def render(self, chats: Sequence[Chat], add_generation_prompt: bool = True) -> list[str]:
        """The texts that the processor's chat template makes of chats.

        Raises:
            UserError: there is no template, or it does not take the chats.
        """
        messages = [self._to_transformers(chat) for chat in chats]
        try:
            return self.processor.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=add_generation_prompt
            )
        except (ValueError, TemplateError) as error:
            raise UserError(
                f"the processor of {self.name!r} cannot lay out a chat ({one_line(error)}); "
                "give a VLM whose processor has a chat template for it"
            ) from error

    def answer_turns(self, chats: Sequence[Chat], answers: Sequence[str]) -> list[str]:
        """What is to follow the prompts where these are the answers: as in the chat template, to the turn's end."""
        told = [[*chat, {"role": "assistant", "content": [{"type": "text", "text": MARK}]}] for chat in chats]
        turns = []
        for prompt, full, answer in zip(self.render(chats), self.render(told, False), answers, strict=True):
            head, _, tail = full.rpartition(MARK)
            # LLaVA-OneVision's template begins a turn in another way when it asks for one.
            lead = head[len(prompt) :] if head.startswith(prompt) else ""
            turns.append(lead + self.plain(answer) + self._ended(tail))
        return turns

    def tokenize(
        self, texts: Sequence[str], images: Sequence[Image.Image], answers: Sequence[str] | None = None
    ) -> BatchFeature:
        """Model inputs of rendered texts and the images that occur in them, in order; left-padded, on the device.

        ``answers`` are tokenized on their own and put behind the texts, as the reference does: no token of theirs
        merges with the end of a text.
        """
        inputs = self.processor(
            text=list(texts),
            images=by_row(texts, images, getattr(self.processor, "image_token", None)) if images else None,
            padding=True,
            padding_side="left",
            return_tensors="pt",
            add_special_tokens=not self._begins(texts[0]),
        )
        if answers is not None:
            after = self.processor.tokenizer(list(answers), add_special_tokens=False).input_ids
            inputs = extend(inputs, self.pad_id, after=after)
        return inputs.to(self.device, dtype=self.model.dtype)

    def hidden_states(self, inputs: BatchFeature) -> Tensor:
        """The last hidden states, after the final norm; (B, L, D)."""
        return self.model.model(**inputs, use_cache=False).last_hidden_state

    def plain(self, text: str) -> str:
        """The text with every special token of the tokenizer broken up, so that data cannot pose as structure."""
        for token in self._special_tokens:
            if token in text:
                text = text.replace(token, f"{token[0]} {token[1:]}")
        return text

    @contextmanager
    def prefixed(self, inputs: BatchFeature, prefixes: Sequence[Tensor] | None) -> Iterator[BatchFeature]:
        """Inputs with memory in front; within the context the model sees the memory in place of the placeholders.

        Args:
            inputs: of `prepare`, (B, L).
            prefixes: B tensors (n_i, D); gradients flow into them.
        """
        if not prefixes or not any(map(len, prefixes)):
            yield inputs
            return
        inputs, is_memory = insert_placeholders(inputs, [len(p) for p in prefixes], self.pad_id)
        width = is_memory.shape[1]
        spliced = False

        def splice(module: torch.nn.Module, args: tuple[Tensor, ...], embeddings: Tensor) -> Tensor:
            nonlocal spliced
            if embeddings.shape[1] < width:  # a decoding step: only what is new
                return embeddings
            spliced = True
            beams = len(embeddings) // len(is_memory)  # beam search repeats every row
            memory = torch.cat([prefix for prefix in prefixes for _ in range(beams)]).to(embeddings)
            mask = is_memory.repeat_interleave(beams, 0).unsqueeze(-1)
            # Without a cache every step embeds the prompt and what came after it.
            return torch.cat([embeddings[:, :width].masked_scatter(mask, memory), embeddings[:, width:]], dim=1)

        handle = self.model.get_input_embeddings().register_forward_hook(splice)
        try:
            yield inputs
        finally:
            handle.remove()
        if not spliced:
            raise RuntimeError("the VLM never embedded the whole prompt, so it answered without its memory")

    @property
    def pad_id(self) -> int:
        """The token that fills rows up."""
        tokenizer = self.processor.tokenizer
        return tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id

    @property
    def positions(self) -> int | None:
        """Tokens and memory vectors that the model was made for, the answer included; None where it does not tell."""
        return getattr(self.config.get_text_config(), "max_position_embeddings", None)

    def _check_length(self, inputs: BatchFeature, new: int) -> None:
        length = inputs["attention_mask"].shape[1] + new
        if self.positions and length > self.positions and not self._is_too_long:
            self._is_too_long = True
            log.warning(
                "%s was made for %s positions, but prompt and answer come to %s here (not said again); answers may be "
                "poor: lower top_k, max_pixels or max_new_tokens",
                self.name,
                self.positions,
                length,
            )

    @cached_property
    def _special_tokens(self) -> list[str]:
        tokenizer = self.processor.tokenizer
        # Those of turns (Gemma) have no name; the processor finds those of images in the text, special or not (LLaVA).
        unnamed = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
        images = [getattr(self.processor, name, None) for name in ("image_token", "video_token")]
        return list(dict.fromkeys([*tokenizer.all_special_tokens, *unnamed, *filter(None, images)]))

    def _begins(self, text: str) -> bool:
        """Whether the chat template has put the token that begins a text, which the tokenizer would put again."""
        bos = self.processor.tokenizer.bos_token
        return bos is not None and text.startswith(bos)

    def _ended(self, tail: str) -> str:
        """The end of a turn, or of the text where the chat template (LLaVA's) writes none."""
        ends = any(token in tail for token in self._special_tokens)
        return tail if ends else tail.rstrip() + self.processor.tokenizer.eos_token

    def _to_transformers(self, chat: Chat) -> list[dict[str, Any]]:
        return [{"role": m["role"], "content": [self._part(part) for part in m["content"]]} for m in chat]

    def _part(self, part: dict[str, Any]) -> dict[str, Any]:
        if part["type"] == "text":
            return {"type": "text", "text": self.plain(part["text"])}
        if part["type"] == "image":
            return {"type": "image"}
        raise UserError(f"a question holds a part of type {part['type']!r}; only text and images are supported")

    def _written(self, ids: list[int], ends: set[int], until: list[str]) -> tuple[str, int]:
        """The answer in what was generated, and how many of its tokens are the answer's."""
        length = next((i + 1 for i, id_ in enumerate(ids) if id_ in ends), len(ids))
        text = self._decode(ids[:length])
        answer = cut(text, until)
        if answer != text:  # a row that stopped is filled up until its batch is done
            length = bisect_left(range(length), True, key=lambda n: cut(t := self._decode(ids[:n]), until) != t)
        return answer, length

    def _decode(self, ids: list[int]) -> str:
        tokenizer = self.processor.tokenizer
        return tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def check_placement(dtype: str, device: str | None) -> torch.device:
    """The device, by default a GPU if there is one.

    Raises:
        UserError: there is no such dtype or device.
    """
    if dtype not in DTYPES:
        raise UserError(f"dtype={dtype!r} is unknown; choose one of {', '.join(DTYPES)}")
    try:
        placement = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError as error:
        raise UserError(f"device={device!r} is unknown; give e.g. cpu or cuda:0") from error
    if placement.type == "cuda" and (placement.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"device={device!r}, but this machine has {torch.cuda.device_count()} GPUs; give another, or cpu"
        )
    try:
        torch.empty(1, device=placement)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # each kind of device has its own
        raise UserError(f"device={device!r} cannot be used here ({one_line(error)}); give another, or cpu") from error
    return placement


def load_processor(
    pretrained: str, min_pixels: int | None = None, max_pixels: int | None = None, revision: str | None = None
) -> Any:
    """The processor of a model.

    Raises:
        UserError: there is none.
    """
    pixels = {k: v for k, v in {"min_pixels": min_pixels, "max_pixels": max_pixels}.items() if v is not None}
    try:
        return AutoProcessor.from_pretrained(micro.resolve(pretrained, "vlm"), revision=revision, **pixels)
    except Exception as error:
        raise UserError(
            f"cannot load the processor of pretrained={pretrained!r} ({one_line(error)}); it needs the processor's and "
            "the tokenizer's files beside the weights"
        ) from error


def read_config(pretrained: str, revision: str | None = None) -> Any:
    """The configuration of a model, without its weights.

    Raises:
        UserError: there is no such model.
    """
    location = micro.resolve(pretrained, "vlm")
    if not Path(location).is_dir() and not is_hub_id(location):
        raise UserError(f"pretrained={pretrained!r} is not a folder, nor a Hub id (owner/name); give one of them")
    try:
        return AutoConfig.from_pretrained(location, revision=revision)
    except (OSError, ValueError) as error:
        reason = str(error).split("\n")[0]
        raise UserError(
            f"cannot load the VLM pretrained={pretrained!r} ({reason}); give a Hub id or a folder"
        ) from error


def hidden_size(config: Any) -> int:
    """Width of the token embeddings of a VLM, from its configuration."""
    return config.get_text_config().hidden_size


def by_row(texts: Sequence[str], images: Sequence[Image.Image], image_token: str | None) -> list[Any]:
    """The images text by text, a list each, as some processors (Idefics3, Gemma 3) want them and none refuses.

    As one list where the texts have not a token for each, which is for the processor to judge.
    """
    counts = [text.count(image_token) if image_token else 0 for text in texts]
    rest = iter(images)
    return [list(islice(rest, n)) for n in counts] if sum(counts) == len(images) else list(images)


def insert_placeholders(inputs: BatchFeature, counts: Sequence[int], pad_id: int) -> tuple[BatchFeature, Tensor]:
    """Puts ``counts[i]`` placeholders between row i's padding and its prompt.

    A placeholder repeats the prompt's first token, so that a repetition penalty meets no token it would not have met.

    Returns:
        The inputs, left-padded anew to (B, L'), and where the placeholders are, (B, L') bool.
    """
    ids = inputs["input_ids"]
    lengths = inputs["attention_mask"].sum(1)
    added = torch.tensor(counts, device=ids.device)
    firsts = [int(row[-length]) for row, length in zip(ids, lengths.tolist(), strict=True)]
    inputs = extend(inputs, pad_id, before=[[first] * count for first, count in zip(firsts, counts, strict=True)])
    width = inputs["input_ids"].shape[1]
    columns = torch.arange(width, device=ids.device)
    start = (width - lengths - added)[:, None]
    return inputs, (columns >= start) & (columns < start + added[:, None])


def extend(
    inputs: BatchFeature,
    pad_id: int,
    before: Sequence[list[int]] | None = None,
    after: Sequence[list[int]] | None = None,
) -> BatchFeature:
    """Adds text tokens in front of and behind the prompt of each row; left-padded anew to (B, L').

    Raises:
        UserError: the processor gives something for every token that we do not know how to extend.
    """
    ids = inputs["input_ids"]
    nothing: list[list[int]] = [[]] * len(ids)
    lengths = inputs["attention_mask"].sum(1).tolist()
    added = list(zip(before or nothing, after or nothing, strict=True))
    width = max(length + len(b) + len(a) for length, (b, a) in zip(lengths, added, strict=True))
    extended: dict[str, Any] = {}
    for name in per_token(inputs):
        pad, value = (pad_id, None) if name == "input_ids" else (0, PER_TOKEN[name])
        rows = []
        for row, length, (b, a) in zip(inputs[name], lengths, added, strict=True):
            fill = [pad] * (width - length - len(b) - len(a))
            front, back = (b, a) if value is None else ([value] * len(b), [value] * len(a))
            rows.append(torch.cat([row.new_tensor([*fill, *front]), row[-length:], row.new_tensor(back)]))
        extended[name] = torch.stack(rows)
    return BatchFeature({**inputs, **extended})


def per_token(inputs: BatchFeature) -> list[str]:
    """The names of the inputs that have a value for every token: whole numbers, (B, L, ...) as ``input_ids``.

    Raises:
        UserError: one of them is not known.
    """
    shape = inputs["input_ids"].shape
    tensors = {name: t for name, t in inputs.items() if isinstance(t, Tensor) and not t.is_floating_point()}
    names = [name for name, t in tensors.items() if t.shape[:2] == shape]
    if unknown := sorted(set(names) - {"input_ids", *PER_TOKEN}):
        raise UserError(f"memory is not supported for a VLM whose processor gives {', '.join(unknown)} for every token")
    return names
