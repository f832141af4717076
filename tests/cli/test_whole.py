"""``sidecar run`` and ``serve`` with the real service: the main promises, end to end."""

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from cli_helpers import Command, wait_until_ready

from sidecar import live
from sidecar.config import load
from sidecar.screen import BARS
from sidecar.sinks import late

TRAIN_FOR_LONG = "100000"


def finish(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def status_until(directory: Path, wanted: str, timeout_seconds: float = 30.0) -> dict[str, object]:
    """/status of the sidecar on ``directory`` once its field ``wanted`` is there."""
    config = load({"dir": str(directory)}, {}).config
    deadline = time.monotonic() + timeout_seconds
    while time.monotonic() < deadline:
        found = live.find(config)
        status = live.status(found, config) if found else {}
        if status.get(wanted) is not None:
            return status
        time.sleep(0.1)
    raise AssertionError(f"{wanted} never came")


def test_card_journal_and_status_agree(sidecar: Command, script: Path, tmp_path: Path) -> None:
    code, _, err = finish(sidecar("run", "--run-id", "r1", "--", sys.executable, str(script), "20"))
    card = {line.split()[0]: line for line in err.splitlines() if not line.startswith("sidecar: ")}
    assert code == 0, err
    assert "20 of 20" in card["steps"]
    assert "1280 " in card["tokens"]
    assert card["loss"].endswith("4 -> 0.2")
    code, out, _ = finish(sidecar("export", "r1"))
    steps = [row for row in map(json.loads, out.splitlines()) if row["kind"] == "step"]
    assert len(steps) == 20
    assert sum(row["metrics"]["train/num_tokens"] for row in steps) == 1280


def test_nothing_is_left_running_after_the_command(sidecar: Command, script: Path, tmp_path: Path) -> None:
    process = sidecar("run", "-q", "--", sys.executable, str(script), "200")
    pid = wait_until_ready(tmp_path / "data")["pid"]
    assert finish(process)[0] == 0
    assert not live.is_alive(pid)
    assert not (tmp_path / "data" / "endpoints.json").exists()


def test_terminated_launch_ends_the_training_with_its_code_and_keeps_its_steps(
    sidecar: Command, script: Path, tmp_path: Path
) -> None:
    process = sidecar("run", "-q", "--run-id", "r1", "--", sys.executable, str(script), TRAIN_FOR_LONG)
    status_until(tmp_path / "data", "step")
    process.send_signal(signal.SIGTERM)
    assert finish(process)[0] == 128 + signal.SIGTERM
    _, out, _ = finish(sidecar("runs", "--json"))
    [run] = json.loads(out)
    assert run["last_step"] >= 1
    assert run["state"] in ("failed", "lost")


def test_sidecar_killed_under_training_loses_nothing(sidecar: Command, script: Path, tmp_path: Path) -> None:
    process = sidecar("run", "--run-id", "r1", "--", sys.executable, str(script), "400")
    status_until(tmp_path / "data", "step")
    os.kill(wait_until_ready(tmp_path / "data")["pid"], signal.SIGKILL)
    code, _, err = finish(process)
    assert code == 0
    assert "started again" in err
    _, out, _ = finish(sidecar("export", "r1"))
    steps = [row["step"] for row in map(json.loads, out.splitlines()) if row["kind"] == "step"]
    assert steps == list(range(1, 401))


def test_serve_and_a_trainer_started_by_hand_give_the_same(sidecar: Command, script: Path, tmp_path: Path) -> None:
    serving = sidecar("serve", "--endpoint", f"ipc://{tmp_path}/events")
    ready = wait_until_ready(tmp_path / "data")
    env = os.environ | {"SIDECAR_ENDPOINT": ready["events"], "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    subprocess.run([sys.executable, str(script)], env=env, check=True, timeout=60)
    status = status_until(tmp_path / "data", "step")
    assert (status["project"], status["total_steps"]) == ("tests", 5)
    while status["state"] != "finished":
        status = status_until(tmp_path / "data", "step")
    _, out, _ = finish(sidecar("runs", "--json"))  # Reads the journal, which had this two seconds later once.
    assert [(run["state"], run["last_step"]) for run in json.loads(out)] == [("finished", 5)]
    serving.send_signal(signal.SIGTERM)
    code, _, err = finish(serving)
    assert code == 0
    assert [line.split()[1] for line in err.splitlines()] == ["store", "events", "page", "metrics", "stop"]
    assert f"{ready['http']}/metrics" in err


def test_second_serve_on_a_directory_is_refused_with_the_pid_of_the_first(sidecar: Command, tmp_path: Path) -> None:
    first = sidecar("serve", "--endpoint", f"ipc://{tmp_path}/one")
    wait_until_ready(tmp_path / "data")
    code, _, err = finish(sidecar("serve", "--endpoint", f"ipc://{tmp_path}/two"))
    assert code == 74
    assert f"pid {first.pid}" in err
    assert len(err.splitlines()) == 2


def test_port_in_use_means_the_next_free_one(sidecar: Command, script: Path, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, _, err = finish(sidecar("run", "--port", str(port), "--", sys.executable, str(script)))
    [page] = [line for line in err.splitlines() if line.startswith("sidecar: page")]
    assert code == 0
    assert f":{port}/" not in page
    assert f"(port {port} was taken)" in page


def test_host_that_is_not_loopback_needs_a_token_before_anything_starts(
    sidecar: Command, script: Path, tmp_path: Path
) -> None:
    code, _, err = finish(sidecar("run", "--host", "0.0.0.0", "--", sys.executable, "-c", "print('ran')"))
    assert 70 <= code <= 77 or code == 2
    assert "token" in err
    assert len(err.splitlines()) == 2


def test_command_that_never_calls_us_ends_at_once_and_without_a_card(sidecar: Command) -> None:
    code, out, err = finish(sidecar("run", "--grace", "30", "--", sys.executable, "-c", "print('plain')"))
    assert (code, out) == (0, "plain\n")
    assert all(line.startswith("sidecar: ") for line in err.splitlines())


def test_demo_shows_a_run_without_torch(sidecar: Command) -> None:
    code, _, err = finish(sidecar("demo", "--steps", "10", "--step-seconds", "0.01"))
    assert code == 0
    assert "10 of 10" in err


def test_modules_in_the_users_folder_do_not_take_the_place_of_libraries(sidecar: Command, tmp_path: Path) -> None:
    for name in ("dis", "inspect", "queue", "random", "sqlite3", "fastapi", "zmq", "sidecar"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong one')")
    code, _, err = finish(sidecar("demo", "--steps", "5", "--step-seconds", "0.01"))
    assert (code, "5 of 5" in err) == (0, True), err


def test_ctrl_c_ends_a_demo_like_a_run_that_has_shown_enough(sidecar: Command, tmp_path: Path) -> None:
    demo = sidecar("demo", "--step-seconds", "0.01")
    status_until(tmp_path / "data", "step")
    demo.send_signal(signal.SIGINT)
    code, _, err = finish(demo)
    assert (code, "Traceback" in err, "Failed" in err) == (0, False, False), err


def test_status_and_top_of_a_live_run(sidecar: Command, script: Path, tmp_path: Path) -> None:
    training = sidecar("run", "-q", "--run-id", "r1", "--", sys.executable, str(script), TRAIN_FOR_LONG)
    status_until(tmp_path / "data", "tokens_per_second")
    code, out, _ = finish(sidecar("status", "--json"))
    assert code == 0
    assert json.loads(out)["run_id"] == "r1"
    code, out, _ = finish(sidecar("status"))
    assert (code, len(out.splitlines()) > 3) == (0, True)
    code, out, _ = finish(sidecar("top", "--once", "--run", "small"))
    assert code == 0
    assert "r1" in out.splitlines()[0]
    curve = [line.strip() for line in out.splitlines() if line.strip() and set(line.strip()) <= set(BARS)]
    assert len(curve[0]) > 1  # The whole curve, at the first look.
    code, _, err = finish(sidecar("top", "--once", "--run", "nobody"))
    assert (code, "no run 'nobody'" in err) == (3, True)
    code, out, _ = finish(sidecar("status", "--json", "--run", "small"))
    assert (code, json.loads(out)["run_id"]) == (0, "r1")
    training.send_signal(signal.SIGINT)
    assert finish(training)[0] != 0


def test_launch_waits_for_one_more_scrape_when_a_scraper_was_there(
    sidecar: Command, script: Path, tmp_path: Path
) -> None:
    process = sidecar("run", "-q", "--grace", "60", "--", sys.executable, str(script), "100")
    url = str(wait_until_ready(tmp_path / "data")["http"])
    live.fetch(url, "/metrics")
    config = load({"dir": str(tmp_path / "data")}, {}).config
    deadline = time.monotonic() + 30
    while live.status(live.require(config), config).get("state") != "finished":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(1.5)  # The command has ended; only the scraper is missing.
    assert process.poll() is None
    assert b"training_steps_total" in live.fetch(url, "/metrics")
    assert finish(process)[0] == 0


def test_a_sidecar_that_does_not_answer_is_used_all_the_same(
    sidecar: Command, tmp_path: Path
) -> None:
    service = sidecar("serve")
    pid = int(wait_until_ready(tmp_path / "data")["pid"])
    os.kill(pid, signal.SIGSTOP)
    try:
        code, _, err = finish(sidecar("run", "--", "true"))
        assert (code, f"using the sidecar that already serves {tmp_path / 'data'} (pid {pid})" in err) == (0, True), err
    finally:
        os.kill(pid, signal.SIGCONT)
    service.terminate()
    assert finish(service)[0] == 0


def test_a_signal_that_the_kernel_gives_to_another_thread_ends_the_sidecar(sidecar: Command, tmp_path: Path) -> None:
    service = sidecar("serve")
    wait_until_ready(tmp_path / "data")
    threads = {int(task.name) for task in Path(f"/proc/{service.pid}/task").iterdir()}
    other = max(threads - {service.pid})
    assert ctypes.CDLL(None).tgkill(service.pid, other, signal.SIGTERM) == 0
    assert finish(service)[0] == 0


def test_what_an_earlier_run_owes_a_sink_is_not_waited_for(
    sidecar: Command, script: Path, trained: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    late.request(trained, "r1", "tensorboard")
    process = sidecar(
        "run", "--grace", "600", "--sink", "jsonl", "--", sys.executable, str(script), "200",
        SIDECAR_TENSORBOARD_DIR=str(tmp_path / "file"),
    )  # fmt: skip
    sinks = status_until(tmp_path / "data", "step")["sinks"]
    while "tensorboard" not in sinks:
        sinks = status_until(tmp_path / "data", "step")["sinks"]
    assert sinks["tensorboard"]["state"] == "failing"
    code, _, err = finish(process)
    assert code == 0
    assert [line.split()[1] for line in err.splitlines() if line.startswith("sink ")] == ["jsonl:"]


def test_signal_during_the_grace_ends_it(sidecar: Command, script: Path, tmp_path: Path) -> None:
    process = sidecar("run", "-q", "--grace", "600", "--", sys.executable, str(script), "50")
    live.fetch(str(wait_until_ready(tmp_path / "data")["http"]), "/metrics")
    config = load({"dir": str(tmp_path / "data")}, {}).config
    deadline = time.monotonic() + 30
    while live.status(live.require(config), config).get("state") != "finished":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(1.0)
    process.send_signal(signal.SIGINT)
    assert finish(process)[0] == 0
