"""What each verb does once its words are understood: call the work, print its result."""

from __future__ import annotations

from collections.abc import Callable

from warmstart.cli.audit import audit
from warmstart.cli.cache import cache
from warmstart.cli.check import check
from warmstart.cli.compare import compare
from warmstart.cli.evaluate import evaluate
from warmstart.cli.export import export
from warmstart.cli.fit import fit
from warmstart.cli.models import models
from warmstart.cli.output import settle_imports
from warmstart.cli.parse import Call
from warmstart.cli.predict import predict
from warmstart.cli.rank import rank
from warmstart.cli.report import report
from warmstart.cli.resume import resume
from warmstart.cli.serve import serve
from warmstart.cli.studio import studio
from warmstart.cli.suggest import suggest
from warmstart.distributed import is_called, told_world


def run(call: Call) -> int:
    """Do what a call asks for and print the result; returns the exit code.

    Of several processes the first alone does what is not shared: all but `fit` and `resume`.
    """
    is_shared = call.verb in ("fit", "resume") and "--dry-run" not in call.switches
    if is_called() and not is_shared and not told_world().is_first:
        return 0
    if call.verb not in ("fit", "resume", "compare"):  # only their imports are worth the trouble
        settle_imports()
    return _CALLS[call.verb](call)


_CALLS: dict[str, Callable[[Call], int]] = {
    "fit": fit,
    "resume": resume,
    "check": check,
    "predict": predict,
    "evaluate": evaluate,
    "compare": compare,
    "rank": rank,
    "audit": audit,
    "export": export,
    "suggest": suggest,
    "serve": serve,
    "studio": studio,
    "report": report,
    "models": models,
    "cache": cache,
}
