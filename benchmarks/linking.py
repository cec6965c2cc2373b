"""Linking over millions of titles, beside the rank_bm25 package over the same: sizes in, JSON and a table out.

    python benchmarks/linking.py --names oven_entity_val.jsonl oven_query_val.jsonl
    python benchmarks/linking.py --titles 100000 --out small.json    # a trial; the document stays as it is

Titles are made up in the lengths and shapes of Wikipedia's, from the words of the names (``entity_text`` of OVEN's
rows, which are titles too), of the vocabulary, and of syllables; without ``--names`` from the last two.

Every part runs in a process of its own, one after the other, so that its peak memory is its own. Over millions of
titles rank_bm25 takes seconds a query, so there it is asked a few. All queries are asked of both over fewer titles, and
over all titles our answers are compared with sums over every posting.

The table goes between the markers in docs/linking.md.
"""

import argparse
import json
import platform
import random
import re
import resource
import subprocess
import sys
import tempfile
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
START, END = "<!-- linking: written by benchmarks/linking.py -->", "<!-- end -->"
QUERIES = 3000
ASKED_OF_ALL = 12  # what rank_bm25 is asked over all titles

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
        memory = psutil.Process().memory_full_info()
        start = time.perf_counter()
        with ThreadPoolExecutor(2) as threads:
            assert list(threads.map(index.link, [query.text for query in queries])) == linked
        both = len(queries) / (time.perf_counter() - start)
        sizes = {"peak_gb": peak_gb(), "resident_gb": memory.rss / 1e9, "of_it_private_gb": memory.uss / 1e9}
        more = {"right": right(linked, queries), "per_second_by_two_threads": both, "open_seconds": opened}
        return {**row, **more, **sizes}

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

    def okapi(self, which: str) -> Row:
        """rank_bm25's answers; over all titles only to a few queries of each form."""
        names = np.array([str(i) for i in range(WordPiece(self.vocabulary).n_tokens)], object)
        tokenise = WordPiece(self.vocabulary)
        start = time.perf_counter()
        okapi = BM25Okapi(names[ids] for ids in _tokens(tokenise, self.folder / f"{which}.jsonl"))
        built = time.perf_counter() - start
        queries = self._queries()
        if which == "all":
            queries = [queries[i] for i in asked_of_all()]
        found, row = timed(lambda text: first_best(okapi.get_scores(names[list(tokenise(text))])), queries)
        self._keep(f"okapi-{which}", found)
        per_token = row["seconds"] / sum(len(tokenise(query.text)) for query in queries)
        sizes = {"titles": okapi.corpus_size, "build_seconds": built, "peak_gb": peak_gb()}
        return {**row, "seconds_a_token": per_token, **sizes}

    def agreement(self) -> Row:
        """How many of the queries have the same best title, with the same score."""
        ours = self._read("query-all")
        pairs = {
            "rank_bm25, few titles": (self._read("query-few"), self._read("okapi-few")),
            "rank_bm25, all titles": ([ours[i] for i in asked_of_all()], self._read("okapi-all")),
            "every posting summed, all titles": (ours, self._read("sums-all")),
        }
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


def _write_titles(file: Path, titles: Iterable[str]) -> None:
    with file.open("w", encoding="utf-8") as lines:
        for i, title in enumerate(titles):
            lines.write(json.dumps({"wikidata_id": f"Q{i}", "wikipedia_title": title}) + "\n")


def _tokens(tokenise: WordPiece, file: Path) -> Iterator[list[int]]:
    titles = (entity.title for entity in read_titles(file))
    while batch := list(islice(titles, BATCH)):
        yield from map(list, tokenise.all(batch))


# ---- the program ----------------------------------------------------------------------------------------------------


