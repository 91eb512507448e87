"""Evidence that needs the network again: controls without knowledge, other ways to feed it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from warmstart.data.collection import Collection
from warmstart.data.glance import plain_features
from warmstart.data.prepare import load_image
from warmstart.events import Event, Steps
from warmstart.features.engine import normalised
from warmstart.inspection import preprocessing as habits
from warmstart.inspection.distance import distance, mean_divergence
from warmstart.inspection.knowledge import Controls, is_clear, knowledge
from warmstart.joints.look import Look, load_same
from warmstart.joints.rows import Arranged, groups_among
from warmstart.network.control import Rows, control_features, halved, layer_scales, pass_images
from warmstart.network.statistics import NormSeen, norm_statistics
from warmstart.network.taps import Tapped
from warmstart.planning import rules
from warmstart.planning.profiles import Profile
from warmstart.records import Evidence, Preprocessing, Tap
from warmstart.solve.kernels import mixed_kernels
from warmstart.solve.ridge import Array
from warmstart.stats.draws import spread_order

Pixels = NDArray[np.uint8]
FIRST_PARTS = 3  # whose statistics tell brightness and contrast, at hardly any cost
DISTANCE_DEPTH = 0.6  # early and middle parts


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """A few training images in a fixed order, and the network to pass them through.

    Shapes: rows (m,) of `arranged.learn`, every prefix with the classes in proportion.
    """

    look: Look
    arranged: Arranged
    prep: Preprocessing
    profiles: Mapping[str, Profile]  # over one vector a part
    images: Pixels  # (m, H, W, C): decoded once
    rows: NDArray[np.intp]

    @property
    def taps(self) -> tuple[Tap, ...]:
        """One vector a part."""
        return tuple({tap: None for profile in self.profiles.values() for tap in profile})

    def labels(self) -> NDArray[np.int64]:
        """Shapes: (m,), numbered anew where a class is missing among them."""
        return np.unique(self.arranged.labels[self.rows], return_inverse=True)[1]

    def groups(self) -> list[NDArray[np.intp]]:
        """Blocks among the images."""
        return groups_among(self.rows, self.arranged)

    def kernels(self, features: Sequence[NDArray[np.float32]]) -> list[Array]:
        """One kernel a profile from one array (m, d_t) a tap."""
        return [*mixed_kernels(zip(self.taps, features, strict=True), self.profiles).values()]

    def stored(self) -> list[Array]:
        """Kernels of the trained network, from the store."""
        read = self.look.reader([self.arranged.learn[row] for row in self.rows])
        return self.kernels([read(tap) for tap in self.taps])

    def plain(self) -> list[Array]:
        """Kernels of plain pixels: each kind alone, and all together."""
        kinds = plain_features(self.look.glances([self.arranged.learn[row] for row in self.rows]))
        shapes = {name: {name: 1.0} for name in kinds}
        shapes["all"] = dict.fromkeys(kinds, 1 / len(kinds))
        return [*mixed_kernels(kinds.items(), shapes).values()]


def open_probe(
    collection: Collection, look: Look, arranged: Arranged, prep: Preprocessing,
    profiles: Mapping[str, Profile], seed: int,
) -> Callable[[int], Probe]:  # fmt: skip
    """A function that decodes the first m images of one fixed order."""
    n = len(arranged.learn) - arranged.holdout
    rng = np.random.default_rng([seed, 3])
    # Row by row: a few whole blocks may be one, and then none is left to judge by.
    order, _ = spread_order(arranged.labels[:n], [np.array([row]) for row in range(n)], rng)
    torch.set_num_threads(look.threads)  # a look from the store has not set them
    decoded: list[Pixels] = []

    def decode(row: int) -> Pixels:
        example = arranged.learn[row]
        return load_image(load_same(collection, example), example.id, prep)

    def probe(m: int) -> Probe:
        rows = order[:m]
        with ThreadPoolExecutor(look.threads) as pool:
            decoded.extend(pool.map(decode, rows[len(decoded) :]))
        images = np.stack(decoded[: len(rows)])
        return Probe(
            look=look, arranged=arranged, prep=prep, profiles=profiles, images=images, rows=rows
        )

    return probe


def weigh_knowledge(
    open_images: Callable[[int], Probe], n_classes: int, seed: int
) -> Steps[Evidence]:
    """Few images and shuffles first; more where the answer is not plain."""
    (few, least), (many, most) = rules.KNOWLEDGE_STAGES
    enough = min(5 * n_classes, rules.KNOWLEDGE_MOST)
    found = yield from _knowledge(open_images(max(few, enough)), least, seed)
    if is_clear(found):
        return found
    return (yield from _knowledge(open_images(max(many, enough)), most, seed))


def _knowledge(probe: Probe, shuffles: int, seed: int) -> Steps[Evidence]:
    tapped = Tapped(probe.look.network, probe.taps)
    normalise = partial(normalised, preprocessing=probe.prep)
    scales = layer_scales(tapped, probe.images[: rules.SCALE_IMAGES], normalise)
    images, kernels = halved(tapped, probe.images, normalise), []
    for number in range(shuffles):
        rng = np.random.default_rng([seed, 4, number])
        taps = control_features(tapped, images, normalise, rng, scales)
        kernels.append(probe.kernels(taps))
        yield Event(stage="check", kind="step", step=number + 1, of=shuffles)
    controls = Controls(trained=probe.stored(), shuffles=kernels, pixels=probe.plain())
    return knowledge(controls, probe.labels(), probe.groups())


def measure_distance(probe: Probe, seed: int, start: str = "") -> Evidence:
    """BatchNorm's old statistics against these images, in early and middle parts."""
    parts = max(1, round(DISTANCE_DEPTH * len(probe.look.network.parts)))
    inputs = normalised(probe.images, probe.prep)
    layers = norm_statistics(probe.look.network, inputs, parts)
    return distance(layers, parts, np.random.default_rng([seed, 5]), start)


