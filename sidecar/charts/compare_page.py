"""A comparison as text for a terminal, as a page, and as JSON.

Given: a Comparison (and findings of a gate). Hands on: text. Never: computes.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from sidecar.charts import page
from sidecar.charts.compare import DIFFERENCES_MAX, Comparison, MetricRow, Value
from sidecar.charts.divergence import UNITS, Divergence, Fact
from sidecar.charts.gate import Finding
from sidecar.charts.registry import Figure
from sidecar.charts.style import PALETTE, short

FACTS_SHOWN = 6
CELL_MAX = 28
HEAD_MAX = 48


def to_json(comparison: Comparison, findings: Sequence[Finding], verdict: str | None) -> bytes:
    """Values that are not finite are null, with ``bad_total`` beside them."""
    body = msgspec.to_builtins(comparison)
    if verdict is not None:
        body["gate"] = {"verdict": verdict, "findings": msgspec.to_builtins(list(findings))}
    return msgspec.json.format(msgspec.json.encode(body), indent=2)


def lines(comparison: Comparison, findings: Sequence[Finding], verdict: str | None) -> list[str]:
    """For a terminal."""
    names = [_word(head.label, HEAD_MAX) for head in comparison.runs]
    out = _aligned([["", *names], *_heads(comparison)])
    out += ["", "final value (best)", *_aligned([[row.metric, *map(_cell, row.values)] for row in comparison.rows])]
    if comparison.settings:
        shown = list(comparison.settings.items())[:DIFFERENCES_MAX]
        out += ["", "settings that differ", *_aligned([[name, *(_word(v) for v in values)] for name, values in shown])]
    out.append("")
    for parted in comparison.divergences:
        out.append(f"{_word(parted.run, HEAD_MAX)}: {_word(parted.reason, 160)}")
        if parted.at is not None:
            facts = [fact_text(fact, parted.axis) for fact in parted.facts[:FACTS_SHOWN]]
            out += [f"  {i}. {text}" for i, text in enumerate(facts, 1)]
    if verdict is not None:
        out += ["", *map(_finding, findings)]
        out.append(f"gate: {verdict}")
    return out


def _finding(found: Finding) -> str:
    run, rule, detail = _word(found.run, HEAD_MAX), _word(found.rule, 60), _word(found.detail, 120)
    return f"{found.verdict:<12} {run}  {rule}  {detail}"


def html(
    comparison: Comparison, figures: dict[str, Figure], findings: Sequence[Finding], verdict: str | None
) -> str:
    names = [head.label for head in comparison.runs]
    title = " vs ".join(names[:2]) + (f" and {len(names) - 2} more" if len(names) > 2 else "")
    parts = [_verdict(comparison, findings, verdict)]
    parts.append(_card("Runs", page.table(("", *names), _heads(comparison))))
    columns = ("metric", *names)
    rows = [[row.metric, *(page.Markup(_best(row, i)) for i in range(len(names)))] for row in comparison.rows]
    values = page.table(columns, rows, "Final value, and the best one in brackets")
    parts.append(_card("Values", values, _legend(names)))
    drawn = [_figure(number, name, figure) for number, (name, figure) in enumerate(figures.items())]
    parts += [*drawn[:1], f'<div class="pairs">{"".join(drawn[1:])}</div>']
    shown = list(comparison.settings.items())[:DIFFERENCES_MAX]
    settings = page.table(("setting", *names), [[name, *(_word(v, 60) for v in values)] for name, values in shown])
    parts.append(_card("Settings that differ", settings if shown else "<p>None.</p>"))
    body = f"""<header class="bar"><div class="who"><span class="mark" aria-hidden="true"></span>
