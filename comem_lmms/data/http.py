"""Downloads: a URL in, a whole file out; what was begun goes on where it was.

Polite by construction: one User-Agent that says who asks and how to reach them, a pause between two requests to a host,
ever longer waits when a host is busy, and as long a wait as it asks for. The log says what is waited for, and how long.
"""

import logging
import os
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from threading import Lock
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from tqdm import tqdm

from comem_lmms import __version__
from comem_lmms.errors import UserError, one_line
from comem_lmms.files import on_disk, sync

log = logging.getLogger(__name__)
BLOCK = 1 << 20  # bytes
PATIENCE = 600.0  # s, the longest wait that a host may ask for
BUSY = {429, 500, 502, 503, 504}
REFUSED = {
    401: "it wants a login",
    403: "it is refused; it may be gated, or gone",
    404: "there is no such file",
    410: "it is gone",
}
GONE = {404, 410}


class Refused(UserError):
    """The host answers, and will not give the file."""


class Missing(Refused):
    """There is no such file, or not the kind of file that it should be; others may be there."""


class Unreachable(UserError):
    """No attempt brought the file, in ways that pass: no network, a host that is busy or hangs up.

    Args:
        why: what happened, and how often.
    """

    def __init__(self, url: str, why: str) -> None:
        super().__init__(
            f"cannot download {url} ({why}); check the network and run it again, what was downloaded is kept"
        )
        self.why = why


@dataclass
class Client:
    """Fetches files from hosts that are not ours; threads may share one.

    Attributes:
        contact: mail address for the User-Agent, so that a host can complain.
        pause: s between the starts of two requests to one host.
        tries: attempts in a row that bring nothing before giving up.
        timeout: s without a byte before an attempt is given up.
        limit: bytes that a file may have.
    """

    contact: str | None = None
    pause: float = 0.5
    tries: int = 6
    timeout: float = 60.0
    sleep: Callable[[float], None] = time.sleep
    limit: int | None = None
    _next: dict[str, float] = field(default_factory=dict, repr=False)
    _busy: dict[str, float] = field(default_factory=dict, repr=False)
    _lock: Lock = field(default_factory=Lock, repr=False)

    def __post_init__(self) -> None:
        if self.contact and not re.fullmatch(r"[!-~]+@[!-~]+", self.contact):
            raise UserError(f"--contact {self.contact!r} is no mail address; give one at which you can be reached")

    @property
    def user_agent(self) -> str:
        """Who asks, always the same, never a browser."""
        return f"comem-lmms/{__version__}{f' ({self.contact})' if self.contact else ''}"

    def fetch(self, url: str, target: Path, progress: bool = True) -> None:
        """Downloads to ``target``, through ``target.partial``, which is gone on with if it is there.

        Raises:
            Refused: by the host.
            Unreachable: after as many attempts as there may be.
            UserError: the host asks for too long a wait, or the disk is full.
        """
        host = urlsplit(url).netloc
        self._wait_while_busy(host)
        with on_disk(target):
            target.parent.mkdir(parents=True, exist_ok=True)
        partial = Partial(target)
        failures = 0
        while True:
            before = partial.size
            try:
                self._attempt(url, partial, progress)
                break
            except _Again as again:
                failures = 1 if partial.size > before else failures + 1
                with self._lock:  # another thread may have been told to wait for longer
                    self._busy[host] = max(self._busy.get(host, 0.0), time.monotonic() + again.after)
                if failures >= self.tries:
                    raise Unreachable(url, f"{again}, {failures} times") from again
                wait = max(again.after, 2.0 ** (failures - 1))
                log.warning("%s: %s; attempt %d of %d in %.0f s", url, again, failures + 1, self.tries, wait)
                self.sleep(wait)
        with on_disk(target):
            partial.finish()

    def _attempt(self, url: str, partial: "Partial", progress: bool) -> None:
        self._wait_for_turn(urlsplit(url).netloc)
        headers = {"User-Agent": self.user_agent, **partial.headers()}
        try:
            with urlopen(Request(url, headers=headers), timeout=self.timeout) as response:
                _receive(response, partial, url, progress, self.limit)
        except HTTPError as error:
            if not partial.is_all(error):
                _explain(error, url, partial)
        except (OSError, HTTPException) as error:  # no network, a host that hangs up, a timeout
            reason = error.reason if isinstance(error, URLError) else error
            raise _Again(one_line(reason) or type(reason).__name__) from error  # type: ignore[arg-type]

    def _wait_for_turn(self, host: str) -> None:
        with self._lock:
            now = time.monotonic()
            turn = max(now, self._next.get(host, 0.0))
            self._next[host] = turn + self.pause
        if turn > now:
            self.sleep(turn - now)

    def _wait_while_busy(self, host: str) -> None:
        """What one thread was told to wait is meant for all."""
        if (wait := self._busy.get(host, 0.0) - time.monotonic()) > 0:
            self.sleep(wait)


