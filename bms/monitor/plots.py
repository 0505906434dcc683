"""Line plots as SVG text, for a page that may load nothing and run nothing. Plain numbers in, markup out.

A plot has one axis of time and one of values from 0, up to four series in colours that differ in lightness as well,
gaps where nothing was measured, and a description for those who do not see it. Colours come from the page's style, by
class, so that they follow its light or dark.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence

import attrs

__all__ = ["Series", "plot"]

WIDTH, HEIGHT = 560, 180
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 10, 10, 24
_POINTS_MAX = 360


@attrs.frozen
class Series:
    """One line: its name, and a value for each moment; None where there was none."""

    name: str
    values: Sequence[float | None]


def plot(
    title: str,
    times: Sequence[float],
    lines: Sequence[Series],
    show: Callable[[float], str],
    when: Callable[[float], str],
    *,
    is_binary: bool = False,
) -> str:
    """A figure with a plot; `show` writes a value of the axis, `when` a time. `is_binary`: the values are bytes."""
    known = [value for line in lines for value in line.values if value is not None]
    if len(times) < 2 or not known:
        return f'<figure><figcaption>{html.escape(title)}</figcaption><p class="none">nothing measured yet</p></figure>'
    top = _nice(max(known), is_binary)
    start, span = times[0], max(times[-1] - times[0], 1e-9)

    def place(time: float, value: float) -> str:
        x = _LEFT + (WIDTH - _LEFT - _RIGHT) * (time - start) / span
        y = HEIGHT - _BOTTOM - (HEIGHT - _TOP - _BOTTOM) * min(value, top) / top
        return f"{x:.1f},{y:.1f}"

    step = -(-len(times) // _POINTS_MAX)
    drawn, legend = [], []
    for number, line in enumerate(lines):
        for run in _runs(times[::step], line.values[::step]):
            points = " ".join(place(time, value) for time, value in run)
            if len(run) == 1:
                x, y = points.split(",")
                drawn.append(f'<circle class="series{number}" cx="{x}" cy="{y}" r="2"/>')
            else:
                drawn.append(f'<polyline class="series{number}" points="{points}"/>')
        last = next((value for value in reversed(line.values) if value is not None), None)
        said = "" if last is None else f" {html.escape(show(last))}"
        legend.append(f'<span><i class="series{number}"></i>{html.escape(line.name)}{said}</span>')
    most = f"{title}: from {when(times[0])} to {when(times[-1])}, at most {show(max(known))}"
    return (
        f"<figure><figcaption>{html.escape(title)}</figcaption>"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(most)}">'
        f"{_grid(top, times, show, when)}{''.join(drawn)}</svg>"
        f'<p class="legend">{"".join(legend)}</p></figure>'
    )


def _grid(top: float, times: Sequence[float], show: Callable[[float], str], when: Callable[[float], str]) -> str:
    parts = []
    for number in range(5):
        y = HEIGHT - _BOTTOM - (HEIGHT - _TOP - _BOTTOM) * number / 4
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        label = html.escape(show(top * number / 4))
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{label}</text>')
    for share, anchor in ((0.0, "start"), (0.5, "middle"), (1.0, "end")):
        x = _LEFT + (WIDTH - _LEFT - _RIGHT) * share
        label = html.escape(when(times[0] + (times[-1] - times[0]) * share))
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - 6}" text-anchor="{anchor}">{label}</text>')
    return "".join(parts)


def _runs(times: Sequence[float], values: Sequence[float | None]) -> list[list[tuple[float, float]]]:
    """The stretches without a gap."""
    runs: list[list[tuple[float, float]]] = [[]]
    for time, value in zip(times, values, strict=True):
        if value is not None:
            runs[-1].append((time, value))
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def _nice(value: float, is_binary: bool) -> float:
    """The next of 1, 2, 4, 8 times a power of ten, or power of two: a quarter of it is a round number, too."""
    if value <= 0:
        return 1.0
    if is_binary:
        return 2.0 ** math.ceil(math.log2(value))
    unit: float = 10.0 ** math.floor(math.log10(value))
    return next((unit * step for step in (1, 2, 4, 8) if value <= unit * step), unit * 10)
