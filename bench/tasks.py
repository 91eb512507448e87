"""Several labels and numbers: against one-vs-rest and ridge, coverage, shuffled targets."""

from __future__ import annotations

import io
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from bench import sets
from warmstart.data.read import read
from warmstart.data.split import folds
from warmstart.events import drain
from warmstart.inspection.signal import signal
from warmstart.joints.look import take_look
from warmstart.network.load import load
from warmstart.planning import rules
from warmstart.planning.profiles import profiles
from warmstart.planning.verdict import Facts, verdict_kind
from warmstart.records import Tap
from warmstart.solve.kernels import mixed_kernels
from warmstart.stats.conformal import PROMISED, margin
from warmstart.stats.paired import difference
from warmstart.tasks.find import target_of
from warmstart.tasks.label_sets import LABEL_SETS
from warmstart.tasks.target import Target, Truth
from warmstart.training.head import HeadFit, families, fit_head
from warmstart.training.trials import Problem

SIDE = 224
PAIRED = ("trashnet", "clothing", "textures10")
TURNED = ("pacs_photo", "clothing", "cats_dogs")
PARTS = ("pairs", "angles", "wine", "coverage", "random")
CS = (0.001, 0.01, 0.1, 1.0, 10.0)
Pixels = NDArray[np.uint8]
Rows = NDArray[np.intp]


@dataclass(frozen=True)
class Pool:
    """Images with stored features. Shapes: taps (N, d_t), truth (N,) or (N, K)."""

    taps: dict[Tap, NDArray[np.float32]]
    truth: Truth
    target: Target

    @property
    def last(self) -> NDArray[np.float64]:
        """What the last layer gives, (N, d)."""
        return next(x for tap, x in self.taps.items() if tap.pool == "neck").astype(np.float64)


def add_options(parser: ArgumentParser) -> None:
    """--parts, --train, --test, --draws."""
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument("--train", type=int, default=300)
    parser.add_argument("--test", type=int, default=200)
    parser.add_argument("--draws", type=int, default=70, help="re-splits a set, for coverage")
    parser.add_argument("--shuffles", type=int, default=14, help="shuffled targets a set")


def measure(given: Namespace) -> dict[str, Any]:
    """Each part by itself; heads are those of `fit --budget fast` on stored features."""
    found: dict[str, Any] = {}
    rows: list[dict[str, Any]] = []
    works: dict[str, Callable[[Namespace], list[dict[str, Any]]]] = {
        "pairs": _pairs, "angles": _angles, "wine": _wine, "coverage": _coverage,
        "random": _random,
    }  # fmt: skip
    for part in given.parts:
        some = works[part](given)
        rows += [{"part": part, **row} for row in some]
        found |= {f"{part}: {key}": value for key, value in _sums(part, some).items()}
    return {"summary": found, "rows": rows}


