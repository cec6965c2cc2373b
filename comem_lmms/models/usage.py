"""What an answer cost and what it went by: put into lmms-eval's sample logs, read back by the report."""

from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from typing import Any

from lmms_eval.api.instance import TokenCounts

from comem_lmms import __version__

_MORE = (
    *("memory_vectors", "images_dropped", "retrieval", "query", "retrieved", "scores", "gold", "seconds"),
    *("first_token", "peak_memory", "bank_bytes", "fingerprints", "versions"),
)


@cache
def library_versions() -> dict[str, str]:
    """By name; lmms-eval's result files tell of none of them."""
    return {"comem-lmms": __version__, **{name: version(name) for name in ("torch", "transformers", "peft")}}


@dataclass
class Usage(TokenCounts):
    """Token counts with more to tell; lmms-eval writes `to_dict` into ``token_counts`` of each logged sample.

    Attributes:
        memory_vectors: continuous vectors in front of the prompt.
        images_dropped: images of the question and its items that a text-only model did not see.
        retrieval: how items were found: "none", "clip", "oracle" or "wrong".
        query: what of a question was searched with: "image", "text" or "both"; None without retrieval.
        retrieved: ids of the items the question was given, best first.
        scores: of those items, as the retriever has them; higher is better.
        gold: id of the right item, where the document tells.
        seconds: this question's share of the time its batch took, by part (retrieve, encode, answer).
        first_token: seconds until the first token of its batch was there, from when the batch was begun.
        peak_memory: bytes of the GPU that tensors took at most, the models' included, in the call that answered it.
        bank_bytes: of the memory bank on disk.
        fingerprints: of what the answer depends on (knowledge base, retrieval, VLM, memory encoder), shortened.
        versions: of ours and of the libraries that compute answers.
    """

    memory_vectors: int = 0
    images_dropped: int = 0
    retrieval: str = "none"
    query: str | None = None
    retrieved: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    gold: str | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    first_token: float | None = None
    peak_memory: int | None = None
    bank_bytes: int | None = None
    fingerprints: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=lambda: dict(library_versions()))

    def to_dict(self) -> dict[str, Any]:
        """The counts that are known, and all the rest."""
        return {**super().to_dict(), **{name: getattr(self, name) for name in _MORE}}
