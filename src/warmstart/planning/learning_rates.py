"""The learning rate of each block, with its reason."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from warmstart.records.block_actions import ACTIONS, Action, BlockAction, train_network
from warmstart.records.network import Family, Recipe
from warmstart.records.plan import Choice, by_rule

OPTIMIZERS = {"adamw": "AdamW", "sgd": "SGD"}  # names in plans and in sentences

# Of fine-tuning without a recipe: AdamW 1e-3 for a convnet (3e-4 was too low for ten epochs; see
# `bench run fine_tuning`), v0 3e-5 for a transformer; SGD ten times that (BiT fine-tuned convnets
# with SGD at 0.003: Kolesnikov et al. 2020, "Big Transfer", §3.3).
DEFAULT_LRS: dict[Family, dict[str, float]] = {
    "convnet": {"adamw": 1e-3, "sgd": 1e-2},
    "transformer": {"adamw": 3e-5, "sgd": 3e-4},
    "mlp": {"adamw": 1e-3, "sgd": 1e-2},
}
SCRATCH = {"adamw": 1e-3, "sgd": 0.05}  # v0
NEW_MOST = 3.0  # times that, for some new layers among pretrained ones, v0
# AdamW decays the weights themselves, times the learning rate; SGD adds the decay to the
# gradient, where 1e-4 is usual (He et al. 2016, "Deep Residual Learning", §3.4).
WEIGHT_DECAY = {"adamw": 0.01, "sgd": 1e-4}
NEW = 10.0  # layers without pretraining or closed form, over the base learning rate
DECAY = 0.75  # a block over the block above it: Bao et al. 2022, "BEiT", .65 to .75 for 12 blocks
DECAY_BLOCKS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningRateSpread:
    """The uppermost block's learning rate, and its decay towards the input.

    `max_new`: the highest learning rate of randomly initialised layers.
    """

    base: float
    decay: float
    is_scratch: bool = False
    max_new: float = math.inf

    def factor(self, times: float) -> float:
        """Learning rate of new layers over the base, at most `times`.

        >>> low = LearningRateSpread(base=3e-5, decay=1.0, max_new=0.003)
        >>> low.factor(10), LearningRateSpread(base=1e-3, decay=1.0, max_new=0.003).factor(10)
        (10, 3.0)
        """
        return max(min(times, round_lr(self.max_new / self.base)), 1.0)


def choose_optimizer(recipe: Recipe | None) -> Choice:
    """The optimizer that trained the base model, where it is one of ours; else AdamW.

    >>> choose_optimizer(None).value
    'adamw'
    """
    if recipe is not None and recipe.optimizer.lower() in OPTIMIZERS:
        name = recipe.optimizer.lower()
        why = f"{OPTIMIZERS[name]} trained this base model too"
        return by_rule(name, why)
    why = "it is the least sensitive to the learning rate; "
    why += "what trained this base model is not on record"
    if recipe is not None:
        why = f"{recipe.optimizer}, which trained this base model, is not offered here"
    return by_rule("adamw", why)


def base_lr(family: Family, optimizer: str, recipe: Recipe | None) -> Choice:
    """Peak learning rate of the uppermost fine-tuned block: a tenth of its pretraining's.

    With another optimizer, or without a recipe, the default of the family.

    >>> recipe = Recipe(optimizer="sgd", lr=0.01, batch_size=32, schedule="cosine")
    >>> base_lr("convnet", "sgd", recipe).value
    0.001
    >>> base_lr("transformer", "adamw", None).value
    3e-05
    """
    name = OPTIMIZERS[optimizer]
    if recipe is not None and recipe.optimizer.lower() == optimizer:
        why = f"a tenth of {recipe.lr:g}, with which {name} trained this base model"
        return by_rule(round_lr(recipe.lr / 10), why)
    lack = "its pretraining learning rate is not on record"
    if recipe is not None:
        lack = f"its pretraining learning rate {recipe.lr:g} was for {recipe.optimizer}"
    network = {"mlp": "an MLP"}.get(family, f"a {family}")
    why = f"usual for fine-tuning {network} with {name}; {lack}"
    return by_rule(DEFAULT_LRS[family][optimizer], why)


def convert_lr(lr: float, before: str, after: str, is_scratch: bool) -> float:
    """The learning rate of one optimizer that corresponds to `lr` of another.

    >>> convert_lr(3e-4, "adamw", "sgd", False)
    0.003
    """
    lrs = SCRATCH if is_scratch else DEFAULT_LRS["convnet"]  # the same ratio in every family
    return round_lr(lr * lrs[after] / lrs[before])


def max_new_lr(optimizer: str) -> float:
    """The highest learning rate of randomly initialised layers among others.

    >>> max_new_lr("adamw"), max_new_lr("another")
    (0.003, inf)
    """
    return NEW_MOST * SCRATCH.get(optimizer, math.inf)


def layer_decay(n_blocks: int) -> float:
    """A block's learning rate over that of the block above it: 0.75, milder beyond 12 blocks.

    There the first block gets the same learning rate as in a network of 12.

    >>> layer_decay(3), layer_decay(12), layer_decay(24)
    (0.75, 0.75, 0.866)
    """
    return round_lr(DECAY ** min(DECAY_BLOCKS / n_blocks, 1.0))


def block_lrs(actions: Sequence[Action], spread: LearningRateSpread) -> list[Choice | None]:
    """The rule's learning rate of each block, None where nothing moves.

    `actions` are those of the blocks, added layers and head, in this order. Where no block moves,
    the head is fitted in closed form, and all are None. Above randomly initialised layers the
    head is random, too.

    >>> spread = LearningRateSpread(base=0.01, decay=0.5)
    >>> rates = block_lrs(["frozen", "tuned", "tuned", "replaced"], spread)
    >>> [rate and rate.value for rate in rates]
    [None, 0.005, 0.01, 0.01]
    """
    if not train_network(actions):
        return [None] * len(actions)
    each = [ACTIONS[action] for action in actions]
    n_body = sum(action.place == "block" for action in each)
    is_new_head = any(action.is_random for action in each) and not spread.is_scratch
    return [
        _choose_lr(action, max(n_body - 1 - place, 0), spread, is_new_head)
        for place, action in enumerate(each)
    ]


def round_lr(lr: float) -> float:
    """Three significant digits: more would claim a precision that nobody has.

    >>> round_lr(0.000168749)
    0.000169
    """
    return float(f"{lr:.3g}")


def _choose_lr(
    action: BlockAction, height: int, spread: LearningRateSpread, is_new_head: bool
) -> Choice | None:
    base, text, new = spread.base, f"{spread.base:g}", spread.factor(NEW)
    if not action.is_trained:
        return None
    if action.is_new and not (action.is_random and spread.is_scratch):
        why = f"{new:g} x {text}: new layers have the farthest to go"
        return by_rule(round_lr(new * base), why)
    if action.place == "head" and is_new_head:
        why = f"{new:g} x {text}: above randomly initialised layers it is random too"
        return by_rule(round_lr(new * base), why)
    if action.place == "head":
        why = f"{text}, as the layers below it: it is fitted to them first"
        if spread.is_scratch:
            why = f"{text}, as for every new layer"
        return by_rule(round_lr(base), why)
    times, lead, why = 1.0, "", "layers nearer the input move less"
    if not height:
        why = "the layer next to the head moves most"
    if action.lr_factor != 1:
        times = spread.factor(action.lr_factor)
        lead, why = f"{times:g} x ", action.lr_because
    if action.is_random:
        why = "every layer is new"
    power = "" if not height or spread.decay == 1 else f" x {spread.decay:g}^{height}"
    value = round_lr(times * base * spread.decay**height)
    return by_rule(value, f"{lead}{text}{power}: {why}")
