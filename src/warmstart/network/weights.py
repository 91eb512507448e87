"""Weights from a file: read without running code, unwrapped, checked name by name."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from warmstart.errors import ModelError
from warmstart.network.weight_file import Mapped, map_file, release

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")
_WRAPPERS = ("state_dict", "model_state_dict", "model", "module", "net")
_PREFIXES = ("module.", "_orig_mod.", "model.")

Weights = dict[str, Tensor]


def read_weights(path: Path) -> Weights:
    """Read a state dict from .safetensors, .pt, .pth or .bin; no code in the file is run.

    Common wrappers ({"state_dict": …}, {"model": …}) and prefixes ("module." of data
    parallel training) are removed.
    Raises: ModelError if the file is missing, damaged, holds code, or holds no weights.
    """
    if not path.is_file():
        raise ModelError(f"{path} does not exist; check the path of the weights.")
    if path.suffix not in SUFFIXES:
        raise ModelError(f"{path.name}: weights are read from {', '.join(SUFFIXES)} only.")
    weights = _unwrap(_read_safetensors(path) if path.suffix == SUFFIXES[0] else _read_pickle(path))
    if not isinstance(weights, Mapping) or not weights:
        raise ModelError(f"{path.name} holds no weights; save `model.state_dict()` into it.")
    for name, value in weights.items():
        if not isinstance(value, Tensor):
            raise ModelError(
                f"{path.name}: {name!r} is a {type(value).__name__}, not a tensor; "
                "save `model.state_dict()` alone."
            )
    return _without_prefix({str(name): value for name, value in weights.items()})


def map_weights(path: Path) -> Weights:
    """As `read_weights`, with large tensors memory-mapped: each is read when it is used.

    Raises: ModelError for any other file than .safetensors, a damaged one, or weights that are
    not float32.
    """
    if path.suffix != ".safetensors" or not path.is_file():
        raise ModelError(
            f"{path.name}: only a .safetensors file can be streamed; save the weights as one, or "
            "use --set training.offload=false."
        )
    try:
        weights = _without_prefix(map_file(path))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(path, error) from error
    for name, tensor in weights.items():
        if isinstance(tensor, Mapped) and tensor.dtype != torch.float32:
            raise ModelError(
                f"{path.name}: {name} is {str(tensor.dtype).removeprefix('torch.')}, but streamed "
                "weights are used without conversion; save the weights as float32."
            )
    return weights


def _read_safetensors(path: Path) -> Any:
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise _damaged(path, error) from error


def _read_pickle(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, pickle.UnpicklingError) as error:
        if any(word in str(error) for word in ("Unsupported", "TorchScript", "blocked")):
            raise ModelError(
                f"{path.name} holds code, not only weights; it was not opened. "
                "Save `model.state_dict()` with safetensors."
            ) from error
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> ModelError:
    reason = str(error).strip().splitlines()[:1] or [type(error).__name__]
    return ModelError(
        f"{path.name} is damaged or cut short ({reason[0][:120]}); copy or download it again."
    )


def _unwrap(content: Any) -> Any:
    for key in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            return _unwrap(content[key])
    return content


def _without_prefix(weights: Weights) -> Weights:
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in weights):
            return _without_prefix({n.removeprefix(prefix): t for n, t in weights.items()})
    return weights


def check_match(
    expected: Mapping[str, Tensor],
    weights: Mapping[str, Tensor],
    where: str,
    cure: str = "check --arch",
) -> None:
    """Compare names and shapes; `where` names the file in the message, `cure` ends it.

    Raises: ModelError at the first tensor that is missing, extra or of another shape.

    >>> check_match({"w": torch.zeros(2)}, {"w": torch.zeros(3)}, "best.pt")
    Traceback (most recent call last):
    warmstart.errors.ModelError: best.pt: w has shape (3,), the network needs (2,); check --arch.
    """
    for name, tensor in expected.items():
        if name not in weights:
            raise ModelError(f"{where}: {name} is missing; {cure}.")
        if weights[name].shape != tensor.shape:
            raise ModelError(
                f"{where}: {name} has shape {tuple(weights[name].shape)}, "
                f"the network needs {tuple(tensor.shape)}; {cure}."
            )
    for name in weights:
        if name not in expected:
            raise ModelError(f"{where}: {name} is not in the network; {cure}.")


def check_finite(weights: Mapping[str, Tensor], where: str) -> None:
    """Refuse NaN and infinity.

    Raises: ModelError naming the first tensor that holds one.

    >>> check_finite({"w": torch.tensor([float("nan")])}, "best.pt")
    Traceback (most recent call last):
    warmstart.errors.ModelError: best.pt: w holds NaN or infinity; use an earlier checkpoint.
    """
    for name, tensor in weights.items():
        # A finite sum rules both out; one that is not finite may only have overflowed.
        if not bool(torch.isfinite(tensor.sum())) and not bool(torch.isfinite(tensor).all()):
            raise ModelError(f"{where}: {name} holds NaN or infinity; use an earlier checkpoint.")
        release(tensor)


def match_by_order(
    expected: Mapping[str, Tensor], weights: Mapping[str, Tensor], where: str
) -> Weights:
    """`weights` under the names of `expected`, matched by position.

    For weights of the same architecture published under other names.
    Raises: ModelError at the first tensor whose shape differs, or when the counts differ.

    >>> list(match_by_order({"a": torch.zeros(2)}, {"x": torch.ones(2)}, "lite0"))
    ['a']
    """
    for (name, tensor), (other, value) in zip(expected.items(), weights.items(), strict=False):
        if tensor.shape != value.shape:
            raise ModelError(
                f"{where}: {other} has shape {tuple(value.shape)}, "
                f"{name} needs {tuple(tensor.shape)}; install the package again."
            )
    if len(expected) != len(weights):
        raise ModelError(
            f"{where}: {len(weights)} tensors, the network has {len(expected)}; "
            "install the package again."
        )
    return dict(zip(expected, weights.values(), strict=True))
