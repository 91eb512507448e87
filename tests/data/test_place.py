"""Which files of a place are its data, and what they are called."""

from __future__ import annotations

import csv
import shutil

import pytest

import audio_clips
import hue_images
from warmstart.data.place import media_among, media_of
from warmstart.data.read import read
from warmstart.errors import DataError
from warmstart.events import drain
from warmstart.modalities.image import IMAGE


def test_a_few_sounds_among_pictures_are_ignored():
    assert media_among(["a.png", "b.wav"]) == ["a.png"]
    pictures = [f"{folder}/{i}.png" for folder in "ab" for i in range(2)]
    spoken = [f"{folder}/{i}_{tongue}.wav" for folder in "ab" for i in range(2) for tongue in "xyz"]
    assert media_among([*pictures, *spoken]) == pictures
    assert media_among([*pictures[:3], *spoken]) == spoken
    assert media_among([*pictures, *spoken], "audio") == spoken
    assert media_of([]) is IMAGE


def test_a_folder_of_clips_is_audio(tmp_path):
    data = audio_clips.fill(tmp_path / "notes", {"a note": 2, "hiss": 3})
    hue_images.fill(tmp_path / "notes", {"hiss": 2})
    result = drain(read(data))
    assert (result.record.kind, result.title) == ("audio", f"5 clips in {data}/")
    assert {example.id[-4:] for example in result.record.examples} == {".wav"}


def test_a_table_of_clips_is_audio_with_groups(tmp_path):
    audio_clips.fill(tmp_path, {"a note": 4, "hiss": 4})
    with open(tmp_path / "clips.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["clip", "label", "speaker"])
        for path in sorted(tmp_path.rglob("*.wav")):
            table.writerow([path.relative_to(tmp_path), path.parent.name, path.stem[-1]])
    result = drain(read(tmp_path / "clips.csv", group="speaker"))
    assert result.record.kind == "audio"
    assert "8 clips listed in" in result.title
    assert {example.group for example in result.record.examples} == {"0", "1", "2", "3"}


def test_pictures_stay_images(pictures):
    assert drain(read(pictures)).record.kind == "image"


def test_a_class_without_a_clip_is_named(tmp_path):
    data = audio_clips.fill(tmp_path / "notes", {"a note": 2, "hiss": 2})
    (data / "mid").mkdir()
    shutil.rmtree(data / "hiss")
    with pytest.raises(DataError, match=r"mid holds no clip; a class needs at least 2 clips"):
        drain(read(data))
