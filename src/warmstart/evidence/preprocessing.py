"""Does the preprocessing match the base model's? The same head under other preprocessings.

With another brightness, contrast or channel order than in pretraining a network gives worse
features, and nothing else reveals it. A warning needs a gain that chance does not explain.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from scipy.special import ndtri

from warmstart.evidence.domain_gap import mean_divergence
from warmstart.evidence.probe import Pixels, Probe, best_left_out, not_measured
from warmstart.features.batches import to_tensor
from warmstart.modalities.image import IMAGE
from warmstart.modalities.registry import modality_of
from warmstart.network.batch_norm import NormStatistics, norm_statistics
from warmstart.network.feature_layers import FeatureExtractor
from warmstart.network.shuffled import forward_images, halve_images
from warmstart.nouns import Nouns
from warmstart.planning import rules
from warmstart.records.findings import Finding
from warmstart.records.inputs import Inputs, pictures
from warmstart.records.summary import Evidence
from warmstart.solve.ridge import Array, Rows
from warmstart.stats.intervals import number_groups, standard_error
from warmstart.tasks.classify import CLASSIFICATION
from warmstart.tasks.task import Target, Truth
from warmstart.tasks.words import Words, points

Moments = tuple[tuple[float, ...], tuple[float, ...]]  # mean and std per channel, of 0..1

USUAL: dict[str, Moments] = {
    "mean 0.5, spread 0.5": ((0.5,) * 3, (0.5,) * 3),
    "ImageNet's mean and spread": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "0 to 1": ((0.0,) * 3, (1.0,) * 3),
    "0 to 255": ((0.0,) * 3, (1 / 255,) * 3),
}
SWAPPED = "blue and red exchanged"
CLEARLY_NEARER = 0.7  # of the present distance: BatchNorm's statistics support the alternative
AS_NEAR = 1.5  # of the present distance: up to there they do not contradict it
LEVEL = 0.05  # chance of a false warning, shared among the alternatives
Z_IF_NEARER = 1.0  # where BatchNorm's statistics say the same
LEAST = 0.02  # a gain worth a warning
FIRST_BLOCKS = 3  # whose statistics reveal brightness and contrast, at hardly any cost


def worth_trying(
    present: float, others: Mapping[str, float]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Alternatives about as near to BatchNorm's statistics as the present one, and nearer ones.

    `others` holds the domain gap of the first layers under each. On 14 sets with the right
    preprocessing no alternative comes nearer than 0.76; with ImageNet's or without a mean the
    right one is at 0.66 or nearer on 12, at 1.0 on hands and 1.3 on skin.

    >>> worth_trying(0.9, {"0 to 1": 0.1, "0 to 255": 800.0, "other": 1.0})
    (('other',), ('0 to 1',))
    """
    nearer = tuple(name for name, d in others.items() if d < CLEARLY_NEARER * present)
    near = tuple(n for n, d in others.items() if n not in nearer and d < AS_NEAR * present)
    return near, nearer


def preprocessing(
    present: Sequence[Array],
    others: Mapping[str, Sequence[Array]],
    labels: Truth,
    group_rows: Sequence[Rows],
    nearer: Sequence[str] = (),
    target: Target = CLASSIFICATION,
    nouns: Nouns = IMAGE.nouns,
) -> Evidence:
    """Accuracy gain of the best alternative over the present preprocessing, by paired differences.

    Shapes: kernels (n, n), of several the best counts; labels (n,). `nearer` names the
    alternatives that come nearer to BatchNorm's statistics.
    """
    k, groups = target.n_outputs(labels), number_groups(group_rows)
    n = len(labels)
    now = best_left_out(present, labels, group_rows, k, target).hits(labels)
    gains = {
        name: best_left_out(x, labels, group_rows, k, target).hits(labels) - now
        for name, x in others.items()
    }
    if not gains or len(group_rows) < 2:
        is_alone = "No other usual preprocessing comes nearer to the pretraining data."
        one_group = f"Not measured: the {nouns.many} compared all belong to one group."
        return not_measured("preprocessing", n, one_group if gains else is_alone)
    best = max(gains, key=lambda name: float(gains[name].mean()))
    value, error = float(gains[best].mean()), standard_error(gains[best], groups)
    details: dict[str, float | int | str] = {
        f"gain.{name}": float(g.mean()) for name, g in gains.items()
    }
    return Evidence(
        name="preprocessing",
        value=value,
        low=max(value - 1.96 * error, -1.0),
        high=min(value + 1.96 * error, 1.0),
        n=n,
        meaning=(
            f"With {best}, the same linear probe would "
            + (f"gain {points(value)} points." if value > 0 else f"lose {points(-value)} points.")
        ),
        details={**details, "best": best, "error": error, "nearer": int(best in nearer)},
    )


