"""A row that a captured script logged, read as a step: canonical names, and counts per step instead of totals.

Given: a row under the script's names, and its rank's previous total. Hands on: metrics as ``run.step`` sends them.
Never: changes the row itself: the journal and the export keep what the script logged.
"""

from typing import Any

from sidecar.metrics import ALIASES
from sidecar.state import COUNT_MAX, RankState, RunState

TOTALS = ("train/num_input_tokens_seen", "train/num_tokens_seen")
"""Running totals, used where a script does not log what each step consumed."""
TRAINER_KEY = "per_device_train_batch_size"
"""A key of the configuration that transformers' callbacks log: it tells that the script is one of those."""


def as_step(state: RunState, rank: RankState, row: dict[str, Any]) -> dict[str, Any]:
    metrics = {ALIASES.get(name, name): value for name, value in row.items()}
    if TRAINER_KEY in state.config and "train/global_step" in row and "train/num_tokens" in metrics:
        metrics["train/num_tokens_seen"] = metrics.pop("train/num_tokens")  # TRL's is a running total.
    if "train/num_tokens" not in metrics:
        total: Any = next((metrics[name] for name in TOTALS if name in metrics), None)
        if type(total) in (int, float) and 0 <= total < float(2**63):
            tokens = _since_last(rank, int(total))
            if tokens <= COUNT_MAX:
                metrics["train/num_tokens"] = tokens
    return metrics


def _since_last(rank: RankState, total: int) -> int:
    """How much the total grew. A smaller total has started again from 0; a resumed process starts at the old one."""
    session, before = rank.tokens_reported or (rank.session, 0)
    rank.tokens_reported = (rank.session, total)
    if session != rank.session:
        return 0
    return total - before if total >= before else total
