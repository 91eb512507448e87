"""`warmstart models [WORD]`: pretrained networks usable here without a download."""

from __future__ import annotations

from warmstart.cli.output import dumps
from warmstart.cli.parse import Call
from warmstart.terminal import tables


def models(call: Call) -> int:
    """`warmstart models`: what a run can begin from here."""
    from warmstart.network.registry import models as listed

    word = call.places[0] if call.places else ""
    found = listed(word)
    print(dumps(found, indent=2) if "--json" in call.switches else tables.models_text(found, word))
    return 0