def is_open(evidence: Evidence) -> bool:
    """Whether more images are worthwhile: a gain that may or may not be chance."""
    if evidence.value is None:
        return False
    return evidence.value > 0 and evidence.value > 0.5 * float(evidence.details["error"])


def warning(
    evidence: Evidence, words: Words = CLASSIFICATION.words, nouns: Nouns = IMAGE.nouns
) -> Finding | None:
    """A finding where an alternative is clearly better, else None."""
    value, details = evidence.value, evidence.details
    if value is None or value < LEAST:
        return None
    n_alternatives = sum(name.startswith("gain.") for name in details)
    z = Z_IF_NEARER if details["nearer"] else float(-ndtri(LEVEL / n_alternatives))
    if value - z * float(details["error"]) <= 0:
        return None
    best = str(details["best"])
    return Finding(
        kind="preprocessing",
        sentence=(
            f"The preprocessing of the {nouns.many} does not seem to be the base model's: with "
            f"{best} the same linear probe gains {100 * value:.0f} points of {words.score} "
            f"({nouns.count(evidence.n)}). Use the base model's own preprocessing."
        ),
        items=(best,),
    )


def all_grey(images: np.ndarray) -> bool:
    """Whether exchanging channels changes nothing. Shapes: images (n, H, W, C)."""
    return images.shape[-1] == 1 or bool((images[..., 0] == images[..., -1]).all())


def try_preprocessing(probe_of: Callable[[int], Probe]) -> Evidence:
    """The present preprocessing against usual alternatives that may be better."""
    few, many = rules.PREPROCESSING_STAGES
    probe = probe_of(few)
    blind, nearer = _worth_trying(probe)
    evidence = None if nearer else _compare_preprocessings(probe, blind, nearer)
    if evidence is None or is_open(evidence):
        evidence = _compare_preprocessings(probe_of(many), (*blind, *nearer), nearer)
    return evidence


def _compare_preprocessings(probe: Probe, names: Sequence[str], nearer: Sequence[str]) -> Evidence:
    """Compare on images of half the size: a quarter of the work, the same colours."""
    extractor = probe.extractor()
    images = halve_images(extractor, probe.images, probe.normalise())
    others = {name: _kernels_under(probe, extractor, images, name) for name in names}
    present = _kernels_under(probe, extractor, images, None) if names else probe.cached()
    rows, labelled = (probe.labels(), probe.group_rows()), probe.training_data.labelled
    return preprocessing(present, others, *rows, nearer, labelled.target, labelled.nouns)


def _worth_trying(probe: Probe) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Alternatives to compare, and those that come nearer to BatchNorm's statistics.

    Exchanged channels always; normalisations where BatchNorm's statistics do not contradict them,
    or where there are none.
    """
    inputs = probe.training_data.prep
    if not modality_of(inputs).has_pixels:
        return (), ()
    prep = pictures(inputs)
    names = () if all_grey(probe.images) else (SWAPPED,)
    if prep.channels != 3 or prep.ranges:  # bands are scaled by their own values
        return (), ()
    others = [
        name
        for name, moments in USUAL.items()
        if not np.allclose((prep.mean, prep.std), moments, atol=0.02)
    ]
    now = _first_blocks(probe, prep)
    if not now:
        return (*names, *others), ()
    rows = np.arange(len(now[0].mean))
    gaps = {}
    for name in others:
        mean, std = USUAL[name]
        layers = _first_blocks(probe, replace(prep, mean=mean, std=std))
        gaps[name] = mean_divergence(layers, rows)
    near, nearer = worth_trying(mean_divergence(now, rows), gaps)
    return (*names, *near), nearer


def _first_blocks(probe: Probe, prep: Inputs) -> tuple[NormStatistics, ...]:
    few = to_tensor(probe.images[: rules.FIRST_BLOCKS_IMAGES], prep)
    return norm_statistics(probe.training_data.extracted.network, few, FIRST_BLOCKS)


def _kernels_under(
    probe: Probe, extractor: FeatureExtractor, images: Pixels, name: str | None
) -> list[Array]:
    """Kernels of the network under another preprocessing, or the present one (None)."""
    prep = probe.training_data.prep
    if name == SWAPPED:
        images = np.ascontiguousarray(images[..., ::-1])
    elif name is not None:
        mean, std = USUAL[name]
        prep = replace(pictures(prep), mean=mean, std=std)
    features = forward_images(extractor, images, partial(to_tensor, inputs=prep))
    return probe.training_data.kernels(features)
