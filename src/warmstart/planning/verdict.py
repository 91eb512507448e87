"""The verdict: the first row of a table that matches the evidence (RECIPE §4), and its sentences.

A test that was not run never matches. Numbers are shares (0.05 = 5 points of accuracy).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from warmstart.modalities.nouns import IMAGES
from warmstart.nouns import Nouns
from warmstart.records.network import BaseModelRecord
from warmstart.records.summary import Estimate, Evidence, FineTuningGain, VerdictKind
from warmstart.tasks.classify import CLASSIFICATION
from warmstart.tasks.words import Words, change_text, percent, points


@dataclass(frozen=True, slots=True, kw_only=True)
class Basis:
    """Pieces of sentences about a base model, the user's own network, or untrained layers."""

    source: str  # after "The labels can be learnt"
    head: str  # the linear probe
    training: str  # fine-tuning, at the beginning of a sentence
    trained: str  # that it was done, as the user's {}
    compared: str  # the comparison without it
    is_blank: bool = False  # the layers are untrained
    nouns: Nouns = IMAGES


BASE = Basis(
    source="from this base model",
    head="The linear probe (a new head on the frozen network)",
    training="Fine-tuning",
    trained="{} was fine-tuned",
    compared="only linear probes on the frozen network were compared",
)
OWN = replace(BASE, source="with your network")
BLANK = Basis(
    source="from these columns",
    head="A linear head on the columns and on untrained layers",
    training="Training the layers",
    trained="{} was trained",
    compared="only linear heads on the columns and on untrained layers were compared",
    is_blank=True,
)


def basis_of(base: BaseModelRecord | None, nouns: Nouns = IMAGES) -> Basis:
    """The words for a base model.

    >>> basis_of(None).source
    'from this base model'
    """
    if base is not None and base.is_random:
        return replace(BLANK, nouns=nouns)
    is_own = base is not None and base.arch.startswith("module:")
    return replace(OWN if is_own else BASE, nouns=nouns)


SIGNAL_P = 0.01
PLAIN_P = 0.005  # on raw inputs, tested second: both together err in less than 2 %
# Below so many examples a p above 0.01 says little: of 12 draws of 20 to 39 images from real
# sets that would have been called no-signal, the model beat chance in 10 (bench/verdict).
LEAST_EXAMPLES = 40
NEAR = 0.01  # of accuracy: a negligible difference
LITTLE = 0.02  # share of mistakes that leaves fine-tuning too little to gain


@dataclass(frozen=True, slots=True, kw_only=True)
class VerdictLimits:
    """Constants of the table, shares of accuracy; `bench run calibrate` checks them.

    `blind`: 100 examples of two classes could miss an effect of 24 to 26 points, 66 one of 30.
    """

    blind: float = 0.30  # examples are too few where such an effect could be missed
    fair: float = 0.10  # below such a transfer gain, training from scratch is fair


LIMITS = VerdictLimits()


@dataclass(frozen=True, slots=True, kw_only=True)
class VerdictFacts:
    """The evidence that the table uses; None where a test was not run."""

    p: float
    mde: float
    n: int = LEAST_EXAMPLES  # examples of the permutation test
    plain: float = 0.0  # its accuracy on raw inputs, where p shows no signal
    plain_p: float = 1.0
    accuracy: float = 0.0  # of a linear probe
    mistakes: float = 1.0  # of the probe, at most, with 90 % certainty
    transfer_gain: float | None = None
    transfer_gain_error: float = 0.0
    scratch_gap: float | None = None  # `scratch_later` minus this accuracy
    scratch_error: float = 0.0
    scratch_later: float = 0.0  # accuracy from scratch with twice the examples
    is_tuned: bool = False  # fine-tuning was compared with the linear probe
    ships_trained: bool = False  # the fine-tuned network ships


def has_signal(p: float) -> bool:
    """Whether the labels differ from shuffled ones.

    >>> has_signal(0.01), has_signal(0.02)
    (True, False)
    """
    return p <= SIGNAL_P


def is_hidden(p: float, plain_p: float) -> bool:
    """Whether the labels can be learnt from raw inputs, but not from the base model's features.

    >>> is_hidden(0.3, 0.005), is_hidden(0.3, 0.01), is_hidden(0.01, 0.005)
    (True, False, False)
    """
    return not has_signal(p) and plain_p <= PLAIN_P


def hides_signal(evidence: Iterable[Evidence]) -> bool:
    """`is_hidden` for a list of evidence."""
    details = next((one.details for one in evidence if one.name == "permutation_test"), {})
    return is_hidden(float(details.get("p", 0.0)), float(details.get("plain_p", 1.0)))


