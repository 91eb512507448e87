"""The page in a real browser: upload, paste, what is no image, a server that is gone."""

from __future__ import annotations

import json
import re
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from browser_checks import CHROMIUM, axe_violations
from server_client import live, plain
from warmstart.records.answer import Answer
from warmstart.serving.access import access_for
from warmstart.serving.app import make_app
from warmstart.serving.model import ServerLimits
from warmstart.serving.serve import ServeOptions, application

pytestmark = pytest.mark.skipif(not Path(CHROMIUM).exists(), reason=f"{CHROMIUM} is not installed")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
expect = playwright.expect


@pytest.fixture(scope="module")
def server(finished):
    with live(application(finished.path, ServeOptions(), ServerLimits())) as running:
        yield running


@pytest.fixture
def red(tmp_path):
    from hue_images import fill

    return fill(tmp_path / "new", {"blue": 1, "green": 1, "red": 1}, seed=5) / "red" / "000.png"


@contextmanager
def opened(browser, server, width=1000, fragment="", **options):
    """A page whose console stays silent, apart from refused requests."""
    context = browser.new_context(viewport={"width": width, "height": 800}, **options)
    page = context.new_page()
    text = []
    page.on("console", lambda line: text.append(line.text) if line.type == "error" else None)
    page.on("pageerror", lambda error: text.append(str(error)))
    page.goto(f"{server.url}/{fragment}")
    page.wait_for_selector("#summary:not(:empty), #login:not([hidden])")
    try:
        yield page
        assert [line for line in text if "Failed to load resource" not in line] == []
    finally:
        context.close()


def choose(page, path):
    page.set_input_files("#file", str(path))


@pytest.mark.parametrize("width", [390, 800, 1400])
def test_a_picture_is_named_in_words_first(browser, server, red, width):
    with opened(browser, server, width) as page:
        expect(page.locator("#choose")).to_be_visible()
        expect(page.locator("#summary")).to_contain_text("Right ")
        choose(page, red)
        expect(page.locator("#words")).to_contain_text("red")
        expect(page.locator("#bars li")).to_have_count(3)
        expect(page.locator("#nearest img")).to_have_count(3)
        page.wait_for_function(
            "[...document.querySelectorAll('#nearest img')].every(i => i.naturalWidth)"
        )
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        tops = [page.locator(f"#{id}").bounding_box()["y"] for id in ("words", "bars", "nearest")]
        assert tops == sorted(tops)
        page.click("#explain")
        expect(page.locator("#heat")).to_be_visible()
        expect(page.locator("#heat-words")).not_to_be_empty()
        image, heat = (page.locator(f"#{id}").bounding_box() for id in ("preview", "heat"))
        assert image["x"] - 1 <= heat["x"]
        assert heat["x"] + heat["width"] <= image["x"] + image["width"] + 1
        page.click("#explain")
        expect(page.locator("#heat")).to_be_hidden()


def test_classes_named_by_numbers_are_listed_by_probability(browser, red):
    """JavaScript puts such names first in an object, whatever was said of them."""
    scores = {"7": 0.6, "9": 0.2, **{str(digit): 0.025 for digit in (0, 1, 2, 3, 4, 5, 6, 8)}}
    text = Answer(path="", label="7", probability=0.6, confident=None, ood=False, scores=scores)
    known = {"name": "digits", "labels": [*scores], "promise": "Right.", "base": "lite0"}
    served = plain(lambda pictures: [text for _ in pictures], metadata=known)
    app = make_app(served, access_for("127.0.0.1", None))
    with live(app) as server, opened(browser, server) as page:
        choose(page, red)
        expect(page.locator("#bars .name").first).to_have_text("7")
        assert page.locator("#bars .name").all_text_contents() == ["7", "9", "0", "1", "2"]


PASTE = """async (url) => {
  const bytes = await (await fetch(url)).blob();
  const data = new DataTransfer();
  for (let n = 0; n < COUNT; n++)
    data.items.add(new File([bytes], `pasted${n}.png`, {type: "image/png"}));
  document.dispatchEvent(new ClipboardEvent("paste", {clipboardData: data, bubbles: true}));
}"""
DROP = PASTE.replace(
    'new ClipboardEvent("paste", {clipboardData: data,',
    'new DragEvent("drop", {dataTransfer: data,',
)


@pytest.mark.parametrize(("way", "other"), [(PASTE, DROP), (DROP, PASTE)], ids=["paste", "drop"])
def test_pictures_are_pasted_or_dropped_and_of_several_the_first_is_answered(
    browser, server, way, other
):
    with opened(browser, server) as page:
        expect(page.locator("#choose")).to_be_visible()
        page.evaluate(way.replace("COUNT", "3"), "/examples/0/thumbnail")
        expect(page.locator("#first-only")).to_have_text(
            "One picture at a time: this is the first of 3."
        )
        expect(page.locator("#answer")).to_be_visible()
        expect(page.locator("#words")).not_to_be_empty()
        page.evaluate(other.replace("COUNT", "1"), "/examples/0/thumbnail")
        expect(page.locator("#first-only")).to_be_hidden()


