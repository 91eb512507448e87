"""Partial loading: weights that fit are loaded, the others are listed as lost."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from warmstart.errors import ModelError
from warmstart.network.architectures import classifier_name
from warmstart.network.weights import STATISTICS, input_change, place, unique_tensors
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
    """
    state = module.state_dict(keep_vars=True)
    weights = _without_prefix(state, weights)
    head = f"{classifier_name(module)}."
    fits = {n: t for n, t in weights.items() if n in state and state[n].shape == t.shape}
    if all(name.startswith(head) for name in fits):
        raise ModelError(
            f"{where}: no tensor fits {type(module).__name__} by name and shape; check --arch."
        )
    loaded = {place(state[name]) for name in fits}
    module.load_state_dict({**module.state_dict(), **fits})
    changes = []
    for name, tensor in unique_tensors(module).items():
        if place(tensor) not in loaded and not name.startswith(head):
            because = f"{where} does not hold it"
            if name in weights:
                shape = tuple(weights[name].shape)
                because = f"{where} holds it in another shape, {shape}"
            changes.append(input_change(name, None, tensor, because))
    for name, tensor in weights.items():
        if name not in fits and not name.startswith(head):
            because = f"the network has {'it in another shape' if name in state else 'no such'}"
            changes.append(input_change(name, tensor, None, because))
    return tuple(changes)


def _without_prefix(
    state: Mapping[str, Tensor], weights: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The file's tensors without the prefix that most of the network's names have there."""
    prefixes: Counter[str] = Counter()
    for name in weights:
        words = name.split(".")
        for suffix in (".".join(words[n:]) for n in range(len(words))):
            if suffix in state:
                prefixes[name.removesuffix(suffix)] += 1
    if not prefixes:
        return dict(weights)
    prefix = max(prefixes, key=lambda p: (prefixes[p], -len(p)))
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items()}


def transferred_share(base_changes: Sequence[InputChange], module: nn.Module) -> float:
    """Share of a network's parameters, without its classifier, that come from the base model.

    Reshaped tensors count as transferred.
    """
    head = f"{classifier_name(module)}."
    sizes = {n: p.numel() for n, p in module.named_parameters() if not n.startswith(head)}
    new = sum(sizes.get(c.tensor, 0) for c in base_changes if c.fate == "new")
    total = sum(sizes.values())
    return 1 - new / total if total else 1.0


def surgery_sentence(changes: Sequence[InputChange], share: float) -> str:
    """Surgery at the input in plain words; `share` is the `transferred_share`."""
    new = [c for c in changes if c.fate == "new"]
    renewed = {c.tensor for c in new}
    dropped = [c for c in changes if c.fate == "dropped" and c.tensor not in renewed]
    reshaped = [c for c in changes if c.fate == "reshaped"]
    sentences = []
    for because in dict.fromkeys(c.because for c in reshaped):
        same = [c for c in reshaped if c.because == because]
        n, names = _layers(same)
        sentences.append(f"{n} reshaped ({names}): {because}.")
    if (lost := _size(new)) and share < 1:
        n, names = _layers(new)
        total = _count(round(lost / (1 - share)))
        sizes = f"{_count(lost)} of {total} parameters"
        sentences.append(f"{n}, {sizes} do not carry over: {names}.")
    if dropped:
        n, names = _layers(dropped)
        verb = "has" if n == "1 layer" else "have"
        sizes = f"{_count(_size(dropped))} parameters"
        sentences.append(f"{n} of the base model, {sizes}, {verb} no place: {names}.")
    if sentences and share < HARDLY:
        sentences.append("This is hardly a warm start.")
    return " ".join(sentences)


def _size(changes: Sequence[InputChange]) -> int:
    weights = [c for c in changes if c.tensor.rpartition(".")[2] not in STATISTICS]
    return sum(math.prod(c.shape_after or c.shape_before or ()) for c in weights)


def _layers(changes: Sequence[InputChange]) -> tuple[str, str]:
    """Number of the layers that tensors belong to, and the names of the first ones."""
    names = list(dict.fromkeys(c.tensor.rpartition(".")[0] or c.tensor for c in changes))
    number = f"{len(names):,} layer{'' if len(names) == 1 else 's'}"
    return number, ", ".join(names[:_NAMED]) + (", …" if len(names) > _NAMED else "")


def _count(n: int) -> str:
    return f"{n / 1e6:.1f} M" if n >= 1_000_000 else f"{n:,}"
