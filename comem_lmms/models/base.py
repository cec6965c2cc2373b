"""What the three wrappers share: lmms-eval requests in, answers with their usage out.

A wrapper says what it makes of a question and its hits: the chat that is asked, and the memory in front of it. The
rest is one path: retrieve for all questions, encode what must be encoded, answer in batches.
"""

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from itertools import groupby
from pathlib import Path
from typing import Any, ClassVar

import torch
from accelerate import PartialState
from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts, unwrap_generation_output
from lmms_eval.api.model import lmms
from lmms_eval.models import get_model, list_available_models
from lmms_eval.models.model_utils.gen_metrics import log_metrics
from lmms_eval.utils import simple_parse_args_string
from loguru import logger
from torch import Tensor
from tqdm import tqdm

from comem_lmms import __version__, command_line
from comem_lmms.errors import UserError, one_line
from comem_lmms.fingerprints import checkpoint_fingerprint, folder_fingerprint
from comem_lmms.images import images_of
from comem_lmms.llm import FrozenLLM, is_text_only
from comem_lmms.models import caching
from comem_lmms.models.arguments import Arguments, parse
from comem_lmms.models.delegate import Chat, delegate
from comem_lmms.models.usage import Usage
from comem_lmms.queries import query_of
from comem_lmms.records import By, Hit, Query
from comem_lmms.vlm import FrozenVLM, check_placement, read_config


