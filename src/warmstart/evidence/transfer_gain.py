"""What does pretraining add on this data?

The same head on the same images: on the pretrained network, on the network with shuffled weights,
and on raw pixels. Transfer gain is the pretrained network's accuracy minus that of the better of
the two controls (RECIPE §4; Kornblith et al. 2019).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from scipy.special import stdtrit

from warmstart.events import Event, Steps
from warmstart.evidence.probe import Probe, best_left_out, not_measured
from warmstart.modalities.image import IMAGE
from warmstart.network.shuffled import control_features, halve_images, layer_scales
from warmstart.nouns import Nouns
from warmstart.planning import rules
from warmstart.records.summary import Evidence
from warmstart.solve.ridge import Array, Rows
from warmstart.stats.intervals import kish, number_groups, standard_error
from warmstart.tasks.classify import CLASSIFICATION
from warmstart.tasks.task import Target, Truth
from warmstart.tasks.words import signed_points

SHUFFLE_SD = 0.03  # least standard deviation of accuracy assumed between shuffles
NORMAL_95 = 1.645
CLEAR = 3.0  # standard errors above 0 from which more images would not change the answer


def transfer_gain(
    trained: Sequence[Array],
    shuffles: Sequence[Sequence[Array]],
    pixels: Sequence[Array],
    labels: Truth,
    group_rows: Sequence[Rows],
    target: Target = CLASSIFICATION,
    nouns: Nouns = IMAGE.nouns,
) -> Evidence:
    """Accuracy of the pretrained network minus that of the better control.

    Shapes: kernels (n, n), of each list the best counts, with a list per shuffled network; labels
    (n,); groups partition the rows. Details: `error` (standard error of the difference, including
    the spread between shuffles), the three accuracies, `shuffles`.
    """
    if len(group_rows) < 2:
        reason = f"Not measured: the {nouns.many} compared all belong to one group."
        return replace(not_measured("transfer_gain", len(labels), reason), details={"error": 0.0})
    k, groups = target.n_outputs(labels), number_groups(group_rows)

    def hits(kernels: Sequence[Array]) -> Array:
        return best_left_out(kernels, labels, group_rows, k, target).hits(labels)

    own, raw = hits(trained), hits(pixels)
    shuffled = np.array([hits(kernels) for kernels in shuffles])
    by_shuffle = shuffled.mean(axis=1)
    is_pixels = float(raw.mean()) > float(by_shuffle.mean())
    control = raw if is_pixels else shuffled.mean(axis=0)
    value = float(own.mean() - control.mean())
    # Never below one row in n, or two networks that err on the same rows would differ for certain.
    paired = max(standard_error(own - control, groups), 1.0 / len(control))
    spread = 0.0
    if not is_pixels:
        variance = float(np.var(by_shuffle, ddof=1)) if len(by_shuffle) > 1 else 0.0
        spread = max(variance, SHUFFLE_SD**2) / len(by_shuffle)
    # Wider for few groups, by the t quantile.
    few = float(stdtrit(max(kish(groups) - 1, 1.0), 0.95)) / NORMAL_95
    error = few * float(np.sqrt(paired**2 + spread))
    scores = {
        "trained": float(own.mean()),
        "shuffled": float(by_shuffle.mean()),
        "pixels": float(raw.mean()),
    }
    percent = {name: f"{100 * score:.0f} %" for name, score in scores.items()}
    comparison = (
        f"a quick linear probe {target.words.does.format(percent['trained'])} with the pretrained "
        f"weights, {percent['shuffled']} with the same weights shuffled, {percent['pixels']} "
        f"from {nouns.plain}"
    )
    return Evidence(
        name="transfer_gain",
        value=value,
        low=max(value - 1.96 * error, -1.0),
        high=min(value + 1.96 * error, 1.0),
        n=len(labels),
        meaning=(
            f"On {nouns.count(len(labels))} {comparison}: pretraining is worth "
            f"{signed_points(value)} points here."
        ),
        details={**scores, "shuffles": len(shuffles), "error": error},
    )


def is_clear(evidence: Evidence) -> bool:
    """Whether the transfer gain is positive so clearly that more images would not change it."""
    return (evidence.value or 0.0) - CLEAR * float(evidence.details["error"]) > 0


def measure_transfer_gain(
    probe_of: Callable[[int], Probe], n_classes: int, seed: int
) -> Steps[Evidence]:
    """Measure on few images and shuffles first, on more where the answer is not clear."""
    (few, least), (many, most) = rules.TRANSFER_GAIN_STAGES
    enough, kernels = min(5 * n_classes, rules.TRANSFER_GAIN_MOST), list[list[Array]]()
    first = probe_of(max(few, enough))
    scale_images = first.images[: rules.SCALE_IMAGES]
    scales = layer_scales(first.extractor(), scale_images, first.normalise())
    evidence = yield from _transfer_gain(first, least, seed, kernels, scales)
    if is_clear(evidence):
        return evidence
    second = probe_of(max(many, enough))
    if len(second.rows) > len(first.rows):  # else the kernels of the first shuffles serve again
        kernels.clear()
    return (yield from _transfer_gain(second, most, seed, kernels, scales))


def _transfer_gain(
    probe: Probe, shuffles: int, seed: int, kernels: list[list[Array]], scales: Sequence[float]
) -> Steps[Evidence]:
    """Add the kernels of the missing shuffles to `kernels`, then compare."""
    extractor, normalise = probe.extractor(), probe.normalise()
    images = halve_images(extractor, probe.images, normalise)
    for number in range(len(kernels), shuffles):
        rng = np.random.default_rng([seed, 4, number])
        feature_layers = control_features(extractor, images, normalise, rng, scales)
        kernels.append(probe.training_data.kernels(feature_layers))
        yield Event(stage="checks", kind="step", step=number + 1, of=shuffles)
    controls, rows = (probe.cached(), kernels, probe.plain()), (probe.labels(), probe.group_rows())
    labelled = probe.training_data.labelled
    return transfer_gain(*controls, *rows, labelled.target, labelled.nouns)
