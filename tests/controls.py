"""Presses every control of a page once, and tells which of them did nothing or broke."""

from __future__ import annotations

import re
from contextlib import contextmanager
from dataclasses import dataclass, field

CONTROLS = (
    "button, a[href], input, select, textarea, summary, label.button, [role=button], [role=option]"
)
# Of controls that differ in their text alone (all pictures of a board) the first stands for all.
FOUND = """(selector) => {
  const open = [...document.querySelectorAll("dialog[open]")].at(-1);
  const root = open ?? document;
  return [...document.querySelectorAll(selector)].map((one, index) => {
    const style = getComputedStyle(one), box = one.getBoundingClientRect();
    const words = one.getAttribute("aria-label") ?? one.innerText ?? "";
    const text = words.trim().replace(/\\s+/g, " ");
    const isLink = one.matches("a[href]");
    return { index, tag: one.tagName.toLowerCase(), type: one.type ?? "", text: text.slice(0, 60),
      kind: [one.tagName, one.type, one.className, one.parentElement.className,
        one.matches(".picture, td *, .issue-list *") ? "" : text].join("|"),
      isHere: root.contains(one) && one.checkVisibility({ visibilityProperty: true })
        && box.width > 0 && box.right > 0 && style.pointerEvents !== "none" && !one.disabled
        && !(isLink && one.href === location.href) && !(one.type === "radio" && one.checked) };
  }).filter(({ isHere }) => isHere);
}"""
WATCH = """() => {
  window.changes = 0;
  new MutationObserver(() => (window.changes += 1)).observe(document,
    { subtree: true, childList: true, attributes: true, characterData: true });
  for (const name of ["input", "change", "scroll", "invalid"]) {
    addEventListener(name, () => (window.changes += 1), true);
  }
  document.addEventListener("selectionchange",
    () => (window.changes += !getSelection().isCollapsed));
}"""
PATIENCE = 4000  # ms until a control counts as dead; those that live are not waited for


@dataclass
class Seen:
    """What a page did since it was opened."""

    faults: list[str] = field(default_factory=list)  # script errors, failed requests
    effects: list[str] = field(default_factory=list)


@contextmanager
def watched(context, url, allowed=r"^$"):
    """A page at `url` and what is seen of it; `allowed`: addresses that may be refused."""
    page, seen = context.new_page(), Seen()
    page.on("pageerror", lambda error: seen.faults.append(f"uncaught: {error}"))
    page.on("console", lambda line: _said(seen, line))
    page.on("requestfailed", lambda request: _failed(seen, request))
    page.on("response", lambda answer: _answered(seen, answer, allowed))
    page.on("request", lambda request: seen.effects.append(f"request {request.url}"))
    page.on("download", lambda download: seen.effects.append("download"))
    page.on("filechooser", lambda chooser: seen.effects.append("file chooser"))
    page.on("framenavigated", lambda frame: seen.effects.append("navigation"))
    page.goto(url)
    yield page, seen
    page.close()


def _said(seen, line):
    if line.type == "error" and "Failed to load resource" not in line.text:
        seen.faults.append(f"console: {line.text}")


def _failed(seen, request):
    if request.failure != "net::ERR_ABORTED":  # a download, or a page that was left
        seen.faults.append(f"failed: {request.url} {request.failure}")


def _answered(seen, answer, allowed):
    if answer.status >= 400 and not re.search(allowed, answer.url):
        seen.faults.append(f"{answer.status}: {answer.url}")


def controls(page):
    """What can be pressed now, one of each kind."""
    page.wait_for_timeout(150)  # what is being built is built
    kinds = {}
    for one in page.evaluate(FOUND, CONTROLS):
        kinds.setdefault(one["kind"], one)
    return list(kinds.values())


def _control(page, name, value):
    """The first control whose `name` (kind or text) is `value`; a slow page is waited for."""
    for _ in range(PATIENCE // 150):
        for one in controls(page):
            if one[name] == value:
                return one
    return None


def press(page, seen, control):
    """Activate a control; whether that had any effect."""
    target = page.locator(CONTROLS).nth(control["index"])
    page.evaluate(WATCH)
    seen.effects.clear()
    if control["tag"] == "select":
        values = target.evaluate("(one) => [...one.options].map((o) => o.value)")
        now = target.input_value()
        target.select_option(next(value for value in values if value not in (now, "")))
    elif control["tag"] == "textarea" or control["type"] in ("text", "number", "password"):
        before = target.input_value()
        target.fill("1" if before != "1" else "2")
    else:
        target.click()
    for _ in range(PATIENCE // 50):
        if seen.effects or page.evaluate("window.changes ?? 1"):  # a new page counts no changes
            page.wait_for_timeout(150)  # and what comes of it
            return True
        page.wait_for_timeout(50)
    return False


def has_dialog(page):
    """Whether a question stands over the page."""
    return page.locator("dialog[open]").count() > 0


def every_control(opened, first=()):
    """Press each control of a page in a fresh state, and each of the dialogs that come of it.

    `opened()` is a context manager that gives (page, seen) in the state; `first`: the texts of
    controls that are pressed before. Returns: (how many were pressed, sentences about faults).
    """
    with _at(opened, first) as (page, _):
        known = controls(page)
    wrong, pressed, dialogs = [], 0, []
    for control in known:
        with _at(opened, first) as (page, seen):
            where = " > ".join([*first, control["text"] or control["tag"]])
            same = _control(page, "kind", control["kind"])
            if same is None:
                wrong.append(f"{where}: not there in a second fresh page")
                continue
            pressed += 1
            if not press(page, seen, same):
                wrong.append(f"{where}: does nothing")
            wrong += [f"{where}: {fault}" for fault in seen.faults]
            if page.locator("#script-error").is_visible():
                wrong.append(f"{where}: {page.locator('#script-error').inner_text()}")
            if has_dialog(page) and not first:
                dialogs.append(control["text"])
    for text in dialogs:
        inner, more = every_control(opened, (text,))
        pressed, wrong = pressed + inner, wrong + more
    return pressed, wrong


@contextmanager
def _at(opened, first):
    with opened() as (page, seen):
        for text in first:
            press(page, seen, _control(page, "text", text))
        yield page, seen
