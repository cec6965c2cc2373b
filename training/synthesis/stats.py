"""What training data is made of: a manifest in, lines for people out."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any


def stats(manifest: Mapping[str, Any]) -> list[str]:
    """Samples by task and language, then what became of the answers they were chosen from, source by source."""
    languages = sorted({language for counted in manifest["tasks"].values() for language in counted})
    lines = [("task", *languages, "samples")]
    for task, counted in sorted(manifest["tasks"].items()):
        lines.append((task, *(str(counted.get(language, 0)) for language in languages), str(sum(counted.values()))))
    knowledge = manifest["knowledge"]
    return [
        *_table(lines),
        f"{manifest['samples']} samples, fingerprint {manifest['fingerprint'][:12]}; items of knowledge base "
        f"{knowledge['fingerprint'][:12]} ({knowledge['folder']})",
        *_origin(manifest),
    ]


def _origin(manifest: Mapping[str, Any]) -> Iterator[str]:
    if manifest["from"] == "samples":
        yield from _selection(manifest)
    if manifest["from"] == "translate":
        translation = manifest["translation"]
        for language, counted in translation["samples"].items():
            yield (
                f"{translation['languages'][language]} ({language}), translated by {translation['model']}: "
                f"{counted['kept']} kept{_listed(counted['rejected'])}"
            )
    if manifest["from"] == "merge" and manifest["repeated"]:
        yield f"merged{_listed({f'of {task} in several': n for task, n in manifest['repeated'].items()})}"
    for source in manifest.get("sources", ()):
        yield from _origin(source)


def _selection(manifest: Mapping[str, Any]) -> Iterator[str]:
    for task, counted in manifest["counts"].items():
        yield f"{task}: {counted['kept']} of {counted['answers']} answers kept{_listed(counted['dropped'])}"
    kept: Counter[str] = Counter()
    for one in manifest["rollouts"]:
        given = ", ".join(f"{name}={value}" for name, value in one["model_args"].items())
        kept[one["model"] + (f" ({given})" if given else "")] += one["answers"].get("kept", 0)
    yield f"answered by{_listed(kept)[1:]}"
    if odd := [one for one in manifest["rollouts"] if one["answers"].get("kept") and not _is_rag(one)]:
        number = sum(one["answers"]["kept"] for one in odd)
        yield f"NOT under vanilla RAG, or with wrong items: {number} of these answers"
    against = manifest["against"]
    for task, number in against["documents"].items():
        found = {way: n for way, n in against["overlaps"][task].items() if n}
        yield f"compared with {number} documents of {task}: {_listed(found)[2:] or 'no overlap'}"
    if against["not_checked"]:
        yield f"NOT compared with {', '.join(against['not_checked'])}, whose data was not ready"


def _is_rag(rollout: Mapping[str, Any]) -> bool:
    return rollout["model"] == "vanilla_rag" and "wrong" not in rollout["fingerprints"].get("kind", ())


def _listed(counts: Mapping[str, int]) -> str:
    return "".join(f", {number} {name}" for name, number in counts.items())


def _table(lines: list[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = (c.rjust(w) if i else c.ljust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True)))
        yield "  ".join(cells)
