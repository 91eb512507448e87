"""What the checks look at: settled data, its look, its rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from warmstart.data.collection import Collection
from warmstart.joints.lineage import NOTHING, Inherited
from warmstart.joints.look import Look
from warmstart.joints.rows import Arranged, arrange, draw_rows, groups_among, labels_among
from warmstart.planning.basis import Basis, basis_of
from warmstart.planning.profiles import Profile, profiles
from warmstart.planning.rules import Budget
from warmstart.records import Example, Inputs, StartRecord, Tap
from warmstart.solve.kernels import Features, mixed_kernels
from warmstart.solve.ridge import Array, Rows
from warmstart.tasks.target import Truth
from warmstart.training.prior import Prior


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """Settled data, the look at it, and how closely to check it."""

    collection: Collection
    look: Look
    arranged: Arranged
    prep: Inputs
    profiles: dict[str, Profile]
    budget: Budget
    seed: int
    start: StartRecord | None = None  # None: not known
    prior: Prior | None = None  # the head of a run, where classes have the same name

    def pair(self) -> dict[str, Profile]:
        """The last tap, and all parts alike: two mixtures that no label has touched."""
        names = ("last", "equal") if "equal" in self.profiles else ("last",)
        return {name: self.profiles[name] for name in names}

    @property
    def basis(self) -> Basis:
        """What the verdict calls that which labels are learnt from."""
        return basis_of(self.start, self.arranged.nouns)

    @property
    def taps(self) -> tuple[Tap, ...]:
        """The taps of the pair: one vector a part, or the last alone."""
        return tuple([*self.pair().values()][-1])

    def examples(self, rows: Rows) -> list[Example]:
        """The examples of some learning rows."""
        return [self.arranged.learn[row] for row in rows]

    def vectors(self, rows: Rows) -> dict[Tap, Features]:
        """The taps of the pair for some learning rows, from the store. Shapes: each (m, d_t)."""
        read = self.look.reader(self.examples(rows))
        return {tap: read(tap) for tap in self.taps}

    def kernels(self, features: Sequence[Features]) -> list[Array]:
        """One kernel (m, m) of each of the pair, from one array (m, d_t) a tap."""
        return [*mixed_kernels(zip(self.taps, features, strict=True), self.pair()).values()]


@dataclass(frozen=True, slots=True)
class Sample:
    """Some training rows with what is measured on them. Shapes: labels (m,), rows (m,)."""

    rows: Rows
    labels: Truth
    groups: list[Rows]
    vectors: dict[Tap, Features]
    kernels: list[Array]


def set_scene(
    collection: Collection,
    look: Look,
    start: StartRecord,
    budget: Budget,
    seed: int,
    inherited: Inherited = NOTHING,
) -> Scene:
    """Arrange settled data for the checks. Raises: DataError if too few blocks are left."""
    return Scene(
        collection=inherited.told(collection), look=look, arranged=arrange(collection.record),
        prep=start.preprocessing, profiles=profiles(look.taps), budget=budget, seed=seed,
        start=start, prior=inherited.prior,
    )  # fmt: skip


def draw(scene: Scene, most: int) -> Sample:
    """About `most` training rows; a hold-out and a test part are not looked at."""
    rows = draw_rows(scene.arranged, most, scene.seed)
    vectors = scene.vectors(rows)
    return Sample(
        rows=rows,
        labels=labels_among(rows, scene.arranged),
        groups=groups_among(rows, scene.arranged),
        vectors=vectors,
        kernels=scene.kernels([*vectors.values()]),
    )
