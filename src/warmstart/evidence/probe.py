"""A quick linear probe, judged on rows that it has not seen: what most evidence is made of.

On cached features, on a few decoded images that the network sees again, and on raw inputs, the
control without a network; and the permutation test whether it has learnt anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from warmstart.data.thumbnails import plain_features
from warmstart.features.batches import readable, to_tensor
from warmstart.features.extraction import load_unchanged
from warmstart.features.machine import threads_for
from warmstart.modalities.registry import MODALITIES, modality_of
from warmstart.network.feature_layers import FeatureExtractor
from warmstart.records.data import Example
from warmstart.records.network import FeatureLayer
from warmstart.records.summary import Evidence
from warmstart.solve import ridge
from warmstart.solve.calibration import Calibration
from warmstart.solve.kernels import Features, mixed_kernels
from warmstart.solve.ridge import Array, Dual, Rows
from warmstart.stats.intervals import kish, number_groups
from warmstart.stats.paired import mean_interval
from warmstart.stats.permutation import PermutationTest, permutation_test, spread_order
from warmstart.tasks.classify import CLASSIFICATION
from warmstart.tasks.task import Target, Truth
from warmstart.tasks.words import signal_text, signed_points
from warmstart.training.dataset import TrainingDataset, groups_among, labels_among

Pixels = NDArray[np.uint8]
PENALTIES = (0.1, 1.0)


def not_measured(name: str, n: int, reason: str) -> Evidence:
    """Evidence without a value; `reason` is a sentence."""
    return Evidence(name=name, value=None, low=None, high=None, n=n, meaning=reason)


@dataclass(frozen=True, slots=True)
class LeftOut:
    """The probe of lowest log-loss and its scores (n, K), each row's without its group.

    `number` is the index of its kernel.
    """

    number: int
    penalty: float
    dual: Dual
    scores: Array
    calibration: Calibration
    target: Target = CLASSIFICATION

    def hits(self, labels: Truth) -> Array:
        """1 for each correct row, else 0; for other tasks each row's share of the score.

        Shapes: labels (n,), or as the target takes them; returns (n,).
        """
        return self.target.credits(self.scores, labels)

    def probabilities(self) -> Array:
        """Calibrated probabilities, each row's without its group. Shapes: (n, K)."""
        return self.target.answers(self.scores, self.calibration)


def best_left_out(
    kernels: Iterable[Array],
    labels: Truth,
    group_rows: Sequence[Rows],
    n_classes: int,
    target: Target = CLASSIFICATION,
) -> LeftOut:
    """Fit ridge on each kernel at each penalty; return the fit of lowest log-loss.

    Shapes: kernels (n, n), labels (n,); groups partition the rows. The choice is slightly
    optimistic, equally so in everything that is compared.
    """
    targets = target.encode(labels, n_classes)
    # One by one: each holds an inverse as large as its kernel.
    fits = (
        _left_out(number, kernel, penalty, targets, labels, group_rows, target)
        for number, kernel in enumerate(kernels)
        for penalty in PENALTIES
    )
    return min(fits, key=lambda fit: fit[0])[1]


def best_probabilities(
    kernels: Iterable[Array],
    labels: Truth,
    group_rows: Sequence[Rows],
    n_classes: int,
    target: Target = CLASSIFICATION,
) -> Array:
    """Probabilities of the probe that `best_left_out` returns, without keeping its inverse.

    Shapes: kernels (n, n), labels (n,); returns (n, K).
    """
    targets = target.encode(labels, n_classes)
    least, probabilities = np.inf, np.full(targets.shape, np.nan)
    for number, kernel in enumerate(kernels):
        for penalty in PENALTIES:
            loss, head = _left_out(number, kernel, penalty, targets, labels, group_rows, target)
            if loss < least:
                least, probabilities = loss, head.probabilities()
            del head  # before the next inverse is made
    return probabilities


