"""What the checks look at: settled data, its look, its rows."""

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
from warmstart.nouns import Nouns, nouns_of
from warmstart.planning import rules
from warmstart.planning.facts import DataFacts
from warmstart.planning.feature_layers import LayerWeights, probe_layers
from warmstart.planning.rules import Budget
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
from warmstart.training.head_families import Family
from warmstart.training.linear_probe import families
from warmstart.training.prior import NOTHING, SUFFIX, Inheritance, Prior
from warmstart.training.selection import SelectionProblem, groups_within
from warmstart.training.stacked_ridge import STACK

# ---- Examples to rows: who learns, who is scored, who depends on whom.


ReadFeatures = Callable[[FeatureLayer], Features]
Reader = Callable[[Sequence[Example]], ReadFeatures]  # from examples to the reader of their taps

LEAST_GROUPS = 10  # blocks that a draw for the evidence should hold, on average


@dataclass(frozen=True, slots=True)
class LabelledRows:
    """The examples a head learns from, in rows, and the test part beside them.

    Shapes: labels (n,) over `learn`; test_labels (m,) over `test`; blocks number dependent
    rows. `holdout` counts the rows, last in order, that the user set apart. Labels are what
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
    columns: tuple[ColumnPlan, ...] | None = None  # what those of a table are taken for
    kind: Kind = "image"

    @property
    def strata(self) -> NDArray[np.int64]:
        """One number a learning row, the class: what draws are kept alike in. Shapes: (n,)."""
        return self.target.strata(self.labels)

    @property
    def folding(self) -> Truth:
        """What folds of the learning rows are kept alike in. Shapes: (n,) or (n, K)."""
        return self.target.folding(self.labels)

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
        """What the examples are called."""
        return nouns_of(self.kind)

    @property
    def n_train(self) -> int:
        """Learning rows that are not set apart; they come first."""
        return len(self.learn) - self.holdout

    def groups(self) -> NDArray[np.int64]:
        """The block number of each learning row. Shapes: (n,)."""
        return number_groups(self.group_rows)


def arrange(record: DataRecord) -> LabelledRows:
    """Sort examples into learning rows (hold-out last) and test rows, and find their blocks.

    Blocks are found in the training part and in the hold-out apart: what crosses between
    them is reported as a leak, and must not tie one to the other.
    Raises: DataError if too few blocks are left to hold one out and still choose by another.
    """
    parts = {s: [e for e in record.examples if e.split == s] for s in ("train", "holdout", "test")}
    train, holdout = parts["train"], parts["holdout"]
    learn = (*train, *holdout)
    group_of = np.concatenate(
        [
            group_numbers(train, record.near_duplicates),
            group_numbers(holdout, record.near_duplicates) + len(train),
        ]
    )
    group_rows = tuple(members(group_of))
    target = target_of(record.task, [example.label for example in learn])
    nouns = nouns_of(record.kind)
    _check_groups(len(np.unique(group_of[: len(train)])), 2 if holdout else 3, nouns)
    return LabelledRows(
        learn=learn,
        test=tuple(parts["test"]),
        labels=target.read([e.label for e in learn], record.classes),
        test_labels=target.read([e.label for e in parts["test"]], record.classes),
        group_rows=group_rows,
        holdout=len(holdout),
        n_classes=len(record.classes),
        near_duplicates=record.near_duplicates,
        target=target,
        names=record.classes,
        columns=record.column_choices,
        kind=record.kind,
    )


def _check_groups(found: int, needed: int, nouns: Nouns) -> None:
    """One block is held out, one judges the choices, at least one is learnt from."""
    if found < needed:
        raise DataError(
            f"the training {nouns.many} form {found} independent set{'s' if found > 1 else ''} "
            f"({nouns.many} with the same bytes, near copies and those of one group belong "
            f"together) and {needed} are needed; add other {nouns.many}, or, if you gave --group, "
            "leave it away."
        )


def selection_problem(labelled: LabelledRows, plan: Plan) -> SelectionProblem:
    """The learning problem with its outer folds; a hold-out is the only fold."""
    n, seed, n_folds = len(labelled.learn), plan.training.seed.value, plan.head.outer_folds.value
    if labelled.holdout:
        outer: tuple[Rows, ...] = (np.arange(n - labelled.holdout, n),)
    else:
        rng = np.random.default_rng(int(seed))  # type: ignore[arg-type]
        fold = folds(labelled.folding, labelled.groups(), int(n_folds), rng)  # type: ignore[arg-type]
        outer = tuple(np.flatnonzero(fold == f) for f in range(int(fold.max()) + 1))
    return SelectionProblem(
        labelled.labels, labelled.n_classes, labelled.group_rows, outer, labelled.target
    )


def selection_problem_on(labelled: LabelledRows, keep: Rows) -> SelectionProblem:
    """The learning problem of some rows alone, without outer folds. Shapes: keep (m,)."""
    group_rows = groups_within(labelled.group_rows, keep, len(labelled.learn))
    return SelectionProblem(
        labelled.labels[keep], labelled.n_classes, tuple(group_rows), (), labelled.target
    )


def draw_rows(labelled: LabelledRows, most: int, seed: int) -> Rows:
    """Training rows to measure on: all, or a stratified draw of whole blocks, about `most`.

    Where blocks are too few to draw from, some rows of every block are drawn.
    """
    n = labelled.n_train
    rng = np.random.default_rng([seed, 1])
    pool = np.arange(n)
    if n > most and rules.LEAST_A_CLASS * labelled.n_classes > most:
        # A row or two of each class tell nothing: some classes, with all their rows.
        size = n // labelled.n_classes
        a_class = size if size < 2 * rules.LEAST_A_CLASS else rules.LEAST_A_CLASS
        count = max(most // max(a_class, 1), 2)
        chosen = rng.choice(labelled.n_classes, size=min(count, labelled.n_classes), replace=False)
        pool = np.flatnonzero(np.isin(labelled.strata[:n], chosen))
    parts = -(-len(pool) // most)
    if parts < 2:
        return pool
    groups, labels = labelled.groups()[pool], labelled.folding[pool]
    if len(np.unique(groups)) >= LEAST_GROUPS * parts:
        drawn: Rows = pool[folds(labels, groups, parts, rng) == 0]
        return drawn
    draw = folds(labels, np.arange(len(pool)), parts, rng)
    draws = [pool[draw == part] for part in range(parts)]
    return max(draws, key=lambda rows: len(np.unique(labelled.groups()[rows])))


def labels_among(rows: Rows, labelled: LabelledRows) -> Truth:
    """The labels of chosen rows, numbered anew where a class is missing. Shapes: (m,)."""
    return labelled.target.among(labelled.labels[rows])


def groups_among(rows: Rows, labelled: LabelledRows) -> list[Rows]:
    """The blocks of chosen rows, or what was chosen of them, numbered by their place there."""
    return members(labelled.groups()[rows])


def members(groups: NDArray[np.int64]) -> list[Rows]:
    """The rows of each block, in order of its number.

    >>> [rows.tolist() for rows in members(np.array([7, 2, 7]))]
    [[1], [0, 2]]
    """
    counts = np.unique(groups, return_counts=True)[1]
    return np.split(np.argsort(groups, kind="stable"), np.cumsum(counts)[:-1])


def heads(
    plan: Plan,
    shapes: Mapping[str, LayerWeights],
    read: ReadFeatures,
    n: int,
    prior: Prior | None = None,
) -> dict[str, Family]:
    """The candidate heads of the plan over stored features, simplest first.

    `prior`: an older head that those called `PROFILE+prior` go on from.
    """
    names = [str(name) for name in as_tuple(plan.head.candidates)]
    penalties = [float(value) for value in as_tuple(plan.head.penalties)]
    seed = int(plan.training.seed.value)  # type: ignore[arg-type]
    return heads_of(names, penalties, shapes, read, n, seed, prior)


def heads_of(
    names: Sequence[str],
    penalties: Sequence[float],
    shapes: Mapping[str, LayerWeights],
    read: ReadFeatures,
    n: int,
    seed: int,
    prior: Prior | None = None,
) -> dict[str, Family]:
    """The same for candidates and penalties that stand in no plan."""
    kernels: Mapping[str, Array] = {}
    if n <= rules.DUAL_LIMIT:
        wanted = {name: shapes[name] for name in probe_layers_of(names)}
        kernels = kernels_of(wanted, read, n)
    return families(names, shapes, kernels, read, penalties, seed, prior)


def kernels_of(
    wanted: Mapping[str, LayerWeights], read: ReadFeatures, n: int
) -> Mapping[str, Array]:
    """One kernel (n, n) a profile; taps are read one by one, for all would fill the memory.

    Those of stored rows are kept, where something is.
    """
    feature_layers = sorted({t for shape in wanted.values() for t in shape}, key=lambda t: t.name)

    def make() -> Mapping[str, Array]:
        found = mixed_kernels(((layer, read(layer)) for layer in feature_layers), wanted)
        for kernel in found.values():
            kernel.flags.writeable = False
        return found

    kept = active_refit_cache()
    if kept is None or not isinstance(read, StoredFeatures):
        return make()
    shares = tuple((name, tuple(shape.items())) for name, shape in wanted.items())
    return kept.get(("kernels", read.key, shares), 8 * n * n * len(wanted), make)


def probe_layers_of(names: Sequence[str]) -> tuple[str, ...]:
    """The depth profiles behind candidate heads, each once.

    >>> probe_layers_of(("logistic", "last", "late", "stack"))
    ('last', 'late')
    """
    return tuple(dict.fromkeys(layer_weights_of(name) for name in names if name != STACK))


def layer_weights_of(name: str) -> str:
    """The depth profile behind a candidate head of a plan."""
    return "last" if name in ("class-mean", "logistic") else name.removesuffix(SUFFIX)


def as_tuple(choice: Choice) -> tuple[Plain, ...]:
    """The values of a choice that has several."""
    return choice.value if isinstance(choice.value, tuple) else (choice.value,)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingDataset:
    """Settled data, the look at it, and how closely to check it."""

    collection: Collection
    extracted: ExtractedFeatures
    labelled: LabelledRows
    prep: Inputs
    probe_layers: dict[str, LayerWeights]
    budget: Budget
    seed: int
    base: BaseModelRecord | None = None  # None: not known
    prior: Prior | None = None  # the head of a run, where classes have the same name

    def pair(self) -> dict[str, LayerWeights]:
        """The last tap, and all parts alike: two mixtures that no label has touched."""
        names = ("last", "equal") if "equal" in self.probe_layers else ("last",)
        return {name: self.probe_layers[name] for name in names}

    @property
    def basis(self) -> Basis:
        """What the verdict calls that which labels are learnt from."""
        return basis_of(self.base, self.labelled.nouns)

    @property
    def feature_layers(self) -> tuple[FeatureLayer, ...]:
        """The taps of the pair: one vector a part, or the last alone."""
        return tuple([*self.pair().values()][-1])

    def examples(self, rows: Rows) -> list[Example]:
        """The examples of some learning rows."""
        return [self.labelled.learn[row] for row in rows]

    def vectors(self, rows: Rows) -> dict[FeatureLayer, Features]:
        """The taps of the pair for some learning rows, from the store. Shapes: each (m, d_t)."""
        read = self.extracted.reader(self.examples(rows))
        return {layer: read(layer) for layer in self.feature_layers}

    def kernels(self, features: Sequence[Features]) -> list[Array]:
        """One kernel (m, m) of each of the pair, from one array (m, d_t) a tap."""
        return [
            *mixed_kernels(zip(self.feature_layers, features, strict=True), self.pair()).values()
        ]


@dataclass(frozen=True, slots=True)
class Sample:
    """Some training rows with what is measured on them. Shapes: labels (m,), rows (m,)."""

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
    """Arrange settled data for the checks. Raises: DataError if too few blocks are left."""
    return TrainingDataset(
        collection=inherited.with_leak(collection),
        extracted=extracted,
        labelled=arrange(collection.record),
        prep=base.preprocessing,
        probe_layers=probe_layers(extracted.feature_layers),
        budget=budget,
        seed=seed,
        base=base,
        prior=inherited.prior,
    )


def draw(training_data: TrainingDataset, most: int) -> Sample:
    """About `most` training rows; a hold-out and a test part are not looked at."""
    rows = draw_rows(training_data.labelled, most, training_data.seed)
    vectors = training_data.vectors(rows)
    return Sample(
        rows=rows,
        labels=labels_among(rows, training_data.labelled),
        group_rows=groups_among(rows, training_data.labelled),
        vectors=vectors,
        kernels=training_data.kernels([*vectors.values()]),
    )
