"""Partial loading: weights that fit are loaded, the others are listed as lost."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor, nn

from warmstart.errors import ModelError
from warmstart.network.architectures import classifier_name
from warmstart.network.tensors import STATISTICS, digest, place, unique_tensors
from warmstart.records.network import InputChange

_NAMED = 3  # layers named in a sentence
HARDLY = 0.5  # share of loaded parameters below which this is hardly a warm start


def load_matching(
    module: nn.Module, weights: Mapping[str, Tensor], where: str
) -> tuple[InputChange, ...]:
    """Load the tensors whose name and shape fit into a network, in place; `where` names the file.

    The network's other tensors keep their random initial values. All names may share one prefix
    (`encoder.layer1.0.weight`). The old classifier does not count: a new head is fitted anyway.
    Returns: the network's new tensors, and the file's dropped ones.
    Raises: ModelError if nothing fits.

    >>> net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 3), nn.Linear(3, 1))
    >>> import torch
    >>> weights = {"0.weight": torch.ones(2, 2), "1.weight": torch.ones(9, 2)}
    >>> [(c.tensor, c.fate) for c in load_matching(net, weights, "best.pt")]
    [('1.weight', 'new'), ('1.bias', 'new'), ('1.weight', 'dropped')]
    """
    own = module.state_dict(keep_vars=True)
    weights = _without_prefix(own, weights)
    head = f"{classifier_name(module)}."
    fits = {n: t for n, t in weights.items() if n in own and own[n].shape == t.shape}
    if not any(not n.startswith(head) for n in fits):
        raise ModelError(
            f"{where}: no tensor fits {type(module).__name__} by name and shape; check --arch."
        )
    loaded = {place(own[name]) for name in fits}
    module.load_state_dict({**module.state_dict(), **fits})
    new = [
        _new(name, tensor, weights.get(name), where)
        for name, tensor in unique_tensors(module).items()
        if place(tensor) not in loaded and not name.startswith(head)
    ]
    dropped = [
        InputChange(
            tensor=name,
            fate="dropped",
            shape_before=tuple(tensor.shape),
            shape_after=None,
            before=digest(tensor),
            because=f"the network has {'it in another shape' if name in own else 'no such'}",
        )
        for name, tensor in weights.items()
        if name not in fits and not name.startswith(head)
    ]
    return (*new, *dropped)


def _without_prefix(own: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The file's tensors without the prefix that most of the network's names have there."""
    prefixes: Counter[str] = Counter()
    for name in weights:
        words = name.split(".")
        for suffix in (".".join(words[n:]) for n in range(len(words))):
            if suffix in own:
                prefixes[name.removesuffix(suffix)] += 1
    if not prefixes:
        return dict(weights)
    prefix = max(prefixes, key=lambda p: (prefixes[p], -len(p)))
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items()}


def _new(name: str, tensor: Tensor, other: Tensor | None, where: str) -> InputChange:
    because = f"{where} does not hold it"
    if other is not None:
        because = f"{where} holds it in another shape, {tuple(other.shape)}"
    return InputChange(
        tensor=name,
        fate="new",
        shape_before=None,
        shape_after=tuple(tensor.shape),
        before=None,
        because=because,
    )


def transferred_share(base_changes: Sequence[InputChange], module: nn.Module) -> float:
    """Share of a network's parameters, without its classifier, that come from the base model.

    Reshaped tensors count as transferred.

    >>> net = nn.Sequential(nn.Linear(3, 1, bias=False), nn.Linear(1, 1), nn.Linear(1, 9))
    >>> new = InputChange(tensor="1.bias", fate="new", shape_before=None, shape_after=(1,),
    ...     before=None, because="it is not in the file")
    >>> transferred_share((new,), net)
    0.8
    """
    head = f"{classifier_name(module)}."
    sizes = {n: p.numel() for n, p in module.named_parameters() if not n.startswith(head)}
    new = sum(sizes.get(c.tensor, 0) for c in base_changes if c.fate == "new")
    total = sum(sizes.values())
    return 1 - new / total if total else 1.0


def surgery_sentence(changes: Sequence[InputChange], share: float) -> str:
    """Surgery at the input in plain words; `share` is the `transferred_share`.

    >>> new = InputChange(tensor="out.weight", fate="new", shape_before=None, shape_after=(30, 20),
    ...     before=None, because="it is not in the file")
    >>> surgery_sentence((new,), 0.4)
    '1 layer, 600 of 1,000 parameters do not carry over: out. This is hardly a warm start.'
    """
    new = [c for c in changes if c.fate == "new"]
    renewed = {c.tensor for c in new}
    dropped = [c for c in changes if c.fate == "dropped" and c.tensor not in renewed]
    reshaped = [c for c in changes if c.fate == "reshaped"]
    sentences = []
    for because in dict.fromkeys(c.because for c in reshaped):
        same = [c for c in reshaped if c.because == because]
        sentences.append(f"{_layers(same)} reshaped ({_names(same)}): {because}.")
    lost = _size(new)
    if lost and share < 1:
        total = _count(round(lost / (1 - share)))
        sizes = f"{_count(lost)} of {total} parameters"
        sentences.append(f"{_layers(new)}, {sizes} do not carry over: {_names(new)}.")
    if dropped:
        sentences.append(
            f"{_layers(dropped)} of the base model, {_count(_size(dropped))} parameters, "
            f"{'have' if len(_grouped(dropped)) > 1 else 'has'} no place: {_names(dropped)}."
        )
    if sentences and share < HARDLY:
        sentences.append("This is hardly a warm start.")
    return " ".join(sentences)


def _size(changes: Iterable[InputChange]) -> int:
    return sum(
        math.prod(change.shape_after or change.shape_before or ())
        for change in changes
        if change.tensor.rpartition(".")[2] not in STATISTICS
    )


def _grouped(changes: Sequence[InputChange]) -> list[str]:
    """The layers that tensors belong to, each once."""
    return list(dict.fromkeys(c.tensor.rpartition(".")[0] or c.tensor for c in changes))


def _layers(changes: Sequence[InputChange]) -> str:
    n = len(_grouped(changes))
    return f"{n:,} layer{'' if n == 1 else 's'}"


def _names(changes: Sequence[InputChange]) -> str:
    names = _grouped(changes)
    return ", ".join(names[:_NAMED]) + (", …" if len(names) > _NAMED else "")


def _count(n: int) -> str:
    return f"{n / 1e6:.1f} M" if n >= 1_000_000 else f"{n:,}"
