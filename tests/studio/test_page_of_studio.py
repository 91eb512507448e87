"""The studio in a real browser: folders in, verdict, mistakes, corrections, the model out."""

from __future__ import annotations

import re
from contextlib import contextmanager
from pathlib import Path

import pytest

from browser_checks import CHROMIUM, axe_violations
from hue_images import fill
from studio_client import open_as, predicted
from warmstart.data.dataset import Columns
from warmstart.data.read import apply_relabel, list_source
from warmstart.tasks.classify import CLASSIFICATION

pytestmark = pytest.mark.skipif(not Path(CHROMIUM).exists(), reason=f"{CHROMIUM} is not installed")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
expect = playwright.expect
# They are told apart by their hue, which their borders have as well.
REVIEW = "Usable with review: something other than the subject predicts the label"
LONG = 120_000  # ms: several test processes share the cores


@pytest.fixture
def data(tmp_path):
    """40 pictures in two folders, two of them in the wrong one."""
    return mislabelled(tmp_path / "pictures")


def mislabelled(place):
    """Two blue pictures lie among the red ones."""
    root = fill(place, {"blue": 20, "red": 20})
    for name in ("000.png", "001.png"):
        (root / "blue" / name).rename(root / "red" / f"wrong-{name}")
    return root


@contextmanager
def studio(place, data=None):
    """A studio on `place`; yields its server and project."""
    with open_as(place, data=data and str(data)) as page:
        yield page.server, page.project


