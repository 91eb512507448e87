"""Elements of the page as text. Text is escaped here; markup is passed through."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from warmstart.formatting import printable
from warmstart.reporting.facts import ReportFacts


def svg_escaped(text: str) -> str:
    """Text for an element or an attribute."""
    return escape(printable(text), quote=True)


def short(text: str, most: int) -> str:
    """Text of at most `most` letters, cut in the middle: names often differ at their end."""
    if len(text) <= most:
        return text
    end = (most - 1) // 2
    return f"{text[: most - 1 - end]}…{text[len(text) - end :]}"


def escaped(text: str) -> str:
    """Text for the page; no line break comes between a number and its per cent sign."""
    return svg_escaped(text).replace(" %", "\xa0%")


def path(text: str) -> str:
    """A path or a command to copy; lines may break after its slashes."""
    return svg_escaped(text).replace("/", "/<wbr>")


def section(id: str, title: str, *blocks: str) -> str:
    """A section of the page with its heading; empty if its content is."""
    body = "".join(blocks)
    if not body:
        return ""
    head = f'<section id="{id}" aria-labelledby="{id}-h"><h2 id="{id}-h">{escaped(title)}</h2>'
    return f"{head}{body}</section>"


def paragraph(text: str, class_: str = "") -> str:
    kind = f' class="{class_}"' if class_ else ""
    return f"<p{kind}>{escaped(text)}</p>" if text else ""


def heading(text: str) -> str:
    return f"<h3>{escaped(text)}</h3>"


def figure(title: str, picture: str, caption: str = "", wide: bool = False) -> str:
    """A picture under its heading, with a caption; a wide one can be scrolled."""
    if wide:
        picture = scrolled(title, picture)
    below = f"<figcaption>{escaped(caption)}</figcaption>" if caption else ""
    return f"<figure>{heading(title)}{picture}{below}</figure>"


def side_by_side(*blocks: str) -> str:
    body = "".join(blocks)
    return f'<div class="beside">{body}</div>' if body else ""


def scrolled(name: str, body: str) -> str:
    """A region that can be scrolled, by keyboard too."""
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escaped(name)}">{body}</div>'
    )


class Markup(str):
    """A cell of a table that is not escaped."""


def table(name: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table, the first cell of each row its heading; empty without rows."""
    body = ""
    for row in rows:
        first, *rest = (cell if isinstance(cell, Markup) else escaped(cell) for cell in row)
        cells = "".join(f"<td>{cell}</td>" for cell in rest)
        body += f'<tr><th scope="row">{first}</th>{cells}</tr>'
    if not body:
        return ""
    above = "".join(f'<th scope="col">{escaped(words)}</th>' for words in head)
    return scrolled(
        name,
        f'<table><caption class="hidden">{escaped(name)}</caption>'
        f"<thead><tr>{above}</tr></thead><tbody>{body}</tbody></table>",
    )


def fold(words: str, body: str) -> str:
    return f"<details><summary>{escaped(words)}</summary>{body}</details>" if body else ""


def items(rows: Iterable[str], class_: str = "") -> str:
    """A list of markup; empty without rows."""
    body = "".join(f"<li>{row}</li>" for row in rows)
    kind = f' class="{class_}"' if class_ else ""
    return f"<ul{kind}>{body}</ul>" if body else ""


def command(words: str) -> str:
    """A command to type; no line breaks inside the name of an option."""
    option = '<span class="option">{}</span>'
    markup = (
        (option if word[:2] == "--" else "{}").format(path(word)) for word in words.split(" ")
    )
    return f"<pre><code>{' '.join(markup)}</code></pre>"


def legend(rows: Iterable[tuple[str, str]]) -> str:
    """The meaning of colours: (class of the colour, words)."""
    return items(
        (f'<span class="key {class_}"></span>{escaped(words)}' for class_, words in rows), "legend"
    )


def figures(rows: Iterable[tuple[str, str]]) -> str:
    """Large numbers with their names: (number, name)."""
    body = "".join(
        f"<div><dt>{escaped(name)}</dt><dd>{escaped(number)}</dd></div>" for number, name in rows
    )
    return f'<dl class="figures">{body}</dl>' if body else ""


def shots(facts: ReportFacts, examples: Sequence[tuple[str, str]]) -> str:
    """Pictures, or excerpts of texts, with a caption and the path; a gap without a picture."""
    rows = []
    for id, caption in examples:
        uri, picture = facts.thumbs.get(id), f'<span class="gone">no {facts.nouns.picture}</span>'
        if id in facts.excerpts:  # in its own direction of writing
            picture = f'<q class="excerpt" dir="auto">{escaped(facts.excerpts[id])}</q>'
        elif uri is not None:
            alt = escaped(f"{facts.nouns.title} {id}")
            kind = ' class="tiny"' if uri.startswith("data:image/png") else ""
            picture = f'<img src="{escaped(uri)}" alt="{alt}"{kind}>'
        place = f'<span class="path">{path(_path_end(id))}</span>'
        rows.append(f"{picture}{escaped(caption)}{place}")
    return items(rows, "shots")


def _path_end(id: str) -> str:
    """The end of a long path; the whole is in the picture's description."""
    names = id.split("/")
    return id if len(names) <= 3 else "/".join(["…", *names[-2:]])
