"""The sidecar as a process that its launcher watches."""

import subprocess
import sys
from pathlib import Path

import pytest

from sidecar import supervise
from sidecar.config import Config, Loaded


def test_a_sidecar_that_dies_now_and_then_is_restarted_for_months_but_not_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervise, "SERVE", (sys.executable, "-c", "raise SystemExit(1)"))
    config = Config(dir=str(tmp_path))
    service = supervise.Service(Loaded(config, dict.fromkeys(supervise.FIELDS, "default")), "ipc:///x", {})

    def dies() -> None:
        assert isinstance(service._process, subprocess.Popen)
        service._process.wait(30)

    def revived(now: float) -> bool:
        answer = service.revive(now)
        dies()
        return answer

    service.start()
    dies()
    assert [revived(float(second)) for second in range(8)] == [True] * 5 + [False] * 3
    days = [86_400.0 * day for day in range(1, 9)]
    assert all(revived(now) for now in days)
