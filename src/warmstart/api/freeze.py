"""`warmstart.freeze`: freeze what a plan freezes, so that no trainer's `train()` undoes it."""

from __future__ import annotations

from typing import Any

from torch import nn

from warmstart.network.freeze import Hold, groups
from warmstart.network.structure import Sections, sections_for
from warmstart.records.plan import Action, Plan


def freeze(network: nn.Module, plan: Plan) -> Frozen:
    """Freeze a network as a plan says, until `.remove()` or the end of a `with` block.

    Frozen parts get no gradient and run in eval mode whatever calls `train()` in between;
    tuned parts keep the statistics of their norms. Call it before the optimizer is made: one
    made before holds what is frozen, though it cannot move it.

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


class Frozen(Hold):
    """A network frozen as a plan says; `remove` puts its modes and gradient flags back."""

    def __init__(self, network: nn.Module, plan: Plan, sections: Sections) -> None:
        self._network, self._plan, self._owners = network, plan, sections.owners
        super().__init__(network, actions_of(plan), sections.owners)

    def __enter__(self) -> Frozen:
        return self

    def groups(self) -> list[dict[str, Any]]:
        """Groups for an optimizer: what moves, each part at the plan's rate.

        Biases and the scales of norms are not decayed.
        Raises: PlanError where a part that moves has no rate.

        >>> import torch, warmstart
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
        >>> with freeze(net, warmstart.plan(net, lr=0.01)) as frozen:
        ...     optimizer = torch.optim.SGD(frozen.groups())
        >>> [(group["part"], group["lr"]) for group in optimizer.param_groups]
        [('output', 0.01), ('output', 0.01)]
        """
        actions, rates = actions_of(self._plan), rates_of(self._plan)
        return groups(self._network, actions, self._owners, rates)


def actions_of(plan: Plan) -> dict[str, Action]:
    """What a plan does to each part, by name."""
    return {part.name: plan.action_of(part.name) for part in plan.parts}


def rates_of(plan: Plan) -> dict[str, float]:
    """The peak learning rate of each part that moves, by name."""
    return {part.name: part.rate.number for part in plan.parts if part.rate}
