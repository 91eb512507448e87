"""Frozen is frozen: no gradient, no weight decay, and no BatchNorm statistic that moves.

A module's mode follows from the blocks that own its tensors, so that this holds for any
network: (module, actions, owners) is all that is needed.

- frozen and low-rank blocks: eval mode at every forward, whoever calls `train()` between;
- fine-tuned blocks: the caller's mode, but statistics of norms stay (their scales are trained);
- fresh, added and replaced blocks: free.

Tensors tied between blocks are frozen if one of these is.
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

_FROZEN = frozenset[Action]({"frozen", "low-rank"})
_OUTPUT = "output"
# Owners that a plan need not name: they stay frozen, and the new output is trained.
_DEFAULTS: dict[str, Action] = {
    "neck": "frozen",
    "unused": "frozen",
    "head": "frozen",
    _OUTPUT: "replaced",
}
Actions = Mapping[str, Action]  # by block
Owners = Mapping[str, str]  # block by tensor
Kinds = frozenset[Action]


def action_of(actions: Actions, block: str) -> Action:
    """The action of a block; the neck and unused tensors are frozen unless named.

    Raises: PlanError where none is set.

    >>> action_of({"conv1": "tuned"}, "conv1"), action_of({}, "neck"), action_of({}, "output")
    ('tuned', 'frozen', 'replaced')
    """
    action = actions.get(block, _DEFAULTS.get(block))
    if action is None:
        raise PlanError(f"the plan has no action for block {block!r}; give it one.")
    return action


def tensor_blocks(model: nn.Module, owners: Owners) -> dict[str, str]:
    """The block of each tensor of a model, by the tensor's name in the model.

    `owners` uses the names in the model, in the backbone of a `WarmModel`, or those before
    low-rank updates; tied tensors need one entry. The head of a `WarmModel` is the block
    "output". Buffers without an owner are left out. Raises: PlanError for a parameter without
    an owner.

    >>> tensor_blocks(nn.Linear(2, 1), {"weight": "p", "bias": "p"})
    {'weight': 'p', 'bias': 'p'}
    """
    blocks: dict[str, str] = {}
    state = model.state_dict(keep_vars=True)
    is_warm = isinstance(model, WarmModel)
    for name, (original, _) in original_names(model).items():
        block = owners.get(original, owners.get(original.removeprefix("backbone.")))
        if is_warm and original.startswith("head."):
            block = _OUTPUT  # whatever the old network called so
        if block is not None:
            blocks[name] = block
    tied = {place(state[name]): block for name, block in reversed(blocks.items())}
    for name, tensor in state.items():
        if name not in blocks and isinstance(tensor, Tensor) and place(tensor) in tied:
            blocks[name] = tied[place(tensor)]
        if name not in blocks and isinstance(tensor, nn.Parameter):
            raise PlanError(f"tensor {name} belongs to no block of the network; name its owner.")
    return {name: blocks[name] for name in state if name in blocks}


def apply(model: nn.Module, actions: Actions, owners: Owners) -> None:
    """Require gradients only of trainable parameters.

    In low-rank blocks these are the updates alone. Gradients of frozen parameters are dropped:
    an optimizer that still holds these cannot move them any more.
    Raises: PlanError for a block without an action, or a parameter without a block.
    """
    trainable = {id(parameter) for _, parameter in _trainable(model, actions, owners)}
    for parameter in model.parameters():
        parameter.requires_grad = id(parameter) in trainable
        if id(parameter) not in trainable:
            parameter.grad = None


def groups(
    model: nn.Module, actions: Actions, owners: Owners, rates: Mapping[str, float]
) -> list[dict[str, Any]]:
    """Parameter groups for an optimizer: trainable parameters by block, with its learning rate.

    Vectors (biases, scales, single tokens) carry `weight_decay` 0; the others take the
    optimizer's own. The neck, which a plan does not name, takes the highest rate of the
    blocks that have its action. Each parameter occurs once.
    Raises: PlanError for a trainable block without a learning rate.
    """
    param_groups: dict[tuple[str, bool], dict[str, Any]] = {}
    seen: set[int] = set()
    for block, parameter in _trainable(model, actions, owners):
        if id(parameter) in seen:
            continue
        seen.add(id(parameter))
        is_vector = sum(side > 1 for side in parameter.shape) <= 1
        blank = {"params": [], "block": block, "lr": _rate(block, actions, rates)}
        group = param_groups.setdefault((block, is_vector), blank)
        group["params"].append(parameter)
        if is_vector:
            group["weight_decay"] = 0.0
    return list(param_groups.values())


def hold(model: nn.Module, actions: Actions, owners: Owners) -> FrozenBlocks:
    """Apply the actions and keep frozen blocks frozen until `remove`, or the end of `with`.

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
    """The hooks and flags that `hold` set on a model; `remove` restores it."""

    def __init__(self, model: nn.Module, actions: Actions, owners: Owners) -> None:
        self._flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
        self._modes = [(module, module.training) for module in model.modules()]
        apply(model, actions, owners)
        self.eval_modules = eval_modules(model, actions, owners)
        # Before all other hooks: some (spectral norm's) move statistics before forward begins.
        self._hooks = [
            module.register_forward_pre_hook(_set_eval, prepend=True)
            for module in self.eval_modules
        ]
        # A module whose weights are read without a call has no forward to hook.
        self._hooks.append(model.register_forward_pre_hook(self.rest, prepend=True))
        self.rest()

    def rest(self, *_: object) -> None:
        """Put frozen modules into eval mode again, after a call of `train()`."""
        for module in self.eval_modules:
            module.training = False

    def remove(self) -> None:
        """Remove the hooks and restore gradient flags and modes."""
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


