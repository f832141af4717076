"""One self-contained page: the figures as JSON, the library that draws them, and everything said in text as well.

Given: runs and their drawn charts. Hands on: HTML that opens from a disk without a network.
Never: puts a name that came from a trainer into the page other than as text, or asks anything of anybody.
"""

import html
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from sidecar.charts.data import RunData
from sidecar.charts.registry import Figure, Missing
from sidecar.charts.style import STAGE_TITLES, in_stages, late_text, short, stage_colour, stage_title
from sidecar.damage import damaged_text

HERE = Path(__file__).parent
VENDOR = HERE / "vendor" / "plotly-gl3d.min.js"
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; img-src data: blob:; "
    "font-src data:; worker-src blob:; base-uri 'none'; form-action 'none'"
)
"""The page may load nothing at all from anywhere."""
MISSING_ROWS = 40


def build(title: str, runs: Sequence[RunData], drawn: Sequence[Any], notes: Sequence[str] = ()) -> str:
    """``drawn``: sidecar.charts.app.Drawn."""
    sections = "\n".join(_section(one) for one in drawn)
    links = "".join(f'<a href="#{e(one.chart.name)}">{e(one.chart.title)}</a>' for one in drawn)
    body = f"""
<header class="bar"><div class="who"><span class="mark" aria-hidden="true"></span><h1>{e(title)}</h1></div>
<p class="muted">{_summary(runs)}</p></header>
<nav aria-label="Charts">{links}</nav>
<main id="main">
<p id="flat-note" class="note" role="status" hidden>This browser has no WebGL: the charts are drawn flat, with the third
axis as colour.</p>
{"".join(f'<p class="note">{e(note)}</p>' for note in notes)}
{_runs(runs)}
{sections}
</main>
<footer class="muted">Drawn by trainer-sidecar from the journal, offline. Drag to rotate, click a chart and turn the
wheel to zoom, hover for values. Nothing on this page is loaded from or sent to anywhere.</footer>"""
    return document(f"{title}: training charts", body, [*film_scripts(), library(), script("app.js")])


def single(figure: Figure, title: str) -> str:
    """A page that is one figure and nothing else, for PNG export."""
    film = ' film" data-film="landscape' if "films" in (figure["layout"].get("meta") or {}) else ""
    plot = f'<main class="single"><div class="plot{film}" id="plot-single" data-figure="figure-single"></div></main>'
    body = plot + embed("figure-single", figure)
    scripts = film_scripts() if film else [library(), script("app.js")]
    return document(title, body, scripts, kind="single")


def document(title: str, body: str, scripts: Iterable[str], *, kind: str = "pictures") -> str:
    tags = "\n".join(text if text.startswith("<script") else f"<script>{text}</script>" for text in scripts)
    return f"""<!doctype html>
<html lang="en" class="{kind}">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<title>{e(title)}</title>
<link rel="icon" href="data:,">
<style>{script("style.css")}</style>
</head>
<body>
<a class="skip" href="#main">Skip to the charts</a>
{body}
{tags}
</body>
</html>
"""


def embed(name: str, value: Any) -> str:
    """Plain JSON that no text inside can break out of; NaN and infinities are null."""
    text = msgspec.json.encode(value).decode()
    text = text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
    text = text.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    return f'<script type="application/json" id="{e(name)}">{text}</script>'


def frame(text: str, height: int = 900) -> str:
    """A page inside a notebook's page."""
    return (f'<iframe title="charts" sandbox="allow-scripts" style="width:100%;height:{height}px;border:0" '
            f'srcdoc="{html.escape(text)}"></iframe>')


def e(text: Any) -> str:
    word = "".join(c if c.isprintable() or c in "\n " else "\N{REPLACEMENT CHARACTER}" for c in str(text))
    return html.escape(word)


@cache
def library() -> str:
    """Plotly as text: app.js runs it when the first chart needs it."""
    text = VENDOR.read_text(encoding="utf-8").replace("</script", "<\\/script")
    return f'<script type="text/plain" id="library">{text}</script>'


