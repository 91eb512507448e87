"""Label issues and off-topic images: detection, counts and false alarms."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench import pools, sets
from bench.pools import Labels
from warmstart.evidence import label_issues
from warmstart.evidence.data_checks import detect_shift, find_off_topic
from warmstart.evidence.label_issues import JudgedLabels, judge_labels
from warmstart.evidence.probe import PENALTIES, permutation_evidence
from warmstart.planning import rules
from warmstart.planning.rules import probe_layers
from warmstart.planning.verdict import has_signal
from warmstart.records.data import Why
from warmstart.records.network import FeatureLayer
from warmstart.solve import ridge
from warmstart.solve.kernels import mixed_kernels
from warmstart.tasks.classify import CLASSIFICATION

PLANTED = (
    "ants_bees",
    "cats_dogs",
    "pacs_photo",
    "vehicles",
    "textures10",
    "trashnet",
    "sign_digits",
    "pacs_sketch",
    "clothing",
    "skin_lesions",
)
NOISE = (0.05, 0.1, 0.2)
NOISY = ("wbc_cells", "wbc_cells_site2", "cat_breeds")  # known to hold wrong labels
JOINED = (("pacs_photo", "pacs_sketch"), ("wbc_cells", "wbc_cells_site2"))
SMALL = (60, 100, 150)
LIMITS = (0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5)  # of how often a model may be wrong
ODD = 5  # images of other sets planted into one
# Sets whose images would be no strangers in each other.
AKIN = (
    {"wbc_cells", "wbc_cells_site2"},
    {"car_brands", "vehicles"},
    {"cat_breeds", "cats_dogs", "pacs_photo", "pacs_sketch"},
)
ROOTS = (1.0, 0.5, 0.25)  # powers of features that distances are measured in

Array = NDArray[np.float64]
Rows = NDArray[np.intp]
Row = dict[str, Any]


@dataclass(frozen=True)
class Set:
    """All images of a set; the first `n_train` are its training part."""

    name: str
    feature_layers: dict[FeatureLayer, NDArray[np.float32]]
    labels: Labels
    n_train: int

    @property
    def train(self) -> Rows:
        """The rows of the training part."""
        return np.arange(self.n_train)

    @property
    def neck(self) -> NDArray[np.float32]:
        """What the network's own head saw. Shapes: (n, d)."""
        return next(x for layer, x in self.feature_layers.items() if layer.pool == "neck")


class Learner:
    """A head fitted to any labels of some rows; what it says of each row without that row."""

    def __init__(
        self, feature_layers: dict[FeatureLayer, NDArray[np.float32]], labels: Labels
    ) -> None:
        shapes = probe_layers(list(feature_layers))
        pair = {name: shapes[name] for name in ("last", "equal")}
        self.kernels = [*mixed_kernels(feature_layers.items(), pair).values()]
        self.inverses = [ridge.inverse(k, p) for k in self.kernels for p in PENALTIES]
        self.truth = np.unique(labels, return_inverse=True)[1]
        self.n, self.k = len(labels), int(self.truth.max()) + 1
        self.singles = [np.array([row]) for row in range(self.n)]

    def probabilities(self, labels: Labels) -> Array:
        """As `check` has them (`best_probabilities`), from inverses made once."""
        targets, least, result = CLASSIFICATION.encode(labels, self.k), np.inf, np.empty((0, 0))
        for inverse in self.inverses:
            dual = ridge.Dual(inverse, inverse @ targets, targets)
            scores = ridge.left_out(dual, self.singles)
            calibration = CLASSIFICATION.calibrate(scores, labels)
            loss = float(CLASSIFICATION.losses(scores, labels, calibration).mean())
            if loss < least:
                least, result = loss, CLASSIFICATION.answers(scores, calibration)
        return result

    def is_signal(self, labels: Labels, rng: np.random.Generator) -> bool:
        """Whether the permutation test finds that the labels can be learnt."""
        times = rules.PERMUTATIONS["fast"]
        result = permutation_evidence(self.kernels, labels, self.singles, times, rng)
        return has_signal(float(result.details["p"]))


def add_options(parser: ArgumentParser) -> None:
    """--draws, --tables, --before."""
    parser.add_argument("--draws", type=int, default=5, help="of planted labels, a set and rate")
    parser.add_argument("--tables", type=Path, help="folder of <table>/train.csv with outcomes")
    parser.add_argument("--before", type=Path, help="checkout of earlier code to rank by as well")


