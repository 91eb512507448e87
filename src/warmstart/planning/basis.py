"""What a run stands on, in the verdict's sentences: a start, one's own network, nothing yet."""

from __future__ import annotations

from dataclasses import dataclass, replace

from warmstart.records import StartRecord
from warmstart.words import IMAGES, Nouns


@dataclass(frozen=True, slots=True, kw_only=True)
class Basis:
    """Pieces of sentences about what the labels are learnt from."""

    given: str  # after "The labels can be learnt"
    output: str  # what is fitted where no layer is trained
    train: str  # what training layers is, as an order
    training: str  # the same, as a subject
    trained: str  # the same, as a participle
    untried: str  # what was compared where layers were not trained
    nouns: Nouns = IMAGES  # what the examples are called


START = Basis(
    given="from this start",
    output="A new output on the frozen network",
    train="Tune deeper: training the upper layers too",
    training="tuning deeper",
    trained="tuned",
    untried="only new outputs on the frozen network were compared",
)
OWN = Basis(
    given="with your network",
    output=START.output,
    train=START.train,
    training=START.training,
    trained=START.trained,
    untried=START.untried,
)
# A network that was drawn at random has learnt nothing that labels could be learnt from.
BLANK = Basis(
    given="from these columns",
    output="An output on the columns and on layers that have learnt nothing",
    train="Train the layers: that",
    training="training the layers",
    trained="trained",
    untried="only outputs on the columns, and on layers that have learnt nothing, were compared",
)


def basis_of(start: StartRecord | None, nouns: Nouns = IMAGES) -> Basis:
    """The words for a start; of a network of the user's own nobody knows what it has learnt.

    >>> basis_of(None).given
    'from this start'
    """
    if start is not None and start.is_drawn:
        return replace(BLANK, nouns=nouns)
    is_own = start is not None and start.arch.startswith("module:")
    return replace(OWN if is_own else START, nouns=nouns)
