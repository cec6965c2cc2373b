"""Images by URL: URLs in, files in a spool folder out, each asked for once.

What a killed build had fetched lies in the spool until its chunk counts, so it is not asked for again. Each host is
asked by a few threads at most: Wikimedia's robot policy allows two (https://wikitech.wikimedia.org/wiki/Robot_policy).
"""

import hashlib
import shutil
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Event, Thread
from urllib.parse import urlsplit

from comem_lmms.data.http import Client, Missing, Refused, Unreachable
from comem_lmms.errors import UserError, one_line
from comem_lmms.files import whole
from comem_lmms.knowledge import addresses
from comem_lmms.knowledge.pictures import Problem, inspect

UNREACHABLE = "image_unreachable"
LANES = 16  # hosts that are asked at the same time, at most
PATIENCE = 10  # URLs of a host that cannot be reached, one after the other, before the build stops


class Fetcher:
    """Fetches images into a folder.

    Args:
        client: how hosts are asked.
        folder: the spool.
        connections: to one host at a time.
    """

    def __init__(self, client: Client, folder: Path, connections: int) -> None:
        self._client, self._folder, self._connections = client, folder, connections
        self._unreachable: dict[str, Problem] = {}
        self._failures: dict[str, int] = {}  # in a row, by host
        self._answered: set[str] = set()

    def fetch(self, urls: Sequence[str], tell: Callable[[], object]) -> None:
        """Fetches what is not in the spool, and calls ``tell`` after each.

        Raises:
            UserError: the network or a host is gone, a host wants to be left alone, or wants a contact.
        """
        if self._client.contact is None and (asked := next(filter(addresses.is_wikimedia, urls), None)):
            raise UserError(f"{urlsplit(asked).netloc} wants to know whom it serves; give --contact MAIL")
        lanes: dict[int, SimpleQueue[str]] = {}
        for url in urls:
            # All URLs of a host are in one lane, so its threads are the host's at most.
            lanes.setdefault(zlib.crc32(urlsplit(url).netloc.encode()) % LANES, SimpleQueue()).put(url)
        done: SimpleQueue[tuple[str, Problem | Exception | None]] = SimpleQueue()
        stop = Event()
        threads = [
            # Daemons, so that Ctrl-C need not wait for a host.
            Thread(target=self._work, args=(lane, done, stop), daemon=True)
            for lane in lanes.values()
            for _ in range(min(self._connections, lane.qsize()))
        ]
        for thread in threads:
            thread.start()
        try:
            for _ in urls:
                self._note(*done.get())
                tell()
        except UserError:
            stop.set()
            for thread in threads:
                thread.join(timeout=5.0)
            raise

    def result(self, url: str) -> Path | Problem:
        """What became of a URL that was fetched."""
        if url in self._unreachable:
            return self._unreachable[url]
        file = self._file(url)
        if not (failed := self._failed(file)).is_file():
            return file
        kind, _, detail = failed.read_text(encoding="utf-8").partition("\n")
        return Problem(kind, detail)

    def forget(self, urls: Iterable[str]) -> None:
        """Removes what was fetched from the spool."""
        for url in urls:
            file = self._file(url)
            for path in (file, self._failed(file)):
                path.unlink(missing_ok=True)
            self._unreachable.pop(url, None)

    def close(self) -> None:
        """Removes the spool."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _work(
        self, urls: "SimpleQueue[str]", done: "SimpleQueue[tuple[str, Problem | Exception | None]]", stop: Event
    ) -> None:
        while not stop.is_set():
            try:
                url = urls.get_nowait()
            except Empty:
                return
            try:
                done.put((url, self._get(url)))
            except Exception as error:  # for the thread that waits
                done.put((url, error))

    def _get(self, url: str) -> Problem | None:
        """Fetches one image; a failure that passes is returned, any other is kept in the spool."""
        file = self._file(url)
        if self._failed(file).is_file():
            return None
        try:
            if not file.is_file():
                self._client.fetch(url, file, progress=False)
            found = inspect(file.read_bytes())
            problem = found if isinstance(found, Problem) else None
        except Unreachable as error:
            return Problem(UNREACHABLE, error.why)
        except Refused as error:
            problem = Problem("image_gone" if isinstance(error, Missing) else "image_refused", one_line(error))
        except UserError:
            raise
        except ValueError as error:  # what a host sent is not HTTP
            problem = Problem("image_refused", one_line(error))
        if problem:
            self._keep(problem, file)
        return None

    def _keep(self, problem: Problem, file: Path) -> None:
        failed = self._failed(file)
        with whole(failed) as partial:
            partial.write_text(f"{problem.kind}\n{problem.detail}", encoding="utf-8")
        file.unlink(missing_ok=True)

    def _note(self, url: str, outcome: Problem | Exception | None) -> None:
        """Counts failures of a host in a row, and stops where it is the host or the network that fails."""
        if isinstance(outcome, Exception):
            raise outcome
        host = urlsplit(url).netloc
        if outcome is None:
            self._failures[host] = 0
            self._answered.add(host)
            return
        self._unreachable[url] = outcome
        self._failures[host] = self._failures.get(host, 0) + 1
        # A host that never answered, while others do, is just not there.
        if self._failures[host] >= PATIENCE and (host in self._answered or not self._answered):
            raise UserError(
                f"{host} cannot be reached, {PATIENCE} images in a row failed (the last: {outcome.detail}); check the "
                "network and run the same command again, all that was fetched is kept"
            )

    def _file(self, url: str) -> Path:
        return self._folder / hashlib.sha256(url.encode()).hexdigest()[:32]

    def _failed(self, file: Path) -> Path:
        return file.with_name(f"{file.name}.failed")
