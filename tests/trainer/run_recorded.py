"""The trainer's command with a recorder in the sidecar's place.

What each rank told the sidecar is written to RECORD_TO/rankN.json: its first run, and under "runs" all of them.
"""

import json
import os
import sys
from pathlib import Path

from fake_run import Recorder

import sidecar
from trainer.__main__ import main


def record(arguments: list[str], folder: Path) -> int:
    told: list[Recorder] = []

    def begin(**begun: object) -> Recorder:
        told.append(Recorder(**begun))
        return told[-1]

    sidecar.init = begin  # type: ignore[assignment]
    try:
        code = main(arguments)
    except SystemExit as exit_:
        code = int(exit_.code or 0)
    runs = [_written(run) for run in told]
    out = folder / f"rank{os.environ.get('RANK', 0)}.json"
    out.write_text(json.dumps({**(runs[0] if runs else {}), "runs": runs}))
    return code


def _written(run: Recorder) -> dict[str, object]:
    return {"stage": run.begun["stage"], "steps": run.steps, "logs": run.logs, "finished": run.finished}


if __name__ == "__main__":
    sys.exit(record(sys.argv[1:], Path(os.environ["RECORD_TO"])))