@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (1400, "dark")])
def test_axe_finds_no_violation(browser, server, red, width, scheme):
    with opened(browser, server, width, color_scheme=scheme) as page:
        expect(page.locator("#choose")).to_be_visible()
        assert axe_violations(page) == []
        choose(page, red)
        expect(page.locator("#answer")).to_be_visible()
        expect(page.locator("#neighbours")).to_be_visible()
        page.click("#explain")
        expect(page.locator("#heat")).to_be_visible()
        assert axe_violations(page) == []
        page.goto(f"{server.url}/docs")
        page.wait_for_selector("h2")
        assert axe_violations(page) == []


def chosen(page):
    """The file chooser that a key opens; a browser that is still busy may miss the first press."""
    for _ in range(3):
        with suppress(playwright.Error), page.expect_file_chooser(timeout=10_000) as asked:
            page.keyboard.press("Enter")
            return asked.value
    raise AssertionError("no key opens the file chooser")


def test_it_is_used_by_keyboard_alone(browser, server, red):
    with opened(browser, server) as page:
        expect(page.locator("#choose")).to_be_visible()
        page.locator("#file").focus()
        expect(page.locator("#file")).to_be_focused()
        chosen(page).set_files(str(red))
        expect(page.locator("#words")).to_contain_text("red")
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == "again"
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        expect(page.locator("#heat")).to_be_visible()
        page.keyboard.press("Escape")
        expect(page.locator("#choose")).to_be_visible()
        assert page.evaluate("document.activeElement.id") == "file"


def test_what_is_no_image_or_too_large_is_said_in_words(browser, server, tmp_path, red):
    (tmp_path / "photo.jpg").write_bytes(b"<!doctype html><script>alert(1)</script>")
    with (tmp_path / "large.png").open("wb") as file:
        file.truncate(40_000_000)  # which is not sent
    with opened(browser, server) as page:
        choose(page, tmp_path / "photo.jpg")
        expect(page.locator("#error-title")).to_have_text("This picture cannot be read")
        expect(page.locator("#error-hint")).to_contain_text("photo.jpg is a web page, not an image")
        expect(page.locator("#retry")).to_be_hidden()
        page.click("#back")
        choose(page, tmp_path / "large.png")
        expect(page.locator("#error-title")).to_have_text("This picture is too large")
        page.click("#back")
        choose(page, red)
        expect(page.locator("#words")).to_contain_text("red")


def test_unlike_anything_is_an_answer(browser, own_run, red):
    place = own_run / "model" / "calibration.json"
    place.write_text(json.dumps(json.loads(place.read_text()) | {"ood_from": 0.0}))
    with (
        live(application(own_run, ServeOptions(), ServerLimits())) as server,
        opened(browser, server) as page,
    ):
        choose(page, red)
        expect(page.locator("#words")).to_have_text("unlike the training images")
        expect(page.locator("#more")).to_contain_text("closest of its classes")
        expect(page.locator("#nearest img")).to_have_count(3)


def test_a_server_that_is_gone_is_said_and_the_page_goes_on_when_it_is_back(browser, finished, red):
    app = application(finished.path, ServeOptions(), ServerLimits())
    with live(app) as server, opened(browser, server) as page:
        expect(page.locator("#choose")).to_be_visible()
        page.context.set_offline(True)
        choose(page, red)
        expect(page.locator("#error-title")).to_have_text("The server does not answer")
        page.context.set_offline(False)
        page.click("#retry")
        expect(page.locator("#words")).to_contain_text("red")


def test_a_token_is_asked_for_and_forgotten_with_the_tab(browser, finished, red):
    app = application(finished.path, ServeOptions(token="secret"), ServerLimits())
    with live(app) as server:
        with opened(browser, server) as page:
            expect(page.locator("#login")).to_be_visible()
            expect(page.locator("#wrong-token")).to_be_hidden()
            page.fill("#token", "wrong")
            page.keyboard.press("Enter")
            expect(page.locator("#wrong-token")).to_be_visible()
            expect(page.locator("#token")).to_have_value("")
            page.fill("#token", "secret")
            page.keyboard.press("Enter")
            choose(page, red)
            expect(page.locator("#words")).to_contain_text("red")
            expect(page.locator("#nearest img")).to_have_count(3)
        with opened(browser, server, fragment="#token=secret") as page:
            expect(page.locator("#choose")).to_be_visible()
            assert "secret" not in page.url


def test_the_page_for_programs_lists_every_route_and_nothing_is_asked_of_others(
    browser, server, red
):
    urls = []
    with opened(browser, server) as page:
        page.on("request", lambda request: urls.append(request.url))
        page.reload()
        choose(page, red)
        expect(page.locator("#nearest img")).to_have_count(3)
        page.goto(f"{server.url}/docs")
        expect(page.locator("#routes section")).to_have_count(8)
        text = page.locator("#routes").inner_text()
        assert re.search(r"curl -F file=@photo.jpg http://127.0.0.1:\d+/predict", text)
        assert page.evaluate("document.documentElement.scrollWidth") <= 1000
    assert all(url.startswith((server.url, "blob:")) for url in urls)
