"""What the reference trainer's five stages learn on built-in data, and what that costs.

Proves: the pipeline takes at most 6 minutes on 2 cores (CPU seconds of the trainer over 2, which a busy machine hardly
changes); the validation loss falls in every supervised stage; DPO tells better replies from worse in more than 60 % of
held-out pairs, and in more of them as it goes on; PPO's mean reward rises; samples become at least 20 % less
surprising to an n-gram of the training text. All of it is read from the sidecar's journal, not from the trainer.

    python -m benchmarks.pipeline                       # a few minutes; needs torch
    python -m benchmarks.pipeline --arguments "--steps 20"
"""

import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator

from benchmarks import common

SUPERVISED = ("pretrain", "midtrain", "sft", "dpo")
Series = dict[str, list[float]]


def trained(sidecar: common.Sidecar, arguments: list[str]) -> tuple[float, float]:
    """(CPU, wall) seconds of the trainer's whole life."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "trainer", "pipeline", *arguments], cwd=sidecar.folder,
        env=common.environment(SIDECAR_ENDPOINT=sidecar.endpoint), capture_output=True, text=True, timeout=3600,
    )  # fmt: skip
    if done.returncode != 0:
        raise SystemExit(f"the trainer failed:\n{done.stdout[-1000:]}{done.stderr[-2000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu, time.perf_counter() - began


def journaled(sidecar: common.Sidecar) -> dict[str, Series]:
    """Stage -> metric -> its values, in order."""
    common.wait_until(lambda: all(run["state"] == "finished" for run in sidecar.status()["runs"]))
    return {run["stage"]: _series(_rows(sidecar, run["run_id"])) for run in sidecar.status()["runs"]}


def _rows(sidecar: common.Sidecar, run_id: str) -> Iterator[dict[str, float]]:
    command = ["export", run_id, "--dir", str(sidecar.folder / "data"), "--format", "jsonl", "-o", "-"]
    done = subprocess.run(
        [sys.executable, "-m", "sidecar", *command],
        env=common.environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    for line in done.stdout.splitlines():
        row = json.loads(line)
        if row["kind"] in ("step", "log"):
            yield row["metrics"]


def _series(rows: Iterator[dict[str, float]]) -> Series:
    found: Series = {}
    for metrics in rows:
        for name, value in metrics.items():
            found.setdefault(name, []).append(value)
    return found


def judge(found: dict[str, Series]) -> bool:
    """Each figure beside its bound; True if all are inside."""
    good = [
        common.verdict(f"{stage}, validation loss, last / first", _ratio(found[stage]["val/loss"]), 1.0, "")
        for stage in SUPERVISED
    ]
    right = found["dpo"]["val/rewards_accuracy"]
    good.append(common.verdict("dpo, accuracy on held-out pairs", right[-1], 0.6, "", at_least=True))
    good.append(common.verdict("dpo, the same, last - first", right[-1] - right[0], 0.0, "", at_least=True))
    rewards = found["ppo"]["ppo/reward"]
    quarter = max(1, len(rewards) // 4)
    first, last = sum(rewards[:quarter]) / quarter, sum(rewards[-quarter:]) / quarter
    print(f"ppo, mean reward of the first quarter of the steps {first:.3f}, of the last {last:.3f}")
    good.append(
        common.verdict("ppo, mean reward, last quarter / first", last / max(first, 1e-9), 1.2, "", at_least=True)
    )
    surprise = found["pretrain"]["samples/perplexity"]
    good.append(common.verdict("pretrain, perplexity of samples, last / first", _ratio(surprise), 0.8, ""))
    return all(good)


def _ratio(values: list[float]) -> float:
    print(f"  {' '.join(f'{value:.3f}' for value in values)}")
    return values[-1] / values[0]


def main() -> int:
    parser = common.parser(__doc__)
    parser.add_argument("--arguments", default="", help="more flags for the trainer")
    options = parser.parse_args()
    common.print_machine()
    with common.sidecar_alive() as sidecar:
        cpu, wall = trained(sidecar, options.arguments.split())
        found = journaled(sidecar)
    print(f"five stages in {wall:.0f} s by the clock, {cpu:.0f} s of CPU")
    common.verdict("pipeline, CPU seconds / 2", cpu / 2, 360.0, "s")
    judge(found)
    common.print_load_after()
    return 0


if __name__ == "__main__":
    sys.exit(main())
