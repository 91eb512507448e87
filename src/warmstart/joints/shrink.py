"""8 bits instead of 32: made with the run's training images, measured on those held out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from warmstart.delivery.export import quantised
from warmstart.errors import ExportError
from warmstart.events import Event, Steps
from warmstart.joints.both import judge_both
from warmstart.joints.looks import spread
from warmstart.joints.processors import n_threads
from warmstart.joints.reopened import Pixels, Reopened
from warmstart.records import Example, Gap, Shrunk
from warmstart.words import nouns_of

CALIBRATED = 128  # training images that ranges are taken from
MEASURED = 2000  # images, at most, that both graphs answer
LOOKED_AT = 8  # images of a part, at most, that tell whether it is still there
ROUNDS = 30  # timed passes of one image each
TOO_MUCH = 0.02  # of accuracy lost; less, if it cannot be chance, is too much as well

Inputs = NDArray[np.generic]
Feed = Callable[[Pixels], Inputs]  # prepared images to what the graph takes


def shrink(
    graph: bytes, images: Reopened, feed: Feed, input_name: str
) -> Steps[tuple[bytes, Shrunk]]:
    """The graph in 8 bits, and what that costs and brings.

    Raises: ExportError if the images that it takes are not there.
    """
    learn = images.of("train")
    chosen = [learn[place] for place in spread(np.arange(len(learn)), CALIBRATED)]
    batches = [feed(pixels) for _, pixels in images.batches(chosen)]
    n = sum(map(len, batches))
    if n < min(CALIBRATED, len(chosen)) / 2:
        many = nouns_of(images.record.kind).many
        raise ExportError(
            f"--int8 takes its ranges from the run's training {many}, and "
            f"{n:,} of {len(chosen):,} are where they were; name their place with --data, or "
            "leave --int8 away."
        )
    small = quantised.quantise(graph, batches, input_name)
    told = yield from _measured(graph, small, images, feed, n)
    return small, told


def _measured(
    graph: bytes, small: bytes, images: Reopened, feed: Feed, calibrated: int
) -> Steps[Shrunk]:
    threads = n_threads()
    before, after = quantised.session(graph, threads), quantised.session(small, threads)
    which, examples = _held_out(images)
    there: list[Example] = []
    answers: list[NDArray[np.float32]] = []  # of both graphs, (2, m, K) each
    one: Inputs | None = None
    for batch, pixels in images.batches(examples):
        inputs = feed(pixels)
        one = inputs[:1] if one is None else one
        both = [quantised.run(made, inputs) for made in (before, after)]
        answers.append(np.stack(both))
        there += batch
        yield Event(stage="evaluate", kind="step", step=len(there), of=len(examples))
    if one is None:
        raise ExportError(
            f"--int8 is measured on {nouns_of(images.record.kind).many} of the run, and none is "
            "where it was; name their "
            "place with --data, or leave --int8 away."
        )
    said = np.concatenate(answers, axis=1)
    judged = judge_both(said, there, images.record)
    gap = judged.gap
    seconds_before, seconds = quantised.seconds_each(before, after, one, ROUNDS)
    found = Gap(value=gap.value, low=gap.low, high=gap.high, n=len(there))
    too_much = is_too_much(found)
    return Shrunk(
        images=which, accuracy=judged.after, accuracy_before=judged.before, metric=judged.metric,
        gap=found, same_labels=judged.same, calibrated_on=calibrated,
        bytes=len(small), bytes_before=len(graph), seconds=seconds,
        seconds_before=seconds_before, is_too_much=too_much, sentence=_sentence(found, too_much),
    )  # fmt: skip


def _held_out(images: Reopened) -> tuple[Literal["test", "holdout", "train"], list[Example]]:
    """Images that nothing was learnt from, where the run has any."""
    splits: tuple[Literal["test", "holdout", "train"], ...] = ("test", "holdout", "train")
    for split in splits:
        found = images.of(split)
        if any(images.pixels(example) is not None for example in found[:LOOKED_AT]):
            return split, [found[row] for row in spread(np.arange(len(found)), MEASURED)]
    return "train", []


def is_too_much(gap: Gap) -> bool:
    """Whether 8 bits lose more accuracy than they should.

    >>> [is_too_much(Gap(value=v, low=-1, high=h, n=9)) for v, h in
    ...  ((-0.005, 0.01), (-0.03, 0.01), (-0.005, -0.001))]
    [False, True, True]
    """
    return gap.value <= -TOO_MUCH or gap.high < 0


def _sentence(gap: Gap, too_much: bool) -> str:
    if too_much:
        return "this loss is too large: use the export without --int8"
    if gap.low < -TOO_MUCH:
        return "no loss was seen, and one of more than 2 points is not ruled out by so few images"
    return "no loss that matters"
