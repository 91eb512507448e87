"""Any of several labels at once: a probability each, log-loss, mean average precision."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from warmstart.errors import DataError, UsageError
from warmstart.nouns import Wording, count
from warmstart.records.answer import Answer, LabelAnswer, LabelCalibration
from warmstart.records.data import SEPARATOR, Example, split_labels
from warmstart.records.summary import LabelPrediction, LabelScore, LabelScores, Prediction
from warmstart.solve.calibration import Calibration, Labels, fit_platt, log_losses_of
from warmstart.solve.ridge import Array
from warmstart.stats import metrics
from warmstart.stats.intervals import Groups, Values, effective_size
from warmstart.stats.metrics import precision_shares, precisions, quick_precisions
from warmstart.stats.selective import confident_threshold, error_bound
from warmstart.tasks.classify import normalise_name
from warmstart.tasks.task import AnswerPlace, Certainty, Credit, Line, Operators, Target, Truth
from warmstart.tasks.words import Words

if TYPE_CHECKING:
    from torch import Tensor

LEAST = 10  # rows with a label, below which its threshold stays at 0.5
MIN_EXAMPLES = 2  # training examples with a label, and as many without it
_LEAST = 1e-12
_SEPARATORS = ("|", ";", ",")  # of labels in one cell
_WORDS = Words(
    tag="image-classification",
    metric="mean_average_precision",
    name="mean average precision",
    title="mAP",
    short="mAP",
    score="mean average precision",
    right="mean average precision",
    be="reach a mean average precision of {}",
    does="has a mean average precision of {}",
    before="had a mean average precision of {}",
    than="{} points of mean average precision better",
    tie="about as precise as the linear probe, with better calibrated probabilities",
    hardly="more precise",
    answers="probabilities",
    output="{} labels",
    one="label",
    many="labels",
    target="a label",
    unit="logit",
    ask="predict the labels of {an}",
    summary="Predicts any of {n} labels of {an}",
    apart="predicts the labels of {an}",
    blind="a random ranking",
    idle="a random ranking has {}",
    label="label",
    more="more a label",
    crop="a crop of a third or more mostly still shows what its labels name",
    mirror="mirrored images keep their labels; set training.flip=false where left and right matter",
)


def _split_cells(cells: Sequence[str], source: str, *, at_spaces: bool) -> list[list[str]]:
    """The names in each cell: `|`, `;` or `,` separate, whichever occurs.

    If none does, white space does `at_spaces`, if the cells then hold fewer different names.
    """
    separators = [mark for mark in _SEPARATORS if any(mark in cell for cell in cells)]
    if len(separators) > 1:
        first = next(cell for cell in cells if separators[1] in cell)
        raise DataError(
            f"{source} has {' and '.join(map(repr, separators))} in its labels (such as "
            f'"{first}"); put one of them between labels, such as {SEPARATOR!r}'
        )
    if separators:
        split = [cell.split(separators[0]) for cell in cells]
        return [[name.strip() for name in names if name.strip()] for names in split]
    words = [cell.split() for cell in cells]
    if at_spaces and len({word for cell in words for word in cell}) < len(set(cells) - {""}):
        return words
    return [[cell.strip()] if cell.strip() else [] for cell in cells]


def best_thresholds(answers: Values, truth: Truth) -> Values:
    """For each label the threshold of best F1, half way to the next probability below.

    Lipton, Elkan & Naryanaswamy 2014, "Optimal thresholding of classifiers to maximize F1
    measure": on calibrated probabilities it is half the F1 that it reaches, so never above 0.5.
    Shapes: (n, K) both; returns (K,), each between 0 and 1.

    >>> p = np.linspace(0.02, 1.0, 50)[:, None]
    >>> best_thresholds(p, (p > 0.4).astype(float)).round(2).tolist()
    [0.41]
    """
    thresholds = np.full(answers.shape[1], 0.5)
    for k in np.flatnonzero(truth.sum(axis=0) >= LEAST):
        order = np.argsort(-answers[:, k], kind="stable")
        p, has = answers[order, k], truth[order, k] > 0
        last = np.append(p[1:] < p[:-1], True)  # ties are named together
        f1 = 2 * np.cumsum(has) / (np.arange(1, len(p) + 1) + has.sum())
        best = int(np.where(last, f1, -1.0).argmax())
        below = p[best + 1] if best + 1 < len(p) else 0.0
        thresholds[k] = (p[best] + below) / 2
    return thresholds


def f1_of(named: NDArray[np.bool_], has: NDArray[np.bool_]) -> Values:
    """F1 of each column; 0 where no label is predicted or true. Shapes: (n, K); returns (K,).

    >>> f1_of(np.array([[True], [True]]), np.array([[True], [False]])).round(3).tolist()
    [0.667]
    """
    both = (named & has).sum(axis=0)
    return np.asarray(2 * both / np.maximum(named.sum(axis=0) + has.sum(axis=0), 1))


def confidence(answers: Values, thresholds: Values) -> Values:
    """The confidence of each row's least confident label. Shapes: (n, K), (K,); returns (n,).

    It is the probability of a predicted label, else that of its absence.

    >>> confidence(np.array([[0.9, 0.2]]), np.array([0.5, 0.5])).tolist()
    [0.8]
    """
    named = answers >= thresholds
    return np.asarray(np.where(named, answers, 1 - answers).min(axis=1))


def per_label(
    answers: Values, truth: Truth, names: Sequence[str], thresholds: Values
) -> tuple[LabelScore, ...]:
    """The scores of each label. Shapes: (n, K) both, thresholds (K,)."""
    named, has = answers >= thresholds, truth > 0
    f1, scores = f1_of(named, has), []
    for k, name in enumerate(names):
        both, n = int((named[:, k] & has[:, k]).sum()), int(has[:, k].sum())
        average = float(precisions(answers[:, k], has[:, k])[has[:, k]].mean()) if n else None
        scores.append(
            LabelScore(
                label=name,
                n=n,
                average_precision=average,
                f1=float(f1[k]),
                precision=both / max(int(named[:, k].sum()), 1),
                recall=both / max(n, 1),
                threshold=float(thresholds[k]),
            )
        )
    return tuple(scores)


def calibration_error(answers: Values, truth: Truth) -> float:
    """Mean gap between probability and frequency over 15 bins, the mean over labels.

    Shapes: (n, K) both. Source: Guo et al. 2017, eq. 3, for each label as a pair of classes.

    >>> calibration_error(np.array([[0.5], [0.5]]), np.array([[1.0], [0.0]]))
    0.0
    """
    gaps = [metrics.calibration_gap(p, has) for p, has in zip(answers.T, truth.T, strict=True)]
    return float(np.mean(gaps))


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelCertainty(Certainty):
    """A whole set is confident from the confidence of its least confident label."""

    thresholds: tuple[float, ...]  # of each label


class Multilabel(Target):
    """Truth: 0 and 1, (n, K). Losses are means over labels of log-losses, in nats."""

    task = "multilabel"
    metric = "mAP"
    words = _WORDS
    has_label_sets = True
    score_record = LabelScores
    calibration_record = LabelCalibration
    answer_record = LabelAnswer

    form = "sets"

    def parse(
        self, labels: Sequence[str], ids: Sequence[str], source: str, *, are_corrections: bool
    ) -> Sequence[str]:
        """Sorted names joined by `|`."""
        # A few corrections do not show whether white space separates.
        cells = _split_cells(labels, source, at_spaces=not are_corrections)
        return [SEPARATOR.join(sorted(set(names))) for names in cells]

    def names(self, label: str) -> tuple[str, ...]:
        return split_labels(label)

    def check(
        self, labels: Sequence[str], outputs: Sequence[str], wording: Wording
    ) -> tuple[str, ...]:
        train = [split_labels(label) for label in labels]
        sizes = dict.fromkeys(outputs, 0) | Counter(name for names in train for name in names)
        source, noun = wording.source, wording.noun
        if not train:
            raise DataError(f"{source} holds no training {noun}; add at least 2 for each label")
        if len(sizes) < 2:
            raise DataError(
                f"{source} has {count(len(sizes), 'label')} and --task multilabel needs 2; with "
                "one, call its presence and absence two classes and use --task classify"
            )
        for name, size in sorted(sizes.items()):
            if not size:
                raise DataError(
                    f'{source}: no training {noun} has the label "{name}"; leave it out'
                )
            if size < MIN_EXAMPLES:
                raise DataError(
                    f'{source}: 1 training {noun} has the label "{name}", a label needs at '
                    f"least {MIN_EXAMPLES}; add one, or remove the label"
                )
            if size > len(train) - MIN_EXAMPLES:
                raise DataError(
                    f"{source}: {size:,} of {len(train):,} training {noun}s have the label "
                    f'"{name}", and at least {MIN_EXAMPLES} are needed without it; leave it out'
                )
        return tuple(outputs) or tuple(sorted(sizes))

    def text(self, label: str) -> str:
        """
        >>> MULTILABEL.text("cat|owl"), MULTILABEL.text("")
        ('cat, owl', 'nothing')
        >>> MULTILABEL.contradiction("cat|owl", "owl")
        'labelled cat, owl, looks like owl'
        """
        return ", ".join(split_labels(label)) or "nothing"

    def typed(self, label: str) -> str:
        """
        >>> MULTILABEL.typed("owl| cat |owl"), MULTILABEL.typed("")
        ('cat|owl', '')
        """
        return SEPARATOR.join(sorted({normalise_name(name) for name in split_labels(label)}))

    def typed_name(self, name: str) -> str:
        if SEPARATOR in name:
            raise UsageError(f"a label cannot contain the character {SEPARATOR}; remove it.")
        return normalise_name(name)

    def rename(self, label: str, old: str, new: str) -> str:
        return self.typed(SEPARATOR.join(new if n == old else n for n in split_labels(label)))

    def without(self, label: str, name: str) -> str | None:
        return SEPARATOR.join(n for n in split_labels(label) if n != name)

    def too_few(self, labels: Sequence[str]) -> str:
        sizes = Counter(name for label in labels for name in split_labels(label))
        if len(sizes) < 2:
            return "Two labels with two pictures each are needed to begin."
        for name, n in sizes.items():
            if n < 2:
                return f"{name} has 1 picture; a label needs at least 2. Add one, or remove it."
            if n > len(labels) - 2:
                return f"{name} needs at least 2 pictures without it; take it from some."
        return ""

    def read(self, labels: Sequence[str], names: Sequence[str]) -> Truth:
        """0 and 1 for each label.

        >>> Multilabel().read(["b", "a|b", ""], ["a", "b"]).tolist()
        [[0.0, 1.0], [1.0, 1.0], [0.0, 0.0]]
        """
        number = {name: index for index, name in enumerate(names)}
        truth = np.zeros((len(labels), len(names)))
        for row, label in enumerate(labels):
            truth[row, [number[name] for name in split_labels(label)]] = 1.0
        return truth

    def encode(self, truth: Truth, n_outputs: int) -> Array:
        return np.asarray(truth, dtype=np.float64)

    def calibrate(self, scores: Array, truth: Truth) -> Calibration:
        """A slope and a shift for each label (Platt)."""
        slopes, shifts = fit_platt(scores, truth)
        return Calibration(1.0, shifts, slopes)

    def recalibrate(self, scores: Array, truth: Truth) -> Calibration:
        """A slope and a shift for all labels.

        >>> truth = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0], [1.0, 1.0]])
        >>> calibration = Multilabel().recalibrate(4 * truth - 2, truth)
        >>> calibration.slopes is None and bool(calibration.bias[0] == calibration.bias[1])
        True
        """
        slopes, shifts = fit_platt(scores.reshape(-1, 1), truth.reshape(-1, 1))
        return Calibration(float(slopes[0]), np.full(truth.shape[1], shifts[0]))

    def answers(self, scores: Array, calibration: Calibration) -> Array:
        from scipy.special import expit  # here: help texts name tasks and wait for no scipy

        return np.asarray(expit(calibration.scaled(scores)))

    def losses(self, scores: Array, truth: Truth, calibration: Calibration) -> Array:
        return log_losses_of(calibration.scaled(scores), truth)

    def answer_losses(self, answers: Array, truth: Truth) -> Array:
        return log_losses_of(self.scores_of(answers), truth)

    def scores_of(self, answers: Array) -> Array:
        from scipy.special import logit

        return np.asarray(logit(np.clip(answers, _LEAST, 1 - _LEAST)))

    def summed_loss(self, outputs: Tensor, truth: Tensor) -> Tensor:
        from torch.nn.functional import binary_cross_entropy_with_logits as log_loss

        return log_loss(outputs, truth.to(outputs.dtype), reduction="sum") / truth.shape[1]

    def credits(self, answers: Array, truth: Truth) -> Array:
        """Shares of the mean average precision: the precision at the labels of the row."""
        return precision_shares(answers, truth)

    def blind_loss(self, truth: Truth) -> float:
        p = np.clip(truth.mean(axis=0), _LEAST, 1 - _LEAST)
        return float(-(p * np.log(p) + (1 - p) * np.log(1 - p)).mean())

    def strata(self, truth: Truth) -> Labels:
        """The rarest label of each row; K for one without any.

        >>> Multilabel().strata(np.array([[1, 1], [0, 1], [0, 0]])).tolist()
        [0, 1, 2]
        """
        counts = np.where(truth > 0, truth.sum(axis=0), np.inf)
        rarest = counts.argmin(axis=1)
        return np.asarray(np.where(truth.any(axis=1), rarest, truth.shape[1]))

    def identities(self, truth: Truth) -> Labels:
        return np.unique(truth, axis=0, return_inverse=True)[1].reshape(-1)

    def restrict(self, truth: Truth) -> Truth:
        return truth[:, truth.any(axis=0)]

    def blind_score(self, truth: Truth) -> float:
        """Mean share of the labels that occur: the score of a random ranking."""
        return float(truth.mean(axis=0)[truth.any(axis=0)].mean()) if truth.any() else 0.0

    def n_outputs(self, truth: Truth) -> int:
        return int(truth.shape[1])

    def statistics(self, operators: Operators, draws: Labels, truth: Truth) -> tuple[Array, Array]:
        """Squared leave-out residuals in variances of each label, and mean average precision."""
        sets = np.unique(truth, axis=0).astype(np.float32)[draws]  # (n, m, K)
        n, m, k = sets.shape
        share = truth.mean(axis=0)
        weights = 1.0 / np.maximum(share * (1 - share), 1.0 / n)
        best, score = np.full(m, -np.inf), np.zeros(m)
        for operator in operators:
            residual = (operator @ sets.reshape(n, m * k)).reshape(n, m, k)
            t = -((residual.astype(np.float64) ** 2).sum(axis=0) @ weights)
            better = t > best
            best = np.where(better, t, best)
            score[better] = quick_precisions((sets - residual)[:, better], sets[:, better])
        return best, score

    def certainty(self, answers: Array, truth: Truth, groups: Groups) -> LabelCertainty:
        """A set is right where every label is."""
        thresholds = best_thresholds(answers, truth)
        correct = ((answers >= thresholds) == (truth > 0)).all(axis=1).astype(float)
        least, n_effective = confidence(answers, thresholds), effective_size(correct, groups)
        return LabelCertainty(
            confident_from=confident_threshold(least, correct, n_effective),
            promised_error=error_bound(1 - float(correct.mean())),
            thresholds=tuple(float(t) for t in thresholds),
        )

    def scores(
        self,
        answers: Array,
        truth: Truth,
        groups: Groups,
        certainty: LabelCertainty | LabelCalibration,
        names: Sequence[str] = (),
    ) -> LabelScores:
        score = self.estimate(self.credits(answers, truth), groups, "holdout")
        thresholds = np.array(certainty.thresholds)
        named, has = answers >= thresholds, truth > 0
        occurs = has.any(axis=0) | named.any(axis=0)
        f1 = f1_of(named, has)
        return LabelScores(
            n=len(truth),
            mAP=score.value,
            low=score.low,
            high=score.high,
            macro_f1=float(f1[occurs].mean()) if occurs.any() else 0.0,
            micro_f1=float(f1_of(named.reshape(-1, 1), has.reshape(-1, 1))[0]),
            exact=float((named == has).all(axis=1).mean()),
            log_loss=float(self.answer_losses(answers, truth).mean()),
            ece=calibration_error(answers, truth),
            labels=per_label(answers, truth, names, thresholds) if names else (),
        )

    def other_metrics(self, scores: LabelScores) -> str:
        return (
            f"macro F1 {scores.macro_f1:.3f}, micro F1 {scores.micro_f1:.3f}, all labels right "
            f"{100 * scores.exact:.1f} %, log-loss {scores.log_loss:.3f}, calibration error (ECE) "
            f"{scores.ece:.3f}."
        )

    def line(
        self,
        example: Example,
        fold: int | None,
        answer: Array,
        names: Sequence[str],
        certainty: LabelCertainty,
    ) -> Prediction:
        is_named = answer >= np.array(certainty.thresholds)
        named = tuple(names[k] for k in np.flatnonzero(is_named).tolist())
        return LabelPrediction(
            **metrics.line_fields(example, fold),
            label=SEPARATOR.join(named),
            labels=named,
            scores=metrics.rounded(names, answer),
        )

    line_metric = "log_score"

    def line_credits(self, labels: Sequence[str], names: Sequence[str]) -> Credit:
        """Log-loss against that of a coin.

        1 where every label is certain and right, 0 where all have probability 0.5.
        """

        def credit(line: Line) -> float:
            scores = np.array([[line["scores"][name] for name in names]])
            loss = self.answer_losses(scores, self.read([line["target"]], names))
            return 1 - float(loss[0]) / math.log(2)

        return credit

    output_meaning = "logits: calibrated; probabilities: their sigmoid, a label each"
    link = ".sigmoid()"

    def activate(self, outputs: Tensor) -> Tensor:
        return outputs.sigmoid()

    def answer(
        self,
        place: AnswerPlace,
        scores: Array,
        names: Sequence[str],
        calibration: LabelCalibration,
    ) -> Answer:
        thresholds, least = np.array(calibration.thresholds), calibration.confident_from
        certainty = float(confidence(scores[None], thresholds)[0])
        is_confident = None if least is None else certainty >= least
        order = np.argsort(-scores, kind="stable")
        return LabelAnswer(
            **place.fields(scores, names),
            confident=False if place.ood else is_confident,
            labels=tuple(names[i] for i in order if scores[i] >= thresholds[i]),
        )

    def uncertainty(self, scores: NDArray[np.floating]) -> Array:
        """That of the label whose probability is nearest to 0.5."""
        return np.asarray(1 - 2 * np.abs(scores.astype(np.float64) - 0.5).min(axis=1))


MULTILABEL = Multilabel()