def block(record: Row) -> str:
    """The part of the document between the markers."""
    build, ours, fuzz = record["build-all"], record["query-all"], record["fuzzy-all"]
    okapi, few = record["okapi-all"], record["okapi-few"]
    lines = [
        f"| {build['titles']:,} titles | comem-lmms | rank_bm25 |",
        "|---|---:|---:|",
        f"| build, s | {build['seconds']:.0f} | {okapi['build_seconds']:.0f} |",
        f"| build, peak GB | {build['peak_gb']:.2f} | {okapi['peak_gb']:.2f} |",
        f"| on disk, GB | {build['disk_gb']:.2f} | - |",
        f"| queries, peak GB | {ours['peak_gb']:.2f} | {okapi['peak_gb']:.2f} |",
        f"| of it not shared by processes, GB | {ours['of_it_private_gb']:.2f} | {okapi['peak_gb']:.2f} |",
        "",
        "| query | queries/s | rank_bm25's | ratio | right % | fuzzy, queries/s | fuzzy, right % |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for form in (*FORMS, "together"):
        one, other = ours["per_second"][form], okapi["per_second"][form]
        hits = f"{100 * ours['right'][form]:.1f} | {fuzz['per_second'][form]:.1f} | {100 * fuzz['right'][form]:.1f}"
        lines.append(f"| {form} | {one:.1f} | {other:.4f} | {one / other:,.0f} | {hits} |")
    agreed = "; ".join(f"{name}: {one['same']:,} of {one['of']:,}" for name, one in record["agreement"].items())
    names = record["write"]["names"]
    lines += [
        "",
        f"The best entity and its score are the same as by {agreed}. Few titles are {few['titles']:,}; a query's token "
        f"takes rank_bm25 {1e3 * few['seconds_a_token']:.1f} ms over them, and "
        f"{1e3 * okapi['seconds_a_token']:.1f} ms over all.",
        "",
        f"Measured by `python benchmarks/linking.py --titles {build['titles']}` with {names:,} names of OVEN's on "
        f"{record['date']}, {record['machine']}; {record['versions']}.",
    ]
    return "\n".join([START, *lines, END])


def measure(folder: Path, vocabulary: Path, titles: int, few: int, names: list[Path]) -> Row:
    """All parts."""
    record: Row = {}
    write = ("write", str(titles), str(few), *map(str, names))
    both = [(part, which) for which in ("few", "all") for part in ("build", "query", "okapi")]
    for part in [write, *both, ("fuzzy", "all"), ("sums", "all"), ("agreement",)]:
        print(f"{time.strftime('%H:%M:%S')} {' '.join(part[:2])}", file=sys.stderr, flush=True)
        command = [sys.executable, __file__, "--folder", folder, "--vocabulary", vocabulary, "--part", *part]
        done = subprocess.run(list(map(str, command)), check=True, stdout=subprocess.PIPE, text=True)
        record["-".join(part) if len(part) == 2 else part[0]] = json.loads(done.stdout)
    return record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--titles", type=int, default=6_000_000, help="(%(default)s)")
    parser.add_argument("--few", type=int, default=50_000, help="titles of which rank_bm25 is asked all (%(default)s)")
    parser.add_argument("--names", type=Path, nargs="*", default=[], help="OVEN's JSON lines, with an entity_text each")
    parser.add_argument("--vocabulary", type=Path, help="vocab.txt; default: that of bert-base-uncased from the Hub")
    parser.add_argument("--folder", type=Path, help="where titles and indexes go (some 2 GB); default: a temporary one")
    parser.add_argument("--out", type=Path, help=f"JSON; default: {MEASURED.relative_to(ROOT)}, and the document")
    parser.add_argument("--part", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    vocabulary = args.vocabulary or default_vocabulary()
    if args.part:
        part, *values = args.part
        print(
            json.dumps(getattr(Bench(args.folder, vocabulary), part)(*(int(v) if v.isdigit() else v for v in values)))
        )
        return
    if args.folder:
        args.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=args.folder) as temporary:
        record = measure(Path(temporary), vocabulary, args.titles, min(args.few, args.titles), args.names)
    record["date"], record["machine"] = date.today().isoformat(), f"CPU ({platform.machine()})"
    record["versions"] = ", ".join(f"{name} {version(name)}" for name in ("numpy", "tokenizers", "rank_bm25"))
    (args.out or MEASURED).write_text(json.dumps(record, indent=1) + "\n")
    print(block(record))
    if not args.out:
        text = DOCUMENT.read_text()
        DOCUMENT.write_text(text.split(START)[0] + block(record) + text.split(END)[1])


if __name__ == "__main__":
    main()
