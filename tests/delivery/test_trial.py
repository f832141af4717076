"""What a trial started is gone after it, however it ended."""

from pathlib import Path

import pytest

from sidecar import overhead, recovery, trial
from sidecar.errors import UserError
from sidecar.trial import Trial

SCRIPT = """
import time, sidecar
run = sidecar.init("p")
run.step(1)
print("up", flush=True)
time.sleep(600)
"""


def test_a_training_script_that_never_ends_does_not_outlive_the_trial() -> None:
    with trial.folder() as made:
        client = made.client(SCRIPT)
        assert client.stdout is not None
        assert client.stdout.readline() == "up\n"
        assert list(recovery.rings_of(made.endpoint))
    assert client.returncode == -9
    assert not list(recovery.rings_of(made.endpoint))
    assert not made.directory.exists()


def test_a_measured_loop_that_takes_too_long_is_reported_and_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[int] = []
    client = Trial.client

    def endless(self: Trial, script: str, **environ: str) -> object:
        process = client(self, SCRIPT, **environ)
        started.append(process.pid)
        return process

    monkeypatch.setattr(overhead, "TIMEOUT_SECONDS", 0.0)
    monkeypatch.setattr(Trial, "start", lambda self: None)
    monkeypatch.setattr(Trial, "client", endless)
    with pytest.raises(UserError, match="did not end within"):
        overhead.measure(0.001, pairs=0, steps=1)
    assert not Path(f"/proc/{started[0]}").exists()
