"""Who owns each tensor of any module: ordered parts, then the output.

A network that takes images is cut as for `fit`, along what its forward does. Any other is
read from how it is built, without running it: blocks of one class in a row are parts.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from warmstart.errors import PlanError, StartError
from warmstart.network.architectures import IMAGENET, config_of, preprocessing_from
from warmstart.network.family import find_family
from warmstart.network.partition import Network, cut
from warmstart.network.structure import OUTPUT, built
from warmstart.network.tensors import place, unique_tensors
from warmstart.records.inputs import Preprocessing
from warmstart.records.network import Family
from warmstart.records.plan import Plan

UNUSED = "unused"
Shape = tuple[int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sections:
    """The parts of a module, and the owner of each of its tensors.

    `owners` holds every name of `unique_tensors`; an owner is one of `names`, "output", or
    "unused" for what forward never reads.
    """

    names: tuple[str, ...]  # parts 1..P, from the input to the output
    owners: dict[str, str]
    family: Family
    n_outputs: int | None  # numbers that the output layer gives, None where there is none
    shape: Shape | None  # (C, H, W) of the inputs it was run on; None: it was not run


def sections(
    module: nn.Module, inputs: Any = None, preprocessing: Preprocessing | None = None
) -> Sections:
    """Part any module; nothing in it is changed, its modes and gradient flags included.

    `inputs` is a batch as the network takes it: a tensor (B, C, H, W), or a mapping that
    holds one. Without it the size is what the network's own configuration says, else 3×224×224.
    A network that does not take such inputs is parted by how it is built.

    Raises: StartError if the module has no tensors.

    >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 2))
    >>> found = sections(net, inputs=torch.zeros(1, 4))
    >>> found.names, found.owners["3.weight"], found.n_outputs
    (('0', '2'), 'output', 2)
    """
    if not unique_tensors(module):
        raise StartError(f"{type(module).__name__} has no tensors; there is nothing to train.")
    prep = preprocessing or _preprocessing(module, inputs)
    found = _followed(module, prep) if prep is not None else None
    if found is None or len(found.names) == 1:
        made = _made(module)
        found = made if found is None or len(made.names) > 1 else found
    return found


def sections_for(module: nn.Module, plan: Plan) -> Sections:
    """The parts of a module as a plan names them.

    Raises: PlanError if the plan was made for another network.
    """
    wanted = tuple(part.name for part in plan.parts)
    for found in _ways(module, plan):
        if (*found.names, OUTPUT) == wanted:
            return found
    lost = [name for name in wanted if name not in (*found.names, OUTPUT)]
    what = f"no part {lost[0]!r}" if lost else f"{len(found.names)} parts, not {len(wanted) - 1}"
    raise PlanError(
        f"the plan was made for another network: this {type(module).__name__} has {what}; "
        "make a plan for it with warmstart.plan(network)."
    )


def _ways(module: nn.Module, plan: Plan) -> Iterator[Sections]:
    """The ways a module could have been parted when the plan was made, the likelier first."""
    if plan.input is not None:
        size: Any = plan.input.size.value
        sides = tuple(size) if isinstance(size, tuple) else (size, size)
        yield sections(module, preprocessing=_plain(int(plan.input.channels.number), sides))
    else:
        yield _made(module)
        yield sections(module)


def _preprocessing(module: nn.Module, inputs: Any) -> Preprocessing | None:
    """What images to run it on; None where it takes none."""
    if inputs is not None:
        images = _images(inputs)
        return None if images is None else _plain(images.shape[1], tuple(images.shape[2:]))
    if config := config_of(module):
        return preprocessing_from(config)
    own = getattr(module, "config", None)  # as transformers' networks carry it
    side, channels = getattr(own, "image_size", None), getattr(own, "num_channels", None)
    if side is not None:
        sides = (side, side) if isinstance(side, int) else tuple(side)
        return _plain(channels or 3, sides)
    if getattr(module, "main_input_name", "pixel_values") != "pixel_values":
        return None
    stem = next((m for m in module.modules() if isinstance(m, nn.Conv2d)), None)
    return _plain(stem.in_channels if stem else 3, IMAGENET.size)


def _images(inputs: Any) -> Tensor | None:
    values = inputs.values() if isinstance(inputs, Mapping) else (inputs,)
    tensors = [v for v in values if isinstance(v, Tensor) and v.is_floating_point()]
    return next((v for v in tensors if v.ndim == 4), None)


def _plain(channels: int, sides: tuple[int, ...]) -> Preprocessing:
    half = (0.5,) * channels
    return Preprocessing(size=(sides[0], sides[1]), resize=min(sides), mean=half, std=half)


def _followed(module: nn.Module, prep: Preprocessing) -> Sections | None:
    """Parts by what forward does; None where it cannot be run on such images."""
    try:
        with torch.random.fork_rng(devices=[]):  # a forward may draw
            # A copy: a forward may also count its calls, or compute in half precision elsewhere.
            network = cut(copy.deepcopy(module).cpu().float(), prep)
    except Exception:  # somebody else's forward: it may raise anything
        return None
    names = tuple(_free(part.name) for part in network.parts)
    owners = _owners_in(module, network, names)
    return _sections(module, names, owners, (prep.channels, *prep.size))


def _free(name: str) -> str:
    """A part's name that is not one of the words for other owners."""
    return f"{name}#1" if name in (OUTPUT, UNUSED) else name


def _owners_in(module: nn.Module, network: Network, names: tuple[str, ...]) -> dict[str, str]:
    """Owners under the module's own first names; a cut may know a tied tensor by another."""
    others = {"neck": names[-1], "head": OUTPUT, UNUSED: UNUSED}
    known = {name: others.get(owner) or _free(owner) for name, owner in network.owners.items()}
    return {
        first: next((known[name] for name in names if name in known), UNUSED)
        for first, names in aliases(module).items()
    }


def _made(module: nn.Module) -> Sections:
    """Parts by how the module is built."""
    names, owner_of = built(module)
    order = (*names, OUTPUT)
    owners = {  # a tied tensor belongs to the first part that has it
        first: min((owner_of[name] for name in same), key=order.index)
        for first, same in aliases(module).items()
    }
    alive = tuple(name for name in names if name in owners.values())
    return _sections(module, alive, owners, None)


def aliases(module: nn.Module) -> dict[str, list[str]]:
    """For each name in `unique_tensors`, all names of that tensor."""
    first = {place(tensor): name for name, tensor in unique_tensors(module).items()}
    found: dict[str, list[str]] = {name: [] for name in first.values()}
    for name, tensor in module.state_dict(keep_vars=True).items():
        if isinstance(tensor, Tensor):
            found[first[place(tensor)]].append(name)
    return found


def _sections(
    module: nn.Module, names: tuple[str, ...], owners: dict[str, str], shape: Shape | None
) -> Sections:
    blank = Sections(
        names=names, owners=owners, family=find_family(module), n_outputs=None, shape=shape
    )
    tensors = unique_tensors(module)
    last = [tensors[name] for name, owner in owners.items() if owner == OUTPUT]
    matrices = [tensor for tensor in last if tensor.ndim > 1]
    return replace(blank, n_outputs=len(matrices[-1])) if matrices else blank