def film_scripts() -> list[str]:
    """Before the library, which the film does not need."""
    return [script("film_table.js"), script("film.js")]


@cache
def script(name: str) -> str:
    return (HERE / "page" / name).read_text(encoding="utf-8")


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]], caption: str = "") -> str:
    """Cells are text unless they are marked as made here (Markup)."""
    head = "".join(f'<th scope="col">{e(column)}</th>' for column in columns)
    cells = ("".join(f"<td>{cell if isinstance(cell, Markup) else e(cell)}</td>" for cell in row) for row in rows)
    body = "".join(f"<tr>{row}</tr>" for row in cells)
    title = f"<caption>{e(caption)}</caption>" if caption else ""
    return f'<div class="scroll"><table>{title}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


class Markup(str):
    """Text that is HTML already, and ours."""


def dot(stage: str | None) -> Markup:
    return Markup(f'<i class="dot" style="background:{stage_colour(stage)}"></i>{e(stage_title(stage))}')


def _summary(runs: Sequence[RunData]) -> str:
    stages = [stage for stage in in_stages(runs) if stage]
    words = [f"{len(runs)} run{'s' if len(runs) != 1 else ''}"]
    if stages:
        words.append(" → ".join(STAGE_TITLES.get(stage, e(stage)) for stage in stages))
    return " · ".join(words)


def _runs(runs: Sequence[RunData]) -> str:
    rows = []
    for stage, members in in_stages(runs).items():
        for run in members:
            loss, tokens = run.total("train/loss"), run.total("train/num_input_tokens_seen")
            rate = run.total("train/tokens_per_second")
            rows.append([
                dot(stage), run.label, run.run_id, run.state, short(loss.last_step if loss else None),
                short(tokens.high if tokens else None), short(loss.last if loss else None),
                short(loss.low if loss else None), short(rate.mean if rate else None),
            ])  # fmt: skip
    columns = ("stage", "run", "id", "state", "step", "tokens", "loss", "best loss", "tokens/s")
    unfinished = any(run.state in ("running", "starting", "stalled") for run in runs)
    note = '<p class="muted">Some runs were still going on when this was drawn.</p>' if unfinished else ""
    late = [f"{run.label}: {late_text(run)}" for run in runs if run.removed_rows]
    if late:
        note += ('<p class="note">The journal\'s bound has removed the oldest rows, so these charts begin later than '
                 f"the training did. {e('; '.join(late))}.</p>")
    for run in runs:
        if run.damaged_rows:
            note += f'<p class="note">{e(run.label)}: {damaged_text(run.damaged_rows)}.</p>'
    return f'<section class="card" aria-label="Runs"><h2>Runs</h2>{table(columns, rows)}{note}</section>'


def _section(one: Any) -> str:
    chart, figure, name = one.chart, one.figure, e(one.chart.name)
    if figure is None:
        picture = '<p class="empty">There is nothing to draw here yet. What is missing is listed below.</p>'
    else:
        controls = FILM_CONTROLS if name == "film" else ""
        kind = ' film" data-film="landscape' if name == "film" else ""
        picture = (
            f'<div class="plot{kind}" id="plot-{name}" data-figure="figure-{name}" role="{"group" if kind else "img"}" '
            f'aria-label="{e(chart.title)}: {e(describe(figure))}"></div>{controls}{embed(f"figure-{name}", figure)}'
        )
    buttons = ('<span class="tools"><button type="button" data-do="reset">Reset view</button>'
               '<button type="button" data-do="png">Save PNG</button></span>') if figure else ""
    return f"""<section class="card" id="{name}" aria-labelledby="title-{name}">
<div class="head"><h2 id="title-{name}">{e(chart.title)}</h2>{buttons}</div>
<p class="about">{e(chart.about)}</p>
{_note(figure)}{picture}
{_extra(one)}{_numbers(figure)}{missing_panel(getattr(one.data, "missing", []))}
</section>"""


