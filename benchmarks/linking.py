"""Linking over millions of titles, beside the rank_bm25 package over the same: sizes in, JSON and a table out.

    python benchmarks/linking.py --names oven_entity_val.jsonl oven_query_val.jsonl
    python benchmarks/linking.py --titles 100000 --out small.json    # a trial; the document stays as it is
    python benchmarks/linking.py --render                            # the stored results into the document again

Titles are made up in the lengths and shapes of Wikipedia's, from the words of the names (``entity_text`` of OVEN's
rows, which are titles too), of the vocabulary, and of syllables; without ``--names`` from the last two.

Every part runs in a process of its own, one after the other, so that its peak memory is its own. Over millions of
titles rank_bm25 takes seconds a query, so there it is asked a few. All queries are asked of both over fewer titles, and
over all titles our answers are compared with sums over every posting.

What each part measured is kept at once: after a failure the same command goes on behind the last whole part. rank_bm25
comes last, and where it fails it gets half of the titles, and so on; its time over all is then computed by its growth,
which is linear or more (it looks at every title for each token).

The tables go between the markers in docs/linking.md.
"""

import argparse
import json
import os
import platform
import random
import re
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from importlib.metadata import version
from itertools import accumulate, chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
from rank_bm25 import BM25Okapi

from comem_lmms.linking import Linked, TitleIndex, fuzzy
from comem_lmms.linking.index import BATCH
from comem_lmms.linking.searching import DIGITS
from comem_lmms.linking.titles import read_titles
from comem_lmms.linking.wordpiece import WordPiece, default_vocabulary

Row = dict[str, Any]

ROOT = Path(__file__).parents[1]
MEASURED = ROOT / "benchmarks/results/linking.json"
DOCUMENT = ROOT / "docs/linking.md"
FOLDER = ROOT / "results"
START, END = "<!-- linking: written by benchmarks/linking.py -->", "<!-- end -->"
QUERIES = 3000
ASKED_OF_ALL = 12  # what rank_bm25 is asked over all titles
FASTER, BUILD_SECONDS, RESIDENT_GB, SAME = 1000, 600, 4, 0.995  # the aims; the build's is on two processors

# fmt: off
SHAPES = {  # of titles, and how many of 100 have them: W a word, K a kind, Y a year, I an initial
    "W": 13, "W W": 37, "W W W": 9, "W W W W W": 2, "W (K)": 5, "W W (K)": 6, "W, W": 5, "W of W": 4,
    "W of the W W": 3, "The W W": 2, "Y W W": 3, "List of W W in W": 2, "W-W W": 3, "W and W W": 2,
    "W W at the Y W K": 2, "W I. W": 2,
}
KINDS = (
    "film", "album", "song", "village", "genus", "band", "surname", "river", "novel", "footballer", "politician",
    "journal", "ship", "station", "school", "season",
)
CONSONANTS = (
    "b", "br", "c", "ch", "d", "dr", "f", "g", "gr", "h", "j", "k", "l", "m", "n", "p", "r", "s", "st", "t", "tr", "v",
    "w", "y", "z",
)
ENDS = ("", "", "", "n", "r", "s", "l", "m", "t", "d", "ck", "ng", "st")
FORMS = {  # of what a model may answer
    "name": "{}",
    "misspelt": "{}",
    "sentence": "The image shows a {}, which is known for its shape and colour.",
    "reasoning": (
        "Reasoning Process: The image shows something in front of a wall, with trees and people behind it. The style "
        "is typical of the 19th century, and the sign says that it is open to the public. According to the given "
        "information, the most likely answer is the following.\nFinal answer: \\boxed{{{}}}"
    ),
}
# fmt: on


# ---- made-up titles and queries -------------------------------------------------------------------------------------


