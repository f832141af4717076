"""Rules for CI: may this run replace the baseline?

Given: a comparison and a rules file. Hands on: a verdict per rule and an exit code.
Never: passes what it cannot see: a metric that is missing means "cannot tell", not "fine".

    divergence = "fail"            # or "ignore" (default): lasting divergence from the first run

    [[rule]]
    metric = "val/loss"            # any metric, by its canonical name or one of its aliases
    value = "best"                 # final (default), best or mean
    worse_percent_max = 1.0        # the candidate may be at most this much worse than the first run
    # worse_max = 0.01             # the same in the metric's own unit
    # max = 3.2                    # limits that need no baseline
    # min = 0.4
    # better = "lower"             # where the name does not tell
    # required = false             # missing: skip instead of "cannot tell"
"""

import tomllib
from enum import IntEnum
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from sidecar import aliases
from sidecar.charts.compare import Comparison, Value, better, value_of
from sidecar.charts.data import RunData
from sidecar.errors import UserError

UNFINISHED = ("starting", "running", "stalled")


class Verdict(IntEnum):
    PASS = 0
    REGRESSION = 1
    CANNOT_TELL = 2


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    metric: str
    value: Literal["final", "best", "mean"] = "final"
    worse_percent_max: Annotated[float, msgspec.Meta(ge=0)] | None = None
    worse_max: Annotated[float, msgspec.Meta(ge=0)] | None = None
    max: float | None = None
    min: float | None = None
    better: Literal["lower", "higher"] | None = None
    required: bool = True


class Rules(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    rule: list[Rule] = []
    divergence: Literal["fail", "ignore"] = "ignore"


class Finding(msgspec.Struct, frozen=True):
    run: str
    rule: str
    verdict: str
    """pass | regression | cannot tell"""
    detail: str


WORDS = {Verdict.PASS: "pass", Verdict.REGRESSION: "regression", Verdict.CANNOT_TELL: "cannot tell"}


def read_rules(path: Path) -> Rules:
    """Raises UserError (exit code 2: cannot tell)."""
    try:
        rules = msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), Rules)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}", "give the path of a rules file to --gate") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
        raise UserError(f"{path} is no rules file: {error}", "docs/pictures.md has an example") from None
    for rule in rules.rule:
        limits = (rule.worse_percent_max, rule.worse_max, rule.max, rule.min)
        if all(limit is None for limit in limits):
            raise UserError(f"{path}: the rule for {rule.metric} has no limit",
                            "give it worse_percent_max, worse_max, max or min")
    if not rules.rule and rules.divergence == "ignore":
        raise UserError(f"{path} has no rule", 'add a [[rule]] or divergence = "fail"')
    return rules


def judge(comparison: Comparison, runs: list[RunData], rules: Rules) -> tuple[Verdict, list[Finding]]:
    """Every run but the first against the first. A regression outweighs what cannot be told."""
    found: list[tuple[Verdict, Finding]] = []
    for run, parted in zip(runs[1:], comparison.divergences, strict=True):
        for rule in rules.rule:
            verdict, detail = _rule(runs[0], run, rule)
            found.append((verdict, Finding(run.label, f"{rule.metric} {rule.value}", WORDS[verdict], detail)))
        if rules.divergence == "fail":
            verdict = (Verdict.CANNOT_TELL if not parted.decided else
                       Verdict.PASS if parted.at is None else Verdict.REGRESSION)
            found.append((verdict, Finding(run.label, "divergence", WORDS[verdict], parted.reason)))
    verdicts = {verdict for verdict, _ in found}
    overall = next((v for v in (Verdict.REGRESSION, Verdict.CANNOT_TELL) if v in verdicts), Verdict.PASS)
    return overall, [finding for _, finding in found]


def _rule(base: RunData, run: RunData, rule: Rule) -> tuple[Verdict, str]:
    name = aliases.canonical(rule.metric)
    ours = _pick(value_of(run, name), rule.value)
    if ours is None:
        return _unknown(rule, f"{run.label} has no {rule.value} {name}")
    if ours != ours or ours - ours != 0:
        return Verdict.REGRESSION, f"{ours} is not finite"
    if run.state in UNFINISHED and rule.value == "final":
        return Verdict.CANNOT_TELL, f"{run.label} is still {run.state}"
    if rule.max is not None and ours > rule.max:
        return Verdict.REGRESSION, f"{ours:.6g} is above {rule.max:.6g}"
    if rule.min is not None and ours < rule.min:
        return Verdict.REGRESSION, f"{ours:.6g} is below {rule.min:.6g}"
    if rule.worse_percent_max is None and rule.worse_max is None:
        return Verdict.PASS, f"{ours:.6g} is within its limits"
    return _against(base, rule, name, ours)


def _against(base: RunData, rule: Rule, name: str, ours: float) -> tuple[Verdict, str]:
    theirs = _pick(value_of(base, name), rule.value)
    way = rule.better or better(name)
    if theirs is None or theirs != theirs or theirs - theirs != 0:
        return _unknown(rule, f"the first run has no finite {rule.value} {name}")
    if way is None:
        return Verdict.CANNOT_TELL, f'which way is {name} better? say better = "lower" or "higher"'
    worse = ours - theirs if way == "lower" else theirs - ours
    percent = 100.0 * worse / abs(theirs) if theirs else (0.0 if worse == 0 else float("inf") if worse > 0 else 0.0)
    detail = f"{ours:.6g} against {theirs:.6g}: {abs(percent):.2f} % {'worse' if worse > 0 else 'better or equal'}"
    over = (rule.worse_percent_max is not None and percent > rule.worse_percent_max) or (
        rule.worse_max is not None and worse > rule.worse_max)
    return (Verdict.REGRESSION if over else Verdict.PASS), detail


def _pick(value: Value, which: str) -> float | None:
    return {"final": value.final, "best": value.best, "mean": value.mean}[which]


def _unknown(rule: Rule, detail: str) -> tuple[Verdict, str]:
    return (Verdict.CANNOT_TELL, detail) if rule.required else (Verdict.PASS, f"skipped: {detail}")
