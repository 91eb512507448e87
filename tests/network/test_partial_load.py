"""Partial loads: fitting tensors are loaded, all others listed, and the share computed."""

from __future__ import annotations

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from small_networks import seeded
from warmstart.errors import ModelError
from warmstart.network.architectures import build
from warmstart.network.inputs import InputOptions
from warmstart.network.load import load
from warmstart.network.partial_load import load_matching, surgery_sentence, transferred_share
from warmstart.network.weights import digest, tensor_digest
from warmstart.records.network import InputChange

ARCH = "timm:lcnet_035"


PARTIAL = InputOptions(is_partial=True)


@pytest.fixture(scope="module")
def state():
    return seeded(lambda: timm.create_model("lcnet_035", num_classes=7), 3).state_dict()


def saved(folder, state):
    path = folder / "best.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    return path


def changed(kind="new", name="a.weight", shape=(2, 3), because="why"):
    """A change, its shapes in the right places."""
    return InputChange(
        tensor=name,
        fate=kind,
        shape_before=None if kind == "new" else shape,
        shape_after=None if kind == "dropped" else shape,
        before=None if kind == "new" else "ab",
        because=because,
    )


def spoilt(state):
    """One layer gone, one of another shape, one too many."""
    other = {name: t for name, t in state.items() if not name.startswith("blocks.3.0.bn1.")}
    other["conv_stem.weight"] = torch.ones(16, 3, 5, 5)
    other["extra.weight"] = torch.ones(3, 2)
    return other


def test_every_tensor_of_both_sides_has_one_fate(tmp_path, state):
    other = spoilt(state)
    base = load(saved(tmp_path, other), arch=ARCH, inputs=PARTIAL)
    fates = {(change.tensor, change.fate): change for change in base.changes}
    names = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    assert fates.keys() == {
        *((f"blocks.3.0.bn1.{name}", "new") for name in names),
        ("conv_stem.weight", "new"),
        ("conv_stem.weight", "dropped"),
        ("extra.weight", "dropped"),
    }
    assert fates["conv_stem.weight", "new"].because == (
        "best.safetensors holds it in another shape, (16, 3, 5, 5)"
    )
    assert fates["blocks.3.0.bn1.bias", "new"].because == "best.safetensors does not hold it"
    assert fates["conv_stem.weight", "dropped"].because == "the network has it in another shape"
    lost = fates["extra.weight", "dropped"]
    assert (lost.before, lost.shape_before) == (digest(torch.ones(3, 2)), (3, 2))
    random = build(ARCH, state).state_dict()  # with 7 classes too
    for name, tensor in base.module.state_dict().items():
        source = random if (name, "new") in fates else state
        assert torch.equal(tensor, source[name]), name


def test_a_file_that_fits_gives_what_a_strict_load_gives(tmp_path, state):
    path = saved(tmp_path, state)
    assert load(path, arch=ARCH, inputs=PARTIAL).record == load(path, arch=ARCH).record
    headless = {n: t for n, t in state.items() if not n.startswith("classifier.")}
    base = load(saved(tmp_path, headless), arch=ARCH, inputs=PARTIAL)
    assert base.changes == ()
    assert transferred_share(base.changes, base.module) == 1.0
    assert surgery_sentence(base.changes, 1.0) == ""


def test_random_tensors_are_named_and_the_record_of_the_file_stays(tmp_path, state):
    other = spoilt(state)
    base = load(saved(tmp_path, other), arch=ARCH, inputs=PARTIAL)
    assert base.random_tensors == {c.tensor for c in base.changes if c.fate == "new"}
    assert base.origin.sha256 == tensor_digest(other) != base.record.sha256
    names = {*dict(base.module.named_parameters()), "extra.weight"}
    assert base.origin.parameters == sum(t.numel() for n, t in other.items() if n in names)
    grey = load(saved(tmp_path, other), arch=ARCH, inputs=InputOptions(is_partial=True, channels=1))
    assert (grey.origin, grey.random_tensors) == (base.origin, base.random_tensors)


