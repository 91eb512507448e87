"""Label issues: labels ranked by how little a model agrees, and when wrong ones may be counted.

Every label gets a *score*, its own out-of-fold probability ("self-confidence" of confident
learning: Northcutt et al. 2021). That is a ranking, no accusation: on hard data most of what
ranks first are mistakes of the model. Wrong labels are told from those by one thing: honest
mistakes grow rarer the surer a model is, wrong labels contradict its sure predictions as often as
its unsure ones. So the labels are fitted as

    P(label j) = (1 - e) q_j + e sum_i q_i S_ij,   q = softmax(a log p),

with p the out-of-fold probabilities, a > 0 undoing what noise did to them, e the share of labels
that are wrong, and S where these go: to every other class alike, or from each class wherever the
fit itself sends them. For two classes this is Copas 1988, "Binary Regression Models for
Contaminated Data". Rows of one block (near copies, groups) share the weight of one.

A number is stated only where all of this holds:

- labels are there to be corrected (no outcome of a table), training and test set are of one kind,
  and the permutation test found a signal; the caller says so by `excuse`;
- there are at least `LEAST` blocks;
- the model is wrong at most `MOST_WRONG` of the time, besides what e explains at its low end;
- e = 0 is rejected at 95 % where wrong labels go anywhere: its interval excludes 0;
- the interval ends inside the grid of rates.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import gammaln

from warmstart.data.near_duplicates import NearDuplicate
from warmstart.nouns import IMAGES, Nouns
from warmstart.records.data import SEPARATOR, Finding, LabelIssue, LabelIssues, Share, Why
from warmstart.records.summary import Evidence
from warmstart.solve.calibration import Labels
from warmstart.solve.ridge import Array, Rows

RATES = np.concatenate([[0.0], np.geomspace(0.002, 0.5, 40)])
POWERS = np.geomspace(0.3, 6.0, 30)  # a
LEAST = 100  # blocks
# With 5 to 20 % of the labels of ten sets moved (bench/label_issues.py): where a model was wrong 4
# times in 10, fewer than 60 % of those it called wrong were; up to here 74 % and more in each set.
MOST_WRONG = 0.3
# Evidence of labels that went from class to class from which "none found" is not said. Classes that
# look alike give some as well, up to 26 on clean sets; 20 % moved to the next class gave 16 to 340.
DIRECTED = 30.0
KNOWN = 0.5  # share of a class's labels that the model must confirm to accuse any of them
LIKELY = 0.5  # from which chance on that a label is wrong it is called an issue
CELLS = 2_000_000  # probabilities that a rate is fitted to at most; of more rows some are drawn
_ROUNDS = 6  # of fitting where wrong labels go
_BEGUN = 0.05  # rate by which their destinations are told where the best fit has none
_DROP = 1.92  # of the log-likelihood at the ends of a 95 % interval
_CONFIDENT, _TINY = 1e-6, 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelNoise:
    """The share of labels that are wrong, with its 95 % interval, and what honest labels follow.

    `rate` is the mean over both ideas of where wrong labels go, the interval holds those of both;
    `plain` is the rate where they go anywhere, with `power` the exponent there. `directed` is
    twice the gain in log-likelihood over no wrong label where they go from class to class.
    """

    rate: float
    low: float
    high: float
    plain: float
    power: float
    directed: float


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedLabels:
    """All judged rows, issues first, then by score. Shapes: (m,) each but the sizes.

    `score` is a label's own probability; `is_issue` where it is called wrong. `count` counts
    issues, those of one block with the same label and suggestion once; it is 0 where none was
    found, None where `why` forbids a number. `error` is how often the model contradicts labels,
    `upper` the largest rate that is not excluded, each None where it was not measured.
    """

    rows: Rows
    labels: Labels
    suggested: Labels
    probability: Array
    score: Array
    is_issue: NDArray[np.bool_]
    count: int | None
    rate: Share | None
    why: Why | None
    error: float
    upper: float | None

    @property
    def disagreements(self) -> int:
        """Labels that the model contradicts."""
        return int((self.labels != self.suggested).sum())


def judge_labels(
    probabilities: Array,
    labels: Labels,
    groups: Labels,
    excuse: Why | None = None,
    likely: float = LIKELY,
) -> JudgedLabels:
    """Rank labels by their own out-of-fold probability; count issues where that is earned.

    Shapes: probabilities (n, K), NaN in rows that no fold held out (they are left out); labels
    (n,) in 0..K-1, blocks (n,). `excuse` is why no number may be stated whatever the fit says.

    >>> p = np.array([[0.9, 0.1], [0.2, 0.8], [0.1, 0.9]])
    >>> found = judge_labels(p, np.array([0, 0, 1]), np.arange(3))
    >>> found.rows.tolist(), found.score.tolist(), found.count, found.why
    ([1, 0, 2], [0.2, 0.9, 0.9], None, 'too-few')
    """
    rows = np.flatnonzero(np.isfinite(probabilities).all(axis=1))
    p, given = probabilities[rows], labels[rows]
    weights, n_groups = group_weights(groups[rows])
    top, own = p.argmax(axis=1), p[np.arange(len(rows)), given]
    error = float(weights @ (top != given) / max(n_groups, 1))
    is_tried = excuse is None and n_groups >= LEAST
    noise = fit_noise(p, given, weights) if is_tried else None
    why = excuse or _forbids(noise, error)
    is_issue = np.zeros(len(rows), dtype=bool)
    if noise is not None and why is None:
        is_known = _known(top, given, weights, p.shape[1])[given]
        is_issue = (_chance_wrong(p, given, noise) > likely) & (top != given) & is_known
        why = None if is_issue.any() else "rate-unclear"
    order = np.lexsort((own, ~is_issue))
    count = 0 if why == "not-significant" else None
    if noise is not None and why is None:
        marks = np.stack([groups[rows], given, top], axis=1)[is_issue]
        count = len(np.unique(marks, axis=0))
    return JudgedLabels(
        rows=rows[order],
        labels=given[order],
        suggested=top[order],
        probability=p[order, top[order]],
        score=own[order],
        is_issue=is_issue[order],
        count=count,
        why=why,
        error=error,
        upper=None if noise is None else noise.high,
        rate=Share(value=noise.rate, low=noise.low, high=noise.high)
        if noise is not None and why is None
        else None,
    )


def judge_sets(
    probabilities: Array, truth: NDArray[np.float64], groups: Labels, excuse: Why | None = None
) -> JudgedLabels:
    """The same of several labels an example: whether it has each is a label of two classes.

    Rows are numbered (row, label) row by row. An answer is called wrong from .8 on: of 28 that
    were so from .5 on among planted ones 15 were, of 7 from .8 on 6 (pairs of pictures, 5 % with
    a mistake). Shapes: probabilities, truth (n, K), blocks (n,).

    >>> p = np.array([[0.9, 0.1], [0.2, 0.8]])
    >>> found = judge_sets(p, np.array([[1.0, 0.0], [0.0, 0.0]]), np.arange(2))
    >>> divmod(int(found.rows[0]), 2)
    (1, 1)
    """
    flat, k = probabilities.reshape(-1), truth.shape[1]
    answers = truth.reshape(-1).astype(np.int64)
    both = np.stack([1 - flat, flat], axis=1)
    return judge_labels(
        both,
        answers,
        np.repeat(groups, k) * k + np.tile(np.arange(k), len(truth)),
        excuse,
        likely=0.8,
    )


def group_weights(groups: Labels) -> tuple[Array, int]:
    """One over the size of each row's block, and how many blocks there are."""
    _, index, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    return 1.0 / sizes[index], len(sizes)


