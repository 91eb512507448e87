"""What is checked in the training rows, task by task: labels, and what gives these away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from warmstart.data.glance import Files
from warmstart.inspection.ceiling import ceiling
from warmstart.inspection.cues import cues
from warmstart.inspection.cues_beyond import cues_of_numbers, cues_of_sets
from warmstart.inspection.label_issue_words import of_classes, of_sets
from warmstart.inspection.label_issues import judge_labels, judge_sets
from warmstart.inspection.label_issues_numbers import judge_numbers, of_numbers
from warmstart.inspection.shortcut import edges_of_sets, shortcut
from warmstart.inspection.telling import telling, telling_of_numbers, telling_of_sets
from warmstart.inspection.twins import Twin
from warmstart.joints.rows import Arranged, groups_among, labels_among
from warmstart.records import Evidence, Finding, Kind, LabelIssues, Task, Why
from warmstart.solve.ridge import Array, Rows
from warmstart.tasks.numbers import Numbers
from warmstart.tasks.target import Truth

LISTED = 0.1  # share of the labels that are listed, whatever is counted
LEAST_LISTED = 20
NO_CEILING = Evidence(
    name="ceiling", value=None, low=None, high=None, n=0,
    meaning="Not measured: how right any model can be is told where each example has one class.",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class OutOfFold:
    """The training rows, and what a model says of each without having seen it.

    Shapes: truth (n,) or (n, K), answers (n, K), NaN in rows that no fold held out.
    """

    arranged: Arranged
    names: tuple[str, ...]
    truth: Truth
    answers: Array
    seed: int

    @property
    def ids(self) -> list[str]:
        """Of the rows."""
        return [example.id for example in self.arranged.learn[: len(self.truth)]]

    @property
    def blocks(self) -> NDArray[np.int64]:
        """Which rows are near copies or of one group. Shapes: (n,)."""
        return self.arranged.blocks()[: len(self.truth)]

    @property
    def most(self) -> int:
        """Lines of label_issues.csv, where there are no more issues."""
        judged = int(np.isfinite(self.answers[:, 0]).sum())
        return max(LEAST_LISTED, round(LISTED * judged))


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedLabels:
    """What is said of the labels, and what that means for any model."""

    issues: LabelIssues
    ceiling: Evidence = NO_CEILING


class TaskChecks(Protocol):
    """How the rows of one task are checked."""

    def labels(self, out_of_fold: OutOfFold, excuse: Why | None) -> CheckedLabels:
        """Those that the answers contradict; `excuse` is why they may not be counted."""
        ...

    def files(self, out_of_fold: OutOfFold, files: Files, kind: Kind) -> tuple[Finding, ...]:
        """Figures of files that give labels away."""
        ...

    def border(
        self, out_of_fold: OutOfFold, rows: Rows, border: NDArray[np.uint8]
    ) -> Finding | None:
        """Edges of some rows that do. Shapes: border (m, 2, 4, 16, 4) of `Glances`."""
        ...

    def columns(
        self, out_of_fold: OutOfFold, columns: Mapping[str, Array], parts: Sequence[Rows]
    ) -> Finding | None:
        """Columns of a table that do. Shapes: (n, d) each."""
        ...


class ClassChecks:
    """Of one class an example."""

    def labels(self, out_of_fold: OutOfFold, excuse: Why | None) -> CheckedLabels:
        """And the share of labels that no model can agree with."""
        ids, nouns = out_of_fold.ids, out_of_fold.arranged.nouns
        found = judge_labels(out_of_fold.answers, out_of_fold.truth, out_of_fold.blocks, excuse)
        return CheckedLabels(
            issues=of_classes(found, ids, out_of_fold.names, out_of_fold.most, nouns),
            ceiling=ceiling(found, _pairs(out_of_fold.arranged, ids), out_of_fold.truth, nouns),
        )

    def files(self, out_of_fold: OutOfFold, files: Files, kind: Kind) -> tuple[Finding, ...]:
        """By class."""
        rng = np.random.default_rng([out_of_fold.seed, 7])
        return cues(files, out_of_fold.truth, out_of_fold.names, rng, kind)

    def border(
        self, out_of_fold: OutOfFold, rows: Rows, border: NDArray[np.uint8]
    ) -> Finding | None:
        """Edges of one look, and what borders alone tell beside the network."""
        is_judged = np.isfinite(out_of_fold.answers[:, 0])
        said, truth = out_of_fold.answers[is_judged], out_of_fold.truth[is_judged]
        right = float((said.argmax(axis=1) == truth).mean())
        arranged = out_of_fold.arranged
        names = [out_of_fold.names[number] for number in np.unique(arranged.labels[rows])]
        labels, groups = labels_among(rows, arranged), groups_among(rows, arranged)
        return shortcut(border, labels, names, groups, right)

    def columns(
        self, out_of_fold: OutOfFold, columns: Mapping[str, Array], parts: Sequence[Rows]
    ) -> Finding | None:
        """By a small tree a column."""
        return telling(columns, out_of_fold.truth, parts, out_of_fold.seed)


class SetChecks:
    """Of several labels an example: whether it has each of them is judged by itself."""

    def labels(self, out_of_fold: OutOfFold, excuse: Why | None) -> CheckedLabels:
        """Which label of which example."""
        found = judge_sets(out_of_fold.answers, out_of_fold.truth, out_of_fold.blocks, excuse)
        names, nouns = out_of_fold.names, out_of_fold.arranged.nouns
        issues = of_sets(found, out_of_fold.ids, out_of_fold.truth, names, out_of_fold.most, nouns)
        return CheckedLabels(issues=issues)

    def files(self, out_of_fold: OutOfFold, files: Files, kind: Kind) -> tuple[Finding, ...]:
        """By label."""
        rng = np.random.default_rng([out_of_fold.seed, 7])
        return cues_of_sets(files, out_of_fold.truth, out_of_fold.names, rng, kind)

    def border(
        self, out_of_fold: OutOfFold, rows: Rows, border: NDArray[np.uint8]
    ) -> Finding | None:
        """Edges of one look."""
        return edges_of_sets(border, out_of_fold.truth[rows], out_of_fold.names)

    def columns(
        self, out_of_fold: OutOfFold, columns: Mapping[str, Array], parts: Sequence[Rows]
    ) -> Finding | None:
        """By a small tree a column and label."""
        return telling_of_sets(
            columns, out_of_fold.truth, out_of_fold.names, parts, out_of_fold.seed
        )


class NumberChecks:
    """Of a number an example."""

    def labels(self, out_of_fold: OutOfFold, excuse: Why | None) -> CheckedLabels:
        """Numbers further off than the model's own errors explain."""
        target, ids = out_of_fold.arranged.target, out_of_fold.ids
        said = out_of_fold.answers[:, 0]
        natural = target.natural(said) if isinstance(target, Numbers) else said
        labels = [example.label for example in out_of_fold.arranged.learn[: len(ids)]]
        found = judge_numbers(said, out_of_fold.truth, out_of_fold.blocks, excuse)
        nouns = out_of_fold.arranged.nouns
        return CheckedLabels(
            issues=of_numbers(found, ids, labels, natural, out_of_fold.most, nouns)
        )

    def files(self, out_of_fold: OutOfFold, files: Files, kind: Kind) -> tuple[Finding, ...]:
        """By the variance that they explain."""
        rng = np.random.default_rng([out_of_fold.seed, 7])
        return cues_of_numbers(files, out_of_fold.truth, rng, kind)

    def border(
        self, out_of_fold: OutOfFold, rows: Rows, border: NDArray[np.uint8]
    ) -> Finding | None:
        """Not looked at: an edge of one look goes with a class or a label, not with a number."""
        return None

    def columns(
        self, out_of_fold: OutOfFold, columns: Mapping[str, Array], parts: Sequence[Rows]
    ) -> Finding | None:
        """By a tree a column."""
        return telling_of_numbers(columns, out_of_fold.truth, parts, out_of_fold.seed)


CHECKS: dict[Task, TaskChecks] = {
    "classify": ClassChecks(), "multilabel": SetChecks(), "regress": NumberChecks(),
}  # fmt: skip


def _pairs(arranged: Arranged, ids: Sequence[str]) -> list[Twin]:
    """Copies and near copies as rows of the training part."""
    place = {id: row for row, id in enumerate(ids)}
    inside = [(a, b) for a, b in arranged.twins if a in place and b in place]
    first: dict[str, str] = {}
    for example in arranged.learn[: len(ids)]:  # and the same bytes under two labels
        other = first.setdefault(example.sha256, example.id)
        if other != example.id:
            inside.append((other, example.id))
    return [Twin(place[a], place[b], 1.0, False) for a, b in inside]