class Partial:
    """A file that is being downloaded, and what the host called its content, so that another is not glued to it."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.path = target.with_name(f"{target.name}.partial")
        self._validator = target.with_name(f"{target.name}.partial.etag")

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def headers(self) -> dict[str, str]:
        """Asks for the rest if the content is still the same, else for all of it."""
        if not self.size or not self._validator.exists():
            return {}
        return {"Range": f"bytes={self.size}-", "If-Range": self._validator.read_text()}

    def begin(self, response: HTTPResponse) -> None:
        """Forgets what is there for a content from its first byte."""
        self.path.write_bytes(b"")
        etag = response.headers.get("ETag", "")
        if etag and not etag.startswith("W/"):  # a weak one does not promise the same bytes
            self._validator.write_text(etag)
        elif modified := response.headers.get("Last-Modified"):
            self._validator.write_text(modified)
        else:
            self._validator.unlink(missing_ok=True)

    def is_all(self, error: HTTPError) -> bool:
        """Whether a host has no byte more than these: the download was killed when it was all there."""
        return error.code == 416 and error.headers.get("Content-Range") == f"bytes */{self.size}"

    def drop(self) -> None:
        self.path.unlink(missing_ok=True)
        self._validator.unlink(missing_ok=True)

    def finish(self) -> None:
        sync(self.path)  # what has the name has the content, after a power failure, too
        os.replace(self.path, self.target)
        self._validator.unlink(missing_ok=True)


class _Again(Exception):
    """An attempt failed in a way that passes; ``after`` is how long the host wants to be left alone, in s."""

    def __init__(self, reason: str, after: float = 0.0) -> None:
        super().__init__(reason)
        self.after = after


def _receive(response: HTTPResponse, partial: Partial, url: str, progress: bool, limit: int | None) -> None:
    if response.status != 206:
        with on_disk(partial.path):
            partial.begin(response)
    start = partial.size
    if response.status == 206 and not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
        partial.drop()
        raise _Again("the host sent another part than it was asked for")
    length = response.headers.get("Content-Length")
    total = None if length is None else start + int(length)
    _keep_to(limit, total or 0, partial, url)
    if total is not None and (free := shutil.disk_usage(partial.path.parent).free) < total - start:
        raise UserError(f"{url} needs {total - start:,} bytes but {partial.path.parent} has {free:,} left; make room")
    bar = tqdm(
        total=total,
        initial=start,
        desc=partial.target.name,
        unit="B",
        unit_scale=True,
        disable=None if progress else True,
    )
    with on_disk(partial.path):
        file = partial.path.open("ab", buffering=0)  # or closing it would write, and fail, once more
    with file, bar:
        while block := response.read(BLOCK):
            with on_disk(partial.path):
                written = 0
                while written < len(block):
                    written += file.write(block[written:])
            bar.update(len(block))
            _keep_to(limit, partial.size, partial, url)
    if total is not None and partial.size != total:
        raise _Again(f"the connection ended at byte {partial.size:,} of {total:,}")


def _keep_to(limit: int | None, size: int, partial: Partial, url: str) -> None:
    if limit is not None and size > limit:
        partial.drop()
        raise Refused(f"{url} has more than {limit:,} bytes")


def _explain(error: HTTPError, url: str, partial: Partial) -> None:
    if error.code == 416:  # more than there is: not the file that this host has now
        partial.drop()
        raise _Again("the host has another file than the one begun") from error
    if error.code in BUSY:
        after = _retry_after(error.headers.get("Retry-After"))
        if after > PATIENCE:
            raise UserError(f"{urlsplit(url).netloc} asks to be left alone for {after:.0f} s; run it again then")
        raise _Again(f"status {error.code}", after) from error
    reason = REFUSED.get(error.code, one_line(error))
    kind = Missing if error.code in GONE else Refused
    raise kind(f"cannot download {url}: status {error.code}, {reason}") from error


def _retry_after(value: str | None) -> float:
    """Seconds, from a number of them or from a date."""
    if not value:
        return 0.0
    if value.strip().isdecimal():
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return 0.0