def make_titles(n: int, names: list[str], vocabulary: Path) -> Iterator[str]:
    """``n`` titles, no two the same, the names first."""
    rng = random.Random(0)
    words = [word.capitalize() for word in vocabulary.read_text("utf-8").split() if word.isalpha() and len(word) > 3]
    words += dict.fromkeys(word for name in names for word in name.split() if word.isalpha())
    words = rng.sample(words, len(words)) + [_made_word(rng) for _ in range(200_000)]
    chances = list(accumulate(1 / (rank + 50) for rank in range(len(words))))  # some words are in many titles
    supply = _endless(lambda: rng.choices(words, cum_weights=chances, k=10_000))
    shapes = _endless(lambda: rng.choices(list(SHAPES), list(SHAPES.values()), k=10_000))
    fill = {
        "W": lambda: next(supply),
        "K": lambda: rng.choice(KINDS),
        "Y": lambda: str(rng.randint(1850, 2024)),
        "I": lambda: rng.choice("ABCDEFGHJKLMPRSTW"),
    }
    made = (re.sub(r"\b[WKYI]\b", lambda found: fill[found[0]](), shape) for shape in shapes)
    seen: set[int] = set()
    for title in chain(names, made):
        if len(seen) == n:
            return
        if hash(title) not in seen:
            seen.add(hash(title))
            yield title


def _endless(draw: Callable[[], list[str]]) -> Iterator[str]:
    while True:
        yield from draw()


def _made_word(rng: random.Random) -> str:
    syllables = rng.choice((1, 2, 2, 3, 3, 4))
    word = "".join(rng.choice(CONSONANTS) + rng.choice("aeiou") for _ in range(syllables))
    return word.capitalize() + rng.choice(ENDS)


class Query(NamedTuple):
    """A text of a form, and the title that it is about."""

    form: str
    text: str
    title: str


