"""A process that is killed while it writes a checkpoint leaves the former one, whole."""

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from trainer import checkpoint
from trainer.__main__ import main
from trainer.errors import UserError

POINTS = {
    "half of it written": "torch.save = lambda state, file: (file.write(b'PK' * 500), file.flush(), die())",
    "written, not yet on the disk": "os.fsync = lambda handle: die()",
    "on the disk, not yet renamed": "os.replace = lambda old, new: die()",
}
WRITER = """
import os, signal, sys
from pathlib import Path
import torch
from trainer import checkpoint

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def state(step):
    return {"step": step, "weights": torch.full((1000,), float(step))}

for place, point in enumerate(sys.argv[1:]):
    folder = Path(str(place))
    if not (pid := os.fork()):
        checkpoint.save(checkpoint.path_for(folder, 1), state(1))
        exec(point)
        checkpoint.save(checkpoint.path_for(folder, 1), state(2))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
"""


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> dict[str, Path]:
    """Point of the kill -> the folder it left."""
    folder = tmp_path_factory.mktemp("killed")
    code = f"import sys; sys.path.insert(0, {str(repository)!r})\n{WRITER}"
    done = subprocess.run(
        [sys.executable, "-c", code, *POINTS.values()], cwd=folder, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return {point: folder / str(place) for place, point in enumerate(POINTS)}


@pytest.mark.parametrize("point", POINTS)
def test_a_kill_while_a_checkpoint_is_written_leaves_the_former_one_whole(killed, point: str) -> None:
    path = checkpoint.path_for(killed[point], 1)
    state = checkpoint.load_file(checkpoint.newest(str(killed[point]), "sft"))
    assert state["step"] == 1
    assert torch.equal(state["weights"], torch.ones(1000))
    assert len(list(killed[point].iterdir())) == 2, "half a file lies aside"
    later = checkpoint.path_for(killed[point], 2)
    checkpoint.save(later, {"step": 2})
    assert sorted(killed[point].iterdir()) == [path, later], "and is cleared away with the next checkpoint"


def test_ranks_die_with_their_torchrun(monkeypatch) -> None:
    """They would train on beside those of the next torchrun, in the same folder."""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    alive, ready = os.pipe()
    if not (torchrun := os.fork()):
        if not os.fork():

            def wait(_: object) -> None:
                os.write(ready, b"x")
                signal.pause()

            signal.alarm(60)
            monkeypatch.setattr("trainer.__main__.run_command", wait)
            main(["sft"])
        signal.pause()
    os.close(ready)
    assert os.read(alive, 1) == b"x"
    os.kill(torchrun, signal.SIGKILL)
    os.waitpid(torchrun, 0)
    assert select.select([alive], [], [], 30)[0], "the rank lives on"
    assert os.read(alive, 1) == b"", "and nobody holds the other end any more"
    os.close(alive)


def test_two_runs_do_not_train_into_one_folder_at_once(trained, tmp_path: Path, monkeypatch) -> None:
    from trainer.loop import Loop

    train_step, tried = Loop._train_step, []

    def and_another(self: Loop) -> None:
        if not tried:
            tried.append(True)
            with pytest.raises(UserError, match=f"another run is training into {tmp_path}$"):
                trained("sft", steps=1, out=str(tmp_path))
        train_step(self)

    monkeypatch.setattr(Loop, "_train_step", and_another)
    trained(steps=2, out=str(tmp_path))
    assert tried
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["pretrain"]
    trained("sft", steps=1, out=str(tmp_path))


def test_what_another_rank_is_just_writing_aside_is_left_alone(tmp_path: Path, monkeypatch) -> None:
    """All ranks prepare the same tokens, and may write them at the same time."""
    path, own, sync = tmp_path / "prepared.pt", os.getpid(), os.fsync

    def another_rank_is_faster(handle: int) -> None:
        monkeypatch.setattr("os.fsync", sync)
        monkeypatch.setattr("os.getpid", os.getppid)
        checkpoint.save(path, {"rank": 1})
        monkeypatch.setattr("os.getpid", lambda: own)
        sync(handle)

    monkeypatch.setattr("os.fsync", another_rank_is_faster)
    checkpoint.save(path, {"rank": 0})
    assert checkpoint.load_file(path)["rank"] == 0
    assert list(tmp_path.iterdir()) == [path]
