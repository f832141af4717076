"""How many events of twelve metrics a sidecar takes per second, and what one costs it.

Proves: journaled and acknowledged (intake and journal alone) at 100,000 events/s and more; with fold, derived values
and all views on, 50,000 per second of one core; a cost per event that does not grow with the number of ranks;
1,024 ranks at 10 steps/s under 80 % of a core; and a journal of a million events ready again within 5 s of a SIGKILL.

    python -m benchmarks.ingest                 # everything, about three minutes
    python -m benchmarks.ingest rate            # one part: rate, ranks, paced, recovery
    python -m benchmarks.ingest rate --profile  # and where the time goes, function by function
"""

import cProfile
import io
import json
import pstats
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from benchmarks import common

RANKS = (1, 8, 64, 256, 1024)
RECOVERY_EVENTS = 1_000_000


class Load(NamedTuple):
    """What a load did: wall seconds, the sidecar's CPU seconds, events acknowledged, frames asked for again."""

    seconds: float
    cpu_seconds: float
    events: int
    resends: int
    silences: int
    behind_seconds: float

    @property
    def cpu_microseconds_per_event(self) -> float:
        return 1e6 * self.cpu_seconds / max(1, self.events)


def drive(
    endpoint: str,
    pid: int,
    *,
    senders: int,
    ranks: int,
    steps: int,
    frame_events: int,
    rate: float = 0,
    run_id: str = "load",
    shown: Callable[[int], object] = lambda step: None,
) -> Load:
    """Play ``ranks`` ranks in ``senders`` processes, all starting at once; ``shown`` waits for a step to be visible."""
    each = ranks // senders
    processes = []
    for number in range(senders):
        options = ["--first-rank", number * each, "--ranks", each, "--world-size", ranks, "--steps", steps]
        options += ["--frame-events", frame_events, *(["--rate", rate] if rate else [])]
        command = [sys.executable, "-m", "benchmarks.ranks", endpoint, run_id, *map(str, options)]
        processes.append(
            subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=common.environment(),
                cwd=common.REPOSITORY,
            )  # fmt: skip
        )
    try:
        for process in processes:
            if process.stdout.readline().strip() != "ready":
                raise SystemExit("a simulated rank was not taken by the sidecar")
        cpu_began, began = common.cpu_seconds(pid), time.monotonic()
        for process in processes:
            process.stdin.write("go\n")
            process.stdin.flush()
        results = [json.loads(process.stdout.readline()) for process in processes]
        shown(steps - 1)
        seconds = time.monotonic() - began
        cpu_seconds = common.cpu_seconds(pid) - cpu_began
    finally:
        for process in processes:
            common.kill(process)
    events, resends, silences = (sum(each[key] for each in results) for key in ("acknowledged", "resends", "silences"))
    return Load(
        seconds, cpu_seconds, events, resends, silences, max(result["behind_seconds"] or 0 for result in results)
    )


def bare_intake(endpoint: str, directory: str) -> None:
    """Intake and journal alone, in a process of its own: the delivery path without any view."""
    from sidecar.intake import Intake
    from sidecar.store import Store
    from sidecar.telemetry import Telemetry

    store = Store(Path(directory))
    store.prepare()
    intake = Intake(store, Telemetry(), streams_max=4096, runs_max=64)
    intake.bind(endpoint)
    print("ready", flush=True)
    while True:
        intake.round()


def visible(sidecar: common.Sidecar, run_id: str = "load") -> Callable[[int], object]:
    """Waits until /status shows a step: then every event before it is folded and published."""

    def wait(step: int) -> None:
        if not common.wait_until(lambda: (sidecar.status(run_id).get("step") or -1) >= step, 600.0, every_seconds=0.1):
            raise SystemExit(f"step {step} is not in /status after ten minutes")

    return wait