def _forbids(noise: LabelNoise | None, error: float) -> Why | None:
    """Why no number may be stated, as far as the fit tells."""
    if noise is None:
        return "too-few"
    if error - noise.low > MOST_WRONG:
        return "weak-model"
    if noise.low == 0:
        return "rate-unclear" if noise.directed >= DIRECTED else "not-significant"
    return "rate-unclear" if noise.high >= RATES[-1] else None


def _known(top: Labels, labels: Labels, weights: Array, k: int) -> NDArray[np.bool_]:
    """Classes whose labels the model confirms often enough. Shapes: returns (K,)."""
    confirmed = np.bincount(labels, weights * (top == labels), minlength=k)
    found: NDArray[np.bool_] = confirmed >= KNOWN * np.bincount(labels, weights, minlength=k)
    return found


def _chance_wrong(p: Array, labels: Labels, noise: LabelNoise) -> Array:
    """How likely each label is to be wrong, by Bayes. Shapes: (n, K), (n,) to (n,)."""
    own = _sharpened(p, noise.power)[np.arange(len(p)), labels]
    wrong = noise.plain * (1 - own) / max(p.shape[1] - 1, 1)
    found: Array = wrong / np.maximum(wrong + (1 - noise.plain) * own, _TINY)
    return found


def fit_noise(probabilities: Array, labels: Labels, weights: Array) -> LabelNoise:
    """Fit the share of wrong labels over a grid of rates. Shapes: (n, K), (n,), (n,), no NaN."""
    p, labels, weights = _drawn(probabilities, labels, weights)
    k = p.shape[1]
    anywhere = (1 - np.eye(k)) / max(k - 1, 1)
    first = last = _fit(p, labels, weights, anywhere)
    for _ in range(_ROUNDS if k > 2 else 0):
        last = _fit(p, labels, weights, _destinations(p, labels, weights, last))
    return LabelNoise(
        rate=(first.rate + last.rate) / 2,
        low=min(first.low, last.low),
        high=max(first.high, last.high),
        plain=first.rate,
        power=first.power,
        directed=last.gain,
    )


