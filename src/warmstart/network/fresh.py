"""Parts that forget: their tensors are drawn anew, as if the network had never been trained."""

from __future__ import annotations

import inspect
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from warmstart.errors import PlanError
from warmstart.network.parts import Network
from warmstart.network.tensors import all_tensors, place

_SPREAD = 0.02  # Devlin et al. 2018 (BERT); Dosovitskiy et al. 2020 (ViT): tables, tokens
_SHIFTS = ("bias", "beta", "shift", "offset")


def refresh(
    where: Network | nn.Module, names: Collection[str], generator: torch.Generator
) -> tuple[str, ...]:
    """Draw the parameters of the named parts anew, in place, and reset their statistics.

    In a `Network`, `names` are those of its parts, and the neck goes with the last part; in
    any other module they are the dotted names of its submodules. Tensors that belong to
    other parts, tied ones too, stay as they are. Layers draw by their own
    `reset_parameters`. Parameters of modules that have none: tables and tokens from a normal
    distribution (0.02, cut at two of it), vectors and numbers that scale 1, those that shift
    (by their names) 0. Constant tables in buffers stay. The global random state stays as it is.

    Returns: the names of the parameters. Raises: PlanError for a name that is not there.
    """
    module, wanted = _wanted(where, names)
    devices = sorted({p.device.index for p in module.parameters() if p.device.type == "cuda"})
    seed = int(torch.randint(2**31, (1,), generator=generator))
    with torch.random.fork_rng(devices), torch.no_grad():
        torch.manual_seed(seed)
        # Children first: where a module resets its children in a way of its own, that counts.
        for _, child in reversed(list(module.named_modules())):
            _redraw(child, wanted)
    state = module.state_dict(keep_vars=True)
    return tuple(
        name
        for name, tensor in state.items()
        if isinstance(tensor, nn.Parameter) and place(tensor) in wanted
    )


Places = set[tuple[int, ...]]


def _wanted(where: Network | nn.Module, names: Collection[str]) -> tuple[nn.Module, Places]:
    """The module, and where the bytes of the named parts lie."""
    if isinstance(where, Network):
        known = {part.name for part in where.parts}
        _check(names, {*known, "neck"})
        chosen = {*names, "neck"} if where.parts[-1].name in names else {*names}
        state = where.trunk.state_dict(keep_vars=True)
        own = [n for n, owner in where.owners.items() if owner in chosen and n in state]
        return where.trunk, {place(state[name]) for name in own}
    _check(names, {name for name, _ in where.named_modules()})
    return where, {place(t) for name in names for t in all_tensors(where.get_submodule(name))}


def _check(names: Collection[str], known: set[str]) -> None:
    for name in names:
        if name not in known:
            raise PlanError(f"the network has no part {name!r} to make fresh; check its name.")


def _redraw(module: nn.Module, wanted: Places) -> None:
    own = {n: p for n, p in module._parameters.items() if p is not None and place(p) in wanted}
    for name, parameter in own.items():
        parameter.copy_(_drawn(name, parameter))
    reset = getattr(module, "reset_parameters", getattr(module, "_reset_parameters", None))
    held = (*module._parameters.values(), *module._buffers.values())
    has_own = any(tensor is not None and place(tensor) in wanted for tensor in held)
    is_alone = all(place(tensor) in wanted for tensor in all_tensors(module))
    if has_own and is_alone and reset is not None and _takes_nothing(reset):
        reset()


def _drawn(name: str, parameter: Tensor) -> Tensor:
    """What a parameter begins with where no layer knows better."""
    if parameter.ndim > 1:
        return nn.init.trunc_normal_(
            torch.empty_like(parameter), std=_SPREAD, a=-2 * _SPREAD, b=2 * _SPREAD
        )
    is_shift = any(word in name for word in _SHIFTS)
    return torch.full_like(parameter, 0.0 if is_shift else 1.0)


def _takes_nothing(reset: Any) -> bool:
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    given = inspect.signature(reset).parameters.values()
    return all(p.default is not p.empty or p.kind in kinds for p in given)
