"""The launcher, with a fake service: what the command sees, what the shell sees, and the end."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from sidecar import supervise
from sidecar.config import load
from sidecar.errors import UserError

LAUNCHER = Path(__file__).with_name("launch_with_fake.py")
ROOT = LAUNCHER.parent.parent.parent


def start(directory: Path, *arguments: str, **environ: str) -> "subprocess.Popen[str]":
    env = os.environ | {"SIDECAR_DIR": str(directory), "PYTHONPATH": str(ROOT)} | environ
    command = [sys.executable, str(LAUNCHER), "run", *arguments]
    return subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
    )


def finish(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def python(code: str) -> list[str]:
    return ["--", sys.executable, "-c", code]


def read_when_there(path: Path, timeout_seconds: float = 30.0) -> str:
    deadline = time.monotonic() + timeout_seconds
    while time.monotonic() < deadline:
        if path.exists() and path.read_text():
            return path.read_text()
        time.sleep(0.02)
    raise AssertionError(f"{path} never appeared")


def seen_by_service(directory: Path) -> dict[str, Any]:
    return json.loads((directory / "seen.json").read_text())


def test_exit_code_is_the_commands(tmp_path: Path) -> None:
    code, out, _ = finish(start(tmp_path, *python("import sys; print('hello'); sys.exit(37)")))
    assert (code, out) == (37, "hello\n")
    assert (tmp_path / "stopped").exists()


def test_command_killed_by_a_signal_ends_with_128_and_its_number(tmp_path: Path) -> None:
    code, _, _ = finish(start(tmp_path, *python("import os; os.kill(os.getpid(), 9)")))
    assert code == 137


def test_training_goes_on_to_its_end_when_nobody_reads_what_we_say(tmp_path: Path) -> None:
    """``sidecar run ... 2>&1 | head -1``, or a terminal that is gone."""
    process = start(tmp_path, *python("import sys, time; time.sleep(1); sys.exit(37)"))
    for stream in (process.stdout, process.stderr):
        assert stream is not None
        stream.close()
    assert process.wait(timeout=60) == 37
    assert (tmp_path / "stopped").exists()


def test_closed_streams_are_no_obstacle_and_become_no_other_file(tmp_path: Path) -> None:
    """``2>&-``: the next file to be opened would be standard error, and be written over."""
    where = "import os, sys; print(*(os.readlink(f'/proc/self/fd/{n}') for n in (0, 2)), flush=True); sys.exit(37)"
    command = [sys.executable, str(LAUNCHER), "run", *python(where)]
    env = os.environ | {"SIDECAR_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    shell = ["sh", "-c", 'exec "$@" <&- 2>&-', "sh"]
    closed = subprocess.run([*shell, *command], env=env, stdout=subprocess.PIPE, text=True)
    assert (closed.returncode, closed.stdout) == (37, "/dev/null /dev/null\n")


def test_sidecar_that_cannot_be_started_again_does_not_end_the_launch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was killed for want of memory, say, and there is none for another process either."""
    service = supervise.Service(load({"dir": str(tmp_path)}, {}), "ipc:///nowhere", {})
    monkeypatch.setattr(supervise, "SERVE", (sys.executable, "-c", ""))
    service.start()
    assert service._process is not None
    service._process.wait()
    monkeypatch.setattr(supervise, "SERVE", (str(tmp_path / "gone"),))
    assert service.revive(0.0) is False
    with pytest.raises(UserError, match="cannot be started: No such file"):
        service.start()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_signals_reach_the_command_each_time(tmp_path: Path, number: signal.Signals) -> None:
    code = (
        "import signal, sys, time, pathlib\n"
        "seen = []\n"
        "def take(n, _):\n"
        "    seen.append(n)\n"
        f"    pathlib.Path({str(tmp_path / 'got')!r}).write_text(str(len(seen)))\n"
        f"signal.signal({int(number)}, take)\n"
        f"pathlib.Path({str(tmp_path / 'up')!r}).write_text('up')\n"
        "while len(seen) < 2: time.sleep(0.01)\n"
        "sys.exit(5)\n"
    )
    process = start(tmp_path, *python(code))
    read_when_there(tmp_path / "up")
    process.send_signal(number)
    assert read_when_there(tmp_path / "got") == "1"
    process.send_signal(number)
    assert finish(process)[0] == 5


