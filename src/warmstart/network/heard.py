"""What all encoders of sounds share: clips come in as samples, a vector each goes out."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from warmstart.errors import StartError
from warmstart.network.encoder import Encoder, refused
from warmstart.network.segment import Run, Step, Steps
from warmstart.records import Inputs, WaveInputs


class ClipEncoder(Encoder):
    """An encoder without its output layers: samples (B, n) to vectors (B, C)."""

    layout = "NLC"

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def window_of(self, inputs: Inputs) -> int:
        """Samples of a clip, which passes as a whole. Raises: StartError for no samples."""
        if not isinstance(inputs, WaveInputs):
            raise refused("clips", inputs)
        return inputs.shape[0]

    @abstractmethod
    def steps(self, window: int) -> Steps:
        """Its parts; `window`: samples of a clip."""


def too_short(samples: int) -> StartError:
    """What is raised where so few samples make not a single frame."""
    return StartError(
        f"clips of {samples:,} samples are too short for this encoder's convolutions; raise "
        "input.seconds."
    )


def layers_of(
    name: str, n: int, given: Callable[[nn.Module, Tensor], dict[str, Any]], shared: str = ""
) -> list[Step]:
    """Steps "layer.1" and so on for the modules `name`.0 and so on.

    `given`: what a layer is told besides its input; `shared`: a module that all of them read.
    """
    also = (shared,) if shared else ()
    return [
        Step(f"layer.{k + 1}", _layer(f"{name}.{k}", given), (f"{name}.{k}", *also), ())
        for k in range(n)
    ]


def _layer(name: str, given: Callable[[nn.Module, Tensor], dict[str, Any]]) -> Run:
    def run(network: nn.Module, hidden: Tensor) -> Tensor:
        found: Any = network.get_submodule(name)(hidden, **given(network, hidden))
        return found[0] if isinstance(found, tuple) else found  # type: ignore[no-any-return]

    return run


def ended(parts: list[Step], neck: Step) -> Steps:
    """Parts and what makes a vector of the last one's frames; nothing comes after that."""
    return Steps(tuple(parts), neck, None, Step("finish", lambda _, x: x, (), ()))
