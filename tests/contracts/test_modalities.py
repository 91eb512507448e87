"""A kind of data is one object: no other code tells kinds apart, and a new one is one class."""

from __future__ import annotations

import ast
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn

import warmstart
from run_texts import image_words_in
from tiny import bytes_of
from warmstart.data.near_duplicates import same_fingerprint
from warmstart.errors import DataError
from warmstart.features.batches import sub_batches, to_tensor
from warmstart.features.engine import make_engine
from warmstart.modalities.modality import Modality, suffixes_of
from warmstart.modalities.registry import MODALITIES, modality_of
from warmstart.network.segments import probe
from warmstart.nouns import Nouns
from warmstart.records.data import Example
from warmstart.records.inputs import Inputs, Preprocessing, Sound, TextInputs, WaveInputs
from warmstart.serving.inputs import body_types

ROOT = Path(warmstart.__file__).parent
INPUTS = {"Preprocessing", "TextInputs", "WaveInputs", "TableInputs", "TensorInputs", "Sound"}

# Words that are no kinds of data where they stand: keys of events and forms, columns, tags of a
# drawing, tensors of weights. The numbers only shrink. (The studio names kinds as users do.)
OTHER_WORDS = {
    "api/train.py": 1,
    "cli/audit.py": 5,
    "cli/evaluate.py": 1,
    "data/arrow.py": 1,
    "data/layouts.py": 1,
    "data/parsing.py": 2,
    "data/read.py": 1,
    "data/tables.py": 2,
    "events.py": 2,
    "exporting/export.py": 1,
    "exporting/transformers.py": 1,
    "exporting/predict_script.py": 1,
    "network/encoder.py": 2,
    "network/ledger.py": 2,
    "nouns.py": 2,
    "planning/check.py": 1,
    "planning/plan_file.py": 1,
    "reporting/facts.py": 1,
    "reporting/figures.py": 2,
    "reporting/first_screen.py": 1,
    "reporting/proof.py": 1,
    "reporting/training.py": 1,
    "serving/app.py": 2,
    "serving/inputs.py": 5,
    "terminal/progress.py": 1,
}


