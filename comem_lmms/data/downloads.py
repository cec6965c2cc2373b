"""The folder of downloads: a `File` in, a path to its checked content out.

What was downloaded once is not asked for again, but its SHA-256 is computed whenever it is used. Where none is
published, the one of the first download counts. They are in ``SHA256SUMS``, in the format of the program sha256sum, to
which a line is added for each file: there may be thousands of them, and a process may be killed at any of them.
"""

import logging
import re
from collections.abc import Callable
from pathlib import Path

from comem_lmms.data import hub
from comem_lmms.data.http import Client, Missing
from comem_lmms.data.sources import File
from comem_lmms.errors import UserError
from comem_lmms.files import on_disk, sha256

log = logging.getLogger(__name__)
SUMS = "SHA256SUMS"


class Downloads:
    """Files below a folder, and the checksums they must have."""

    def __init__(self, folder: Path, client: Client, force: bool = False) -> None:
        """With ``force``, files may have changed, and are downloaded again but for those a user may have put there."""
        self.folder, self.client = folder, client
        self._force, self._seen = force, set[str]()
        self._sums, self._tidy = _read_sums(folder / SUMS)

    def get(self, file: File, progress: bool = True, usable: Callable[[Path], bool] = lambda path: True) -> Path:
        """The path of a file, downloaded if it is not there.

        Raises:
            Missing: the host does not have it, or what it sent is not ``usable``.
            UserError: it cannot be downloaded, or is not what it was or is published to be.
        """
        target = self.folder / file.name
        again = self._force and file.name not in self._seen
        self._seen.add(file.name)
        expected = file.sha256 or (None if again else self._sums.get(file.name))
        new = not target.exists() or (again and not file.optional and not _is_published(file, target))
        if not new and expected is None and not usable(target):
            new = True  # downloaded by a process that was killed before it looked at it
        if new:
            self._download(file, target, progress)
            if not usable(target):
                target.unlink()
                raise Missing(f"what {file.url or file.path} gives cannot be used; try again later")
        self._check(file, target, expected, new)
        return target

    def get_optional(self, file: File) -> Path | None:
        """As `get`, or None, with a word in the log, where it cannot be downloaded."""
        try:
            return self.get(file)
        except UserError as error:
            if (self.folder / file.name).exists():
                raise
            log.warning("%s; going on without. If you have the file, put it at %s", error, self.folder / file.name)
            return None

    def sha256(self, file: File) -> str:
        """The checksum of a file that `get` returned."""
        return self._sums[file.name]

    def _download(self, file: File, target: Path, progress: bool) -> None:
        if file.repository:
            hub.download(file, target)
        else:
            self.client.fetch(file.url, target, progress)

    def _check(self, file: File, target: Path, expected: str | None, new: bool) -> None:
        found, size = sha256(target), target.stat().st_size
        if found == (expected or found) and size == (file.size or size):
            if self._sums.get(file.name) != found:
                self._record(file.name, found)
            return
        if new:
            target.unlink()
            raise UserError(
                f"{file.url or file.path} is not the file it was ({size:,} bytes, SHA-256 {found[:12]}; expected "
                f"{f'{file.size:,} bytes, ' if file.size else ''}{(expected or '')[:12]}); try again later"
                + ("" if file.sha256 else ", or accept the change with --force")
            )
        raise UserError(
            f"{target} was changed (SHA-256 {found[:12]}, {(expected or '')[:12]} when downloaded); delete it and run "
            "it again, or use --force"
        )

    def _record(self, name: str, digest: str) -> None:
        with on_disk(self.folder / SUMS):
            if self._tidy and name not in self._sums:
                with (self.folder / SUMS).open("a", encoding="utf-8") as sums:
                    sums.write(f"{digest}  {name}\n")
            else:
                self._rewrite({name: digest})
        self._sums[name] = digest

    def _rewrite(self, changed: dict[str, str]) -> None:
        sums, _ = _read_sums(self.folder / SUMS)  # another process may have downloaded, too
        lines = "".join(f"{digest}  {name}\n" for name, digest in sorted({**sums, **changed}.items()))
        partial = self.folder / f"{SUMS}.partial"
        partial.write_text(lines, encoding="utf-8")
        partial.replace(self.folder / SUMS)
        self._tidy = True


def _is_published(file: File, target: Path) -> bool:
    return file.sha256 is not None and target.exists() and sha256(target) == file.sha256


def _read_sums(path: Path) -> tuple[dict[str, str], bool]:
    """Checksums by name, and whether a line can be added: a kill or a full disk may have cut off the last one."""
    content = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    found = re.findall(r"^([0-9a-f]{64})  (.+)\n", content, re.MULTILINE)
    return {name: digest for digest, name in found}, len(found) == content.count("\n") and content[-1:] in ("", "\n")
