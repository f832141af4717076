"""One page about one run, to hand on: as HTML, as Markdown, as lines for a terminal.

Given: a RunData. Hands on: text. Never: reads anything, needs a script in the page, or hides what is not known.
"""

from collections.abc import Sequence
from typing import Any

from sidecar.charts import page, svg
from sidecar.charts.data import RunData
from sidecar.charts.series import thin
from sidecar.charts.stages import stages_data, stages_table
from sidecar.charts.style import accuracy_of, duration, late_text, mfu_of, short, stage_title
from sidecar.damage import damaged_text

CURVES = (("train/loss", "Training loss"), ("val/loss", "Validation loss"),
          ("train/tokens_per_second", "Tokens per second"), ("train/grad_norm", "Gradient norm"),
          ("train/learning_rate", "Learning rate"), ("train/mfu_percent", "MFU (%)"))  # fmt: skip
STATE_TONES = {"failed": "bad", "lost": "bad", "stalled": "bad"}
CURVE_COLOUR = "#3b76f0"
"""Not the stage's: pretraining is red, and red is what was not finite."""
SPARKS = "▁▂▃▄▅▆▇█"
FLAT_RATIO = 1e-9  # Means of equal values differ by their rounding.
SPARK_WIDTH = 32
SAMPLES_MAX = 6
SPENT = "Where the time went"
SPENT_COLOURS = ("#2a9d8f", "#e9a23b", "#6c8ebf", "#c0574f", "#8e7cc3", "#9aa4b2", "#5b8c5a", "#b5a642")
SETTINGS, COLUMN_ROWS = "Configuration", 14
WIDE = ("Stage", "What happened")
"""Tables that need the whole width of the page."""
SAMPLE_CHARS = 1_200
SETTINGS_MAX = 120


class Report:
    """A report on one run. In a notebook it shows itself."""

    def __init__(self, run: RunData) -> None:
        self.run = run

    def html(self) -> str:
        run = self.run
        about = f"{page.dot(run.stage)} · {page.e(run.project)} · {page.e(run.run_id)}"
        body = f"""<header class="bar"><div class="who"><span class="mark" aria-hidden="true"></span>
<h1>{page.e(run.label)}</h1></div><p class="muted">{about}</p></header>
<main id="main" class="report">{self._cards()}</main>
<footer class="muted">Written by trainer-sidecar from the journal, offline.</footer>"""
        return page.document(f"{run.label}: run report", body, [])

    def _cards(self) -> str:
        run = self.run
        verdict = run.snapshot.verdict if run.snapshot else ""
        parts = [f'<section class="card hero wide {STATE_TONES.get(run.state, "")}">'
                 f"<h2>{page.e(verdict or run.state)}</h2>{_tiles(run)}{page.table(('', ''), facts(run))}</section>"]
        parts.append(_card("Curves", '<div class="curves">' + "".join(_curves(run)) + "</div>", wide=True))
        for title, columns, rows in tables(run):
            if rows:
                before = _spent_bar(run) if title == SPENT else ""
                many = title == SETTINGS and len(rows) > COLUMN_ROWS
                inner = _columns(rows) if many else before + page.table(columns, rows)
                parts.append(_card(title, inner, wide=many or title in WIDE))
        texts = "".join(_sample(*one) for one in samples(run))
        if texts:
            kept = '<p class="muted">Read on this machine; no outlet sends them without being allowed.</p>'
            parts.append(_card("Samples", kept + texts, wide=True))
        return "".join(parts)

    def markdown(self) -> str:
        run = self.run
        verdict = run.snapshot.verdict if run.snapshot else run.state
        out = [f"# {_md(run.label)}", "", f"{stage_title(run.stage)} · {_md(run.project)} · `{_code(run.run_id)}`", "",
               f"**{_md(verdict)}**", "", *_md_table(("", ""), facts(run)), "", "## Curves", ""]
        out += [f"    {line}" for line in sparklines(run)] or ["None were recorded."]
        for title, columns, rows in tables(run):
            if rows:
                out += ["", f"## {title}", "", *_md_table(columns, rows)]
        for step, name, text in samples(run):
            quoted = "\n".join(f"    {line}" for line in text.splitlines())
            out += ["", f"## Sample: {_md(name)}" + (f" (step {step})" if step is not None else ""), "", quoted]
        return "\n".join(out) + "\n"

    def lines(self) -> list[str]:
        """For a terminal: the card with sparklines."""
        run = self.run
        rows = [(label, text) for label, text in facts(run) if text not in ("", "–")]
        width = max((len(label) for label, _ in rows), default=0)
        head = f"{run.label}  {run.run_id}  {stage_title(run.stage)}"
        verdict = [run.snapshot.verdict] if run.snapshot and run.snapshot.verdict else []
        texts = [head, *verdict, *(f"{label:<{width}}  {text}" for label, text in rows), "", *sparklines(run)]
        return ["".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text) for text in texts]

    def _repr_html_(self) -> str:
        return page.frame(self.html(), 800)


