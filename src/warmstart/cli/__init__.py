"""The command line: words in, an exit code out. Nothing heavy loads before a verb runs."""
