"""One plain sentence about a run.

Given: a filled snapshot. Hands on: the sentence that heads the page, the text status and the card.
Never: leaves out that something is wrong.
"""

from sidecar.snapshot import RunSnapshot


def verdict(run: RunSnapshot, late_seconds: float | None = None) -> str:
    """``late_seconds``: how long there was no step, if its end is overdue and it is no stall yet."""
    word = run.state
    if word == "starting":
        return "Starting: no step yet" + (f", in {run.phase}." if run.phase else ".")
    if word == "stalled":
        return _stalled(run)
    if word == "lost":
        gone = [rank.rank for rank in run.ranks if rank.state == "lost"]
        who = "the trainer process is gone" if len(run.ranks) == 1 else _gone(gone)
        return f"Lost: {who} without saying goodbye{_at(run)}{_causes(run)}."
    if word in ("failed", "finished"):
        reason = next((rank.reason for rank in run.ranks if rank.state == word and rank.reason), None)
        facts = _facts(run) if word == "finished" else ""
        return f"{word.capitalize()}{_at(run)}{facts}" + (f": {reason}." if reason else ".")
    gone = [rank.rank for rank in run.ranks if rank.state == "lost"]
    missing = f" {_gone(gone).capitalize()}." if gone else ""
    if late_seconds is not None:
        left = f"; no step for {late_seconds:.0f} s"
    else:
        left = f"; {duration(run.eta.seconds)} to go" if run.eta.seconds is not None else ""
    phase = f", now in {run.phase}" if run.phase else ""
    return f"Training: step {_step(run)}{_facts(run)}{phase}{left}.{missing}"


def _stalled(run: RunSnapshot) -> str:
    limit = f" (limit {run.stall_limit_seconds:.0f} s)" if run.stall_limit_seconds is not None else ""
    where = f", last in {run.phase}" if run.phase else ""
    if run.last_step_age_seconds is None:
        return f"Stalled: no first step yet{limit}{where}."
    return f"Stalled: no step for {run.last_step_age_seconds:.0f} s{limit}{_at(run)}{where}."


def _causes(run: RunSnapshot) -> str:
    """What else is known of the end: torchrun, say, terminates the other ranks when one has failed."""
    failed = next((f"; rank {one.rank} failed: {one.reason}" for one in run.ranks if one.state == "failed"), "")
    told = next((f"; {one.reason}" for one in run.ranks if one.state == "lost" and one.exit_code is not None), "")
    return failed + told


def _at(run: RunSnapshot) -> str:
    return f" at step {_step(run)}" if run.step is not None else " before the first step"


def _step(run: RunSnapshot) -> str:
    return f"{run.step:,}" + (f" of {run.total_steps:,}" if run.total_steps else "")


def _facts(run: RunSnapshot) -> str:
    parts = []
    if run.loss is not None:
        parts.append(f"loss {run.loss:.4g}")
    elif run.loss_state is not None:
        parts.append(f"loss is {run.loss_state}")
    if run.tokens_per_second is not None:
        parts.append(f"{short(run.tokens_per_second)} tokens/s")
    elif run.steps_per_second is not None:
        parts.append(f"{short(run.steps_per_second)} steps/s")
    if run.mfu.percent is not None:
        flag = ", which is impossible" if run.mfu.percent > 100 else ""
        attention = " (full attention)" if run.mfu.causal_percent is not None else ""
        parts.append(f"MFU {run.mfu.percent:.3g} %{attention}{flag}")
    return "".join(f", {part}" for part in parts)


def _gone(ranks: list[int]) -> str:
    listed = ", ".join(map(str, ranks[:8])) + (" ..." if len(ranks) > 8 else "")
    return f"rank {listed} is gone" if len(ranks) == 1 else f"ranks {listed} are gone"


def short(value: float) -> str:
    """12345.6 as 12.3k."""
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172800 else f"{seconds / 86400:.1f} days"
