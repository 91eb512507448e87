"""The page as a whole: whole HTML, nothing foreign, nothing that runs, the same bytes again."""

import re
from dataclasses import fields, replace
from html.parser import HTMLParser
from itertools import pairwise

import pytest

from issues import issues
from reports import NASTY, cases, facts, guard, ledger, summary
from warmstart.records.network import Ledger
from warmstart.records.summary import FineTuningGain, Inspection, ShippedCandidate
from warmstart.reporting.facts import ReportFacts
from warmstart.reporting.report import page

VOID = {"meta", "img", "br", "wbr", "link", "input"}
CASES = cases()


class Reader(HTMLParser):
    """Checks that elements are closed in their order; collects tags, ids and texts."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.ids, self.attributes, self.texts = [], [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def case(request):
    return request.param


def test_it_is_whole_html(case):
    reader = Reader(page(case))
    assert len(reader.ids) == len(set(reader.ids))
    assert reader.tags.count("h1") == reader.tags.count("main") == 1


def test_links_and_labels_point_to_what_is_there(case):
    reader = Reader(page(case))
    for _, name, value in reader.attributes:
        if name == "href":
            assert value.removeprefix("#") in reader.ids
        if name == "aria-labelledby":
            assert set(value.split()) <= set(reader.ids)


def test_nothing_is_loaded_and_nothing_runs(case):
    text = page(case)
    reader = Reader(text)
    assert not {"script", "iframe", "object", "embed", "link", "form", "base"} & set(reader.tags)
    for tag, name, value in reader.attributes:
        assert not name.startswith("on"), (tag, name)
        if name in ("src", "href", "srcset", "data", "action"):
            assert value.startswith(("data:image/", "#")), value
    assert not re.search(r"url\(|@import|https?:", text)
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    assert any(
        name == "content" and value.startswith(policy) for _, name, value in reader.attributes
    )


def test_the_same_facts_give_the_same_bytes(case):
    assert page(case) == page(replace(case))


def test_headings_go_down_one_step_at_a_time(case):
    levels = [int(tag[1]) for tag in Reader(page(case)).tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(b <= a + 1 for a, b in pairwise(levels))


def test_what_a_user_named_is_text():
    reader = Reader(page(CASES["nasty"]))
    assert "script" not in reader.tags
    assert any(NASTY in text for text in reader.texts)
    everything = "".join(reader.texts)
    assert not {x for x in everything if not x.isprintable()} - {"\n", "\xa0"}


def test_a_run_that_misnames_itself_stays_text():
    nasty = replace(facts(), place=NASTY, title=NASTY, in_words=NASTY, fates=(NASTY,))
    nasty = replace(
        nasty, repeat=replace(nasty.repeat, command=NASTY, data=NASTY, rows=((NASTY, NASTY),))
    )
    assert "script" not in Reader(page(nasty)).tags


def test_every_picture_has_its_words(case):
    reader = Reader(page(case))
    images = [tag for tag in reader.tags if tag == "img"]
    assert len(
        [1 for tag, name, value in reader.attributes if tag == "img" and name == "alt" and value]
    ) == len(images)


OPTIONAL = [
    f.name for f in fields(ReportFacts) if f.name not in ("place", "title", "summary", "repeat")
]


@pytest.mark.parametrize("name", OPTIONAL)
def test_what_an_older_run_lacks_is_left_out(name):
    field = next(f for f in fields(ReportFacts) if f.name == name)
    empty = {} if name in ("thumbs", "excerpts") else field.default
    Reader(page(replace(facts(), **{name: empty})))


def test_sections_come_in_the_order_of_the_work():
    titles = re.findall(r'<section id="(\w+)"', page(facts()))
    assert titles == ["data", "base", "verdict", "plan", "training", "proof", "cost"]


def test_eighty_classes_stay_legible_and_small():
    text = page(CASES["many classes"])
    assert "the 12 classes with the most mistakes" in text
    assert "All 80 classes at once" in text
    assert "all others" in text
    assert len(text.encode()) < 400_000


def test_one_class_that_is_never_found_is_named_first():
    rows = tuple(replace(s, label="hat") if s.target == "shirt" else s for s in facts().answers)
    classes = tuple(
        replace(c, recall=0.0, low=0.0, high=0.3) if c.label == "shirt" else c
        for c in facts().classes
    )
    text = page(facts(answers=rows, classes=classes))
    assert "Add images of “shirt”" in text
    assert text.index('<th scope="row">shirt') < text.index('<th scope="row">hat')


def test_a_perfect_run_says_so():
    rows = tuple(replace(s, label=s.target) for s in facts().answers)
    classes = tuple(
        replace(c, recall=1.0, confused_with=None, n_confused=0) for c in facts().classes
    )
    text = page(
        facts(
            answers=rows, classes=classes, inspection=Inspection(evidence=(), label_issues=issues())
        )
    )
    assert "It made no mistake on held-out examples." in text
    assert "Add images of" not in text


GAIN = FineTuningGain(
    value=0.031,
    low=0.004,
    high=0.058,
    n=300,
    log_loss=0.5,
    log_loss_change=-0.1,
    log_loss_low=-0.15,
    log_loss_high=-0.05,
)


@pytest.mark.parametrize(
    ("strategy", "row"),
    [("last:1", "the model"), ("ensemble", "the model"), ("head", "fine-tuned")],
)
def test_what_fine_tuning_changed_stands_beside_the_curves(strategy, row):
    probe = replace(summary().estimate, value=0.8, low=0.74, high=0.85)
    changed = summary(
        linear_probe=probe,
        fine_tuning_gain=GAIN,
        shipped=ShippedCandidate(strategy=strategy, why="…"),
    )
    text = page(facts(summary=changed))
    assert f"; {row} against it: +3 points" in text
    assert "(95\u00a0% CI 74–85)" in text
    assert "+3 points (95\u00a0% CI +0.4 to +6)." in text
    assert "On the same folds" not in page(facts())  # nothing was compared


def test_a_discarded_training_is_called_that():
    words = "the linear probe ships, and in the model every layer is frozen"
    text = page(facts())  # a plan that trains, and a head that ships
    assert f"last:1 was tried and not kept: {words}" in text
    assert (
        "Training was tried and not kept: these curves are those of a network that is not" in text
    )
    stopped = page(facts(summary=summary(guards=(guard(),))))
    assert f"last:1 was tried and given up: {words}" in stopped
    assert "Training was given up: these curves are those of a network that is not" in stopped
    tuned = summary(shipped=ShippedCandidate(strategy="last:1", why="…"), fine_tuning_gain=GAIN)
    assert words not in page(facts(summary=tuned))


def test_forgetting_is_reported():
    seen = facts(summary=summary(guards=(guard(),)), events=())
    assert "Kept: it has the better validation loss" in page(seen)
    assert "None is possible: no layer of the base model was changed." in page(
        facts(ledger=Ledger(rows=ledger().rows[:1]))
    )
    assert "no forgetting was seen" in page(facts())
    fitted = Ledger(rows=(replace(ledger().rows[0], fate="reshaped"), ledger().rows[2]))
    assert "No layer was trained. The input was adapted" in page(facts(ledger=fitted))
    kept, tuned, new, dropped = ledger().rows
    scratch = "The layers were trained from scratch: there was no base model to forget."
    assert scratch in page(facts(ledger=Ledger(rows=(new, dropped))))
    for rows in ((kept, tuned, new), (kept, new), fitted.rows):  # something of it is still there
        assert scratch not in page(facts(ledger=Ledger(rows=rows)))
    partly = page(facts(ledger=Ledger(rows=(kept, new))))
    assert "of the base model were not changed; the others are new." in partly


def test_the_same_model_is_not_guaranteed_where_minutes_cut_the_plan():
    plain = facts()
    assert "byte for byte" in page(plain)
    timed = page(replace(plain, repeat=replace(plain.repeat, is_timed=True)))
    assert "byte for byte" not in timed
    assert "--plan runs/clothing/plan.toml follows this one" in timed
