"""Learning rates: how fast each part moves, from plain numbers, each with its reason."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from warmstart.records.network import Family, Recipe
from warmstart.records.plan import Action, Choice

OPTIMIZERS = {"adamw": "AdamW", "sgd": "SGD"}  # as plans and as people call them

# What tuning usually takes where nothing is on record: AdamW 1e-3 for the upper layers of a
# convnet (3e-4 moved them too little in ten passes; `bench run tail` compares them), v0 3e-5 for a
# transformer; SGD ten times that (BiT tuned convnets with SGD at 0.003: Kolesnikov et al. 2020,
# "Big Transfer", §3.3).
USUAL: dict[Family, dict[str, float]] = {
    "convnet": {"adamw": 1e-3, "sgd": 1e-2},
    "transformer": {"adamw": 3e-5, "sgd": 3e-4},
    "mlp": {"adamw": 1e-3, "sgd": 1e-2},
}
SCRATCH = {"adamw": 1e-3, "sgd": 0.05}  # v0
NEW_MOST = 3.0  # times that, for some new layers among others that are not, v0
# AdamW takes the decay out of the weights themselves, times the rate; SGD puts it into the
# gradient, where 1e-4 is usual (He et al. 2016, "Deep Residual Learning", §3.4).
WEIGHT_DECAY = {"adamw": 0.01, "sgd": 1e-4}
NEW = 10.0  # layers without pretraining or closed form, over the base rate
# A low-rank update wants about ten times the rate of full tuning: Biderman et al. 2024, "LoRA
# Learns Less and Forgets Less"; Schulman et al. 2025, "LoRA Without Regret".
LOW_RANK = 10.0
DECAY = 0.75  # a part over the part above it: Bao et al. 2022, "BEiT", .65 to .75 for 12 blocks
DECAY_BLOCKS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningRateSpread:
    """What all rates follow from: that of the uppermost part, its fall towards the input.

    `most`: the highest rate that the rule gives to layers that begin at random.
    """

    base: float
    decay: float
    is_scratch: bool = False
    most: float = math.inf

    def above(self, times: float) -> float:
        """What rates of new layers are over the base, `times` at most.

        >>> low = LearningRateSpread(base=3e-5, decay=1.0, most=0.003)
        >>> low.above(10), LearningRateSpread(base=1e-3, decay=1.0, most=0.003).above(10)
        (10, 3.0)
        """
        return max(min(times, rounded(self.most / self.base)), 1.0)


def choose_optimizer(recipe: Recipe | None) -> Choice:
    """The optimizer that the start was trained with, where it is one of ours; else AdamW.

    >>> choose_optimizer(None).value
    'adamw'
    """
    if recipe is not None and recipe.optimizer.lower() in OPTIMIZERS:
        name = recipe.optimizer.lower()
        why = f"{OPTIMIZERS[name]} trained this start too"
        return Choice(value=name, because=why, source="rule")
    why = "it needs the least care with the rate; what trained this start is not on record"
    if recipe is not None:
        why = f"{recipe.optimizer}, which trained this start, is not offered here"
    return Choice(value="adamw", because=why, source="rule")


def base_rate(family: Family, optimizer: str, recipe: Recipe | None) -> Choice:
    """Peak rate of the uppermost tuned part: a tenth of its pretraining rate, where that tells.

    Another optimizer's rate tells nothing: then what is usual for the family.

    >>> recipe = Recipe(optimizer="sgd", lr=0.01, batch_size=32, schedule="cosine")
    >>> base_rate("convnet", "sgd", recipe).value
    0.001
    >>> base_rate("transformer", "adamw", None).value
    3e-05
    """
    name = OPTIMIZERS[optimizer]
    if recipe is not None and recipe.optimizer.lower() == optimizer:
        why = f"a tenth of {recipe.lr:g}, the rate at which {name} trained this start"
        return Choice(value=rounded(recipe.lr / 10), because=why, source="rule")
    lack = "its own pretraining rate is not on record"
    if recipe is not None:
        lack = f"its own {recipe.lr:g} was for {recipe.optimizer}"
    article = "an" if family == "mlp" else "a"
    shown = "MLP" if family == "mlp" else family
    why = f"the usual rate for tuning {article} {shown} with {name}; {lack}"
    return Choice(value=USUAL[family][optimizer], because=why, source="rule")


def scratch_rate(optimizer: str) -> Choice:
    """Peak rate where every layer is new.

    >>> scratch_rate("adamw").value
    0.001
    """
    why = f"the usual rate for training new layers with {OPTIMIZERS[optimizer]}"
    return Choice(value=SCRATCH[optimizer], because=why, source="rule")


def converted(rate: float, before: str, after: str, is_scratch: bool) -> float:
    """The rate that does for one optimizer what `rate` does for another.

    >>> converted(3e-4, "adamw", "sgd", False)
    0.003
    """
    known = SCRATCH if is_scratch else USUAL["convnet"]  # the same ratio in every family
    return rounded(rate * known[after] / known[before])


def most_new(optimizer: str) -> float:
    """The highest rate that the rule gives to layers that begin at random among others.

    >>> most_new("adamw"), most_new("another")
    (0.003, inf)
    """
    return NEW_MOST * SCRATCH.get(optimizer, math.inf)


def layer_decay(n_blocks: int) -> float:
    """A part's rate over that of the part above it: 0.75, milder where parts are many.

    Beyond 12 parts the first still gets what it gets in a network of 12.

    >>> layer_decay(3), layer_decay(12), layer_decay(24)
    (0.75, 0.75, 0.866)
    """
    return rounded(DECAY ** min(DECAY_BLOCKS / n_blocks, 1.0))


def block_rate(base: float, height: int, decay: float) -> float:
    """The rate of a part; height 0 is the uppermost.

    >>> [block_rate(3e-4, height, 0.75) for height in (0, 1, 2)]
    [0.0003, 0.000225, 0.000169]
    """
    return rounded(base * decay**height)


def block_rates(actions: Sequence[Action], spread: LearningRateSpread) -> list[Choice | None]:
    """The rate of every part by the rule, input to output; None where nothing moves.

    `actions` are those of the parts, of what is added, and of the output, in this order.
    Where no part moves the output is fitted in closed form, and all are None. Beside layers
    that start at random the output cannot be fitted first: then it is as new as they are.

    >>> spread = LearningRateSpread(base=0.01, decay=0.5)
    >>> rates = block_rates(["frozen", "tuned", "tuned", "replaced"], spread)
    >>> [rate and rate.value for rate in rates]
    [None, 0.005, 0.01, 0.01]
    """
    if not set(actions) - {"frozen", "replaced"}:
        return [None] * len(actions)
    n_body = sum(action not in ("added", "replaced") for action in actions)
    is_blank = "fresh" in actions and not spread.is_scratch
    return [
        _rate(action, max(n_body - 1 - place, 0), spread, is_blank)
        for place, action in enumerate(actions)
    ]


def rounded(rate: float) -> float:
    """Three significant digits: more would claim what nobody knows.

    >>> rounded(0.000168749)
    0.000169
    """
    return float(f"{rate:.3g}")


def _rate(action: Action, height: int, spread: LearningRateSpread, is_blank: bool) -> Choice | None:
    base, shown, new = spread.base, f"{spread.base:g}", spread.above(NEW)
    if action == "frozen":
        return None
    if action == "added" or (action == "fresh" and not spread.is_scratch):
        why = f"{new:g} x {shown}: new layers have the whole way to go"
        return Choice(value=rounded(new * base), because=why, source="rule")
    if action == "replaced" and is_blank:
        why = f"{new:g} x {shown}: above layers that start at random it starts from nothing too"
        return Choice(value=rounded(new * base), because=why, source="rule")
    if action == "replaced":
        why = f"{shown}, as the layers below it: it begins fitted to them"
        if spread.is_scratch:
            why = f"{shown}, as for every new layer"
        return Choice(value=rounded(base), because=why, source="rule")
    times, lead, why = 1.0, "", "layers nearer the input move less"
    if not height:
        why = "the layer next to the output moves most"
    if action == "low-rank":
        times = spread.above(LOW_RANK)
        lead = f"{times:g} x "
        why = "low-rank updates want up to ten times the rate"
    if action == "fresh":
        why = "every layer is new"
    power = "" if not height or spread.decay == 1 else f" x {spread.decay:g}^{height}"
    value = block_rate(times * base, height, spread.decay)
    return Choice(value=value, because=f"{lead}{shown}{power}: {why}", source="rule")
