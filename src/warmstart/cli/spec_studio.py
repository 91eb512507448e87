"""The verb that is a page of its own."""

from __future__ import annotations

from warmstart.cli.options import DEBUG, GROUP, HELP, JSON, LABEL, START, TASK, Option, Verb

STUDIO = Verb(
    name="studio",
    arguments=("[DATA]",),
    needs=(),
    short="the whole job in a page on this computer",
    about=(
        "Opens a page in the browser: drop pictures on it, let it learn, see which it gets wrong "
        "and which labels look wrong, correct them, learn again, take the model home. DATA, laid "
        "out as for fit, is copied into the studio's folder; your own files are never changed. "
        "The same command opens the studio again as it was left. Only this computer reaches it. "
        "What it needs beside the rest (fastapi) is named where it is missing."
    ),
    options=(
        Option(name="--out", value="FOLDER", help="the studio's folder (default studio/<name>)"),
        START,
        LABEL,
        TASK,
        GROUP,
        Option(name="--port", value="N", help="port (default 8001; 0: any that is free)"),
        Option(name="--no-open", help="do not open the browser"),
        JSON,
        DEBUG,
        HELP,
    ),
    examples=(
        ("warmstart studio photos/", ""),
        ("warmstart studio", "begin with nothing"),
        ("warmstart studio --out studio/untitled", "open that again"),
    ),
)
