"""docs/accuracy.svg: each of the sets, `warmstart fit` beside regression on the last layer."""

from __future__ import annotations

from bench.drawing import dot, line, picture, text
from bench.tables import rows

WIDTH, LEFT, ROW, TOP = 720, 150, 28, 62
LOW = 0.5  # accuracy at the left end of the axis


def svg() -> str:
    """A row a set: our dot, the last-layer logistic regression's, the line between."""
    result = sorted(rows("accuracy-balanced"), key=lambda row: row["onelook"] - row["accuracy"])
    bottom = TOP + ROW * len(result)
    drawn = [
        text(16, 24, "Test accuracy, same base model and images", "ink", 'font-weight="bold"'),
        dot(22, 43, "stays"),
        text(34, 47, "warmstart fit"),
        dot(142, 43, "plain"),
        text(154, 47, "last-layer logistic regression"),
    ]
    for tick in (0.5, 0.6, 0.7, 0.8, 0.9, 1.0):
        x = _x(tick)
        drawn.append(line(x, TOP, x, bottom))
        drawn.append(text(x - 13, bottom + 18, f"{100 * tick:.0f} %", "faint"))
    for number, row in enumerate(result):
        y = TOP + ROW * number + ROW / 2
        ours, theirs = _x(row["accuracy"]), _x(row["onelook"])
        drawn += [
            text(16, y + 4, row["set"]),
            line(theirs, y, ours, y, "join", 3),
            dot(theirs, y, "plain"),
            dot(ours, y, "stays"),
        ]
    about = f"Test accuracy on {len(result)} image sets"
    return picture(WIDTH, bottom + 34, about, drawn)


def _x(accuracy: float) -> float:
    return round(LEFT + (accuracy - LOW) / (1 - LOW) * (WIDTH - LEFT - 40), 1)