@pytest.mark.parametrize("prefix", ["", "encoder.", "module.encoder_q."])
def test_the_network_may_stand_behind_a_prefix_among_other_things(tmp_path, state, prefix):
    named = {prefix + name: tensor for name, tensor in state.items()}
    path = saved(tmp_path, {**named, "queue": torch.ones(2), "loss.weight": torch.ones(1)})
    base = load(path, arch=ARCH, inputs=PARTIAL)
    assert {c.tensor for c in base.changes} == {"queue", "loss.weight"}
    assert torch.equal(base.module.conv_stem.weight, state["conv_stem.weight"])


def test_strict_loading_stays_strict_and_nothing_that_fits_is_an_error(tmp_path, state):
    path = saved(tmp_path, spoilt(state))
    for inputs in (None, InputOptions()):
        with pytest.raises(ModelError, match=r"has shape .*; check --arch, .*base.partial=true\.$"):
            load(path, arch=ARCH, inputs=inputs)
    path = saved(tmp_path, {"a.weight": torch.ones(2), "classifier.bias": torch.ones(1000)})
    with pytest.raises(ModelError, match=r"^best.safetensors: no tensor fits MobileNetV3 by name"):
        load(path, arch=ARCH, inputs=PARTIAL)


def test_tied_tensors_are_filled_under_either_name():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
            self.second.weight = self.first.weight
            self.out = nn.Linear(3, 2)

    module = Tied()
    result = {"second.weight": torch.ones(3, 3)}
    assert [c.tensor for c in load_matching(module, result, "x.pt")] == [
        "first.bias",
        "second.bias",
    ]
    assert (module.first.weight == 1).all()


def test_the_share_counts_parameters_of_the_backbone(tmp_path, state):
    base = load(saved(tmp_path, spoilt(state)), arch=ARCH, inputs=PARTIAL)
    sizes = {n: p.numel() for n, p in base.module.named_parameters()}
    backbone = sum(n for name, n in sizes.items() if not name.startswith("classifier."))
    lost = sum(
        sizes[n] for n in ("conv_stem.weight", "blocks.3.0.bn1.weight", "blocks.3.0.bn1.bias")
    )
    share = transferred_share(base.changes, base.module)
    assert share == pytest.approx(1 - lost / backbone)
    text = surgery_sentence(base.changes, share)
    assert text.startswith(f"2 layers, {lost:,} of {backbone:,} parameters do not carry over: ")
    assert text.endswith("1 layer of the base model, 6 parameters, has no place: extra.")


def test_surgery_in_words():
    new = changed(shape=(60, 10))
    assert surgery_sentence((new,), 0.4).endswith("This is hardly a warm start.")
    assert not surgery_sentence((new,), 0.5).endswith("start.")
    assert surgery_sentence((new,), 0.0).startswith("1 layer, 600 of 600 parameters")
    statistics = [changed(name=f"a.{n}", shape=(50,)) for n in ("running_mean", "running_var")]
    sentence = surgery_sentence([changed(), *statistics], 0.9)
    assert sentence.startswith("1 layer, 6 of 60 parameters")
    new = [changed(name=f"layer{n}.weight", shape=(1000, 500)) for n in range(5)]
    left = [changed("dropped", f"old{n}.weight", (10, 10)) for n in range(2)]
    assert surgery_sentence((*new, *left), 0.75) == (
        "5 layers, 2.5 M of 10.0 M parameters do not carry over: layer0, layer1, layer2, …. "
        "2 layers of the base model, 200 parameters, have no place: old0, old1."
    )
    base = load("lite0", inputs=InputOptions(channels=1))  # reshaped tensors carry over
    assert transferred_share(base.changes, base.module) == 1.0
    assert surgery_sentence(base.changes, 1.0) == (
        "1 layer reshaped (conv_stem): the kernels of all channels are summed for grey."
    )
