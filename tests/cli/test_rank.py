"""The table of a ranking: 80 columns, ties in words, the command to type next."""

from __future__ import annotations

from dataclasses import replace

from warmstart.cli.rank import ranking_text
from warmstart.records.comparison import Failed, RankedModel, Ranking


def base(name, value, difference=0.0, **values):
    given = {
        "title": name,
        "arch": None,
        "low": value - 0.04,
        "high": value + 0.03,
        "seconds": 4.1,
        "parameters": 4_652_008,
        "macs": 400,
        "seconds_per_image": 0.01,
        "cached": False,
        "head": "last",
        "difference": difference,
        "difference_low": difference - 0.02,
        "difference_high": difference + 0.02,
        **values,
    }
    return RankedModel(name=name, value=value, **given)


FILE = "models/a name.safetensors@timm:resnet18"
RANKING = Ranking(
    models=(
        base("lite1", 0.95, seconds=61.0),
        base("lite0", 0.94, -0.01),
        base(FILE, 0.7, -0.25, arch="timm:resnet18", cached=True, parameters=11_700_000),
    ),
    ties=(("lite1", "lite0"),),
    choice="lite0",
    because="right on 94 % (95 % CI 90–97) of 244 images it had not seen; lite1 (95 %, 1.6 times "
    "the work) ties with it: the difference could be chance",
    n=244,
    majority=0.51,
    method="nested-cv",
)


def test_a_ranking():
    assert (
        ranking_text(RANKING, ["my photos"])
        == """\
base                       accuracy      seconds  size
lite1                      95 % (91–98)  61 s     4.7 M   best
lite0                      94 % (90–97)  4.1 s    4.7 M   ties with the best
…afetensors@timm:resnet18  70 % (66–73)  cached   11.7 M  worse by 25 (23 to 27)

Meaning   Accuracy of a linear probe on images, cross-validated (244), with its
          95 % interval; always predicting the largest class is right on 51 %.
          cached: the features were extracted earlier, so there was nothing to
          time.

Take      lite0: right on 94 % (95 % CI 90–97) of 244 images it had not seen;
          lite1 (95 %, 1.6 times the work) ties with it: the difference could be
          chance.
Next      warmstart fit 'my photos' --base lite0"""
    )


def test_a_file_of_weights_comes_with_its_architecture():
    text = ranking_text(replace(RANKING, choice=FILE), ["photos"])
    command = "warmstart fit photos --base 'models/a name.safetensors' --arch timm:resnet18"
    assert text.splitlines()[-1] == f"Next      {command}"


def test_failures_omissions_and_other_ties_are_listed():
    rows = tuple(base(f"n{i}", 0.9 - i / 10, -i / 10) for i in range(4))
    ranking = replace(
        RANKING,
        models=rows,
        ties=(("n1", "n2", "n3"),),
        choice="n0",
        left_out=("n8", "n9"),
        failed=(Failed(name="n7", error="base model 'n7' is not known."),),
        method="holdout",
    )
    text = ranking_text(ranking, ["photos"])
    assert "n1    80 % (76–83)  4.1 s    4.7 M  worse by 10 (8 to 12)\n" in text
    assert "Ties      n1, n2 and n3 tie with each other.\n" in text
    assert "Failed    n7: base model 'n7' is not known.\n" in text
    assert "Left out  n8, n9; name them in --models.\n" in text
    assert "on your hold-out (244)" in text
    assert "ties with the best" not in text


def test_base_models_without_a_gain_are_called_so():
    for majority, is_said in ((0.92, True), (0.51, False)):
        text = ranking_text(replace(RANKING, majority=majority), ["photos"])
        assert ("None of them is measurably better than" in " ".join(text.split())) is is_said


def test_many_images_and_long_names_stay_within_80_columns():
    long = base("f" * 120 + "@timm:x", 0.8123, -0.1234, arch="timm:x", seconds=3900.0)
    many = replace(RANKING, models=(*RANKING.models, long), n=123_456)
    assert max(map(len, ranking_text(many, ["photos"]).splitlines())) <= 80


def test_a_single_base_model_is_not_called_best_and_no_name_steers_the_terminal():
    alone = replace(RANKING, models=RANKING.models[1:2], ties=())
    first = ranking_text(alone, ["photos"]).splitlines()[1]
    assert first == "lite0  94 % (90–97)  4.1 s    4.7 M"
    odd = replace(RANKING, models=(base("a\x1b[2J", 0.9),), ties=(), choice="a\x1b[2J")
    assert ranking_text(odd, ["p\x07"]).replace("\n", "").isprintable()