def _left_out(
    number: int,
    kernel: Array,
    penalty: float,
    targets: Array,
    labels: Truth,
    group_rows: Sequence[Rows],
    target: Target,
) -> tuple[float, LeftOut]:
    """The log-loss of one probe, and the probe."""
    dual = ridge.fit(kernel, targets, penalty)
    scores = ridge.left_out(dual, group_rows)
    calibration = target.calibrate(scores, labels)
    loss = float(target.losses(scores, labels, calibration).mean())
    return loss, LeftOut(number, penalty, dual, scores, calibration, target)


def depth(
    feature_layers: Mapping[FeatureLayer, Features],
    kernels: Sequence[Array],
    labels: Truth,
    group_rows: Sequence[Rows],
    target: Target = CLASSIFICATION,
) -> Evidence:
    """Leave-one-out accuracy of each block, and the gain of all layers over the last.

    Shapes: features (n, d), one array per block in order; kernels (n, n) of the last feature layer
    and of the equal mixture; labels (n,). Both kernels are fixed before any label is used, so
    their paired difference has no selection bias.
    """
    mixtures = {layer.name: {layer: 1.0} for layer in feature_layers}
    single = mixed_kernels(feature_layers.items(), mixtures)
    k = target.n_outputs(labels)

    def hits(kernel: Array) -> Array:
        return best_left_out([kernel], labels, group_rows, k, target).hits(labels)

    by_block = {layer.block: float(hits(single[layer.name]).mean()) for layer in feature_layers}
    last, equal = (hits(kernel) for kernel in kernels)
    gain, low, high = mean_interval(equal - last, number_groups(group_rows))
    best = max(by_block, key=lambda block: by_block[block])
    return Evidence(
        name="depth",
        value=gain,
        low=max(low, -1.0),
        high=min(high, 1.0),
        n=len(labels),
        meaning=(
            f"The best single layer is {best} of {max(by_block)}; a quick linear probe on all "
            f"layers instead of the last changes the {target.words.score} by "
            f"{signed_points(gain)} points."
        ),
        details={**{f"block.{k}": score for k, score in by_block.items()}, "best_block": best},
    )


# ---- Can the labels be learnt from this base model's features at all?

TEST_PENALTIES = (0.03, 0.3, 3.0, 30.0)  # label-free grid; the permutations take the same maximum
LEAST_MOVED = 0.25  # share of labels free to move, below which the test has no power
POWER = 0.84  # standard normal quantile of 80 %


def permutation_evidence(
    kernels: Sequence[Array],
    labels: Truth,
    group_rows: Sequence[Rows],
    permutations: int,
    rng: np.random.Generator,
    target: Target = CLASSIFICATION,
) -> Evidence:
    """Permutation test over the kernels of the last feature layer and of all.

    Shapes: each kernel (n, n), labels (n,), groups partition the rows. The value is the
    leave-one-out accuracy; low and high bound the accuracy on shuffled labels (2.5 to 97.5 %).
    Details: `mde`, the smallest effect on accuracy detected with 80 % power (RECIPE §4).
    """
    test = probe_test(kernels, labels, group_rows, permutations, rng, target)
    null = test.null_accuracies
    low, high = (float(bound) for bound in np.quantile(null, [0.025, 0.975]))
    # Groups that leave next to nothing to permute leave next to nothing to detect.
    effect = 1.0
    if test.moved >= LEAST_MOVED:
        n_effective = kish(number_groups(group_rows))  # a lower bound
        error = target.score_error(test.accuracy, n_effective)
        effect = float(np.quantile(null, 0.99) - null.mean()) + POWER * error
    return Evidence(
        name="permutation_test",
        value=test.accuracy,
        low=low,
        high=high,
        n=len(labels),
        meaning=signal_text(target.words, test.accuracy, low, high),
        details={
            "p": test.p,
            "mde": effect,
            "null_mean": float(null.mean()),
            "permutations": test.permutations,
            "moved": test.moved,
        },
    )


