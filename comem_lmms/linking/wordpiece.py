"""Texts to token ids as bert-base-uncased has them: lower case, no accents, pieces of words."""

from collections.abc import Sequence
from pathlib import Path

from comem_lmms.errors import UserError, one_line
from comem_lmms.files import fetch

VOCABULARY = "vocab.txt"
REPOSITORY, REVISION = "google-bert/bert-base-uncased", "86b5e0934494bd15c9632b12f734a8a67f723594"


class WordPiece:
    """A tokeniser with the vocabulary of a file, one token a line; any number of threads may use it.

    Not transformers' ``BertTokenizer(vocab_file=...)``, whose version 5 gives [UNK] for every word.

    Attributes:
        n_tokens: ids are below it.
    """

    def __init__(self, vocabulary: Path) -> None:
        from tokenizers import BertWordPieceTokenizer

        if not vocabulary.is_file():
            raise UserError(f"the vocabulary {vocabulary} does not exist; take {VOCABULARY} of bert-base-uncased")
        try:
            self._tokenizer = BertWordPieceTokenizer(str(vocabulary), lowercase=True)
        except Exception as error:  # tokenizers raises nothing narrower
            raise UserError(
                f"cannot read the vocabulary {vocabulary} ({one_line(error)}); take {VOCABULARY} of bert-base-uncased"
            ) from error
        if self._tokenizer.token_to_id("[UNK]") is None:
            raise UserError(f"the vocabulary {vocabulary} has no [UNK]; take {VOCABULARY} of bert-base-uncased")
        self.n_tokens = max(self._tokenizer.get_vocab().values()) + 1

    def __call__(self, text: str) -> Sequence[int]:
        """The token ids of a text."""
        return self._tokenizer.encode(_whole(text), add_special_tokens=False).ids

    def all(self, texts: Sequence[str]) -> list[Sequence[int]]:
        """The token ids of each text, by all processors."""
        encoded = self._tokenizer.encode_batch(list(map(_whole, texts)), add_special_tokens=False)
        return [one.ids for one in encoded]


def default_vocabulary() -> Path:
    """That of bert-base-uncased, from the Hub or its cache.

    Raises:
        UserError: it is in neither.
    """
    try:
        return fetch(REPOSITORY, VOCABULARY, revision=REVISION) / VOCABULARY
    except UserError as error:
        raise UserError(
            f"the vocabulary of {REPOSITORY} cannot be had from the Hub; name its {VOCABULARY} by --vocabulary"
        ) from error


def _whole(text: str) -> str:
    return text.encode("utf-8", "replace").decode()  # as titles are kept
