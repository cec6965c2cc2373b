"""Data sets of the Hub: files of their repositories, and whole ones as lmms-eval will load them."""

import errno
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from comem_lmms.data.sources import File, Source
from comem_lmms.errors import UserError, one_line
from comem_lmms.files import read_json, sync

if TYPE_CHECKING:
    from datasets import DatasetDict

# What a disk says; the errors of hosts that are OSErrors have other numbers, or none.
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO}


class Cached(NamedTuple):
    """A data set in the cache of `datasets`: its documents by split and its tables, which may be gone."""

    documents: Mapping[str, int]
    tables: list[Path]


def download(file: File, target: Path) -> None:
    """One file of a repository; huggingface_hub resumes, checks and knows the user's token.

    Raises:
        UserError: it cannot be had.
    """
    from huggingface_hub import hf_hub_download

    folder = target.with_name(f"{target.name}.hub")  # the file lies there under its path in the repository
    try:
        got = hf_hub_download(file.repository, file.path, repo_type="dataset", revision=file.revision, local_dir=folder)
    except Exception as error:  # huggingface_hub and httpx raise a dozen kinds
        raise _refused(file.repository, error) from error
    sync(Path(got))
    os.replace(got, target)
    shutil.rmtree(folder)


def commit(source: Source) -> str:
    """The commit that a data set has now, or is pinned to; empty for a folder, which has none.

    Raises:
        UserError: the Hub cannot be asked.
    """
    if Path(source.hub or "").is_dir():
        return ""
    from huggingface_hub import HfApi

    try:
        return str(HfApi().dataset_info(str(source.hub), revision=source.revision).sha)
    except Exception as error:  # as above
        raise _refused(str(source.hub), error) from error


def files(repository: str, revision: str | None, ending: str) -> tuple[str, list[str]]:
    """The commit that a data set has now, or is pinned to, and its files with an ending, sorted.

    Raises:
        UserError: the Hub cannot be asked.
    """
    from huggingface_hub import HfApi

    try:
        found = HfApi().dataset_info(repository, revision=revision)
    except Exception as error:  # huggingface_hub and httpx raise a dozen kinds
        raise _refused(repository, error) from error
    names = [file.rfilename for file in found.siblings or []]
    return str(found.sha), sorted(name for name in names if name.endswith(ending))


def load(source: Source, revision: str | None) -> "DatasetDict":
    """A data set as lmms-eval loads it, in the cache where lmms-eval looks for it.

    Raises:
        UserError: it cannot be downloaded or read.
    """
    from datasets import load_dataset

    try:
        return load_dataset(str(source.hub), **_options(revision))
    except Exception as error:  # as above
        raise _refused(str(source.hub), error) from error


def cached(source: Source, revision: str | None) -> Cached | None:
    """What there is of a data set in the cache, whoever put it there: that commit, or without one the newest."""
    from datasets.naming import camelcase_to_snakecase, filenames_for_dataset_split

    name = str(source.hub)
    *owner, short = [Path(name).name] if Path(name).is_dir() else name.split("/")
    short = camelcase_to_snakecase(short)
    found = [
        file
        for file in _cache().glob(f"{'___'.join([*owner, short])}/*/*/{revision or '*'}/dataset_info.json")
        if file.parent.suffix != ".incomplete"
    ]
    if not found:
        return None
    file = max(found, key=lambda file: file.stat().st_mtime)
    splits = read_json(file).get("splits") or {}
    tables = [
        Path(table)
        for split, about in splits.items()
        for table in filenames_for_dataset_split(
            str(file.parent), short, split, filetype_suffix="arrow", shard_lengths=about.get("shard_lengths")
        )
    ]
    return Cached({split: about["num_examples"] for split, about in splits.items()}, tables)


def fetched(source: Source) -> int:
    """Bytes of a repository in the cache of huggingface_hub, from which the tables are made."""
    from huggingface_hub import constants

    folder = "--".join(["datasets", *str(source.hub).split("/")])
    return sum(file.stat().st_size for file in Path(constants.HF_HUB_CACHE, folder, "blobs").glob("*"))


def find(source: Source) -> None:
    """Looks for a data set on the Hub and in the cache, without loading it.

    Raises:
        UserError: it is in neither.
    """
    from datasets import load_dataset_builder

    try:
        load_dataset_builder(str(source.hub), **_options(source.revision))
    except Exception as error:  # as above
        raise UserError(
            f"{source.name} is neither here nor to be had from the Hub ({one_line(error)}); where there is a network, "
            f"run: {source.command}"
        ) from error


def _options(revision: str | None) -> dict[str, Any]:
    options: dict[str, Any] = {"revision": revision} if revision else {}
    return {"cache_dir": str(_cache()), **options}


def _cache() -> Path:
    """Where lmms-eval has `datasets` keep its tables."""
    from datasets import config

    given = os.environ.get("LMMS_EVAL_DATASETS_CACHE", "").strip()
    return Path(os.path.expandvars(given) or config.HF_DATASETS_CACHE).expanduser().absolute()


def _refused(repository: str, error: Exception) -> Exception:
    """What to raise: an error of the disk as it is, one of the Hub with what to do."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in _DISK:
            return cause
        cause = cause.__cause__ or cause.__context__
    return UserError(
        f"cannot download {repository} from the Hub ({type(error).__name__}: {one_line(error)}); check the network, "
        "and `hf auth login` if it is gated, then run it again: what was downloaded is kept"
    )