def facts(run: RunData) -> list[tuple[str, str]]:
    """What matters most, in words; a dash: not known."""
    s, loss, val = run.snapshot, run.total("train/loss"), run.total("val/loss")
    accuracy = accuracy_of(run)
    best = max((p.value for p in accuracy.points()), default=None) if accuracy else None
    rate = run.total("train/tokens_per_second")
    bad = sum(total.bad for name, total in run.totals.items() if name == "train/loss")
    rows = [
        ("state", run.state),
        ("steps", short(loss.last_step if loss else None) + (f" of {s.total_steps:,}" if s and s.total_steps else "")),
        ("tokens", short(s.tokens if s else None)),
        ("elapsed", duration(s.elapsed_seconds if s else None)),
        ("loss", f"{short(loss.first)} → {short(loss.last)}, best {short(loss.low)} at step {loss.low_step:,.0f}"
         if loss else "–"),
        ("not finite", f"{bad:,} value{'s' if bad != 1 else ''} of the loss" if bad else ""),
        ("validation loss", f"{short(val.last)}, best {short(val.low)} at step {val.low_step:,.0f}" if val else "–"),
        ("best accuracy", short(best)),
        ("throughput", f"{short(rate.mean)} tokens/s on average, {short(rate.high)} at best" if rate else "–"),
        ("MFU", mfu_text(run)),
        ("goodput", f"{100 * s.goodput.ratio:.1f} %" if s and s.goodput.ratio is not None else "–"),
        ("restarts", str(s.restarts) if s and s.restarts else ""),
        ("repeated steps", f"{s.rework_steps:,}" if s and s.rework_steps else ""),
        ("removed", late_text(run) + ", by the journal's bound" if run.removed_rows else ""),
        ("damaged", damaged_text(run.damaged_rows) if run.damaged_rows else ""),
        ("events lost", f"{s.lost_events:,}" if s and s.lost_events else ""),
        ("energy", f"{s.energy_joules / 3.6e6:.3g} kWh" if s and s.energy_joules else ""),
    ]  # fmt: skip
    return [(label, text) for label, text in rows if text]


def mfu_text(run: RunData) -> str:
    """With its convention, denominator and source, or why there is none."""
    mfu = run.snapshot.mfu if run.snapshot else None
    total = run.total("train/mfu_percent")
    track, factor = mfu_of(run)
    if track is not None and total is None:
        return f"{factor * run.totals['train/mfu_reported'].mean:.2f} % on average, as the script itself claims"
    if mfu is None or (mfu.percent is None and total is None):
        return f"unknown: {mfu.reason}" if mfu and mfu.reason else "–"
    value = total.mean if total else mfu.percent
    text = f"{value:.2f} % on average ({mfu.convention or 'full attention'})"
    causal = run.total("train/mfu_causal_percent")
    if causal is not None and causal.mean is not None:
        text += f", {causal.mean:.2f} % with causal attention"
    d = mfu.denominator
    if d.peak_flops_per_device:
        device = f" {d.device_name}" if d.device_name else ""
        peak = short(d.peak_flops_per_device, "FLOP/s")
        text += f"; of {peak} x {d.devices or 1}{device}, peak from {mfu.source or '?'}"
    return text


