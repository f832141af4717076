"""Chart: the run film, rank x step x step time as a landscape, with what happened pinned to it.

Given: runs. Hands on: per run a table of columns (a few steps each) by rows (a rank, or a few neighbouring ones) with
the shortest and longest step of each, which page/film.js draws; and the same in few columns as a plotly surface, for
PNG files and for other pages. Never: averages a bad step away: every stretch keeps its extremes.
"""

from collections.abc import Sequence
from statistics import median
from typing import Any

import msgspec

from sidecar.charts.data import RunData
from sidecar.charts.pins import Pin
from sidecar.charts.registry import Figure, Missing, Options, chart
from sidecar.charts.style import begins_late, layout3d, plain, stage_title, who

FILMS_MAX = 8
CELLS_MAX = 80_000
"""Of all films of a page together: about 2 MB of it."""
OVERVIEW, OVERVIEW_CELLS = 480, 8_000
"""Columns of the plotly surface, and columns x rows."""
RIBBONS_MAX = 16
"""Up to so many rows each is a ribbon of its own; more make one landscape."""
PINS_MAX = 90
SLOW_PINS = 12
SLOW = 3.0
"""A step this many times the median is pinned."""
COLOURS = [[0.0, "#1b6f8a"], [0.3, "#2aa198"], [0.5, "#c9d36b"], [0.7, "#f0a33a"], [1.0, "#d7263d"]]
PIN_STYLE = {
    "slow step": ("#d7263d", "diamond"), "alert": ("#b5179e", "x"), "restart": ("#e85d04", "square"),
    "rework": ("#9d4edd", "square-open"), "lost": ("#6c757d", "x"), "checkpoint": ("#2b6cb0", "circle"),
    "evaluation": ("#5a9e3a", "circle-open"),
}  # fmt: skip
"""Colour and symbol, the more urgent kind first."""


class Film(msgspec.Struct):
    run: str
    stage: str
    width: int
    """Steps a column spans."""
    steps: list[int]
    """First step of each column."""
    ranks: list[int]
    """First rank of each row."""
    rank_width: int
    """Ranks a row spans."""
    low: list[list[float | None]]
    """Seconds, by row and column."""
    high: list[list[float | None]]
    worst: list[list[int | None]]
    """The step that took ``high``."""
    worst_rank: list[list[int | None]] | None
    """The rank that took ``high``; None where each row is one rank."""
    median_seconds: float
    pins: list[Pin]


class Films(msgspec.Struct):
    films: list[Film]
    missing: list[Missing]


