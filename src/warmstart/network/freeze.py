"""Frozen is frozen: no gradient, no weight decay, and no BatchNorm statistic that moves.

What a module may do follows from the parts that own its tensors, so that it holds for any
network: (module, actions, owners) is all that is needed.

- frozen and low-rank parts: eval mode at every forward, whoever calls `train()` between;
- tuned parts: as they are called, but statistics of norms stay (their scales are trained);
- fresh, added and replaced parts: free.

Tensors that are tied between parts are frozen if one of these is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, cast

from torch import Tensor, nn

from warmstart.errors import PlanError
from warmstart.network.lora import original_names
from warmstart.network.surgery import WarmModel
from warmstart.network.tensors import place
from warmstart.records.plan import Action

_HELD = frozenset[Action]({"frozen", "low-rank"})
_OUTPUT = "output"
# Parts that a plan does not name: they stay as they are, and the new output is learnt.
_DEFAULTS: dict[str, Action] = {
    "neck": "frozen",
    "unused": "frozen",
    "head": "frozen",
    _OUTPUT: "replaced",
}
Kinds = frozenset[Action]


def action_of(actions: Mapping[str, Action], block: str) -> Action:
    """What is done to a part; the neck and what forward never reads are frozen unless named.

    Raises: PlanError where nothing is said about it.

    >>> action_of({"conv1": "tuned"}, "conv1"), action_of({}, "neck"), action_of({}, "output")
    ('tuned', 'frozen', 'replaced')
    """
    found = actions.get(block, _DEFAULTS.get(block))
    if found is None:
        raise PlanError(f"the plan says nothing about part {block!r}; give it an action.")
    return found


def tensor_blocks(model: nn.Module, owners: Mapping[str, str]) -> dict[str, str]:
    """The part of each tensor of a model, by its name there.

    `owners` names tensors as they stand in the model, or as they stand in the backbone of a
    `WarmModel`, or as they stood before low-rank updates came; tied ones need to be named
    once. The head of a `WarmModel` is the part "output". Buffers without an owner are left
    out. Raises: PlanError for a parameter that belongs to no part.

    >>> tensor_blocks(nn.Linear(2, 1), {"weight": "p", "bias": "p"})
    {'weight': 'p', 'bias': 'p'}
    """
    found: dict[str, str] = {}
    state = model.state_dict(keep_vars=True)
    is_warm = isinstance(model, WarmModel)
    for name, (original, _) in original_names(model).items():
        block = owners.get(original, owners.get(original.removeprefix("backbone.")))
        if is_warm and original.startswith("head."):
            block = _OUTPUT  # whatever the old network called so
        if block is not None:
            found[name] = block
    tied = {place(state[name]): block for name, block in reversed(found.items())}
    for name, tensor in state.items():
        if name not in found and isinstance(tensor, Tensor) and place(tensor) in tied:
            found[name] = tied[place(tensor)]
        if name not in found and isinstance(tensor, nn.Parameter):
            raise PlanError(f"tensor {name} belongs to no part of the network; name its owner.")
    return {name: found[name] for name in state if name in found}


def apply(model: nn.Module, actions: Mapping[str, Action], owners: Mapping[str, str]) -> None:
    """Let only those parameters have a gradient that are to move.

    Of low-rank parts these are the updates alone. Gradients of what is frozen are dropped:
    an optimizer that still holds it cannot move it any more.

    Raises: PlanError for a part without an action, or a parameter without a part.
    """
    moving = {id(parameter) for _, parameter in _moving(model, actions, owners)}
    for parameter in model.parameters():
        parameter.requires_grad = id(parameter) in moving
        if id(parameter) not in moving:
            parameter.grad = None


def groups(
    model: nn.Module,
    actions: Mapping[str, Action],
    owners: Mapping[str, str],
    rates: Mapping[str, float],
) -> list[dict[str, Any]]:
    """Parameter groups for an optimizer: what is to move, by part, each with the part's rate.

    Vectors (biases, scales, single tokens) carry `weight_decay` 0; the others take the
    optimizer's own. The neck, which a plan does not name, goes with the highest rate of the
    parts that have its action. Each parameter stands once.

    Raises: PlanError for a part that moves and has no rate.
    """
    made: dict[tuple[str, bool], dict[str, Any]] = {}
    seen: set[int] = set()
    for block, parameter in _moving(model, actions, owners):
        if id(parameter) in seen:
            continue
        seen.add(id(parameter))
        is_vector = sum(side > 1 for side in parameter.shape) <= 1
        blank = {"params": [], "block": block, "lr": _rate(block, actions, rates)}
        group = made.setdefault((block, is_vector), blank)
        group["params"].append(parameter)
        if is_vector:
            group["weight_decay"] = 0.0
    return list(made.values())


def hold(
    model: nn.Module, actions: Mapping[str, Action], owners: Mapping[str, str]
) -> FrozenBlocks:
    """Apply the actions and keep what is frozen at rest until `remove`, or the end of `with`.

    Raises: PlanError as `apply`.

    >>> net = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 1))
    >>> owners = {name: name[0] for name in net.state_dict()}
    >>> with hold(net, {"0": "frozen", "1": "tuned"}, owners):
    ...     _ = net.train()(nn.init.ones_(net[1].weight.new_empty(3, 2)))
    >>> net[0].num_batches_tracked.item(), net[0].weight.requires_grad
    (0, True)
    """
    return FrozenBlocks(model, actions, owners)


class FrozenBlocks:
    """What `hold` did to a model, and how it is undone."""

    def __init__(
        self, model: nn.Module, actions: Mapping[str, Action], owners: Mapping[str, str]
    ) -> None:
        self._flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
        self._modes = [(module, module.training) for module in model.modules()]
        apply(model, actions, owners)
        self.eval_modules = eval_modules(model, actions, owners)
        # First of all hooks: some (spectral norm's) move statistics before forward begins.
        self._hooks = [
            module.register_forward_pre_hook(_rest, prepend=True) for module in self.eval_modules
        ]
        # A module that is read but not called has no forward of its own to stop it.
        self._hooks.append(model.register_forward_pre_hook(self.rest, prepend=True))
        self.rest()

    def rest(self, *_: object) -> None:
        """Put what rests into eval mode again, after somebody called `train()`."""
        for module in self.eval_modules:
            module.training = False

    def remove(self) -> None:
        """Take the hooks away and put gradient flags and modes back as they were."""
        for hook in self._hooks:
            hook.remove()
        for parameter, flag in self._flags:
            parameter.requires_grad = flag
        for module, mode in self._modes:
            module.training = mode
        self._hooks, self._flags, self._modes = [], [], []

    def __enter__(self) -> FrozenBlocks:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.remove()


def eval_modules(
    model: nn.Module, actions: Mapping[str, Action], owners: Mapping[str, str]
) -> tuple[nn.Module, ...]:
    """The modules that stay in eval mode.

    A module with tensors of its own rests if one of them is held; in a tuned part, if it
    keeps statistics. A container rests if all tensors below it are held. What has no
    tensors (dropout, say) goes with its step in a `WarmModel`, else with what comes before
    it beside it, or after where it is the first.
    """
    own = _own_kinds(model, actions, owners)
    homes = dict(_neighbours(model, own))
    if isinstance(model, WarmModel):
        homes |= _of_steps(model, actions, own)
    return tuple(module for module in model.modules() if _is_resting(module, own, homes))


def _is_resting(module: nn.Module, own: dict[int, Kinds], homes: dict[int, Kinds]) -> bool:
    kinds = own[id(module)]
    if kinds:
        names = [name for name, buffer in module._buffers.items() if buffer is not None]
        keeps_statistics = any(name.startswith("running_") for name in names)
        return bool(kinds & _HELD) or ("tuned" in kinds and keeps_statistics)
    below = homes.get(id(module), _below(module, own))
    return bool(below) and below <= _HELD


def _below(module: nn.Module, own: dict[int, Kinds]) -> Kinds:
    return frozenset(kind for child in module.modules() for kind in own[id(child)])


def _own_kinds(
    model: nn.Module, actions: Mapping[str, Action], owners: Mapping[str, str]
) -> dict[int, Kinds]:
    """By module: the actions of the tensors that it holds itself."""
    state = model.state_dict(keep_vars=True)
    blocks = tensor_blocks(model, owners)
    kinds: dict[tuple[int, ...], Kinds] = {}
    for name, block in blocks.items():
        key = place(state[name])
        kinds[key] = kinds.get(key, frozenset()) | {action_of(actions, block)}
    own = {}
    for module in model.modules():
        tensors = (*module._parameters.values(), *module._buffers.values())
        found = [kinds.get(place(tensor), frozenset()) for tensor in tensors if tensor is not None]
        own[id(module)] = frozenset[Action]().union(*found)
    return own


def _neighbours(parent: nn.Module, own: dict[int, Kinds]) -> Iterator[tuple[int, Kinds]]:
    """The kinds that modules without tensors take from what stands beside them."""
    before: Kinds | None = None
    waiting: list[nn.Module] = []
    for child in parent.children():
        holding = [own[id(m)] for m in child.modules() if own[id(m)]]
        if holding:
            yield from _all(waiting, holding[0])
            waiting, before = [], holding[-1]
            yield from _neighbours(child, own)
        elif before is None:
            waiting.append(child)
        else:
            yield from _all([child], before)
    yield from _all(waiting, own[id(parent)])


def _all(modules: list[nn.Module], kinds: Kinds) -> Iterator[tuple[int, Kinds]]:
    return ((id(m), kinds) for module in modules for m in module.modules())


def _of_steps(
    model: WarmModel, actions: Mapping[str, Action], own: dict[int, Kinds]
) -> dict[int, Kinds]:
    """The same, known exactly: which step calls them."""
    found: dict[int, Kinds] = {}
    for step in (*model.scan.steps.blocks, model.scan.steps.neck):
        kinds: Kinds = frozenset({action_of(actions, step.name)})
        for name in step.modules:
            module = model.backbone.get_submodule(name)
            if not _below(module, own):
                found |= {id(m): kinds for m in module.modules()}
    return found


def _moving(
    model: nn.Module, actions: Mapping[str, Action], owners: Mapping[str, str]
) -> Iterator[tuple[str, nn.Parameter]]:
    """(part, parameter) for all that is to move; what is tied to a frozen part does not."""
    state, origins = model.state_dict(keep_vars=True), original_names(model)
    blocks = tensor_blocks(model, owners)
    held = set()
    for name, block in blocks.items():
        action = action_of(actions, block)
        if action == "frozen" or (action == "low-rank" and not origins[name][1]):
            held.add(place(state[name]))
    for name, block in blocks.items():
        if isinstance(state[name], nn.Parameter) and place(state[name]) not in held:
            yield block, cast(nn.Parameter, state[name])


def _rate(block: str, actions: Mapping[str, Action], rates: Mapping[str, float]) -> float:
    if block in rates:
        return rates[block]
    action = action_of(actions, block)
    like = [rate for name, rate in rates.items() if actions.get(name) == action]
    if block != "neck" or not like:
        raise PlanError(f"part {block!r} is {action} but has no rate; set part.{block}.rate.")
    return max(like)


def _rest(module: nn.Module, _: object) -> None:
    module.training = False
