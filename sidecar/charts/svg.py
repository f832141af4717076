"""A curve as inline SVG: no script, readable in any mail or browser.

Given: points. Hands on: markup. Never: lets a text into it unescaped.
"""

import html
import math
from collections.abc import Sequence

from sidecar.charts.style import short

WIDTH, HEIGHT = 520, 190
LEFT, RIGHT, TOP, BOTTOM = 70, 10, 12, 30


def line(
    points: Sequence[tuple[float, float]], title: str, colour: str, *, bad: Sequence[float] = (),
    end: float | None = None,
) -> str:
    """``bad``: where a value was not finite, a red line from top to bottom; ``end``: where the axis ends at least."""
    if not points:
        return ""
    xs, ys = [x for x, _ in points], [y for _, y in points]
    every = [*xs, *bad, *([] if end is None else [end])]
    x_low, x_high, marks = min(every), max(every), _ticks(min(ys), max(ys))
    y_low, y_high = min(min(ys), marks[0]), max(max(ys), marks[-1])
    across = (WIDTH - LEFT - RIGHT) / ((x_high - x_low) or 1.0)
    up = (HEIGHT - TOP - BOTTOM) / ((y_high - y_low) or 1.0)

    def at(x: float, y: float) -> tuple[float, float]:
        return LEFT + (x - x_low) * across, HEIGHT - BOTTOM - (y - y_low) * up

    path = " ".join(f"{px:.1f},{py:.1f}" for px, py in (at(x, y) for x, y in points))
    grid = "".join(
        f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at(0, m)[1]:.1f}" y2="{at(0, m)[1]:.1f}" class="grid"/>'
        f'<text x="{LEFT - 6}" y="{at(0, m)[1] + 4:.1f}" text-anchor="end">{short(m)}</text>' for m in marks
    )
    feet = "".join(f'<text x="{at(x, y_low)[0]:.1f}" y="{HEIGHT - 8}" text-anchor="{anchor}">{short(x)}</text>'
                   for x, anchor in ((x_low, "start"), (x_high, "end")))
    places = {round(at(x, y_low)[0]): x for x in reversed(bad)}  # One line a pixel.
    holes = "".join(f'<line x1="{px}" x2="{px}" y1="{TOP}" y2="{HEIGHT - BOTTOM}" class="bad">'
                    f"<title>not finite at step {x:,.0f}</title></line>" for px, x in sorted(places.items()))
    shape = (f'<polyline points="{path}" fill="none" stroke="{html.escape(colour)}" stroke-width="1.6" '
             'stroke-linejoin="round"/>' if len(points) > 1 else
             f'<circle cx="{at(*points[0])[0]:.1f}" cy="{at(*points[0])[1]:.1f}" r="4" fill="{html.escape(colour)}"/>')
    words = f"from {short(ys[0])} to {short(ys[-1])}, between {short(min(ys))} and {short(max(ys))}"
    broken = f"; not finite from step {min(bad):,.0f} on" if bad else ""
    label = html.escape(f"{title}: {words}{broken}")
    return (f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}" class="curve">'
            f"{grid}{holes}{shape}{feet}"
            f'<text x="{(LEFT + WIDTH) / 2:.0f}" y="{HEIGHT - 8}" text-anchor="middle">step</text></svg>')


def _ticks(low: float, high: float) -> list[float]:
    """Three to six round numbers around the values."""
    span = high - low
    if span <= 0 or not math.isfinite(span):
        return [low]
    rough = span / 4
    size = 10.0 ** math.floor(math.log10(rough))
    stride = next(size * m for m in (1, 2, 2.5, 5, 10) if size * m >= rough)
    first = math.floor(low / stride)
    return [round((first + i) * stride, 12) for i in range(int(math.ceil(high / stride) - first) + 1)]
