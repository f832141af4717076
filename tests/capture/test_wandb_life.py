# ruff: noqa: E501 - scripts and tables read better on one line
"""A captured run from its beginning to all its ends: exits, threads, forks, kills, resumption, late rows."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.capture.conftest import execute


def test_rows_real_wandb_drops_are_kept_as_late(captured, listener) -> None:
    captured("""
    import wandb
    wandb.init(project="p")
    wandb.log({"a": 1}, step=5)
    wandb.log({"a": 2, "n": {"b": 1}}, step=3)
    wandb.log({"a": 3}, step=5)
    wandb.log({"a": 4}, step=-2)
    """)
    assert [(row.step, row.metrics) for row in listener.rows()] == [(5, {"a": 3})]
    late = listener.rows(kinds=("late",))
    assert [(row.step, row.metrics) for row in late] == [(3, {"a": 2, "n.b": 1}), (None, {"a": 4})]


@pytest.mark.parametrize(
    ("end", "code", "state"),
    [("pass", 0, "finished"), ("raise ValueError('x')", 1, "failed"), ("import sys; sys.exit(3)", 3, "finished"),
     ("wandb.finish(exit_code=2)", 0, "failed"), ("wandb.teardown()", 0, "finished")],
)  # fmt: skip
def test_a_script_that_does_not_finish_its_run_loses_no_row(end, code, state, captured, listener) -> None:
    captured(f"""
    import wandb
    wandb.init(project="p")
    wandb.log({{"a": 1}})
    wandb.log({{"open": 1}}, step=9)
    {end}
    """, code=code)
    assert [(row.step, row.metrics) for row in listener.rows()] == [(0, {"a": 1}), (9, {"open": 1})]
    (run_id,) = listener.run_ids()
    assert listener.projector(run_id)[0].state.ranks[0].state == state


def test_a_context_manager_finishes_and_an_exception_fails_the_run(captured, listener) -> None:
    captured("""
    import wandb
    with wandb.init(project="p", name="good") as run:
        run.log({"a": 1})
    try:
        with wandb.init(project="p", name="bad") as run:
            run.log({"a": 1})
            raise KeyError("x")
    except KeyError:
        pass
    print(wandb.run)
    """)
    states = {}
    for run_id in listener.run_ids():
        state = listener.projector(run_id)[0].state
        states[state.name] = state.ranks[0].state
    assert states == {"good": "finished", "bad": "failed"}


@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGTERM])
def test_what_was_logged_before_a_kill_is_all_there_the_open_row_too(stop, tmp_path: Path, listener) -> None:
    path = tmp_path / "script.py"
    path.write_text(
        "import wandb, time\nwandb.init(project='p', id='killed')\n"
        "for step in range(50): wandb.log({'a': step}, step=step); wandb.log({'b': step}, step=step)\n"
        "print('logged', flush=True)\ntime.sleep(60)\n"
    )
    from sidecar.capture_env import capture_environment

    settings = {**os.environ, "SIDECAR_ENDPOINT": listener.endpoint}
    settings.update(capture_environment(["wandb"], settings))
    process = subprocess.Popen([sys.executable, str(path)], env=settings, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "logged\n"
    process.send_signal(stop)
    process.wait()
    process.stdout.close()
    rows = listener.rows("killed", wait=lambda rows: len(rows) >= 50)
    assert [(row.step, row.metrics) for row in rows] == [(step, {"a": step, "b": step}) for step in range(50)]


def test_other_threads_log_and_forked_workers_are_counted_not_obeyed(captured, listener) -> None:
    captured("""
    import os, threading, wandb
    run = wandb.init(project="p")
    threads = [threading.Thread(target=lambda i=i: [run.log({f"t{i}": n}) for n in range(100)]) for i in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    child = os.fork()
    if child == 0:
        run.log({"child": 1})
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    class Late:
        def __del__(self): run.log({"del": 1})
    late = Late(); del late
    run.log({"last": run.step})
    """)
    rows = listener.rows(wait=lambda rows: len(rows) >= 402)
    assert [row.step for row in rows] == list(range(402))
    names = [name for row in rows for name in row.metrics]
    assert {name: names.count(name) for name in set(names)} == {
        "t0": 100, "t1": 100, "t2": 100, "t3": 100, "del": 1, "last": 1,
    }  # fmt: skip


def test_a_users_own_sitecustomize_still_runs(tmp_path: Path, listener) -> None:
    folder = tmp_path / "theirs"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text("import builtins; builtins.theirs = 'ran'\n")
    done = execute(
        "import wandb, builtins; wandb.init(project='p'); wandb.log({'a': 1}); print(builtins.theirs)",
        tmp_path, "wandb", {"SIDECAR_ENDPOINT": listener.endpoint, "PYTHONPATH": str(folder)},
    )  # fmt: skip
    assert done.stdout == "ran\n"
    assert [row.metrics for row in listener.rows()] == [{"a": 1}]


def test_without_any_sidecar_the_script_runs_as_ever(tmp_path: Path) -> None:
    began = time.monotonic()
    execute("import wandb; wandb.init(project='p'); wandb.log({'a': 1}); print(wandb.run.id)", tmp_path, "wandb",
            {"SIDECAR_ENDPOINT": f"ipc://{tmp_path}/nobody"})  # fmt: skip
    assert time.monotonic() - began < 60


def test_all_ranks_of_a_torchrun_are_one_run(captured, listener, tmp_path: Path) -> None:
    text = """
    import os, wandb
    if os.environ.get("RANK") is None:
        import subprocess, sys
        sys.exit(subprocess.call([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", __file__]))
    wandb.init(project="p", name="two")
    for step in range(3): wandb.log({"loss": step + int(os.environ["RANK"])})
    """
    captured(text)
    (run_id,) = listener.run_ids()
    rows = listener.rows(run_id, wait=lambda rows: len(rows) >= 6)
    assert sorted((row.rank, row.step) for row in rows) == [(rank, step) for rank in (0, 1) for step in range(3)]
