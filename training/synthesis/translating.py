r"""Samples in other languages: training data and a chat model in, the data with translations of some samples out.

The paper adds 200 samples translated into nine languages. A translation is kept as it arrives, so an interrupted run
goes on where it was. A translation is rejected, and counted, if it lacks a part, is no other text than the original, or
lost a ``\boxed{}``, by which scorers find the final answer.
"""

import json
import random
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from comem_lmms.training.synthesis.store import Sample, SampleFolder, write
from comem_lmms.training.synthesis.translators import Chat, Failure, Translator
from tqdm import tqdm

from comem_lmms.errors import UserError, one_line
from comem_lmms.files import on_disk, read_json, write_json
from comem_lmms.scoring.extraction import extract

# The nine of the paper (their CVQA subsets), and some more; any other is given as code=Name.
LANGUAGES = {
    "bg": "Bulgarian",
    "zh": "Chinese (simplified)",
    "arz": "Egyptian Arabic",
    "fil": "Filipino",
    "fr": "French",
    "ja": "Japanese",
    "pt": "Brazilian Portuguese",
    "ru": "Russian",
    "es": "Spanish",
    "ar": "Arabic",
    "br": "Breton",
    "de": "German",
    "en": "English",
    "hi": "Hindi",
    "id": "Indonesian",
    "it": "Italian",
    "ko": "Korean",
    "tr": "Turkish",
    "uk": "Ukrainian",
    "vi": "Vietnamese",
}
_REQUEST = r"""Translate the question and the answer below into {language}, instructions in them included.
Keep the line breaks. Keep every \boxed{{...}} as it is, with its content translated inside the braces.
Write nothing but the translation, between the same marks.

[[QUESTION]]
{prompt}
[[ANSWER]]
{answer}
[[END]]"""
_REPLY = re.compile(r"\[\[QUESTION\]\](.*)\[\[ANSWER\]\](.*)\[\[END\]\]", re.DOTALL)
_BOX = re.compile(r"\\boxed\s*\{")
_SETTINGS, _DONE = "settings.json", "translations.jsonl"


class Translation(NamedTuple):
    """What came of one sample in one language: a prompt and an answer, or why there are none."""

    row: int
    language: str
    prompt: str = ""
    answer: str = ""
    rejected: str = ""


def languages(codes: Sequence[str]) -> dict[str, str]:
    """Names by code; ``code=Name`` for a language that is not in the table.

    Raises:
        UserError: one is not known.
    """
    named = dict(code.split("=", 1) if "=" in code else (code, LANGUAGES.get(code, "")) for code in codes)
    if unknown := [code for code, name in named.items() if not name]:
        raise UserError(f"language {unknown[0]!r} has no name here; give CODE=NAME, e.g. {unknown[0]}=German")
    return named


def translate(
    data: SampleFolder, out: Path, names: Mapping[str, str], per_language: int, seed: int, translator: Translator
) -> dict[str, Any]:
    """Writes the data with its translations behind it, and returns the manifest.

    Args:
        out: must not be there; until it is finished, what was translated is in ``OUT.partial``.
        names: of the languages, by code.
        per_language: samples; the same ones in every language.
        seed: of the choice.

    Raises:
        UserError: there are not so many samples, ``OUT.partial`` is of other data or another model, nothing could be
            translated, or the translator cannot be reached; what was translated until then is kept.
    """
    if out.exists():
        raise UserError(f"{out} is there already; remove it, or name another folder")
    texts = data.texts()
    chosen = _chosen(texts, names, per_language, seed)
    notes = _Notes(out, {"data": data.manifest["fingerprint"], "translator": translator.about})
    wanted = [(row, language) for language in names for row in chosen]
    for translation in _translated(texts, [one for one in wanted if one not in notes.done], names, translator):
        notes.add(translation)
    accepted = [one for key in wanted if not (one := notes.done[key]).rejected]
    counts = {
        language: {"kept": 0, "rejected": {}} | _counted([notes.done[row, language] for row in chosen])
        for language in names
    }
    if not accepted:
        raise UserError(
            f"none of {len(wanted)} translations can be used ({json.dumps(counts)}); try another model, and remove "
            f"{notes.folder}"
        )

    def about() -> dict[str, Any]:
        asked = {"languages": dict(names), "per_language": per_language, "seed": seed, "samples": counts}
        same = {name: data.manifest[name] for name in ("knowledge", "counts")}
        return {"from": "translate", **same, "translation": {**translator.about, **asked}, "sources": [data.manifest]}

    manifest = write(out, _all(data, accepted), about)
    notes.remove()
    return manifest


def _chosen(texts: Sequence[Mapping[str, Any]], names: Mapping[str, str], number: int, seed: int) -> list[int]:
    rows = [row for row, text in enumerate(texts) if text["language"] not in names]
    if number > len(rows):
        raise UserError(f"--per-language {number}, but there are {len(rows)} samples in other languages; lower it")
    return sorted(random.Random(seed).sample(rows, number))