def try_preprocessing(open_images: Callable[[int], Probe]) -> Evidence:
    """The present way to feed images in against the usual others that may be better."""
    few, many = rules.PREPROCESSING_STAGES
    probe = open_images(few)
    blind, nearer = _worth_trying(probe)
    found = None if nearer else _compare_habits(probe, blind, nearer)
    if found is None or habits.is_open(found):
        found = _compare_habits(open_images(many), (*blind, *nearer), nearer)
    return found


def _compare_habits(probe: Probe, names: Sequence[str], nearer: Sequence[str]) -> Evidence:
    """All ways alike on images of half the size: a quarter of the work, the same colours."""
    tapped = Tapped(probe.look.network, probe.taps)
    images = halved(tapped, probe.images, partial(normalised, preprocessing=probe.prep))
    others = {name: _fed(probe, tapped, images, name) for name in names}
    present = _fed(probe, tapped, images, None) if names else probe.stored()
    return habits.preprocessing(present, others, probe.labels(), probe.groups(), nearer)


def _worth_trying(probe: Probe) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What is tried without a hint, and what comes nearer to BatchNorm's old statistics.

    Exchanged channels are always tried; normalisations where BatchNorm's statistics do not
    speak against them, or where there are none.
    """
    names: tuple[str, ...] = () if habits.all_grey(probe.images) else (habits.SWAPPED,)
    if probe.prep.channels != 3:
        return (), ()
    others = [name for name, moments in habits.USUAL.items() if not _is_present(probe, moments)]
    now = _first_parts(probe, probe.prep)
    if not now:
        return (*names, *others), ()
    rows = np.arange(len(now[0].mean))
    far = {
        name: mean_divergence(_first_parts(probe, _with(probe.prep, habits.USUAL[name])), rows)
        for name in others
    }
    near, nearer = habits.worth_trying(mean_divergence(now, rows), far)
    return (*names, *near), nearer


def _first_parts(probe: Probe, prep: Preprocessing) -> tuple[NormSeen, ...]:
    few = probe.images[: rules.FIRST_PARTS_IMAGES]
    return norm_statistics(probe.look.network, normalised(few, prep), FIRST_PARTS)


def _is_present(probe: Probe, moments: habits.Moments) -> bool:
    return bool(np.allclose((probe.prep.mean, probe.prep.std), moments, atol=0.02))


def _with(prep: Preprocessing, moments: habits.Moments) -> Preprocessing:
    return replace(prep, mean=moments[0], std=moments[1])


def _fed(probe: Probe, tapped: Tapped, images: Pixels, name: str | None) -> list[Array]:
    """Kernels of the network where the images are fed in another way, or as now (None)."""
    prep = probe.prep
    if name == habits.SWAPPED:
        images = np.ascontiguousarray(images[..., ::-1])
    elif name is not None:
        prep = _with(prep, habits.USUAL[name])
    found: Rows = pass_images(tapped, images, partial(normalised, preprocessing=prep))
    return probe.kernels(found)
