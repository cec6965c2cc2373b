"""Makes training data for the micro memory encoder: a stage in, a knowledge base and samples about it out.

    python -m comem_lmms.training.micro.samples OUT --stage full [--seed 1] [--steps 2000]

``OUT/knowledge`` and ``OUT/data`` are what `comem_lmms.training.train` takes. Pages are made up afresh for every step.
The samples lie in the order of the steps: those of a step are about its own pages, the right one next to the question,
behind others of the same step, so that each page is encoded once and read many times (``shuffle=false``). A step is one
document, so whole steps are held out.
"""

import argparse
import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from comem_lmms.training.micro import chats
from comem_lmms.training.micro.common import in_one_line, training_realms
from comem_lmms.training.synthesis.store import Sample, write
from numpy.random import RandomState
from PIL import Image

from comem_lmms.errors import UserError
from comem_lmms.images import images_of
from comem_lmms.knowledge import KnowledgeBase, Row
from comem_lmms.records import KnowledgeItem

N_REALMS = 256  # emblems seen in training
TASK = "made_up_realms"


class Stage(NamedTuple):
    """One kind of data.

    Attributes:
        pages: a step.
        facts: a page.
        questions: on a page.
        images: whether pages and questions show emblems.
        memories: in front of a question, and how often: chances of 1, 2, ...
        steps: of training.
    """

    pages: int
    facts: int
    questions: int
    images: bool
    memories: tuple[float, ...]
    steps: int

    @property
    def samples(self) -> int:
        """A step."""
        return self.pages * self.questions


# Few facts first: how to put one into a vector is found there, and not at all on full pages.
STAGES = {
    "short": Stage(pages=48, facts=4, questions=4, images=False, memories=(1.0,), steps=300),
    "longer": Stage(pages=32, facts=8, questions=4, images=True, memories=(1.0,), steps=400),
    "full": Stage(pages=24, facts=12, questions=4, images=True, memories=(0.15, 0.25, 0.6), steps=2000),
}


class Page(NamedTuple):
    """An item and the chats about it, a question and its answer each; ``others`` of the step come before it."""

    item: KnowledgeItem
    chats: list[chats.Chat]
    others: list[list[str]]


def make_samples(folder: Path, stage: Stage, seed: int) -> None:
    """Writes ``knowledge`` and ``data`` into a folder.

    Raises:
        UserError: the data is there already, or cannot be written.
    """
    if (folder / "data").exists():  # and goes with the knowledge base that is there
        raise UserError(f"{folder / 'data'} is there already; remove it, or name another folder")
    base = KnowledgeBase.create(folder / "knowledge", map(_row, _pages(stage, seed)), stage=stage._asdict(), seed=seed)
    samples = stage.steps * stage.samples
    about = {
        "from": "made-up realms",
        "stage": stage._asdict(),
        "seed": seed,
        "knowledge": {"fingerprint": base.fingerprint, "folder": base.folder.name},
        "counts": {TASK: {"kept": samples, "dropped": {}}},
    }
    write(folder / "data", _samples(stage, seed), lambda: about)


def _pages(stage: Stage, seed: int) -> Iterator[Page]:
    """All pages, a step's one after the other; the same for the same seed."""
    rng = RandomState(seed)
    realms = training_realms(seed, N_REALMS)
    kind = chats.Stage(pages=1, batch=stage.pages, facts=stage.facts, questions=stage.questions, images=stage.images)
    for step in range(stage.steps):
        n_others = int(rng.choice(len(stage.memories), p=stage.memories))
        ids = [f"{step}-{i}" for i in range(stage.pages)]
        for id_ in ids:
            chat, (item,) = chats.make_chat(rng, realms, kind)
            apart = chats.apart(chat)
            others = [[other for other in rng.permutation(ids) if other != id_][:n_others] for _ in apart]
            yield Page(replace(item, id=id_), apart, others)


def _row(page: Page) -> Row:
    image = page.item.image
    return Row(page.item.id, page.item.title, page.item.text, None if image is None else _png(image))


def _samples(stage: Stage, seed: int) -> Iterator[Sample]:
    for number, page in enumerate(_pages(stage, seed)):
        image = next((_png(part["url"]) for part in images_of(page.chats[0])), None)
        for (question, answer), others in zip(page.chats, page.others, strict=True):
            prompt, target = question["content"][-1]["text"], answer["content"][0]["text"]
            yield Sample(image, prompt, target, [page.item.id, *others], TASK, number // stage.pages, "en")


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--stage", required=True, choices=STAGES)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, help="of training to make samples for; default: the stage's")
    args = parser.parse_args()
    stage = STAGES[args.stage]
    if args.steps is not None:
        stage = stage._replace(steps=args.steps)
    if stage.steps < 1:
        parser.error("--steps must be 1 or more")
    with in_one_line():
        make_samples(args.out, stage, args.seed)


if __name__ == "__main__":
    main()
