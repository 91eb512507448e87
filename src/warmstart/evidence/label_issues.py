"""Label issues: labels ranked by how little a model agrees, and whether wrong ones are counted.

A label's *score* is its own out-of-fold probability (Northcutt et al. 2021, "Confident Learning").
That only ranks: on hard data most top ranks are mistakes of the model. These grow rarer the more
confident it is, while wrong labels contradict confident and uncertain predictions alike. The fit is

    P(label j) = (1 - e) q_j + e sum_i q_i S_ij,   q = softmax(a log p),

with p the out-of-fold probabilities, a > 0 undoing the effect of label noise on them, e the share
of wrong labels, and S where these go: to every other class alike, or from each class as the fit
itself estimates (Copas 1988, "Binary Regression Models for Contaminated Data", for two classes).
Rows of one group (near-duplicates, `--group`) share the weight of one. A number is stated only if

- the caller has no `excuse`: the outcome of a table, a distribution shift, no signal;
- there are at least `LEAST` groups;
- the model is wrong at most `MOST_WRONG` of the time, apart from what e explains at its low end;
- the interval of e, for wrong labels that go anywhere, excludes 0 and ends inside the grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import gammaln

from warmstart.evidence.probe import not_measured
from warmstart.modalities.image import IMAGE
from warmstart.nouns import Nouns
from warmstart.records.data import SEPARATOR, LabelIssue, LabelIssues, Share, Why
from warmstart.records.findings import Finding
from warmstart.records.summary import Evidence
from warmstart.solve.calibration import Labels
from warmstart.solve.ridge import Array, Rows

RATES = np.concatenate([[0.0], np.geomspace(0.002, 0.5, 40)])
POWERS = np.geomspace(0.3, 6.0, 30)  # a
LEAST = 100  # groups
# With 5 to 20 % of the labels of ten sets moved (bench/label_issues.py): where a model was wrong 4
# times in 10, fewer than 60 % of its issues were real; up to here 74 % and more in each set.
MOST_WRONG = 0.3
# Likelihood gain of labels moved from class to class above which "no issues found" is withheld.
# Similar classes gain too, up to 26 on clean sets; 20 % moved to the next class gave 16 to 340.
DIRECTED = 30.0
CONFIRMED = 0.5  # share of a class's labels the model must confirm before any counts as an issue
LIKELY = 0.5  # probability of being wrong from which a label is an issue
CELLS = 2_000_000  # probabilities in a fit at most; more rows are sampled
_ROUNDS = 6  # of fitting where wrong labels go
_FIRST_RATE = 0.05  # to estimate the destinations with, where the best fit has no wrong label
_DROP = 1.92  # of the log-likelihood at the ends of a 95 % interval
_LEAST_P, _TINY = 1e-6, 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseFit:
    """The share of wrong labels with its 95 % interval.

    `power` is the exponent a, `gain` twice the gain in log-likelihood over no wrong label, `spread`
    (K, K) where wrong labels go. `plain` is the rate if they go anywhere.
    """

    rate: float
    low: float
    high: float
    plain: float
    power: float
    gain: float
    spread: Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """Judged rows, issues first, then by score. Shapes: arrays (m,).

    `score` is a label's own probability, of a number exp(-|error| / the median error). `count` is
    the number of issues, counting those of one group with the same label and suggestion once; None
    where `why` forbids a number.
    """

    rows: Rows
    score: Array
    is_issue: NDArray[np.bool_]
    count: int | None
    rate: Share | None
    why: Why | None


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedLabels(Judged):
    """`error` is the share of labels that the model contradicts, `upper` the largest rate possible.

    `upper` is None if it was not measured.
    """

    labels: Labels
    suggested: Labels
    probability: Array
    error: float
    upper: float | None

    @property
    def disagreements(self) -> int:
        """Number of labels that the model contradicts."""
        return int((self.labels != self.suggested).sum())


def judge_labels(
    probabilities: Array,
    labels: Labels,
    groups: Labels,
    excuse: Why | None = None,
    likely: float = LIKELY,
) -> JudgedLabels:
    """Rank labels by their own out-of-fold probability; count issues where that is justified.

    Shapes: probabilities (n, K), NaN in rows that no fold held out (left out here); labels (n,) in
    0..K-1, groups (n,). `excuse` is why no number may be stated whatever the fit says.

    >>> p = np.array([[0.9, 0.1], [0.2, 0.8], [0.1, 0.9]])
    >>> judged = judge_labels(p, np.array([0, 0, 1]), np.arange(3))
    >>> judged.rows.tolist(), judged.score.tolist(), judged.count, judged.why
    ([1, 0, 2], [0.2, 0.9, 0.9], None, 'too-few')
    """
    rows = np.flatnonzero(np.isfinite(probabilities).all(axis=1))
    p, labels = probabilities[rows], labels[rows]
    weights, n_groups = group_weights(groups[rows])
    top, own = p.argmax(axis=1), p[np.arange(len(rows)), labels]
    error = float(weights @ (top != labels) / max(n_groups, 1))
    noise = fit_noise(p, labels, weights) if excuse is None and n_groups >= LEAST else None
    why = excuse or _why_not(noise, error)
    is_issue = np.zeros(len(rows), dtype=bool)
    count = 0 if why == "not-significant" else None
    if noise is not None and why is None:
        k = p.shape[1]
        confirmed = np.bincount(labels, weights * (top == labels), minlength=k)
        is_confirmed = confirmed >= CONFIRMED * np.bincount(labels, weights, minlength=k)
        q = _sharpen(p, noise.power)[np.arange(len(p)), labels]
        wrong = noise.plain * (1 - q) / max(k - 1, 1)
        p_wrong = wrong / np.maximum(wrong + (1 - noise.plain) * q, _TINY)  # by Bayes
        is_issue = (p_wrong > likely) & (top != labels) & is_confirmed[labels]
        why = None if is_issue.any() else "rate-unclear"
    rate = None
    if noise is not None and why is None:
        distinct = np.stack([groups[rows], labels, top], axis=1)[is_issue]
        count = len(np.unique(distinct, axis=0))
        rate = Share(value=noise.rate, low=noise.low, high=noise.high)
    order = np.lexsort((own, ~is_issue))
    return JudgedLabels(
        rows=rows[order],
        labels=labels[order],
        suggested=top[order],
        probability=p[order, top[order]],
        score=own[order],
        is_issue=is_issue[order],
        count=count,
        why=why,
        error=error,
        upper=None if noise is None else noise.high,
        rate=rate,
    )


def judge_sets(
    probabilities: Array, truth: NDArray[np.float64], groups: Labels, excuse: Why | None = None
) -> JudgedLabels:
    """Judge several labels per example, each as a problem of two classes.

    Rows are numbered (row, label) row by row. A label is an issue from .8 on: with planted mistakes
    15 of 28 from .5 on were real, 6 of 7 from .8 on (pairs of pictures, 5 % with a mistake).
    Shapes: probabilities, truth (n, K), groups (n,).

    >>> p = np.array([[0.9, 0.1], [0.2, 0.8]])
    >>> judged = judge_sets(p, np.array([[1.0, 0.0], [0.0, 0.0]]), np.arange(2))
    >>> divmod(int(judged.rows[0]), 2)
    (1, 1)
    """
    flat, k = probabilities.reshape(-1), truth.shape[1]
    both = np.stack([1 - flat, flat], axis=1)
    label_groups = np.repeat(groups, k) * k + np.tile(np.arange(k), len(truth))
    return judge_labels(both, truth.reshape(-1).astype(np.int64), label_groups, excuse, likely=0.8)


def group_weights(groups: Labels) -> tuple[Array, int]:
    """The weight of each row, 1 over the size of its group, and the number of groups."""
    _, index, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    return 1.0 / sizes[index], len(sizes)


def _why_not(noise: NoiseFit | None, error: float) -> Why | None:
    """Why the fit does not allow a number."""
    if noise is None:
        return "too-few"
    if error - noise.low > MOST_WRONG:
        return "weak-model"
    if noise.low == 0:
        return "rate-unclear" if noise.gain >= DIRECTED else "not-significant"
    return "rate-unclear" if noise.high >= RATES[-1] else None


def fit_noise(probabilities: Array, labels: Labels, weights: Array) -> NoiseFit:
    """Fit the share of wrong labels over a grid of rates. Shapes: (n, K), (n,), (n,), no NaN.

    The rate is the mean, the interval the union of those for wrong labels that go anywhere and
    from class to class; `gain` is that of the latter.
    """
    p, k = probabilities, probabilities.shape[1]
    most = max(CELLS // k, LEAST)
    if len(p) > most:  # the same sample each time
        rows = np.sort(np.random.default_rng(0).permutation(len(p))[:most])
        p, labels, weights = p[rows], labels[rows], weights[rows]
    anywhere = (1 - np.eye(k)) / max(k - 1, 1)
    first = last = _fit(p, labels, weights, anywhere)
    for _ in range(_ROUNDS if k > 2 else 0):
        last = _fit(p, labels, weights, _destinations(p, labels, weights, last))
    low, high = min(first.low, last.low), max(first.high, last.high)
    return replace(first, rate=(first.rate + last.rate) / 2, low=low, high=high, gain=last.gain)


def _fit(p: Array, labels: Labels, weights: Array, spread: Array) -> NoiseFit:
    rows, reached = np.arange(len(p)), spread[:, labels].T
    likelihoods = np.empty((len(RATES), len(POWERS)))
    for column, power in enumerate(POWERS):
        q = _sharpen(p, power)
        own, other = q[rows, labels], (q * reached).sum(axis=1)
        mixed = np.outer(1 - RATES, own) + np.outer(RATES, other)
        likelihoods[:, column] = np.log(np.maximum(mixed, _TINY)) @ weights
    profile = likelihoods.max(axis=1)
    best = int(profile.argmax())
    inside = RATES[profile >= profile[best] - _DROP]
    return NoiseFit(
        rate=float(RATES[best]),
        plain=float(RATES[best]),
        low=float(inside.min()),
        high=float(inside.max()),
        gain=2 * float(profile[best] - profile[0]),
        power=float(POWERS[likelihoods[best].argmax()]),
        spread=spread,
    )


def _destinations(p: Array, labels: Labels, weights: Array, fit: NoiseFit) -> Array:
    """Where the wrong labels of each class go by the fit, add-one smoothed. Shapes: (K, K)."""
    k, q = p.shape[1], _sharpen(p, fit.power)
    rate = max(fit.rate, _FIRST_RATE)
    sent = rate * q * fit.spread[:, labels].T
    honest = (1 - rate) * q[np.arange(len(p)), labels]
    sent *= (weights / np.maximum(sent.sum(axis=1) + honest, _TINY))[:, None]
    counts = np.ones((k, k))
    np.add.at(counts.T, labels, sent)
    np.fill_diagonal(counts, 0.0)
    shares: Array = counts / counts.sum(axis=1, keepdims=True)
    return shares


def _sharpen(p: Array, power: float) -> Array:
    """softmax(power log p). Shapes: (n, K) to (n, K)."""
    logits = power * np.log(np.clip(p, _LEAST_P, 1.0))
    logits -= logits.max(axis=1, keepdims=True)
    np.exp(logits, out=logits)
    logits /= logits.sum(axis=1, keepdims=True)
    return np.asarray(logits)


# ---- One sentence about the labels for every surface, and the list to look through.


def _record(
    judged: Judged,
    ranked: tuple[LabelIssue, ...],
    disagreements: int,
    nouns: Nouns,
    error: float | None = None,
    noun: str = "label",
) -> LabelIssues:
    """`noun` is what an example has, `error` the share of labels that the model contradicts."""
    return LabelIssues(
        judged=len(judged.rows),
        disagreements=disagreements,
        count=judged.count,
        rate=judged.rate,
        why=judged.why,
        sentence=_sentence(judged, disagreements, nouns, error, noun),
        ranked=ranked,
    )


def _sentence(
    judged: Judged, disagreements: int, nouns: Nouns, error: float | None, noun: str
) -> str:
    n, count, rate = len(judged.rows), judged.count, judged.rate
    some = f"{disagreements:,} of {n:,} {noun}s"
    disagrees = f"the model disagrees with {some}"
    times = f"about {max(round(10 * (error or 0.0)), 1)} times in 10"
    if error is None:
        disagrees = f"{some} differ from the model's by more than twice its usual error"
        times = "too often to tell"
    uncounted, own = "no label issues are counted", "its own mistakes"
    reasons: dict[Why, str] = {
        "outcome": f"A table's target is an outcome, not a label to correct, so {uncounted}: "
        f"{disagrees}.",
        "distribution-shift": f"The test {nouns.many} differ from the training {nouns.many}, so "
        f"{uncounted}: {disagrees}, and these may be {own}.",
        "no-signal": f"No signal was found, so {uncounted}: such a model cannot check a {noun}.",
        "too-few": f"Too few {nouns.many} to count label issues: {disagrees}; these may be {own}.",
        "weak-model": f"{disagrees[0].upper()}{disagrees[1:]}; it is itself wrong {times}, so most "
        f"of these are probably {own}.",
        "rate-unclear": f"More {noun}s look wrong than the model's own mistakes explain, but their "
        f"number is unclear: {disagrees}.",
    }
    if judged.why in reasons:
        return reasons[judged.why]
    if not count or rate is None:
        if not disagreements and error is not None:
            return f"No label issues found: the model agrees with all {n:,} {noun}s."
        return f"No label issues found: {disagrees}, which {own} explain."
    one = count == 1
    them, these = ("it", f"this {nouns.one}") if one else ("them", f"these {nouns.many}")
    listed = int(judged.is_issue.sum())  # near-duplicates too
    copies = f" ({listed:,} with near-duplicates and groups)" if listed > count else ""
    shares = (rate.value, rate.low, rate.high)
    value, low, high = (f"{100 * x:.1f}" if x < 0.0995 else f"{100 * x:.0f}" for x in shares)
    return (
        f"{count:,} label issue{'' if one else 's'} among {n:,} {noun}s{copies}: the model, "
        f"which did not learn from {these}, contradicts {them} beyond {own}. About {value} % of "
        f"all {noun}s are wrong (95 % CI {low}–{high}). Look at {them} first and correct the "
        f"{noun if one else f'{noun}s'}."
    )


def of_classes(
    judged: JudgedLabels,
    ids: Sequence[str],
    classes: Sequence[str],
    most: int,
    nouns: Nouns = IMAGE.nouns,
) -> LabelIssues:
    """The record: every issue, then contradicted labels, among the `most` of the lowest score."""
    n_listed = max(int(judged.is_issue.sum()), min(most, len(judged.rows)))
    ranked = tuple(
        LabelIssue(
            id=ids[judged.rows[i]],
            label=classes[judged.labels[i]],
            suggested=classes[judged.suggested[i]],
            is_issue=bool(judged.is_issue[i]),
            probability=round(float(judged.probability[i]), 4),
            score=round(float(judged.score[i]), 4),
        )
        for i in range(n_listed)
        if judged.labels[i] != judged.suggested[i]
    )
    return _record(judged, ranked, judged.disagreements, nouns, judged.error)


def of_sets(
    judged: JudgedLabels,
    ids: Sequence[str],
    truth: NDArray[np.float64],
    names: Sequence[str],
    most: int,
    nouns: Nouns = IMAGE.nouns,
) -> LabelIssues:
    """The record for several labels per example: one line per example, worst first.

    A line corrects all issues of its example, or else the label of lowest score. Shapes: truth
    (n, K); `judged` numbers rows (row, label).
    """
    k, lines = len(names), dict[int, list[int]]()
    for i in np.flatnonzero(judged.labels != judged.suggested):
        row = int(judged.rows[i]) // k
        if row in lines and not judged.is_issue[i]:
            continue
        if len(lines) >= most and not judged.is_issue[i]:
            break
        lines.setdefault(row, []).append(int(i))

    def joined(has: NDArray[np.float64]) -> str:
        return SEPARATOR.join(sorted(name for name, is_on in zip(names, has, strict=True) if is_on))

    def line(row: int, indices: list[int]) -> LabelIssue:
        corrected, which = truth[row].copy(), [int(judged.rows[i]) % k for i in indices]
        corrected[which] = judged.suggested[indices]
        return LabelIssue(
            id=ids[row],
            label=joined(truth[row]),
            suggested=joined(corrected),
            probability=round(float(judged.probability[indices[0]]), 4),
            score=round(float(judged.score[indices[0]]), 4),
            is_issue=bool(judged.is_issue[indices[0]]),
            concerns=tuple(names[number] for number in which),
        )

    ranked = tuple(line(row, indices) for row, indices in lines.items())
    return _record(judged, ranked, judged.disagreements, nouns, judged.error)


def label_finding(issues: LabelIssues) -> Finding | None:
    """The issues as a finding; None where there are none, or none can be counted."""
    if not issues.count:
        return None
    items = tuple(map(_item, issues.issues))
    return Finding(kind="label-issue", sentence=issues.sentence, items=items)


def _item(issue: LabelIssue) -> str:
    percent = "" if issue.probability is None else f" ({100 * issue.probability:.0f} %)"
    texts = [issue.label, issue.suggested]
    if issue.concerns:
        texts = [text.replace(SEPARATOR, ", ") for text in texts]
    label, other = (text or "nothing" for text in texts)
    return f"{issue.id}: {label}, looks like {other}{percent}"


# ---- Label issues of numbers: further from the prediction than the model's own errors explain.
#
# A model's own errors follow a generalised normal distribution of fitted scale s and shape b (below
# 2: heavy tails), a wrong number lies anywhere within the range of the numbers:
#
# p(error) = (1 - e) b / (2 s Gamma(1/b)) exp(-|error / s|^b) + e / range.
#
# Where heavy tails explain all errors, e is 0 and nothing is counted. Source: Box & Tiao 1973,
# "Bayesian Inference in Statistical Analysis", §3.2; a number is stated under the conditions above.

NUMBER_RATES = RATES[RATES <= 0.12]  # share of wrong numbers; larger ones cannot be measured
# Twice the gain in log-likelihood of any rate over none, how likely a number must be wrong, and the
# median error over that of the median number, below which numbers are called wrong: with 5 % of
# them swapped, 89 % of the issues were real (bench/results/task_label_issues.json). A weak model
# counts nothing: its errors are those of the numbers themselves (turned photographs, R² .3: 15 of
# 300 would have been issues).
EVIDENCE, NUMBER_LIKELY, SKILL = 6.0, 0.9, 0.5
_SHAPES = (0.4, 12.0)  # from very heavy tails to hardly any
_SLIGHT, _NONE = 1e-6, 1e-300


def judge_numbers(
    answers: Array, truth: Array, groups: Labels, excuse: Why | None = None
) -> Judged:
    """Rank rows by how far their out-of-fold answers are from their numbers.

    Shapes: answers (n,), NaN in rows that no fold held out; truth, groups (n,).

    >>> rng = np.random.default_rng(0)
    >>> answers = rng.normal(size=200)
    >>> truth = answers + 0.1 * rng.normal(size=200)
    >>> truth[[7, 9]] = 3.0, -3.0
    >>> judged = judge_numbers(answers, truth, np.arange(200))
    >>> sorted(judged.rows[judged.is_issue].tolist()), judged.count
    ([7, 9], 2)
    """
    rows = np.flatnonzero(np.isfinite(answers))
    error = answers[rows] - truth[rows]
    weights, n_groups = group_weights(groups[rows])
    score = np.exp(-np.abs(error) / max(_median_error(error), _SLIGHT))
    rate, wrong = None, np.zeros(len(rows))
    is_small = n_groups < LEAST or np.abs(error).max(initial=0.0) <= _SLIGHT
    why: Why | None = excuse or ("too-few" if is_small else None)
    if why is None:
        centred = truth[rows] - np.median(truth[rows])
        rate, why, wrong = _fit_rate(error, centred, float(np.ptp(truth[rows])), weights)
    is_issue = wrong > NUMBER_LIKELY
    if why is None and not is_issue.any():
        why, rate = "rate-unclear", None
    order = np.lexsort((-np.abs(error), ~is_issue))
    count = len(np.unique(groups[rows][is_issue])) if why is None else None
    return Judged(
        rows=rows[order],
        score=score[order],
        is_issue=is_issue[order],
        count=0 if why == "not-significant" else count,
        rate=rate,
        why=why,
    )


def _fit_rate(
    error: Array, centred: Array, span: float, weights: Array
) -> tuple[Share | None, Why | None, Array]:
    """The rate or why there is none, and the probability that each number is wrong."""
    none = np.zeros(len(error))
    if _median_error(error) >= SKILL * _median_error(centred):
        return None, "weak-model", none
    fits = [_fit_errors(error, span, float(rate), weights) for rate in NUMBER_RATES]
    values = np.array([likelihood for likelihood, _ in fits])
    best = int(values.argmax())
    rate, inside = float(NUMBER_RATES[best]), NUMBER_RATES[values >= values[best] - _DROP]
    if 2 * (values[best] - values[0]) < EVIDENCE or inside.min() == 0:
        return None, "not-significant", none
    if inside.max() >= NUMBER_RATES[-1]:
        return None, "rate-unclear", none
    honest = (1 - rate) * np.exp(_log_density(error, *fits[best][1]))
    wrong: Array = (rate / span) / (honest + rate / span + _NONE)
    return Share(value=rate, low=float(inside.min()), high=float(inside.max())), None, wrong


def _median_error(error: Array) -> float:
    return float(np.median(np.abs(error))) if len(error) else 0.0


def _log_density(error: Array, log_scale: float, log_shape: float) -> Array:
    """Log-density of the model's own errors. Shapes: (n,)."""
    shape = float(np.clip(np.exp(log_shape), *_SHAPES))
    power = (np.abs(error) * np.exp(-log_scale)) ** shape
    density: Array = np.log(shape / 2) - log_scale - gammaln(1 / shape) - power
    return density