def probe_test(
    kernels: Sequence[Array],
    labels: Truth,
    group_rows: Sequence[Rows],
    permutations: int,
    rng: np.random.Generator,
    target: Target,
) -> PermutationTest:
    """The permutation test of the probe of best penalty and kernel. Shapes as above."""
    inverses = [ridge.inverse(kernel, penalty) for kernel in kernels for penalty in TEST_PENALTIES]
    return permutation_test(
        inverses,
        target.identities(labels),
        group_rows,
        rng,
        permutations,
        lambda operators, draws: target.statistics(operators, draws, labels),
    )


# ---- A few decoded images, for evidence that needs the network again.


def plain_kernels(training_data: TrainingDataset, rows: Rows) -> list[Array]:
    """Kernels (m, m) of raw pixels or sound, each kind and all, or of word counts; else none."""
    examples = training_data.examples(rows)
    if modality_of(training_data.prep).has_thumbnails:
        kinds = plain_features(training_data.extracted.thumbnails(examples))
    else:
        modality = MODALITIES[training_data.collection.record.kind]
        kinds = modality.plain_features(readable(training_data.collection, examples))
    if not kinds:
        return []
    shapes = {name: {name: 1.0} for name in kinds}
    if len(kinds) > 1:
        shapes["all"] = dict.fromkeys(kinds, 1 / len(kinds))
    return [*mixed_kernels(kinds.items(), shapes).values()]


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """A few decoded training images and their network.

    Shapes: images (m, H, W, C); rows (m,) of the learning rows, in a fixed order of which every
    prefix has the classes in proportion.
    """

    training_data: TrainingDataset
    images: Pixels
    rows: Rows

    def extractor(self) -> FeatureExtractor:
        """The network up to the feature layers of the evidence."""
        network = self.training_data.extracted.network
        return FeatureExtractor(network, self.training_data.feature_layers)

    def normalise(self) -> Callable[[Pixels], torch.Tensor]:
        """The base model's own preprocessing."""
        return partial(to_tensor, inputs=self.training_data.prep)

    def labels(self) -> Truth:
        """Shapes: (m,), renumbered where a class is missing among them."""
        return labels_among(self.rows, self.training_data.labelled)

    def group_rows(self) -> list[Rows]:
        return groups_among(self.rows, self.training_data.labelled)

    def cached(self) -> list[Array]:
        """Kernels of the pretrained network, from the feature cache."""
        return self.training_data.kernels([*self.training_data.vectors(self.rows).values()])

    def plain(self) -> list[Array]:
        """Kernels of the control without any network."""
        kernels = plain_kernels(self.training_data, self.rows)
        if kernels:
            return kernels
        flat = self.images.reshape(len(self.images), -1).astype(np.float32)
        return [*mixed_kernels([("plain", flat)], {"plain": {"plain": 1.0}}).values()]


def open_probe(training_data: TrainingDataset) -> Callable[[int], Probe]:
    """A function that decodes the first m images of one fixed order."""
    n = training_data.labelled.n_train
    rng = np.random.default_rng([training_data.seed, 3])
    # Row by row: a few whole groups may be a single one, which leaves nothing to compare with.
    singles = [np.array([row]) for row in range(n)]
    order, _ = spread_order(training_data.labelled.strata[:n], singles, rng)
    # Features from the cache have not set them.
    torch.set_num_threads(threads_for(training_data.extracted.network.record))
    decoded: list[Pixels] = []

    def decode(example: Example) -> Pixels:
        payload = load_unchanged(training_data.collection, example)
        return modality_of(training_data.prep).encode(payload, example.id, training_data.prep)

    def probe(m: int) -> Probe:
        rows = order[:m]
        with ThreadPoolExecutor(training_data.extracted.threads) as pool:
            decoded.extend(pool.map(decode, training_data.examples(rows[len(decoded) :])))
        return Probe(training_data=training_data, images=np.stack(decoded[: len(rows)]), rows=rows)

    return probe