@dataclass(frozen=True, slots=True)
class _Fit:
    """The best rate and exponent for one idea of where wrong labels go (K, K).

    `gain` is twice the gain in log-likelihood over no wrong label.
    """

    rate: float
    low: float
    high: float
    gain: float
    power: float
    spread: Array


def _fit(p: Array, labels: Labels, weights: Array, spread: Array) -> _Fit:
    rows, reached = np.arange(len(p)), spread[:, labels].T
    found = np.empty((len(RATES), len(POWERS)))
    for at, power in enumerate(POWERS):
        q = _sharpened(p, power)
        own, other = q[rows, labels], (q * reached).sum(axis=1)
        mixed = np.outer(1 - RATES, own) + np.outer(RATES, other)
        found[:, at] = np.log(np.maximum(mixed, _TINY)) @ weights
    layer_weights = found.max(axis=1)
    best = int(layer_weights.argmax())
    inside = RATES[layer_weights >= layer_weights[best] - _DROP]
    return _Fit(
        float(RATES[best]),
        float(inside.min()),
        float(inside.max()),
        2 * float(layer_weights[best] - layer_weights[0]),
        float(POWERS[found[best].argmax()]),
        spread,
    )


def _destinations(p: Array, labels: Labels, weights: Array, fit: _Fit) -> Array:
    """Where the fit itself sends the wrong labels of each class, one added to each count.

    Shapes: returns (K, K), rows that sum to 1.
    """
    k, q = p.shape[1], _sharpened(p, fit.power)
    rate = max(fit.rate, _BEGUN)
    sent = rate * q * fit.spread[:, labels].T
    honest = (1 - rate) * q[np.arange(len(p)), labels]
    sent *= (weights / np.maximum(sent.sum(axis=1) + honest, _TINY))[:, None]
    counts = np.ones((k, k))
    np.add.at(counts.T, labels, sent)
    np.fill_diagonal(counts, 0.0)
    shares: Array = counts / counts.sum(axis=1, keepdims=True)
    return shares


def _sharpened(p: Array, power: float) -> Array:
    """softmax(power log p). Shapes: (n, K) to (n, K)."""
    logits = power * np.log(np.clip(p, _CONFIDENT, 1.0))
    logits -= logits.max(axis=1, keepdims=True)
    np.exp(logits, out=logits)
    logits /= logits.sum(axis=1, keepdims=True)
    return np.asarray(logits)


