"""Multi-label and regression: against one-vs-rest and ridge, coverage, shuffled targets."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from bench import sets
from bench.task_fine_tuning import TAILED, tuned
from bench.task_pictures import paired, turned
from warmstart.data.read import read
from warmstart.data.splits import folds
from warmstart.events import drain
from warmstart.evidence.probe import permutation_evidence
from warmstart.features.extraction import extract_features
from warmstart.network.load import load
from warmstart.planning import rules
from warmstart.planning.rules import probe_layers
from warmstart.planning.verdict import VerdictFacts, verdict_kind
from warmstart.records.data import Task
from warmstart.records.network import FeatureLayer
from warmstart.solve.kernels import mixed_kernels
from warmstart.stats.paired import difference
from warmstart.stats.selective import PROMISED, margin
from warmstart.tasks.multilabel import MULTILABEL
from warmstart.tasks.registry import target_of
from warmstart.tasks.task import Target, Truth
from warmstart.training.linear_probe import HeadFit, families, fit_head
from warmstart.training.selection import SelectionProblem

PAIRED = ("trashnet", "clothing", "textures10")
TURNED = ("pacs_photo", "clothing", "cats_dogs")
Work = Callable[[Namespace, str], dict[str, Any]]
CS = (0.001, 0.01, 0.1, 1.0, 10.0)
Rows = NDArray[np.intp]


@dataclass(frozen=True)
class Pool:
    """Images with stored features. Shapes: feature_layers (N, d_t), truth (N,) or (N, K)."""

    feature_layers: dict[FeatureLayer, NDArray[np.float32]]
    truth: Truth
    target: Target

    @property
    def last(self) -> NDArray[np.float64]:
        """What the last layer gives, (N, d)."""
        return next(x for layer, x in self.feature_layers.items() if layer.pool == "neck").astype(
            np.float64
        )


def add_options(parser: ArgumentParser) -> None:
    """--parts, --train, --test, --draws, --shuffles, --rows."""
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--train", type=int, default=300)
    parser.add_argument("--test", type=int, default=200)
    parser.add_argument("--draws", type=int, default=70, help="re-splits a set, for coverage")
    parser.add_argument("--shuffles", type=int, default=14, help="shuffled targets a set")
    parser.add_argument("--rows", type=Path, help="folder that keeps finished rows, to go on from")


def measure(args: Namespace) -> dict[str, Any]:
    """Each part by itself; heads are those of `fit --budget fast` on stored features."""
    result: dict[str, Any] = {}
    rows: list[dict[str, Any]] = []
    for part in args.blocks:
        names, work, keys = PARTS[part]
        some = [_row(args, part, name, work) for name in names]
        means = {key: round(float(np.mean([row[key] for row in some])), 4) for key in keys}
        result |= {f"{part}: {key}": value for key, value in means.items()}
        result[f"{part}: draws"] = sum(row.get("draws", 1) for row in some)
        rows += some
    return {"summary": result, "rows": rows}


def _row(args: Namespace, part: str, name: str, work: Work) -> dict[str, Any]:
    """One row, or the one that was kept of it."""
    stored = args.rows / f"{part} {name.replace('/', ' ')}.json" if args.rows else None
    if stored is not None and stored.exists():
        result: dict[str, Any] = json.loads(stored.read_text())
        return result
    row = {"part": part, "set": name, **work(args, name)}
    print(row, flush=True)
    if stored is not None:
        stored.parent.mkdir(parents=True, exist_ok=True)
        stored.write_text(json.dumps(row))
    return row


# ---- heads ---------------------------------------------------------------------------------


def pool_of(args: Namespace, task: Task, name: str) -> Pool:
    """Pairs (multilabel) or turned pictures of a set, looked at once."""
    return _stored(args.data, task, name, args.train, args.test)


@lru_cache
def _stored(root: Path, task: Task, name: str, n_train: int, n_test: int) -> Pool:
    args = Namespace(data=root, train=n_train, test=n_test)
    images, labels = (paired if task == "multilabel" else turned)(args, name)
    collection = drain(read((images, labels), task=task))
    seen, examples = drain(extract_features(collection, load("lite0"))), collection.record.examples
    texts = [example.label for example in examples]
    target = target_of(task, texts)
    truth = target.read(texts, collection.record.classes)
    return Pool(
        {layer: seen.features.reader(examples)(layer) for layer in seen.feature_layers},
        truth,
        target,
    )


def _fit(pool: Pool, rows: Rows, seed: int = 0) -> HeadFit:
    """What `fit --budget fast` does with these rows, from features on."""
    n, truth, rng = len(rows), pool.truth[rows], np.random.default_rng([seed, 17])
    groups = tuple(np.array([i]) for i in range(n))
    fold = folds(pool.target.fold_strata(truth), np.arange(n), rules.outer_folds(n), rng)
    outer = tuple(np.flatnonzero(fold == f) for f in range(int(fold.max()) + 1))
    k = pool.target.n_outputs(truth)
    shapes = probe_layers(list(pool.feature_layers))
    feature_layers = {layer: x[rows] for layer, x in pool.feature_layers.items()}
    names = rules.candidates(n, k, n, tuple(shapes), "fast", pool.target.task)
    kernels = mixed_kernels(feature_layers.items(), shapes)
    heads = families(names, shapes, kernels, feature_layers.__getitem__, rules.penalties(n), 0)
    return drain(fit_head(heads, SelectionProblem(truth, k, groups, outer, pool.target)))


def _said(pool: Pool, fit: HeadFit, rows: Rows) -> NDArray[np.float64]:
    joined = np.concatenate(
        [pool.feature_layers[layer][rows] for layer in fit.feature_layers], axis=1
    )
    scores = joined.astype(np.float64) @ fit.weight.T + fit.bias
    return pool.target.answers(scores, fit.calibration)


# ---- the parts -----------------------------------------------------------------------------


def _pairs(args: Namespace, name: str) -> dict[str, Any]:
    """Mean average precision on test pairs, against logistic regression label by label."""
    pool = pool_of(args, "multilabel", name)
    n = len(pool.truth)
    learn, test = np.split(np.arange(n), [n * args.train // (args.train + args.test)])
    fit, truth = _fit(pool, learn), pool.truth[test]
    base = _one_vs_rest(pool.last, pool.truth, learn, test)
    a, b = (MULTILABEL.credits(one, truth) for one in (_said(pool, fit, test), base))
    gap = difference(a, b, np.arange(len(test)), np.random.default_rng(0))
    return {
        "labels": truth.shape[1],
        "pairs": len(learn),
        "head": fit.name,
        "ours": float(a.mean()),
        "one-vs-rest": float(b.mean()),
        "gain": gap.value,
        "low": gap.low,
        "high": gap.high,
    }


def _one_vs_rest(x: NDArray[np.float64], truth: Truth, learn: Rows, test: Rows) -> Any:
    summary = np.zeros((len(test), truth.shape[1]))
    for k in range(truth.shape[1]):
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
        search = GridSearchCV(model, {"logisticregression__C": CS}, scoring="neg_log_loss", cv=3)
        summary[:, k] = search.fit(x[learn], truth[learn, k]).predict_proba(x[test])[:, 1]
    return summary


def _angles(args: Namespace, name: str) -> dict[str, Any]:
    """R² on test pictures, against ridge on the last layer; the gap by squared errors."""
    pool = pool_of(args, "regress", name)
    learn, test = np.arange(args.train), np.arange(args.train, args.train + args.test)
    fit = _fit(pool, learn)
    own = _said(pool, fit, test)[:, 0]
    return {"head": fit.name, **_against_ridge(pool.last, pool.truth, learn, test, own)}


def _against_ridge(
    x: NDArray[np.float64], truth: Truth, learn: Rows, test: Rows, own: NDArray[np.float64]
) -> dict[str, Any]:
    ridge = make_pipeline(StandardScaler(), RidgeCV(alphas=np.logspace(-2, 6, 25)))
    base = ridge.fit(x[learn], truth[learn]).predict(x[test])
    variance = truth[test].var()
    a, b = (1 - (summary - truth[test]) ** 2 / variance for summary in (own, base))
    gap = difference(a, b, np.arange(len(test)), np.random.default_rng(0))
    return {
        "ours": float(a.mean()),
        "ridge": float(b.mean()),
        "gain": gap.value,
        "low": gap.low,
        "high": gap.high,
        "draws": 1,
    }


def _wine(args: Namespace, name: str) -> dict[str, Any]:
    """Quality of wine as a number, a table without a network."""
    from warmstart.sklearn.estimators import WarmStartRegressor

    x, y = wine_table(args)
    order = np.random.default_rng(int(name.split()[-1])).permutation(len(x))
    learn, test = order[: args.train], order[args.train :]
    own = WarmStartRegressor(base=None).fit(x[learn], y[learn]).predict(x[test])
    return _against_ridge(x, y, learn, test, own)


def wine_table(args: Namespace) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Measurements of red wines, and their quality: 0 low, 1 medium, 2 high."""
    folder = sets.root(args).parent / "tabular" / "wine_red"
    lines = [line for part in ("train", "test") for line in _lines(folder / f"{part}.csv")]
    quality = {"low": 0.0, "medium": 1.0, "high": 2.0}
    x = np.array([[float(cell) for cell in cells[:-1]] for cells in lines])
    return x, np.array([quality[cells[-1]] for cells in lines])


