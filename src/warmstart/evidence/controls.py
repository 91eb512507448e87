"""Evidence that needs the network again: controls without knowledge, other ways to feed it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from warmstart.data.thumbnails import plain_features
from warmstart.events import Event, Steps
from warmstart.evidence import preprocessing
from warmstart.evidence.domain_gap import domain_gap, mean_divergence
from warmstart.evidence.transfer_gain import Controls, is_clear, transfer_gain
from warmstart.features.batches import texts_of, to_tensor
from warmstart.features.extraction import load_same
from warmstart.features.machine import threads_for
from warmstart.modalities.preprocessing import encode
from warmstart.modalities.text import word_counts
from warmstart.network.batch_norm_statistics import NormStatistics, norm_statistics
from warmstart.network.feature_layers import FeatureExtractor
from warmstart.network.shuffled import control_features, forward_images, halve_images, layer_scales
from warmstart.planning import rules
from warmstart.records.data import Example
from warmstart.records.inputs import Inputs, Preprocessing, WaveInputs, pictures
from warmstart.records.summary import Evidence
from warmstart.solve.kernels import mixed_kernels
from warmstart.solve.ridge import Array, Rows
from warmstart.stats.permutation import spread_order
from warmstart.tasks.task import Truth
from warmstart.training.dataset import TrainingDataset, groups_among, labels_among

# ---- What can be known of examples without any network: kernels of plain pixels or words.


def plain_kernels(training_data: TrainingDataset, rows: Rows) -> list[Array]:
    """Kernels of plain pixels: each kind alone, and all together. Of texts: of plain words.

    Shapes: rows (m,), each kernel (m, m). None of what is neither glanced at nor read.
    """
    examples = training_data.examples(rows)
    if training_data.collection.record.kind == "text":
        words = word_counts([text for _, text in texts_of(training_data.collection, examples)])
        return [*mixed_kernels([("words", words)], {"words": {"words": 1.0}}).values()]
    if not isinstance(training_data.prep, (Preprocessing, WaveInputs)):
        return []
    kinds = plain_features(training_data.extracted.glances(examples))
    shapes = {name: {name: 1.0} for name in kinds}
    shapes["all"] = dict.fromkeys(kinds, 1 / len(kinds))
    return [*mixed_kernels(kinds.items(), shapes).values()]


Pixels = NDArray[np.uint8]
FIRST_BLOCKS = 3  # whose statistics tell brightness and contrast, at hardly any cost
DISTANCE_DEPTH = 0.6  # early and middle parts


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """A few training images in a fixed order, and the network to pass them through.

    Shapes: images (m, H, W, C), decoded once; rows (m,) of the learning rows, every prefix
    with the classes in proportion.
    """

    training_data: TrainingDataset
    images: Pixels
    rows: Rows

    def tapped(self) -> FeatureExtractor:
        """The network up to the taps of the pair."""
        return FeatureExtractor(
            self.training_data.extracted.network, self.training_data.feature_layers
        )

    def labels(self) -> Truth:
        """Shapes: (m,), numbered anew where a class is missing among them."""
        return labels_among(self.rows, self.training_data.labelled)

    def group_rows(self) -> list[Rows]:
        """Blocks among the images."""
        return groups_among(self.rows, self.training_data.labelled)

    def stored(self) -> list[Array]:
        """Kernels of the trained network, from the store."""
        return self.training_data.kernels([*self.training_data.vectors(self.rows).values()])

    def plain(self) -> list[Array]:
        """Kernels of what a control without any network is given."""
        known = plain_kernels(self.training_data, self.rows)
        if known:
            return known
        flat = self.images.reshape(len(self.images), -1).astype(np.float32)
        return [*mixed_kernels([("plain", flat)], {"plain": {"plain": 1.0}}).values()]


def open_probe(training_data: TrainingDataset) -> Callable[[int], Probe]:
    """A function that decodes the first m images of one fixed order."""
    n = training_data.labelled.n_train
    rng = np.random.default_rng([training_data.seed, 3])
    # Row by row: a few whole blocks may be one, and then none is left to judge by.
    singles = [np.array([row]) for row in range(n)]
    order, _ = spread_order(training_data.labelled.strata[:n], singles, rng)
    # A look from the store has not set them.
    torch.set_num_threads(threads_for(training_data.extracted.network.record))
    decoded: list[Pixels] = []

    def decode(example: Example) -> Pixels:
        return encode(load_same(training_data.collection, example), example.id, training_data.prep)

    def probe(m: int) -> Probe:
        rows = order[:m]
        with ThreadPoolExecutor(training_data.extracted.threads) as pool:
            decoded.extend(pool.map(decode, training_data.examples(rows[len(decoded) :])))
        return Probe(training_data=training_data, images=np.stack(decoded[: len(rows)]), rows=rows)

    return probe


def measure_transfer_gain(
    open_images: Callable[[int], Probe], n_classes: int, seed: int
) -> Steps[Evidence]:
    """Few images and shuffles first; more where the answer is not plain."""
    (few, least), (many, most) = rules.TRANSFER_GAIN_STAGES
    enough, kernels = min(5 * n_classes, rules.TRANSFER_GAIN_MOST), list[list[Array]]()
    first = open_images(max(few, enough))
    normalise = partial(to_tensor, inputs=first.training_data.prep)
    scales = layer_scales(first.tapped(), first.images[: rules.SCALE_IMAGES], normalise)
    found = yield from _transfer_gain(first, least, seed, kernels, scales)
    if is_clear(found):
        return found
    second = open_images(max(many, enough))
    if len(second.rows) > len(first.rows):  # else the same shuffles gave the same already
        kernels.clear()
    return (yield from _transfer_gain(second, most, seed, kernels, scales))


def _transfer_gain(
    probe: Probe, shuffles: int, seed: int, kernels: list[list[Array]], scales: Sequence[float]
) -> Steps[Evidence]:
    """`kernels` are those of the first shuffles, where there are some; the others are added."""
    tapped = probe.tapped()
    normalise = partial(to_tensor, inputs=probe.training_data.prep)
    images = halve_images(tapped, probe.images, normalise)
    for number in range(len(kernels), shuffles):
        rng = np.random.default_rng([seed, 4, number])
        feature_layers = control_features(tapped, images, normalise, rng, scales)
        kernels.append(probe.training_data.kernels(feature_layers))
        yield Event(stage="checks", kind="step", step=number + 1, of=shuffles)
    controls = Controls(trained=probe.stored(), shuffles=kernels, pixels=probe.plain())
    labelled = probe.training_data.labelled
    return transfer_gain(
        controls, probe.labels(), probe.group_rows(), labelled.target, labelled.nouns
    )


def measure_domain_gap(probe: Probe) -> Evidence:
    """BatchNorm's old statistics against these images, in early and middle parts."""
    training_data = probe.training_data
    n_blocks = max(1, round(DISTANCE_DEPTH * len(training_data.extracted.network.blocks)))
    layers = norm_statistics(
        training_data.extracted.network, to_tensor(probe.images, training_data.prep), n_blocks
    )
    name = (
        training_data.base.name if training_data.base else ""
    )  # of the reference sets measured with it
    return domain_gap(layers, n_blocks, np.random.default_rng([training_data.seed, 5]), name)


