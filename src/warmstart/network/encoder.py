"""Encoders that know their own parts: what they are cut into is designed, and needs no trace."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from warmstart.errors import ModelError, install_command
from warmstart.network.segments import SegmentSteps
from warmstart.nouns import nouns_of
from warmstart.records.inputs import Inputs
from warmstart.records.network import Layout

# ---- Designs of encoders that transformers builds, in one line: their kind and what is not usual.


_LEFT_OUT = (
    "architectures",
    "transformers_version",
    "dtype",
    "torch_dtype",
    "_name_or_path",
    "id2label",
    "label2id",
    "problem_type",
    "use_cache",
    "model_type",
    "return_dict",
)


def design(prefix: str, config: Mapping[str, Any], own: Mapping[str, Any]) -> str:
    """A kind, what differs from transformers' own defaults, and settings of our own.

    >>> design("text:", {"model_type": "bert", "hidden_size": 32}, {"pooling": "mean"})
    'text:bert{"hidden_size":32,"pooling":"mean"}'
    """
    kind = str(config["model_type"])
    known = _config(kind, {}).to_dict()
    told = {n: v for n, v in config.items() if n in known and known[n] != v and n not in _LEFT_OUT}
    told |= own
    return f"{prefix}{kind}{json.dumps(told, sort_keys=True, separators=(',', ':'))}"


def settings_of(arch: str, prefix: str, kinds: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """The kind that `design` named, and its settings.

    Raises: ModelError where the line is none of its, or of another kind than `kinds`.
    """
    kind, brace, rest = arch.removeprefix(prefix).partition("{")
    try:
        told = dict(json.loads(brace + rest or "{}"))
    except ValueError as error:
        raise ModelError(f"{arch} is no design of an encoder ({error}).") from error
    if kind not in kinds:
        raise ModelError(f"{kind!r} is no encoder that is read here; there are {', '.join(kinds)}.")
    return kind, told


def build_encoder(
    kind: str, told: Mapping[str, Any], *, is_drawn: bool = True, **options: Any
) -> tuple[Any, nn.Module]:
    """The configuration and the encoder with random weights; the global random state stays.

    Without `is_drawn` no weights are drawn that all are to be replaced: it takes half a second.
    Raises: ModelError if transformers is missing, or the design is none that it can build.
    """
    config = _config(kind, told)
    config._attn_implementation = "eager"  # rounds alike for every length of the filling
    library = load_transformers()
    try:
        with torch.random.fork_rng(devices=[]), nullcontext() if is_drawn else _Undrawn():
            found: nn.Module = library.AutoModel.from_config(config, **options)
    except Exception as error:  # the package raises what it likes of settings that make no sense
        raise _unbuilt(error) from error
    return config, found.float()


class _Undrawn(TorchFunctionMode):
    """Weights stay as the memory was."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        if getattr(func, "__name__", "") in _DRAWING:
            return args[0] if args else given["tensor"]
        return func(*args, **given)


_DRAWING = frozenset(
    (
        "normal_",
        "uniform_",
        "trunc_normal_",
        "kaiming_uniform_",
        "kaiming_normal_",
        "xavier_uniform_",
        "xavier_normal_",
    )
)


def _config(kind: str, told: Mapping[str, Any]) -> Any:
    library = load_transformers()
    try:
        return library.AutoConfig.for_model(kind, **told)
    except Exception as error:
        raise _unbuilt(error) from error


def _unbuilt(error: Exception) -> ModelError:
    reason = str(error).strip().partition("\n")[0][:160]
    return ModelError(f"the encoder cannot be built ({reason}); copy config.json again.")


def load_transformers() -> Any:
    """The library. Raises: ModelError saying what to install."""
    try:
        import transformers
    except ImportError:
        raise ModelError(
            f"encoders of texts and sounds need transformers; run `{install_command('text')}`."
        ) from None
    return transformers


def refused(taken: str, inputs: Inputs) -> ModelError:
    """What is raised for inputs of another kind than those that are `taken`."""
    given = nouns_of(inputs.kind).many
    return ModelError(f"the network takes {taken}, and its inputs are {given}.")


class Encoder(nn.Module):
    """Rows (B, n, …) to vectors (B, C); between its parts goes one tensor of one layout."""

    layout: ClassVar[Layout]

    @abstractmethod
    def window_of(self, inputs: Inputs) -> int:
        """How much of a row passes at a time. Raises: ModelError for inputs of another kind."""

    @abstractmethod
    def steps(self, window: int) -> SegmentSteps:
        """Its parts in order, for rows of which so much passes at a time.

        Raises: ModelError where that is too little for any output.
        """

    def forward(self, inputs: Tensor) -> Tensor:
        """Rows (B, n, …), each passing as a whole, to (B, C)."""
        steps = self.steps(inputs.shape[1])
        for step in (*steps.blocks, steps.neck):
            inputs = step.run(self, inputs)
        return inputs