<h1>{page.e(title)}</h1></div><p class="muted">compared by {page.e(comparison.axis)}</p></header>
<main id="main">{"".join(parts)}</main>"""
    return page.document(title, body, [page.library(), page.script("app.js")])


def fact_text(fact: Fact, axis: str) -> str:
    since = f", from {UNITS[axis]} {fact.since:,.0f} on" if fact.since is not None else ""
    return f"{_word(fact.name, 60)}: {_word(fact.values[0])} -> {_word(fact.values[1])} ({fact.kind}{since})"


def _verdict(comparison: Comparison, findings: Sequence[Finding], verdict: str | None) -> str:
    text = "".join(_parted(parted) for parted in comparison.divergences)
    if verdict is not None:
        cells = [[_pill(f.verdict), f.run, f.rule, f.detail] for f in findings]
        text = f"<h2>Gate: {_pill(verdict)}</h2>{page.table(('verdict', 'run', 'rule', 'detail'), cells)}{text}"
    return f'<section class="card">{text}</section>'


def _pill(verdict: str) -> page.Markup:
    """The word on its colour."""
    return page.Markup(f'<span class="pill {verdict.replace(" ", "-")}">{page.e(verdict)}</span>')


def _parted(parted: Divergence) -> str:
    facts = "".join(f"<li>{page.e(fact_text(fact, parted.axis))}</li>" for fact in parted.facts[:FACTS_SHOWN])
    ranked = f"<p class='muted'>What differs, the most likely cause first:</p><ol>{facts}</ol>" if facts else ""
    return f"<h2>{page.e(parted.run)}</h2><p>{page.e(parted.reason)}</p>{ranked if parted.at is not None else ''}"


def _figure(number: int, name: str, figure: Figure) -> str:
    key = f"overlay-{number}"
    label = page.e(f"{name}: {page.describe(figure)}")
    plot = f'<div class="plot low" id="plot-{key}" data-figure="figure-{key}" role="img" aria-label="{label}"></div>'
    return _card(name, plot + page.embed(f"figure-{key}", figure))


def _card(title: str, inner: str, before: str = "") -> str:
    return f'<section class="card"><div class="head"><h2>{page.e(title)}</h2></div>{before}{inner}</section>'


def _legend(names: Sequence[str]) -> str:
    dots = "".join(f'<span><i class="dot" style="background:{PALETTE[i % len(PALETTE)]}"></i>{page.e(name)}</span> '
                   for i, name in enumerate(names))
    return f'<p class="legend">{dots}</p>'


def _best(row: MetricRow, at: int) -> str:
    """The best run's cell is bold."""
    text = page.e(_cell(row.values[at]))
    known = [v.best for v in row.values if v.best is not None]
    if row.better is None or len(known) < 2 or row.values[at].best is None:
        return text
    top = max(known) if row.better == "higher" else min(known)
    return f"<strong>{text}</strong>" if row.values[at].best == top and min(known) < max(known) else text


def _heads(comparison: Comparison) -> list[list[str]]:
    fields: list[tuple[str, Any]] = [
        ("run", lambda h: h.run_id), ("stage", lambda h: h.stage or "-"), ("state", lambda h: h.state or "-"),
        ("steps", lambda h: short(h.steps)),
        ("goodput", lambda h: "-" if h.goodput_ratio is None else f"{100 * h.goodput_ratio:.0f} %"),
    ]  # fmt: skip
    if any(head.removed for head in comparison.runs):
        fields.append(("removed", lambda h: h.removed or "-"))
    return [[label, *(_word(read(head), HEAD_MAX) for head in comparison.runs)] for label, read in fields]


def _cell(value: Value) -> str:
    if value.final is None:
        return "-"
    bad = f", {value.bad_total} not finite" if value.bad_total else ""
    return f"{short(value.final)}" + (f" ({short(value.best)}{bad})" if value.best is not None else bad.lstrip(","))


def _word(value: Any, chars_max: int = CELL_MAX) -> str:
    text = "-" if value is None else short(value) if type(value) is float else str(value)
    text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    return text if len(text) <= chars_max else text[: chars_max - 1] + "…"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)] if rows else []
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
