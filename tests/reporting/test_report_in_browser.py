"""The page in a real browser: no error, no overflow, legible, reachable by keyboard."""

import pytest

from browser_checks import axe_violations
from reports import cases, facts
from warmstart.reporting.report import page

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CASES = {name: case for name, case in cases().items() if name not in ("two classes", "no training")}
SIZES = {"phone": (390, 844), "tablet": (800, 1100), "desk": (1400, 900)}

# Texts and their contrast with the nearest ground behind them, as WCAG 2.1 computes it.
CONTRAST = """() => {
  const parse = c => (c.match(/[\\d.]+/g) || []).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => { v /= 255;
    return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; })
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = e => { for (; e; e = e.parentElement) {
    const c = parse(getComputedStyle(e).backgroundColor);
    if (c.length && (c.length < 4 || c[3] > 0)) return c; }
    return [255, 255, 255]; };
  const bad = [];
  for (const e of document.querySelectorAll('body *')) {
    const own = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    if (!own || !e.getClientRects().length || e.closest('title,desc,.hidden,.skip')) continue;
    const style = getComputedStyle(e), isSvg = e instanceof SVGElement;
    const a = light(parse(isSvg ? style.fill : style.color)), b = light(ground(e));
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    const size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.6 && style.fontWeight >= 700);
    if (ratio < (large ? 3 : 4.5)) bad.push(`${e.tagName} "${e.textContent.slice(0, 40)}" `
      + ratio.toFixed(2));
  }
  return bad;
}"""


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def file(request, tmp_path):
    path = tmp_path / "report.html"
    path.write_text(page(request.param), "utf-8")
    return path


@pytest.fixture
def usual(tmp_path):
    path = tmp_path / "report.html"
    path.write_text(page(facts()), "utf-8")
    return path


def opened(browser, file, size="desk", scheme="light"):
    """The page shown, and everything that the browser complained about or asked for."""
    width, height = SIZES[size]
    tab = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
    messages, urls = [], []
    tab.on("console", lambda message: messages.append(message.text))
    tab.on("pageerror", lambda error: messages.append(str(error)))
    tab.on("request", lambda request: urls.append(request.url))
    tab.goto(file.as_uri())
    return tab, messages, urls


def test_no_complaint_no_request_no_sideways_scrolling(browser, file):
    tab, messages, urls = opened(browser, file)
    for width, height in SIZES.values():
        tab.set_viewport_size({"width": width, "height": height})
        wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert tab.evaluate(wide) <= 0
    assert not messages
    assert all(url == file.as_uri() or url.startswith("data:image/") for url in urls)
    tab.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_stands_out_and_axe_finds_no_violation(browser, file, scheme):
    tab, _, _ = opened(browser, file, scheme=scheme)
    tab.evaluate("document.querySelectorAll('details').forEach(fold => fold.open = true)")
    assert tab.evaluate(CONTRAST) == []
    assert axe_violations(tab) == []
    tab.close()


def test_all_that_folds_scrolls_or_leads_is_reached_by_keyboard(browser, usual):
    tab, _, _ = opened(browser, usual)
    reachable = (
        "[...document.querySelectorAll('a,summary,[tabindex]')].filter(e => e.checkVisibility())"
    )
    wanted, reached = tab.evaluate(f"{reachable}.length"), set()
    for _ in range(wanted + 2):
        tab.keyboard.press("Tab")
        reached.add(tab.evaluate(f"{reachable}.indexOf(document.activeElement)"))
    assert len(reached - {-1}) == wanted
    tab.evaluate("document.querySelector('summary').focus()")
    tab.keyboard.press("Enter")
    assert tab.evaluate("document.querySelector('details').open")
    tab.close()


def test_a_phone_sees_the_answer_on_its_first_screen(browser, usual):
    tab, _, _ = opened(browser, usual, "phone")
    for selector in ("h1", ".verdict", "svg[aria-labelledby^=score]"):
        box = tab.query_selector(selector).bounding_box()
        assert box["y"] + box["height"] <= SIZES["phone"][1], selector
    tab.close()


def test_paper_shows_what_is_folded(browser, usual):
    tab, _, _ = opened(browser, usual)
    tab.emulate_media(media="print")
    assert tab.evaluate("getComputedStyle(document.querySelector('nav')).display") == "none"
    assert len(tab.pdf()) > 10_000
    tab.close()
