"""Stand-ins for the work, so that the command line is tested in isolation."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from cli.test_rank import RANKING
from reports import summary
from warmstart.cli import cache
from warmstart.data import names as data_names
from warmstart.events import Event
from warmstart.features.cache import CacheInfo
from warmstart.network.registry import ModelListing
from warmstart.records.answer import Skipped, Suggestion, Suggestions
from warmstart.records.summary import ShippedCandidate, Verdict

SUMMARY = summary(
    verdict=Verdict(kind="linear-probe", sentence="The linear probe is enough."), findings=()
)
NO_SIGNAL = replace(
    SUMMARY,
    verdict=Verdict(kind="no-signal", sentence="No signal found in 180 examples."),
    shipped=ShippedCandidate(strategy="none", why="no signal was found"),
    estimate=None,
)
SUGGESTIONS = Suggestions(
    suggestions=(Suggestion(path="in/a.jpg", label="hat", probability=0.4, why="unsure"),),
    expected=None,
    skipped=Skipped(present=0, copies=0, unreadable=0),
    candidates=1,
)


LITE = ModelListing(
    name="lite0", title="Lite0", parameters=4_652_008, size_px=224, where="lite0.pth"
)
INFO = CacheInfo(path="cache", feature_sets=2, rows=1234, bytes=130_000_000, limit_bytes=5 * 10**9)


class Work:
    """The requests that the stand-ins got, and their answers."""

    no_signal, scores = NO_SIGNAL, SUMMARY.test

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
            yield Event(stage="features", kind="step", step=2, of=4, t=1.0)
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

    def _work(self, request, result):
        self.requests.append(request)
        yield Event(stage="features", kind="step", step=1, of=1, t=0.0)
        if self.error is not None:
            raise self.error
        return result

    def evaluate(self, run, data, *, label=None, group=None):
        return self._work((run, data, label, group), SUMMARY.test)

    def rank(self, data, models=(), *, label=None, group=None, task="auto", seed=0, strict=False):
        return self._work((data, list(models), label, group, seed), RANKING)

    def suggest(self, run, paths, *, count, out=None):
        return self._work((run, list(paths), count, out), SUGGESTIONS)

    def models(self, word=""):
        self.requests.append(word)
        return (LITE,) if word in LITE.name else ()


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
    place("warmstart.run.fit", fit=standing_in.fit)
    place("warmstart.run.predictor", predict=standing_in.predict, evaluate=standing_in.evaluate)
    place("warmstart.run.base_model", rank_base_models=standing_in.rank)
    place("warmstart.run.suggest", suggest=standing_in.suggest)
    place("warmstart.network.registry", models=standing_in.models)
    for name in ("info", "clear"):
        monkeypatch.setattr(cache, name, lambda: INFO)
    return standing_in
