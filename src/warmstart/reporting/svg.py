"""Elements of SVG and HTML as text, every value escaped."""

from __future__ import annotations

from html import escape

from warmstart.formatting import printable

Value = str | float | int | None
WIDE = 380.0  # units: what is wider is scrolled on a narrow screen


def escaped(text: str) -> str:
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
            shown = digits(value) if isinstance(value, float) else escaped(str(value))
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
    return tag("text", escaped(words), x=x, y=y, class_=class_, text_anchor=kept)


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
    own = escaped(name)
    return (
        f'<svg role="img" aria-labelledby="{own}-t {own}-d" {how}>'
        f'<title id="{own}-t">{escaped(title)}</title><desc id="{own}-d">{escaped(about)}</desc>'
        f"{body}</svg>"
    )
