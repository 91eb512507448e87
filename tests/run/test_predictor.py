"""Answers for inputs of every kind, when they are confident, and metrics on labelled data."""

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
from extraction import table
from hue_images import draw, fill
from warmstart.errors import DataError, RunFolderError
from warmstart.events import drain, follow
from warmstart.network.model_folder import read_bundle, write_bundle
from warmstart.records.inputs import TextInputs
from warmstart.run.predictor import (
    InputText,
    evaluate,
    find_texts,
    items_of,
    load,
    predict,
    text_payload,
)


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


def test_a_folder_stands_for_its_images_sorted(finished, pictures, files):
    (pictures / "notes.txt").write_text("no image")
    (pictures / ".hidden").mkdir()
    (pictures / ".hidden" / "a.png").write_bytes(files[0].read_bytes())
    answers = list(predict(finished.path, [str(pictures)]))
    assert [answer.path for answer in answers] == [str(path) for path in files]
    assert all(a.label == p.parent.name for a, p in zip(answers, files, strict=True))


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


def test_a_run_without_a_model_is_an_error_before_any_answer(tmp_path):
    with pytest.raises(RunFolderError, match="is not a finished run folder"):
        predict(tmp_path, ["a.jpg"])


def test_what_cannot_be_read_has_no_label_and_stops_nothing(predictor, tmp_path, torn, files):
    mixed = [torn[0], files[0], *torn[1:], tmp_path / "nowhere.png", files[-1]]
    answers = predictor.predict(mixed)
    assert [answer.path for answer in answers] == [str(path) for path in mixed]
    lost = [a for a in answers if a.label is None]
    assert len(lost) == 4
    for answer in lost:
        assert answer.path in answer.error
        assert (answer.probability, answer.confident, answer.ood) == (None, None, False)
        assert (answer.scores, answer.nearest) == ({}, ())
    same([a for a in answers if a.label], predictor.predict([files[0], files[-1]]))
    (answer,) = predictor.stream([tmp_path])
    assert answer.error == f"{tmp_path} is a folder"


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
    opened = predictor.predict([Image.open(path) for path in files])
    same(opened, named)
    assert [answer.path for answer in opened] == [f"#{n}" for n in range(len(files))]
    assert [answer.label for answer in predictor.predict([files[0]])] == [named[0].label]


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
    path = tmp_path / name
    image.save(path, **options)
    with Image.open(path) as opened:
        same(predictor.predict([opened]), predictor.predict([path]))


NO_IMAGES = {
    "nothing": (None, "^the input is of type NoneType"),
    "a number": (3, r"^the input is of type int; give a path, a PIL image, an array \(H, W"),
    "a mapping": ({"a": 1}, "^the input is of type dict"),
    "bytes": (b"bytes", "^the input is of type bytes"),
    "a row of numbers": (np.zeros(5, np.uint8), "^the input has shape"),
    "no pixels": (np.zeros((0, 4, 3), np.uint8), "^the input "),
    "no numbers": (np.full((4, 4), np.nan), "^the input "),
    "no file": ("nowhere.jpg", r"^nowhere.jpg cannot be read \(No such file"),
    "no name": ("", "^the path of an image is empty; name the file"),
}


@pytest.mark.parametrize("case", NO_IMAGES)
def test_what_is_no_image_is_an_error_alone_and_an_answer_among_others(predictor, case, files):
    item, message = NO_IMAGES[case]
    with pytest.raises(DataError, match=message) as caught:
        predictor.predict(item)
    assert "\n" not in str(caught.value)
    bad, good = predictor.predict([item, files[0]])
    assert (bad.label, good.label) == (None, files[0].parent.name)
    assert bad.error


@pytest.mark.parametrize("wrap", [lambda path: path, lambda path: [path]])
def test_a_folder_without_images_has_no_answers(predictor, tmp_path, wrap):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty holds no images; name images, or a folder"):
        predictor.predict(wrap(tmp_path / "empty"))