@contextmanager
def page_of(browser, server, width=1400, **options):
    """A page whose console stays silent and that asks nobody else."""
    context = browser.new_context(viewport={"width": width, "height": 900}, **options)
    context.set_default_timeout(LONG)
    page = context.new_page()
    text, asked = [], []
    page.on("console", lambda line: text.append(line.text) if line.type == "error" else None)
    page.on("pageerror", lambda error: text.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{server.url}/?token=secret")
    page.wait_for_selector("#board:not([hidden]), #empty:not([hidden])", state="attached")
    yield page
    own = (server.url, "blob:", "data:")
    assert [url for url in asked if not url.startswith(own)] == []
    assert [line for line in text if "409" not in line] == []
    context.close()


def choose(page, button, paths):
    """Files or a folder, chosen as a person does."""
    with page.expect_file_chooser() as asked:
        button.click()
    asked.value.set_files(paths)


def learn(page):
    """Press the button, wait for the result."""
    page.locator("#train").click()
    expect(page.locator("#train")).to_have_text(re.compile(r"^Train again"), timeout=LONG)
    expect(page.locator("#estimate")).to_contain_text("%")


def pictures(page, name=None):
    return page.locator("#board .picture" + (f"[aria-label*='{name}']" if name else ""))


def test_from_two_folders_to_a_model_in_another_process(browser, data, tmp_path):
    with studio(tmp_path / "s") as (server, project), page_of(browser, server) as page:
        expect(page.locator("#train")).to_be_disabled()
        choose(page, page.get_by_role("button", name="Choose folders"), data)
        expect(pictures(page)).to_have_count(40)
        assert project.board.classes == ("blue", "red")
        assert len(project.history.done) == 1  # one drop, one step
        learn(page)
        page.get_by_role("link", name="Result").click()
        expect(page.locator("#result-content h1")).to_have_text(
            f"{REVIEW}; 1 in 20 predictions is wrong."
        )
        expect(page.locator("#result-content")).to_contain_text("Mistakes (2)")
        page.get_by_role("link", name="Pictures").click()
        for name in ("wrong-000", "wrong-001"):
            pictures(page, name).click()
            expect(pictures(page, name)).to_have_attribute("aria-label", re.compile("blue"))
            page.keyboard.press("1")
        expect(page.locator("#train")).to_have_text("Train again (2 changes)")
        before = page.locator("#estimate").inner_text()
        learn(page)
        expect(page.locator("#estimate")).to_contain_text(
            re.compile("no real difference|better by"), timeout=LONG
        )
        assert page.locator("#estimate").inner_text() != before
        page.get_by_role("link", name="Pictures").click()
        pictures(page, "010").first.click()
        page.keyboard.press("Delete")
        expect(page.locator("#undo")).to_contain_text("off the board")
        page.get_by_role("link", name="Result").click()
        for link, name in (("Model", "model.zip"), ("Labels", "labels.csv")):
            with page.expect_download() as taken:
                page.get_by_role("link", name=link, exact=True).click()
            taken.value.save_as(tmp_path / name)
    lines = (tmp_path / "labels.csv").read_text().splitlines()
    assert len(lines) == 41
    assert lines[0] == "path,label,split"
    assert {"red/wrong-000.png,blue,train", "blue/010.png,drop,train"} <= {*lines}
    labels = check_labels(data, tmp_path / "labels.csv")
    assert labels["red/wrong-001.png"] == "blue"
    assert "blue/010.png" not in labels
    assert predicted(tmp_path, tmp_path / "model.zip", data / "red" / "005.png") == "red"


def check_labels(data, table):
    """The labels of a data set that is read with a table of corrections."""
    listing = list_source(str(data), Columns())
    listing = apply_relabel(listing, table.read_bytes(), "labels.csv", CLASSIFICATION)
    return {row.id: row.label for row in listing.rows}


def test_photographs_are_chosen_under_a_name_and_added_to_a_class(browser, data, tmp_path):
    paths = sorted((data / "blue").glob("*.png"))
    with studio(tmp_path / "s") as (server, project), page_of(browser, server) as page:
        choose(page, page.get_by_role("button", name="Choose photographs"), paths[:2])
        page.locator("dialog input").fill("blue")
        page.locator("dialog").get_by_role("button", name="Add").click()
        expect(pictures(page)).to_have_count(2)
        choose(page, page.get_by_role("button", name="Add to blue"), paths[2:5])
        expect(pictures(page)).to_have_count(5)
        assert set(project.board.labels.values()) == {"blue"}


def test_undo_a_reload_and_a_second_tab_agree(browser, data, tmp_path):
    with (
        studio(tmp_path / "s", data) as (server, project),
        page_of(browser, server) as page,
        page_of(browser, server) as other,
    ):
        pictures(page, "005").first.click()
        page.keyboard.press("Delete")
        expect(pictures(page)).to_have_count(39)
        expect(pictures(other)).to_have_count(39)
        page.reload()
        expect(pictures(page)).to_have_count(39)
        page.keyboard.press("Control+z")
        expect(pictures(other)).to_have_count(40)
        other.keyboard.press("Control+Shift+z")
        expect(pictures(page)).to_have_count(39)
        assert len(project.board.labels) == 39


def test_a_label_that_was_kept_is_settled_after_a_reload_too(browser, data, tmp_path):
    with studio(tmp_path / "s", data) as (server, project), page_of(browser, server) as page:
        learn(page)
        page.get_by_role("link", name="Result").click()
        issues = page.locator(".issue-list li")
        expect(issues).to_have_count(2)
        page.get_by_role("button", name="Keep red").first.click()
        expect(issues).to_have_count(1)
        assert list(project.board.confirmed.values()) == ["red"]
        page.reload()
        expect(issues).to_have_count(1)
        page.keyboard.press("Control+z")
        expect(issues).to_have_count(2)


def test_a_folder_with_parts_is_divided_as_it_was(browser, data, tmp_path):
    root = tmp_path / "parted"
    (root / "train").mkdir(parents=True)
    for label in ("blue", "red"):
        (data / label).rename(root / "train" / label)
        (root / "test" / label).mkdir(parents=True)
        for name in ("005.png", "006.png"):
            (root / "train" / label / name).rename(root / "test" / label / name)
    with studio(tmp_path / "s") as (server, project), page_of(browser, server) as page:
        choose(page, page.get_by_role("button", name="Choose folders"), root)
        expect(page.locator("#undo")).to_have_text("Undo: added 40 pictures")
        assert project.board.classes == ("blue", "red")
        assert sorted(one.split for one in project.pictures.values()).count("test") == 4


def test_what_is_shown_once_is_shown_again(browser, data, tmp_path):
    """A picture that is opened twice, and changes that are counted after each learning."""
    with studio(tmp_path / "s", data) as (server, _), page_of(browser, server) as page:
        for _ in range(2):
            pictures(page, "005").first.dblclick()
            expect(page.locator("dialog img")).to_have_attribute("src", re.compile("/api/pictures"))
            page.keyboard.press("Escape")
            expect(page.locator("dialog")).to_have_count(0)
        for name in ("006", "007"):
            learn(page)
            page.get_by_role("link", name="Pictures").click()
            pictures(page, name).first.click()
            page.keyboard.press("Delete")
            page.get_by_role("link", name="Result").click()
            note = page.locator("#result-content .changed")
            expect(note).to_contain_text("1 change to the board is not in this model yet.")
            expect(note.get_by_role("button", name="Train again")).to_be_visible()


def test_with_the_keyboard_alone(browser, data, tmp_path):
    with studio(tmp_path / "s", data) as (server, project), page_of(browser, server) as page:
        first = pictures(page).first
        first.focus()
        page.keyboard.press("ArrowRight")
        page.keyboard.press(" ")
        page.keyboard.press("2")
        expect(page.locator("#undo")).to_have_text("Undo: moved 1 picture to red")
        page.keyboard.press("Enter")
        expect(page.locator("dialog")).to_be_visible()
        page.keyboard.press("Escape")
        expect(page.locator("dialog")).to_have_count(0)
        for _ in range(40):  # to the button, by Tab alone
            if page.evaluate("document.activeElement.id") == "train":
                break
            page.keyboard.press("Shift+Tab")
        page.keyboard.press("Enter")
        expect(page.locator("#train")).to_have_text(re.compile("^Train again"), timeout=LONG)
        assert (project.run(1) / "DONE").exists()


@pytest.fixture(scope="module")
def learnt(browser, tmp_path_factory):
    """A studio that has learnt; tests must not change it."""
    place = tmp_path_factory.mktemp("learnt")
    with (
        pytest.MonkeyPatch.context() as patch,
        studio(place / "s", mislabelled(place / "pictures")) as (server, _),
    ):
        patch.setenv("WARMSTART_CACHE", str(place / "cache"))
        with page_of(browser, server) as page:
            learn(page)
        yield server


@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (800, "dark"), (1400, "light")])
def test_nothing_stands_in_anybodys_way(browser, learnt, width, scheme):
    with page_of(browser, learnt, width, color_scheme=scheme) as page:
        for place in ("Pictures", "Result", "Try it"):
            page.get_by_role("link", name=place).click()
            page.wait_for_timeout(300)
            assert axe_violations(page) == []
            overflow = "document.documentElement.scrollWidth - innerWidth"
            assert page.evaluate(overflow) <= 0


