"""Parts of a module by how it is built, without running it.

Lists of equal blocks (`nn.ModuleList`, `nn.Sequential`) are what most networks are made of.
The order of registration stands for the order of computing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

OUTPUT = "output"
WHOLE = "whole"  # name of a part without a module of its own
OUTPUT_NAMES = ("classifier", "score", "head", "fc", "lm_head", OUTPUT)


def built(module: nn.Module) -> tuple[tuple[str, ...], dict[str, str]]:
    """Names of the parts, and for every tensor's name its part or "output".

    One part a block; what is registered before the first block is a part of its own, what is
    registered between blocks and after them belongs to the block before. Where no blocks are
    found, the children are the parts. The output is what stands outside of a transformers
    network's base, else a layer of a usual name (`classifier`, `score`, `head`, `fc`,
    `lm_head`, `output`), else the last linear layer, else the last child.

    >>> net = nn.Sequential(nn.Embedding(9, 4), nn.LSTM(4, 6), nn.Linear(6, 2))
    >>> built(net)[0]
    ('0', '1')
    """
    base = _base(module)
    body = module.get_submodule(base)
    anchors = [_join(base, a) for a in _blocks(body) or _children(body)]
    outputs = _beside(module, base) if base else _outputs(module, anchors)
    anchors = [a for a in anchors if a not in outputs]
    owners: dict[str, str] = {}
    now = ""  # the block that tensors belong to as they come
    for name, tensor in module.state_dict(keep_vars=True).items():
        if not isinstance(tensor, Tensor):
            continue
        if _is_inside(name, outputs):
            owners[name] = OUTPUT
            continue
        now = next((a for a in anchors if _is_below(name, a)), now)
        owners[name] = now or _first(name, anchors)
    early = [owner for owner in owners.values() if owner not in (OUTPUT, *anchors)]
    modules = dict(module.named_modules())
    name = next((owner for owner in early if owner in modules), WHOLE)
    joined = dict.fromkeys(early, name)  # what comes before the first block is one part
    owners = {name: joined.get(owner, owner) for name, owner in owners.items()}
    return tuple(dict.fromkeys(o for o in owners.values() if o != OUTPUT)), owners


def _base(module: nn.Module) -> str:
    """Name of the child that a transformers network calls its base; "" for any other network."""
    base: Any = getattr(module, "base_model_prefix", "")
    is_child = isinstance(base, str) and base in dict(module.named_children())
    return base if is_child and _beside(module, base) else ""


def _beside(module: nn.Module, base: str) -> list[str]:
    return [n for n, child in module.named_children() if n != base and len(child.state_dict())]


def _blocks(module: nn.Module) -> list[str]:
    """Paths of the blocks: members of lists, of one class, with a quarter of the weights.

    Of several such classes the outermost counts, then the one with the most weights.
    """
    groups: dict[Any, list[str]] = {}
    for path, container in module.named_modules():
        if isinstance(container, (nn.ModuleList, nn.Sequential)):
            for kind, row in _rows(path, container).items():
                groups.setdefault(kind, []).extend(row)
    total = _size(module)
    sizes = {m: _size(module.get_submodule(m)) for ms in groups.values() for m in ms}
    large = [[m for m in ms if not _is_inside(m, ms)] for ms in groups.values()]
    large = [ms for ms in large if 4 * sum(sizes[m] for m in ms) >= total]
    every = [m for ms in large for m in ms]
    outer = [ms for ms in large if not any(_is_inside(m, every) for m in ms)]
    return max(outer, key=lambda ms: sum(sizes[m] for m in ms), default=[])


def _rows(path: str, container: nn.Module) -> dict[Any, list[str]]:
    """Two or more children of one class with weights, by class."""
    rows: dict[Any, list[str]] = {}
    for name, child in container.named_children():
        if _size(child):
            rows.setdefault(_kind(child), []).append(_join(path, name))
    return {kind: row for kind, row in rows.items() if len(row) > 1}


def _kind(module: nn.Module) -> Any:
    """What makes two blocks equal: the class, and for plain containers what they hold."""
    if type(module) in (nn.Sequential, nn.ModuleList):
        return (type(module), *(_kind(child) for child in module.children()))
    return type(module)


def _size(module: nn.Module) -> int:
    """Parameters outside of embedding tables, whose size says nothing about depth."""
    tables = {
        id(p) for m in module.modules() if isinstance(m, nn.Embedding) for p in m.parameters()
    }
    return sum(p.numel() for p in module.parameters() if id(p) not in tables)


def _children(module: nn.Module, path: str = "") -> list[str]:
    """Paths of the children that hold tensors; a child that holds all of them is opened."""
    found = {n: c for n, c in module.named_children() if len(c.state_dict())}
    own = len(list(module.parameters(recurse=False)))
    if len(found) == 1 and not own:
        ((name, child),) = found.items()
        return _children(child, _join(path, name))
    return [_join(path, name) for name in found] or ([path] if path else [])


def _outputs(module: nn.Module, anchors: Sequence[str]) -> list[str]:
    """Paths of the modules that make the output; none where it cannot be told from the rest."""
    free = {
        name: child
        for name, child in module.named_modules()
        if len(child.state_dict())
        and not any(_is_below(name, a) or _is_below(a, name) for a in anchors)
    }
    if named := [name for name in free if name.rpartition(".")[2] in OUTPUT_NAMES and name]:
        child = free[named[-1]]
        inner = _linear(child) if isinstance(child, nn.Sequential) else []
        return [f"{named[-1]}.{inner[-1]}" if inner else named[-1]]
    order = list(free)
    latest = order.index(anchors[-1]) if anchors else 0
    if linear := [n for n in order[latest:] if isinstance(free[n], nn.Linear)]:
        return linear[-1:]
    is_row = len(anchors) > 1 and not _blocks(module)
    return list(anchors[-1:]) if is_row else []


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _is_inside(name: str, paths: Sequence[str]) -> bool:
    return any(_is_below(name, path) for path in paths)


def _linear(module: nn.Module) -> list[str]:
    return [name for name, child in module.named_modules() if isinstance(child, nn.Linear) and name]


def _first(name: str, anchors: Sequence[str]) -> str:
    """The outermost module around a tensor that holds none of the blocks; else the tensor itself.

    >>> _first("bert.embeddings.words.weight", ["bert.layer.0"]), _first("token", ["layer.0"])
    ('bert.embeddings', 'token')
    """
    pieces = name.split(".")
    paths = (".".join(pieces[:n]) for n in range(1, len(pieces) + 1))
    return next(path for path in paths if not any(_is_below(a, path) for a in anchors))


def _is_below(name: str, path: str) -> bool:
    """Whether something lies inside the module at `path`."""
    return name.startswith(f"{path}.") or (not path and bool(name))
