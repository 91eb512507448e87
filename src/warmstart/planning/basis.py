"""What a run stands on, in the verdict's sentences: a start, one's own network, nothing yet."""

from __future__ import annotations

from dataclasses import dataclass, replace

from warmstart.records import StartRecord
from warmstart.words import IMAGES, Nouns


@dataclass(frozen=True, slots=True, kw_only=True)
class Basis:
    """Pieces of sentences about what the labels are learnt from."""

    given: str  # after "The labels can be learnt"
    head: str  # what is fitted where no layer is trained
    training: str  # training layers, as a subject at the beginning of a sentence
    did: str  # what was done where the user chose {}
    untried: str  # what was compared where layers were not trained
    is_blank: bool = False  # the layers have learnt nothing yet
    nouns: Nouns = IMAGES  # what the examples are called


START = Basis(
    given="from this base model",
    head="The linear probe (a new head on the frozen network)",
    training="Fine-tuning",
    did="{} was fine-tuned",
    untried="only linear probes on the frozen network were compared",
)
OWN = replace(START, given="with your network")
# A network that was drawn at random has learnt nothing that labels could be learnt from.
BLANK = Basis(
    given="from these columns",
    head="A linear head on the columns and on untrained layers",
    training="Training the layers",
    did="{} was trained",
    untried="only linear heads on the columns and on untrained layers were compared",
    is_blank=True,
)


def basis_of(start: StartRecord | None, nouns: Nouns = IMAGES) -> Basis:
    """The words for a start; of a network of the user's own nobody knows what it has learnt.

    >>> basis_of(None).given
    'from this base model'
    """
    if start is not None and start.is_drawn:
        return replace(BLANK, nouns=nouns)
    is_own = start is not None and start.arch.startswith("module:")
    return replace(OWN if is_own else START, nouns=nouns)
