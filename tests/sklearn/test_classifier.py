"""The scikit-learn estimator: its promises, tables, images, weights, pickles."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_wine
from sklearn.ensemble import AdaBoostClassifier
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import tiny_text_encoder
import warmstart
from hue_images import draw
from tiny import PREP, network
from warmstart.errors import DataError, PlanError, UsageError
from warmstart.features.cache import FeatureCache
from warmstart.machine import default_root
from warmstart.sklearn.estimators import WarmStartClassifier, WarmStartRegressor


@parametrize_with_checks([WarmStartClassifier(), WarmStartClassifier(base=None, strategy="head")])
def test_it_keeps_what_scikit_learn_promises(estimator, check):
    check(estimator)


# ---- tables --------------------------------------------------------------------------------


@pytest.mark.parametrize("load", [load_wine, load_breast_cancer])
def test_on_a_table_it_is_as_good_as_logistic_regression(load):
    X, y = load(return_X_y=True)
    usual = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    ours = cross_val_score(WarmStartClassifier(), X, y, cv=5)
    assert ours.mean() > cross_val_score(usual, X, y, cv=5).mean() - 0.03


def test_its_answer_on_a_table_is_one_matrix():
    X, y = load_wine(return_X_y=True)
    fitted = WarmStartClassifier().fit(X, y)
    np.testing.assert_allclose(fitted.decision_function(X), X @ fitted.coef_.T + fitted.intercept_)
    assert fitted.n_features_in_ == X.shape[1]
    assert fitted.predict_proba(X).sum(axis=1) == pytest.approx(1)
    np.testing.assert_allclose(
        np.exp(fitted.predict_log_proba(X)), fitted.predict_proba(X), atol=1e-12
    )


def test_random_labels_in_a_table_come_out_at_chance():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(300, 40)), rng.integers(0, 3, 300)
    scores = cross_val_score(WarmStartClassifier(), X, y, cv=5)
    assert abs(scores.mean() - 1 / 3) < 3 * np.sqrt(2 / 9 / 300)


def test_weights_change_a_table_as_repeated_rows_do():
    X, y = load_wine(return_X_y=True)
    times = np.random.default_rng(0).integers(0, 4, len(y))
    again = np.repeat(np.arange(len(y)), times)
    one = WarmStartClassifier().fit(X, y, sample_weight=times).predict_proba(X)
    other = WarmStartClassifier().fit(X[again], y[again]).predict_proba(X)
    np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("scale", [1e-300, 1e-6, 1e6, 1e300])
def test_only_the_ratios_of_weights_count_in_a_table(scale):
    X, y = load_wine(return_X_y=True)
    weights = np.random.default_rng(0).uniform(0.5, 4, len(y))
    one = WarmStartClassifier().fit(X, y, sample_weight=weights)
    other = WarmStartClassifier().fit(X, y, sample_weight=scale * weights)
    assert one.penalty_ == other.penalty_
    np.testing.assert_allclose(one.predict_proba(X), other.predict_proba(X), rtol=1e-6, atol=1e-9)


def test_weights_that_sum_to_1_are_as_good_as_with_logistic_regression():
    X, y = load_wine(return_X_y=True)
    weights = np.random.default_rng(0).uniform(0.5, 2, len(y))
    train, test = np.arange(len(y)) % 2 == 0, np.arange(len(y)) % 2 == 1
    weights = weights[train] / weights[train].sum()
    usual = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    usual.fit(X[train], y[train], logisticregression__sample_weight=len(weights) * weights)
    ours = WarmStartClassifier().fit(X[train], y[train], sample_weight=weights)
    assert ours.score(X[test], y[test]) > usual.score(X[test], y[test]) - 0.03


def test_it_can_be_boosted():
    X, y = load_wine(return_X_y=True)
    boosted = AdaBoostClassifier(WarmStartClassifier(), n_estimators=3, random_state=0)
    assert cross_val_score(boosted, X, y, cv=3).mean() > 0.9


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (
            {"strategy": "last:2"},
            UsageError,
            "last:2 trains layers of a network, and a table has none",
        ),
        ({"strategy": "best"}, PlanError, "best is not a word of it"),
        ({"base": "lite0"}, UsageError, "base='lite0' is a network for images; use base=None"),
    ],
)
def test_options_that_do_not_suit_a_table(wrong, error, message):
    X, y = load_wine(return_X_y=True)
    with pytest.raises(error, match=message):
        WarmStartClassifier(**wrong).fit(X, y)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0], r"shape \(1,\), X has 4 rows"),
        ([1.0, -1.0, 1.0, 1.0], "below 0, or none at all"),
        ([1.0, np.nan, 1.0, 1.0], "below 0, or none at all"),
        ([0.0] * 4, "zero for every row"),
        ([1.0, 1.0, 0.0, 0.0], "1 class"),
    ],
)
def test_weights_that_are_none(weights, message):
    X, y = np.arange(4.0)[:, None], [0, 0, 1, 1]
    with pytest.raises(DataError, match=message):
        WarmStartClassifier().fit(X, y, sample_weight=weights)


# ---- images --------------------------------------------------------------------------------


def pictures(n=36, seed=0):
    """n pictures in three hues as one array, and what they are called."""
    rng = np.random.default_rng(seed)
    hues = np.arange(n) % 3
    X = np.stack([np.asarray(draw(rng, hue)) for hue in hues])
    return X, np.array(["red", "green", "blue"])[hues]


def tiny(**options):
    """From a tiny network with random weights."""
    return WarmStartClassifier(**{"base": network(), "preprocessing": PREP, **options})


@pytest.fixture
def paths(tmp_path):
    """The same pictures as files, and their classes."""
    X, y = pictures()
    files = []
    for index, image in enumerate(X):
        files.append(str(tmp_path / f"{index:02}.png"))
        Image.fromarray(image).save(files[-1])
    return files, y


def test_it_learns_images_and_tells_what_the_run_found():
    X, y = pictures()
    fitted = tiny().fit(X, y)
    fresh, truth = pictures(30, seed=5)
    assert fitted.score(fresh, truth) > 0.9
    assert fitted.classes_.tolist() == ["blue", "green", "red"]
    assert fitted.predict_proba(fresh).shape == (30, 3)
    assert fitted.predict_proba(fresh).sum(axis=1) == pytest.approx(1)
    assert fitted.verdict_.sentence
    assert fitted.estimate_.low < fitted.estimate_.value <= 1
    assert fitted.plan_.strategy.value == "head"
    assert not hasattr(fitted, "n_features_in_")


def test_it_is_the_run_of_warmstart_fit(tmp_path):
    X, y = pictures()
    fitted = tiny().fit(X, y)
    run = warmstart.fit(
        (X, y), base=network(), preprocessing=PREP, budget="fast", out=tmp_path / "run"
    )
    fresh, _ = pictures(12, seed=6)
    answers = run.predict(list(fresh))
    ours = fitted.predict_proba(fresh)
    for row, answer in zip(ours, answers, strict=True):
        slow = [answer.scores[name] for name in fitted.classes_]
        np.testing.assert_allclose(row, slow, atol=1e-4)
    assert fitted.verdict_ == run.verdict


def test_no_folder_is_left_behind(tmp_path, monkeypatch):
    place = tmp_path / "tmp"
    place.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(place))
    monkeypatch.chdir(tmp_path)
    X, y = pictures()
    tiny().fit(X, y)
    assert list(place.iterdir()) == []
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("kind", ["list", "tuple", "array", "column", "Path"])
def test_paths_in_any_usual_form(paths, kind):
    files, y = paths
    forms = {
        "list": files,
        "tuple": tuple(files),
        "array": np.array(files),
        "column": np.array(files, dtype=object)[:, None],
        "Path": [Path(f) for f in files],
    }
    X = forms[kind]
    fitted = tiny().fit(X, y)
    assert (fitted.predict(X) == y).mean() > 0.9


def test_validation_and_search_pass_each_image_once(paths):
    files, y = paths
    assert cross_val_score(tiny(), files, y, cv=3).mean() > 0.9
    kept = FeatureCache(default_root()).info()
    assert kept.rows == len(files) * kept.feature_sets
    search = GridSearchCV(
        make_pipeline(tiny()), {"warmstartclassifier__random_state": [0, 1]}, cv=4
    ).fit(files, y)
    assert search.best_score_ > 0.9
    assert search.best_estimator_.predict(files[:3]).tolist() == y[:3].tolist()
    assert FeatureCache(default_root()).info() == kept  # nothing was passed again


def test_images_that_were_extracted_need_no_network(paths, monkeypatch):
    files, y = paths
    fitted = tiny().fit(files, y)
    monkeypatch.setattr("warmstart.sklearn.learner.open_base", None)
    assert (fitted.predict(files) == y).mean() > 0.9


def test_search_over_strategies_trains_them():
    X, y = pictures()
    short = {"training.epochs": 1.7778, "training.batch_size": 8, "training.folds": 1}
    fitted = tiny(strategy="last:1", settings=short).fit(X, y)
    assert fitted.plan_.is_trained
    fresh, truth = pictures(30, seed=5)
    assert fitted.score(fresh, truth) > 0.8
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_allclose(again.predict_proba(fresh), fitted.predict_proba(fresh), atol=1e-6)


def test_random_labels_answer_with_the_classes_shares():
    X, _ = pictures(60)
    rng = np.random.default_rng(1)
    y = rng.permutation(np.repeat([0, 1], [40, 20]))
    with pytest.warns(UserWarning, match="shares of the classes"):
        fitted = tiny().fit(X, y)
    assert fitted.verdict_.kind == "no-signal"
    fresh, _ = pictures(30, seed=5)
    np.testing.assert_allclose(fitted.predict_proba(fresh), [[2 / 3, 1 / 3]] * 30)
    asked = tiny(strategy="head").fit(X, y)
    held = np.arange(30) % 2
    assert abs((asked.predict(fresh) == held).mean() - 0.5) < 0.3


def test_weights_of_images_are_repeated_images():
    X, y = pictures(24)
    times = np.random.default_rng(0).integers(1, 4, len(y))
    fresh, _ = pictures(12, seed=5)
    last = {"head.candidates": "last"}
    one = tiny(settings=last).fit(X, y, sample_weight=2 * times)
    twice = np.repeat(np.arange(len(y)), 2)
    other = tiny(settings=last).fit(X[twice], y[twice], sample_weight=times[twice])
    np.testing.assert_allclose(one.predict_proba(fresh), other.predict_proba(fresh), atol=1e-5)


def test_only_the_ratios_of_weights_of_images_count():
    X, y = pictures(24)
    weights = np.random.default_rng(0).uniform(0.5, 4, len(y))
    fresh, _ = pictures(12, seed=5)
    one = tiny().fit(X, y, sample_weight=weights).predict_proba(fresh)
    other = tiny().fit(X, y, sample_weight=weights / weights.sum()).predict_proba(fresh)
    np.testing.assert_allclose(one, other, atol=1e-5)
    plain = tiny().fit(X, y).predict_proba(fresh)
    same = tiny().fit(X, y, sample_weight=np.full(len(y), 1 / len(y))).predict_proba(fresh)
    np.testing.assert_array_equal(same, plain)


def test_weights_of_one_are_none():
    X, y = pictures(24)
    fresh, _ = pictures(12, seed=5)
    plain = tiny().fit(X, y).predict_proba(fresh)
    same = tiny().fit(X, y, sample_weight=np.ones(len(y))).predict_proba(fresh)
    np.testing.assert_array_equal(same, plain)
    heavy = tiny().fit(X, y, sample_weight=np.arange(1, 25)).predict_proba(fresh)
    assert not np.allclose(heavy, plain, atol=1e-4)


def test_a_weight_of_nothing_is_an_image_left_out():
    X, y = pictures(24)
    wrong = np.concatenate([X, X[:6]]), np.concatenate([y, np.roll(y[:6], 1)])
    weights = np.repeat([1.0, 0.0], [24, 6])
    fresh, _ = pictures(12, seed=5)
    one = tiny().fit(*wrong, sample_weight=weights).predict_proba(fresh)
    np.testing.assert_array_equal(one, tiny().fit(X, y).predict_proba(fresh))


def test_a_path_given_twice_counts_twice(paths):
    files, y = paths
    twice = tiny().fit([*files, *files[:9]], [*y, *y[:9]])
    weights = np.ones(len(files))
    weights[:9] = 2
    weighted = tiny().fit(files, y, sample_weight=weights)
    np.testing.assert_allclose(twice.predict_proba(files), weighted.predict_proba(files))
    assert twice.predict([files[0], files[0]]).tolist() == [y[0], y[0]]


def test_labels_of_any_kind_come_back_as_they_were():
    X, y = pictures()
    number = {"red": 10, "green": 2, "blue": -1}
    fitted = tiny().fit(X, [number[name] for name in y])
    assert fitted.classes_.tolist() == [-1, 2, 10]
    assert (fitted.predict(X) == [number[name] for name in y]).mean() > 0.9
    two = tiny().fit(X, y == "red")
    assert two.predict(X).dtype == bool
    assert two.decision_function(X).shape == (36,)
    assert ((two.decision_function(X) > 0) == two.predict(X)).all()


def test_a_copy_knows_nothing_and_a_pickle_everything(paths):
    files, y = paths
    fitted = tiny().fit(files, y)
    with pytest.raises(NotFittedError):
        clone(fitted).predict(files)
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_allclose(again.predict_proba(files), fitted.predict_proba(files), atol=1e-4)
    assert again.verdict_ == fitted.verdict_


def test_a_fit_on_another_kind_forgets_the_first():
    X, y = pictures()
    one = tiny().fit(X, y).set_params(base=None)
    one.fit(*load_wine(return_X_y=True))
    assert not hasattr(one, "verdict_")
    one.set_params(base=network()).fit(X, y)
    assert not hasattr(one, "coef_")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"base": None}, UsageError, "is for tables, and X holds images"),
        ({"budget": "quick"}, UsageError, "quick is not one of"),
    ],
)
def test_options_that_do_not_suit_images(options, error, message):
    X, y = pictures()
    with pytest.raises(error, match=message):
        tiny(**options).fit(X, y)


def test_mistakes_with_images_name_the_row(paths):
    files, y = paths
    X, _ = pictures()
    with pytest.raises(UsageError, match="sample_weight has no part"):
        tiny(strategy="last:1").fit(X, y, sample_weight=np.arange(36))
    with pytest.raises(DataError, match="X has 36 rows, y has 35"):
        tiny().fit(X, y[:-1])
    with pytest.raises(DataError, match="twice, with two labels"):
        tiny().fit([*files, files[0]], [*y, "green"])
    fitted = tiny().fit(files, y)
    with pytest.raises(DataError, match="not found"):
        fitted.predict(["nowhere.png"])
    with pytest.raises(DataError, match="X is not an array of images"):
        fitted.predict([[1.0, 2.0]])
    broken = files[0].replace("00.png", "broken.png")
    with open(broken, "wb") as file:
        file.write(b"no picture")
    with pytest.raises(DataError, match="leave it out of X"):
        fitted.predict([broken])


def test_a_column_of_words_is_named():
    frame = pd.DataFrame({"size": [1.0, 2, 3, 4] * 3, "town": ["Rome", "Oslo", "3", None] * 3})
    for made in (WarmStartClassifier(), WarmStartRegressor()):
        with pytest.raises(DataError, match=r"column 'town' holds words \('Rome'\); encode it"):
            made.fit(frame, [0, 1] * 6)
    numbers = frame[["size"]].assign(other=["1", "2", "3.5", "1e3"] * 3)
    assert len(WarmStartClassifier().fit(numbers, [0, 1] * 6).predict(numbers)) == 12


# ---- texts ---------------------------------------------------------------------------------


def test_texts_are_learnt_and_answered_like_images(tmp_path):
    pytest.importorskip("transformers", reason="transformers is not installed")
    X, y = zip(*tiny_text_encoder.rows(8), strict=True)
    base = f"transformers:{tiny_text_encoder.encoder(tmp_path / 'encoder')}"
    fitted = WarmStartClassifier(base=base).fit(list(X), y)
    assert fitted.score(list(X), y) > 0.8
    assert fitted.predict(["the goal of a team"]).tolist() == ["sport"]
    assert fitted.predict_proba(np.array(["soup", "rain and wind"])).shape == (2, 3)
    weighted = WarmStartClassifier(base=base, strategy="head")
    weighted.fit(np.array(X), y, sample_weight=np.arange(1, len(y) + 1))
    assert weighted.predict(["bread and cheese"]).tolist() == ["food"]
    with pytest.raises(DataError, match=r"X\[1\] is an empty text; fill it in or drop the row"):
        fitted.predict(["a goal", " "])
