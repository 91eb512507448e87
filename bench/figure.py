"""docs/accuracy.svg from the kept results: plain SVG, generated and never typed."""

from __future__ import annotations

from pathlib import Path

from bench import results

TARGET = Path(__file__).parents[1] / "docs" / "accuracy.svg"
WIDTH, LEFT, ROW, TOP = 720, 120, 30, 56
LOW = 0.5  # accuracy at the left end of the axis


def main() -> None:
    """Draw a row a set: our dot, the last-layer logistic regression's, the line between."""
    rows = sorted(results.read("accuracy")["rows"], key=lambda r: r["accuracy"] - r["onelook"])
    height = TOP + ROW * len(rows) + 34
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        'font-family="system-ui, sans-serif" font-size="13" role="img" '
        'aria-label="Test accuracy on eight image sets">',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        _text(LEFT, 20, "Test accuracy, same network and pictures", "#222", weight="bold"),
        _dot(LEFT + 5, 36, "#0b6e4f"),
        _text(LEFT + 16, 40, "warmstart fit", "#222"),
        _dot(LEFT + 125, 36, "#b0b0b0"),
        _text(LEFT + 136, 40, "last-layer logistic regression", "#222"),
    ]
    bottom = TOP + ROW * len(rows)
    for tick in (0.5, 0.6, 0.7, 0.8, 0.9, 1.0):
        x = _x(tick)
        parts.append(f'<line x1="{x}" x2="{x}" y1="{TOP}" y2="{bottom}" stroke="#e5e5e5"/>')
        parts.append(_text(x - 13, bottom + 18, f"{100 * tick:.0f} %", "#666"))
    for number, row in enumerate(reversed(rows)):
        y = TOP + ROW * number + ROW / 2
        ours, theirs = _x(row["accuracy"]), _x(row["onelook"])
        parts += [
            _text(8, y + 4, row["set"], "#222"),
            f'<line x1="{theirs}" x2="{ours}" y1="{y}" y2="{y}" stroke="#8fbfae" '
            'stroke-width="3"/>',
            _dot(theirs, y, "#b0b0b0"),
            _dot(ours, y, "#0b6e4f"),
        ]
    TARGET.write_text("\n".join([*parts, "</svg>"]) + "\n")


def _x(accuracy: float) -> float:
    return round(LEFT + (accuracy - LOW) / (1 - LOW) * (WIDTH - LEFT - 30), 1)


def _dot(x: float, y: float, colour: str) -> str:
    return f'<circle cx="{x}" cy="{y}" r="6" fill="{colour}"/>'


def _text(x: float, y: float, words: str, colour: str, weight: str = "normal") -> str:
    return f'<text x="{x}" y="{y}" fill="{colour}" font-weight="{weight}">{words}</text>'


if __name__ == "__main__":
    main()
