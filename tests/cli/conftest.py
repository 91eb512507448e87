"""Stand-ins for the work, so that the command line is tested in isolation."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from warmstart.cli import cache
from warmstart.data import names as data_names
from warmstart.events import Event
from warmstart.records.answer import Skipped, Suggestion, Suggestions
from warmstart.records.comparison import RankedModel, Ranking
from warmstart.records.summary import (
    DataCounts,
    Estimate,
    FrozenProof,
    Readiness,
    Scores,
    ShippedCandidate,
    Summary,
    TensorCounts,
    Verdict,
)

SUMMARY = Summary(
    task="classify",
    verdict=Verdict(kind="linear-probe", sentence="The linear probe is enough."),
    shipped=ShippedCandidate(strategy="head", why="a linear probe, all 18 layers frozen"),
    estimate=Estimate(
        metric="accuracy", value=0.86, low=0.82, high=0.89, n=300, method="nested-cv"
    ),
    readiness=Readiness(level="review", reasons=("1 in 7 predictions is wrong",)),
    linear_probe=Estimate(
        metric="accuracy", value=0.86, low=0.82, high=0.89, n=300, method="nested-cv"
    ),
    fine_tuning_gain=None,
    test=None,
    data=DataCounts(
        train=300, test=0, classes=10, unreadable=0, near_duplicates=0, leaks=0, label_issues=0
    ),
    base=TensorCounts(name="lite0", sha256="00", parameters=4_652_008),
    frozen=FrozenProof(parameters=10, buffers=2, identical=True),
    guards=(),
    findings=(),
    seconds={"total": 1.0},
    peak_rss_mb=100.0,
)
NO_SIGNAL = replace(
    SUMMARY,
    verdict=Verdict(kind="no-signal", sentence="No signal found in 180 examples."),
    shipped=ShippedCandidate(strategy="none", why="no signal was found"),
    estimate=None,
)
SCORES = Scores(
    n=200,
    accuracy=0.84,
    low=0.78,
    high=0.88,
    balanced_accuracy=0.83,
    macro_f1=0.82,
    log_loss=0.45,
    ece=0.03,
)
RANKING = Ranking(
    models=(
        RankedModel(
            name="lite0",
            title="EfficientNet-Lite0",
            arch=None,
            value=0.86,
            low=0.82,
            high=0.89,
            seconds=4.1,
            parameters=4_652_008,
            macs=400,
            seconds_per_image=0.02,
            cached=False,
            head="last",
            difference=0.0,
            difference_low=0.0,
            difference_high=0.0,
        ),
    ),
    ties=(),
    choice="lite0",
    because="no other base model was tried",
    n=300,
    majority=0.1,
    method="nested-cv",
)


SUGGESTIONS = Suggestions(
    suggestions=(Suggestion(path="in/a.jpg", label="hat", probability=0.4, why="unsure"),),
    expected=None,
    skipped=Skipped(present=0, copies=0, unreadable=0),
    candidates=1,
)


@dataclass(frozen=True, kw_only=True)
class Request:
    """The fields of the real one."""

    data: str
    base: str = "lite0"
    arch: str | None = None
    strategy: str = "auto"
    budget: str = "balanced"
    out: Path | None = None
    label: str | None = None
    group: str | None = None
    test: str | None = None
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The fields of the real one."""

    name: str
    title: str
    parameters: int | None
    size_px: int | None
    where: str


@dataclass(frozen=True, kw_only=True)
class CacheInfo:
    """The fields of the real one."""

    path: Path
    feature_sets: int
    rows: int
    bytes: int
    limit_bytes: int


INFO = CacheInfo(
    path=Path("cache"), feature_sets=2, rows=1234, bytes=130_000_000, limit_bytes=5 * 10**9
)


class Work:
    """The requests that the stand-ins got, and their answers."""

    info, no_signal, scores = INFO, NO_SIGNAL, SCORES

    def __init__(self):
        self.requests = []
        self.closed = False
        self.summary = SUMMARY
        self.error = None
        self.answers = []

    def fit(self, request):
        self.requests.append(request)
        try:
            yield Event(stage="features", kind="begin", of=4, t=0.0)
            yield Event(
                stage="features", kind="step", step=2, of=4, t=1.0, values={"per_second": 2.0}
            )
            if self.error is not None:
                raise self.error
            note = {"title": "Proof", "text": "frozen: unchanged, bit for bit"}
            yield Event(stage="deliver", kind="note", t=2.0, values=note)
        finally:
            self.closed = True
        return SimpleNamespace(path=Path("runs/photos"), summary=self.summary)

    def predict(self, run, paths):
        self.requests.append((run, list(paths)))
        if self.error is not None:
            raise self.error
        return iter(self.answers)

    def evaluate(self, run, data, *, label=None, group=None):
        self.requests.append((run, data, label, group))
        yield Event(stage="features", kind="begin", of=200, t=0.0)
        if self.error is not None:
            raise self.error
        return SCORES

    def rank(self, data, models=(), *, label=None, group=None, task="auto", seed=0, strict=False):
        self.requests.append((data, list(models), label, group, seed))
        yield Event(stage="features", kind="begin", of=200, t=0.0)
        if self.error is not None:
            raise self.error
        return RANKING

    def suggest(self, run, paths, *, count, out=None):
        self.requests.append((run, list(paths), count, out))
        yield Event(stage="features", kind="step", step=1, of=1, t=0.0)
        if self.error is not None:
            raise self.error
        return SUGGESTIONS

    def models(self, word=""):
        self.requests.append(word)
        lite = {"name": "lite0", "title": "EfficientNet-Lite0", "parameters": 4_652_008}
        listings = [Listing(**lite, size_px=224, where="lite0.pth")]
        return tuple(base for base in listings if word in base.name)


@pytest.fixture
def work(monkeypatch):
    """Put stand-ins where the verbs look for the work."""
    standing_in = Work()

    def place(name, **members):
        module = ModuleType(name)
        for member, value in members.items():
            setattr(module, member, value)
        monkeypatch.setitem(sys.modules, name, module)
        return module

    monkeypatch.setattr(data_names, "check_exists", lambda text: None)  # no data has to be there
    place("warmstart.run.fit", Request=Request, fit=standing_in.fit)
    place("warmstart.run.predictor", predict=standing_in.predict, evaluate=standing_in.evaluate)
    place("warmstart.run.base_model", rank_base_models=standing_in.rank)
    place("warmstart.run.suggest", suggest=standing_in.suggest)
    place("warmstart.network.registry", models=standing_in.models)
    for name in ("info", "clear"):
        monkeypatch.setattr(cache, name, lambda: INFO)
    return standing_in
