"""No control of any page is dead, and an error of a script shows itself to the reader."""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest

from browser_checks import CHROMIUM
from controls import controls, every_control, watched
from hue_images import fill
from reports import cases
from server_client import live, plain
from warmstart.reporting.report import page as report_page
from warmstart.serving.access import access_for
from warmstart.serving.app import make_app
from warmstart.serving.model import ServerLimits
from warmstart.serving.serve import ServeOptions, application
from warmstart_studio.app import Keys
from warmstart_studio.studio import StudioOptions, open_project
from warmstart_studio.studio import application as studio_application

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path(CHROMIUM).exists(), reason=f"{CHROMIUM} is not installed"),
]
pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
LONG = 120_000  # ms


@contextmanager
def context_of(browser, width=1280):
    """A browser as it is at its first start."""
    context = browser.new_context(viewport={"width": width, "height": 900})
    try:
        yield context
    finally:
        context.close()


# ---- the studio --------------------------------------------------------------------------------


@contextmanager
def studio_page(browser, place, state):
    """A page on a studio's folder."""
    project, _ = open_project(StudioOptions(out=place), lambda event: None)
    app, close = studio_application(project, "lite0", Keys("secret", "session"), 1)
    try:
        # A plan that is being worked out is waited for.
        with live(app, patience=600) as server:
            url = f"{server.url}/?token=secret"
            try:
                with (
                    context_of(browser) as context,
                    watched(context, url, allowed="/icon.svg") as (page, seen),
                ):
                    ready = "#board .picture, #empty:not([hidden])"
                    page.wait_for_selector(ready, state="attached")
                    if state != "pictures":
                        page.locator(f"nav a[href='#{state}']").click()
                        page.wait_for_selector(f"#place-{state}:not([hidden])")
                    yield page, seen
            finally:
                close()
    finally:
        project.close()


@pytest.fixture(scope="module")
def studios(browser, tmp_path_factory):
    """Folders of studios: with pictures, and one that has learnt."""
    root = tmp_path_factory.mktemp("studios")
    data = fill(root / "data", {"blue": 12, "red": 12})
    (data / "blue" / "000.png").rename(data / "red" / "wrong.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WARMSTART_CACHE", str(root / "cache"))
        project, _ = open_project(
            StudioOptions(data=str(data), out=root / "filled"), lambda event: None
        )
        project.close()
        shutil.copytree(root / "filled", root / "learnt")
        with studio_page(browser, root / "learnt", "pictures") as (page, _):
            page.locator("#train").click()
            page.wait_for_selector("#result-content:not([hidden])", timeout=LONG)
        yield root


STATES = [
    ("empty", "pictures", 8),
    ("empty", "result", 3),
    ("empty", "try", 3),
    ("learnt", "pictures", 14),
    ("learnt", "result", 10),
    ("learnt", "try", 4),
]


@pytest.mark.parametrize(("folder", "place", "least"), STATES)
def test_no_control_of_the_studio_is_dead(browser, studios, tmp_path, folder, place, least):
    number = 0

    @contextmanager
    def fresh():
        nonlocal number
        number += 1
        home = tmp_path / str(number)
        if folder != "empty":
            shutil.copytree(studios / folder, home)
        with studio_page(browser, home, place) as found:
            yield found
        shutil.rmtree(home, ignore_errors=True)

    pressed, wrong = every_control(fresh)
    assert wrong == []
    assert pressed >= least


# ---- the server's page and the report ------------------------------------------------------------


@pytest.fixture(scope="module")
def server(finished):
    with live(application(finished.path, ServeOptions(), ServerLimits())) as running:
        yield running


def ask(page, name, payload):
    file = {"name": name, "mimeType": "image/png", "buffer": payload}
    page.set_input_files("#file", file)
    page.wait_for_selector("#answer:not([hidden]), #error:not([hidden])")


@pytest.mark.parametrize(
    ("state", "least"), [("ask", 2), ("answer", 3), ("trouble", 2), ("docs", 3)]
)
def test_no_control_of_the_servers_page_is_dead(browser, server, finished, state, least):
    picture = next(finished.path.parents[1].rglob("red/*.png"))

    @contextmanager
    def fresh():
        url = server.url + ("/docs" if state == "docs" else "")
        with (
            context_of(browser) as context,
            watched(context, url, allowed="/predict" if state == "trouble" else "^$") as found,
        ):
            page, _ = found
            page.wait_for_selector("#summary:not(:empty)")
            if state in ("answer", "trouble"):
                ask(page, "a.png", picture.read_bytes() if state == "answer" else b"no picture")
            yield found

    pressed, wrong = every_control(fresh)
    assert wrong == []
    assert pressed >= least


