"""The bundled micro artefacts, by name: a VLM, a CLIP, a memory encoder, and MicroSeek's knowledge base.

Wherever a model or a knowledge base is asked for, ``micro`` means the one in this folder.
"""

from pathlib import Path
from typing import Literal

NAME = "micro"
Part = Literal["vlm", "clip", "memory_encoder", "knowledge"]


def resolve(name: str, part: Part) -> str:
    """The folder of a bundled part if ``name`` is "micro", else ``name`` itself."""
    return str(Path(__file__).parent / part) if name == NAME else name
