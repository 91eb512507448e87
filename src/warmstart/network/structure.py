"""Blocks of any module: along its forward where that can be traced, else by its registration."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from warmstart.errors import ModelError, PlanError
from warmstart.network.architectures import IMAGENET, config_of, find_family, preprocessing_from
from warmstart.network.partition import cut
from warmstart.network.weights import named_tensors, place, unique_tensors
from warmstart.records.inputs import Preprocessing
from warmstart.records.network import Family
from warmstart.records.plan import Plan

OUTPUT = "output"
WHOLE = "whole"  # name of a block without a module of its own
OUTPUT_NAMES = ("classifier", "score", "head", "fc", "lm_head", OUTPUT)


def find_blocks(module: nn.Module) -> tuple[tuple[str, ...], dict[str, str]]:
    """Names of the blocks, and for every tensor's name its block or "output".

    Blocks are the members of lists (`nn.ModuleList`, `nn.Sequential`), else the children; the
    order of registration stands for the order of computation. Tensors registered before the
    first block are a block of their own, those between and behind blocks belong to the block
    before. The output is whatever a transformers network has beside its base, else the layer
    named `classifier`, `score`, `head`, `fc`, `lm_head` or `output`, else the last linear layer,
    else the last child.
    """
    children = {name: child for name, child in module.named_children() if len(child.state_dict())}
    base = getattr(module, "base_model_prefix", "")  # of a transformers network
    outputs = [name for name in children if name != base]
    is_base = isinstance(base, str) and base in dict(module.named_children()) and bool(outputs)
    base = base if is_base else ""
    body = module.get_submodule(base)
    anchors = [_join(base, a) for a in _block_paths(body) or _children(body)]
    if not is_base:
        outputs = _outputs(module, anchors)
    anchors = [a for a in anchors if a not in outputs]
    owners: dict[str, str] = {}
    current = ""
    for name in named_tensors(module):
        if _is_inside(name, outputs):
            owners[name] = OUTPUT
            continue
        current = next((a for a in anchors if _is_below(name, a)), current)
        owners[name] = current or _outermost(name, anchors)
    early = [owner for owner in owners.values() if owner not in (OUTPUT, *anchors)]
    modules = dict(module.named_modules())
    # Everything before the first block is one block.
    first = dict.fromkeys(early, next((owner for owner in early if owner in modules), WHOLE))
    owners = {name: first.get(owner, owner) for name, owner in owners.items()}
    return tuple(dict.fromkeys(o for o in owners.values() if o != OUTPUT)), owners


def _block_paths(module: nn.Module) -> list[str]:
    """Paths of the blocks: members of lists, of one class, with a quarter of the weights.

    Of several such classes the outermost counts, then the one with the most weights.
    """
    groups: dict[Any, list[str]] = {}
    for path, container in module.named_modules():
        if not isinstance(container, (nn.ModuleList, nn.Sequential)):
            continue
        rows: dict[Any, list[str]] = {}  # children with weights, by class
        for name, child in container.named_children():
            if _size(child):
                rows.setdefault(_kind(child), []).append(_join(path, name))
        for kind, row in rows.items():
            if len(row) > 1:
                groups.setdefault(kind, []).extend(row)
    total = _size(module)
    sizes = {m: _size(module.get_submodule(m)) for ms in groups.values() for m in ms}
    large = [[m for m in ms if not _is_inside(m, ms)] for ms in groups.values()]
    large = [ms for ms in large if 4 * sum(sizes[m] for m in ms) >= total]
    every = [m for ms in large for m in ms]
    outer = [ms for ms in large if not any(_is_inside(m, every) for m in ms)]
    return max(outer, key=lambda ms: sum(sizes[m] for m in ms), default=[])


def _kind(module: nn.Module) -> Any:
    """Equal for blocks of one class, and for plain containers of equal contents."""
    if type(module) in (nn.Sequential, nn.ModuleList):
        return (type(module), *(_kind(child) for child in module.children()))
    return type(module)


def _size(module: nn.Module) -> int:
    """Parameters without embedding tables, whose size says nothing about depth."""
    tables = {p for m in module.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    return sum(p.numel() for p in module.parameters() if p not in tables)


def _children(module: nn.Module, path: str = "") -> list[str]:
    """Paths of the children that hold tensors; a child that holds all of them is opened."""
    children = {n: c for n, c in module.named_children() if len(c.state_dict())}
    own = len(list(module.parameters(recurse=False)))
    if len(children) == 1 and not own:
        ((name, child),) = children.items()
        return _children(child, _join(path, name))
    return [_join(path, name) for name in children] or ([path] if path else [])


def _outputs(module: nn.Module, anchors: Sequence[str]) -> list[str]:
    """Paths of the modules that make the output; none where it cannot be told from the rest."""
    free = {
        name: child
        for name, child in module.named_modules()
        if len(child.state_dict())
        and not any(_is_below(name, a) or _is_below(a, name) for a in anchors)
    }
    if named := [name for name in free if name.rpartition(".")[2] in OUTPUT_NAMES]:
        child = free[named[-1]]
        linear = [n for n, m in child.named_modules() if isinstance(m, nn.Linear) and n]
        if linear and isinstance(child, nn.Sequential):
            return [f"{named[-1]}.{linear[-1]}"]
        return named[-1:]
    names = list(free)
    last = names.index(anchors[-1]) if anchors else 0
    if linear := [name for name in names[last:] if isinstance(free[name], nn.Linear)]:
        return linear[-1:]
    is_row = len(anchors) > 1 and not _block_paths(module)
    return list(anchors[-1:]) if is_row else []


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _is_inside(name: str, paths: Sequence[str]) -> bool:
    return any(_is_below(name, path) for path in paths)


def _is_below(name: str, path: str) -> bool:
    return name.startswith(f"{path}.") or (not path and bool(name))


def _outermost(name: str, anchors: Sequence[str]) -> str:
    """The outermost module around a tensor without a block inside; else the tensor itself."""
    pieces = name.split(".")
    paths = (".".join(pieces[:n]) for n in range(1, len(pieces) + 1))
    return next(path for path in paths if not any(_is_below(a, path) for a in anchors))


# ---- The owner of each tensor of any module: ordered blocks, then the output.


UNUSED = "unused"
Shape = tuple[int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sections:
    """The blocks of a module, and the owner of each of its tensors.

    `owners` maps every name of `unique_tensors` to a block, "output", or "unused" for tensors that
    forward never reads.
    """

    names: tuple[str, ...]  # blocks from the input to the output
    owners: dict[str, str]
    family: Family
    n_outputs: int | None  # width of the output layer, None where there is none
    shape: Shape | None  # (C, H, W) of the inputs it was run on; None: it was not run


def sections(
    module: nn.Module, inputs: Any = None, preprocessing: Preprocessing | None = None
) -> Sections:
    """Partition any module; nothing in it is changed, its modes and gradient flags included.

    `inputs` is a batch of the network: a tensor (B, C, H, W), or a mapping that holds one.
    Without it the size is that of the network's own configuration, else 3×224×224.
    A network that does not take such inputs is partitioned by its registration.
    Raises: ModelError if the module has no tensors.
    """
    if not unique_tensors(module):
        raise ModelError(f"{type(module).__name__} has no tensors; there is nothing to train.")
    prep = preprocessing or _preprocessing(module, inputs)
    traced = _by_forward(module, prep) if prep is not None else None
    if traced is not None and len(traced.names) > 1:
        return traced
    registered = _by_registration(module)
    return registered if traced is None or len(registered.names) > 1 else traced


def sections_for(module: nn.Module, plan: Plan) -> Sections:
    """The blocks of a module as a plan names them.

    Raises: PlanError if the plan was made for another network.
    """
    names = tuple(block.name for block in plan.blocks)
    if plan.input is not None:
        size: Any = plan.input.size.value
        prep = _plain(int(plan.input.channels.number), size)
        candidate = sections(module, preprocessing=prep)
    else:
        candidate = _by_registration(module)
        if (*candidate.names, OUTPUT) != names:
            candidate = sections(module)
    own = (*candidate.names, OUTPUT)
    if own == names:
        return candidate
    missing = [name for name in names if name not in own]
    difference = f"{len(own) - 1} blocks, not {len(names) - 1}"
    if missing:
        difference = f"no block {missing[0]!r}"
    raise PlanError(
        f"the plan was made for another network: this {type(module).__name__} has {difference}; "
        "make a plan for it with warmstart.plan(network)."
    )


def _preprocessing(module: nn.Module, inputs: Any) -> Preprocessing | None:
    """Preprocessing of the images to run it on; None where it takes none."""
    if inputs is not None:
        values = inputs.values() if isinstance(inputs, Mapping) else (inputs,)
        tensors = [v for v in values if isinstance(v, Tensor) and v.is_floating_point()]
        images = next((v for v in tensors if v.ndim == 4), None)
        return None if images is None else _plain(images.shape[1], images.shape[2:])
    if config := config_of(module):
        return preprocessing_from(config)
    own = getattr(module, "config", None)  # of transformers' networks
    side, channels = getattr(own, "image_size", None), getattr(own, "num_channels", None)
    if side is not None:
        return _plain(channels or 3, side)
    if getattr(module, "main_input_name", "pixel_values") != "pixel_values":
        return None
    stem = next((m for m in module.modules() if isinstance(m, nn.Conv2d)), None)
    return _plain(stem.in_channels if stem else 3, IMAGENET.size)


def _plain(channels: int, sides: int | Sequence[int]) -> Preprocessing:
    height, width = (sides, sides) if isinstance(sides, int) else sides
    half = (0.5,) * channels
    return Preprocessing(size=(height, width), resize=min(height, width), mean=half, std=half)


def _by_forward(module: nn.Module, prep: Preprocessing) -> Sections | None:
    """Blocks along forward; None where it cannot be run on such images."""
    try:
        with torch.random.fork_rng(devices=[]):  # a forward may use random numbers
            # A copy: a forward may also count its calls, or compute in half precision elsewhere.
            network = cut(copy.deepcopy(module).cpu().float(), prep)
    except Exception:  # somebody else's forward: it may raise anything
        return None
    names = tuple(block.name for block in network.blocks)
    renamed = {"neck": names[-1], "head": OUTPUT}
    by_name = {name: renamed.get(owner, owner) for name, owner in network.owners.items()}
    owners = {  # under the module's own first names; a cut may use another of a tied tensor
        first: next((by_name[name] for name in tied if name in by_name), UNUSED)
        for first, tied in aliases(module).items()
    }
    return _sections(module, names, owners, (prep.channels, *prep.size))


def _by_registration(module: nn.Module) -> Sections:
    names, owner_of = find_blocks(module)
    order = (*names, OUTPUT)
    owners = {  # a tied tensor belongs to the first block that has it
        first: min((owner_of[name] for name in tied), key=order.index)
        for first, tied in aliases(module).items()
    }
    nonempty = tuple(name for name in names if name in owners.values())
    return _sections(module, nonempty, owners, None)


def aliases(module: nn.Module) -> dict[str, list[str]]:
    """For each name in `unique_tensors`, all names of that tensor."""
    first = {place(tensor): name for name, tensor in unique_tensors(module).items()}
    names: dict[str, list[str]] = {name: [] for name in first.values()}
    for name, tensor in named_tensors(module).items():
        names[first[place(tensor)]].append(name)
    return names


def _sections(
    module: nn.Module, names: tuple[str, ...], owners: dict[str, str], shape: Shape | None
) -> Sections:
    tensors = unique_tensors(module)
    outputs = [tensors[name] for name, owner in owners.items() if owner == OUTPUT]
    matrices = [tensor for tensor in outputs if tensor.ndim > 1]
    return Sections(
        names=names,
        owners=owners,
        family=find_family(module),
        n_outputs=len(matrices[-1]) if matrices else None,
        shape=shape,
    )
