"""`warmstart.plan` and `freeze`: a plan for your own network, to follow in any training loop."""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from warmstart.errors import PlanError
from warmstart.network.freeze import FrozenBlocks, groups
from warmstart.network.structure import OUTPUT, Sections, sections, sections_for
from warmstart.planning import rules
from warmstart.planning.fine_tuning import WARM_UP
from warmstart.planning.rules import (
    NEW,
    OPTIMIZERS,
    WEIGHT_DECAY,
    LearningRateSpread,
    base_lr,
    block_lrs,
    layer_decay,
    max_new_lr,
    round_lr,
)
from warmstart.planning.strategy import HEAD, Strategy, body_actions, n_tuned, parse
from warmstart.records.block_actions import ADDED, TUNED, Action
from warmstart.records.plan import BlockPlan, Choice, HeadPlan, InputPlan, Plain, Plan, TrainingPlan

LOADER = "your own loader decides"
DECAY = "a layer nearer the input is more general, and moves less than the one above it"


def freeze(network: nn.Module, plan: Plan) -> Frozen:
    """Freeze a network by a plan, until `.remove()` or the end of a `with` block.

    Frozen blocks get no gradient and stay in eval mode whatever calls `train()` in between;
    unfrozen blocks keep the statistics of their norms. Call it before making the optimizer: one
    made earlier holds the frozen parameters, though it cannot change them.

    Raises: PlanError if the plan was made for another network.

    >>> import warmstart
    >>> net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 8), nn.Linear(8, 2))
    >>> with freeze(net, warmstart.plan(net)):
    ...     _ = net.train()(net[0].weight.data.new_ones(3, 4))
    ...     [name for name, p in net.named_parameters() if p.requires_grad]
    ['3.weight', '3.bias']
    >>> int(net[1].num_batches_tracked), net[0].weight.requires_grad
    (0, True)
    """
    return Frozen(network, plan, sections_for(network, plan))


class Frozen(FrozenBlocks):
    """A network frozen by a plan; `remove` restores its modes and gradient flags."""

    def __init__(self, network: nn.Module, plan: Plan, sections: Sections) -> None:
        self._network, self._plan, self._owners = network, plan, sections.owners
        super().__init__(network, actions_of(plan), sections.owners)

    def __enter__(self) -> Frozen:
        return self

    def groups(self) -> list[dict[str, Any]]:
        """Parameter groups for an optimizer: each unfrozen block at the plan's learning rate.

        Biases and the scales of norms have no weight decay.
        Raises: PlanError where an unfrozen block has no learning rate.

        >>> import torch, warmstart
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
        >>> with freeze(net, warmstart.plan(net, lr=0.01)) as frozen:
        ...     optimizer = torch.optim.SGD(frozen.groups())
        >>> [(group["block"], group["lr"]) for group in optimizer.param_groups]
        [('output', 0.01), ('output', 0.01)]
        """
        actions, lrs = actions_of(self._plan), lrs_of(self._plan)
        return groups(self._network, actions, self._owners, lrs)


def actions_of(plan: Plan) -> dict[str, Action]:
    """The action of each block, by name."""
    return {block.name: plan.action_of(block.name) for block in plan.blocks}


def lrs_of(plan: Plan) -> dict[str, float]:
    """The peak learning rate of each unfrozen block, by name."""
    return {block.name: block.lr.number for block in plan.blocks if block.lr}


def plan(
    network: nn.Module,
    strategy: str = "head",
    *,
    inputs: Any = None,
    lr: float | None = None,
    optimizer: str = "adamw",
    classes: int | None = None,
    n: int | None = None,
) -> Plan:
    """What is frozen, what is trained and at which learning rates, in a network as it is.

    `strategy` is `head`, `last:N`, `frozen:K` or `full`. `inputs` is a batch as the network
    takes it, (B, C, H, W) for images; it sets the size at which the network is cut into blocks.
    `lr` is the peak learning rate of the uppermost unfrozen block; with `head`, that of the
    output. `classes` is compared with the network's output. `n`, the number of examples, sets
    how long `warmstart.train` goes on; without it, the data must have a length.

    Nothing is added or removed: give the network its new output layer first. Outside
    `warmstart.fit` that layer is not solved in closed form, so it is trained at ten times the rate.

    Raises: PlanError for a strategy, learning rate or optimizer that cannot be followed, or an
    output of another size; ModelError for a module without tensors.

    >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 2))
    >>> [(p.name, p.action.value, p.lr and p.lr.value) for p in plan(net, "last:1").blocks]
    [('0', 'frozen', None), ('2', 'tuned', 0.001), ('output', 'tuned', 0.003)]
    """
    kind = type(network).__name__
    parsed = _parse(strategy)
    cut = sections(network, inputs)
    if classes is not None and cut.n_outputs not in (None, classes):
        raise PlanError(
            f"{kind} gives {cut.n_outputs} numbers and there are {classes} classes; put in a new "
            "last layer for them, then make the plan."
        )
    count = n_tuned(parsed, len(cut.names), kind)
    if not count and OUTPUT not in cut.owners.values():
        raise PlanError(
            f"{kind} has no output layer of its own (a last nn.Linear), so that nothing would "
            "be trained; use strategy last:1 or full."
        )
    training = _training(cut, optimizer, lr, is_head=not count, n=n)
    why = "nothing is fitted in closed form in your own loop"
    none, zero = _rule((), why), _rule(0, why)
    return Plan(
        base=_user(f"module:{kind}"),
        strategy=_user(str(parsed), rule=str(HEAD)),
        blocks=_blocks(cut, parsed, training),
        head=HeadPlan(candidates=none, penalties=none, outer_folds=zero, permutations=zero),
        training=training,
        input=_input(cut),
        examples=n or 0,
    )