def try_preprocessing(open_images: Callable[[int], Probe]) -> Evidence:
    """The present way to feed images in against the usual others that may be better."""
    few, many = rules.PREPROCESSING_STAGES
    probe = open_images(few)
    blind, nearer = _worth_trying(probe)
    found = None if nearer else _compare_habits(probe, blind, nearer)
    if found is None or preprocessing.is_open(found):
        found = _compare_habits(open_images(many), (*blind, *nearer), nearer)
    return found


def _compare_habits(probe: Probe, names: Sequence[str], nearer: Sequence[str]) -> Evidence:
    """All ways alike on images of half the size: a quarter of the work, the same colours."""
    tapped = probe.tapped()
    images = halve_images(tapped, probe.images, partial(to_tensor, inputs=probe.training_data.prep))
    others = {name: _fed(probe, tapped, images, name) for name in names}
    present = _fed(probe, tapped, images, None) if names else probe.stored()
    labels, group_rows, labelled = probe.labels(), probe.group_rows(), probe.training_data.labelled
    return preprocessing.preprocessing(
        present, others, labels, group_rows, nearer, labelled.target, labelled.nouns
    )


def _worth_trying(probe: Probe) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What is tried without a hint, and what comes nearer to BatchNorm's old statistics.

    Exchanged channels are always tried; normalisations where BatchNorm's statistics do not
    speak against them, or where there are none.
    """
    prep = probe.training_data.prep
    if not isinstance(prep, Preprocessing):
        return (), ()
    names: tuple[str, ...] = (
        () if preprocessing.all_grey(probe.images) else (preprocessing.SWAPPED,)
    )
    if prep.channels != 3 or prep.ranges:  # bands are scaled by their own values: no habit fits
        return (), ()
    others = [
        name for name, moments in preprocessing.USUAL.items() if not _is_present(prep, moments)
    ]
    now = _first_blocks(probe, prep)
    if not now:
        return (*names, *others), ()
    rows = np.arange(len(now[0].mean))
    far = {
        name: mean_divergence(_first_blocks(probe, _with(prep, preprocessing.USUAL[name])), rows)
        for name in others
    }
    near, nearer = preprocessing.worth_trying(mean_divergence(now, rows), far)
    return (*names, *near), nearer


def _first_blocks(probe: Probe, prep: Inputs) -> tuple[NormStatistics, ...]:
    few = probe.images[: rules.FIRST_BLOCKS_IMAGES]
    return norm_statistics(
        probe.training_data.extracted.network, to_tensor(few, prep), FIRST_BLOCKS
    )


def _is_present(prep: Preprocessing, moments: preprocessing.Moments) -> bool:
    return bool(np.allclose((prep.mean, prep.std), moments, atol=0.02))


def _with(prep: Preprocessing, moments: preprocessing.Moments) -> Preprocessing:
    return replace(prep, mean=moments[0], std=moments[1])


def _fed(probe: Probe, tapped: FeatureExtractor, images: Pixels, name: str | None) -> list[Array]:
    """Kernels of the network where the images are fed in another way, or as now (None)."""
    prep = probe.training_data.prep
    if name == preprocessing.SWAPPED:
        images = np.ascontiguousarray(images[..., ::-1])
    elif name is not None:
        prep = _with(pictures(prep), preprocessing.USUAL[name])
    found = forward_images(tapped, images, partial(to_tensor, inputs=prep))
    return probe.training_data.kernels(found)