def with_calibration(run, tmp_path, **changes):
    bundle = read_bundle(run)
    write_bundle(
        tmp_path / "model", replace(bundle, calibration=replace(bundle.calibration, **changes))
    )
    return load(tmp_path)


@pytest.mark.parametrize("ood_from", [0.0, 1e9])
@pytest.mark.parametrize("confident_from", [None, 0.6])
def test_confident_is_a_threshold_and_never_holds_out_of_distribution(
    finished, tmp_path, files, confident_from, ood_from
):
    changes = {"confident_from": confident_from, "ood_from": ood_from}
    for answer in with_calibration(finished.path, tmp_path, **changes).predict(files[::3]):
        assert answer.ood == (ood_from == 0)
        expected = None if confident_from is None else answer.probability >= confident_from
        assert answer.confident == (False if answer.ood else expected)


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


def test_the_slow_definition_gives_the_same_answers(predictor, files):
    """One image at a time, decoded and resized by hand, through the whole network."""
    for path, answer in zip(files[::6], predictor.predict(files[::6]), strict=True):
        small = Image.open(path).convert("RGB").resize((32, 32), Image.Resampling.BICUBIC)
        inputs = (torch.tensor(np.asarray(small)) / 255 - 0.5) / 0.5
        with torch.no_grad():
            p = predictor.model(inputs.permute(2, 0, 1)[None]).softmax(1)[0]
        expected = dict(zip(predictor.labels, p.tolist(), strict=True))
        assert answer.scores == pytest.approx(expected, abs=1e-3)


def test_typed_texts_files_folders_and_tables(tmp_path):
    (tmp_path / "b.txt").write_text("from a file", "utf-8")
    (tmp_path / "t.csv").write_text("text,other\nfrom a row,1\n,2\n", "utf-8")
    typed = "x" * 300  # longer than the name of any file
    result = find_texts([typed, str(tmp_path / "b.txt"), str(tmp_path / "t.csv"), str(tmp_path)])
    assert result[:2] == [typed, str(tmp_path / "b.txt")]
    table = tmp_path / "t.csv"
    assert result[2:4] == [InputText(f"{table}:2", "from a row"), InputText(f"{table}:3", "")]
    assert text_payload(result[4], "") == b"from a file"
    assert text_payload(" e\u0301\0 ", "") == "é".encode()


def test_what_holds_no_texts_is_reported(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "n.csv").write_text("n,m\n1,2\n3,4\n", "utf-8")
    (tmp_path / "broken.jsonl").write_text('{"text": "a"}\n{"text"\n', "utf-8")
    for name, says in (
        ("folder", r"folder holds no \.txt files; name texts, or a folder"),
        ("n.csv", r"n\.csv has no column of words among n, m; name the one"),
        ("broken.jsonl", r"broken\.jsonl.*line 2"),
    ):
        with pytest.raises(DataError, match=says):
            find_texts([str(tmp_path / name)])


def test_one_text_is_answered_by_itself_and_a_folder_or_table_row_by_row(tmp_path):
    wanted = TextInputs(tokenizer="", length=8, most=8, pad=0, vocabulary=9)
    (tmp_path / "a.txt").write_text("from a file", "utf-8")
    (tmp_path / "t.csv").write_text("text\none\ntwo\n", "utf-8")
    one, file, table = "dear sir", tmp_path / "a.txt", tmp_path / "t.csv"
    assert items_of(one, wanted) == ([one], True)
    assert items_of(file, wanted) == ([file], True)
    assert items_of([one], wanted) == ([one], False)
    assert items_of((one, file), wanted) == ([one, file], False)
    assert items_of(tmp_path, wanted) == ([str(file)], False)
    rows, is_one = items_of(str(table), wanted)
    assert ([row.text for row in rows], is_one) == (["one", "two"], False)