def measure(args: Namespace) -> dict[str, Any]:
    """Wrong labels planted; data without any planted; strangers among images."""
    known = {name: _read(args, name) for name in sets.ALL}
    planted, cells, clean = [], list[tuple[Array, Labels]](), list[Row]()
    for name, one in known.items():
        learner = Learner(
            {t: x[one.train] for t, x in one.feature_layers.items()}, one.labels[one.train]
        )
        clean.append(_clean(name, "training part", learner, learner.truth))
        if name in PLANTED:
            for row, p, labels in _plant(name, learner, args.draws):
                planted.append(row)
                cells.append((p, labels))
        clean += _random(name, learner)
        clean += _small(one)
        print(name, len(planted), len(clean), flush=True)
    for one_name, other in JOINED:
        clean.append(_joined(known[one_name], known[other]))
        clean.append(_shifted(known[one_name], known[other]))
    clean += _tables(args.tables) if args.tables else []
    _rank_before(args.before, planted, cells)
    odd = [row for one in known.values() for row in _strangers(one, known)]
    return {
        "summary": {**_sums(planted, clean), **_odd_sums(odd)},
        "rows": [*_merged(planted), *clean, *_odd_rows(odd)],
    }


def _read(args: Namespace, name: str) -> Set:
    train, test = (pools.extracted(args, name, split) for split in ("train", "test"))
    shapes = probe_layers(list(train.feature_layers))
    used = [
        layer
        for layer in train.feature_layers
        if layer in shapes["last"] or layer in shapes["equal"]
    ]
    feature_layers = {
        layer: np.concatenate([train.feature_layers[layer], test.feature_layers[layer]])
        for layer in used
    }
    labels = np.concatenate([train.labels, test.labels])
    return Set(name, feature_layers, labels, len(train.labels))


# ---- labels --------------------------------------------------------------------------------


def _plant(name: str, learner: Learner, draws: int) -> Iterable[tuple[Row, Array, Labels]]:
    """A share of labels moved: to any other class, or always to the next one."""
    n, k = learner.n, learner.k
    for rate in NOISE:
        for kind in ("any class", "next class")[: 1 if k == 2 else 2]:
            for draw in range(draws):
                rng = np.random.default_rng([draw, 3])
                labels, is_wrong = learner.truth.copy(), np.zeros(n, dtype=bool)
                is_wrong[rng.choice(n, round(rate * n), replace=False)] = True
                by = rng.integers(1, k, is_wrong.sum()) if kind == "any class" else 1
                labels[is_wrong] = (labels[is_wrong] + by) % k
                p = learner.probabilities(labels)
                row = {"set": name, "planted": kind, "rate": rate, "draw": draw}
                result = _judged(p, labels)
                row |= _told(result) | {"flipped": np.flatnonzero(is_wrong)}
                issues = result.rows[result.is_issue]
                row["right"] = int(is_wrong[issues].sum())
                row["holds"] = bool(result.rate and result.rate.low <= rate <= result.rate.high)
                row["top tenth"] = _caught(result.rows, is_wrong)
                row["wrong"], free = _free(p, labels)
                row["free"], row["free count"] = bool(free.count), free.count or 0
                row["free right"] = int(is_wrong[free.rows[free.is_issue]].sum())
                yield row, p, labels


def _judged(p: Array, labels: Labels, excuse: Why | None = None) -> JudgedLabels:
    return judge_labels(p, labels, np.arange(len(labels)), excuse)


def _caught(order: Rows, is_wrong: NDArray[np.bool_]) -> float:
    """Share of the wrong labels among the first tenth."""
    return float(is_wrong[order[: round(0.1 * len(order))]].sum() / is_wrong.sum())


def _told(result: JudgedLabels) -> Row:
    """What is said, and what would be if a model might be wrong as often as it likes."""
    rate = result.rate
    return {
        "n": len(result.rows),
        "error": round(result.error, 3),
        "count": result.count,
        "why": result.why,
        "rate said": rate and round(rate.value, 4),
        "low": rate and round(rate.low, 4),
        "high": rate and round(rate.high, 4),
    }


def _free(p: Array, labels: Labels) -> tuple[float, JudgedLabels]:
    """Without `MOST_WRONG`: how often the model is wrong besides wrong labels, and the answer."""
    usual, label_issues.MOST_WRONG = label_issues.MOST_WRONG, 2.0
    try:
        result = _judged(p, labels)
    finally:
        label_issues.MOST_WRONG = usual
    return result.error - (result.rate.low if result.rate else 0.0), result