def _translated(
    texts: Sequence[Mapping[str, Any]],
    wanted: Sequence[tuple[int, str]],
    names: Mapping[str, str],
    translator: Translator,
) -> Iterator[Translation]:
    """One translation each, as they come; what cannot be used is asked for again as often as the translator wants."""
    with tqdm(total=len(wanted), desc="Translating", unit="sample") as bar:
        for turn in reversed(range(translator.tries)):
            again = []
            chats = [_chat(texts[row], names[language]) for row, language in wanted]
            for number, reply in translator.answer(chats):
                row, language = wanted[number]
                translation = _read(reply, row, language, texts[row])
                if translation.rejected and turn and not (isinstance(reply, Failure) and reply.lasting):
                    again.append(wanted[number])
                    continue
                bar.update()
                yield translation
            wanted = sorted(again)


def _chat(text: Mapping[str, Any], language: str) -> Chat:
    request = _REQUEST.format(language=language, prompt=text["prompt"], answer=text["answer"])
    return [{"role": "user", "content": [{"type": "text", "text": request}]}]


def _read(reply: str | Failure, row: int, language: str, original: Mapping[str, Any]) -> Translation:
    if isinstance(reply, Failure):
        return Translation(row, language, rejected=reply.why)
    if not (found := _REPLY.search(reply)):
        return Translation(row, language, rejected="not as asked for")
    prompt, answer = (part.strip() for part in found.groups())
    if not prompt or not answer:
        return Translation(row, language, rejected="empty")
    if _lost_a_box(original["prompt"], prompt) or _lost_a_box(original["answer"], answer):
        return Translation(row, language, rejected=r"lost \boxed{}")
    if prompt == original["prompt"].strip():
        return Translation(row, language, rejected="not translated")
    return Translation(row, language, prompt, answer)


def _lost_a_box(original: str, translated: str) -> bool:
    if len(_BOX.findall(original)) != len(_BOX.findall(translated)):
        return True
    before, after = extract(original), extract(translated)
    return before.how == "boxed" and (after.how != "boxed" or (bool(before.text) and not after.text))


def _counted(translations: Sequence[Translation]) -> dict[str, Any]:
    rejected = Counter(one.rejected for one in translations)
    return {"kept": rejected.pop("", 0), "rejected": dict(sorted(rejected.items()))}


def _all(data: SampleFolder, accepted: Sequence[Translation]) -> Iterator[Sample]:
    """The samples as they are, then the translated ones by language."""
    rows = {one.row for one in accepted}
    kept: dict[int, Sample] = {}
    for row, sample in enumerate(data):
        if row in rows:
            kept[row] = sample
        yield sample
    for one in accepted:
        yield kept[one.row]._replace(prompt=one.prompt, answer=one.answer, language=one.language)


class _Notes:
    """What was translated so far, a line each, so that no more is lost than what is under way.

    Attributes:
        folder: ``OUT.partial``.
        done: by row and language.
    """

    def __init__(self, out: Path, settings: Mapping[str, Any]) -> None:
        self.folder = out.with_name(f"{out.name}.partial")
        self.done: dict[tuple[int, str], Translation] = {}
        with on_disk(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            if not (self.folder / _SETTINGS).is_file():
                write_json(self.folder / _SETTINGS, settings)
        begun = read_json(self.folder / _SETTINGS)
        if different := [name for name in settings if begun.get(name) != settings[name]]:
            name = different[0]
            raise UserError(
                f"{self.folder} was begun with {name} {json.dumps(begun.get(name))}, not {json.dumps(settings[name])}; "
                "give the same, remove it, or name another --out"
            )
        self._path = self.folder / _DONE
        self._read()

    def add(self, one: Translation) -> None:
        """Writes it down."""
        line = json.dumps(one._asdict(), ensure_ascii=False) + "\n"
        with on_disk(self._path), self._path.open("a", encoding="utf-8") as file:
            file.write(line)
        self.done[one.row, one.language] = one

    def remove(self) -> None:
        """Once it is all in its place."""
        for name in (_SETTINGS, _DONE):
            (self.folder / name).unlink(missing_ok=True)
        self.folder.rmdir()

    def _read(self) -> None:
        """A process that was killed may have written half a line, the last one."""
        if not self._path.is_file():
            return
        with self._path.open("rb+") as file:
            content = file.read()
            file.truncate(content.rfind(b"\n") + 1)
        try:
            lines = content[: content.rfind(b"\n") + 1].decode().split("\n")[:-1]
            translations = [Translation(**json.loads(line)) for line in lines]
        except (ValueError, TypeError) as error:
            raise UserError(f"{self._path} is damaged ({one_line(error)}); remove {self.folder}") from error
        self.done = {(one.row, one.language): one for one in translations}