def rate(options) -> None:
    with common.folder() as folder:
        endpoint = f"ipc://{folder}/events"
        command = [sys.executable, "-m", "benchmarks.ingest", "--bare", endpoint, str(folder / "bare")]
        intake = subprocess.Popen(command, stdout=subprocess.PIPE, env=common.environment(), cwd=common.REPOSITORY)
        intake.stdout.readline()
        try:
            load = drive(endpoint, intake.pid, senders=2, ranks=2, steps=options.events // 2, frame_events=128)
        finally:
            common.kill(intake)
    _print_load("journaled and acknowledged", load)
    common.verdict(
        "journaled and acknowledged, wall clock", load.events / load.seconds, 100_000, "events/s", at_least=True
    )
    with common.sidecar_alive() as sidecar:
        load = drive(
            sidecar.endpoint,
            sidecar.pid,
            senders=2,
            ranks=2,
            steps=options.events // 4,
            frame_events=128,
            shown=visible(sidecar),
        )
    _print_load("with fold, derive and all views", load)
    common.verdict("with all views, wall clock", load.events / load.seconds, 50_000, "events/s", at_least=True)
    per_core = load.events / load.cpu_seconds
    common.verdict("with all views, per CPU second of the sidecar", per_core, 50_000, "events/s", at_least=True)
    if options.profile:
        profile(min(options.events, 50_000), ranks=2)


def _print_load(name: str, load: Load) -> None:
    print(
        f"{name}: {load.events:,} events in {load.seconds:.2f} s = {load.events / load.seconds:,.0f}/s, "
        f"{load.cpu_microseconds_per_event:.1f} us of sidecar CPU each, "
        f"{load.resends} resends, {load.silences} silences",
        flush=True,
    )


def ranks(options) -> None:
    costs = {}
    for count in options.rank_counts:
        steps = max(8, options.events // 4 // count)
        with common.sidecar_alive() as sidecar:
            load = drive(
                sidecar.endpoint,
                sidecar.pid,
                senders=1,
                ranks=count,
                steps=steps,
                frame_events=8,
                shown=visible(sidecar),
            )
        costs[count] = load.cpu_microseconds_per_event
        _print_load(f"{count:5d} ranks, frames of 8", load)
    ratio = costs[max(costs)] / costs[min(costs)]
    common.verdict(f"cost per event, {max(costs)} ranks / {min(costs)} rank", ratio, 1.5, "")
    if options.profile:
        profile(16 * max(costs), ranks=max(costs))


def paced(options) -> None:
    count = max(options.rank_counts)
    with common.sidecar_alive() as sidecar:
        steps, senders = int(10 * options.seconds), 2 if count % 2 == 0 else 1
        load = drive(
            sidecar.endpoint,
            sidecar.pid,
            senders=senders,
            ranks=count,
            steps=steps,
            frame_events=1,
            rate=10,
            shown=visible(sidecar),
        )
    _print_load(f"{count} ranks x 10 steps/s", load)
    print(f"the senders were at most {load.behind_seconds:.2f} s behind their schedule")
    common.verdict(f"{count} ranks x 10 steps/s, CPU", 100 * load.cpu_seconds / options.seconds, 80, "% of a core")
    common.verdict("acknowledged", 100 * load.events / (steps * count), 100, "%", at_least=True)


def _step_at(step: int, mono_ns: int) -> bytes:
    from sidecar import wire

    return wire.encode_event(wire.Step(time.time_ns(), mono_ns, step, dict(common.twelve_metrics(step))))


def recovery(options) -> None:
    """A sidecar takes a million events and is killed; its successor serves them, and the same run goes on."""
    events = options.recovery_events
    with common.folder() as folder:
        sidecar = common.Sidecar(folder)
        try:
            load = drive(
                sidecar.endpoint,
                sidecar.pid,
                senders=1,
                ranks=1,
                steps=events,
                frame_events=128,
                run_id="killed",
                shown=visible(sidecar, "killed"),
            )
        finally:
            sidecar.kill()
        _print_load("filled", load)
        size = sum(path.stat().st_size for path in (folder / "data").rglob("*") if path.is_file())
        began = time.monotonic()
        sidecar = common.Sidecar(folder)
        try:
            ready = time.monotonic() - began
            resume(sidecar.endpoint, "killed", events)
            taken = time.monotonic() - began
            visible(sidecar, "killed")(events)
            shown = time.monotonic() - began
        finally:
            sidecar.stop()
    print(
        f"journal of {events:,} events, {size / 2**20:.0f} MiB, sidecar killed: the next ready after {ready:.2f} s, "
        f"acknowledged the resumed trainer after {taken:.2f} s, showed its step in /status after {shown:.2f} s"
    )
    common.verdict(f"seconds after SIGKILL until ready and acknowledging, {events:,} events", taken, 5.0, "s")
    common.verdict(f"seconds after SIGKILL until /status is whole again, {events:,} events", shown, 5.0, "s")
    common.verdict("ratio of the time to the bound", max(taken, shown) / 5.0, 1.0, "")


def resume(endpoint: str, run_id: str, step: int) -> None:
    """The killed run's trainer comes back: a new process says hello and sends one step, which is acknowledged."""
    from benchmarks.ranks import Ranks
    from sidecar import wire

    ranks = Ranks(endpoint, run_id, 0, 1, 1)
    ranks.greet(timeout_seconds=120.0)
    frame = wire.Frame(run_id, 0, ranks.sessions[0], 0, 0, [_step_at(step, time.monotonic_ns())])
    if not common.wait_until(lambda: ranks.ask(frame), 60.0):
        raise SystemExit("the resumed trainer was not acknowledged")


def profile(events: int, *, ranks: int) -> None:
    """Journal and fold in this process, without sockets, under cProfile: shares are right, absolute times are not."""
    from benchmarks.ranks import Ranks
    from sidecar.intake import Intake
    from sidecar.pipeline import Pipeline
    from sidecar.store import Store
    from sidecar.telemetry import Telemetry

    with common.folder() as folder:
        store, telemetry = Store(folder / "data"), Telemetry(started_ns=time.time_ns())
        store.prepare()
        intake = Intake(store, telemetry, streams_max=4096, runs_max=8)
        pipeline = Pipeline(store, telemetry, snapshot_steps=10)
        intake.on_hello = lambda hello, received_ns: pipeline.run_started(hello.run_id, hello.time_ns)
        intake.on_committed, intake.summary_of = pipeline.notify, pipeline.summary_of
        hellos = [Ranks("inproc://nobody", "profile", rank, 1, ranks)._hello(0) for rank in range(ranks)]
        frame = 128 if ranks < 16 else 8
        for hello in hellos:
            intake.ingest(hello, 0, 0, [])
        intake.commit()
        began, profiler = time.process_time(), cProfile.Profile()
        profiler.enable()
        for first in range(0, events // ranks, frame):
            now_ns = time.monotonic_ns()
            records = [_step_at(step, now_ns + step * 1000) for step in range(first, first + frame)]
            for hello in hellos:
                intake.ingest(hello, first, first, records)
            intake.commit()
            pipeline._wait_for_news()  # What its thread does, in this one: cProfile sees one thread only.
            pipeline._turn()
        while any(run.behind for run in pipeline._runs.values()):
            pipeline._turn()
        profiler.disable()
        seconds = time.process_time() - began
    text = io.StringIO()
    pstats.Stats(profiler, stream=text).strip_dirs().sort_stats("tottime").print_stats(22)
    print(f"profile: {events:,} events of {ranks} ranks, {1e6 * seconds / events:.1f} us each under the profiler")
    print("\n".join(line for line in text.getvalue().splitlines()[6:] if line.strip()))


PARTS = {"rate": rate, "ranks": ranks, "paced": paced, "recovery": recovery}


def main() -> int:
    parser = common.parser(__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help="rate, ranks, paced, recovery (default: all)")
    parser.add_argument("--events", type=int, default=400_000, help="events of the largest load (default 400,000)")
    parser.add_argument("--rank-counts", type=lambda text: tuple(map(int, text.split(","))), default=RANKS)
    parser.add_argument("--seconds", type=float, default=10.0, help="length of the paced load (default 10)")
    parser.add_argument("--recovery-events", type=int, default=RECOVERY_EVENTS)
    parser.add_argument("--profile", action="store_true", help="also profile rate or ranks")
    parser.add_argument("--bare", nargs=2, metavar=("ENDPOINT", "DIR"), help=common.argparse.SUPPRESS)
    options = parser.parse_args()
    if options.bare:
        bare_intake(*options.bare)
    else:
        unknown = set(options.parts) - PARTS.keys()
        if unknown:
            parser.error(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
        common.print_machine()
        for part in options.parts or PARTS:
            PARTS[part](options)
        common.print_load_after()
    return 0


if __name__ == "__main__":
    sys.exit(main())
