"""Numbers measured in the user's unit."""

import numpy as np
import pytest
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

from warmstart.records.data import Example
from warmstart.tasks.regress import Regression

RNG = np.random.default_rng(0)
VALUES = 40 + 8 * RNG.normal(size=200)
SAID = VALUES + 2 * RNG.normal(size=200)
TARGET = Regression.of(VALUES)
Z, ANSWERS = TARGET.read([str(v) for v in VALUES], ()), TARGET.read([str(v) for v in SAID], ())


def test_metrics_are_those_of_scikit_learn():
    measure, groups = TARGET, np.arange(200)
    certainty = measure.certainty(ANSWERS[:, None], Z, groups)
    found = measure.scores(ANSWERS[:, None], Z, groups, certainty)
    assert found.r2 == pytest.approx(r2_score(VALUES, SAID))
    assert found.mae == pytest.approx(mean_absolute_error(VALUES, SAID))
    assert found.rmse == pytest.approx(root_mean_squared_error(VALUES, SAID))
    assert found.coverage == pytest.approx(0.9, abs=0.02)
    assert certainty.half_width == pytest.approx(3.3, abs=0.6)  # 1.64 of 2


def test_lines_have_the_value_and_its_interval():
    measure = TARGET
    few = measure.certainty(ANSWERS[:5, None], Z[:5], np.arange(5))
    assert few.half_width is None
    example = Example(id="a", label="40", split="train", sha256="")
    line = measure.line(example, 0, np.array([0.0]), (), few)
    assert (line.value, line.low, line.high) == (TARGET.mean, None, None)
    sure = measure.certainty(ANSWERS[:, None], Z, np.arange(200))
    line = measure.line(example, None, np.array([0.0]), (), sure)
    assert line.split == "test"
    assert line.low < line.value < line.high
