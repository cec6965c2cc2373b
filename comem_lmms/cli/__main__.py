"""``python -m comem_lmms.cli``, for launchers that take a module."""

import sys

from comem_lmms.cli import main

if __name__ == "__main__":
    sys.exit(main())
