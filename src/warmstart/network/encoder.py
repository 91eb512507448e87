"""Encoders of transformers: built from one line, with their blocks by design, without a trace."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from warmstart.errors import ModelError, first_line, install_command
from warmstart.modalities.modality import Modality
from warmstart.modalities.registry import MODALITIES
from warmstart.network.segments import Run, SegmentStep, SegmentSteps
from warmstart.records.inputs import Inputs
from warmstart.records.network import Layout

Settings = Mapping[str, Any]
_OMITTED = (
    "architectures transformers_version dtype torch_dtype _name_or_path id2label label2id "
    "problem_type use_cache model_type return_dict"
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


def design(prefix: str, config: Settings, extra: Settings) -> str:
    """An architecture in one line: its kind, what differs from transformers' defaults, `extra`.

    >>> design("text:", {"model_type": "bert", "hidden_size": 32}, {"pooling": "mean"})
    'text:bert{"hidden_size":32,"pooling":"mean"}'
    """
    kind = str(config["model_type"])
    defaults = _config(kind, {}).to_dict()
    changed = {n: v for n, v in config.items() if n in defaults and defaults[n] != v}
    settings = {n: v for n, v in changed.items() if n not in _OMITTED.split()} | dict(extra)
    return f"{prefix}{kind}{json.dumps(settings, sort_keys=True, separators=(',', ':'))}"


def settings_of(arch: str, prefix: str, kinds: Collection[str]) -> tuple[str, dict[str, Any]]:
    """The kind in a line of `design`, and its settings. Raises: ModelError for another kind."""
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

    Without `is_random` weights are not initialised: that saves half a second, if all are replaced.
    Raises: ModelError if transformers is missing, or cannot build it.
    """
    config = _config(kind, settings)
    config._attn_implementation = "eager"  # rounds alike for every length of padding
    initialising = nullcontext() if is_random else _NoInit()
    with _transformers() as library, torch.random.fork_rng(devices=[]), initialising:
        encoder: nn.Module = library.AutoModel.from_config(config, **options)
    return config, encoder.float()


class _NoInit(TorchFunctionMode):
    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__name__", "").endswith(("normal_", "uniform_")):
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


def _config(kind: str, settings: Settings) -> Any:
    with _transformers() as library:
        return library.AutoConfig.for_model(kind, **settings)


@contextmanager
def _transformers() -> Iterator[Any]:
    """The library; whatever it raises at senseless settings becomes a ModelError."""
    library = load_transformers()
    try:
        yield library
    except Exception as error:
        raise ModelError(
            f"the encoder cannot be built ({first_line(error)}); copy config.json again."
        ) from error


def load_transformers() -> Any:
    """The transformers library. Raises: ModelError with the command that installs it."""
    try:
        import transformers
    except ImportError as error:
        raise ModelError(
            f"this model needs the transformers library; run `{install_command('text')}`."
        ) from error
    return transformers


def layers_of(
    path: str,
    n_layers: int,
    options: Callable[[nn.Module, Tensor], Mapping[str, Any]] = lambda _, __: {},
    shared: Sequence[str] = (),
) -> list[SegmentStep]:
    """Steps "layer.1" and so on for the modules `path`.0 and so on.

    `options`: a layer's arguments besides its input; `shared`: modules that all layers read.
    """

    def layer(name: str) -> Run:
        def run(network: nn.Module, hidden: Tensor) -> Tensor:
            output: Any = network.get_submodule(name)(hidden, **options(network, hidden))
            return cast(Tensor, output[0] if isinstance(output, tuple) else output)

        return run

    names = [f"{path}.{k}" for k in range(n_layers)]
    return [
        SegmentStep(f"layer.{k}", layer(name), (name, *shared), ())
        for k, name in enumerate(names, start=1)
    ]


def encoder_steps(blocks: Sequence[SegmentStep], pool: Run, modules: Sequence[str]) -> SegmentSteps:
    """Blocks and a neck that pools the last one's output with `modules`; nothing follows."""
    neck = SegmentStep("neck", pool, tuple(modules), ())
    return SegmentSteps(tuple(blocks), neck, None, SegmentStep("finish", lambda _, x: x, (), ()))


class Encoder(nn.Module):
    """An encoder without its output layers: rows (B, n, …) to vectors (B, C).

    Between blocks passes one tensor of one layout.
    """

    layout: ClassVar[Layout]
    modality: ClassVar[Modality[Any]]

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def window_of(self, inputs: Inputs) -> int:
        """Length of a row that is encoded at once. Raises: ModelError for other inputs."""
        if inputs.kind != self.modality.kind:
            raise ModelError(
                f"the network takes {self.modality.nouns.many}, and its inputs are "
                f"{MODALITIES[inputs.kind].nouns.many}."
            )
        return self.modality.window(inputs)

    @abstractmethod
    def steps(self, window: int) -> SegmentSteps:
        """The blocks for windows of that length. Raises: ModelError where that is too short."""

    def forward(self, inputs: Tensor) -> Tensor:
        steps = self.steps(inputs.shape[1])
        for step in (*steps.blocks, steps.neck):
            inputs = step.run(self, inputs)
        return inputs
