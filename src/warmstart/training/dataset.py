"""The training data in rows: labels, groups and folds, with the features extracted for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from warmstart.data.dataset import Collection
from warmstart.data.splits import folds, group_numbers
from warmstart.errors import DataError
from warmstart.features.cache import StoredFeatures
from warmstart.features.extraction import ExtractedFeatures
from warmstart.modalities.image import IMAGE
from warmstart.modalities.registry import MODALITIES
from warmstart.nouns import Nouns
from warmstart.planning import rules
from warmstart.planning.facts import DataFacts
from warmstart.planning.rules import Budget, LayerWeights
from warmstart.planning.verdict import Basis, basis_of
from warmstart.records.data import DataRecord, Example
from warmstart.records.inputs import Inputs, Kind
from warmstart.records.network import BaseModelRecord, FeatureLayer
from warmstart.records.plan import Choice, ColumnPlan, Plain, Plan
from warmstart.refit_cache import active_refit_cache
from warmstart.solve.kernels import Features, mixed_kernels
from warmstart.solve.ridge import Array, Rows
from warmstart.stats.intervals import number_groups
from warmstart.tasks.classify import CLASSIFICATION
from warmstart.tasks.registry import target_of
from warmstart.tasks.task import Target, Truth
from warmstart.training.head_families import (
    NOTHING,
    STACK,
    SUFFIX,
    Family,
    Inheritance,
    Prior,
    ReadFeatures,
    SelectionProblem,
    groups_within,
)
from warmstart.training.linear_probe import families

Reader = Callable[[Sequence[Example]], ReadFeatures]  # from examples to a reader of their features

LEAST_GROUPS = 10  # in a sample for the evidence, on average


@dataclass(frozen=True, slots=True)
class LabelledRows:
    """The examples that a head is fitted on, in rows, and the test set beside them.

    Shapes: labels (n,) over `learn`; test_labels (m,) over `test`; group_rows: the rows of each
    group. `holdout` counts the rows, last in order, of the user's hold-out set. Labels are what
    `target` takes for the truth: (n, K) where examples have several.
    """

    learn: tuple[Example, ...]
    test: tuple[Example, ...]
    labels: Truth
    test_labels: Truth
    group_rows: tuple[Rows, ...]
    holdout: int
    n_classes: int
    near_duplicates: tuple[tuple[str, str], ...] = ()
    target: Target = CLASSIFICATION
    names: tuple[str, ...] = ()  # of the outputs
    columns: tuple[ColumnPlan, ...] | None = None  # of a table
    kind: Kind = IMAGE.kind

    @property
    def strata(self) -> NDArray[np.int64]:
        """The stratum of each training row, for samples: its class. Shapes: (n,)."""
        return self.target.strata(self.labels)

    @property
    def fold_strata(self) -> Truth:
        """What folds of the training rows are stratified by. Shapes: (n,) or (n, K)."""
        return self.target.fold_strata(self.labels)

    def facts(self) -> DataFacts:
        """What a plan needs to know."""
        return DataFacts(
            n=len(self.learn),
            n_groups=len(self.group_rows),
            n_classes=self.n_classes,
            smallest_class=int(np.bincount(self.strata, minlength=self.n_classes).min()),
            holdout=self.holdout,
            columns=self.columns,
            task=self.target.task,
            kind=self.kind,
        )

    @property
    def nouns(self) -> Nouns:
        return MODALITIES[self.kind].nouns

    @property
    def n_train(self) -> int:
        """Training rows outside the hold-out set; they come first."""
        return len(self.learn) - self.holdout

    def groups(self) -> NDArray[np.int64]:
        """The group number of each training row. Shapes: (n,)."""
        return number_groups(self.group_rows)


def arrange(record: DataRecord) -> LabelledRows:
    """Sort examples into training rows (hold-out set last) and test rows, and find their groups.

    Groups are found in the training and the hold-out set separately: what crosses between them is
    reported as data leakage, and must not tie one to the other.
    Raises: DataError if there are too few groups to hold one out and still choose by another.
    """
    train, holdout, test = (
        [example for example in record.examples if example.split == split]
        for split in ("train", "holdout", "test")
    )
    learn = (*train, *holdout)
    train_groups = group_numbers(train, record.near_duplicates)
    holdout_groups = group_numbers(holdout, record.near_duplicates) + len(train)
    target = target_of(record.task, [example.label for example in learn])
    n_groups, needed = len(np.unique(train_groups)), 2 if holdout else 3
    if n_groups < needed:  # one is held out, one judges the choices, at least one is trained on
        many = MODALITIES[record.kind].nouns.many
        raise DataError(
            f"the training {many} form {n_groups} independent set{'s' if n_groups > 1 else ''} "
            f"({many} with the same bytes, near-duplicates and those of one --group belong "
            f"together) and {needed} are needed; add other {many}, or, if you gave --group, "
            "remove it."
        )
    return LabelledRows(
        learn=learn,
        test=tuple(test),
        labels=target.read([e.label for e in learn], record.classes),
        test_labels=target.read([e.label for e in test], record.classes),
        group_rows=tuple(members(np.concatenate([train_groups, holdout_groups]))),
        holdout=len(holdout),
        n_classes=len(record.classes),
        near_duplicates=record.near_duplicates,
        target=target,
        names=record.classes,
        columns=record.column_choices,
        kind=record.kind,
    )


def selection_problem(labelled: LabelledRows, plan: Plan) -> SelectionProblem:
    """The head selection problem with its outer folds; a hold-out set is the only fold."""
    n, labels = len(labelled.learn), labelled.labels
    if labelled.holdout:
        outer: tuple[Rows, ...] = (np.arange(n - labelled.holdout, n),)
    else:
        rng = np.random.default_rng(int(plan.training.seed.number))
        n_folds = int(plan.head.outer_folds.number)
        outer = rows_by_fold(folds(labelled.fold_strata, labelled.groups(), n_folds, rng))
    return SelectionProblem(labels, labelled.n_classes, labelled.group_rows, outer, labelled.target)


def rows_by_fold(fold: Rows) -> tuple[Rows, ...]:
    """The rows of each fold, from the fold number of each row. Shapes: fold (n,)."""
    return tuple(np.flatnonzero(fold == number) for number in range(int(fold.max()) + 1))


def selection_problem_on(labelled: LabelledRows, keep: Rows) -> SelectionProblem:
    """The head selection problem of some rows alone, without outer folds. Shapes: keep (m,)."""
    group_rows = groups_within(labelled.group_rows, keep, len(labelled.learn))
    return SelectionProblem(
        labelled.labels[keep], labelled.n_classes, tuple(group_rows), (), labelled.target
    )


def draw_rows(labelled: LabelledRows, most: int, seed: int) -> Rows:
    """Training rows for the evidence: all, or a stratified sample of whole groups, about `most`.

    Where there are too few groups to sample, some rows of every group are drawn.
    """
    n = labelled.n_train
    rng = np.random.default_rng([seed, 1])
    pool = np.arange(n)
    if n > most and rules.LEAST_PER_CLASS * labelled.n_classes > most:
        # One or two rows per class say nothing: sample some classes, with all their rows.
        size = n // labelled.n_classes
        per_class = size if size < 2 * rules.LEAST_PER_CLASS else rules.LEAST_PER_CLASS
        count = max(most // max(per_class, 1), 2)
        chosen = rng.choice(labelled.n_classes, size=min(count, labelled.n_classes), replace=False)
        pool = np.flatnonzero(np.isin(labelled.strata[:n], chosen))
    n_folds = -(-len(pool) // most)
    if n_folds < 2:
        return pool
    groups, labels = labelled.groups()[pool], labelled.fold_strata[pool]
    if len(np.unique(groups)) >= LEAST_GROUPS * n_folds:
        sample: Rows = pool[folds(labels, groups, n_folds, rng) == 0]
        return sample
    fold = folds(labels, np.arange(len(pool)), n_folds, rng)
    samples = [pool[fold == number] for number in range(n_folds)]
    return max(samples, key=lambda rows: len(np.unique(labelled.groups()[rows])))


def labels_among(rows: Rows, labelled: LabelledRows) -> Truth:
    """The labels of chosen rows, renumbered where a class is missing. Shapes: (m,)."""
    return labelled.target.restrict(labelled.labels[rows])


def groups_among(rows: Rows, labelled: LabelledRows) -> list[Rows]:
    """The groups of chosen rows, as places among them."""
    return members(labelled.groups()[rows])


def members(groups: NDArray[np.int64]) -> list[Rows]:
    """The rows of each group, in order of its number.

    >>> [rows.tolist() for rows in members(np.array([7, 2, 7]))]
    [[1], [0, 2]]
    """
    counts = np.unique(groups, return_counts=True)[1]
    return np.split(np.argsort(groups, kind="stable"), np.cumsum(counts)[:-1])


def heads(
    plan: Plan,
    probe_layers: Mapping[str, LayerWeights],
    read: ReadFeatures,
    n: int,
    prior: Prior | None = None,
    *,
    names: Sequence[str] = (),
    penalties: Sequence[float] = (),
) -> dict[str, Family]:
    """The plan's candidate heads on n rows of cached features, simplest first.

    `prior`: an older head that candidates named `LAYERS+prior` continue. `names` and `penalties`
    replace those of the plan.
    """
    names = names or [str(name) for name in as_tuple(plan.head.candidates)]
    penalties = penalties or [float(value) for value in as_tuple(plan.head.penalties)]
    layer_weights = {name: probe_layers[name] for name in probe_layers_of(names)}
    kernels = kernels_of(layer_weights, read, n) if n <= rules.DUAL_LIMIT else {}
    seed = int(plan.training.seed.number)
    return families(names, probe_layers, kernels, read, penalties, seed, prior)


def kernels_of(
    layer_weights: Mapping[str, LayerWeights], read: ReadFeatures, n: int
) -> Mapping[str, Array]:
    """One kernel (n, n) per name; layers are read one by one, as all would fill the memory.

    Kernels of cached rows go into the refit cache, where there is one.
    """
    layers = sorted(set().union(*layer_weights.values()), key=lambda layer: layer.name)

    def make() -> Mapping[str, Array]:
        kernels = mixed_kernels(((layer, read(layer)) for layer in layers), layer_weights)
        for kernel in kernels.values():
            kernel.flags.writeable = False
        return kernels

    cache = active_refit_cache()
    if cache is None or not isinstance(read, StoredFeatures):
        return make()
    shares = tuple((name, tuple(weights.items())) for name, weights in layer_weights.items())
    return cache.get(("kernels", read.key, shares), 8 * n * n * len(layer_weights), make)


def probe_layers_of(names: Sequence[str]) -> tuple[str, ...]:
    """The names of candidate heads' feature layers, each once."""
    return tuple(dict.fromkeys(layer_weights_of(name) for name in names if name != STACK))


