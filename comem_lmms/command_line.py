"""Whether lmms-eval's command line runs us, and how a mistake of its user ends it."""

import sys
from pathlib import Path
from types import FrameType
from typing import NoReturn

_FILE = str(Path("lmms_eval", "__main__.py"))


def runs() -> int:
    """How many evaluations the command line of lmms-eval was started for; 0 if it was not, as in Python.

    It prints a traceback of every exception and ends with status 0, so what is for the user must end it.
    """
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_code.co_name == "cli_evaluate" and frame.f_code.co_filename.endswith(_FILE):
            return len(frame.f_locals.get("args_list", ())) or 1
        frame = frame.f_back
    return 0


def stop(*lines: object) -> NoReturn:
    """Ends the program with status 2 after a line for each mistake."""
    print("\n".join(f"comem-lmms: {line}" for line in lines), file=sys.stderr)
    sys.exit(2)