def tables(run: RunData) -> list[tuple[str, tuple[str, ...], list[list[Any]]]]:
    """(title, columns, rows): stages, time, datasets, what happened, configuration, environment."""
    s = run.snapshot
    columns, stages = stages_table(stages_data([run]))
    phases = sorted(s.phases.items(), key=lambda item: -item[1].seconds_total) if s else []
    mixture = s.dataset.mixture if s else {}
    return [
        ("Stage", columns, stages),
        (SPENT, ("state", "time", "share"),
         [[state.replace("_", " "), duration(s.goodput.seconds[state] if s else None), f"{100 * share:.1f} %"]
          for state, share in _spent(run)]),
        ("Phases", ("phase", "time", "count"),
         [[name, duration(p.seconds_total), p.count or ""] for name, p in phases]),
        ("Datasets", ("dataset", "samples", "tokens", "share", "coverage"),
         [[name, short(v.samples), short(v.tokens), _percent(v.ratio), _percent(v.coverage)]
          for name, v in mixture.items()]),
        ("Evaluations", ("metric", "last", "best", "at step"), _evaluations(run)),
        ("What happened", ("step", "kind", "what"),
         [[f"{pin.step:,}", pin.kind, pin.text] for pin in run.pins if pin.kind != "evaluation"][-40:]),
        ("Model", ("fact", "value"), [[name, _setting(value)] for name, value in sorted(run.facts.items())]),
        ("Environment", ("", ""), _environment(run)),
        (SETTINGS, ("setting", "value"),
         [[name, _setting(value)] for name, value in sorted(run.config.items())][:SETTINGS_MAX]),
    ]  # fmt: skip


def samples(run: RunData) -> list[tuple[int | None, str, str]]:
    """The last texts, shortened. They are on this machine only: no outlet sends them unless it was allowed to."""
    return [(step, name, text if len(text) <= SAMPLE_CHARS else text[:SAMPLE_CHARS] + "…")
            for step, name, text in run.texts[-SAMPLES_MAX:]]


def sparklines(run: RunData) -> list[str]:
    """One line per curve: its shape, first and last value."""
    out = []
    for name, _ in CURVES:
        track = run.track(name)
        if track is not None:
            points = [point.value for point in track.means()]
            out.append(f"{name:<26}{spark(points)}  {short(points[0])} → {short(points[-1])}")
    return out