def _fit_errors(
    error: Array, span: float, rate: float, weights: Array
) -> tuple[float, tuple[float, float]]:
    """Fit the model's own errors at this rate: log-likelihood, (log s, log b)."""

    def loss(curve: Array) -> float:
        honest = (1 - rate) * np.exp(_log_density(error, float(curve[0]), float(curve[1])))
        return -float(np.log(np.maximum(honest + rate / span, _NONE)) @ weights)

    middle = float(np.log(max(np.median(np.abs(error)), _SLIGHT)))
    simplex = np.array([[middle + 0.5, 0.5], [middle + 1.2, 0.5], [middle + 0.5, 1.3]])
    options = {"maxiter": 200, "xatol": 1e-3, "fatol": 1e-4, "initial_simplex": simplex}
    fit = minimize(loss, simplex[0], method="Nelder-Mead", options=options)
    return -float(fit.fun), (float(fit.x[0]), float(fit.x[1]))


def of_numbers(
    judged: Judged,
    ids: Sequence[str],
    labels: Sequence[str],
    answers: Array,
    most: int,
    nouns: Nouns = IMAGE.nouns,
) -> LabelIssues:
    """The record: every issue, and the `most` numbers farthest from the model's.

    Shapes: answers (n,), in the user's unit; `labels` are the numbers as the data write them.
    `disagreements` counts errors of more than twice the median error.
    """
    n_listed = min(max(int(judged.is_issue.sum()), most), len(judged.rows))
    ranked = tuple(
        LabelIssue(
            id=ids[row],
            label=labels[row],
            suggested=f"{answers[row]:.4g}",
            probability=None,
            score=round(float(judged.score[i]), 4),
            is_issue=bool(judged.is_issue[i]),
        )
        for i, row in enumerate(judged.rows[:n_listed])
    )
    disagreements = int((judged.score < np.exp(-2.0)).sum())
    return _record(judged, ranked, disagreements, nouns, noun="number")


