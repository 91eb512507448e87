"""Surgery: the trunk keeps its tensors, a new head reads its taps."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from warmstart.errors import StartError
from warmstart.network.added import graft, make_block
from warmstart.network.arch import build
from warmstart.network.beside import put_beside
from warmstart.network.listening import build_wave
from warmstart.network.parts import Network, cut
from warmstart.network.positions import refit_size
from warmstart.network.stem import refit
from warmstart.network.tabular import build_table
from warmstart.network.taps import Scan, plan_scan
from warmstart.network.tensors import unique_tensors
from warmstart.network.texts import build_text
from warmstart.network.vision import PREFIX as VISION
from warmstart.network.vision import build_vision
from warmstart.network.weights import check_finite, check_match
from warmstart.records import Inputs, Preprocessing, TableInputs, Tap, WaveInputs
from warmstart.weightfile import Mapped


class TapHead(nn.Module):
    """The linear head on concatenated taps, with its calibration:

    logits = temperature · (W · concat(taps) + b) + class_bias
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor,
        temperature: float | Tensor = 1.0,
        class_bias: Tensor | None = None,
    ) -> None:
        """weight (K, D), bias (K,), class_bias (K,); copied to float32."""
        super().__init__()
        self.weight = nn.Parameter(_copied(weight))
        self.bias = nn.Parameter(_copied(bias))
        self.temperature: Tensor
        self.class_bias: Tensor
        self.register_buffer("temperature", _copied(torch.as_tensor(temperature)))
        shift = torch.zeros(len(bias)) if class_bias is None else class_bias
        self.register_buffer("class_bias", _copied(shift))

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Taps, each (B, d_t) with Σ d_t = D, to logits (B, K)."""
        scores = nn.functional.linear(torch.cat(list(features), dim=1), self.weight, self.bias)
        return self.temperature * scores + self.class_bias


class WarmModel(nn.Module):
    """Trunk and new head in one network: normalised inputs (B, C, H, W) to logits (B, K).

    State dict: `trunk.<original name>` for all tensors but the old classifier's, and `head.*`.
    """

    def __init__(self, trunk: nn.Module, scan: Scan, head: TapHead) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = head
        self.scan = scan

    def features(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """What the head sees: one (B, d) per tap."""
        return self.scan.run(self.trunk, inputs)

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs (B, C, H, W), normalised, to logits (B, K)."""
        logits: Tensor = self.head(self.features(inputs))
        return logits


def assemble(
    network: Network,
    taps: Sequence[Tap],
    weight: Tensor,
    bias: Tensor,
    temperature: float | Tensor = 1.0,
    class_bias: Tensor | None = None,
) -> WarmModel:
    """Join a cut network and a fitted head; the trunk's tensors are shared and frozen.

    What is to be trained is thawed after that, by `freeze.apply`.

    Shapes: weight (K, D) with D the sum of the taps' widths, bias and class_bias (K,).
    Raises: StartError if the head does not fit the taps.

    >>> from warmstart.network.load import load
    >>> start = load("lite0")
    >>> network = cut(start.module, start.record.preprocessing)
    >>> model = assemble(network, [Tap(part=18, pool="neck")], torch.zeros(3, 1280), torch.zeros(3))
    >>> model(torch.zeros(1, 3, 224, 224)).shape
    torch.Size([1, 3])
    """
    scan = plan_scan(network, taps)
    n_classes, width = weight.shape
    if width != sum(scan.widths) or bias.shape != (n_classes,):
        raise StartError(
            f"a head of {tuple(weight.shape)} with bias {tuple(bias.shape)} does not fit taps "
            f"of widths {scan.widths}; fit the head on these taps."
        )
    trunk = network.trunk.requires_grad_(False)
    return WarmModel(trunk, scan, TapHead(weight, bias, temperature, class_bias)).eval()


