"""`warmstart compare`: runs on the same examples, or strategies that are run first."""

from __future__ import annotations

from warmstart.cli.output import NO_SIGNAL, dumps, settle_imports, watcher
from warmstart.cli.parse import Call
from warmstart.cli.request import names_in, request_of
from warmstart.cli.stop import stoppable
from warmstart.errors import UsageError
from warmstart.events import Event, follow
from warmstart.records.comparison import Comparison
from warmstart.terminal import compare_text


def compare(call: Call) -> int:
    """`warmstart compare`: progress on stderr; 3 where the data of all runs have no signal.

    Raises: UsageError for options that say how to run what is not run.
    """
    found = _run_first(call) if "--strategies" in call.values else _as_they_are(call)
    print(
        dumps(found, indent=2) if "--json" in call.switches else compare_text.comparison_text(found)
    )
    return NO_SIGNAL if {run.verdict for run in found.runs} == {"no-signal"} else 0


def _run_first(call: Call) -> Comparison:
    with watcher(call) as watch:
        watch.show(Event(stage="read", kind="begin"))
        from warmstart.run.fit import fit
        from warmstart.run.strategies import compare_strategies as steps

        settle_imports()
        with stoppable(watch.show) as see:
            strategies = names_in(call.values["--strategies"])
            return follow(steps(call.places, strategies, request_of(call), fit), see)


def _as_they_are(call: Call) -> Comparison:
    from warmstart.run.compare import compare as compared

    settle_imports()
    idle = [*call.values, *call.many, *(call.switches & {"--fix", "--strict"})]
    if idle:
        raise UsageError(
            f"{idle[0]} says how strategies are run; add --strategies head,full, or leave "
            f"{idle[0]} away to compare runs that are finished."
        )
    return compared(*call.places)
