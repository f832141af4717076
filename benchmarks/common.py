"""What the benchmark commands share: a real sidecar, twelve metrics, one millisecond of work, honest statistics.

Given: options of a command. Hands on: processes that it ends again, numbers, lines to print.
Never: imported by the product, or hides that the machine was busy.
"""

import argparse
import contextlib
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
STEP_SECONDS = 0.001
READY_SECONDS = 30.0

MORE_METRICS = {
    "train/entropy": 1.25, "train/z_loss": 0.0009, "train/param_norm": 101.5, "train/update_ratio": 0.00123,
    "train/aux_loss": 0.0125, "data/length_mean": 812.5, "data/padding_ratio": 0.0325,
}  # fmt: skip


def step_arguments(step: int) -> dict[str, Any]:
    """Keyword arguments of ``run.step``: twelve metrics that change from step to step, as in training."""
    return {
        "loss": 2.5 + 1.0 / (step + 1), "learning_rate": 3e-4, "grad_norm": 0.75 + step * 1e-9, "tokens": 16384,
        "samples": 16, "metrics": MORE_METRICS,
    }  # fmt: skip


def twelve_metrics(step: int) -> dict[str, float]:
    """The same twelve as one flat map, for tools that take one."""
    return {
        "train/loss": 2.5 + 1.0 / (step + 1), "train/learning_rate": 3e-4, "train/grad_norm": 0.75 + step * 1e-9,
        "train/num_tokens": 16384, "train/num_samples": 16, **MORE_METRICS,
    }  # fmt: skip


def encoded_step(step: int) -> bytes:
    """One step event of twelve metrics as it travels."""
    from sidecar import wire

    return wire.encode_event(wire.Step(time.time_ns(), time.monotonic_ns(), step, dict(twelve_metrics(step))))


# -- work: a fixed amount of pure Python that holds the interpreter lock, as a busy training loop does -----------------


def work(rounds: int) -> float:
    x = 1.0
    for _ in range(rounds):
        x = x * 1.0000001 + 1e-9
    return x


def rounds_for(seconds: float = STEP_SECONDS) -> int:
    """How many rounds of :func:`work` take ``seconds`` here, from the fastest of several tries."""
    best = min(timed(lambda: work(20_000)) for _ in range(20))
    return max(1, int(20_000 * seconds / best))


def timed(function: Callable[[], object]) -> float:
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


# -- statistics --------------------------------------------------------------------------------------------------------


def percentile(values: Sequence[float], share: float) -> float:
    """Nearest rank, ``share`` in 0..1. ``values`` need not be sorted; raises IndexError when there are none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def median(values: Sequence[float]) -> float:
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def microseconds(nanoseconds: Sequence[int]) -> str:
    """p50, p99 and the worst of a list of durations, as a cell of a table."""
    p50, p99 = percentile(nanoseconds, 0.5) / 1e3, percentile(nanoseconds, 0.99) / 1e3
    return f"p50 {p50:8.2f} us   p99 {p99:8.2f} us   max {max(nanoseconds) / 1e3:9.1f} us"


# -- the machine -------------------------------------------------------------------------------------------------------


def print_machine() -> None:
    """Where and under what load this was measured: a number without it cannot be compared."""
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    noisy = "  BUSY MACHINE: tails below are upper bounds" if load > 0.3 * cores else ""
    print(f"machine: {cores} cores, python {sys.version.split()[0]}, load before {load:.2f}{noisy}", flush=True)


def print_load_after() -> None:
    print(f"load after {os.getloadavg()[0]:.2f}", flush=True)


def verdict(name: str, value: float, bound: float, unit: str, *, at_least: bool = False) -> bool:
    """Print a value beside its bound. True: inside."""
    inside = value >= bound if at_least else value <= bound
    sign = ">=" if at_least else "<="
    print(f"{'ok  ' if inside else 'MISS'} {name}: {value:,.4g} {unit} (target {sign} {bound:,.4g} {unit})", flush=True)
    return inside


def pin(core: int | None) -> None:
    """Keep this thread on one core; threads made earlier stay where they are."""
    if core is not None:
        os.sched_setaffinity(0, {core})


def set_priority(nice: int | None) -> None:
    """Let this thread, and those it makes later, go before the other work of a busy machine (below 0: root only).

    It shows the tails that a quiet machine would have. Processes started before are not favoured.
    """
    if nice is not None:
        os.setpriority(os.PRIO_PROCESS, 0, nice)
        print(f"the measuring process has priority {nice}", flush=True)


def add_placement(command: argparse.ArgumentParser) -> None:
    """Options that keep the noise of other programs out."""
    command.add_argument("--pin", type=int, metavar="CORE", help="keep the stepping thread on this core")
    command.add_argument("--nice", type=int, metavar="N", help="priority of the stepping process, -20 is first (root)")


def parser(description: str | None) -> argparse.ArgumentParser:
    """A command's options. From here on SIGTERM (``timeout``) ends the command like an error: with what it started."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    return argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)


# -- processes ---------------------------------------------------------------------------------------------------------