def test_command_starts_with_no_signal_blocked(tmp_path: Path) -> None:
    code = "import signal; print(sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])))"
    assert finish(start(tmp_path, *python(code)))[1] == "[]\n"


def test_command_is_told_where_to_send_and_who_it_is(tmp_path: Path) -> None:
    code = "import os, json; print(json.dumps(dict(os.environ)))"
    _, out, _ = finish(start(tmp_path, "--project", "p", *python(code), WANDB_MODE="offline", MINE="kept"))
    environ = json.loads(out)
    assert environ["SIDECAR_ENDPOINT"] == seen_by_service(tmp_path)["SIDECAR_ENDPOINT"]
    assert len(environ["SIDECAR_RUN_ID"].split("-")) == 3
    assert environ["SIDECAR_LAUNCH_ID"]
    assert (environ["WANDB_MODE"], environ["MINE"], environ["SIDECAR_PROJECT"]) == ("offline", "kept", "p")


def test_run_id_and_launch_id_of_the_user_are_kept(tmp_path: Path) -> None:
    code = "import os; print(os.environ['SIDECAR_RUN_ID'], os.environ['SIDECAR_LAUNCH_ID'])"
    _, out, _ = finish(start(tmp_path, "--run-id", "mine", *python(code), SIDECAR_LAUNCH_ID="theirs"))
    assert out == "mine theirs\n"