class KnowledgeModel(lmms):
    """Base of the wrappers; ``model_args`` are the fields of ``arguments_type``, and ``base`` where it is allowed.

    With ``base=NAME`` the answers come from any other model of lmms-eval, chat or simple, which gets all remaining
    arguments and the same requests with the knowledge in them.

    Raises:
        UserError: an argument or what it points to is wrong; said in one line, and before a model is loaded if that
            can be known by then.
    """

    is_simple = False
    name: ClassVar[str]
    arguments_type: ClassVar[type[Arguments]] = Arguments
    takes_base: ClassVar[bool] = True

    def __init__(self, **model_args: Any) -> None:
        super().__init__()
        with reported():
            self.base = self._split_base(model_args)
            self.arguments = parse(self.arguments_type, model_args, *(["base"] if self.takes_base else []))
            self._check_reader()
            self.fingerprints: dict[str, str] = {}
            # Without a base this is the VLM's device too; under accelerate every process has its own.
            self.placement = self.arguments.device or (
                str(PartialState().device) if torch.cuda.is_available() else "cpu"
            )
            self.prepare_knowledge()
            self._load_reader()
        caching.install()

    # What a wrapper decides.

    def prepare_knowledge(self) -> None:
        """Opens and checks what the wrapper needs besides the VLM, before the VLM is loaded."""

    def load_vlm(self) -> FrozenVLM:
        """What answers."""
        a = self.arguments
        pixels = {"min_pixels": a.min_pixels, "max_pixels": a.max_pixels}
        kind = FrozenLLM if is_text_only(read_config(a.pretrained, a.revision)) else FrozenVLM
        return kind.load(a.pretrained, a.dtype, self.placement, a.attn_implementation, revision=a.revision, **pixels)

    @property
    def retrieval(self) -> str:
        """How items are found."""
        return "none"

    @property
    def by(self) -> By | None:
        """What of a question is searched with; None without retrieval."""
        return None

    def retrieve(self, queries: Iterator[Query]) -> Iterator[list[Hit]]:
        """The hits of each question; none by default."""
        return ([] for _ in queries)

    def encode(self, hits: Sequence[Sequence[Hit]]) -> None:
        """Makes the memories of all hits ready."""

    def chat(self, messages: Chat, hits: Sequence[Hit]) -> Chat:
        """What is asked, given what lmms-eval would ask."""
        return messages

    def prefix(self, hits: Sequence[Hit]) -> Tensor | None:
        """The memory in front, (n, D); None for wrappers without memory."""
        return None

    @property
    def bank_bytes(self) -> int | None:
        """What memories take on disk; None where there is no bank."""
        return None

    # What lmms-eval calls.

    def generate_until(self, requests: list[Instance]) -> list[GenerationResult]:
        """Answers requests, in their order.

        Raises:
            UserError: a document cannot be used; found before the first question is answered.
        """
        if not requests:  # a process may get none
            return []
        is_on_gpu = not self.base and self.device.type == "cuda"  # a base may compute in another process
        if is_on_gpu:
            torch.cuda.reset_peak_memory_stats(self.device)
        with reported():
            start = time.perf_counter()
            golds: list[str | None] = []
            hits = list(self.retrieve(self._queries(requests, golds)))
            retrieved = time.perf_counter()
            self.encode(hits)
            encoded = time.perf_counter()
            shared = {"retrieve": (retrieved - start) / len(requests), "encode": (encoded - retrieved) / len(requests)}
            results = self._delegate(requests, hits) if self.base else self._answer(requests, hits)
        peak = torch.cuda.max_memory_allocated(self.device) if is_on_gpu else None
        bank = self.bank_bytes
        for result, found, gold in zip(results, hits, golds, strict=True):
            usage = result.token_counts
            usage.retrieval, usage.query = self.retrieval, self.by
            usage.retrieved, usage.gold = [hit.id for hit in found], gold
            usage.scores = [round(hit.score, 4) for hit in found]
            usage.seconds |= shared
            usage.peak_memory, usage.bank_bytes = peak, bank
            usage.fingerprints = {part: value[:16] for part, value in self.fingerprints.items()}
        if not self.base:  # which logs for itself
            self._log(results)
        return results

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Not offered: no task of the field scores by likelihood."""
        raise NotImplementedError(f"--model {self.name} answers generate_until tasks only, not loglikelihood ones")

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        """Not offered."""
        raise NotImplementedError(f"--model {self.name} answers single-round tasks only")

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: dict[str, Any] | None = None) -> Any:
        """As lmms-eval's, but an argument may come both ways, and then ``model_args`` counts; it may be a dict too."""
        given = simple_parse_args_string(arg_string) if isinstance(arg_string, str) else arg_string
        rest = {k: v for k, v in (additional_config or {}).items() if v is not None and k != "max_batch_size"}
        return cls(**{**rest, **(given or {})})

    @property
    def device(self) -> torch.device:
        """Where tensors that lmms-eval gathers between processes belong."""
        return getattr(self._base, "device", torch.device("cpu")) if self.base else torch.device(self.placement)

    @property
    def portion(self) -> int:
        """Requests that lmms-eval's response cache hands over at a time; what an interruption can cost."""
        return 512 if self.base else max(64, 4 * self.arguments.batch_size)

    def clean(self) -> None:
        """Frees the models; lmms-eval calls it before scoring, where a judge may need the room."""
        if self.base:
            self._base.clean()
        for name in ("vlm", "parts", "memories", "retriever"):
            self.__dict__.pop(name, None)
        super().clean()

    @property
    def cache_fingerprint(self) -> str:
        """What the answers depend on besides model_args and the task; part of the key of ``--use_cache``."""
        content = json.dumps([self.name, __version__, sorted(self.fingerprints.items())])
        return hashlib.sha256(content.encode()).hexdigest()

    # How.

    def _split_base(self, model_args: dict[str, Any]) -> str | None:
        """Takes ``base`` and its arguments out of ``model_args``."""
        base = model_args.pop("base", None) if self.takes_base else None
        if base is not None:
            # What a wrapper without knowledge takes is the base model's; ours are the arguments of retrieval.
            own = set(self.arguments_type.__dataclass_fields__) - set(Arguments.__dataclass_fields__)
            self._base_arguments = {k: model_args.pop(k) for k in list(model_args) if k not in own}
            for name in self._base_arguments:
                if close := get_close_matches(name, own, n=1, cutoff=0.85):
                    raise UserError(f"{name}= would go to base={base!r}, but looks like {close[0]}=; write that")
        return base

    def _check_reader(self) -> None:
        """Finds what is wrong with the VLM's arguments before anything is loaded."""
        if self.base and self.base not in list_available_models(include_aliases=True):
            raise UserError(f"base={self.base!r} is not a model of lmms-eval; `lmms-eval models` lists them")
        if not self.base:
            check_placement(self.arguments.dtype, self.arguments.device)
            read_config(self.arguments.pretrained, self.arguments.revision)

    def _load_reader(self) -> None:
        if self.base:
            self._base = _load_base(self.base, self._base_arguments)
            name = str(self._base_arguments.get("pretrained", ""))
            is_folder = Path(name).is_dir()
            self.fingerprints["vlm"] = folder_fingerprint(Path(name)) if is_folder else f"{self.base} {name}"
            return
        self.vlm = self.load_vlm()
        a = self.arguments
        self.fingerprints["vlm"] = checkpoint_fingerprint(a.pretrained, a.revision)

    def _queries(self, requests: list[Instance], golds: list[str | None]) -> Iterator[Query]:
        """Every question once; notes the ids of their right items on the way."""
        for request in tqdm(requests, desc="Checking questions", unit="question", disable=self.rank != 0):
            query = self._query(request)
            golds.append(query.gold)
            yield query

    def _query(self, request: Instance) -> Query:
        _, doc_to_messages, _, doc_id, task, split = request.args
        return query_of(self.task_dict[task][split], doc_id, doc_to_messages, task)

    def _answer(self, requests: list[Instance], hits: list[list[Hit]]) -> list[GenerationResult]:
        results: list[GenerationResult | None] = [None] * len(requests)
        bar = tqdm(total=len(requests), desc="Answering", unit="question", disable=self.rank != 0)
        for rows in _batches(requests, self.arguments.batch_size):
            start = time.perf_counter()
            chats = [self.chat(self._query(requests[i]).messages, hits[i]) for i in rows]
            prefixes = [self.prefix(hits[i]) for i in rows]
            prepared = time.perf_counter() - start
            try:
                answers = self.vlm.generate(chats, [p for p in prefixes if p is not None], **requests[rows[0]].args[2])
            except ValueError as error:  # a processor's, or that of transformers for a generation argument
                name = self._query(requests[rows[0]]).name + (" (or another of its batch)" if len(rows) > 1 else "")
                raise UserError(
                    f"{name} cannot be answered ({one_line(error)}); mend it or the task's generation_kwargs"
                ) from error
            seconds = (time.perf_counter() - start) / len(rows)
            for i, chat, prefix, answer in zip(rows, chats, prefixes, answers, strict=True):
                usage = Usage(answer.prompt_tokens, answer.output_tokens)
                usage.memory_vectors = 0 if prefix is None else len(prefix)
                usage.images_dropped = 0 if self.vlm.sees_images else len(images_of(chat))
                usage.seconds["answer"] = seconds
                usage.first_token = None if answer.first_token is None else prepared + answer.first_token
                results[i] = GenerationResult(answer.text, usage)
            bar.update(len(rows))
        bar.close()
        return results  # type: ignore[return-value]

    def _delegate(self, requests: list[Instance], hits: list[list[Hit]]) -> list[GenerationResult]:
        """Lets the base model answer the same requests with what knowledge adds to them."""
        self._base._rank, self._base._world_size = self.rank, self.world_size
        start = time.perf_counter()
        results = delegate(self._base, self.task_dict, requests, hits, self.chat)
        seconds = (time.perf_counter() - start) / len(requests)
        answers = [_with_usage(result, seconds) for result in results]
        if not any(answer.text for answer in answers):
            # Many of lmms-eval's models log what goes wrong and return an empty answer.
            logger.warning(f"base={self.base!r} answered nothing to all {len(answers)} questions; see its errors above")
        return answers

    def _log(self, results: list[GenerationResult]) -> None:
        """Adds to lmms-eval's own throughput summary."""
        usages = [result.token_counts for result in results]
        seconds = {part: sum(u.seconds.get(part, 0.0) for u in usages) for part in ("retrieve", "encode", "answer")}
        tokens = sum(u.output_tokens or 0 for u in usages)
        waits = [u.first_token for u in usages if u.first_token is not None]
        measured = {
            "first_token_seconds": sum(waits) / len(waits) if waits else None,
            "peak_memory_bytes": usages[0].peak_memory,
            "bank_bytes": usages[0].bank_bytes,
        }
        log_metrics(
            total_elapsed_time=seconds["answer"],
            total_gen_tokens=tokens,
            avg_speed=tokens / max(seconds["answer"], 1e-9),
            additional_metrics={
                "total_requests": len(usages),
                "memory_vectors": sum(u.memory_vectors for u in usages) / len(usages),
                "retrieve_seconds": seconds["retrieve"] / len(usages),
                "encode_seconds": seconds["encode"] / len(usages),
                **{name: value for name, value in measured.items() if value is not None},
            },
        )