def test_what_is_no_text(tmp_path):
    with pytest.raises(
        DataError, match=r"#0 is of type int; give a text, or the path of a \.txt file"
    ):
        text_payload(3, "#0")
    with pytest.raises(DataError, match="is a folder"):
        text_payload(tmp_path, str(tmp_path))
    with pytest.raises(DataError, match=r"gone\.txt"):
        text_payload(tmp_path / "gone.txt", "gone.txt")


def test_scores_are_those_of_the_predictions(finished, pictures):
    for number in range(4):  # some wrong labels, or every metric would be 1
        shutil.move(pictures / "red" / f"00{number}.png", pictures / "blue" / f"x{number}.png")
    scores = drain(evaluate(finished.path, pictures))
    files = sorted(pictures.rglob("*.png"))
    answers = warmstart.load(finished.path).predict(files)
    hits = np.array([a.label == p.parent.name for a, p in zip(answers, files, strict=True)])
    truth = np.array([path.parent.name for path in files])
    assert scores.n == 36
    assert scores.accuracy == pytest.approx(hits.mean())
    assert scores.balanced_accuracy == pytest.approx(
        np.mean([hits[truth == name].mean() for name in np.unique(truth)])
    )
    losses = [-np.log(max(a.scores[t], 1e-12)) for a, t in zip(answers, truth, strict=True)]
    assert scores.log_loss == pytest.approx(np.mean(losses), rel=1e-3)
    assert 0 < scores.low < scores.accuracy < scores.high < 1


def test_a_table_and_its_groups_widen_the_interval(finished, pictures):
    files = sorted(path.relative_to(pictures) for path in pictures.rglob("*.png"))
    rows = [(f, f.parent if k % 4 else "blue", k % 4) for k, f in enumerate(files)]
    source = table(pictures, rows)
    alone = drain(evaluate(finished.path, source, label="label"))
    together = drain(evaluate(finished.path, source, label="label", group="person"))
    assert together.accuracy == alone.accuracy
    assert together.high - together.low > alone.high - alone.low


def test_one_class_is_enough_and_an_unknown_one_is_named(finished, tmp_path):
    scores = drain(evaluate(finished.path, fill(tmp_path / "later", {"blue": 3})))
    assert (scores.n, scores.accuracy) == (3, scores.balanced_accuracy)
    data = fill(tmp_path / "others", {"blue": 2, "violet": 2})
    with pytest.raises(DataError, match=r"class 'violet'.*knows: blue, green, red"):
        drain(evaluate(finished.path, data))


def test_what_cannot_be_read_is_left_out_and_counted(finished, pictures, tmp_path):
    (pictures / "red" / "000.png").write_bytes(b"nothing")
    (pictures / "red" / "001.png").write_bytes(b"")
    told = notes(evaluate(finished.path, pictures))
    assert told["Data"] == "2 images could not be read and were left out"
    (tmp_path / "later" / "red").mkdir(parents=True)
    (tmp_path / "later" / "red" / "a.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match="none of its images can be read"):
        drain(evaluate(finished.path, tmp_path / "later"))


def test_images_that_it_learnt_from_are_named_and_the_estimate_stands_beside(finished):
    split = finished.path.parents[1] / "split"
    told = notes(evaluate(finished.path, split / "train"))
    assert told["Leakage"].startswith("the model was trained on 36 of the 36 images")
    told = notes(evaluate(finished.path, split / "test"))
    assert told["Expected"].endswith("on images like the training data")
    assert not {"Leakage", "Unlike"} & told.keys()


def notes(steps):
    events = []
    follow(steps, events.append)
    return {e.values["title"]: e.values["text"] for e in events if "title" in e.values}


def test_images_that_are_unlike_all_it_knows_are_counted(finished, tmp_path):
    odd = tmp_path / "odd" / "blue"
    odd.mkdir(parents=True)
    for number in range(8):
        board = 255 * (np.indices((64, 64)).sum(axis=0) // (number + 2) % 2).astype(np.uint8)
        Image.fromarray(board).save(odd / f"{number}.png")
    said = notes(evaluate(finished.path, tmp_path / "odd"))
    assert said["Unlike"] == "8 of the 8 images are unlike all training data"