CURVES = """(folds) => import("/studio/plots.js").then(({ curves }) => {
  const drawing = curves(folds, "Accuracy on pictures held out");
  document.body.replaceChildren(drawing);
  const all = (selector) => [...drawing.querySelectorAll(selector)];
  return { lines: all("polyline").map((one) => one.getAttribute("points")),
    probes: all("line.probe").length, words: all("text").map((one) => one.textContent),
    said: drawing.getAttribute("aria-label") };
})"""


def test_the_live_chart_draws_each_fold_and_what_it_is_compared_with(browser, tmp_path):
    folds = [
        {"fold": "fold 1", "points": [[1, 0.9], [2, 0.95]], "probe": 0.8},
        {"fold": "fold 2", "points": [[1, 0.7], [2, 0.75]], "probe": 0.6},
    ]
    with studio(tmp_path / "s") as (server, _), page_of(browser, server) as page:
        drawn = page.evaluate(CURVES, folds)
        assert [len(line.split()) for line in drawn["lines"]] == [2, 2]
        assert drawn["probes"] == 2
        assert {"epoch", "Accuracy on pictures held out", "2"} <= {*drawn["words"]}
        assert "fold 2: 70 % after epoch 1, 75 % after epoch 2, linear probe 60 %" in drawn["said"]