def film_data(runs: Sequence[RunData], options: Options | None = None) -> Films:
    out = Films([], begins_late(runs))
    for run in runs:
        film = _film(run)
        if film is not None:
            out.films.append(film)
        else:
            out.missing.append(Missing("step times", who(run), "run.step(step, ...) once per step, at least twice"))
    longest = sorted(out.films, key=lambda film: -len(film.steps) * film.width * len(film.ranks))[:FILMS_MAX]
    room = CELLS_MAX // max(1, len(longest))
    out.films = [_narrowed(film, room // max(1, len(film.ranks))) for film in out.films if film in longest]
    return out


def _film(run: RunData) -> Film | None:
    columns = run.grid.columns() if run.grid else []
    if not columns:
        return None
    ranks = run.grid.ranks()
    cells = [[column.get(rank) for _, column in columns] for rank in ranks]
    middle = median(cell.total / cell.count for row in cells for cell in row if cell)
    low = [[_round(cell.low) if cell else None for cell in row] for row in cells]
    high = [[_round(cell.high) if cell else None for cell in row] for row in cells]
    worst = [[cell.high_step if cell else None for cell in row] for row in cells]
    worst_rank = [[cell.high_rank if cell else None for cell in row] for row in cells]
    slow = sorted(((cell.high, cell.high_step, cell.high_rank) for row in cells for cell in row
                   if cell and cell.high > SLOW * middle), reverse=True)[:SLOW_PINS]
    pins = [Pin("slow step", step, rank, 0.0, f"rank {rank} took {seconds:.3g} s, {seconds / middle:.1f} x the median")
            for seconds, step, rank in slow]
    return Film(run.label, run.stage or "", run.grid.width, [step for step, _ in columns], ranks, run.grid.rank_width,
                low, high, worst, worst_rank if run.grid.rank_width > 1 else None, middle, _chosen([*pins, *run.pins]))


def _narrowed(film: Film, columns_max: int) -> Film:
    """The same in at most so many columns; of those that are joined, the extremes stay."""
    groups = _pool(len(film.steps), max(24, columns_max))
    if len(groups) == len(film.steps):
        return film
    peaks = [[_peak(row, begin, end) for begin, end in groups] for row in film.high]
    return msgspec.structs.replace(
        film, width=film.width * -(-len(film.steps) // len(groups)), steps=[film.steps[begin] for begin, _ in groups],
        low=[[min((v for v in row[begin:end] if v is not None), default=None) for begin, end in groups]
             for row in film.low],
        high=_picked(film.high, peaks), worst=_picked(film.worst, peaks),
        worst_rank=_picked(film.worst_rank, peaks) if film.worst_rank else None,
    )  # fmt: skip


def _peak(row: Sequence[float | None], begin: int, end: int) -> int | None:
    """Where the longest of these is."""
    known = [(v, i) for i in range(begin, end) if (v := row[i]) is not None]
    return max(known)[1] if known else None


def _picked(rows: Sequence[Sequence[Any]], peaks: Sequence[Sequence[int | None]]) -> list[list[Any]]:
    return [[None if at is None else row[at] for at in places] for row, places in zip(rows, peaks, strict=True)]


def _round(seconds: float) -> float:
    return float(f"{seconds:.4g}")


def _chosen(pins: list[Pin]) -> list[Pin]:
    """The urgent kinds first; of a kind that comes often, evenly spread ones."""
    out: list[Pin] = []
    for kind in PIN_STYLE:
        mine = [pin for pin in pins if pin.kind == kind]
        room = min(PINS_MAX - len(out), 24)
        stride = max(1, -(-len(mine) // max(1, room)))
        out += mine[::stride][:room]
    return sorted(out, key=lambda pin: pin.step)


@chart(
    "film",
    title="Run film",
    about="Every rank at every step: height and colour are the time a step took, declared pauses left out. A ridge "
    "along the steps is a slow rank, a wall across the ranks a slow moment. Move the scrubber to go through the run, "
    "choose a shorter window to see single steps.",
    prepare=film_data,
)
def film_figure(data: Films) -> Figure | None:
    if not data.films:
        return None
    shown = max(range(len(data.films)), key=lambda i: len(data.films[i].steps) * data.films[i].width)
    film = data.films[shown]
    few = _narrowed(film, min(OVERVIEW, OVERVIEW_CELLS // len(film.ranks)))
    top = max(v for row in film.high for v in row if v is not None)
    log = top > 25 * film.median_seconds
    traces = [_surface(few), *_pins(film, top)]
    layout = layout3d(
        "Step", {"title": {"text": "Rank"}, "showspikes": False, **_rank_ticks(film.ranks)},
        {"title": {"text": "Step time (s)"}, "showspikes": False, "type": "log" if log else "linear"},
        scene={"aspectratio": {"x": 2.3, "y": 0.9, "z": 0.6}, "camera": {
            "eye": {"x": 0.82, "y": -2.08, "z": 0.95}, "center": {"x": 0, "y": 0, "z": -0.1}}},
        showlegend=True,
        meta={"films": [msgspec.to_builtins(_labelled(one)) for one in data.films], "shown": shown},
    )  # fmt: skip
    return {"data": traces, "layout": layout}


def _labelled(film: Film) -> Film:
    """As it goes into the page: names as text."""
    pins = [msgspec.structs.replace(pin, text=plain(pin.text)) for pin in film.pins]
    return msgspec.structs.replace(film, run=plain(film.run), stage=stage_title(film.stage), pins=pins)


def _pool(columns: int, columns_max: int) -> list[tuple[int, int]]:
    size = min(columns, columns_max)
    return [(i * columns // size, (i + 1) * columns // size) for i in range(size)]


def _surface(film: Film) -> dict[str, Any]:
    y: list[float] = []
    z: list[list[float | None]] = []
    text: list[list[str]] = []
    ribbons = len(film.ranks) <= RIBBONS_MAX
    for row, rank in enumerate(film.ranks):
        words = [_words(film, row, column) for column in range(len(film.steps))]
        for place in ((rank - 0.38, rank + 0.38) if ribbons else (rank,)):
            y.append(place)
            z.append(film.high[row])
            text.append(words)
        if ribbons:
            y.append(rank + 0.5)
            z.append([None] * len(words))
            text.append([""] * len(words))
    return {
        "type": "surface", "x": film.steps, "y": y, "z": z, "text": text, "hovertemplate": "%{text}<extra></extra>",
        "colorscale": COLOURS, "cmin": round(film.median_seconds * 0.6, 9), "cmax": round(film.median_seconds * 2.2, 9),
        "colorbar": {"title": {"text": "seconds"}, "thickness": 12, "len": 0.55, "outlinewidth": 0},
        "lighting": {"ambient": 0.75, "diffuse": 0.55, "specular": 0.08, "roughness": 0.9}, "name": "step time",
        "connectgaps": False, "showlegend": False, "meta": {"role": "film"},
    }  # fmt: skip


def _words(film: Film, row: int, column: int) -> str:
    high, low = film.high[row][column], film.low[row][column]
    if high is None or low is None:
        return ""
    rank = film.worst_rank[row][column] if film.worst_rank else film.ranks[row]
    return f"rank {rank}, slowest: step {film.worst[row][column]}<br>{high:.4g} s, shortest nearby {low:.4g} s"


def _pins(film: Film, top: float) -> list[dict[str, Any]]:
    """A stem and a head for each; what no single rank did stands in front of rank 0."""
    traces = []
    for kind, (colour, symbol) in PIN_STYLE.items():
        mine = [pin for pin in film.pins if pin.kind == kind]
        if not mine:
            continue
        front = film.ranks[0] - 0.9
        x: list[Any] = []
        y: list[Any] = []
        z: list[Any] = []
        for pin in mine:
            place = pin.rank if kind in ("slow step", "restart") and pin.rank >= 0 else front
            x += [pin.step, pin.step, None]
            y += [place, place, None]
            z += [film.median_seconds * 0.6, top * 1.06, None]
        words = [f"<b>{kind}</b><br>step {pin.step:,}<br>{plain(pin.text)}" for pin in mine for _ in range(3)]
        traces.append({
            "type": "scatter3d", "mode": "lines+markers", "name": kind, "x": x, "y": y, "z": z, "text": words,
            "hovertemplate": "%{text}<extra></extra>", "line": {"color": colour, "width": 2},
            "marker": {"color": colour, "symbol": symbol, "size": [0, 5, 0] * len(mine), "line": {"width": 0}},
            "meta": {"role": "pins", "kind": kind},
        })  # fmt: skip
    return traces


def _rank_ticks(ranks: list[int]) -> dict[str, Any]:
    """Whole ranks only, at most a dozen."""
    stride = max(1, -(-len(ranks) // 12))
    return {"tickvals": ranks[::stride], "ticktext": [str(rank) for rank in ranks[::stride]]}
