"""What carries over from a start: weights that fit are taken, the rest is listed as lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor, nn

from warmstart.errors import ModelError
from warmstart.network.architectures import classifier_name
from warmstart.network.tensors import STATISTICS, digest, place, unique_tensors
from warmstart.records.network import InputChange

_NAMED = 3  # layers named in a sentence
HARDLY = 0.5  # share below which a start is hardly warm


def take_over(
    module: nn.Module, weights: Mapping[str, Tensor], where: str
) -> tuple[InputChange, ...]:
    """Copy the tensors whose name and shape fit into a network, in place; `where` names the file.

    The network's other tensors stay at the random start that it was built with. Names may
    stand behind one prefix (`encoder.layer1.0.weight`). The old classifier does not count: a
    new one is fitted anyway.
    Returns: what is new in the network, and what is left over of the file.
    Raises: ModelError if nothing fits.

    >>> net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 3), nn.Linear(3, 1))
    >>> import torch
    >>> found = {"0.weight": torch.ones(2, 2), "1.weight": torch.ones(9, 2)}
    >>> [(c.tensor, c.fate) for c in take_over(net, found, "best.pt")]
    [('1.weight', 'new'), ('1.bias', 'new'), ('1.weight', 'dropped')]
    """
    own = module.state_dict(keep_vars=True)
    weights = _renamed(own, weights)
    head = _head(module)
    fits = {n: t for n, t in weights.items() if n in own and own[n].shape == t.shape}
    if not any(not n.startswith(head) for n in fits):
        raise ModelError(
            f"{where}: no tensor fits {type(module).__name__} by name and shape; check --arch."
        )
    filled = {place(own[name]) for name in fits}
    module.load_state_dict({**module.state_dict(), **fits})
    fresh = [
        _new(name, tensor, weights.get(name), where)
        for name, tensor in unique_tensors(module).items()
        if place(tensor) not in filled and not name.startswith(head)
    ]
    left = [
        _dropped(name, tensor, is_known=name in own)
        for name, tensor in weights.items()
        if name not in fits and not name.startswith(head)
    ]
    return (*fresh, *left)


def _head(module: nn.Module) -> str:
    """What the names of the classifier's tensors begin with."""
    return f"{classifier_name(module)}."


def _renamed(own: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The file's tensors without the prefix under which most of the network's names stand."""
    prefixes = Counter(
        name[: len(name) - len(rest)] for name in weights for rest in _ends(name) if rest in own
    )
    if not prefixes:
        return dict(weights)
    prefix = max(prefixes, key=lambda p: (prefixes[p], -len(p)))
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items()}


def _ends(name: str) -> Iterable[str]:
    """`a.b.c`, `b.c`, `c`."""
    words = name.split(".")
    return (".".join(words[n:]) for n in range(len(words)))


def _new(name: str, tensor: Tensor, found: Tensor | None, where: str) -> InputChange:
    because = f"{where} does not hold it"
    if found is not None:
        because = f"{where} holds it in another shape, {tuple(found.shape)}"
    return InputChange(
        tensor=name,
        fate="new",
        shape_before=None,
        shape_after=tuple(tensor.shape),
        before=None,
        because=because,
    )


def _dropped(name: str, tensor: Tensor, *, is_known: bool) -> InputChange:
    return InputChange(
        tensor=name,
        fate="dropped",
        shape_before=tuple(tensor.shape),
        shape_after=None,
        before=digest(tensor),
        because="the network has it in another shape" if is_known else "the network has no such",
    )


def carried(base_changes: Sequence[InputChange], module: nn.Module) -> float:
    """The share of a network's parameters, its classifier apart, that come from the start.

    Tensors that were reshaped count as carried over.

    >>> net = nn.Sequential(nn.Linear(3, 1, bias=False), nn.Linear(1, 1), nn.Linear(1, 9))
    >>> new = InputChange(tensor="1.bias", fate="new", shape_before=None, shape_after=(1,),
    ...     before=None, because="it is not in the file")
    >>> carried((new,), net)
    0.8
    """
    head = _head(module)
    sizes = {n: p.numel() for n, p in module.named_parameters() if not n.startswith(head)}
    new = sum(sizes.get(c.tensor, 0) for c in base_changes if c.fate == "new")
    total = sum(sizes.values())
    return 1 - new / total if total else 1.0


def surgery_sentence(changes: Sequence[InputChange], share: float) -> str:
    """What surgery at the input did, in plain words; `share` is what `carried` gave.

    >>> lost = InputChange(tensor="out.weight", fate="new", shape_before=None, shape_after=(30, 20),
    ...     before=None, because="it is not in the file")
    >>> surgery_sentence((lost,), 0.4)
    '1 layer, 600 of 1,000 parameters do not carry over: out. This is hardly a warm start.'
    """
    new = [c for c in changes if c.fate == "new"]
    again = {c.tensor for c in new}
    dropped = [c for c in changes if c.fate == "dropped" and c.tensor not in again]
    parts = [*_reshaped([c for c in changes if c.fate == "reshaped"])]
    lost = _size(new)
    if lost and share < 1:
        total = _shown(round(lost / (1 - share)))
        sizes = f"{_shown(lost)} of {total} parameters"
        parts.append(f"{_layers(new)}, {sizes} do not carry over: {_names(new)}.")
    if dropped:
        parts.append(
            f"{_layers(dropped)} of the start, {_shown(_size(dropped))} parameters, "
            f"{'have' if len(_grouped(dropped)) > 1 else 'has'} no place: {_names(dropped)}."
        )
    if parts and share < HARDLY:
        parts.append("This is hardly a warm start.")
    return " ".join(parts)


def _reshaped(changes: Sequence[InputChange]) -> Iterable[str]:
    """One sentence for each reason."""
    for because in dict.fromkeys(c.because for c in changes):
        alike = [c for c in changes if c.because == because]
        yield f"{_layers(alike)} reshaped ({_names(alike)}): {because}."


def _size(changes: Sequence[InputChange]) -> int:
    """Parameters among tensors that came or went, in numbers."""
    total = 0
    for change in changes:
        if change.tensor.rpartition(".")[2] not in STATISTICS:
            n = 1
            for side in change.shape_after or change.shape_before or ():
                n *= side
            total += n
    return total


def _grouped(changes: Sequence[InputChange]) -> list[str]:
    """The layers that tensors belong to, each once."""
    return list(dict.fromkeys(c.tensor.rpartition(".")[0] or c.tensor for c in changes))


def _layers(changes: Sequence[InputChange]) -> str:
    n = len(_grouped(changes))
    return f"{n:,} layer{'' if n == 1 else 's'}"


def _names(changes: Sequence[InputChange]) -> str:
    names = _grouped(changes)
    return ", ".join(names[:_NAMED]) + (", …" if len(names) > _NAMED else "")


def _shown(n: int) -> str:
    """A number of parameters for people.

    >>> _shown(1_234), _shown(1_234_567)
    ('1,234', '1.2 M')
    """
    return f"{n / 1e6:.1f} M" if n >= 1_000_000 else f"{n:,}"