def spark(values: Sequence[float], width: int = SPARK_WIDTH) -> str:
    """The shape of a curve in block characters; each stands for the mean of its stretch."""
    if not values:
        return ""
    size = min(width, len(values))
    parts = [values[i * len(values) // size : (i + 1) * len(values) // size] for i in range(size)]
    means = [sum(part) / len(part) for part in parts]
    low, high = min(means), max(means)
    if high - low <= FLAT_RATIO * max(abs(low), abs(high)):
        return SPARKS[3] * size
    return "".join(SPARKS[min(7, int(8 * (mean - low) / (high - low)))] for mean in means)


def _evaluations(run: RunData) -> list[list[Any]]:
    from sidecar.charts.compare import value_of

    rows = []
    for name in sorted(run.totals):
        if name.startswith(("val/", "eval/")):
            value = value_of(run, name)
            at = f"{value.best_step:,.0f}" if value.best_step is not None else "–"
            rows.append([name, short(value.final), short(value.best), at])
    return rows


def _environment(run: RunData) -> list[list[Any]]:
    s = run.snapshot
    gpus = sorted({str(gpu.get("name") or "GPU") for gpu in s.gpus}) if s else []
    seen = f"{len(s.gpus)} x {', '.join(gpus)}" if s and s.gpus else (s.gpu.reason if s else None) or "none seen"
    rows = [["hosts", ", ".join(run.hosts) or "–"], ["processes", str(run.environment.get("world_size") or "–")],
            ["client", run.environment.get("client") or "–"], ["started", (s.started_at if s else None) or "–"],
            ["GPUs", seen], ["read from", run.source]]  # fmt: skip
    return [[label, _setting(value)] for label, value in rows]


def _curves(run: RunData) -> list[str]:
    out = []
    for name, title in CURVES:
        track = run.track(name)
        if track is not None:
            points = [(p.step, p.value) for p in thin(track.points(), 600)]
            bad = [step for _, step, _ in track.bad]
            end = run.totals[name].last_step if bad and name in run.totals else None
            picture = svg.line(points, title, CURVE_COLOUR, bad=bad, end=end)
            out.append(f"<figure><figcaption>{page.e(title)}</figcaption>{picture}</figure>")
    return out or ["<p>No curve was recorded.</p>"]


def _columns(rows: Sequence[Sequence[Any]]) -> str:
    """Many short pairs, set in columns."""
    pairs = "".join(f"<div><dt>{page.e(name)}</dt><dd>{page.e(value)}</dd></div>" for name, value in rows)
    return f'<dl class="settings">{pairs}</dl>'


def _sample(step: int | None, name: str, text: str) -> str:
    where = f", step {step:,}" if step is not None else ""
    return f'<h3>{page.e(name)}<span class="muted">{where}</span></h3><pre>{page.e(text)}</pre>'


def _tiles(run: RunData) -> str:
    """The few numbers that are looked for first; none for what is not known."""
    s, loss, val = run.snapshot, run.total("train/loss"), run.total("val/loss")
    rate, mfu = run.total("train/tokens_per_second"), run.total("train/mfu_percent")
    values = [
        ("last loss", short(loss.last) if loss else None), ("best validation loss", short(val.low) if val else None),
        ("tokens", short(s.tokens) if s and s.tokens is not None else None),
        ("tokens per second", short(rate.mean) if rate else None),
        ("MFU", f"{mfu.mean:.1f} %" if mfu and mfu.mean is not None else None),
        ("goodput", f"{100 * s.goodput.ratio:.0f} %" if s and s.goodput.ratio is not None else None),
        ("elapsed", duration(s.elapsed_seconds) if s and s.elapsed_seconds is not None else None),
    ]  # fmt: skip
    tiles = "".join(f"<div><dt>{label}</dt><dd>{page.e(value)}</dd></div>" for label, value in values if value)
    return f'<dl class="tiles">{tiles}</dl>' if tiles else ""


def _spent(run: RunData) -> list[tuple[str, float]]:
    """(state, share of the time), the longest first."""
    seconds = run.snapshot.goodput.seconds if run.snapshot else {}
    whole = sum(seconds.values()) or 1.0
    return [(state, t / whole) for state, t in sorted(seconds.items(), key=lambda item: -item[1]) if t >= 0.05]


def _spent_bar(run: RunData) -> str:
    """The shares as one bar; the table below has the numbers."""
    parts = "".join(f'<i style="width:{100 * share:.2f}%;background:{SPENT_COLOURS[i % len(SPENT_COLOURS)]}" '
                    f'title="{page.e(state.replace("_", " "))}: {100 * share:.1f} %"></i>'
                    for i, (state, share) in enumerate(_spent(run)))
    return f'<div class="shares" aria-hidden="true">{parts}</div>'


def _card(title: str, inner: str, *, wide: bool = False) -> str:
    return f'<section class="card{" wide" if wide else ""}"><h2>{page.e(title)}</h2>{inner}</section>'


def _percent(ratio: float | None) -> str:
    return "–" if ratio is None else f"{100 * ratio:.1f} %"


def _setting(value: Any) -> str:
    text = short(value) if type(value) is float else f"{value:,}" if type(value) is int else str(value)
    return text if len(text) <= 200 else text[:199] + "…"


def _md(text: Any) -> str:
    """Text that no name can turn into markup."""
    word = "".join(c if c.isprintable() else " " for c in str(text)).replace("\\", "\\\\")
    for char in "`*_[]<>|#!":
        word = word.replace(char, f"\\{char}" if char not in "<>" else {"<": "&lt;", ">": "&gt;"}[char])
    return word


def _code(text: str) -> str:
    return "".join(c for c in text if c.isprintable() and c != "`")


def _md_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return lines + ["| " + " | ".join(_md(cell) for cell in row) + " |" for row in rows]