def _drawn(p: Array, labels: Labels, weights: Array) -> tuple[Array, Labels, Array]:
    """As many rows as may be fitted: all, or a draw that is the same each time."""
    most = max(CELLS // p.shape[1], LEAST)
    if len(p) <= most:
        return p, labels, weights
    rows = np.sort(np.random.default_rng(0).permutation(len(p))[:most])
    return p[rows], labels[rows], weights[rows]


# ---- What is said of labels: one sentence for every surface, and the list that is looked through.


def said(
    *,
    judged: int,
    disagreements: int,
    count: int | None,
    rate: Share | None,
    why: Why | None,
    error: float | None,
    listed: int = 0,
    nouns: Nouns = IMAGES,
    noun: str = "label",
) -> str:
    """The sentence. `noun` is what an example has, `listed` the issues with their near copies.

    `error` is how often the model contradicts labels; None where that is no yes or no.

    >>> said(judged=384, disagreements=119, count=None, rate=None, why="weak-model", error=0.41)
    'The model disagrees with 119 of 384 labels; it is itself wrong about 4 times in 10, so most of these are probably its own mistakes.'
    """  # noqa: E501
    some = f"{disagreements:,} of {judged:,} {noun}s"
    disagrees = (
        f"the model disagrees with {some}"
        if error is not None
        else f"{some} are more than twice the model's usual error from what it says"
    )
    uncounted, own = "no label issues are counted", "its own mistakes"
    one = count == 1
    if why == "outcome":
        return (
            f"A table's target is an outcome, not a label to correct, so {uncounted}: {disagrees}."
        )
    if why == "distribution-shift":
        return (
            f"The test {nouns.many} differ from the training {nouns.many}, so {uncounted}: "
            f"{disagrees}, and these may be {own}."
        )
    if why == "no-signal":
        return f"No signal was found, so {uncounted}: such a model cannot check a {noun}."
    if why == "too-few":
        return f"Too few {nouns.many} to count label issues: {disagrees}; these may be {own}."
    if why == "weak-model":
        times = "too often to tell" if error is None else f"about {_tenths(error)} times in 10"
        begun = disagrees[0].upper() + disagrees[1:]
        return f"{begun}; it is itself wrong {times}, so most of these are probably {own}."
    if why == "rate-unclear":
        return (
            f"More {noun}s look wrong than the model's own mistakes explain, but how many cannot "
            f"be told: {disagrees}."
        )
    if not count or rate is None:
        if not disagreements and error is not None:
            return f"No label issues found: the model agrees with all {judged:,} {noun}s."
        return f"No label issues found: {disagrees}, which {own} explain."
    them, these = ("it", f"this {nouns.one}") if one else ("them", f"these {nouns.many}")
    copies = f" ({listed:,} with near copies and groups)" if listed > count else ""
    value, low, high = (_percent(share) for share in (rate.value, rate.low, rate.high))
    return (
        f"{count:,} label issue{'' if one else 's'} among {judged:,} {noun}s{copies}: the model, "
        f"which did not learn from {these}, contradicts {them} beyond {own}. About {value} % of "
        f"all {noun}s are wrong (95 % CI {low}–{high}). Look at {them} first and correct the "
        f"{noun if one else f'{noun}s'}."
    )


def _tenths(error: float) -> int:
    return max(round(10 * error), 1)


def _percent(share: float) -> str:
    return f"{100 * share:.1f}" if share < 0.0995 else f"{100 * share:.0f}"


def of_classes(
    found: JudgedLabels,
    ids: Sequence[str],
    classes: Sequence[str],
    most: int,
    nouns: Nouns = IMAGES,
) -> LabelIssues:
    """The record: every issue, then contradicted labels, among the `most` of the lowest score."""
    n_issues = int(found.is_issue.sum())
    shown = range(max(n_issues, min(most, len(found.rows))))
    ranked = tuple(
        LabelIssue(
            id=ids[found.rows[at]],
            label=classes[found.labels[at]],
            suggested=classes[found.suggested[at]],
            is_issue=bool(found.is_issue[at]),
            probability=round(float(found.probability[at]), 4),
            score=round(float(found.score[at]), 4),
        )
        for at in shown
        if found.labels[at] != found.suggested[at]
    )
    return _record(found, ranked, found.disagreements, len(found.rows), nouns)


def of_sets(
    found: JudgedLabels,
    ids: Sequence[str],
    truth: NDArray[np.float64],
    names: Sequence[str],
    most: int,
    nouns: Nouns = IMAGES,
) -> LabelIssues:
    """The same where an example has several labels: a line an example, worst first.

    All its issues are corrected in a line, or else the answer of the lowest score. Shapes: truth
    (n, K); `found` numbers rows (row, label).
    """
    k, lines = len(names), dict[int, list[int]]()
    for at in np.flatnonzero(found.labels != found.suggested):
        row = int(found.rows[at]) // k
        if row in lines and not found.is_issue[at]:
            continue
        if len(lines) >= most and not found.is_issue[at]:
            break
        lines.setdefault(row, []).append(int(at))
    ranked = tuple(_set_line(found, ids[row], truth[row], names, at) for row, at in lines.items())
    return _record(found, ranked, found.disagreements, len(found.rows), nouns)


def _set_line(
    found: JudgedLabels, id: str, has: NDArray[np.float64], names: Sequence[str], at: Sequence[int]
) -> LabelIssue:
    other, which = has.copy(), [int(found.rows[one]) % len(names) for one in at]
    other[which] = found.suggested[list(at)]
    return LabelIssue(
        id=id,
        label=_joined(has, names),
        suggested=_joined(other, names),
        probability=round(float(found.probability[at[0]]), 4),
        score=round(float(found.score[at[0]]), 4),
        is_issue=bool(found.is_issue[at[0]]),
        concerns=tuple(names[one] for one in which),
    )


def _joined(has: NDArray[np.float64], names: Sequence[str]) -> str:
    """As records hold labels."""
    return SEPARATOR.join(sorted(name for name, is_on in zip(names, has, strict=True) if is_on))


def _record(
    found: JudgedLabels,
    ranked: tuple[LabelIssue, ...],
    disagreements: int,
    judged: int,
    nouns: Nouns,
) -> LabelIssues:
    told = said(
        judged=judged,
        disagreements=disagreements,
        count=found.count,
        rate=found.rate,
        why=found.why,
        error=found.error,
        listed=int(found.is_issue.sum()),
        nouns=nouns,
    )
    return LabelIssues(
        judged=judged,
        disagreements=disagreements,
        count=found.count,
        rate=found.rate,
        why=found.why,
        sentence=told,
        ranked=ranked,
    )


def label_finding(found: LabelIssues) -> Finding | None:
    """The issues as a finding of the data; None where there are none, or none can be counted."""
    if not found.count:
        return None
    return Finding(
        kind="label-issue", sentence=found.sentence, items=tuple(map(_item, found.issues))
    )


def _item(one: LabelIssue) -> str:
    """One issue in a line.

    >>> _item(LabelIssue(id="1.jpg", label="cat", suggested="dog", probability=0.97, score=0.01,
    ...                  is_issue=True))
    '1.jpg: cat, looks like dog (97 %)'
    """
    sure = "" if one.probability is None else f" ({100 * one.probability:.0f} %)"
    label, other = (
        text.replace(SEPARATOR, ", ") if one.concerns else text
        for text in (one.label, one.suggested)
    )
    return f"{one.id}: {label or 'nothing'}, looks like {other or 'nothing'}{sure}"


# ---- Label issues of numbers: further from what a model says than its own errors explain.
#
# Honest errors of a model are taken for a power law within the exponent, of whatever shape they
# show: flat with b large, normal with b = 2, heavy in the tails below that. A wrong number lies
# anywhere within the range of the numbers. So errors are fitted as
#
# p(error) = (1 - e) b / (2 s Gamma(1/b)) exp(-|error / s|^b) + e / range,
#
# with e the share of wrong numbers; rows of one block share the weight of one. Where heavy tails
# explain all errors, e is 0 and nothing is counted. Source: Box & Tiao 1973, "Bayesian Inference in
# Statistical Analysis", §3.2, for the errors; when a number is stated as in `label_issues.py`.


TRIED = RATES[RATES <= 0.12]  # of wrong numbers; with more than these nothing can be told
# Twice the gain in log-likelihood of any rate over none, how likely a number must be wrong, and the
# usual error over that of the median, below which numbers are called wrong: with 5 % of them
# swapped, 89 % of those named were (bench/results/task_doubts.json). A model that
# knows little says nothing: its errors are those of the numbers themselves (turned photographs,
# R² .3: 15 of 300 would have been named).
EVIDENCE, NUMBER_LIKELY, SKILL = 6.0, 0.9, 0.5
_SHAPES = (0.4, 12.0)  # from very heavy tails to hardly any
_SLIGHT, _NONE = 1e-6, 1e-300


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedNumbers:
    """Rows from the farthest off on, issues first. Shapes: (m,) each but the sizes.

    `score` is exp(-|error| / the usual error), 0 to 1; the rest is as in `JudgedLabels`.
    """

    rows: Rows
    score: Array
    is_issue: NDArray[np.bool_]
    count: int | None
    rate: Share | None
    why: Why | None


def judge_numbers(
    answers: Array, truth: Array, groups: Labels, excuse: Why | None = None
) -> JudgedNumbers:
    """Rank rows by how much left-out answers contradict their numbers.

    Shapes: answers (n,) out of fold, NaN in rows that no fold held out; truth, blocks (n,).

    >>> rng = np.random.default_rng(0)
    >>> answers = rng.normal(size=200)
    >>> truth = answers + 0.1 * rng.normal(size=200)
    >>> truth[[7, 9]] = 3.0, -3.0
    >>> found = judge_numbers(answers, truth, np.arange(200))
    >>> sorted(found.rows[found.is_issue].tolist()), found.count
    ([7, 9], 2)
    """
    rows = np.flatnonzero(np.isfinite(answers))
    error = answers[rows] - truth[rows]
    weights, n_groups = group_weights(groups[rows])
    score = np.exp(-np.abs(error) / max(_usual(error), _SLIGHT))
    rate, wrong = None, np.zeros(len(rows))
    is_small = n_groups < LEAST or np.abs(error).max(initial=0.0) <= _SLIGHT
    why: Why | None = excuse or ("too-few" if is_small else None)
    if why is None:
        middle = truth[rows] - np.median(truth[rows])
        rate, why, wrong = _fitted(error, middle, float(np.ptp(truth[rows])), weights)
    is_issue = wrong > NUMBER_LIKELY
    if why is None and not is_issue.any():
        why, rate = "rate-unclear", None
    order = np.lexsort((-np.abs(error), ~is_issue))
    count = len(np.unique(groups[rows][is_issue])) if why is None else None
    return JudgedNumbers(
        rows=rows[order],
        score=score[order],
        is_issue=is_issue[order],
        count=0 if why == "not-significant" else count,
        rate=rate,
        why=why,
    )


def _fitted(
    error: Array, middle: Array, span: float, weights: Array
) -> tuple[Share | None, Why | None, Array]:
    """The rate or why there is none, and how likely each number is to be wrong where there is."""
    none = np.zeros(len(error))
    if _usual(error) >= SKILL * _usual(middle):
        return None, "weak-model", none
    fits = [_fit_numbers(error, span, float(rate), weights) for rate in TRIED]
    values = np.array([likelihood for likelihood, _ in fits])
    best = int(values.argmax())
    rate, inside = float(TRIED[best]), TRIED[values >= values[best] - _DROP]
    if 2 * (values[best] - values[0]) < EVIDENCE or inside.min() == 0:
        return None, "not-significant", none
    if inside.max() >= TRIED[-1]:
        return None, "rate-unclear", none
    honest = (1 - rate) * np.exp(_log_density(error, *fits[best][1]))
    wrong: Array = (rate / span) / (honest + rate / span + _NONE)
    return Share(value=rate, low=float(inside.min()), high=float(inside.max())), None, wrong


def _usual(domain_gap: Array) -> float:
    """The distance that half of them are within."""
    return float(np.median(np.abs(domain_gap))) if len(domain_gap) else 0.0


def _log_density(error: Array, log_scale: float, log_shape: float) -> Array:
    """Of honest errors. Shapes: (n,)."""
    shape = float(np.clip(np.exp(log_shape), *_SHAPES))
    power = (np.abs(error) * np.exp(-log_scale)) ** shape
    found: Array = np.log(shape / 2) - log_scale - gammaln(1 / shape) - power
    return found


def _fit_numbers(
    error: Array, span: float, rate: float, weights: Array
) -> tuple[float, tuple[float, float]]:
    """The honest errors that explain most, given the rate: log-likelihood, (log s, log b)."""

    def loss(curve: Array) -> float:
        honest = (1 - rate) * np.exp(_log_density(error, float(curve[0]), float(curve[1])))
        return -float(np.log(np.maximum(honest + rate / span, _NONE)) @ weights)

    middle = float(np.log(max(np.median(np.abs(error)), _SLIGHT)))
    simplex = np.array([[middle + 0.5, 0.5], [middle + 1.2, 0.5], [middle + 0.5, 1.3]])
    options = {"maxiter": 200, "xatol": 1e-3, "fatol": 1e-4, "initial_simplex": simplex}
    found = minimize(loss, simplex[0], method="Nelder-Mead", options=options)
    return -float(found.fun), (float(found.x[0]), float(found.x[1]))


def of_numbers(
    found: JudgedNumbers,
    ids: Sequence[str],
    labels: Sequence[str],
    answers: Array,
    most: int,
    nouns: Nouns = IMAGES,
) -> LabelIssues:
    """The record: every issue, and the `most` numbers farthest from the model's.

    Shapes: answers (n,), in the user's unit; `labels` are the numbers as the data write them.
    `disagreements` counts the numbers that are off by more than twice the usual error.
    """
    n_issues = int(found.is_issue.sum())
    shown = range(min(max(n_issues, most), len(found.rows)))
    ranked = tuple(
        LabelIssue(
            id=ids[row],
            label=labels[row],
            suggested=f"{answers[row]:.4g}",
            probability=None,
            score=round(float(found.score[at]), 4),
            is_issue=bool(found.is_issue[at]),
        )
        for at, row in ((at, int(found.rows[at])) for at in shown)
    )
    far = int((found.score < np.exp(-2.0)).sum())
    told = said(
        judged=len(found.rows),
        disagreements=far,
        count=found.count,
        rate=found.rate,
        why=found.why,
        error=None,
        listed=n_issues,
        nouns=nouns,
        noun="number",
    )
    return LabelIssues(
        judged=len(found.rows),
        disagreements=far,
        count=found.count,
        rate=found.rate,
        why=found.why,
        sentence=told,
        ranked=ranked,
    )


# ---- How right can any model be on these labels?


def label_noise_ceiling(
    found: JudgedLabels,
    near_duplicates: Iterable[NearDuplicate],
    labels: Labels,
    nouns: Nouns = IMAGES,
) -> Evidence:
    """One minus the share of labels that must be wrong, estimated.

    Shapes: labels (n,) over the rows that twins number. Wrong are the share of labels that
    contradict sure predictions, and one label of every two near copies with different
    labels where neither is an issue yet. No value where no number of label issues can be stated.
    Details: `rate`, `conflicts`.
    """
    counted = {int(row) for row in found.rows[found.is_issue]}
    conflicts = [t for t in near_duplicates if labels[t.first] != labels[t.second]]
    apart: set[int] = (
        set()
    )  # the wrong one is not known: either stands for the pair, and for others of it
    for twin in conflicts:
        if not {twin.first, twin.second} & (counted | apart):
            apart.add(twin.second)
    n, share = len(labels), found.rate
    details: dict[str, float | int | str] = {
        "rate": 0.0 if share is None else share.value,
        "conflicts": len(conflicts),
    }
    if found.count is None or found.upper is None:
        return Evidence(
            name="label_noise_ceiling",
            value=None,
            low=None,
            high=None,
            n=n,
            details=details,
            meaning="Not measured: how many labels are wrong cannot be told here.",
        )
    certain = len(apart) / n
    rates = (0.0, found.upper, 0.0) if share is None else (share.value, share.high, share.low)
    value, low, high = (max(1.0 - rate - certain, 0.0) for rate in rates)
    is_clear = share is not None or bool(apart)
    meaning = _meaning(value, low, high, len(conflicts), nouns) if is_clear else _unclear(low)
    return Evidence(
        name="label_noise_ceiling",
        value=value,
        low=low,
        high=high,
        n=n,
        meaning=meaning,
        details=details,
    )


def _meaning(value: float, low: float, high: float, conflicts: int, nouns: Nouns) -> str:
    noun = "pair of near copies carries" if conflicts == 1 else "pairs of near copies carry"
    pairs = f" ({conflicts:,} {noun} two)" if conflicts else ""
    return (
        f"About {100 * (1 - value):.1f} % of the labels contradict what the {nouns.many} "
        f"show{pairs}: "
        f"no model can agree with more than about {100 * value:.1f} % ({100 * low:.1f} to "
        f"{100 * high:.1f} %) of labels made like these."
    )


def _unclear(low: float) -> str:
    missed = 100 * (1 - low)
    return f"No label issues found; up to {missed:.0f} % wrong labels could have gone unnoticed."
