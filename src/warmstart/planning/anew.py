"""How long a network is trained that begins with no knowledge, and what that takes."""

from __future__ import annotations

from warmstart.planning import rules
from warmstart.planning.tail import STEP
from warmstart.records import NetworkRecord

# New layers learn the statistics of a batch, and those of few images mislead (Wu & He 2018,
# "Group Normalization", figure 1: the error grows below 16). Signs at 96 px, each of 240 images
# passed 50 times: 78 % of others right by 8 a step, 88 % by 16, 78 % by 32 (failed_ideas.md).
BATCH = 16
# Of the same signs 44 % after 20 passes, 92 % after 120: what knows nothing needs updates.
LEAST, TIMES = 16_000, 120


def passes(n: int) -> int:
    """Images passed from nothing: twice as many as when tuning, a thousand updates at least.

    But none more than 120 times, of 100 images or more.

    >>> [passes(n) for n in (50, 240, 1000, 9000)]
    [12000, 16000, 20000, 32000]
    """
    return max(2 * rules.passes(n), min(LEAST, TIMES * max(n, 100)))


def seconds(network: NetworkRecord, images: float) -> float:
    """About what it takes to train a network from nothing on so many images."""
    macs = sum(part.macs for part in network.parts)
    return rules.usual_seconds(images * STEP * macs)
