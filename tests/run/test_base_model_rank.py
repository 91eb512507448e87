"""`rank` on weights of any origin, and what it says when it cannot."""

from __future__ import annotations

import csv

import pytest

import tiny_audio_encoder
from audio_clips import fill
from tiny import ARCH, weights
from warmstart.cli.main import main
from warmstart.errors import DataError, ModelError, UsageError
from warmstart.events import drain
from warmstart.network.registry import models
from warmstart.run import base_model
from warmstart.run.base_model import rank_base_models as rank


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """A file of random weights, as --models takes it."""
    return f"{weights(tmp_path_factory.mktemp('weights'))}@{ARCH}"


def test_clips_are_ranked_in_their_own_words(tmp_path, capsys):
    clips = fill(tmp_path / "clips", {"a note": 10, "hiss": 10})
    encoder = f"transformers:{tiny_audio_encoder.folder_of()}"
    result = drain(rank(clips, [encoder]))
    assert (result.kind, result.models[0].name) == ("audio", encoder)
    assert main(["rank", str(clips), "--models", encoder]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "clips" in told
    assert "20 clips" in told
    assert "image" not in told


def test_without_names_base_models_of_the_datas_own_kind_are_ranked(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(base_model, "on_disk", lambda kind: (asked.append(kind), ((LOST,), ()))[1])
    texts = tmp_path / "a.csv"
    texts.write_text("text,label\n" + "red car,a\nblue boat,b\n" * 12, "utf-8")
    with pytest.raises(ModelError, match=LOST):
        drain(rank(texts))
    assert asked == ["text"]


LOST = "nowhere.safetensors"


def test_weights_of_ones_own_are_ranked(pictures, local):
    result = drain(rank(pictures, [local]))
    (base,) = result.models
    assert (base.name, base.arch) == (local, ARCH)
    assert (base.low, base.high) != (base.value, base.value)
    assert result.choice == local
    assert result.n == 36


def test_the_same_call_gives_the_same_answer_and_a_table_its_groups(pictures, local):
    table = pictures / "labels.csv"
    with open(table, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "kind", "person"])
        for number, path in enumerate(sorted(pictures.rglob("*.png"))):
            writer.writerow([path.relative_to(pictures), path.parent.name, number % 9])
    first, second = (drain(rank(table, [local], label="kind")) for _ in range(2))
    assert first.models[0].value == second.models[0].value
    grouped = drain(rank(table, [local], label="kind", group="person"))
    width = grouped.models[0].high - grouped.models[0].low
    assert width > first.models[0].high - first.models[0].low


def test_without_names_what_is_on_disk_is_used(pictures, monkeypatch):
    asked = []

    def refuse(name, **options):
        asked.append(name)
        raise ModelError(f"{name} is refused")

    monkeypatch.setattr(base_model, "load", refuse)
    with pytest.raises(ModelError, match="is refused"):
        drain(rank(pictures))
    assert asked[0] == "lite0"
    assert set(asked) <= {listing.name for listing in models()}


def test_nothing_is_written_but_features(pictures, local, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    before = {path.name for path in tmp_path.iterdir()}
    assert main(["rank", "pictures", "--models", local, "-q"]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines()[:2])) <= 80
    assert out.splitlines()[-1].split(maxsplit=1)[1].startswith("warmstart fit pictures --base ")
    assert {path.name for path in tmp_path.iterdir()} - before <= {"cache"}


def test_bad_values_are_errors(pictures, tmp_path, local):
    with pytest.raises(UsageError, match="--seed -1"):
        drain(rank(pictures, [local], seed=-1))
    with pytest.raises(DataError, match="does not exist"):
        drain(rank(tmp_path / "nowhere", [local]))
    with pytest.raises(ModelError, match="add --arch"):
        drain(rank(pictures, [local.rpartition("@")[0]]))
