"""`warmstart models [WORD]`: base models that can be used without a download."""

from __future__ import annotations

from warmstart.cli.output import print_result
from warmstart.cli.parse import Call
from warmstart.terminal import tables


def models(call: Call) -> int:
    """Run `warmstart models`."""
    from warmstart.network.registry import models as list_models

    word = call.places[0] if call.places else ""
    listing = list_models(word)
    print_result(call, listing, lambda: tables.models_text(listing, word))
    return 0
