"""The few pieces that the page is made of. Text is escaped here; markup is passed through."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from warmstart.reporting import svg


def escaped(text: str) -> str:
    """Text as it may stand in the page; no figure is parted from its sign.

    >>> escaped("<b> 83 %")
    '&lt;b&gt; 83\\xa0%'
    """
    return svg.escaped(text).replace(" %", "\xa0%")


def path(text: str) -> str:
    """The place of a file, or a command, to be copied as it stands; broken after its slashes.

    >>> path("a/99 %")
    'a/<wbr>99 %'
    """
    return svg.escaped(text).replace("/", "/<wbr>")


def section(id: str, title: str, *blocks: str) -> str:
    """A part of the page with its heading; nothing where there is nothing in it."""
    body = "".join(blocks)
    if not body:
        return ""
    lead = f'<section id="{id}" aria-labelledby="{id}-h"><h2 id="{id}-h">{escaped(title)}</h2>'
    return f"{lead}{body}</section>"


def paragraph(text: str, class_: str = "") -> str:
    """A paragraph of plain text; nothing where there is none."""
    kind = f' class="{class_}"' if class_ else ""
    return f"<p{kind}>{escaped(text)}</p>" if text else ""


def heading(text: str) -> str:
    """A heading inside a section."""
    return f"<h3>{escaped(text)}</h3>"


def figure(title: str, picture: str, caption: str = "", wide: bool = False) -> str:
    """A picture under its heading, with a caption; a wide one may be scrolled."""
    if wide:
        picture = scrolled(title, picture)
    below = f"<figcaption>{escaped(caption)}</figcaption>" if caption else ""
    return f"<figure>{heading(title)}{picture}{below}</figure>"


def side_by_side(*blocks: str) -> str:
    """Blocks beside each other where the page is wide enough."""
    kept = [block for block in blocks if block]
    return f'<div class="beside">{"".join(kept)}</div>' if kept else ""


def scrolled(name: str, body: str) -> str:
    """A region that can be scrolled, by keyboard too."""
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escaped(name)}">{body}</div>'
    )


def table(name: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells of markup, the first of each row its heading; nothing without rows."""
    body = "".join(
        f'<tr><th scope="row">{first}</th>' + "".join(f"<td>{cell}</td>" for cell in rest) + "</tr>"
        for first, *rest in rows
    )
    if not body:
        return ""
    above = "".join(f'<th scope="col">{escaped(words)}</th>' for words in head)
    return scrolled(
        name,
        f'<table><caption class="hidden">{escaped(name)}</caption>'
        f"<thead><tr>{above}</tr></thead><tbody>{body}</tbody></table>",
    )


def fold(words: str, body: str) -> str:
    """What is read on request; nothing where there is nothing in it."""
    return f"<details><summary>{escaped(words)}</summary>{body}</details>" if body else ""


def items(rows: Iterable[str], class_: str = "") -> str:
    """A list of markup; nothing where there is none."""
    body = "".join(f"<li>{row}</li>" for row in rows)
    kind = f' class="{class_}"' if class_ else ""
    return f"<ul{kind}>{body}</ul>" if body else ""


def command(words: str) -> str:
    """Something to type; no line ends inside the name of an option.

    >>> command("fit a --fix")
    '<pre><code>fit a <span class="option">--fix</span></code></pre>'
    """
    typed = (
        f'<span class="option">{path(word)}</span>' if word.startswith("--") else path(word)
        for word in words.split(" ")
    )
    return f"<pre><code>{' '.join(typed)}</code></pre>"


def legend(rows: Iterable[tuple[str, str]]) -> str:
    """What colours mean: (class of the colour, words)."""
    return items(
        (f'<span class="key {class_}"></span>{escaped(words)}' for class_, words in rows), "legend"
    )


def figures(rows: Iterable[tuple[str, str]]) -> str:
    """Numbers with their names: (number, name)."""
    body = "".join(
        f"<div><dt>{escaped(name)}</dt><dd>{escaped(number)}</dd></div>" for number, name in rows
    )
    return f'<dl class="figures">{body}</dl>' if body else ""
