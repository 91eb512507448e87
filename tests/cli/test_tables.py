"""Predictions, metrics, base models and the feature cache as text."""

from dataclasses import replace
from itertools import count, islice
from types import SimpleNamespace

from warmstart.cli.cache import cache_text, cleared_text
from warmstart.cli.evaluate import scores_text
from warmstart.cli.models import models_text
from warmstart.cli.predict import predict_lines
from warmstart.records.answer import Answer
from warmstart.records.summary import ClassScore, ScoresByClass


def answer(path, label="shirt", p=0.91, **values):
    values = {"confident": True, "ood": False, "scores": {}, **values}
    return Answer(path=path, label=label, probability=p, **values)


def test_answers_stand_in_columns():
    answers = [
        answer("photos/one.jpg"),
        answer("two.jpg", "longsleeve", 0.4812, confident=False),
        answer("3.jpg", "hat", 0.9983),
        answer("4.jpg", "hat", 0.7, confident=False, ood=True),
        answer("6.jpg", None, None, error="6.jpg cannot be decoded"),
    ]
    assert list(predict_lines(answers)) == [
        "image           class       probability",
        "photos/one.jpg  shirt         91 %",
        "two.jpg         longsleeve    48 %  uncertain",
        "3.jpg           hat         > 99 %",
        "4.jpg           hat           70 %  unlike the training images",
        "6.jpg           -                -  cannot be decoded",
    ]


def test_answers_are_printed_as_they_come():
    endless = (answer(f"{i}.jpg") for i in count())
    assert len(list(islice(predict_lines(endless), 40))) == 40


def test_the_name_of_a_file_cannot_steer_the_terminal():
    _, line = predict_lines([answer("a\x1b[2J\nb.jpg", "c\x07")])
    assert line == "a?[2J?b.jpg  c?       91 %"


def test_a_long_path_does_not_push_the_others_away():
    lines = list(predict_lines([answer("d/" * 60 + "x.jpg"), answer("y.jpg")]))
    assert len(lines[2]) < 80


def test_scores_list_the_weakest_class_first():
    metrics = {"balanced_accuracy": 0.75, "macro_f1": 0.74, "log_loss": 0.6, "ece": 0.05}
    hat = ClassScore(
        label="hat",
        n=20,
        recall=1.0,
        low=0.82,
        high=1.0,
        precision=0.8,
        answers=25,
        confused_with=None,
        n_confused=0,
    )
    shirt = replace(hat, label="shirt", recall=0.5, low=0.3, high=0.7, precision=1.0)
    shirt = replace(shirt, confused_with="hat", n_confused=5)
    scores = ScoresByClass(n=40, accuracy=0.75, low=0.6, high=0.86, **metrics, classes=(hat, shirt))
    assert scores_text(scores).splitlines() == [
        "Accuracy  75 % (95 % CI 60–86) on 40 images.",
        "          75 % balanced over classes.",
        "Also      macro F1 0.74, log-loss 0.60, calibration error (ECE) 0.05",
        "",
        "class  images  recall          precision  most often taken for",
        "shirt      20  50 % (30–70)        100 %  hat (5)",
        "hat        20  100 % (82–100)       80 %",
    ]


def test_base_models():
    lite = SimpleNamespace(name="lite0", title="Lite0", parameters=4_652_008, size_px=224)
    bare = SimpleNamespace(name="timm:long", title="t" * 90, parameters=None, size_px=None)
    text = models_text([lite, bare])
    words = "lite0 Lite0 4.7 M parameters, 224 px"
    assert " ".join(text.splitlines()[0].split()) == words
    assert max(map(len, text.splitlines())) <= 80
    assert "No base model on this computer matches `zzz`." in models_text([], "zzz")


def test_cache():
    info = SimpleNamespace(
        path="/home/me/.cache/warmstart",
        feature_sets=1,
        rows=1234,
        bytes=130_000_000,
        limit_bytes=5_000_000_000,
    )
    assert (
        cache_text(info)
        == """\
Cache     /home/me/.cache/warmstart
Size      130 MB of at most 5.0 GB: features of 1,234 images, 1 set.
Clear     warmstart cache clear"""
    )
    assert cleared_text(info) == "Removed 130 MB from /home/me/.cache/warmstart."
