"""Answers for images of every kind, and when they are sure."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import warmstart
from hue_images import draw
from warmstart.errors import DataError, RunFolderError
from warmstart.network.model_folder import read_bundle, write_bundle
from warmstart.run.predictor import Predictor, find_files, load, predict


@pytest.fixture(scope="module")
def predictor(finished):
    return load(finished.path)


@pytest.fixture
def files(pictures):
    return sorted(pictures.rglob("*.png"))


def same(answers, others):
    """The same labels and probabilities, whatever they are called."""
    for one, other in zip(answers, others, strict=True):
        assert replace(one, path="") == replace(other, path="")


# ---- what was asked for ------------------------------------------------------------------


def test_a_folder_stands_for_its_images_sorted(finished, pictures, files):
    (pictures / "notes.txt").write_text("no image")
    (pictures / ".hidden").mkdir()
    (pictures / ".hidden" / "a.png").write_bytes(files[0].read_bytes())
    answers = list(predict(finished.path, [str(pictures)]))
    assert [answer.path for answer in answers] == [str(path) for path in files]
    assert all(a.label == p.parent.name for a, p in zip(answers, files, strict=True))


def test_files_and_folders_keep_the_order_they_were_named_in(pictures, files):
    named = [str(files[-1]), str(pictures / "blue"), "nowhere.jpg", str(files[-1])]
    result = find_files(named)
    assert result == [
        str(files[-1]),
        *[str(p) for p in files if p.parent.name == "blue"],
        "nowhere.jpg",
        str(files[-1]),
    ]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs a named pipe")
def test_a_pipe_is_answered_with_the_reason_and_never_opened(finished, tmp_path, files):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "sub").mkdir()
    os.mkfifo(tmp_path / "sub/pipe.png")
    shutil.copy(files[0], tmp_path / "sub/a.png")
    (tmp_path / "sub/link.png").symlink_to("nowhere.png")
    named, *below = predict(finished.path, [str(tmp_path / "pipe.png"), str(tmp_path / "sub")])
    assert "is a named pipe, which is not opened" in named.error
    assert [answer.label is None for answer in below] == [False, True, True]


def test_a_folder_without_images_is_an_error(finished, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no images; name images"):
        predict(finished.path, [str(tmp_path / "empty")])


def test_a_run_without_a_model_is_an_error_before_any_answer(tmp_path):
    with pytest.raises(RunFolderError, match="is not a finished run folder"):
        predict(tmp_path, ["a.jpg"])


def test_what_cannot_be_read_has_no_label_and_stops_nothing(predictor, tmp_path, files):
    whole = files[0].read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.jpg").write_text("dear")
    (tmp_path / "empty.png").touch()
    bad = [tmp_path / n for n in ("cut.png", "text.jpg", "empty.png", "nowhere.png")]
    mixed = [bad[0], files[0], *bad[1:], files[-1]]
    answers = predictor.predict(mixed)
    assert [answer.path for answer in answers] == [str(path) for path in mixed]
    lost = [a for a in answers if a.label is None]
    assert len(lost) == len(bad)
    for answer in lost:
        assert answer.path in answer.error
        assert (answer.probability, answer.confident, answer.ood) == (None, None, False)
        assert (answer.scores, answer.nearest) == ({}, ())
    same([a for a in answers if a.label], predictor.predict([files[0], files[-1]]))


def test_no_input_no_answer(predictor):
    assert predictor.predict([]) == []


def test_many_inputs_come_in_batches_and_do_not_depend_on_each_other(predictor, files):
    many = (files * 3)[:70]
    stream = predictor.stream(many)
    first = next(stream)
    answers = [first, *stream]
    assert len(answers) == 70
    alone = [predictor.predict([path])[0] for path in many[:3]]
    for one, other in zip(answers, alone, strict=False):
        assert one.label == other.label
        assert one.probability == pytest.approx(other.probability, abs=1e-4)


# ---- one in, one out ---------------------------------------------------------------------


def test_one_image_gives_one_answer_whatever_holds_it(finished, predictor, files):
    (named,) = predictor.predict([files[0]])
    image = Image.open(files[0])
    array = np.asarray(image.convert("RGB"))
    tensor = torch.from_numpy(array.copy())
    for one in (str(files[0]), files[0], image, array, tensor, tensor.permute(2, 0, 1)):
        answer = predictor.predict(one)
        same([answer], [named])
    as_floats = predictor.predict(tensor.permute(2, 0, 1) / 255)
    assert as_floats.probability == pytest.approx(named.probability, abs=1e-6)
    assert warmstart.load(finished.path).predict(str(files[0])).label == named.label
    assert finished.predict(files[0]).label == named.label


def test_a_grey_array_is_one_image_and_a_stack_of_them_many(predictor):
    grey = np.full((5, 40, 40), 90, np.uint8)
    assert predictor.predict(grey[0]).label in predictor.labels
    assert len(predictor.predict(grey)) == 5
    assert len(predictor.predict(grey[:3])) == 3  # three grey images, not one of three channels
    assert len(predictor.predict(np.full((5, 8, 8), 90, np.uint8))) == 5


def test_many_images_give_a_list_whatever_holds_them(predictor, pictures, files):
    named = predictor.predict(files)
    same(predictor.predict(pictures), named)
    same(predictor.predict(str(pictures)), named)
    same(predictor.predict([pictures / "blue", *files[12:]]), named)
    same(predictor.predict(tuple(files)), named)
    same(predictor.predict(path for path in files), named)
    same(predictor.predict(np.array([str(path) for path in files])), named)
    arrays = np.stack([np.asarray(Image.open(path).convert("RGB")) for path in files])
    tensors = torch.from_numpy(arrays).permute(0, 3, 1, 2)
    same(predictor.predict(tensors), named)
    same(predictor.predict(list(tensors)), named)
    assert [answer.label for answer in predictor.predict([files[0]])] == [named[0].label]


ALONE = {
    "a number": (3, r"^the input is of type int; give a path, a PIL image, an array \(H, W"),
    "nothing": (None, "^the input is of type NoneType"),
    "a mapping": ({"a": 1}, "^the input is of type dict"),
    "bytes": (b"bytes", "^the input is of type bytes"),
    "a row of numbers": (np.zeros(5, np.uint8), "^the input has shape"),
    "no file": ("nowhere.jpg", r"^nowhere.jpg cannot be read \(No such file"),
    "no name": ("", "^the path of an image is empty; name the file"),
}


@pytest.mark.parametrize("case", ALONE)
def test_a_single_input_that_cannot_be_read_is_an_error(predictor, case):
    item, message = ALONE[case]
    with pytest.raises(DataError, match=message) as caught:
        predictor.predict(item)
    assert "\n" not in str(caught.value)


def test_a_folder_without_images_has_no_answers(predictor, tmp_path):
    (tmp_path / "empty").mkdir()
    for given in (tmp_path / "empty", [tmp_path / "empty"]):
        with pytest.raises(DataError, match="empty holds no images; name images, or a folder"):
            predictor.predict(given)


def test_a_folder_in_a_stream_of_files_is_reported(predictor, tmp_path):
    (answer,) = predictor.stream([tmp_path])
    assert answer.error == f"{tmp_path} is a folder"


# ---- images in memory --------------------------------------------------------------------


def test_pictures_and_arrays_answer_as_their_files_do(predictor, files):
    named = predictor.predict(files[:5])
    images = [Image.open(path) for path in files[:5]]
    same(predictor.predict(images), named)
    same(predictor.predict([np.asarray(image) for image in images]), named)
    same(predictor.predict(np.stack([np.asarray(image) for image in images])), named)
    assert [a.path for a in predictor.predict(images)] == [f"#{n}" for n in range(5)]


def encoded(image, path, **options):
    image.save(path, **options)
    return path


def odd_pictures():
    """Pictures whose pixels need care: transparent, turned, wide grey, palette, CMYK."""
    picture = draw(np.random.default_rng(4), 1, size=48).crop((0, 0, 48, 36))
    see_through = picture.convert("RGBA")
    see_through.putalpha(Image.linear_gradient("L").resize(picture.size))
    wide = np.linspace(0, 65535, 48 * 36).reshape(36, 48).astype(np.uint16)
    turned = Image.Exif()
    turned[0x0112] = 6
    return {
        "transparent.png": (see_through, {}),
        "palette.gif": (picture.quantize(16), {}),
        "grey.png": (picture.convert("L"), {}),
        "wide.png": (Image.fromarray(wide), {}),
        "turned.png": (picture, {"exif": turned}),
        "turned.jpg": (picture, {"exif": turned, "quality": 95}),
        "cmyk.jpg": (picture.convert("CMYK"), {"quality": 95}),
        "two.png": (picture.convert("1"), {}),
    }


@pytest.mark.parametrize("name", odd_pictures())
def test_an_open_picture_answers_as_its_file_does(predictor, tmp_path, name):
    image, options = odd_pictures()[name]
    path = encoded(image, tmp_path / name, **options)
    with Image.open(path) as opened:
        same(predictor.predict([opened]), predictor.predict([path]))


def test_a_picture_that_is_cut_off_is_an_answer_without_a_label(predictor, tmp_path, files):
    whole = files[0].read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    with Image.open(tmp_path / "cut.png") as cut:
        (answer,) = predictor.predict([cut])
    assert (answer.label, answer.path) == (None, "#0")
    assert "#0" in answer.error


@pytest.mark.parametrize(
    "item",
    [
        None,
        3,
        object(),
        np.zeros(5, np.uint8),
        np.zeros((4, 4, 2), np.uint8),
        "",
        b"bytes",
        np.zeros((0, 4, 3), np.uint8),
        np.full((4, 4), np.nan),
        [[1, 2], [3]],
        {"a": 1},
    ],
)
def test_what_is_no_image_is_an_answer_without_a_label(predictor, item, files):
    answers = predictor.predict([item, files[0]])
    assert answers[0].label is None
    assert answers[0].error
    assert answers[1].label == files[0].parent.name


# ---- sure and unknown --------------------------------------------------------------------


def test_scores_are_probabilities_the_best_first(predictor, files):
    for answer in predictor.predict(files):
        assert sum(answer.scores.values()) == pytest.approx(1)
        assert list(answer.scores.values()) == sorted(answer.scores.values(), reverse=True)
        assert answer.label == next(iter(answer.scores))
        assert answer.probability == answer.scores[answer.label]
        assert set(answer.scores) == set(predictor.labels)


def with_calibration(run, tmp_path, **changes):
    bundle = read_bundle(run)
    write_bundle(
        tmp_path / "model", replace(bundle, calibration=replace(bundle.calibration, **changes))
    )
    return load(tmp_path)


def test_sure_is_the_threshold_on_the_probability(finished, tmp_path, files):
    answers = load(finished.path).predict(files)
    middle = float(np.median([answer.probability for answer in answers]))
    strict = with_calibration(finished.path, tmp_path, confident_from=middle, ood_from=1e9)
    for answer in strict.predict(files):
        assert answer.confident == (answer.probability >= middle)
        assert not answer.ood


def test_nothing_promised_means_neither_confident_nor_uncertain(finished, tmp_path, files):
    silent = with_calibration(finished.path, tmp_path, confident_from=None, ood_from=1e9)
    assert {answer.confident for answer in silent.predict(files)} == {None}


def test_ood_inputs_are_never_confident(finished, tmp_path, files):
    for name, confident_from in (("a", 0.0), ("b", None)):
        (tmp_path / name).mkdir()
        wary = with_calibration(
            finished.path, tmp_path / name, confident_from=confident_from, ood_from=0.0
        )
        for answer in wary.predict(files[:3]):
            assert (answer.ood, answer.confident) == (True, False)


def test_what_is_unlike_everything_is_ood_and_training_images_are_not(finished, predictor):
    train = finished.path.parents[1] / "split" / "train"
    known = predictor.predict(sorted(train.rglob("*.png")))
    assert np.mean([answer.ood for answer in known]) <= 0.03
    stripes = np.repeat(np.arange(40) % 8 // 4 * 255, 40).reshape(40, 40).astype(np.uint8)
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    strange = predictor.predict([stripes, noise, Image.new("RGB", (40, 40), "yellow")])
    assert all(answer.ood for answer in strange)


def test_the_nearest_are_training_examples_and_a_training_image_finds_itself(finished, predictor):
    root = finished.path.parents[1] / "split"
    examples = json.loads((finished.path / "data.json").read_text())["examples"]
    train = [example["id"] for example in examples if example["split"] == "train"]
    answers = predictor.predict([root / id for id in train])
    for id, answer in zip(train, answers, strict=True):
        assert answer.nearest[0] == id
        assert len(answer.nearest) == 5
        assert set(answer.nearest) <= set(train)


def test_the_slow_definition_gives_the_same_answers(finished, predictor, files):
    """One image at a time, decoded and resized by hand, through the whole network."""
    import torch

    run = warmstart.load(finished.path)
    assert isinstance(run, Predictor)
    for path, answer in zip(files[::6], predictor.predict(files[::6]), strict=True):
        small = Image.open(path).convert("RGB").resize((32, 32), Image.Resampling.BICUBIC)
        inputs = (torch.tensor(np.asarray(small)) / 255 - 0.5) / 0.5
        with torch.no_grad():
            p = run.model(inputs.permute(2, 0, 1)[None]).softmax(1)[0]
        for name, value in zip(run.labels, p.tolist(), strict=True):
            assert answer.scores[name] == pytest.approx(value, abs=1e-3)
