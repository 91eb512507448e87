"""The few pieces that the page is made of. Text is escaped here; markup is passed through."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from warmstart.formatting import printable

# ---- Elements of SVG and HTML as text, every value escaped.


Value = str | float | int | None
WIDE = 380.0  # units: what is wider is scrolled on a narrow screen


def svg_escaped(text: str) -> str:
    """Text as it may stand in an element or an attribute.

    >>> escaped('<b> & "x"')
    '&lt;b&gt; &amp; &quot;x&quot;'
    """
    return escape(printable(text), quote=True)


def short(text: str, most: int) -> str:
    """Text of at most so many letters; what tells names apart is often at their end.

    >>> short("longsleeve", 7), short("hat", 7)
    ('lon…eve', 'hat')
    """
    if len(text) <= most:
        return text
    end = (most - 1) // 2
    return f"{text[: most - 1 - end]}…{text[len(text) - end :]}"


def digits(value: float) -> str:
    """A coordinate: at most two decimals, no more than are needed.

    >>> digits(3.0), digits(1 / 3), digits(-0.001)
    ('3', '0.33', '0')
    """
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def tag(name: str, content: str = "", **attributes: Value) -> str:
    """One element. `content` is markup already; attributes are escaped, those of None left out.

    An underscore in an attribute's name stands for a hyphen; at its end it is dropped.

    >>> tag("rect", x=1.5, class_="bar", stroke_width=2, id=None)
    '<rect x="1.5" class="bar" stroke-width="2"/>'
    """
    words = [name]
    for key, value in attributes.items():
        if value is not None:
            shown = digits(value) if isinstance(value, float) else svg_escaped(str(value))
            words.append(f'{key.rstrip("_").replace("_", "-")}="{shown}"')
    head = " ".join(words)
    return f"<{head}>{content}</{name}>" if content else f"<{head}/>"


def at(share: float) -> str:
    """A place on a line from 0 to 1, as a share of the picture's width; room at both ends.

    >>> at(0.0), at(0.5), at(1.0)
    ('2%', '50%', '98%')
    """
    return f"{digits(2 + 96 * min(max(share, 0.0), 1.0))}%"


def label(x: float | str, y: float, words: str, class_: str = "soft", anchor: str = "start") -> str:
    """Words at a place; `anchor` is start, middle or end."""
    kept = None if anchor == "start" else anchor
    return tag("text", svg_escaped(words), x=x, y=y, class_=class_, text_anchor=kept)


def fixed(body: str, *, name: str, title: str, about: str, width: float, height: float) -> str:
    """A picture with its own units, scaled as a whole; a wide one stays legible.

    `name` is unique in the page.
    """
    view = f"0 0 {digits(width)} {digits(height)}"
    sides = f"min-width:{digits(0.85 * width)}px;" if width > WIDE else ""
    sides += f"max-width:{digits(1.25 * width)}px"
    how = f'viewBox="{view}" class="fixed" style="{sides}"'
    return _picture(body, name, title, about, how)


def fluid(body: str, *, name: str, title: str, about: str, height: float) -> str:
    """A picture as wide as the page, whose places across are shares and letters keep their size."""
    return _picture(body, name, title, about, f'width="100%" height="{digits(height)}"')


def _picture(body: str, name: str, title: str, about: str, how: str) -> str:
    own = svg_escaped(name)
    return (
        f'<svg role="img" aria-labelledby="{own}-t {own}-d" {how}>'
        f'<title id="{own}-t">{svg_escaped(title)}</title>'
        f'<desc id="{own}-d">{svg_escaped(about)}</desc>'
        f"{body}</svg>"
    )


def escaped(text: str) -> str:
    """Text as it may stand in the page; no figure is parted from its sign.

    >>> escaped("<b> 83 %")
    '&lt;b&gt; 83\\xa0%'
    """
    return svg_escaped(text).replace(" %", "\xa0%")


def path(text: str) -> str:
    """The place of a file, or a command, to be copied as it stands; broken after its slashes.

    >>> path("a/99 %")
    'a/<wbr>99 %'
    """
    return svg_escaped(text).replace("/", "/<wbr>")


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
