"""`main`: run one command, print an error as one line, return the exit code; help texts."""

from __future__ import annotations

import errno
import gc
import os
import sys
import textwrap
import warnings
from collections.abc import Iterable, Sequence
from contextlib import suppress
from io import TextIOWrapper
from pathlib import Path

from warmstart import __version__
from warmstart.cli import all_verbs, verb_named
from warmstart.cli.options import Verb
from warmstart.cli.parse import parse
from warmstart.cli.stop import INTERRUPTED, Interrupts
from warmstart.errors import WarmstartError

CLOSED_PIPE = 141  # what a shell reports for a program that SIGPIPE ended


def main(argv: Sequence[str] | None = None, interrupts: Interrupts | None = None) -> int:
    """Run one command and return its exit code; `argv` is without the program's name.

    `interrupts` listens to Ctrl-C where the command has a process to itself.

    0 success · 1 the work failed · 2 bad input or usage · 3 no signal in the data · 4 not ready,
    with --strict · 130 interrupted. Never raises; shows a traceback only with --debug.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        with warnings.catch_warnings():
            if "--debug" not in words:
                warnings.simplefilter("ignore")
            code = _run(words)
        if sys.stdout is not None:
            sys.stdout.flush()
        return code
    except BrokenPipeError:  # the reader of our output is gone: flushing must not fail again
        with suppress(OSError, ValueError, AttributeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CLOSED_PIPE
    except (KeyboardInterrupt, Exception) as error:
        return _report(error, words, interrupts or Interrupts(words))


def _run(words: Sequence[str]) -> int:
    if words and words[0] == "help" and len(words) > 1:
        words = [words[1], "--help"]
    if not words or words[0] in ("-h", "--help", "help"):
        print(root_help())
        return 0
    if words[0] in ("--version", "-V", "version"):
        print(f"warmstart {__version__}")
        return 0
    call = parse(words)
    verb = verb_named(call.verb)
    if "--help" in call.switches:
        print(verb_help(verb))
        return 0
    if verb.is_light:
        return verb.run(call)
    if verb.arguments == ("DATA",):
        from warmstart.data.names import check_exists

        check_exists(call.places[0])
    prepare()
    from warmstart.cli.output import settle_imports
    from warmstart.distributed import group_from_environment, is_launched

    # Of several processes only the first does what is not shared.
    is_shared = verb.is_shared and "--dry-run" not in call.switches
    if is_launched() and not is_shared and not group_from_environment().is_first:
        return 0
    if not verb.settles:
        settle_imports()
    return verb.run(call)


def prepare() -> None:
    """Set what torch reads when it is loaded; what the user has set stays."""
    # Idle threads of one library must not spin on the cores that another one needs.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Without it MKL rounds a matrix product depending on its memory alignment, and features of
    # an image would depend on its place in the batch (seen with attention on 2 cores).
    cpu = Path("/proc/cpuinfo")
    flags = cpu.read_text(errors="replace") if cpu.exists() else ""
    branch = "AVX512" if "avx512f" in flags else "AVX2" if "avx2" in flags else ""
    if branch:
        os.environ.setdefault("MKL_CBWR", f"{branch},STRICT")
    # Imports create some hundred thousand objects that all stay: collecting garbage meanwhile
    # finds none and takes a fifth of the time.
    gc.disable()


def _report(error: BaseException, words: Sequence[str], interrupts: Interrupts) -> int:
    from warmstart.terminal.text import error_text

    if "--debug" in words:
        import traceback

        traceback.print_exception(error, file=sys.stderr)
    if isinstance(error, KeyboardInterrupt):
        interrupts.report(str(error.args[0]) if error.args else "")  # the run: see `stoppable`
        return INTERRUPTED
    message, code = explain(error)
    with suppress(BrokenPipeError):
        print(error_text(message, sys.stderr), file=sys.stderr)
    return code


def explain(error: BaseException) -> tuple[str, int]:
    """The message for an error and the exit code."""
    if isinstance(error, WarmstartError):
        return str(error), error.exit_code
    if isinstance(error, MemoryError):
        return "there is not enough memory for this; close other programs and run it again.", 1
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full; make room, then run the same command again.", 1
    what = f"{type(error).__name__}: {error}".rstrip(": ").rstrip(".")
    return f"this is a bug in warmstart: {what}. Run again with --debug and report it.", 1


# ---- Help texts, short enough for one screen.


WIDTH = 80


def root_help() -> str:
    examples = (
        "warmstart fit sample:digits  # needs no images of yours",
        "warmstart fit photos/  # photos/<class>/*.jpg",
        "warmstart predict runs/photos new.jpg",
    )
    lines = [
        f"warmstart {__version__}: fine-tune a pretrained network on your own images, on this",
        "computer, and measure how far its predictions can be trusted.",
        "",
        "Usage: warmstart VERB ...     (warmstart VERB --help explains a verb)",
        "",
        *_columns([(verb.words, verb.short) for verb in all_verbs()], left=26),
        "",
        "DATA is a folder with one sub-folder per class (photos/cat/1.jpg), a table or an",
        "archive. RUN is the folder that fit writes, such as runs/photos.",
        "",
        "Examples:",
        *_examples(examples),
    ]
    return "\n".join(lines)


def verb_help(verb: Verb) -> str:
    options = [(option.signature, option.help) for option in verb.options]
    lines = [
        f"Usage: warmstart {verb.words} [options]",
        "",
        *textwrap.wrap(" ".join(verb.about.split()), WIDTH),
        "",
        "Options:",
        *_columns(options, left=20),
        "",
        "Examples:",
        *_examples(verb.examples),
    ]
    return "\n".join(lines)


def _columns(rows: Iterable[tuple[str, str]], left: int) -> list[str]:
    lines: list[str] = []
    for name, text in rows:
        wrapped = textwrap.wrap(text, WIDTH - left - 2)
        lines.append(f"  {name:<{left}}{wrapped[0]}")
        lines += [" " * (left + 2) + line for line in wrapped[1:]]
    return lines


def _examples(examples: Sequence[str]) -> list[str]:
    rows = [example.partition("  # ") for example in examples]
    left = max((len(command) for command, _, purpose in rows if purpose), default=0) + 3
    return [f"  {command:<{left}}# {why}" if why else f"  {command}" for command, _, why in rows]
