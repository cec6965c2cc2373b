"""``comem-lmms data prepare``: the name of a data set in, the data set on disk and what to know of it out.

Each step can be interrupted, and what it did is not done again: files, single images, archives, walks through folders.
"""

import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from comem_lmms.data import hub, images, lock, places, store
from comem_lmms.data.downloads import Downloads
from comem_lmms.data.http import Client, Missing
from comem_lmms.data.rows import COLUMNS, READERS, Row
from comem_lmms.data.sources import File, Images, Source
from comem_lmms.errors import UserError
from comem_lmms.files import on_disk

log = logging.getLogger(__name__)


def prepare(source: Source, given: str | None = None, client: Client | None = None, force: bool = False) -> list[str]:
    """Makes a data set ready for lmms-eval and returns what to tell the user, a line each.

    Args:
        given: what ``--images`` says: a folder, or the name of an archive.
        client: how to download, with the contact that hosts get to see.
        force: download again, and accept that what nobody published a checksum of has changed.

    Raises:
        UserError: something cannot be downloaded or written, is damaged, missing or of another size than published.
    """
    with on_disk(places.root()):
        if source.kind == "hub":
            return _prepare_hub(source, given, force)
        return _prepare(source, given, Downloads(places.downloads(), client or Client(), force), force)


def read(source: Source, paths: Sequence[Path | None]) -> dict[str, list[Row]]:
    """The rows of each split, from the files of a data set in the order of the table of sources.

    Raises:
        UserError: they are damaged, or not those that were published.
    """
    for file, path in zip(source.files, paths, strict=True):
        if path is not None and file.rows is not None:
            _check_lines(file, path)
    names = ", ".join(str(path) for path in paths if path is not None)
    try:
        splits = READERS[source.kind](paths, next(iter(source.counts)))
    except UserError:
        raise
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        raise UserError(
            f"{names} is not laid out as {source.name} is known to be ({error!r}); download it again with --force"
        ) from error
    for split, rows in splits.items():
        if not rows:
            raise UserError(f"{source.name}, split {split}: no documents; download it again with --force")
        source.count(
            split,
            len(rows),
            f"download it again with --force or, if that brings the same, put the published file in place of {names}",
        )
    return splits


def located(kept: Images, wanted: Collection[str]) -> dict[str, Path]:
    """Where the images are that were found when folders were walked or archives unpacked; none is opened."""
    found: dict[str, Path] = {}
    for name in (*kept.archives, kept.collection):  # the user's own folder wins
        found |= images.locate(places.index(name), wanted, kept.by)
    return found


def _prepare(source: Source, given: str | None, downloads: Downloads, force: bool) -> list[str]:
    assert source.images is not None
    if given and given not in source.images.archives:
        images.check_folder(Path(given).expanduser())
    folder = places.root() / source.name
    if given or force or not _is_ready(folder) or _types_came(source, folder):
        _prepare_files(source, source.images, given, downloads)
        said = _described(source, folder)
    else:
        said = [f"{source.name} is prepared already, in {folder}; --force prepares it again"]
    if source.titles and not places.titles_indexed():
        file = downloads.get(source.titles)
        said.append(f"to link answers to entities, run: comem-lmms link build {file} --out {places.titles_index()}")
    return said


def _is_ready(folder: Path) -> bool:
    return store.is_written(folder) and all(Path(path).is_file() for path in store.image_paths(folder))


def _types_came(source: Source, folder: Path) -> bool:
    """Whether the official question types, which were missing, are there now."""
    types = _types(source)
    return store.manifest(folder).get("question_types") == "derived" and any(path.is_file() for path in types)


def _types(source: Source) -> list[Path]:
    """Where the official question types would lie."""
    return [places.downloads() / file.name for file in source.files if file.name.endswith("_qtype.jsonl")]


def _described(source: Source, folder: Path) -> list[str]:
    about = store.manifest(folder)
    splits = ", ".join(f"{split} {number:,}" for split, number in about["splits"].items())
    said = [f"{source.name}: {splits} documents and {about['images']:,} images in {folder}"]
    types = _types(source)
    if about.get("question_types") == "derived" and types:
        said.append(
            "question types were derived from the answers: the official file of types could not be had "
            f"(if you have it, put it at {types[0]} and run this again)"
        )
    return said