def rebuild(
    arch: str,
    state: Mapping[str, Tensor],
    taps: Sequence[Tap],
    n_classes: int,
    preprocessing: Inputs,
    network: nn.Module | None = None,
    added: Sequence[int] = (),
    beside: int | None = None,
) -> WarmModel:
    """Make a warm model again from its architecture and its saved tensors, strictly.

    `network` is the user's own module where `arch` is "module:…"; it is left as it is.
    `added` gives the hidden width of each block that was added behind the last part, `beside`
    the part above which the start's own layers stand beside tuned ones.

    Raises: StartError if the architecture is unknown or a tensor is missing, extra, of
    another shape, or not finite.
    """
    where = "model.safetensors"
    head = {name: tensor for name, tensor in state.items() if name.startswith("head.")}
    width = head["head.weight"].shape[-1] if "head.weight" in head else 0
    if tuple(getattr(head.get("head.weight"), "shape", ())) != (n_classes, width):
        raise StartError(f"{where}: no head.weight for {n_classes} classes; restore the run.")
    blank = torch.zeros(n_classes, width)
    again = cut(_fresh(arch, state, preprocessing, network), preprocessing)
    last, drawn = again.record.parts[-1], torch.Generator().manual_seed(0)
    again = graft(again, [make_block(last, drawn, hidden) for hidden in added])
    if beside is not None:
        again = put_beside(again, again.trunk, beside)
    model = assemble(again, taps, blank, torch.zeros(n_classes))
    own, unique = model.state_dict(), unique_tensors(model)
    check_match(unique, {n: t for n, t in state.items() if n in unique or n not in own}, where)
    check_finite(state, where)
    _check_kinds(unique, state, where)
    model.load_state_dict({**own, **state})
    return model


def _check_kinds(expected: Mapping[str, Tensor], state: Mapping[str, Tensor], where: str) -> None:
    """Raises: StartError where whole numbers stand for fractions, or classes would be turned."""
    for name, tensor in expected.items():
        if tensor.is_floating_point() != state[name].is_floating_point():
            raise StartError(f"{where}: {name} is of type {state[name].dtype}; restore the run.")
    if float(state["head.temperature"]) <= 0:
        raise StartError(f"{where}: head.temperature is not above 0; restore the run.")


def unique_state(model: nn.Module) -> dict[str, Tensor]:
    """What to save: each tensor once (safetensors refuses tied ones), contiguous, detached.

    What stays in a file stays there.

    >>> list(unique_state(TapHead(torch.zeros(2, 3), torch.zeros(2))))
    ['weight', 'bias', 'temperature', 'class_bias']
    """
    tensors = unique_tensors(model)
    return {
        name: tensor if isinstance(tensor, Mapped) else tensor.detach().cpu().contiguous()
        for name, tensor in tensors.items()
    }


def _fresh(
    arch: str,
    state: Mapping[str, Tensor],
    preprocessing: Inputs,
    network: nn.Module | None,
) -> nn.Module:
    """The architecture, shaped as in `state`, with any weights: they are all replaced."""
    trunk = {name.removeprefix("trunk."): tensor for name, tensor in state.items()}
    if network is not None:
        own = copy.deepcopy(network)
        if isinstance(preprocessing, Preprocessing):
            refit_size(own, trunk, preprocessing.size)
            refit(own, trunk, preprocessing.channels)
        return own.eval().requires_grad_(False)
    if arch.startswith("module:"):
        raise StartError(
            f"this model was made from your own {arch.partition(':')[2]}; "
            "pass an instance of it as `network`."
        )
    return fresh(arch, trunk, preprocessing)


def fresh(arch: str, trunk: Mapping[str, Tensor], inputs: Inputs) -> nn.Module:
    """A design for such inputs, shaped as its tensors `trunk` are, with values yet to be replaced.

    Raises: StartError for an unknown design.
    """
    if isinstance(inputs, TableInputs):
        return build_table(trunk).eval().requires_grad_(False)
    if not isinstance(inputs, Preprocessing):
        own = build_wave(arch) if isinstance(inputs, WaveInputs) else build_text(arch)
        return own.requires_grad_(False)
    if arch.startswith(VISION):
        module: nn.Module = build_vision(arch)
    else:
        module = build(arch, trunk, inputs.size)
    refit(module, trunk, inputs.channels)
    return module.eval().requires_grad_(False)


def _copied(values: Tensor) -> Tensor:
    return values.detach().to(torch.float32, copy=True).contiguous()