def layer_weights_of(name: str) -> str:
    """The name of the feature layers of a candidate head."""
    return "last" if name in ("class-mean", "logistic") else name.removesuffix(SUFFIX)


def as_tuple(choice: Choice) -> tuple[Plain, ...]:
    """The values of a choice that may have several."""
    return choice.value if isinstance(choice.value, tuple) else (choice.value,)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingDataset:
    """Cleaned data with its extracted features; `prior` is the head of an earlier run."""

    collection: Collection
    extracted: ExtractedFeatures
    labelled: LabelledRows
    prep: Inputs
    probe_layers: dict[str, LayerWeights]
    budget: Budget
    seed: int
    base: BaseModelRecord | None = None  # None: unknown
    prior: Prior | None = None

    def pair(self) -> dict[str, LayerWeights]:
        """The last layer, and all layers with equal weights: mixtures chosen without labels."""
        names = ("last", "equal") if "equal" in self.probe_layers else ("last",)
        return {name: self.probe_layers[name] for name in names}

    @property
    def basis(self) -> Basis:
        """What the verdict calls the features."""
        return basis_of(self.base, self.labelled.nouns)

    @property
    def feature_layers(self) -> tuple[FeatureLayer, ...]:
        """The feature layers of the pair: one per block, or the last alone."""
        return tuple([*self.pair().values()][-1])

    def examples(self, rows: Rows) -> list[Example]:
        """The examples of some training rows."""
        return [self.labelled.learn[row] for row in rows]

    def vectors(self, rows: Rows) -> dict[FeatureLayer, Features]:
        """Cached features of the pair for some training rows. Shapes: each (m, d_t)."""
        read = self.extracted.reader(self.examples(rows))
        return {layer: read(layer) for layer in self.feature_layers}

    def kernels(self, features: Sequence[Features]) -> list[Array]:
        """One kernel (m, m) for each of the pair, from one array (m, d_t) per feature layer."""
        pairs = zip(self.feature_layers, features, strict=True)
        return [*mixed_kernels(pairs, self.pair()).values()]