def _lines(path: Path) -> list[list[str]]:
    return [line.split(",") for line in path.read_text().splitlines()[1:]]


def _coverage(args: Namespace, name: str) -> dict[str, Any]:
    """Share of the rest inside the interval of 90 %, over re-splits of half the training size."""
    pool, n = pool_of(args, "regress", name), args.train // 2
    covered, widths = [], []
    for seed in range(args.draws):
        order = np.random.default_rng([seed, 19]).permutation(len(pool.truth))
        learn, rest = np.sort(order[:n]), order[n:]
        fit = _fit(pool, learn, seed)
        off = np.abs(fit.probabilities[:, 0] - pool.truth[learn])
        half = margin(off, np.arange(n)) or np.inf
        inside = np.abs(_said(pool, fit, rest)[:, 0] - pool.truth[rest]) <= half
        covered.append(float(inside.mean()))
        widths.append(half)
    return {
        "draws": args.draws,
        "promised": PROMISED,
        "covered": float(np.mean(covered)),
        "sd": float(np.std(covered)),
        "half width in spreads": float(np.mean(widths)),
    }


def _random(args: Namespace, name: str) -> dict[str, Any]:
    """Shuffled targets of both tasks: the verdict must be no-signal."""
    which, _, word = name.partition("/")
    task: Task = "regress" if word == "regress" else "multilabel"
    pool = pool_of(args, task, which)
    silent = [_verdict(pool, seed) == "no-signal" for seed in range(args.shuffles)]
    return {"task": task, "draws": args.shuffles, "no-signal": float(np.mean(silent))}