def environment(**more: str) -> dict[str, str]:
    """Ours, without settings of the user's own sidecar, and with this checkout importable."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SIDECAR_", "WANDB_"))}
    return {**kept, "PYTHONPATH": str(REPOSITORY), **more}


def kill(process: "subprocess.Popen[Any]", number: int = signal.SIGKILL) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGCONT)
        process.send_signal(number)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class Sidecar:
    """A real ``sidecar serve`` in its own process: ``.endpoint``, ``.http`` and ``.pid`` once it is ready."""

    def __init__(self, folder: Path, *options: str, endpoint: str | None = None, env: dict[str, str] | None = None):
        self.folder = folder
        self.endpoint = endpoint or f"ipc://{folder}/events"
        self.log = folder / "sidecar.log"
        command = [sys.executable, "-m", "sidecar", "serve", "--dir", str(folder / "data"), "--port", "0"]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "--endpoint", self.endpoint, *options],
                env=env or environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder,
            )  # fmt: skip
        self.pid = self.process.pid
        self.http = self._wait_until_ready()

    def _wait_until_ready(self) -> str:
        file, deadline = self.folder / "data" / "endpoints.json", time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            with contextlib.suppress(OSError, ValueError):
                facts = json.loads(file.read_text())
                if facts["pid"] == self.pid:
                    return facts["http"]
            time.sleep(0.01)
        self.kill()
        raise SystemExit(f"the sidecar did not start:\n{self.log.read_text()[-2000:]}")

    def status(self, run_id: str | None = None) -> dict[str, Any]:
        """What /status says of a run (None: the newest); empty while there is no such run."""
        import urllib.error
        import urllib.request

        url = f"{self.http}/status" + (f"?run={run_id}" if run_id else "")
        try:
            with urllib.request.urlopen(url, timeout=60) as answer:
                return json.loads(answer.read())
        except urllib.error.HTTPError:
            return {}

    def kill(self, number: int = signal.SIGKILL) -> None:
        kill(self.process, number)

    def stop(self) -> None:
        self.kill(signal.SIGTERM)


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """A temporary folder with a short path (ipc paths are limited); rings of endpoints inside it are removed too."""
    with tempfile.TemporaryDirectory(prefix="sb") as path:
        try:
            yield Path(path)
        finally:
            remove_rings(f"ipc://{path}/events")


@contextlib.contextmanager
def sidecar_alive(*options: str) -> Iterator[Sidecar]:
    with folder() as path:
        sidecar = Sidecar(path, *options)
        try:
            yield sidecar
        finally:
            sidecar.stop()


def rings_of(endpoint: str) -> list[Path]:
    from sidecar.rendezvous import endpoint_key, ring_directories

    return [path for place in ring_directories() for path in place.glob(f"{endpoint_key(endpoint)}-*.ring")]


def remove_rings(endpoint: str) -> None:
    for ring in rings_of(endpoint):
        ring.unlink(missing_ok=True)


def wait_until(condition: Callable[[], bool], timeout_seconds: float = 20.0, every_seconds: float = 0.02) -> bool:
    deadline = time.monotonic() + timeout_seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(every_seconds)
    return False


def process_cpu_seconds(pid: int) -> float:
    """CPU time of all threads of a living process, in steps of nanoseconds. Raises OSError when it has ended."""
    return time.clock_gettime((~pid << 3) | 2)  # As clock_getcpuclockid(3) makes the clock of a process on Linux.


def run_or_exit(command: Sequence[str], *, cwd: Path = REPOSITORY, timeout_seconds: float = 3600, **env: str) -> None:
    """Run Python with these arguments. Raises SystemExit, with the end of what it printed, when it fails."""
    done = subprocess.run([sys.executable, *command], cwd=cwd, env=environment(**env), stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, timeout=timeout_seconds)  # fmt: skip
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command[:3])} failed:\n{done.stdout[-1000:]}{done.stderr[-2000:]}")


# -- the reference trainer, in this process ----------------------------------------------------------------------------


def switch_client(
    has_calls: Callable[[], bool],
    after_step: Callable[[Any], None],
    before_finish: Callable[[], None] = lambda: None,
) -> None:
    """From now on ``Run.step``, ``phase``, ``dataset``, ``log`` and the pump do nothing unless ``has_calls()``.

    ``after_step(run)`` is called at the end of every ``run.step``, also of those that did nothing.
    """
    from sidecar.client.pump import Pump
    from sidecar.client.run import Run

    def switched(name: str) -> Callable[..., Any]:
        real = getattr(Run, name)

        def call(run: Any, *given: Any, **named: Any) -> Any:
            if has_calls():
                return real(run, *given, **named)
            return contextlib.nullcontext() if name == "phase" else None

        return call

    for name in ("step", "phase", "dataset", "log"):
        setattr(Run, name, switched(name))
    tick, step, finish = Pump._tick, Run.step, Run.finish

    def switched_tick(pump: Any, *given: Any) -> None:
        if has_calls() or pump._flush_until is not None:
            tick(pump, *given)

    def watched_step(run: Any, *given: Any, **named: Any) -> None:
        step(run, *given, **named)
        after_step(run)

    def watched_finish(run: Any, *given: Any, **named: Any) -> Any:
        before_finish()
        return finish(run, *given, **named)

    Pump._tick, Run.step, Run.finish = switched_tick, watched_step, watched_finish  # type: ignore[method-assign]


def run_trainer(arguments: Sequence[str]) -> None:
    """``python -m trainer ARGUMENTS`` in this process. Raises SystemExit when it fails."""
    sys.argv = ["trainer", *arguments]
    try:
        runpy.run_module("trainer", run_name="__main__", alter_sys=True)
    except SystemExit as error:
        if error.code:
            raise


def cpu_seconds(pid: int) -> float:
    """User and system time that a process and its reaped children have used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(field) for field in fields[11:13]) / os.sysconf("SC_CLK_TCK")