def test_no_control_of_the_door_is_dead(browser):
    app = make_app(plain(), access_for("127.0.0.1", "secret"))
    with live(app) as server:

        @contextmanager
        def fresh():
            with (
                context_of(browser) as context,
                watched(context, server.url, allowed="/metadata") as (page, seen),
            ):
                page.wait_for_selector("#login:not([hidden])")
                yield page, seen

        pressed, wrong = every_control(fresh)
    assert wrong == []
    assert pressed >= 2


@pytest.mark.parametrize("name", ["full", "no signal"])
def test_no_control_of_a_report_is_dead(browser, tmp_path, name):
    (tmp_path / "report.html").write_text(report_page(cases()[name]), "utf-8")

    @contextmanager
    def fresh():
        with (
            context_of(browser) as context,
            watched(context, (tmp_path / "report.html").as_uri()) as found,
        ):
            yield found

    pressed, wrong = every_control(fresh)
    assert wrong == []
    assert pressed >= 3


# ---- the search itself -------------------------------------------------------------------------

DEAD = """<!doctype html><title>t</title><body><button id="dead">Dead</button>
<button onclick="nobody()">Broken</button><button onclick="this.textContent = 'x'">Good</button>
<details><summary>More</summary>text</details><a href="gone.html">Gone</a>"""


def test_a_dead_and_a_broken_control_are_found(browser, tmp_path):
    (tmp_path / "a.html").write_text(DEAD)

    @contextmanager
    def fresh():
        with (
            context_of(browser) as context,
            watched(context, (tmp_path / "a.html").as_uri()) as found,
        ):
            yield found

    pressed, wrong = every_control(fresh)
    assert pressed == 5
    told = "\n".join(wrong)
    assert "Dead: does nothing" in told
    assert "Broken: uncaught: nobody is not defined" in told
    assert "Gone: failed" in told
    assert "Good" not in told
    assert "More" not in told


# ---- errors show themselves ---------------------------------------------------------------------

LATER = "setTimeout(() => { throw new Error('a fault for the test'); })"
REFUSED = "Promise.reject(new Error('a fault for the test')), 1"


@pytest.mark.parametrize("provoked", [LATER, REFUSED], ids=["thrown", "rejected"])
@pytest.mark.parametrize("where", ["/", "/docs"])
def test_a_script_error_of_the_servers_pages_is_shown(browser, server, where, provoked):
    with context_of(browser) as context, watched(context, server.url + where) as (page, _):
        shows_a_fault(page, provoked)


@pytest.mark.parametrize("provoked", [LATER, REFUSED], ids=["thrown", "rejected"])
def test_a_script_error_of_the_studio_is_shown(browser, tmp_path, provoked):
    with studio_page(browser, tmp_path / "s", "pictures") as (page, _):
        shows_a_fault(page, provoked)


def shows_a_fault(page, provoked):
    page.wait_for_load_state("networkidle") if "token" not in page.url else None
    assert page.locator("#script-error").count() == 0
    page.evaluate(provoked)
    page.wait_for_selector("#script-error")
    bar = page.locator("#script-error")
    assert bar.locator("p").inner_text() == (
        "This page has a fault (a fault for the test). Reload it; if that does not help, "
        "please report it."
    )
    seen = {one["text"]: one for one in controls(page)}
    assert {"Reload", "Close"} <= seen.keys()
    bar.get_by_role("button", name="Close").click()
    assert bar.is_hidden()
    page.evaluate(provoked)
    page.wait_for_selector("#script-error", state="visible")


def test_a_script_that_cannot_be_loaded_is_told(browser, server):
    with context_of(browser) as context:
        context.route("**/answer.js", lambda route: route.abort())
        with watched(context, server.url) as (page, _):
            page.wait_for_selector("#script-error")
            assert "a script could not be loaded" in page.locator("#script-error").inner_text()


def test_a_redrawing_that_was_put_off_is_no_fault(browser, server):
    with context_of(browser) as context, watched(context, server.url) as (page, _):
        page.evaluate("dispatchEvent(new ErrorEvent('error', {message: 'ResizeObserver loop x'}))")
        assert page.locator("#script-error").count() == 0