def _prepare_hub(source: Source, given: str | None, force: bool) -> list[str]:
    if given:
        raise UserError(f"{source.name} has its images inside; leave --images out")
    known = {} if force else lock.read(source.name)
    commit = hub.commit(source) if force or not known.get("commit") else known["commit"]
    dataset = hub.load(source, commit or source.revision)
    for split in source.counts:
        if split not in dataset:
            raise UserError(
                f"{source.hub} has no split {split!r} but {', '.join(dataset)}; is it another data set now?"
            )
        source.count(split, len(dataset[split]), lock.how_to_pin(source))
    if force:
        lock.write(source.name, {})
    for split in source.counts:
        lock.compare(source.name, split, dataset[split][source.id_column])
    lock.write(source.name, {**lock.read(source.name), "commit": commit})
    splits = ", ".join(f"{split} {rows.num_rows:,}" for split, rows in dataset.items())
    return [f"{source.name}: {splits} documents of {source.hub}{f' at {commit[:7]}' if commit else ''}, images inside"]


def _prepare_files(source: Source, kept: Images, given: str | None, downloads: Downloads) -> None:
    paths = [downloads.get_optional(file) if file.optional else downloads.get(file) for file in source.files]
    splits = read(source, paths)
    wanted = {row["image"] for rows in splits.values() for row in rows}
    found = _find_images(source, kept, wanted, given, downloads)
    for rows in splits.values():
        for row in rows:
            row["image"] = str(found[row["image"]])
    about = {
        "name": source.name,
        "licence": source.licence,
        "splits": {split: len(rows) for split, rows in splits.items()},
        "fingerprints": {
            split: lock.fingerprint(row[source.id_column] for row in rows) for split, rows in splits.items()
        },
        "images": len(wanted),
        "files": {
            file.name: downloads.sha256(file)
            for file, path in zip(source.files, paths, strict=True)
            if path is not None
        },
    }
    if source.kind.startswith("infoseek"):
        official = len(paths) > 1 and paths[1] is not None
        about["question_types"] = "official" if official else "derived"
        if not official:
            log.warning("question types of %s are derived from its answers, not the official ones", source.name)
    store.write(places.root() / source.name, splits, COLUMNS[source.kind], about)


def _check_lines(file: File, path: Path) -> None:
    with path.open("rb") as lines:
        found = sum(not line.isspace() for line in lines)
    if found != file.rows:
        raise UserError(f"{path} has {found:,} rows, but {file.rows:,} are published; download it again with --force")


def _find_images(
    source: Source, kept: Images, wanted: Collection[str], given: str | None, downloads: Downloads
) -> Mapping[str, Path]:
    """The path of each image that is wanted.

    Raises:
        UserError: some are missing, or are no images.
    """
    if given in kept.archives:
        _unpack(kept, str(given), downloads)
    elif given:
        images.index(Path(given).expanduser(), places.index(kept.collection))
    found = _known(kept, wanted)
    if len(found) < len(wanted) and kept.automatic and not given:
        for name in kept.archives:
            _unpack(kept, name, downloads)
        found = _known(kept, wanted)
    if len(found) < len(wanted) and kept.url:
        found |= _fetch_images(source, kept, sorted(wanted - found.keys()), downloads.client)
    if missing := sorted(set(wanted) - found.keys()):
        raise UserError(
            f"{source.name}: {len(missing):,} of {len(wanted):,} images are missing or damaged "
            f"({', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}); give --images FOLDER: {kept.where}"
        )
    return found


def _unpack(kept: Images, name: str, downloads: Downloads) -> None:
    folder = places.images(name)
    images.extract(downloads.get(kept.archives[name]), folder)
    images.index(folder, places.index(name))


def _known(kept: Images, wanted: Collection[str]) -> dict[str, Path]:
    """Those that are located, and are images."""
    bar = tqdm(located(kept, wanted).items(), desc="looking at images", unit="", disable=None)
    return {key: path for key, path in bar if images.is_image(path)}


def _fetch_images(source: Source, kept: Images, missing: Sequence[str], client: Client) -> dict[str, Path]:
    """One by one, into a folder of ours; what is there already is not asked for."""
    folder = places.images(kept.collection)
    downloads = Downloads(folder, client)
    files = {key: file for key in missing if (file := kept.file(key))}
    left = sum(not (folder / file.name).exists() for file in files.values())
    if left and not client.contact:
        minutes = left * client.pause / 60
        raise UserError(
            f"{source.name}: {left:,} of its images are missing; give --images FOLDER ({kept.where}), or --contact "
            f"MAIL, which the host gets to see, to fetch them one by one (some {minutes:.0f} minutes or more)"
        )
    found = {}
    with logging_redirect_tqdm():
        for key, file in tqdm(files.items(), desc=f"images of {source.name}", unit="", disable=None):
            try:
                found[key] = downloads.get(file, progress=False, usable=_is_whole)
            except Missing as error:  # the others may be there; all that lack are named in the end
                log.warning("%s", error)
    return found


def _is_whole(path: Path) -> bool:
    return images.is_image(path, whole=True)
