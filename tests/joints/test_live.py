"""Pixels for training, and the second look: what the data holds, in the order it was asked for."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from looking import scene_of
from tiny import PREP, network
from warmstart.data.prepare import load_image
from warmstart.errors import DataError
from warmstart.features.engine import normalised
from warmstart.joints import live
from warmstart.joints.live import read_pixels, second_look
from warmstart.network.taps import Tapped, taps


@pytest.fixture
def scene(pictures):
    return scene_of(pictures, budget="fast")


@pytest.mark.parametrize("limit", [live.IN_MEMORY, 1000])
def test_pixels_are_the_prepared_pictures_row_by_row(scene, pictures, monkeypatch, limit):
    monkeypatch.setattr(live, "IN_MEMORY", limit)
    examples = scene.arranged.learn[::-1]
    found = read_pixels(scene.collection, examples, PREP)
    assert (found.shape, found.dtype) == ((36, 32, 32, 3), np.uint8)
    assert isinstance(found, np.memmap) == (limit == 1000)
    for pixels, example in zip(found, examples, strict=True):
        payload = (pictures / example.id).read_bytes()
        np.testing.assert_array_equal(pixels, load_image(payload, example.id, PREP))
    rows = np.array([5, 3, 5])
    np.testing.assert_array_equal(np.ascontiguousarray(found[rows])[0], found[5])


def test_many_pixels_lie_in_a_file_that_is_gone_with_them(scene, monkeypatch, tmp_path):
    monkeypatch.setattr(live, "IN_MEMORY", 1000)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "spill"))
    (tmp_path / "spill").mkdir()
    found = read_pixels(scene.collection, scene.arranged.learn, PREP)
    assert found.any()
    assert not [*(tmp_path / "spill").iterdir()]


def test_an_image_that_changed_since_it_was_read_is_an_error(scene, pictures):
    (pictures / "red" / "003.png").write_bytes(b"other bytes")
    with pytest.raises(DataError, match=r"red/003.png changed while the run was going on"):
        read_pixels(scene.collection, scene.arranged.learn, PREP)
    (pictures / "red" / "003.png").unlink()
    with pytest.raises(DataError, match=r"red/003.png can no longer be read"):
        read_pixels(scene.collection, scene.arranged.learn, PREP)


def slow(scene, pictures, wanted, examples):
    """Each tap by the network itself, an image at a time."""
    tapped = Tapped(scene.look.network, wanted).eval()
    rows = []
    for example in examples:
        pixels = load_image((pictures / example.id).read_bytes(), example.id, PREP)
        with torch.inference_mode():
            rows.append([tap[0].numpy() for tap in tapped(normalised(pixels[None], PREP))])
    return {tap: np.stack([row[i] for row in rows]) for i, tap in enumerate(wanted)}


def test_a_second_look_reads_the_networks_taps(scene, pictures):
    wanted = taps(scene.look.network.record)[-2:]
    reader = second_look(scene.look.network, wanted, scene.collection, PREP)
    examples = [scene.arranged.learn[i] for i in (7, 0, 35, 7)]
    read = reader(examples)
    for tap, expected in slow(scene, pictures, wanted, examples).items():
        np.testing.assert_allclose(read(tap), expected, rtol=1e-4, atol=1e-5)


def test_a_second_look_passes_each_image_once(scene, monkeypatch):
    seen = []
    make = live.make_engine

    def counting(*arguments):
        engine = make(*arguments)

        def run(pixels):
            seen.append(len(pixels))
            return engine(pixels)

        return run

    monkeypatch.setattr(live, "make_engine", counting)
    wanted = taps(scene.look.network.record)[-1:]
    reader = second_look(scene.look.network, wanted, scene.collection, PREP)
    assert not seen
    learn = scene.arranged.learn
    first = reader(learn[:20])(wanted[0])
    assert sum(seen) == 20
    both = reader([*learn[10:], *learn[:3]])(wanted[0])
    assert sum(seen) == 36
    np.testing.assert_array_equal(both[:10], first[10:])
    np.testing.assert_array_equal(both[-3:], first[:3])


def test_a_second_look_is_at_the_network_that_it_was_given(scene):
    """Not at the store, which holds what the start was before it was trained."""
    wanted = taps(scene.look.network.record)[-1:]
    learn = scene.arranged.learn
    before = scene.look.reader(learn)(wanted[0]).copy()
    with torch.no_grad():
        for parameter in scene.look.network.trunk.parameters():
            parameter *= 1.5
    after = second_look(scene.look.network, wanted, scene.collection, PREP)(learn)(wanted[0])
    assert before.shape == after.shape
    assert np.abs(after - before).max() > 0.01
    assert network().first.weight.shape == scene.look.network.trunk.first.weight.shape


def test_copies_are_passed_once_and_read_as_often_as_they_stand(pictures):
    payload = (pictures / "blue" / "000.png").read_bytes()
    for number in range(3):
        (pictures / "blue" / f"copy-{number}.png").write_bytes(payload)
    scene = scene_of(pictures, budget="fast")
    wanted = taps(scene.look.network.record)[-1:]
    rows = second_look(scene.look.network, wanted, scene.collection, PREP)(scene.arranged.learn)(
        wanted[0]
    )
    same = [e.sha256 == scene.arranged.learn[0].sha256 for e in scene.arranged.learn]
    assert sum(same) == 4
    assert len(np.unique(rows[same], axis=0)) == 1
