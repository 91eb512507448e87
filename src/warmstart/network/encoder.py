"""Encoders of transformers: built from one line, with their blocks by design, without a trace."""

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
from warmstart.network.segments import SegmentStep, SegmentSteps
from warmstart.nouns import nouns_of
from warmstart.records.inputs import Inputs
from warmstart.records.network import Layout

# ---- Architectures of encoders in one line: their kind and the settings that are not defaults.


Settings = Mapping[str, Any]
_OMITTED = (
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
# As modules were called before transformers 5, and still are in its files.
RENAMED_ATTENTION = {
    "attention.attention.query": "attention.q_proj",
    "attention.attention.key": "attention.k_proj",
    "attention.attention.value": "attention.v_proj",
    "attention.output.dense": "attention.o_proj",
}
RENAMED_VIT = {
    "encoder.layer.": "layers.",
    **RENAMED_ATTENTION,
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
}


def design(prefix: str, config: Settings, own: Settings) -> str:
    """A kind, its differences from transformers' defaults, and settings of our own.

    >>> design("text:", {"model_type": "bert", "hidden_size": 32}, {"pooling": "mean"})
    'text:bert{"hidden_size":32,"pooling":"mean"}'
    """
    kind = str(config["model_type"])
    usual = _config(kind, {}).to_dict()
    settings = {n: v for n, v in config.items() if n in usual and usual[n] != v}
    settings = {n: v for n, v in settings.items() if n not in _OMITTED} | dict(own)
    return f"{prefix}{kind}{json.dumps(settings, sort_keys=True, separators=(',', ':'))}"


def settings_of(arch: str, prefix: str, kinds: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """The kind in a line of `design`, and its settings.

    Raises: ModelError for another line, or another kind than `kinds`.
    """
    kind, brace, rest = arch.removeprefix(prefix).partition("{")
    try:
        settings = dict(json.loads(brace + rest or "{}"))
    except ValueError as error:
        raise ModelError(f"{arch} is no design of an encoder ({error}).") from error
    if kind not in kinds:
        raise ModelError(f"encoder {kind!r} is not supported; choose one of {', '.join(kinds)}.")
    return kind, settings


def build_encoder(
    kind: str, settings: Settings, *, is_random: bool = True, **options: Any
) -> tuple[Any, nn.Module]:
    """Configuration and encoder with random weights; the global random state stays unchanged.

    Without `is_random` weights are not initialised, as all will be replaced: that saves half a
    second. Raises: ModelError if transformers is missing, or cannot build it.
    """
    config = _config(kind, settings)
    config._attn_implementation = "eager"  # rounds alike for every length of padding
    library = load_transformers()
    try:
        with torch.random.fork_rng(devices=[]), nullcontext() if is_random else _NoInit():
            encoder: nn.Module = library.AutoModel.from_config(config, **options)
    except Exception as error:  # the package may raise anything at settings that make no sense
        raise _unbuilt(error) from error
    return config, encoder.float()


class _NoInit(TorchFunctionMode):
    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__name__", "") in _INITIALISERS:
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


_INITIALISERS = frozenset(
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


def _config(kind: str, settings: Settings) -> Any:
    library = load_transformers()
    try:
        return library.AutoConfig.for_model(kind, **settings)
    except Exception as error:
        raise _unbuilt(error) from error


def _unbuilt(error: Exception) -> ModelError:
    reason = str(error).strip().partition("\n")[0][:160]
    return ModelError(f"the encoder cannot be built ({reason}); copy config.json again.")


def load_transformers() -> Any:
    """The transformers library. Raises: ModelError with the command that installs it."""
    try:
        import transformers
    except ImportError:
        raise ModelError(
            f"encoders of texts and sounds need transformers; run `{install_command('text')}`."
        ) from None
    return transformers


def wrong_inputs(expected: str, inputs: Inputs) -> ModelError:
    """The error for inputs of another kind than `expected`."""
    return ModelError(
        f"the network takes {expected}, and its inputs are {nouns_of(inputs.kind).many}."
    )


def encoder_steps(blocks: Sequence[SegmentStep], neck: SegmentStep) -> SegmentSteps:
    """Blocks and the neck that pools the last one's output; nothing follows."""
    return SegmentSteps(tuple(blocks), neck, None, SegmentStep("finish", lambda _, x: x, (), ()))


class Encoder(nn.Module):
    """Rows (B, n, …) to vectors (B, C); between blocks passes one tensor of one layout."""

    layout: ClassVar[Layout]

    @abstractmethod
    def window_of(self, inputs: Inputs) -> int:
        """Length of a row that is encoded at once. Raises: ModelError for other inputs."""

    @abstractmethod
    def steps(self, window: int) -> SegmentSteps:
        """The blocks in order, for windows of that length.

        Raises: ModelError where that is too short for any output.
        """

    def forward(self, inputs: Tensor) -> Tensor:
        """Rows (B, n, …), each encoded at once, to (B, C)."""
        steps = self.steps(inputs.shape[1])
        for step in (*steps.blocks, steps.neck):
            inputs = step.run(self, inputs)
        return inputs
