"""After `make run`: the listing, the export and the W&B offline file are there and agree."""

import json
import os
import subprocess
import sys
from pathlib import Path


def sidecar(*arguments: str) -> str:
    command = [sys.executable, "-m", "sidecar", *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def main() -> int:
    runs = json.loads(sidecar("runs", "--json"))
    assert len(runs) == 1, runs
    assert runs[0]["state"] == "finished", runs
    rows = [json.loads(line) for line in sidecar("export", "latest", "--format", "jsonl", "-o", "-").splitlines()]
    steps = [row for row in rows if row["kind"] == "step"]
    assert steps[-1]["step"] == runs[0]["last_step"], (steps[-1], runs)
    first, last = (row["metrics"]["train/loss"] for row in (steps[0], steps[-1]))
    assert last < first, (first, last)
    offline = list(Path(os.environ["SIDECAR_DIR"]).glob("**/*.wandb"))
    assert offline, "no W&B offline file"
    print(f"after the run: {len(steps)} steps, loss {first:.3f} -> {last:.3f}, {offline[0].name}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
