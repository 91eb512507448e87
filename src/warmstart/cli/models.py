"""`warmstart models [WORD]`: base models that can be used without a download."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from warmstart.cli.options import PLAIN, Call, Verb
from warmstart.cli.output import print_result
from warmstart.formatting import printable
from warmstart.terminal.text import shortened, window

if TYPE_CHECKING:
    from warmstart.network.registry import ModelListing


def models_text(models: Sequence[ModelListing], word: str = "") -> str:
    """Base models available without a download; `word` is what the user searched for."""
    if not models:
        return (
            f"No base model on this computer matches `{printable(word)}`. List all: "
            "warmstart models"
        )
    name_width = max(len(base.name) for base in models) + 2
    lines = []
    for base in models:
        facts = [f"{base.parameters / 1e6:.1f} M parameters" if base.parameters else ""]
        facts.append(f"{base.size_px} px" if base.size_px else "")
        end = ", ".join(fact for fact in facts if fact)
        width = max(window() - name_width - len(end) - 2, 10)
        title = shortened(base.title, width)
        lines.append(f"{base.name:<{name_width}}{title:<{min(width, 34)}}  {end}".rstrip())
    return "\n".join([*lines, "", "Fine-tune one of them: warmstart fit DATA --base NAME"])


def models(call: Call) -> int:
    """Run `warmstart models`."""
    from warmstart.network.registry import models as list_models

    word = call.places[0] if call.places else ""
    listing = list_models(word)
    print_result(call, listing, lambda: models_text(listing, word))
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