def _clean(
    name: str, what: str, learner: Learner, labels: Labels, excuse: Why | None = None
) -> Row:
    p = learner.probabilities(labels)
    wrong, free = _free(p, labels)
    return {
        "set": name,
        "planted": "nothing",
        "what": what,
        **_told(_judged(p, labels, excuse)),
        "free": bool(free.count),
        "wrong": wrong,
    }


def _random(name: str, learner: Learner) -> list[Row]:
    """Labels exchanged among all rows."""
    rows = []
    for draw in range(2):
        rng = np.random.default_rng([draw, 13])
        labels = rng.permutation(learner.truth)
        excuse: Why | None = None if learner.is_signal(labels, rng) else "no-signal"
        rows.append(_clean(name, "random labels", learner, labels, excuse))
    return rows


def _small(one: Set) -> list[Row]:
    rows = []
    k = int(one.labels.max()) + 1
    for n in SMALL:
        for draw in range(3 if 6 * k <= n <= 0.8 * len(one.labels) else 0):
            drawn = pools.draw(one.labels, n, np.random.default_rng([draw, n]))
            learner = Learner(
                {t: x[drawn] for t, x in one.feature_layers.items()}, one.labels[drawn]
            )
            rows.append(_clean(one.name, f"{n} drawn", learner, learner.truth))
    return rows


def _joined(one: Set, other: Set) -> Row:
    """A training part of two sources: all of one, a fifth as many of the other."""
    some = np.random.default_rng(4).permutation(other.train)[: one.n_train // 5]
    feature_layers = {
        t: np.concatenate([x[one.train], other.feature_layers[t][some]])
        for t, x in one.feature_layers.items()
    }
    labels = np.concatenate([one.labels[one.train], other.labels[some]])
    learner = Learner(feature_layers, labels)
    return _clean(f"{one.name} + {other.name}", "two sources", learner, learner.truth)


def _shifted(one: Set, other: Set) -> Row:
    """A test part of another source."""
    test = other.neck[other.n_train :]
    is_other = detect_shift(one.neck[one.train], test, np.random.default_rng(0)) is not None
    learner = Learner(
        {t: x[one.train] for t, x in one.feature_layers.items()}, one.labels[one.train]
    )
    excuse: Why | None = "distribution-shift" if is_other else None
    name = f"{one.name} -> {other.name}"
    return _clean(name, "test part of another source", learner, learner.truth, excuse)


def _tables(folder: Path) -> list[Row]:
    """What `warmstart check` says of outcomes."""
    rows = []
    for path in sorted(folder.glob("*/train.csv")):
        command = [sys.executable, "-m", "warmstart", "check", str(path), "--budget", "fast"]
        done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=False)
        if done.returncode not in (0, 3):
            sys.exit(f"{path.parent.name}: {done.stderr.strip()[-500:]}")
        summary = json.loads(done.stdout)["label_issues"]
        rows.append(
            {
                "set": path.parent.name,
                "planted": "nothing",
                "what": "table with an outcome",
                "n": summary["judged"],
                "error": round(summary["disagreements"] / summary["judged"], 3),
                "count": summary["count"],
                "why": summary["why"],
                "free": False,
                "wrong": 0.0,
            }
        )
    return rows


BEFORE = """
import sys, numpy as np
from warmstart.inspection.suspects import rank_suspects
given, out = np.load(sys.argv[1]), {}
for i in range(len(given.files) // 2):
    found = rank_suspects(given[f"p{i}"], given[f"y{i}"])
    out[f"order{i}"] = [s.row for s in found.suspects]
    out[f"share{i}"] = [found.reported, found.share.rate, found.share.low, found.share.high]
np.savez(sys.argv[2], **out)
"""


def _rank_before(before: Path | None, planted: list[Row], cells: Sequence[Any]) -> None:
    """The ranking of earlier code on the same probabilities, beside ours."""
    if before is None:
        return
    with tempfile.TemporaryDirectory() as place:
        args, out = Path(place) / "given.npz", Path(place) / "out.npz"
        arrays = {f"p{i}": p for i, (p, _) in enumerate(cells)}
        np.savez(args, **arrays, **{f"y{i}": y for i, (_, y) in enumerate(cells)})
        env = os.environ | {"PYTHONPATH": str(before / "src")}
        command = [sys.executable, "-c", BEFORE, str(args), str(out)]
        subprocess.run(command, env=env, check=True)
        with np.load(out) as result:
            for i, row in enumerate(planted):
                is_wrong = np.zeros(len(cells[i][1]), dtype=bool)
                is_wrong[row["flipped"]] = True
                row["top tenth before"] = _caught(result[f"order{i}"], is_wrong)
                reported, _, low, high = result[f"share{i}"]
                row["holds before"] = bool(reported) and bool(low <= row["rate"] <= high)
                row["count before"] = int(reported)