def _verdict(pool: Pool, seed: int) -> str:
    rng = np.random.default_rng([seed, 23])
    rows = rng.permutation(len(pool.truth))[: rules.EVIDENCE_ROWS["fast"]]
    truth = pool.target.restrict(pool.truth[rng.permutation(len(pool.truth))[: len(rows)]])
    shapes = probe_layers(list(pool.feature_layers))
    pair = mixed_kernels(
        ((layer, x[rows]) for layer, x in pool.feature_layers.items()),
        {k: shapes[k] for k in ("last", "equal")},
    )
    singles = [np.array([i]) for i in range(len(rows))]
    test = permutation_evidence(
        list(pair.values()), truth, singles, rules.PERMUTATIONS["fast"], rng, pool.target
    ).details
    return verdict_kind(VerdictFacts(p=float(test["p"]), mde=float(test["mde"]), n=len(rows)))


# Of each part: its sets, what makes a row, and what is summed up.
PARTS: dict[str, tuple[tuple[str, ...], Work, tuple[str, ...]]] = {
    "pairs": (PAIRED, _pairs, ("ours", "one-vs-rest", "gain")),
    "angles": (TURNED, _angles, ("ours", "ridge", "gain")),
    "wine": (tuple(f"wine {n}" for n in range(10)), _wine, ("ours", "ridge", "gain")),
    "coverage": (TURNED, _coverage, ("covered",)),
    "random": (
        (*(f"{n}/multilabel" for n in PAIRED), *(f"{n}/regress" for n in TURNED)),
        _random,
        ("no-signal",),
    ),
    "tuned": (TAILED, tuned, ("head", "balanced", "gain")),
}
