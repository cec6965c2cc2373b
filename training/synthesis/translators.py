"""Chat models that translate: chats in, replies out as they come. One behind an endpoint, one on this machine."""

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from comem_lmms.errors import UserError, one_line

if TYPE_CHECKING:
    import openai

Chat = list[dict[str, Any]]
_RETRIES = 8  # of the client, each after twice the time, or after what the host asks for
_TIMEOUT = 300.0  # s, of one reply
_ENOUGH = 20  # refusals before anything was answered, after which nothing is expected to be


class Failure(NamedTuple):
    """Why there is no reply, and whether there will be none if it is asked for again."""

    why: str
    lasting: bool = False


class Translator(Protocol):
    """A chat model.

    Attributes:
        about: what it is, for the manifest; two of the same translate alike.
        tries: how often a chat is worth asking.
    """

    about: Mapping[str, Any]
    tries: int

    def answer(self, chats: Sequence[Chat]) -> Iterator[tuple[int, str | Failure]]:
        """The number of each chat with its reply, in any order."""


class Endpoint:
    """A server that speaks OpenAI's protocol; the key, if it wants one, is in ``OPENAI_API_KEY``.

    Args:
        url: of the API, e.g. ``http://localhost:8000/v1``.
        model: as the server calls it.
        workers: requests at a time.
        temperature: by default the server's.
    """

    tries = 3

    def __init__(self, url: str, model: str, workers: int = 4, temperature: float | None = None) -> None:
        from openai import OpenAI

        self.about = {"api_base": url, "model": model, "temperature": temperature}
        self._workers, self._answered, self._refused = workers, 0, 0
        # A server that wants no key is sent one all the same: the client insists.
        key = os.environ.get("OPENAI_API_KEY") or "none"
        self._client = OpenAI(base_url=url, api_key=key, max_retries=_RETRIES, timeout=_TIMEOUT)
        self._arguments = {} if temperature is None else {"temperature": temperature}

    def answer(self, chats: Sequence[Chat]) -> Iterator[tuple[int, str | Failure]]:
        """As they come.

        Raises:
            UserError: the server cannot be reached, does not know the key or the model, or refuses everything.
        """
        pool = ThreadPoolExecutor(self._workers)
        try:
            numbers = {pool.submit(self._ask, chat): number for number, chat in enumerate(chats)}
            for future in as_completed(numbers):
                yield numbers[future], future.result()
        finally:  # what is not begun is not asked when one fails, or the user has enough
            pool.shutdown(cancel_futures=True)

    def _ask(self, chat: Chat) -> str | Failure:
        import openai

        messages: Any = [{"role": turn["role"], "content": turn["content"][0]["text"]} for turn in chat]
        try:
            reply = self._client.chat.completions.create(
                model=self.about["model"], messages=messages, **self._arguments
            )
        except openai.BadRequestError as error:  # too long, or a matter of taste
            return self._refusal(error)
        except openai.APIError as error:
            raise UserError(
                f"{self.about['api_base']} does not answer model {self.about['model']!r} ({one_line(error)}); put that "
                "right and run it again, what was translated is kept"
            ) from error
        self._answered += 1
        choices = reply.choices or []
        if not choices or not choices[0].message.content:
            return Failure("empty")
        return Failure("cut off") if choices[0].finish_reason == "length" else choices[0].message.content

    def _refusal(self, error: "openai.BadRequestError") -> Failure:
        self._refused += 1
        if not self._answered and self._refused >= _ENOUGH:
            raise UserError(
                f"{self.about['api_base']} refused the first {self._refused} requests ({one_line(error)}); put that "
                "right and run it again"
            )
        return Failure("refused", lasting=True)


class Local:
    """A chat model of transformers on this machine, a VLM or a text-only one; greedy, so asked once.

    Args:
        pretrained: Hub id or folder.
        batch_size: chats at a time.
        max_new_tokens: of a reply.
        device: by default a GPU if there is one.
    """

    tries = 1

    def __init__(
        self, pretrained: str, batch_size: int = 8, max_new_tokens: int = 2048, device: str | None = None
    ) -> None:
        from comem_lmms.fingerprints import checkpoint_fingerprint
        from comem_lmms.llm import FrozenLLM, is_text_only
        from comem_lmms.vlm import FrozenVLM, read_config

        kind = FrozenLLM if is_text_only(read_config(pretrained)) else FrozenVLM
        self.about = {
            "model": pretrained,
            "fingerprint": checkpoint_fingerprint(pretrained),
            "max_new_tokens": max_new_tokens,
        }
        self._model = kind.load(pretrained, device=device)
        self._batch_size, self._longest = batch_size, max_new_tokens

    def answer(self, chats: Sequence[Chat]) -> Iterator[tuple[int, str | Failure]]:
        """Batch by batch, those of similar length together."""
        order = sorted(range(len(chats)), key=lambda number: -len(chats[number][0]["content"][0]["text"]))
        for start in range(0, len(order), self._batch_size):
            numbers = order[start : start + self._batch_size]
            replies = self._model.generate([chats[n] for n in numbers], max_new_tokens=self._longest, do_sample=False)
            for number, reply in zip(numbers, replies, strict=True):
                yield number, Failure("cut off") if reply.output_tokens >= self._longest else reply.text
