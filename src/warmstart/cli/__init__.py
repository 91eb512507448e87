"""The command line: words in, an exit code out. Nothing heavy loads before a verb runs."""

from warmstart.cli.entry import main

__all__ = ["main"]