def test_two_directories_get_two_endpoints(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        finish(start(tmp_path / name, *python("pass")))
    first, second = (seen_by_service(tmp_path / name)["SIDECAR_ENDPOINT"] for name in ("one", "two"))
    assert first != second


def test_a_token_travels_by_environment_and_is_never_printed(tmp_path: Path) -> None:
    _, out, err = finish(start(tmp_path, *python("pass"), SIDECAR_TOKEN="hush-hush"))
    assert seen_by_service(tmp_path)["SIDECAR_TOKEN"] == "hush-hush"
    assert "hush-hush" not in out + err


def test_banner_has_six_lines_and_the_card_at_most_twenty(tmp_path: Path) -> None:
    _, _, err = finish(start(tmp_path, "--run-id", "r1", "--sink", "wandb", *python("pass"), WANDB_MODE="offline"))
    lines = err.splitlines()
    banner = [line for line in lines if line.startswith("sidecar: ")]
    card = lines[len(banner):]
    assert len(banner) == 6
    assert "r1" in banner[0]
    assert str(tmp_path) in banner[1]
    assert "/metrics" in banner[3]
    assert "wandb: offline (no key)" in banner[4]
    assert 8 <= len(card) <= 20
    assert any(line.startswith("MFU") and "31.2 % (full attention)" in line and "measured" in line for line in card)
    assert any(line.startswith("tokens") and "20480" in line for line in card)


def test_output_that_is_no_terminal_has_no_control_characters(tmp_path: Path) -> None:
    _, out, err = finish(start(tmp_path, "--name", "evil\x1b[31m", *python("pass")))
    assert all(char.isprintable() or char == "\n" for char in out + err)


def test_quiet_says_nothing(tmp_path: Path) -> None:
    assert finish(start(tmp_path, "-q", *python("print('x')"))) == (0, "x\n", "")


def test_keep_leaves_the_sidecar_running_and_says_so(tmp_path: Path) -> None:
    code, _, err = finish(start(tmp_path, "--keep", *python("pass")))
    pid = json.loads((tmp_path / "endpoints.json").read_text())["pid"]
    os.kill(pid, signal.SIGTERM)
    assert code == 0
    assert f"kill {pid}" in err


def test_a_live_sidecar_on_the_directory_is_used_and_left_alone(tmp_path: Path) -> None:
    finish(start(tmp_path, "--keep", *python("pass")))
    first = json.loads((tmp_path / "endpoints.json").read_text())
    code, out, err = finish(start(tmp_path, *python("import os; print(os.environ['SIDECAR_ENDPOINT'])")))
    os.kill(first["pid"], 0)
    os.kill(first["pid"], signal.SIGTERM)
    assert (code, out) == (0, first["events"] + "\n")
    assert f"(pid {first['pid']})" in err


def test_sidecar_that_cannot_start_stops_us_before_the_command(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    code, _, err = finish(start(tmp_path, *python(f"open({str(marker)!r}, 'w')"), FAKE_MODE="dies"))
    assert (code, err) == (71, "error: the port is made of cheese\nfix: choose another\n")
    assert not marker.exists()


def test_sidecar_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    code, _, err = finish(start(tmp_path, *python("pass"), FAKE_MODE="stubborn"))
    assert code == 0
    assert "was killed" in err


def test_sidecar_killed_while_training_is_started_again(tmp_path: Path) -> None:
    code = (
        "import json, os, pathlib, time\n"
        f"path = pathlib.Path({str(tmp_path / 'endpoints.json')!r})\n"
        "pid = json.loads(path.read_text())['pid']\n"
        "os.kill(pid, 9)\n"
        "while json.loads(path.read_text())['pid'] == pid: time.sleep(0.02)\n"
    )
    returned, _, err = finish(start(tmp_path, *python(code)))
    assert returned == 0
    assert "started again" in err


@pytest.mark.parametrize(
    ("arguments", "code", "cause"),
    [
        ([], 2, "no training command was given"),
        (["--"], 2, "no training command was given"),
        (["--", "no-such-command-at-all"], 77, "command not found: no-such-command-at-all"),
        (["--port", "many", "--", "true"], 2, "--port"),
        (["--sink", "wanbd", "--", "true"], 2, "unknown sink 'wanbd'"),
        (["--prot", "1", "--", "true"], 2, "unknown option: --prot"),
        (["train.py"], 2, "unknown option: train.py"),
        (["--allow", "texts", "--", "true"], 2, "unknown allow word 'texts'"),
        (["--run-id", "x" * 193, "--", "true"], 2, "the run id is longer than 192 bytes"),
        (["--", "/"], 76, "/ is a directory"),
    ],
)
def test_mistakes_are_two_lines_and_a_documented_code(
    tmp_path: Path, arguments: list[str], code: int, cause: str
) -> None:
    returned, out, err = finish(start(tmp_path, *arguments))
    lines = err.splitlines()
    assert (returned, out, len(lines)) == (code, "", 2)
    assert lines[0].startswith("error: ")
    assert cause in lines[0]
    assert lines[1].startswith("fix: ")
    assert not (tmp_path / "seen.json").exists()


def test_directory_that_cannot_be_written_is_named_before_the_command_starts(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, _, err = finish(start(tmp_path / "file" / "below", *python("print('ran')")))
    assert code == 73
    assert err.startswith(f"error: cannot write to {tmp_path}/file/below: ")


def test_file_that_is_not_executable_is_said_to_be_so(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text("print(1)")
    code, _, err = finish(start(tmp_path, "--", str(script)))
    assert code == 76
    assert err == (
        f"error: {script} is not executable\n"
        f"fix: chmod +x {script}, or start it with its interpreter: -- python {script}\n"
    )


def test_endpoints_left_behind_whose_port_is_anothers_now_are_not_used(tmp_path: Path) -> None:
    process = start(tmp_path, "--keep", *python("pass"))
    finish(process)
    left = json.loads((tmp_path / "endpoints.json").read_text())
    (tmp_path / "endpoints.json").write_text(json.dumps(left | {"pid": os.getpid()}))  # Alive, but not that server.
    code, _, err = finish(start(tmp_path, *python("pass")))
    os.kill(left["pid"], signal.SIGTERM)
    assert code == 0
    assert "already serves" not in err
