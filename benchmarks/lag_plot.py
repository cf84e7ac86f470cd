"""A plot of lags as an SVG of a few kilobytes, drawn by hand."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

__all__ = ["Lags", "plot"]

Lags = Sequence[tuple[float, float]]
"""Seconds since the beginning, and the lag in seconds of the block of then."""

WIDTH, HEIGHT = 760, 260
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 34, 34
COLOURS = ("#b3541e", "#1f6f8b", "#5b7f2b")
STEPS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)
"""Of the axis, in milliseconds."""


def plot(path: Path, title: str, series: Mapping[str, Lags]) -> None:
    """Draw each block as a dot: time along, lag up, both linear.

    Args:
        path: of the file.
        title: what was measured.
        series: lags by name, at most three.
    """
    longest = max(at for lags in series.values() for at, _ in lags)
    most = max(lag for lags in series.values() for _, lag in lags) * 1000
    step = next((one for one in STEPS if most / one <= 6), STEPS[-1])
    top = step * (int(most / step) + 1)

    def x(seconds: float) -> int:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * seconds / longest)

    def y(milliseconds: float) -> int:
        return round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * milliseconds / top)

    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-8 0 {WIDTH + 8} {HEIGHT}" font-size="12">',
        "<style>text{font-family:sans-serif}</style>",
        f'<rect x="-8" width="{WIDTH + 8}" height="{HEIGHT}" fill="#fff"/>',
        f'<text x="{LEFT}" y="18" font-size="13">{escape(title)}</text>',
    ]
    for value in range(0, top + 1, step):
        lines += [
            f'<path d="M{LEFT} {y(value)}H{WIDTH - RIGHT}" stroke="#ddd"/>',
            f'<text x="{LEFT - 6}" y="{y(value) + 4}" text-anchor="end">{value} ms</text>',
        ]
    minute = 60 * max(1, round(longest / 600))
    for seconds in range(0, int(longest) + 1, minute):
        shown = f"{seconds // 60} min"
        lines.append(f'<text x="{x(seconds)}" y="{HEIGHT - 16}" text-anchor="middle">{shown}</text>')
    for at, (name, lags) in enumerate(series.items()):
        dots = "".join(f"M{x(seconds)} {y(lag * 1000)}h0" for seconds, lag in lags)
        lines += [
            f'<path d="{dots}" stroke="{COLOURS[at]}" stroke-width="2.5" stroke-linecap="round"/>',
            _named(escape(name), x=WIDTH - RIGHT, y=18 + 14 * at, colour=COLOURS[at]),
        ]
    path.write_text("\n".join([*lines, "</svg>"]) + "\n")


def _named(name: str, *, x: int, y: int, colour: str) -> str:
    return f'<text x="{x}" y="{y}" text-anchor="end" fill="{colour}">{name}</text>'
