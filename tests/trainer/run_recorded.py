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

told: list[Recorder] = []


def begin(**begun: object) -> Recorder:
    told.append(Recorder(**begun))
    return told[-1]


def written(run: Recorder) -> dict[str, object]:
    return {"stage": run.begun["stage"], "steps": run.steps, "logs": run.logs, "finished": run.finished}


sidecar.init = begin
try:
    code = main(sys.argv[1:])
except SystemExit as exit_:
    code = exit_.code
runs = [written(run) for run in told]
out = Path(os.environ["RECORD_TO"]) / f"rank{os.environ.get('RANK', 0)}.json"
out.write_text(json.dumps({**(runs[0] if runs else {}), "runs": runs}))
sys.exit(code)