@contextmanager
def reported() -> Iterator[None]:
    """Says a UserError in one line, which ends lmms-eval's command line if it has no other evaluation to do."""
    try:
        yield
    except UserError as error:
        if command_line.runs() == 1:
            command_line.stop(error)
        logger.error(str(error))  # lmms-eval prints a traceback after it, and goes on
        raise


def _load_base(name: str, arguments: dict[str, Any]) -> lmms:
    try:
        return get_model(name)(**arguments)
    except (ImportError, NameError) as error:  # some pass over an import that fails, and miss its names later
        raise UserError(f"base={name!r} cannot be used ({one_line(error)}); install what it needs") from error
    except (TypeError, AssertionError) as error:  # what lmms-eval's models do with arguments they do not know
        raise UserError(f"base={name!r} does not take these arguments ({error}); give that model's own") from error
    except Exception as error:  # each wrapper, and the code it takes from the Hub, raises its own
        raise UserError(f"base={name!r} cannot be loaded ({type(error).__name__}: {one_line(error)})") from error


def _batches(requests: list[Instance], size: int) -> Iterator[list[int]]:
    """Row numbers of requests that can be generated together: same arguments, similar lengths."""
    generation = [json.dumps(request.args[2], sort_keys=True, default=str) for request in requests]
    order = sorted(range(len(requests)), key=lambda i: (generation[i], -len(requests[i].args[0]), i))
    for _, group in groupby(order, key=generation.__getitem__):
        rows = list(group)
        yield from (rows[i : i + size] for i in range(0, len(rows), size))


def _with_usage(result: GenerationResult | str, seconds: float) -> GenerationResult:
    text, counts = unwrap_generation_output(result)
    counts = counts or TokenCounts()
    usage = Usage(counts.input_tokens, counts.output_tokens, counts.reasoning_tokens, seconds={"answer": seconds})
    return GenerationResult(text, usage)