def verdict_kind(facts: VerdictFacts, limits: VerdictLimits = LIMITS) -> VerdictKind:
    """First match of the table.

    >>> verdict_kind(VerdictFacts(p=0.5, mde=0.4)), verdict_kind(VerdictFacts(p=0.5, mde=0.1))
    ('inconclusive', 'no-signal')
    >>> verdict_kind(VerdictFacts(p=0.5, mde=0.4, plain_p=0.001))
    'no-transfer'
    >>> verdict_kind(VerdictFacts(p=0.5, mde=0.1, n=39))
    'inconclusive'
    >>> verdict_kind(VerdictFacts(p=0.001, mde=0.1))
    'inconclusive'
    >>> verdict_kind(VerdictFacts(p=0.001, mde=0.1, accuracy=0.99))
    'linear-probe'
    """
    if is_hidden(facts.p, facts.plain_p):
        return "no-transfer"
    if not has_signal(facts.p):
        is_blind = facts.mde > limits.blind or facts.n < LEAST_EXAMPLES
        return "inconclusive" if is_blind else "no-signal"
    gain, error = facts.transfer_gain, facts.transfer_gain_error
    if gain is not None and gain - 1.64 * error <= 0:
        return "no-transfer" if gain + 1.64 * error < limits.fair else "inconclusive"
    if _scratch_catches_up(facts):
        return "no-transfer"
    if not facts.is_tuned and leaves_little(facts.accuracy):
        return "linear-probe"
    return "inconclusive"


def leaves_little(accuracy: float) -> bool:
    """Whether a linear probe is so accurate that fine-tuning has too little to gain.

    >>> leaves_little(0.985), leaves_little(0.97)
    (True, False)
    """
    return accuracy >= 1 - LITTLE


def _scratch_catches_up(facts: VerdictFacts) -> bool:
    """Whether, with 90 % certainty, scratch with twice the examples lags by a point at most."""
    gap = facts.scratch_gap
    return gap is not None and gap - 1.28 * facts.scratch_error > -NEAR


def sentence(
    kind: VerdictKind,
    facts: VerdictFacts,
    n: int,
    accuracy: float,
    words: Words = CLASSIFICATION.words,
    basis: Basis = BASE,
) -> str:
    """The verdict of the evidence, for someone who never trained a network.

    `outcome_sentence` says what a run then did. `accuracy` is the linear probe's where it has
    been estimated, else that of the permutation test.
    """
    if is_hidden(facts.p, facts.plain_p):
        reason = (
            f"the labels can be learnt from {basis.nouns.plain} "
            f"({_about(words, facts.plain)}), but not from "
        )
        against = _against(facts, f"{reason}its features", f"{reason}the base model's features")
        return f"{against}. {_BETTER.format(basis.nouns.picture)}"
    if not has_signal(facts.p):
        return _no_signal_sentence(kind, facts, n)
    if kind == "no-transfer":
        return _no_transfer_sentence(facts, words, basis)
    if kind == "linear-probe":
        return (
            f"{basis.head} is enough: it {words.does.format(percent(accuracy))}, which leaves at "
            f"most {points(facts.mistakes)} points for {basis.training.lower()}."
        )
    return _inconclusive_sentence(facts, accuracy, words, basis)


_BETTER = (
    "Training from scratch is as good; a base model that knows this kind of {} would be better."
)


def _against(facts: VerdictFacts, advice: str, fact: str) -> str:
    """Why not to fine-tune; only the reason where the fine-tuned network ships all the same."""
    if facts.ships_trained:
        return fact[0].upper() + fact[1:]
    return f"Do not fine-tune this base model: {advice}"


