"""One part of a cut network by itself: what it calls is in memory, and nothing else."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from torch import Tensor, nn

from warmstart.network.fast_linear import quick_linear
from warmstart.network.feature_layers import plan_scan
from warmstart.network.partition import Network
from warmstart.network.segments import Step
from warmstart.records.network import Tap


class Lone(nn.Module):
    """Part `number` on copies of the layers that it calls: its input to its output and its taps.

    `wanted` are the taps to take; those of other parts are left out. The neck belongs to the
    last part. A network in one piece is not copied: its layers let go of their pages by
    themselves.
    """

    def __init__(self, network: Network, number: int, wanted: Sequence[Tap]) -> None:
        super().__init__()
        own = [tap for tap in wanted if tap.part == number]
        self.taps = tuple(own)
        self.number = number
        self._scan = plan_scan(network, own) if own else None
        self._step = network.steps.parts[number - 1]
        self._neck = network.steps.neck if any(tap.pool == "neck" for tap in own) else None
        called = [self._step] if self._neck is None else [self._step, self._neck]
        self.trunk = excerpt(network.trunk, called)
        self.eval()

    def forward(self, main: Tensor) -> tuple[Tensor, ...]:
        """What the part gives, (B, …), then (B, d) float32 of each of `taps`."""
        with quick_linear(main):
            main = self._step.run(self.trunk, main)
        if self._scan is None:
            return (main,)
        found = self._scan.taken(self.number, main)
        if self._neck is not None:  # last: a neck may work in place
            vector = self._neck.run(self.trunk, main.clone())
            found |= {tap: vector for tap in self.taps if tap.pool == "neck"}
        return (main, *(found[tap].float() for tap in self.taps))


def excerpt(trunk: nn.Module, steps: Sequence[Step]) -> nn.Module:
    """A module with copies of what some steps look up in `trunk`, under the same names.

    >>> net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    >>> step = Step("1", lambda network, x: network[1](x), ("1",), ())
    >>> [name for name, _ in excerpt(net, [step]).named_parameters()]
    ['1.weight', '1.bias']
    """
    modules = [name for step in steps for name in step.modules]
    if "" in modules:
        return trunk
    made = nn.Module()
    for name in sorted(modules, key=lambda name: name.count(".")):
        owner, last = _owner(made, name)
        owner.add_module(last, copy.deepcopy(trunk.get_submodule(name)))
    for name in (name for step in steps for name in step.attributes):
        owner, last = _owner(made, name)
        parent = trunk.get_submodule(name.rpartition(".")[0])
        if not hasattr(owner, last):
            setattr(owner, last, copy.deepcopy(getattr(parent, last)))
    return made


def _owner(made: nn.Module, name: str) -> tuple[nn.Module, str]:
    """The module that holds `name`, made where it is missing, and the name there."""
    *path, last = name.split(".")
    for piece in path:
        if piece not in made._modules:
            made.add_module(piece, nn.Module())
        made = made.get_submodule(piece)
    return made, last
