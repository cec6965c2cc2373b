"""The MicroSeek world as a pure function of a seed: a seed in, realms and the questions about them out.

Only numpy's `RandomState` is used, whose streams are frozen for good (NEP 19), so a seed means the same
world with every version of numpy.
"""

from collections.abc import Collection
from typing import NamedTuple

from numpy.random import RandomState

from comem_lmms.microseek.emblem import Emblem, View, portrait, random_emblem, snapshot
from comem_lmms.microseek.words import ATTRIBUTES, NAME_HEADS, NAME_TAILS

SEED = 20250517  # the shipped world
N_REALMS = 1024
N_TEST_REALMS = 128
QUESTIONS_A_REALM = 3
MIN_DISTANCE = 4  # cells by which any two emblems of a world differ at least


class Realm(NamedTuple):
    """One entity: ``facts`` maps attribute keys to values, in the order the page states them."""

    id: str
    name: str
    emblem: Emblem
    portrait: View
    facts: dict[str, str]

    @property
    def text(self) -> str:
        """The page: one sentence a fact."""
        sentence = {a.key: a.sentence for a in ATTRIBUTES}
        return " ".join(sentence[key].format(name=self.name, value=value) for key, value in self.facts.items())


class Question(NamedTuple):
    """One test question: what is asked, about which realm, seen how."""

    id: str
    realm: Realm
    attribute: str
    question: str
    answer: str
    view: View


def make_realms(seed: int, n: int, avoid: Collection[Realm] = ()) -> list[Realm]:
    """``n`` realms whose names differ and whose emblems lie at least MIN_DISTANCE apart, also from those to ``avoid``.

    Raises:
        ValueError: there are fewer than ``n`` names left.
    """
    names = [head + tail for head in NAME_HEADS for tail in NAME_TAILS]
    free = sorted(set(names) - {realm.name for realm in avoid})
    if n > len(free):
        raise ValueError(f"asked for {n} realms but only {len(free)} names are free; ask for fewer")
    rng = RandomState(seed)
    chosen = [free[i] for i in rng.permutation(len(free))[:n]]
    taken = [realm.emblem for realm in avoid]
    realms = []
    for i, name in enumerate(chosen):
        emblem = random_emblem(rng)
        while any(emblem.distance(other) < MIN_DISTANCE for other in taken):
            emblem = random_emblem(rng)
        taken.append(emblem)
        realms.append(Realm(f"realm-{i:04d}", name, emblem, portrait(rng), random_facts(rng)))
    return realms


def random_facts(rng: RandomState) -> dict[str, str]:
    """A value for every attribute, the attributes in random order."""
    order = [ATTRIBUTES[i] for i in rng.permutation(len(ATTRIBUTES))]
    return {a.key: a.values[rng.randint(len(a.values))] for a in order}


def make_questions(seed: int, realms: list[Realm]) -> list[Question]:
    """QUESTIONS_A_REALM questions on each of N_TEST_REALMS realms; every attribute is asked equally often."""
    rng = RandomState(seed + 1)
    test_realms = [realms[i] for i in sorted(rng.permutation(len(realms))[:N_TEST_REALMS])]
    questions = []
    for i, realm in enumerate(test_realms):
        for j in range(QUESTIONS_A_REALM):
            attribute = ATTRIBUTES[(i * QUESTIONS_A_REALM + j) % len(ATTRIBUTES)]
            id_ = f"{realm.id}-{attribute.key}"
            answer = realm.facts[attribute.key]
            questions.append(Question(id_, realm, attribute.key, attribute.question, answer, snapshot(rng)))
    return questions
