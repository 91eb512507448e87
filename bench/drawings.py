"""Drawings that explain: strategies, cached features, gain against domain gap."""

from __future__ import annotations

from collections.abc import Callable

from bench.drawing import box, dot, line, picture, text
from bench.tables import rows

BLOCKS = 8
BOLD = 'font-weight="bold"'
MIDDLE = 'text-anchor="middle"'
KINDS = {
    "frozen": "frozen, identical bit for bit",
    "tuned": "fine-tuned",
    "fresh": "trained from random weights",
    "new": "new, for your classes",
}
STRATEGIES = {  # what happens to blocks 1 to 8
    "head": ["frozen"] * 8,
    "last:3": ["frozen"] * 5 + ["tuned"] * 3,
    "frozen:2": ["frozen"] * 2 + ["tuned"] * 6,
    "full": ["tuned"] * 8,
    "head+add": ["frozen"] * 8,
    "scratch": ["fresh"] * 8,
}


def strategies() -> str:
    """A row a strategy, a box a block."""
    left, wide, top, row = 110, 46, 62, 40
    drawn = [
        text(16, 26, "What a strategy does with a network of eight blocks", "ink", BOLD),
        text(left, 50, "from the image …", "faint"),
        text(left + BLOCKS * (wide + 6) + 62, 50, "… to the head", "faint"),
    ]
    for number, (name, actions) in enumerate(STRATEGIES.items()):
        y = top + row * number
        drawn.append(text(16, y + 19, name))
        for place, action in enumerate(actions):
            x = left + place * (wide + 6)
            drawn += [
                box(x, y, wide, 28, action),
                text(x + wide / 2, y + 19, place + 1, "on", MIDDLE),
            ]
        x = left + BLOCKS * (wide + 6)
        if name.endswith("+add"):
            drawn += [box(x, y, wide, 28, "new"), text(x + wide / 2, y + 19, "+", "on", MIDDLE)]
        drawn += [box(x + 62, y, 80, 28, "new"), text(x + 102, y + 19, "head", "on", MIDDLE)]
    y = top + row * len(STRATEGIES) + 8
    for number, (kind, meaning) in enumerate(KINDS.items()):
        x, down = 16 + 360 * (number % 2), 24 * (number // 2)
        drawn += [box(x, y + down, 14, 14, kind), text(x + 22, y + down + 12, meaning, "faint")]
    about = "What each strategy does with the blocks of a network"
    return picture(760, y + 54, about, drawn)


def once() -> str:
    """Frozen blocks run once and their features are cached; only the rest is trained."""
    y = 70
    drawn = [
        text(16, 26, "Frozen blocks run once", "ink", BOLD),
        box(24, y, 76, 44, "rail"),
        text(62, y + 27, "images", "ink", MIDDLE),
        line(100, y + 22, 132, y + 22, "edge", 2),
        box(132, y, 190, 44, "frozen"),
        text(227, y + 27, "frozen blocks", "on", MIDDLE),
        text(227, y + 64, "once per image and augmentation", "faint", MIDDLE),
        line(322, y + 22, 354, y + 22, "edge", 2),
        box(354, y - 8, 110, 60, "rail"),
        text(409, y + 19, "feature", "ink", MIDDLE),
        text(409, y + 35, "cache", "ink", MIDDLE),
        line(464, y + 22, 496, y + 22, "edge", 2),
        box(496, y, 100, 44, "tuned"),
        text(546, y + 27, "fine-tuned", "on", MIDDLE),
        line(596, y + 22, 616, y + 22, "edge", 2),
        box(616, y, 80, 44, "new"),
        text(656, y + 27, "head", "on", MIDDLE),
        f'<path class="edge" stroke-width="2" d="M 656 {y + 44} v 26 h -247 v -14"/>',
        text(532, y + 88, "every epoch", "faint", MIDDLE),
        text(409, y - 18, "a second run starts here", "faint", MIDDLE),
    ]
    return picture(720, y + 106, "Frozen blocks run once and their outputs are cached", drawn)


def distance() -> str:
    """A mark a set: domain gap, and gain over the last layer."""
    far = {row["set"]: row["domain_gap"] for row in rows("distances")}
    both = {row["set"]: row for row in rows("accuracy-balanced")}
    left, right, top, bottom = 70, 690, 60, 330
    most_x, low_y, high_y = 0.4, -5.0, 22.0

    def at(x: float, y: float) -> tuple[float, float]:
        return (
            round(left + x / most_x * (right - left), 1),
            round(bottom - (y - low_y) / (high_y - low_y) * (bottom - top), 1),
        )

    drawn = [
        text(
            16,
            26,
            "Gain over the last layer against domain gap",
            "ink",
            BOLD,
        ),
        text(16, 46, "points over logistic regression on the last layer", "faint"),
        text(
            right,
            bottom + 38,
            "domain gap to the images of pretraining",
            "faint",
            'text-anchor="end"',
        ),
    ]
    for tick in (0, 5, 10, 15, 20):
        _, y = at(0, tick)
        drawn += [
            line(left, y, right, y),
            text(left - 10, y + 4, tick, "faint", 'text-anchor="end"'),
        ]
    for share in (0.0, 0.1, 0.2, 0.3):
        x, _ = at(share, 0)
        drawn.append(text(x, bottom + 18, f"{share:.1f}", "faint", MIDDLE))
    for name, how_far in sorted(far.items(), key=lambda pair: pair[1]):
        gain = 100 * (both[name]["accuracy"] - both[name]["onelook"])
        x, y = at(how_far, gain)
        drawn.append(dot(x, y, "stays"))
        if how_far > 0.07 or gain > 5:  # the others lie on top of each other
            left_of = name == "trashnet"  # its right-hand neighbour is near
            more = 'font-size="11"' + (' text-anchor="end"' if left_of else "")
            drawn.append(text(x - 10 if left_of else x + 10, y + 4, name, "ink", more))
    return picture(820, bottom + 52, "Gain over the last layer against domain gap, 14 sets", drawn)


DRAWN: dict[str, Callable[[], str]] = {
    "strategies": strategies,
    "once": once,
    "domain_gap": distance,
}
