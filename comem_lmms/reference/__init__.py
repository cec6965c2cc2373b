"""The reference implementation's checkpoints and its exact behaviour, bugs included (docs/fidelity.md)."""

from comem_lmms.reference.checkpoint import Checkpoint, fingerprint
from comem_lmms.reference.convert import convert
from comem_lmms.reference.loading import check, check_reader, is_reference, load, load_encoder, load_parts
from comem_lmms.reference.merge import merge
from comem_lmms.reference.reading import ReferenceEncoder, ReferenceReader, ReferenceVLM, TextReader

__all__ = [
    "Checkpoint",
    "ReferenceEncoder",
    "ReferenceReader",
    "ReferenceVLM",
    "TextReader",
    "check",
    "check_reader",
    "convert",
    "fingerprint",
    "is_reference",
    "load",
    "load_encoder",
    "load_parts",
    "merge",
]