def label_noise_ceiling(
    judged: JudgedLabels,
    near_duplicates: Sequence[tuple[int, int]],
    labels: Labels,
    nouns: Nouns = IMAGE.nouns,
) -> Evidence:
    """The highest accuracy any model can reach: one minus the estimated share of wrong labels.

    Shapes: labels (n,); `near_duplicates` are pairs of their rows. Wrong are the estimated rate of
    label issues, and one label of every two near-duplicates with different labels where neither
    is an issue yet. No value where no number of label issues can be stated.
    Details: `rate`, `conflicts`.
    """
    counted = {int(row) for row in judged.rows[judged.is_issue]}
    conflicts = [(a, b) for a, b in near_duplicates if labels[a] != labels[b]]
    others = set[int]()  # which of a pair is wrong is unknown: either stands for it
    for a, b in conflicts:
        if not {a, b} & (counted | others):
            others.add(b)
    n, share = len(labels), judged.rate
    details: dict[str, float | int | str] = {
        "rate": 0.0 if share is None else share.value,
        "conflicts": len(conflicts),
    }
    if judged.count is None or judged.upper is None:
        reason = "Not measured: the number of wrong labels is unclear here."
        return replace(not_measured("label_noise_ceiling", n, reason), details=details)
    certain = len(others) / n
    rates = (0.0, judged.upper, 0.0) if share is None else (share.value, share.high, share.low)
    value, low, high = (max(1.0 - rate - certain, 0.0) for rate in rates)
    missed = f"{100 * (1 - low):.0f} %"
    meaning = f"No label issues found; up to {missed} wrong labels could have gone unnoticed."
    if share is not None or others:
        noun = "pair of near-duplicates has" if len(conflicts) == 1 else "near-duplicate pairs have"
        pairs = f" ({len(conflicts):,} {noun} two labels)" if conflicts else ""
        meaning = (
            f"About {100 * (1 - value):.1f} % of the labels contradict what the {nouns.many} "
            f"show{pairs}: no model can agree with more than about {100 * value:.1f} % "
            f"({100 * low:.1f} to {100 * high:.1f} %) of labels like these."
        )
    return Evidence(
        name="label_noise_ceiling",
        value=value,
        low=low,
        high=high,
        n=n,
        meaning=meaning,
        details=details,
    )