_CURE = "use --strategy head, or a lower learning rate"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The results of a run, for the verdict.

    `chosen` is the user's strategy, empty where the rule chose. `blind` is the score of the best
    constant prediction. `given_up` says which training was given up and why.
    """

    estimate: Estimate
    gain: FineTuningGain | None
    is_fine_tuned: bool  # the shipped model's blocks were trained
    chosen: str = ""
    blind: float = 0.0
    given_up: str = ""


def outcome_kind(outcome: Outcome, kind: VerdictKind) -> VerdictKind:
    """The kind after the run; `kind` is that of the evidence before it.

    Where fine-tuning was compared with the linear probe, the shipped one decides; for a strategy
    of the user's own the interval of the gain does.
    """
    if kind in ("no-signal", "no-transfer") or outcome.gain is None:
        return kind
    if not outcome.chosen:
        return "fine-tune" if outcome.is_fine_tuned else "linear-probe"
    if outcome.gain.low > 0:
        return "fine-tune"
    return "linear-probe" if outcome.gain.high < LITTLE else "inconclusive"


def outcome_sentence(
    outcome: Outcome, words: Words = CLASSIFICATION.words, basis: Basis = BASE
) -> str:
    """What fine-tuning did, as a sentence in the past tense; empty where it was not tried."""
    gain = outcome.gain
    if gain is None:
        return f"{outcome.given_up}." if outcome.given_up else ""
    change = change_text(gain.value, gain.low, gain.high, words.score)
    against = f"against {'a head on untrained layers' if basis.is_blank else 'the linear probe'}"
    if outcome.chosen:
        trained = basis.trained.format(outcome.chosen)
        if outcome.chosen.startswith("scratch"):
            trained = "The network was trained from scratch"
        text = f"{trained} as you chose: {change} {against}."
        if outcome.estimate.value <= outcome.blind < outcome.estimate.value - gain.value:
            return f"{text} It is no better than {words.blind}: {_CURE}."
        return f"{text} The linear probe is better: {_CURE}." if gain.high < 0 else text
    if not outcome.is_fine_tuned:
        since = f", as its {words.answers} are no better" if gain.value > 0 else ""
        return f"{basis.training} was tried and not kept{since}: {change} {against}."
    if gain.low > 0:
        return f"{basis.training} helped: {change} {against}."
    lower = -gain.log_loss_change / max(gain.log_loss, 1e-9)
    if gain.log_loss_high < 0:
        return (
            f"{basis.training} made the {words.answers} better (log-loss {100 * lower:.0f} % "
            f"lower) at about the same {words.score}: {change} {against}."
        )
    return f"{basis.training} was kept for its lower log-loss: {change} {against}."


def _about(words: Words, score: float) -> str:
    return f"{words.score} about {percent(score)}"


def _no_transfer_sentence(facts: VerdictFacts, words: Words, basis: Basis) -> str:
    if _scratch_catches_up(facts):
        gap = facts.scratch_gap or 0.0
        more = "more" if gap >= 0 else "less"
        return (
            "Training from scratch is as good: with twice the examples the same architecture "
            f"from scratch is expected to {words.be.format(percent(facts.scratch_later))}, which "
            f"is {points(abs(gap))} points {more} than this base model reaches with these "
            f"({_interval(gap, facts.scratch_error)})."
        )
    gain, error = facts.transfer_gain or 0.0, facts.transfer_gain_error
    reason = (
        f"pretraining is worth {points(gain)} points here ({_interval(gain, error)}) over the same "
        f"network with shuffled weights, or {basis.nouns.plain}"
    )
    return f"{_against(facts, f'its {reason}', reason)}. {_BETTER.format(basis.nouns.picture)}"


def _no_signal_sentence(kind: VerdictKind, facts: VerdictFacts, n: int) -> str:
    if kind == "no-signal":
        return (
            f"No signal found in {n:,} examples; an effect of about {points(facts.mde)} points "
            "would have been. Training longer will not help."
        )
    if facts.mde >= 1:
        return (
            f"The groups among the {n:,} examples leave too little to shuffle: whether the labels "
            "can be learnt was not tested. Add examples of other groups."
        )
    if facts.mde <= LIMITS.blind:
        return (
            f"{n:,} examples are too few to tell a weak signal from none. Add examples and "
            "measure again."
        )
    return (
        f"{n:,} examples are too few to tell: even an effect of {points(facts.mde)} points "
        "could have been missed. Add examples and measure again."
    )


def _inconclusive_sentence(facts: VerdictFacts, accuracy: float, words: Words, basis: Basis) -> str:
    probe = f"linear probe: {_about(words, accuracy)}"
    gain, error = facts.transfer_gain, facts.transfer_gain_error
    untried = "" if facts.is_tuned else f" {basis.training} was not tried."
    if gain is None:
        if untried:
            untried = f" {basis.training} was not tried: {basis.compared}."
        return f"The labels can be learnt {basis.source} ({probe}).{untried}"
    if gain - 1.64 * error <= 0:
        return (
            f"The labels can be learnt ({probe}), but it is not clear that pretraining helps: it "
            f"is worth {points(gain)} points ({_interval(gain, error)})."
        )
    return (
        f"Pretraining is worth {points(gain)} points here ({_interval(gain, error)}): this base "
        f"model knows this kind of {basis.nouns.picture}.{untried}"
    )


def _interval(value: float, error: float) -> str:
    """The 90 % interval, in points."""
    return f"{points(value - 1.64 * error)} to {points(value + 1.64 * error)}"
