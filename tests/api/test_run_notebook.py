"""A run in a notebook cell."""

from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

from warmstart.api.run import run_html
from warmstart.evaluation.readiness import readiness_line
from warmstart.records.summary import ShippedCandidate, Verdict
from warmstart.terminal.result_text import estimate_text


class Texts(HTMLParser):
    """The tags and the texts of a page; unclosed ones stay in `open`."""

    def __init__(self, page):
        super().__init__()
        self.texts, self.tags, self.open = [], set(), []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def test_it_says_what_a_reader_wants_first(finished):
    page = Texts(finished._repr_html_())
    assert page.open == []
    assert page.tags == {"div", "p", "b", "table", "tr", "th", "td"}
    text = " ".join(page.texts)
    assert page.texts[0] == readiness_line(finished.summary.readiness)
    assert finished.verdict.sentence.rstrip(".") in text
    assert estimate_text(finished.estimate) in text
    assert "on the test set" in text
    assert str(finished.path) in text
    assert finished.summary.shipped.strategy in text


def test_nothing_in_it_can_run(finished):
    evil = "<script>alert(1)</script> & \x1b[2J\nmore"
    summary = replace(
        finished.summary,
        verdict=Verdict(kind="inconclusive", sentence=evil),
        shipped=ShippedCandidate(strategy="head", why=evil),
    )
    page = run_html(summary, Path("a<img src=x onerror=y>"))
    assert Texts(page).tags == {"div", "p", "b", "table", "tr", "th", "td"}
    assert "\x1b" not in page


def test_without_a_model_there_is_no_accuracy(finished):
    summary = replace(finished.summary, shipped=ShippedCandidate(strategy="none", why="no signal"))
    texts = Texts(run_html(summary, Path("x"))).texts
    assert "Accuracy" not in texts
    assert "nothing: no signal." in texts