def make_queries(names: list[str], titles: list[str]) -> list[Query]:
    """Each form in turn; half of them about names, half about titles."""
    rng = random.Random(1)
    about = rng.choices(names or titles, k=QUERIES // 2) + rng.choices(titles, k=QUERIES // 2)
    forms = (list(FORMS) * QUERIES)[:QUERIES]
    return [Query(form, _answer(form, title, rng), title) for form, title in zip(forms, about, strict=True)]


def _answer(form: str, title: str, rng: random.Random) -> str:
    if form == "misspelt":
        place = rng.randrange(len(title))
        title = title[:place] + rng.choice("aeilnorst") + title[place + 1 :]
    return FORMS[form].format(title)


def names_in(files: Iterable[Path]) -> list[str]:
    """The entities of OVEN's questions, each once."""
    rows = (json.loads(line) for file in files for line in file.read_text("utf-8").splitlines())
    return list(dict.fromkeys(row["entity_text"] for row in rows))


# ---- what is measured, each part in a process of its own ------------------------------------------------------------


class Bench:
    """The files that the parts share. The best title of a query is kept as its row and score, or None."""

    def __init__(self, folder: Path, vocabulary: Path) -> None:
        self.folder, self.vocabulary = folder, vocabulary

    def write(self, titles: int, few: int, *names: str) -> Row:
        """All titles, few of them, and the queries."""
        known = names_in(map(Path, names))
        rest = make_titles(titles, known, self.vocabulary)
        first = list(islice(rest, few))
        _write_titles(self.folder / "few.jsonl", first)
        _write_titles(self.folder / "all.jsonl", chain(first, rest))
        self._keep("queries", make_queries(known, first))
        return {"names": len(known)}

    def build(self, which: str) -> Row:
        """Our index."""
        source, folder = self.folder / f"{which}.jsonl", self.folder / which
        shutil.rmtree(folder, ignore_errors=True)  # of a run that was stopped
        start = time.perf_counter()
        index = TitleIndex.build(source, folder, self.vocabulary)
        return {
            "seconds": time.perf_counter() - start,
            "peak_gb": peak_gb(),
            "titles": len(index),
            "tokens_a_title": len(index.postings.documents) / len(index),
            "source_gb": source.stat().st_size / 1e9,
            "disk_gb": sum(file.stat().st_size for file in folder.iterdir()) / 1e9,
        }

    def query(self, which: str) -> Row:
        """Our answers to all queries: one after the other, then by two threads at once."""
        start = time.perf_counter()
        index = TitleIndex.open(self.folder / which)
        opened = time.perf_counter() - start
        queries = self._queries()
        linked, row = timed(index.link, queries)
        self._keep(f"query-{which}", [one and [int(one.id[1:]), one.score] for one in linked])
        sizes = resident()
        start = time.perf_counter()
        with ThreadPoolExecutor(2) as threads:
            assert list(threads.map(index.link, [query.text for query in queries])) == linked
        both = len(queries) / (time.perf_counter() - start)
        more = {"right": right(linked, queries), "per_second_by_two_threads": both, "open_seconds": opened}
        return {**row, **more, **sizes, "peak_gb": peak_gb()}

    def fuzzy(self, which: str) -> Row:
        """The other linker's answers."""
        index, queries = TitleIndex.open(self.folder / which), self._queries()
        linked, row = timed(lambda text: next(iter(fuzzy(index, text, 1)), None), queries)
        return {**row, "right": right(linked, queries)}

    def sums(self, which: str) -> Row:
        """The best titles by sums over every posting of a query, nothing left out."""
        index = TitleIndex.open(self.folder / which)
        tokenise, postings = WordPiece(self.vocabulary), index.postings

        def best(text: str) -> list[float] | None:
            scores = np.zeros(len(index))
            for token in tokenise(text):
                here = slice(postings.offsets[token], postings.offsets[token + 1])
                scores[postings.documents[here]] += postings.weights[here]
            return first_best(scores)

        found, row = timed(best, self._queries())
        self._keep(f"sums-{which}", found)
        return row

    def okapi(self, which: str, titles: int) -> Row:
        """rank_bm25's answers over the first of the titles; of all titles only to a few queries of each form."""
        names = np.array([str(i) for i in range(WordPiece(self.vocabulary).n_tokens)], object)
        tokenise = WordPiece(self.vocabulary)
        start = time.perf_counter()
        okapi = BM25Okapi(names[ids] for ids in _tokens(tokenise, self.folder / f"{which}.jsonl", titles))
        built = time.perf_counter() - start
        queries = self._queries()
        if which == "all":
            queries = [queries[i] for i in asked_of_all()]
        found, row = timed(lambda text: first_best(okapi.get_scores(names[list(tokenise(text))])), queries)
        self._keep(f"okapi-{which}", found)
        per_token = row["seconds"] / sum(len(tokenise(query.text)) for query in queries)
        sizes = {"titles": okapi.corpus_size, "build_seconds": built, **resident(), "peak_gb": peak_gb()}
        return {**row, "seconds_a_token": per_token, **sizes}

    def agreement(self, of_all: int) -> Row:
        """How many of the queries have the same best title, with the same score; ``of_all``: rank_bm25 had all."""
        ours = self._read("query-all")
        pairs = {
            "rank_bm25, few titles": (self._read("query-few"), self._read("okapi-few")),
            "every posting summed, all titles": (ours, self._read("sums-all")),
        }
        if of_all:
            pairs["rank_bm25, all titles"] = ([ours[i] for i in asked_of_all()], self._read("okapi-all"))
        return {name: {"same": sum(map(same, *pair)), "of": len(pair[0])} for name, pair in pairs.items()}

    def _queries(self) -> list[Query]:
        return [Query(*one) for one in self._read("queries")]

    def _keep(self, name: str, content: Any) -> None:
        (self.folder / f"{name}.json").write_text(json.dumps(content))

    def _read(self, name: str) -> Any:
        return json.loads((self.folder / f"{name}.json").read_text())


def asked_of_all() -> list[int]:
    """Which queries rank_bm25 is asked over all titles: of each form and from all parts."""
    return [i * (QUERIES // ASKED_OF_ALL) + i % len(FORMS) for i in range(ASKED_OF_ALL)]


def first_best(scores: np.ndarray) -> list[float] | None:
    """Row and score of the best title, the first of equal ones; None if no title shares a token."""
    scores = scores.round(DIGITS)
    row = int(scores.argmax())
    return [row, float(scores[row])] if scores[row] > 0 else None


def same(one: Sequence[float] | None, other: Sequence[float] | None) -> bool:
    if one is None or other is None:
        return one is other
    return one[0] == other[0] and abs(one[1] - other[1]) < 2e-9


def timed(answer: Callable[[str], Any], queries: Sequence[Query]) -> tuple[list[Any], Row]:
    """The answers, and how fast they came, by form and together."""
    answer(queries[0].text)
    answers, seconds = [], []
    for query in queries:
        start = time.perf_counter()
        answers.append(answer(query.text))
        seconds.append(time.perf_counter() - start)
    per_second = {form: 1 / mean for form, mean in means(seconds, queries).items()}
    return answers, {
        "queries": len(queries),
        "seconds": sum(seconds),
        "slowest": max(seconds),
        "per_second": per_second,
    }


def right(linked: Sequence[Linked | None], queries: Sequence[Query]) -> dict[str, float]:
    """The share of queries that were linked to the title that they are about."""
    hits = [float(one is not None and one.title == query.title) for one, query in zip(linked, queries, strict=True)]
    return means(hits, queries)


def means(values: Sequence[float], queries: Sequence[Query]) -> dict[str, float]:
    """By form and together."""
    by_form = {form: [v for v, query in zip(values, queries, strict=True) if query.form == form] for form in FORMS}
    return {name: sum(some) / len(some) for name, some in {**by_form, "together": values}.items()}


def peak_gb() -> float:
    """The most memory that this process has had, pages of mapped files among it."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9  # kB on Linux


def resident() -> Row:
    """The memory that this process has now, and what of it is no pages of files, which processes share."""
    memory = psutil.Process().memory_info()
    return {"resident_gb": memory.rss / 1e9, "own_gb": (memory.rss - memory.shared) / 1e9}


def _write_titles(file: Path, titles: Iterable[str]) -> None:
    with file.open("w", encoding="utf-8") as lines:
        for i, title in enumerate(titles):
            lines.write(json.dumps({"wikidata_id": f"Q{i}", "wikipedia_title": title}) + "\n")


def _tokens(tokenise: WordPiece, file: Path, n: int) -> Iterator[list[int]]:
    titles = (entity.title for entity in islice(read_titles(file), n))
    while batch := list(islice(titles, BATCH)):
        yield from map(list, tokenise.all(batch))


# ---- the tables -----------------------------------------------------------------------------------------------------


def block(record: Row) -> str:
    """The part of the document between the markers."""
    build, ours, fuzz = record["build-all"], record["query-all"], record["fuzzy-all"]
    okapi, few, n = record["okapi-all"], record["okapi-few"], record["build-all"]["titles"]
    sizes = {
        "build, s": (build["seconds"], okapi["build_seconds"], 0),
        "build, peak GB": (build["peak_gb"], okapi["peak_gb"], 2),
        "on disk, GB": (build["disk_gb"], None, 2),
        "queries, peak GB": (ours["peak_gb"], okapi["peak_gb"], 2),
        "queries, resident GB": (ours["resident_gb"], okapi.get("resident_gb"), 2),
        "of it not pages of files, which processes share, GB": (ours.get("own_gb"), okapi.get("own_gb"), 2),
    }
    lines = [f"| {n:,} titles | comem-lmms | rank_bm25{_over(okapi, n)} |", "|---|---:|---:|"]
    lines += [
        f"| {name} | {_cell(one, digits)} | {_cell(other, digits)} |" for name, (one, other, digits) in sizes.items()
    ]
    lines += [
        "",
        f"| query | queries/s | rank_bm25's{', computed' if okapi['titles'] < n else ''} | ratio | right % "
        "| fuzzy, queries/s | fuzzy, right % |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for form, ratio in ratios(record).items():
        one, hits = ours["per_second"][form], 100 * ours["right"][form]
        others = f"{fuzz['per_second'][form]:.1f} | {100 * fuzz['right'][form]:.1f}"
        lines.append(f"| {form} | {one:.1f} | {one / ratio:.4f} | {ratio:,.0f} | {hits:.1f} | {others} |")
    lines += ["", "| aim | measured | |", "|---|---:|---|"]
    lines += [f"| {aim} | {value} | {'met' if met else 'missed'} |" for aim, value, met in aims(record)]
    agreed = "; ".join(f"{name}: {one['same']:,} of {one['of']:,}" for name, one in record["agreement"].items())
    failed = "".join(f" Over {tried['titles']:,} it failed ({tried['why']})." for tried in record.get("failed", []))
    lines += [
        "",
        f"The best entity and its score are the same as by {agreed}. Few titles are {few['titles']:,}; a query's token "
        f"takes rank_bm25 {1e3 * few['seconds_a_token']:.1f} ms over them ({_nanoseconds(few)} ns a title), and "
        f"{1e3 * okapi['seconds_a_token']:.1f} ms over {okapi['titles']:,} ({_nanoseconds(okapi)} ns a title).{failed}",
        "",
        f"Measured by `python benchmarks/linking.py --titles {n}` with {record['write']['names']:,} names of OVEN's on "
        f"{record['date']}, {record['machine']}, {record['cpus']} of {record['cpus_there']} processors; the build's "
        f"tokeniser uses all of these, everything else one thread (two threads together answer "
        f"{ours['per_second_by_two_threads']:.1f} queries/s); {record['versions']}.",
    ]
    return "\n".join([START, *lines, END])


def ratios(record: Row) -> dict[str, float]:
    """How many times rank_bm25's queries/s, by form and together; its time grows with the titles if it had fewer."""
    okapi, ours = record["okapi-all"], record["query-all"]["per_second"]
    share = okapi["titles"] / record["build-all"]["titles"]
    return {form: ours[form] / (okapi["per_second"][form] * share) for form in (*FORMS, "together")}


def aims(record: Row) -> list[tuple[str, str, bool]]:
    """Each aim, what was measured, and whether it is met."""
    build, queries = record["build-all"], record["query-all"]
    gb = max(build["peak_gb"], queries["peak_gb"])
    agreed = min(one["same"] / one["of"] for one in record["agreement"].values())
    times = f"{FASTER:,} times rank_bm25's queries/s"
    return [
        *((f"{times}, {form}", f"{ratio:,.0f}", ratio >= FASTER) for form, ratio in ratios(record).items()),
        (
            f"a build in {BUILD_SECONDS // 60} minutes on 2 processors",
            f"{build['seconds'] / 60:.1f} on {record['cpus']}",
            build["seconds"] <= BUILD_SECONDS and record["cpus"] <= 2,
        ),
        (f"less than {RESIDENT_GB} GB resident, at the peak of building and of queries", f"{gb:.2f}", gb < RESIDENT_GB),
        (f"the best entity the same in {100 * SAME:.1f} %", f"{100 * agreed:.2f}", agreed >= SAME),
    ]


def _over(okapi: Row, titles: int) -> str:
    return f" over {okapi['titles']:,}" if okapi["titles"] < titles else ""


def _cell(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _nanoseconds(okapi: Row) -> str:
    return f"{1e9 * okapi['seconds_a_token'] / okapi['titles']:.0f}"


def render(record: Row) -> None:
    """Writes the tables into the document."""
    text = DOCUMENT.read_text()
    DOCUMENT.write_text(text.split(START)[0] + block(record) + text.split(END)[1])


# ---- the program ----------------------------------------------------------------------------------------------------


class Run:
    """Parts in processes of their own, and a record of what they measured, which is kept in the folder."""

    def __init__(self, folder: Path, vocabulary: Path, asked: Row) -> None:
        self._folder, self._vocabulary, self._file = folder, vocabulary, folder / "record.json"
        folder.mkdir(parents=True, exist_ok=True)
        self.record: Row = json.loads(self._file.read_text()) if self._file.exists() else {"asked": asked}
        if self.record["asked"] != asked:
            sys.exit(f"{folder} holds a part of a measurement with {self.record['asked']}; remove it")

    def keep(self, name: str, value: Any) -> None:
        """Adds to the record."""
        self.record[name] = value
        partial = self._file.with_suffix(".partial")
        partial.write_text(json.dumps(self.record, indent=1) + "\n")
        partial.replace(self._file)

    def part(self, name: str, part: str, *values: object) -> None:
        """One part, unless it was measured before.

        Raises:
            subprocess.CalledProcessError: it failed.
        """
        if name in self.record:
            return
        print(f"{time.strftime('%H:%M:%S')} {name} {' '.join(map(str, values))}", file=sys.stderr, flush=True)
        command = [sys.executable, __file__, "--folder", self._folder, "--vocabulary", self._vocabulary]
        command += ["--part", part, *values]
        done = subprocess.run(list(map(str, command)), check=True, stdout=subprocess.PIPE, text=True)
        self.keep(name, json.loads(done.stdout))

    def fewer(self, name: str, part: str, which: str, titles: int, least: int) -> None:
        """A part over so many titles, or over half of them if it fails, and so on down to the least number."""
        failed = self.record.get("failed", [])
        titles = max(min((tried["titles"] // 2 for tried in failed), default=titles), least)
        while True:
            try:
                return self.part(name, part, which, titles)
            except subprocess.CalledProcessError as error:
                failed.append({"titles": titles, "why": f"exit status {error.returncode}"})
                self.keep("failed", failed)
                if (titles := titles // 2) < least:
                    raise


def measure(run: Run, titles: int, few: int, names: Sequence[Path]) -> Row:
    """All parts, those that may fail for want of memory last."""
    run.part("write", "write", titles, few, *names)
    for which in ("few", "all"):
        run.part(f"build-{which}", "build", which)
        run.part(f"query-{which}", "query", which)
    run.part("fuzzy-all", "fuzzy", "all")
    run.part("sums-all", "sums", "all")
    run.part("okapi-few", "okapi", "few", few)
    run.fewer("okapi-all", "okapi", "all", titles, few)
    run.part("agreement", "agreement", int(run.record["okapi-all"]["titles"] == titles))
    return run.record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--titles", type=int, default=6_000_000, help="(%(default)s)")
    parser.add_argument("--few", type=int, default=50_000, help="titles of which rank_bm25 is asked all (%(default)s)")
    parser.add_argument("--names", type=Path, nargs="*", default=[], help="OVEN's JSON lines, with an entity_text each")
    parser.add_argument("--vocabulary", type=Path, help="vocab.txt; default: that of bert-base-uncased from the Hub")
    place = "where titles and indexes go until all is measured (some 2 GB, in linking/); default: "
    parser.add_argument("--folder", type=Path, default=FOLDER, help=place + str(FOLDER.relative_to(ROOT)))
    parser.add_argument("--out", type=Path, help=f"JSON; default: {MEASURED.relative_to(ROOT)}, and the document")
    parser.add_argument("--render", action="store_true", help="measure nothing, only write the document again")
    parser.add_argument("--part", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.render:
        return render(json.loads(MEASURED.read_text()))
    vocabulary = args.vocabulary or default_vocabulary()
    if args.part:
        part, *values = args.part
        made = getattr(Bench(args.folder, vocabulary), part)(*(int(v) if v.isdigit() else v for v in values))
        print(json.dumps(made))
        return None
    few, folder = min(args.few, args.titles), args.folder / "linking"
    run = Run(folder, vocabulary, {"titles": args.titles, "few": few, "names": [file.name for file in args.names]})
    record = measure(run, args.titles, few, args.names)
    record["date"], record["machine"] = date.today().isoformat(), f"CPU ({platform.machine()})"
    record["cpus"], record["cpus_there"] = len(os.sched_getaffinity(0)), os.cpu_count()
    record["versions"] = ", ".join(f"{name} {version(name)}" for name in ("numpy", "tokenizers", "rank_bm25"))
    record["aims"] = [{"aim": aim, "measured": value, "met": met} for aim, value, met in aims(record)]
    (args.out or MEASURED).write_text(json.dumps(record, indent=1) + "\n")
    print(block(record))
    if not args.out:
        render(record)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
