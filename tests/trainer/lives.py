"""Several lives of the trainer out of one process that has imported it, so that each costs a fork and no import.

    python lives.py SPECIFICATION.json

A life: {"arguments": [...], "ranks": 2, "kill": ["sft", 7], "poison": [1, 2], "record": FOLDER}. With "kill", rank 0
sends itself SIGKILL right after that step of that stage, and the other ranks go as torchrun would end them; with
"poison", rank 1's second loss is NaN; with "record", a recorder stands in the sidecar's place (see run_recorded.py).
Prints the ranks' exit codes, life by life, as JSON.
"""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any


def live(life: dict[str, Any]) -> list[int]:
    """One process per rank, as torchrun starts them; their exit codes, negative for a signal."""
    ranks = life.get("ranks", 1)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(ranks), "TORCHELASTIC_RUN_ID": port}
    pids = []
    for rank in range(ranks):
        pid = os.fork()
        if not pid:
            os.environ.update({**place, "RANK": str(rank), "LOCAL_RANK": str(rank)} if ranks > 1 else {})
            os._exit(_run(life, rank))
        pids.append(pid)
    codes: dict[int, int] = {}
    while len(codes) < ranks:
        pid, status = os.wait()
        codes[pid] = os.waitstatus_to_exitcode(status)
        if codes[pid] != 0:
            for other in set(pids) - set(codes):
                os.kill(other, signal.SIGKILL)
    return [codes[pid] for pid in pids]


def _run(life: dict[str, Any], rank: int) -> int:
    from trainer.__main__ import main

    if life.get("kill") and rank == 0:
        _die_after(*life["kill"])
    if life.get("poison") and rank == life["poison"][0]:
        _poison(life["poison"][1])
    try:
        if life.get("record"):
            from run_recorded import record

            return record(life["arguments"], Path(life["record"]))
        return main(life["arguments"])
    except BaseException:  # noqa: BLE001 - A fork must not return into its parent's frames.
        import traceback

        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()


def _die_after(stage: str, step: int) -> None:
    from trainer.loop import Loop

    train_step = Loop._train_step

    def last_step(self: Loop) -> None:
        train_step(self)
        if (self.stage.name, self.step) == (stage, step):
            os.kill(os.getpid(), signal.SIGKILL)

    Loop._train_step = last_step  # type: ignore[method-assign]


def _poison(call: int) -> None:
    """The loss of this call is NaN."""
    from trainer.stage import Stage

    loss, calls = Stage.loss, []

    def poisoned(self: Stage, learner: Any, batch: Any) -> Any:
        calls.append(1)
        value, metrics = loss(self, learner, batch)
        return value * (float("nan") if len(calls) == call else 1.0), metrics

    Stage.loss = poisoned  # type: ignore[method-assign]


def run_lives(lives: list[dict[str, Any]], folder: Path, **environment: str) -> tuple[list[list[int]], str]:
    """For tests: (exit codes of each life's ranks, what was printed)."""
    specification, repository = folder / "lives.json", Path(__file__).resolve().parents[2]
    specification.write_text(json.dumps(lives, default=str))
    done = subprocess.run(
        [sys.executable, __file__, str(specification)], cwd=folder, capture_output=True, text=True, timeout=300,
        env={**os.environ, "PYTHONPATH": str(repository), **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    *said, codes = done.stdout.splitlines()
    return json.loads(codes), "\n".join(said) + done.stderr


if __name__ == "__main__":
    from trainer.stages import STAGES, load_stage
    from trainer.tasks import builtin

    for name in STAGES:
        load_stage(name)  # Imports it.

    builtin.entries()  # Reads the standard library's sources; the forks remember.
    found = [live(life) for life in json.loads(Path(sys.argv[1]).read_text())]
    print(json.dumps(found))