def _sums(part: str, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    keys = {
        "pairs": ("ours", "one-vs-rest", "gain"), "angles": ("ours", "ridge", "gain"),
        "wine": ("ours", "ridge", "gain"), "coverage": ("covered",),
        "random": ("no-signal",),
    }[part]  # fmt: skip
    found = {key: round(float(np.mean([row[key] for row in rows])), 4) for key in keys}
    return {**found, "draws": sum(row.get("draws", 1) for row in rows)}


# ---- pictures ------------------------------------------------------------------------------


def _files(given: Namespace, name: str) -> list[tuple[Path, str]]:
    root = sets.root(given) / name
    paths = sorted(p for p in root.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png"))
    return [(path, path.parent.name) for path in paths]


def _open(path: Path) -> Image.Image:
    return Image.open(io.BytesIO(path.read_bytes())).convert("RGB")


def paired(given: Namespace, name: str) -> tuple[Pixels, list[list[str]]]:
    """Two pictures beside each other, each in one pair alone: pairs must not depend."""
    files, rng = _files(given, name), np.random.default_rng([1, len(name)])
    n = min(given.train + given.test, len(files) // 2)
    images, labels = [], []
    for rows in rng.permutation(len(files))[: 2 * n].reshape(n, 2):
        pair = [files[row] for row in rows]
        halves = [_open(path).resize((SIDE // 2, SIDE)) for path, _ in pair]
        images.append(np.concatenate([np.asarray(half) for half in halves], axis=1))
        labels.append(sorted({label for _, label in pair}))
    return np.stack(images), labels


def turned(given: Namespace, name: str) -> tuple[Pixels, NDArray[np.float64]]:
    """Pictures turned by -45 to 45 degrees, cut so that no corner shows it."""
    files, rng = _files(given, name), np.random.default_rng([2, len(name)])
    chosen = rng.permutation(len(files))[: given.train + given.test]
    angles = rng.uniform(-45, 45, size=len(chosen))
    images = []
    for row, angle in zip(chosen, angles, strict=True):
        image = _open(files[row][0])
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        square = image.crop((left, top, left + side, top + side)).resize((2 * SIDE, 2 * SIDE))
        tilted = square.rotate(float(angle), Image.Resampling.BICUBIC)
        inner = int(2 * SIDE / np.sqrt(2)) - 4  # inside the picture at every angle
        edge = (2 * SIDE - inner) // 2
        cut = tilted.crop((edge, edge, edge + inner, edge + inner)).resize((SIDE, SIDE))
        images.append(np.asarray(cut))
    return np.stack(images), angles


def _pool(images: Pixels, labels: Any, task: Any) -> Pool:
    collection = drain(read((images, labels), task=task))
    seen, examples = drain(take_look(collection, load("lite0"))), collection.record.examples
    texts = [example.label for example in examples]
    target = target_of(task, texts)
    truth = target.read(texts, collection.record.classes)
    return Pool({tap: seen.features.read(examples, tap) for tap in seen.taps}, truth, target)


# ---- heads ---------------------------------------------------------------------------------


def _fit(pool: Pool, rows: Rows, seed: int = 0) -> HeadFit:
    """What `fit --budget fast` does with these rows, from features on."""
    n, truth, rng = len(rows), pool.truth[rows], np.random.default_rng([seed, 17])
    blocks = tuple(np.array([i]) for i in range(n))
    fold = folds(pool.target.folding(truth), np.arange(n), rules.outer_folds(n), rng)
    outer = tuple(np.flatnonzero(fold == f) for f in range(int(fold.max()) + 1))
    k = pool.target.n_outputs(truth)
    shapes = profiles(list(pool.taps))
    taps = {tap: x[rows] for tap, x in pool.taps.items()}
    names = rules.candidates(n, k, n, tuple(shapes), "fast", pool.target.task)
    kernels = mixed_kernels(taps.items(), shapes)
    heads = families(names, shapes, kernels, taps.__getitem__, rules.penalties(n), 0)
    return drain(fit_head(heads, Problem(truth, k, blocks, outer, pool.target)))


def _said(pool: Pool, fit: HeadFit, rows: Rows) -> NDArray[np.float64]:
    joined = np.concatenate([pool.taps[tap][rows] for tap in fit.taps], axis=1)
    return pool.target.answers(joined @ fit.weight.T + fit.bias, fit.calibration)


# ---- the parts -----------------------------------------------------------------------------


def _pairs(given: Namespace) -> list[dict[str, Any]]:
    """Mean average precision on test pairs, against logistic regression label by label."""
    found = []
    for name in PAIRED:
        pool = _pool(*paired(given, name), "multilabel")
        n = len(pool.truth)
        learn, test = np.split(np.arange(n), [n * given.train // (given.train + given.test)])
        truth, own = pool.truth[test], _said(pool, _fit(pool, learn), test)
        base = _one_vs_rest(pool.last, pool.truth, learn, test)
        a, b = LABEL_SETS.credits(own, truth), LABEL_SETS.credits(base, truth)
        gap = difference(a, b, np.arange(len(test)), np.random.default_rng(0))
        found.append({
            "set": name, "labels": pool.truth.shape[1], "pairs": len(learn),
            "ours": float(a.mean()),
            "one-vs-rest": float(b.mean()), "gain": gap.value, "low": gap.low, "high": gap.high,
        })  # fmt: skip
        print(found[-1], flush=True)
    return found


def _one_vs_rest(x: NDArray[np.float64], truth: Truth, learn: Rows, test: Rows) -> Any:
    said = np.zeros((len(test), truth.shape[1]))
    for k in range(truth.shape[1]):
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
        search = GridSearchCV(model, {"logisticregression__C": CS}, scoring="neg_log_loss", cv=3)
        said[:, k] = search.fit(x[learn], truth[learn, k]).predict_proba(x[test])[:, 1]
    return said


def _angles(given: Namespace) -> list[dict[str, Any]]:
    """R² on test pictures, against ridge on the last layer; the gap by squared errors."""
    found = []
    for name in TURNED:
        pool = _pool(*turned(given, name), "regress")
        learn = np.arange(given.train)
        test = np.arange(given.train, given.train + given.test)
        own = _said(pool, _fit(pool, learn), test)[:, 0]
        found.append({"set": name, **_against_ridge(pool.last, pool.truth, learn, test, own)})
        print(found[-1], flush=True)
    return found


def _against_ridge(
    x: NDArray[np.float64], truth: Truth, learn: Rows, test: Rows, own: NDArray[np.float64]
) -> dict[str, Any]:
    ridge = make_pipeline(StandardScaler(), RidgeCV(alphas=np.logspace(-2, 6, 25)))
    base = ridge.fit(x[learn], truth[learn]).predict(x[test])
    variance = truth[test].var()
    a, b = (1 - (said - truth[test]) ** 2 / variance for said in (own, base))
    gap = difference(a, b, np.arange(len(test)), np.random.default_rng(0))
    return {
        "ours": float(a.mean()), "ridge": float(b.mean()), "gain": gap.value, "low": gap.low,
        "high": gap.high, "draws": 1,
    }  # fmt: skip


def _wine(given: Namespace) -> list[dict[str, Any]]:
    """Quality of wine as a number, a table without a network."""
    from warmstart.estimator import WarmStartRegressor

    x, y = _wine_table(given)
    found = []
    for seed in range(10):
        order = np.random.default_rng(seed).permutation(len(x))
        learn, test = order[: given.train], order[given.train :]
        own = WarmStartRegressor(start=None).fit(x[learn], y[learn]).predict(x[test])
        found.append({"set": f"wine {seed}", **_against_ridge(x, y, learn, test, own)})
    return found


def _wine_table(given: Namespace) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Measurements of red wines, and their quality: 0 low, 1 medium, 2 high."""
    folder = sets.root(given).parent / "tabular" / "wine_red"
    lines = [line for part in ("train", "test") for line in _lines(folder / f"{part}.csv")]
    quality = {"low": 0.0, "medium": 1.0, "high": 2.0}
    x = np.array([[float(cell) for cell in cells[:-1]] for cells in lines])
    return x, np.array([quality[cells[-1]] for cells in lines])


def _lines(path: Path) -> list[list[str]]:
    return [line.split(",") for line in path.read_text().splitlines()[1:]]


def _coverage(given: Namespace) -> list[dict[str, Any]]:
    """Share of the rest inside the interval of 90 %, over re-splits of half the training size."""
    found = []
    for name in TURNED:
        pool, n = _pool(*turned(given, name), "regress"), given.train // 2
        covered, widths = [], []
        for seed in range(given.draws):
            order = np.random.default_rng([seed, 19]).permutation(len(pool.truth))
            learn, rest = np.sort(order[:n]), order[n:]
            fit = _fit(pool, learn, seed)
            off = np.abs(fit.probabilities[:, 0] - pool.truth[learn])
            half = margin(off, np.arange(n)) or np.inf
            inside = np.abs(_said(pool, fit, rest)[:, 0] - pool.truth[rest]) <= half
            covered.append(float(inside.mean()))
            widths.append(half)
        found.append({
            "set": name, "draws": given.draws, "promised": PROMISED,
            "covered": float(np.mean(covered)), "sd": float(np.std(covered)),
            "half width in spreads": float(np.mean(widths)),
        })  # fmt: skip
        print(found[-1], flush=True)
    return found


def _random(given: Namespace) -> list[dict[str, Any]]:
    """Shuffled targets of both tasks: the verdict must be no-signal."""
    made = [(name, paired, "multilabel") for name in PAIRED]
    found = []
    for name, make, task in [*made, *((name, turned, "regress") for name in TURNED)]:
        images, labels = make(given, name)  # type: ignore[operator]
        pool = _pool(images, labels, task)
        silent = [_verdict(pool, seed) == "no-signal" for seed in range(given.shuffles)]
        found.append({
            "set": name, "task": task, "draws": given.shuffles, "no-signal": float(np.mean(silent))
        })  # fmt: skip
        print(found[-1], flush=True)
    return found


def _verdict(pool: Pool, seed: int) -> str:
    rng = np.random.default_rng([seed, 23])
    rows = rng.permutation(len(pool.truth))[: rules.evidence_rows("fast")]
    truth = pool.target.among(pool.truth[rng.permutation(len(pool.truth))[: len(rows)]])
    shapes = profiles(list(pool.taps))
    pair = mixed_kernels(
        ((tap, x[rows]) for tap, x in pool.taps.items()), {k: shapes[k] for k in ("last", "equal")}
    )
    singles = [np.array([i]) for i in range(len(rows))]
    test = signal(
        list(pair.values()), truth, singles, rules.permutations("fast"), rng, pool.target
    ).details
    return verdict_kind(Facts(p=float(test["p"]), mde=float(test["mde"]), n=len(rows)))
