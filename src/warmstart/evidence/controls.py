"""Evidence that needs more forward passes: shuffled weights, BatchNorm, other preprocessings."""

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
from warmstart.evidence.transfer_gain import is_clear, transfer_gain
from warmstart.features.batches import readable, to_tensor
from warmstart.features.extraction import load_unchanged
from warmstart.features.machine import threads_for
from warmstart.modalities.registry import MODALITIES, modality_of
from warmstart.network.batch_norm import NormStatistics, norm_statistics
from warmstart.network.feature_layers import FeatureExtractor
from warmstart.network.shuffled import control_features, forward_images, halve_images, layer_scales
from warmstart.planning import rules
from warmstart.records.data import Example
from warmstart.records.inputs import Inputs, Preprocessing, pictures
from warmstart.records.summary import Evidence
from warmstart.solve.kernels import mixed_kernels
from warmstart.solve.ridge import Array, Rows
from warmstart.stats.permutation import spread_order
from warmstart.tasks.task import Truth
from warmstart.training.dataset import TrainingDataset, groups_among, labels_among

Pixels = NDArray[np.uint8]
FIRST_BLOCKS = 3  # whose statistics reveal brightness and contrast, at hardly any cost
DISTANCE_DEPTH = 0.6  # early and middle blocks


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


def measure_domain_gap(probe: Probe) -> Evidence:
    """BatchNorm's statistics against these images, in early and middle blocks."""
    training_data = probe.training_data
    network, rng = training_data.extracted.network, np.random.default_rng([training_data.seed, 5])
    n_blocks = max(1, round(DISTANCE_DEPTH * len(network.blocks)))
    layers = norm_statistics(network, to_tensor(probe.images, training_data.prep), n_blocks)
    return domain_gap(layers, n_blocks, rng, training_data.base.name if training_data.base else "")


def try_preprocessing(probe_of: Callable[[int], Probe]) -> Evidence:
    """The present preprocessing against usual alternatives that may be better."""
    few, many = rules.PREPROCESSING_STAGES
    probe = probe_of(few)
    blind, nearer = _worth_trying(probe)
    evidence = None if nearer else _compare_preprocessings(probe, blind, nearer)
    if evidence is None or preprocessing.is_open(evidence):
        evidence = _compare_preprocessings(probe_of(many), (*blind, *nearer), nearer)
    return evidence


def _compare_preprocessings(probe: Probe, names: Sequence[str], nearer: Sequence[str]) -> Evidence:
    """Compare on images of half the size: a quarter of the work, the same colours."""
    extractor = probe.extractor()
    images = halve_images(extractor, probe.images, probe.normalise())
    others = {name: _kernels_under(probe, extractor, images, name) for name in names}
    present = _kernels_under(probe, extractor, images, None) if names else probe.cached()
    rows, labelled = (probe.labels(), probe.group_rows()), probe.training_data.labelled
    return preprocessing.preprocessing(
        present, others, *rows, nearer, labelled.target, labelled.nouns
    )


def _worth_trying(probe: Probe) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Alternatives to compare, and those that come nearer to BatchNorm's statistics.

    Exchanged channels always; normalisations where BatchNorm's statistics do not contradict them,
    or where there are none.
    """
    inputs = probe.training_data.prep
    if not modality_of(inputs).has_pixels:
        return (), ()
    prep = pictures(inputs)
    names = () if preprocessing.all_grey(probe.images) else (preprocessing.SWAPPED,)
    if prep.channels != 3 or prep.ranges:  # bands are scaled by their own values
        return (), ()
    others = [
        name
        for name, moments in preprocessing.USUAL.items()
        if not np.allclose((prep.mean, prep.std), moments, atol=0.02)
    ]
    now = _first_blocks(probe, prep)
    if not now:
        return (*names, *others), ()
    rows = np.arange(len(now[0].mean))
    gaps = {
        name: mean_divergence(_first_blocks(probe, _with(prep, preprocessing.USUAL[name])), rows)
        for name in others
    }
    near, nearer = preprocessing.worth_trying(mean_divergence(now, rows), gaps)
    return (*names, *near), nearer


def _first_blocks(probe: Probe, prep: Inputs) -> tuple[NormStatistics, ...]:
    few = to_tensor(probe.images[: rules.FIRST_BLOCKS_IMAGES], prep)
    return norm_statistics(probe.training_data.extracted.network, few, FIRST_BLOCKS)


def _with(prep: Preprocessing, moments: preprocessing.Moments) -> Preprocessing:
    return replace(prep, mean=moments[0], std=moments[1])


def _kernels_under(
    probe: Probe, extractor: FeatureExtractor, images: Pixels, name: str | None
) -> list[Array]:
    """Kernels of the network under another preprocessing, or the present one (None)."""
    prep = probe.training_data.prep
    if name == preprocessing.SWAPPED:
        images = np.ascontiguousarray(images[..., ::-1])
    elif name is not None:
        prep = _with(pictures(prep), preprocessing.USUAL[name])
    features = forward_images(extractor, images, partial(to_tensor, inputs=prep))
    return probe.training_data.kernels(features)