def _trees():
    for path in sorted(ROOT.rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        if not name.startswith(("modalities/", "records/")):
            yield name, ast.parse(path.read_text("utf-8"))


def test_no_code_asks_for_the_class_of_inputs():
    for name, tree in _trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "isinstance":
                classes = {n.id for n in ast.walk(node.args[1]) if isinstance(n, ast.Name)}
                assert not classes & INPUTS, f"{name}:{node.lineno}"


def test_no_code_names_a_kind_of_data():
    words = Counter(
        name
        for name, tree in _trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and node.value in KINDS
    )
    assert words == OTHER_WORDS


KINDS = tuple(MODALITIES)


# ---- A toy: points in a plane, a line of text each.


@dataclass(frozen=True, slots=True, kw_only=True)
class CloudInputs(Inputs):
    """How points become an array (n, 2) float32, padded with the origin."""

    n: int

    kind: ClassVar[str] = "cloud"
    dtype: ClassVar[str] = "float32"
    blank: ClassVar[int] = 0

    @property
    def shape(self):
        return (self.n, 2)


class CloudModality(Modality[CloudInputs]):
    """Clouds of points."""

    kind = "cloud"
    input_name = "clouds"
    hub_name = "point-cloud"
    example = "cloud"
    networks = ("cloud",)
    form = "files"
    suffixes = suffixes_of("xy")
    nouns = Nouns(
        one="cloud",
        picture="cloud",
        an="a cloud",
        plain="plain points",
        changed="the same but for the order of points",
        typed="new.xy",
        quoted='"new.xy"',
        new="new.xy",
        several="new/",
        labelled="more/",
    )

    def encode(self, payload, name, inputs):
        try:
            points = np.array([line.split() for line in payload.decode().split("\n")], np.float32)
        except ValueError:
            raise DataError(f"{name} is not a cloud of points") from None
        rows = np.zeros(inputs.shape, np.float32)
        rows[: len(points)] = points[: inputs.n]
        return rows

    def decoder(self, inputs):
        return "points 1"

    def fingerprints(self, payloads):
        return {id: " ".join(sorted(payload.decode().split("\n"))) for id, payload in payloads}


@pytest.fixture
def cloud(monkeypatch):
    monkeypatch.setitem(MODALITIES, "cloud", CloudModality())
    return CloudInputs(n=3)


class CloudNetwork(nn.Module):
    """Clouds (B, n, 2) to two logits (B, 2): a layer on each point, then their mean."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 4)
        self.head = nn.Linear(4, 2)

    def forward(self, clouds):
        return self.head(self.layer(clouds).relu().mean(1))


def test_a_new_kind_is_encoded_batched_and_drawn_from_noise(cloud):
    modality = modality_of(cloud)
    rows = np.stack([modality.encode(b"1 2\n3 4", f"{n}.xy", cloud) for n in range(5)])
    assert rows.shape == (5, *cloud.shape)
    assert torch.equal(to_tensor(rows, cloud), torch.from_numpy(rows))
    assert [len(index) for index in sub_batches(rows, cloud, 2)] == [2, 2, 1]
    noise = modality.noise(4, cloud)
    assert noise.shape == (4, *cloud.shape)
    assert np.array_equal(noise, modality.noise(4, cloud))
    assert probe(cloud).shape == (3, *cloud.shape)
    with pytest.raises(DataError, match=r"^a\.xy is not a cloud"):
        modality.encode(b"1 2\n?", "a.xy", cloud)


def test_a_new_kind_has_near_duplicates_and_words(cloud):
    modality = modality_of(cloud)
    contents = {"a": b"1 2\n3 4", "b": b"3 4\n1 2", "c": b"1 2", "d": b"3 4\n1 2"}
    examples = [
        Example(id=id, label="x", split="train", sha256=payload.hex())
        for id, payload in contents.items()
    ]
    pairs = same_fingerprint(examples, modality.fingerprints(contents.items()))
    assert pairs == (("a", "b"), ("a", "d"))
    assert modality.nouns.count(2) == "2 clouds"
    assert "one cloud as cloud/*" in body_types(modality).hint
    assert modality.network_input(cloud).startswith("clouds (N, 3, 2) float32")


def test_a_network_learns_a_new_kind(cloud):
    """Clouds right and left of the axis, by the engine of features and by gradient steps."""
    torch.manual_seed(0)
    rng, network = np.random.default_rng(0), CloudNetwork()
    labels = np.arange(32) % 2
    points = rng.normal(size=(32, 3, 2)) + np.where(labels, 2, -2)[:, None, None]
    payloads = ["\n".join(f"{x:.4f} {y:.4f}" for x, y in one).encode() for one in points]
    rows = np.stack([modality_of(cloud).encode(one, "x", cloud) for one in payloads])
    features = make_engine("torch", nn.Sequential(network, AsTuple()), cloud, 1)(rows)[0]
    inputs = to_tensor(rows, cloud)
    np.testing.assert_allclose(features, network(inputs).detach(), atol=1e-5)
    optimizer = torch.optim.SGD(network.parameters(), 0.5)
    for _ in range(50):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(inputs), torch.from_numpy(labels)).backward()
        optimizer.step()
    assert (network(inputs).argmax(1).numpy() == labels).mean() > 0.9


class AsTuple(nn.Module):
    def forward(self, outputs):
        return (outputs,)


# ---- A whole run of it.


def clouds(folder, n, seed=0):
    """Clouds left and right of the axis, a file each in class folders."""
    rng = np.random.default_rng(seed)
    for name, side in (("left", -2), ("right", 2)):
        (folder / name).mkdir(parents=True)
        for number in range(n):
            points = rng.normal(size=(3, 2)) + np.array([side, 0])
            text = "\n".join(f"{x:.4f} {y:.4f}" for x, y in points)
            (folder / name / f"{number:02}.xy").write_text(text)
    return folder


def network():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return CloudNetwork().eval()


@pytest.mark.slow
def test_a_new_kind_goes_through_a_whole_run(cloud, tmp_path):
    """From a folder to answers; its nouns stand in every text, and a plan gives the run again."""
    data, test = clouds(tmp_path / "train", 16), clouds(tmp_path / "test", 6, seed=1)
    own = {"base": network(), "preprocessing": cloud}
    options = {"strategy": "last:1", "budget": "fast", "settings": ["training.epochs=2"]}
    run = warmstart.fit(data, test=test, **own, **options, out=tmp_path / "run")
    assert run.summary.data.kind == "cloud"
    assert run.summary.frozen.identical
    assert run.test.accuracy > 0.8
    assert image_words_in(run.path) == {}
    assert "clouds" in (run.path / "report.html").read_text("utf-8")
    files = sorted((test / "left").iterdir())
    answers = run.predict(files)
    again = warmstart.load(run.path, network=network()).predict(files)
    assert [one.label for one in answers] == [one.label for one in again]
    (tmp_path / "bad.xy").write_text("1 ?")
    assert "is not a cloud" in run.predict([tmp_path / "bad.xy"])[0].error
    plan = run.path / "plan.toml"
    replayed = warmstart.fit(data, test=test, **own, plan=plan, out=tmp_path / "again")
    assert bytes_of(replayed.path / "model") == bytes_of(run.path / "model")
    exported = warmstart.export(run, "onnx", out=tmp_path / "onnx")
    assert exported.agreement.same_labels == exported.agreement.n


# ---- Kinds that meet.


def test_clips_as_pictures_are_sound_with_the_inputs_of_images():
    half = (0.5,)
    image = Preprocessing(size=(8, 8), resize=8, mean=half, std=half)
    sound = Sound(
        sample_rate=800, seconds=1, window=8, hop=4, mels=8, low=20, high=400, range_db=30
    )
    clip = Preprocessing(size=(8, 8), resize=8, mean=half, std=half, sound=sound)
    wave = WaveInputs(sample_rate=800, seconds=1, is_scaled=True)
    assert [modality_of(one).kind for one in (image, clip, wave)] == ["image", "audio", "audio"]
    assert [modality_of(one).is_sound for one in (image, clip, wave)] == [False, True, True]
    assert [modality_of(one).has_pixels for one in (image, clip, wave)] == [True, True, False]
    assert modality_of(clip).nouns == modality_of(wave).nouns
    assert modality_of(clip).input_name == "images"


def test_only_texts_are_of_many_lengths():
    inputs = TextInputs(tokenizer="", length=16, most=16, pad=0, vocabulary=9)
    rows = modality_of(inputs).noise(3, inputs)
    rows[0, 3:] = rows[1, 10:] = rows[2, 5:] = 0
    assert sorted(len(index) for index in sub_batches(rows, inputs, 8)) == [1, 2]
    assert {to_tensor(rows[index], inputs).shape[1] for index in sub_batches(rows, inputs, 8)} == {
        8,
        16,
    }


def test_every_modality_fits_the_data_of_its_own_kind():
    for kind, modality in MODALITIES.items():
        assert modality.kind == kind
        assert kind in modality.networks
        assert {modality.form} <= {"files", "texts", "rows", "arrays"}
