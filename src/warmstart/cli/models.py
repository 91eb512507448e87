"""`warmstart models [WORD]`: base models that can be used without a download."""

from __future__ import annotations

from warmstart.cli.options import PLAIN, Call, Verb
from warmstart.cli.output import print_result
from warmstart.terminal import tables


def models(call: Call) -> int:
    """Run `warmstart models`."""
    from warmstart.network.registry import models as list_models

    word = call.places[0] if call.places else ""
    listing = list_models(word)
    print_result(call, listing, lambda: tables.models_text(listing, word))
    return 0


VERB = Verb(
    words="models [WORD]",
    needs=(),
    short="list the base models on this computer",
    about="""Lists the pretrained networks that can be used here without a download; with WORD,
    those whose name contains it.""",
    options=PLAIN,
    examples=("warmstart models", "warmstart fit photos/ --base lite2  # fine-tune one of them"),
    run=models,
)