def _sums(planted: Sequence[Row], clean: Sequence[Row]) -> Row:
    stated = [row for row in planted if row["count"]]
    sums: Row = {
        "planted cells": len(planted),
        "with a count": len(stated),
        "rate holds the truth, of those": _mean(row["holds"] for row in stated),
        "counted labels that are wrong": round(
            sum(r["right"] for r in stated) / sum(r["count"] for r in stated), 3
        ),
        "cells below 70 %": sum(row["right"] < 0.7 * row["count"] for row in stated),
    }
    for rate in NOISE:
        own = [row for row in planted if row["rate"] == rate]
        sums[f"wrong labels in the top tenth, {rate:.0%}"] = _mean(r["top tenth"] for r in own)
        if "top tenth before" in own[0]:
            sums[f"the same before, {rate:.0%}"] = _mean(r["top tenth before"] for r in own)
    known = [row for row in planted if row.get("count before")]
    if known:
        sums["before: rate holds the truth where stated"] = _mean(r["holds before"] for r in known)
    for what, own in (
        ("clean data", [r for r in clean if r["what"] != "random labels"]),
        ("random labels", [r for r in clean if r["what"] == "random labels"]),
    ):
        sums[what] = len(own)
        sums[f"{what} with a count"] = sum(bool(row["count"]) for row in own)
        sums[f"{what} whose rate is called unclear"] = sum(
            row["why"] == "rate-unclear" for row in own
        )
    return sums | _leaving_one_out(planted, clean)


def _leaving_one_out(planted: Sequence[Row], clean: Sequence[Row]) -> Row:
    """Each set under the limit that the others choose: the largest that is right enough.

    Right enough: in every other set, at each rate and kind, 70 % of what is counted is wrong, and
    at most 5 % of the clean data get a count.
    """
    names = sorted({row["set"] for row in planted})
    chosen, outside, alarms = [], list[Row](), 0
    plain = [row for row in clean if row["what"] != "random labels"]
    for name in names:
        rest = [row for row in planted if row["set"] != name]
        others = [row for row in plain if row["set"] != name]
        fit = [limit for limit in LIMITS if _is_right(rest, others, limit)]
        chosen.append(max(fit, default=0.0))
        outside += [r for r in planted if r["set"] == name and _is_stated(r, chosen[-1])]
        alarms += sum(_is_stated(r, chosen[-1]) for r in plain if r["set"] == name)
    right, count = (sum(row[key] for row in outside) for key in ("free right", "free count"))
    return {
        "limits chosen without the set": ", ".join(f"{limit:g}" for limit in sorted(set(chosen))),
        "counted labels that are wrong, in the set left out": round(right / max(count, 1), 3),
        "clean data with a count, in the set left out": alarms,
    }


def _is_stated(row: Row, limit: float) -> bool:
    return bool(row["free"]) and row["wrong"] <= limit


def _is_right(planted: Sequence[Row], clean: Sequence[Row], limit: float) -> bool:
    by: dict[tuple[str, str, float], list[Row]] = {}
    for row in planted:
        if _is_stated(row, limit):
            by.setdefault((row["set"], row["planted"], row["rate"]), []).append(row)
    right = all(
        sum(r["free right"] for r in own) >= 0.7 * sum(r["free count"] for r in own)
        for own in by.values()
    )
    return right and _mean(_is_stated(row, limit) for row in clean) <= 0.05


def _merged(planted: Sequence[Row]) -> list[Row]:
    """One row for all draws of a set, kind and rate."""
    by: dict[tuple[str, str, float], list[Row]] = {}
    for row in planted:
        by.setdefault((row["set"], row["planted"], row["rate"]), []).append(row)
    return [
        {
            "set": name,
            "planted": kind,
            "rate": rate,
            "n": own[0]["n"],
            "error": _mean(r["error"] for r in own),
            "count": [r["count"] for r in own],
            "right": [r["right"] for r in own],
            "why": [r["why"] for r in own],
            "said": [
                r["rate said"] and f"{r['rate said']} ({r['low']} to {r['high']})" for r in own
            ],
            "top tenth": _mean(r["top tenth"] for r in own),
            **(
                {
                    "top tenth before": _mean(r["top tenth before"] for r in own),
                    "count before": [r["count before"] for r in own],
                }
                if "count before" in own[0]
                else {}
            ),
        }
        for (name, kind, rate), own in by.items()
    ]