@dataclass(frozen=True, slots=True)
class Sample:
    """Some training rows with their features. Shapes: labels (m,), rows (m,)."""

    rows: Rows
    labels: Truth
    group_rows: list[Rows]
    vectors: dict[FeatureLayer, Features]
    kernels: list[Array]


def training_dataset(
    collection: Collection,
    extracted: ExtractedFeatures,
    base: BaseModelRecord,
    budget: Budget,
    seed: int,
    inherited: Inheritance = NOTHING,
) -> TrainingDataset:
    """Arrange cleaned data in rows. Raises: DataError if there are too few groups."""
    return TrainingDataset(
        collection=inherited.with_leak(collection),
        extracted=extracted,
        labelled=arrange(collection.record),
        prep=base.preprocessing,
        probe_layers=rules.probe_layers(extracted.feature_layers),
        budget=budget,
        seed=seed,
        base=base,
        prior=inherited.prior,
    )


def draw(training_data: TrainingDataset, most: int) -> Sample:
    """About `most` training rows; hold-out and test set stay unseen."""
    labelled = training_data.labelled
    rows = draw_rows(labelled, most, training_data.seed)
    vectors = training_data.vectors(rows)
    return Sample(
        rows=rows,
        labels=labels_among(rows, labelled),
        group_rows=groups_among(rows, labelled),
        vectors=vectors,
        kernels=training_data.kernels([*vectors.values()]),
    )
