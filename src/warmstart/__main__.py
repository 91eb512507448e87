"""`python -m warmstart` and the `warmstart` command."""

from __future__ import annotations

import sys

from warmstart.cli import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