def _set_eval(module: nn.Module, _: object) -> None:
    module.training = False


def eval_modules(model: nn.Module, actions: Actions, owners: Owners) -> tuple[nn.Module, ...]:
    """The modules that stay in eval mode.

    A module with tensors of its own stays if one of them is frozen; in a fine-tuned block, if it
    keeps statistics. A container stays if all tensors below it are frozen. A module without
    tensors (dropout, say) follows its step in a `WarmModel`, else the sibling before it, or
    after it where it is the first.
    """
    own = _own_kinds(model, actions, owners)
    inherited = dict(_sibling_kinds(model, own))
    if isinstance(model, WarmModel):
        for step in (*model.scan.steps.blocks, model.scan.steps.neck):
            kinds: Kinds = frozenset({action_of(actions, step.name)})
            for name in step.modules:
                module = model.backbone.get_submodule(name)
                if not _kinds_below(module, own):
                    inherited |= {id(m): kinds for m in module.modules()}
    return tuple(module for module in model.modules() if _stays_eval(module, own, inherited))


def _stays_eval(module: nn.Module, own: dict[int, Kinds], inherited: dict[int, Kinds]) -> bool:
    kinds = own[id(module)]
    if kinds:
        names = [name for name, buffer in module._buffers.items() if buffer is not None]
        keeps_statistics = any(name.startswith("running_") for name in names)
        return bool(kinds & _FROZEN) or ("tuned" in kinds and keeps_statistics)
    below = inherited.get(id(module), _kinds_below(module, own))
    return bool(below) and below <= _FROZEN


def _kinds_below(module: nn.Module, own: dict[int, Kinds]) -> Kinds:
    return frozenset(kind for child in module.modules() for kind in own[id(child)])


def _own_kinds(model: nn.Module, actions: Actions, owners: Owners) -> dict[int, Kinds]:
    state = model.state_dict(keep_vars=True)
    kinds: dict[tuple[int, ...], Kinds] = {}
    for name, block in tensor_blocks(model, owners).items():
        key = place(state[name])
        kinds[key] = kinds.get(key, frozenset()) | {action_of(actions, block)}
    own = {}
    for module in model.modules():
        tensors = (*module._parameters.values(), *module._buffers.values())
        each = [kinds.get(place(tensor), frozenset()) for tensor in tensors if tensor is not None]
        own[id(module)] = frozenset[Action]().union(*each)
    return own


def _sibling_kinds(parent: nn.Module, own: dict[int, Kinds]) -> Iterator[tuple[int, Kinds]]:
    """The kinds that modules without tensors take from their siblings."""
    before: Kinds | None = None
    waiting: list[nn.Module] = []
    for child in parent.children():
        kinds = [own[id(m)] for m in child.modules() if own[id(m)]]
        if kinds:
            yield from ((id(m), kinds[0]) for module in waiting for m in module.modules())
            waiting, before = [], kinds[-1]
            yield from _sibling_kinds(child, own)
        elif before is None:
            waiting.append(child)
        else:
            yield from ((id(m), before) for m in child.modules())
    yield from ((id(m), own[id(parent)]) for module in waiting for m in module.modules())


def _trainable(
    model: nn.Module, actions: Actions, owners: Owners
) -> Iterator[tuple[str, nn.Parameter]]:
    """(block, parameter) for all trainable ones; those tied to a frozen block are not."""
    state, origins = model.state_dict(keep_vars=True), original_names(model)
    blocks = tensor_blocks(model, owners)
    frozen = set()
    for name, block in blocks.items():
        action = action_of(actions, block)
        if action == "frozen" or (action == "low-rank" and not origins[name][1]):
            frozen.add(place(state[name]))
    for name, block in blocks.items():
        if isinstance(state[name], nn.Parameter) and place(state[name]) not in frozen:
            yield block, cast(nn.Parameter, state[name])


def _rate(block: str, actions: Actions, rates: Mapping[str, float]) -> float:
    if block in rates:
        return rates[block]
    action = action_of(actions, block)
    same = [rate for name, rate in rates.items() if actions.get(name) == action]
    if block != "neck" or not same:
        raise PlanError(
            f"block {block!r} is {action} but has no learning rate; set block.{block}.lr."
        )
    return max(same)
