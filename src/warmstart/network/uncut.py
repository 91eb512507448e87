"""What needs no trace: the probe, the classifier found by watching, and a network in one piece."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from warmstart.errors import StartError
from warmstart.network.segments import Step, Steps
from warmstart.records.inputs import Inputs, Preprocessing, TensorInputs, TextInputs


def probe(preprocessing: Inputs) -> Tensor:
    """Three examples of noise (3, C, H, W), the same on every call; texts: (3, L) numbers.

    Rows, tensors and waveforms: (3, …), whole numbers within what the data hold.

    >>> from warmstart.records import Preprocessing
    >>> probe(Preprocessing(size=(8, 8), resize=8, mean=(0.5,), std=(0.5,))).shape
    torch.Size([3, 1, 8, 8])
    """
    generator = torch.Generator().manual_seed(0)
    if isinstance(preprocessing, TextInputs):
        tokens = torch.randint(
            preprocessing.vocabulary, (3, preprocessing.length), generator=generator
        )
        return tokens.where(
            tokens != preprocessing.pad, (preprocessing.pad + 1) % preprocessing.vocabulary
        )
    if isinstance(preprocessing, TensorInputs) and "int" in preprocessing.dtype:
        low, high = int(preprocessing.low), int(preprocessing.high)
        whole = torch.randint(low, high + 1, (3, *preprocessing.shape), generator=generator)
        return whole.to(getattr(torch, preprocessing.dtype))
    if isinstance(preprocessing, Preprocessing):
        shape: tuple[int, ...] = (preprocessing.channels, *preprocessing.size)
    else:
        shape = preprocessing.shape
    return torch.randn(3, *shape, generator=generator)


def find_classifier(module: nn.Module, inputs: Tensor) -> tuple[Tensor, str | None]:
    """Run a network once; return its outputs (B, …) and the name of its classifier.

    The classifier is the last module with parameters that was called, if it is a Linear or
    1×1 convolution that saw one vector an example.

    Raises: StartError if the network does not take such inputs, or returns no tensor.
    """
    called: list[tuple[str, tuple[Any, ...]]] = []
    hooks = [
        child.register_forward_pre_hook(lambda _, args, name=name: called.append((name, args)))
        for name, child in module.named_modules()
        if next(child.parameters(recurse=False), None) is not None
    ]
    try:
        outputs = as_tensor(module(inputs.clone()))  # a network may work in place
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise StartError(
            f"{type(module).__name__} cannot take inputs of shape {tuple(inputs.shape[1:])} "
            f"({reason[:160]}); pass the right preprocessing."
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    if outputs.ndim < 2 or len(outputs) != len(inputs) or not outputs.is_floating_point():
        raise StartError(
            f"{type(module).__name__} gives {tuple(outputs.shape)} for {len(inputs)} inputs; "
            "a start gives one row of numbers for each."
        )
    name, args = called[-1] if called else ("", ())
    return outputs, name if name and _is_classifier(module.get_submodule(name), args) else None


def _is_classifier(layer: nn.Module, args: Sequence[Any]) -> bool:
    if len(args) != 1 or not isinstance(args[0], Tensor):
        return False
    is_pointwise = isinstance(layer, nn.Conv2d) and set(layer.kernel_size) == {1}
    is_linear = isinstance(layer, nn.Linear) and args[0].ndim == 2
    return is_linear or (is_pointwise and args[0].ndim == 4 and set(args[0].shape[2:]) == {1})


def as_tensor(output: Any) -> Tensor:
    """The logits in what a network returned: a tensor, a tuple, a dict, or an object.

    Raises: StartError if there is none.

    >>> as_tensor({"logits": torch.ones(1, 2)}).shape
    torch.Size([1, 2])
    """
    if isinstance(output, Tensor):
        return output
    for name in ("logits", "out"):
        found = output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)
        if isinstance(found, Tensor):
            return found
    values = output.values() if isinstance(output, Mapping) else output
    if isinstance(output, (Mapping, tuple, list)):
        for value in values:
            if isinstance(value, Tensor):
                return value
    raise StartError(
        f"the network returns a {type(output).__name__} without logits; "
        "wrap it in a module that returns one tensor."
    )


def whole(classifier: str | None) -> Steps:
    """Steps of a network that stays in one piece; run them on it without its classifier."""
    identity = Step("neck", lambda network, x: x, (), ())
    part = Step("whole", lambda network, x: as_tensor(network(x)).flatten(1), ("",), ())
    return Steps((part,), identity, classifier, identity)


def is_same(found: Tensor, expected: Tensor) -> bool:
    """Whether two results agree to float32 rounding, relative to the largest value.

    >>> is_same(torch.ones(2), torch.ones(2) + 1e-7), is_same(torch.ones(2), torch.zeros(2))
    (True, False)
    """
    if found.shape != expected.shape:
        return False
    scale = float(expected.abs().nan_to_num().amax()) if expected.numel() else 0.0
    return torch.allclose(found, expected, rtol=1e-5, atol=1e-6 * max(1.0, scale), equal_nan=True)
