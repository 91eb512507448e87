"""What of the training rows is doubted, task by task: their labels, and what gives these away."""

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
from warmstart.inspection.shortcut import edges_of_sets, shortcut
from warmstart.inspection.suspect_numbers import numbers_finding, rank_numbers, suspect_numbers
from warmstart.inspection.suspect_sets import rank_cells, sets_finding, suspect_sets
from warmstart.inspection.suspects import Ranking, rank_suspects, suspect_finding
from warmstart.inspection.telling import telling, telling_of_numbers, telling_of_sets
from warmstart.inspection.twins import Twin
from warmstart.joints.rows import Arranged, groups_among, labels_among
from warmstart.records import Evidence, Finding, Kind, SuspectLabel, Task
from warmstart.solve.ridge import Array, Rows
from warmstart.tasks.numbers import Numbers
from warmstart.tasks.target import Truth

LISTED = 0.1  # share of the labels that suspects.csv lists, whatever is believed of them
LEAST_LISTED = 20
NO_CEILING = Evidence(
    name="ceiling", value=None, low=None, high=None, n=0,
    meaning="Not measured: how right any model can be is told where each example has one class.",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
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
    def most(self) -> int:
        """Lines of suspects.csv, where no more are believed."""
        judged = int(np.isfinite(self.answers[:, 0]).sum())
        return max(LEAST_LISTED, round(LISTED * judged))


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """Labels that look wrong, in words and line by line, and what that means for any model."""

    finding: Finding | None
    suspects: tuple[SuspectLabel, ...]
    ceiling: Evidence = NO_CEILING


class Doubting(Protocol):
    """How the rows of one task are doubted."""

    def labels(self, judged: Judged) -> Labels:
        """Those that the answers contradict."""
        ...

    def files(self, judged: Judged, files: Files, kind: Kind) -> tuple[Finding, ...]:
        """Figures of files that give labels away."""
        ...

    def border(self, judged: Judged, rows: Rows, border: NDArray[np.uint8]) -> Finding | None:
        """Edges of some rows that do. Shapes: border (m, 2, 4, 16, 4) of `Glances`."""
        ...

    def columns(
        self, judged: Judged, columns: Mapping[str, Array], parts: Sequence[Rows]
    ) -> Finding | None:
        """Columns of a table that do. Shapes: (n, d) each."""
        ...


class ClassDoubts:
    """Of one class an example."""

    def labels(self, judged: Judged) -> Labels:
        """And the share of labels that no model can agree with."""
        ids, names, nouns = judged.ids, judged.names, judged.arranged.nouns
        ranking = rank_suspects(judged.answers, judged.truth)
        return Labels(
            finding=suspect_finding(ranking, ids, names, nouns),
            suspects=_suspects(ranking, ids, names, judged.most),
            ceiling=ceiling(ranking, _pairs(judged.arranged, ids), judged.truth, nouns),
        )

    def files(self, judged: Judged, files: Files, kind: Kind) -> tuple[Finding, ...]:
        """By class."""
        rng = np.random.default_rng([judged.seed, 7])
        return cues(files, judged.truth, judged.names, rng, kind)

    def border(self, judged: Judged, rows: Rows, border: NDArray[np.uint8]) -> Finding | None:
        """Edges of one look, and what borders alone tell beside the network."""
        is_judged = np.isfinite(judged.answers[:, 0])
        said, truth = judged.answers[is_judged], judged.truth[is_judged]
        right = float((said.argmax(axis=1) == truth).mean())
        arranged = judged.arranged
        names = [judged.names[number] for number in np.unique(arranged.labels[rows])]
        labels, groups = labels_among(rows, arranged), groups_among(rows, arranged)
        return shortcut(border, labels, names, groups, right)

    def columns(
        self, judged: Judged, columns: Mapping[str, Array], parts: Sequence[Rows]
    ) -> Finding | None:
        """By a small tree a column."""
        return telling(columns, judged.truth, parts, judged.seed)


class SetDoubts:
    """Of several labels an example: whether it has each of them is doubted by itself."""

    def labels(self, judged: Judged) -> Labels:
        """Which label of which example."""
        ids, names = judged.ids, judged.names
        ranking = rank_cells(judged.answers, judged.truth)
        return Labels(
            finding=sets_finding(ranking, ids, names, judged.arranged.nouns),
            suspects=suspect_sets(ranking, ids, judged.truth, names, judged.most),
        )

    def files(self, judged: Judged, files: Files, kind: Kind) -> tuple[Finding, ...]:
        """By label."""
        rng = np.random.default_rng([judged.seed, 7])
        return cues_of_sets(files, judged.truth, judged.names, rng, kind)

    def border(self, judged: Judged, rows: Rows, border: NDArray[np.uint8]) -> Finding | None:
        """Edges of one look."""
        return edges_of_sets(border, judged.truth[rows], judged.names)

    def columns(
        self, judged: Judged, columns: Mapping[str, Array], parts: Sequence[Rows]
    ) -> Finding | None:
        """By a small tree a column and label."""
        return telling_of_sets(columns, judged.truth, judged.names, parts, judged.seed)


class NumberDoubts:
    """Of a number an example."""

    def labels(self, judged: Judged) -> Labels:
        """Numbers further off than the model's own errors explain."""
        target, ids = judged.arranged.target, judged.ids
        said = judged.answers[:, 0]
        natural = target.natural(said) if isinstance(target, Numbers) else said
        labels = [example.label for example in judged.arranged.learn[: len(ids)]]
        ranking = rank_numbers(said, judged.truth)
        suspects = suspect_numbers(ranking, ids, labels, natural, judged.most)
        finding = numbers_finding(ranking, suspects, judged.arranged.nouns)
        return Labels(finding=finding, suspects=suspects)

    def files(self, judged: Judged, files: Files, kind: Kind) -> tuple[Finding, ...]:
        """By the variance that they explain."""
        rng = np.random.default_rng([judged.seed, 7])
        return cues_of_numbers(files, judged.truth, rng, kind)

    def border(self, judged: Judged, rows: Rows, border: NDArray[np.uint8]) -> Finding | None:
        """Not looked at: an edge of one look goes with a class or a label, not with a number."""
        return None

    def columns(
        self, judged: Judged, columns: Mapping[str, Array], parts: Sequence[Rows]
    ) -> Finding | None:
        """By a tree a column."""
        return telling_of_numbers(columns, judged.truth, parts, judged.seed)


DOUBTS: dict[Task, Doubting] = {
    "classify": ClassDoubts(), "multilabel": SetDoubts(), "regress": NumberDoubts(),
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


def _suspects(
    ranking: Ranking, ids: Sequence[str], classes: Sequence[str], most: int
) -> tuple[SuspectLabel, ...]:
    return tuple(
        SuspectLabel(
            id=ids[s.row],
            label=classes[s.given],
            suggested=classes[s.suggested],
            probability=round(s.probability, 4),
            wrong=round(s.wrong, 4),
            believed=place < ranking.reported,
        )
        for place, s in enumerate(ranking.suspects[: max(ranking.reported, most)])
        if s.given != s.suggested
    )
