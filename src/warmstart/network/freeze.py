"""Frozen is frozen: no gradient, no weight decay, and no BatchNorm statistic that moves.

A module's mode follows from the blocks that own its tensors:
- frozen and low-rank blocks: eval mode at every forward, whoever calls `train()` between;
- fine-tuned blocks: the caller's mode, but statistics of norms stay (their scales are trained);
- fresh, added and replaced blocks: free.
Tensors tied between blocks are frozen if one of these is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from warmstart.errors import PlanError
from warmstart.network.lora import original_names
from warmstart.network.surgery import WarmModel
from warmstart.network.weights import place
from warmstart.records.block_actions import ACTIONS, FROZEN, REPLACED, Action, BlockAction, Mode

Actions = Mapping[str, Action]  # by block
Owners = Mapping[str, str]  # block by tensor
Modes = frozenset[Mode]

_EVAL = Modes({"eval"})
# Of owners that a plan need not name.
_DEFAULTS: Actions = dict.fromkeys(("neck", "unused", "head"), FROZEN.name) | {
    "output": REPLACED.name
}


def behaviour_of(actions: Actions, block: str) -> BlockAction:
    """What the action of a block means; the neck and unused tensors are frozen unless named.

    Raises: PlanError where none is set.
    """
    action = actions.get(block, _DEFAULTS.get(block))
    if action is None:
        raise PlanError(f"the plan has no action for block {block!r}; set block.{block}.action.")
    return ACTIONS[action]


def tensor_blocks(model: nn.Module, owners: Owners) -> dict[str, str]:
    """The block of each tensor of a model, by the tensor's name in the model.

    `owners` uses the names in the model, in the backbone of a `WarmModel`, or those before low-rank
    updates; tied tensors need one entry. The head of a `WarmModel` is the block "output"; buffers
    without an owner are omitted. Raises: PlanError for a parameter without an owner.
    """
    blocks: dict[str, str] = {}
    state = model.state_dict(keep_vars=True)
    for name, (original, _) in original_names(model).items():
        block = owners.get(original, owners.get(original.removeprefix("backbone.")))
        if isinstance(model, WarmModel) and original.startswith("head."):
            block = "output"  # whatever the old network called so
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
    """Require gradients only of trainable parameters: of low-rank blocks, the updates alone.

    Gradients of frozen parameters are dropped, so that no optimizer can move them any more.
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

    Vectors (biases, scales, single tokens) have `weight_decay` 0. The neck, which a plan does not
    name, takes the highest rate of the blocks with its action. Each parameter occurs once.
    Raises: PlanError for a trainable block without a learning rate.
    """
    param_groups: dict[tuple[str, bool], dict[str, Any]] = {}
    for block, parameter in _trainable(model, actions, owners):
        is_vector = sum(side > 1 for side in parameter.shape) <= 1
        group = {"params": [], "block": block, "lr": _rate(block, actions, rates)}
        if is_vector:
            group["weight_decay"] = 0.0
        param_groups.setdefault((block, is_vector), group)["params"].append(parameter)
    return list(param_groups.values())


class FrozenBlocks:
    """Applies the actions and keeps frozen blocks frozen until `remove`, or the end of `with`.

    Raises: PlanError as `apply`.
    """

    def __init__(self, model: nn.Module, actions: Actions, owners: Owners) -> None:
        self._flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
        self._modes = [(module, module.training) for module in model.modules()]
        apply(model, actions, owners)
        self.eval_modules = eval_modules(model, actions, owners)
        # Before all other hooks: some (spectral norm's) move statistics before forward begins.
        # The model's too: a module whose weights are read without a call has no forward to hook.
        hooks = [(module, _set_eval) for module in self.eval_modules] + [(model, self.rest)]
        self._hooks = [m.register_forward_pre_hook(hook, prepend=True) for m, hook in hooks]
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

    def __exit__(self, *_: object) -> None:
        self.remove()


def _set_eval(module: nn.Module, _: object) -> None:
    module.training = False


def eval_modules(model: nn.Module, actions: Actions, owners: Owners) -> tuple[nn.Module, ...]:
    """The modules that stay in eval mode.

    A module with tensors stays if one of them is frozen; in a fine-tuned block, if it keeps
    statistics. A container stays if all tensors below it are frozen. One without tensors (dropout,
    say) follows its step in a `WarmModel`, else the sibling before it, or the first one after it.
    """
    own = _own_modes(model, actions, owners)
    inherited = dict(_sibling_modes(model, own))
    if isinstance(model, WarmModel):
        for step in (*model.scan.steps.blocks, model.scan.steps.neck):
            modes = Modes({behaviour_of(actions, step.name).mode})
            for name in step.modules:
                module = model.backbone.get_submodule(name)
                if not _modes_below(module, own):
                    inherited |= {id(m): modes for m in module.modules()}
    return tuple(module for module in model.modules() if _stays_eval(module, own, inherited))


def _stays_eval(module: nn.Module, own: dict[int, Modes], inherited: dict[int, Modes]) -> bool:
    if modes := own[id(module)]:
        names = [name for name, buffer in module._buffers.items() if buffer is not None]
        has_statistics = any(name.startswith("running_") for name in names)
        return "eval" in modes or ("statistics" in modes and has_statistics)
    below = inherited.get(id(module), _modes_below(module, own))
    return below == _EVAL


def _modes_below(module: nn.Module, own: dict[int, Modes]) -> Modes:
    return Modes(mode for child in module.modules() for mode in own[id(child)])


def _own_modes(model: nn.Module, actions: Actions, owners: Owners) -> dict[int, Modes]:
    state = model.state_dict(keep_vars=True)
    modes: dict[tuple[int, ...], Modes] = {}
    for name, block in tensor_blocks(model, owners).items():
        key = place(state[name])
        modes[key] = modes.get(key, Modes()) | {behaviour_of(actions, block).mode}
    own = {}
    for module in model.modules():
        tensors = (*module._parameters.values(), *module._buffers.values())
        each = [modes.get(place(tensor), Modes()) for tensor in tensors if tensor is not None]
        own[id(module)] = Modes().union(*each)
    return own


def _sibling_modes(parent: nn.Module, own: dict[int, Modes]) -> Iterator[tuple[int, Modes]]:
    """The modes that modules without tensors take from their siblings."""
    before: Modes | None = None
    waiting: list[nn.Module] = []
    for child in parent.children():
        modes = [own[id(m)] for m in child.modules() if own[id(m)]]
        if modes:
            yield from ((id(m), modes[0]) for module in waiting for m in module.modules())
            waiting, before = [], modes[-1]
            yield from _sibling_modes(child, own)
        elif before is None:
            waiting.append(child)
        else:
            yield from ((id(m), before) for m in child.modules())
    yield from ((id(m), own[id(parent)]) for module in waiting for m in module.modules())


def _trainable(
    model: nn.Module, actions: Actions, owners: Owners
) -> list[tuple[str, nn.Parameter]]:
    """(block, parameter) of the trainable ones, each once; none is tied to a frozen block."""
    state, origins = model.state_dict(keep_vars=True), original_names(model)
    blocks = tensor_blocks(model, owners)
    frozen, trainable = set(), dict[int, tuple[str, nn.Parameter]]()
    for name, block in blocks.items():
        if not behaviour_of(actions, block).moves(*origins[name]):
            frozen.add(place(state[name]))
    for name, block in blocks.items():
        tensor = state[name]
        if isinstance(tensor, nn.Parameter) and place(tensor) not in frozen:
            trainable.setdefault(id(tensor), (block, tensor))
    return list(trainable.values())


def _rate(block: str, actions: Actions, rates: Mapping[str, float]) -> float:
    if block in rates:
        return rates[block]
    action = behaviour_of(actions, block).name
    same = [rate for name, rate in rates.items() if actions.get(name) == action]
    if block != "neck" or not same:
        raise PlanError(
            f"block {block!r} is {action} but has no learning rate; set block.{block}.lr."
        )
    return max(same)