FILM_CONTROLS = """<div class="film-controls" hidden>
<canvas data-film="map" aria-hidden="true"></canvas>
<button type="button" data-film="play" aria-pressed="false">Play</button>
<label class="grow">Position <input type="range" data-film="position" min="0" max="1000" value="0"></label>
<label>Window <select data-film="window"><option value="1">whole run</option><option value="8">1/8</option>
<option value="40">1/40</option><option value="200">1/200</option></select></label>
<label data-film-runs hidden>Run <select data-film="run"></select></label>
<output data-film="where" class="muted"></output></div>"""


def _note(figure: Figure | None) -> str:
    note = (((figure or {}).get("layout") or {}).get("meta") or {}).get("note")
    return f'<p class="note">{e(note)}</p>' if note else ""


def _extra(one: Any) -> str:
    if one.chart.name != "stages":
        return ""
    from sidecar.charts.stages import stages_table

    columns, rows = stages_table(one.data)
    cells = [[dot(row.stage), *texts[1:]] for row, texts in zip(one.data.rows, rows, strict=True)]
    return table(columns, cells)


def describe(figure: Figure) -> str:
    """The chart in one sentence, for readers who cannot see it."""
    scene = figure["layout"].get("scene") or figure["layout"]
    axes = [scene[a]["title"]["text"] for a in ("xaxis", "yaxis", "zaxis") if a in scene]
    names = [trace.get("name") or "" for trace in figure["data"]]
    return f"{' by '.join(axes)}; {len(names)} series: {', '.join(html.unescape(n) for n in names[:12])}"


def _numbers(figure: Figure | None) -> str:
    """The ranges of every series as a table: what the picture shows, in words."""
    if figure is None:
        return ""
    scene = figure["layout"].get("scene") or figure["layout"]
    axes = [(a, scene[f"{a}axis"]["title"]["text"]) for a in "xyz" if f"{a}axis" in scene]
    rows = []
    for trace in figure["data"][:60]:
        if (trace.get("meta") or {}).get("role", "").startswith(("link", "pins")):
            continue
        cells = [html.unescape(trace.get("name") or ""), _count(trace)]
        rows.append([*cells, *(_range(trace.get(a)) for a, _ in axes)])
    columns = ("series", "points", *(title for _, title in axes))
    return f"<details><summary>Numbers in this chart</summary>{table(columns, rows)}</details>"


def _count(trace: dict[str, Any]) -> str:
    return str(sum(value is not None for value in _flat(trace.get("z") or trace.get("y") or [])))


def _range(values: Any) -> str:
    known = [v for v in _flat(values or []) if isinstance(v, (int, float)) and v == v]
    if not known:
        return "–"
    low, high = min(known), max(known)
    return short(low) if low == high else f"{short(low)} … {short(high)}"


def _flat(values: Sequence[Any]) -> list[Any]:
    return [v for row in values for v in row] if values and isinstance(values[0], list) else list(values)


def missing_panel(missing: Sequence[Missing]) -> str:
    """What could not be drawn, for whom, and how to send it; the same lack of several runs in one row."""
    if not missing:
        return ""
    grouped: dict[tuple[str, str], list[str]] = {}
    for lack in missing:
        known = grouped.setdefault((lack.what, lack.how), [])
        if lack.who not in known:
            known.append(lack.who)
    rows = []
    for (what, how), runs in list(grouped.items())[:MISSING_ROWS]:
        shown = ", ".join(runs[:6]) + (f" and {len(runs) - 6} more" if len(runs) > 6 else "")
        rows.append([what, shown, Markup(f"<code>{e(how)}</code>")])
    opened = " open" if len(missing) and len(grouped) <= 3 else ""
    return (f'<details class="missing"{opened}><summary>{len(grouped)} thing{"s" if len(grouped) != 1 else ""} missing'
            f"</summary>{table(('missing', 'run (stage)', 'how to send it'), rows)}</details>")