def _parse(text: str) -> Strategy:
    """Raises: PlanError for a strategy that needs measurements or surgery."""
    strategy = parse(text)
    if strategy.depth == "auto":
        raise PlanError(
            "strategy auto needs the measurements of warmstart.fit; name head, last:N, frozen:K or "
            "full."
        )
    if strategy.depth == "scratch" or strategy.extras:
        raise PlanError(
            f"strategy {text} changes the network itself, which warmstart.fit does; in your own "
            "loop use head, last:N, frozen:K or full."
        )
    return strategy


def _training(
    cut: Sections, optimizer: str, lr: float | None, *, is_head: bool, n: int | None
) -> TrainingPlan:
    if lr is not None and not (math.isfinite(lr) and lr > 0):
        raise PlanError(f"lr={lr} is not a number above 0; write for instance lr=0.001.")
    if optimizer not in OPTIMIZERS:
        raise PlanError(f"optimizer {optimizer!r} is not known; it is adamw or sgd.")
    peak = base_lr(cut.family, optimizer, None)
    if lr is not None:
        value = round_lr(lr / NEW) if is_head else lr
        why = f"a tenth of your {lr:g}, which the output gets" if is_head else "your choice"
        peak = Choice(value=value, because=why, source="user", rule=peak.value)
    epochs = _rule(float(rules.EPOCHS["balanced"]), "as many epochs of your data")
    if n is not None:
        samples = rules.samples_seen(n)
        epochs = _rule(rules.epochs(samples, n), f"{samples:,} examples seen in all")
    return TrainingPlan(
        engine=_rule("torch", "your own network, live"),
        batch_size=_rule(32, LOADER),
        seed=_rule(0, "any fixed number repeats a run"),
        optimizer=_user(optimizer, rule="adamw"),
        lr=peak,
        layer_decay=_rule(layer_decay(max(len(cut.names), 1)), DECAY),
        weight_decay=_rule(WEIGHT_DECAY[optimizer], "mild, as is usual with it"),
        epochs=epochs,
        warmup=_rule(WARM_UP, "learning rates rise over the first tenth: the first steps are mild"),
        crop=_rule(1.0, LOADER),
        flip=_rule(False, LOADER),
        folds=_rule(0, "nothing is held out in your own loop"),
    )


def _blocks(cut: Sections, strategy: Strategy, training: TrainingPlan) -> tuple[BlockPlan, ...]:
    body = body_actions(strategy, cut.names)
    lr, optimizer = training.lr, str(training.optimizer.value) if training.optimizer else ""
    is_typed = lr is not None and lr.source == "user"
    spread = LearningRateSpread(
        base=_number(lr),
        decay=_number(training.layer_decay),
        max_new=math.inf if is_typed else max_new_lr(optimizer),
    )
    *lrs, last = block_lrs([*body, ADDED.name], spread)
    rows = [
        BlockPlan(name=name, action=_user(action), lr=lr)
        for name, action, lr in zip(cut.names, body, lrs, strict=True)
    ]
    why = f"{spread.factor(NEW):g} x {spread.base:g}: a new output has the longest way to go"
    new = _rule(last.value if last else 0.0, why)
    action = _rule(TUNED.name, "trained step by step: in your own loop it has no closed form")
    return (*rows, BlockPlan(name=OUTPUT, action=action, lr=new))


def _input(cut: Sections) -> InputPlan | None:
    """The input size at which the network was cut, so that it is cut alike again."""
    if cut.shape is None:
        return None
    channels, height, width = cut.shape
    why = "the size at which the network was cut into blocks"
    size = height if height == width else (height, width)
    return InputPlan(size=_rule(size, why), channels=_rule(channels, why))


def _number(choice: Choice | None) -> float:
    return float(choice.value) if choice and isinstance(choice.value, (int, float)) else 0.0


def _rule(value: Plain | tuple[Plain, ...], because: str) -> Choice:
    return Choice(value=value, because=because, source="rule")


def _user(value: Plain, rule: Plain | None = None) -> Choice:
    return Choice(value=value, because="your choice", source="user", rule=rule)