def _mean(values: Iterable[Any]) -> float:
    return round(float(np.mean(list(values) or [0.0])), 3)


# ---- off-topic images ----------------------------------------------------------------------


def _strangers(one: Set, known: dict[str, Set]) -> list[Row]:
    """Draws of the set as it is, and its training part with images of other sets in it."""
    others = [o for o in known if o != one.name and not any({o, one.name} <= a for a in AKIN)]
    rows = [_odd(one, "nothing", one.neck[one.train], 0)]
    for n in (*SMALL, 300):
        for draw in range(3 if n <= 0.8 * len(one.labels) else 0):
            some = np.random.default_rng([draw, n]).choice(len(one.labels), n, replace=False)
            rows.append(_odd(one, "nothing", one.neck[some], 0))
    for draw in range(5):
        rng = np.random.default_rng([draw, 21])
        names = rng.choice(others, ODD, replace=False)
        strange = [known[o].neck[rng.integers(len(known[o].labels))] for o in names]
        rows.append(_odd(one, "strangers", np.concatenate([one.neck[one.train], strange]), ODD))
    return rows


def _odd(one: Set, what: str, x: NDArray[np.float32], n_odd: int) -> Row:
    """Who is called off-topic; the last `n_odd` rows should be."""
    row: Row = {"set": one.name, "planted": what, "n": len(x)}
    for root in ROOTS:  # the module takes square roots itself
        powered = np.sign(x) * np.abs(x) ** (2 * root)
        result = find_off_topic(powered, np.arange(len(x)))
        own = len(x) - n_odd
        row[f"alarms {root}"] = int(result.is_off[:own].sum())
        row[f"hits {root}"] = int(result.is_off[own:].sum())
        first = np.argsort(-result.scores, kind="stable")[: 2 * ODD]
        row[f"first {root}"] = int((first >= own).sum())
    return row


def _odd_rows(odd: Sequence[Row]) -> list[Row]:
    rows = []
    for name in dict.fromkeys(row["set"] for row in odd):
        clean, strange = (
            [r for r in odd if r["set"] == name and r["planted"] == what]
            for what in ("nothing", "strangers")
        )
        rows.append(
            {
                "set": name,
                "planted": "off-topic images",
                "clean draws": len(clean),
                "with an alarm": sum(r["alarms 0.5"] > 0 for r in clean),
                "strangers called off-topic": _mean(r["hits 0.5"] / ODD for r in strange),
                "strangers in the first ten": _mean(r["first 0.5"] / ODD for r in strange),
            }
        )
    return rows


def _odd_sums(odd: Sequence[Row]) -> Row:
    clean = [row for row in odd if row["planted"] == "nothing"]
    strange = [row for row in odd if row["planted"] == "strangers"]
    alarms, hits, powers = list[float](), list[float](), []
    for name in dict.fromkeys(row["set"] for row in odd):
        rest = [row for row in strange if row["set"] != name]
        power = max(ROOTS, key=lambda root: sum(r[f"hits {root}"] for r in rest))
        powers.append(power)
        alarms += [r[f"alarms {power}"] > 0 for r in clean if r["set"] == name]
        hits += [r[f"hits {power}"] / ODD for r in strange if r["set"] == name]
    return {
        "off-topic, clean draws": len(clean),
        "off-topic, clean draws with an alarm": _mean(r["alarms 0.5"] > 0 for r in clean),
        "off-topic, alarms in 1,000 images": round(
            1000 * sum(r["alarms 0.5"] for r in clean) / sum(r["n"] for r in clean), 2
        ),
        "off-topic, strangers called so": _mean(r["hits 0.5"] / ODD for r in strange),
        "off-topic, strangers in the first ten": _mean(r["first 0.5"] / ODD for r in strange),
        "off-topic, powers chosen without the set": ", ".join(map(str, sorted(set(powers)))),
        "off-topic, strangers called so, in the set left out": _mean(hits),
        "off-topic, clean draws with an alarm, in the set left out": _mean(alarms),
    }
