"""What the outlets manage, and what they cost a sidecar.

Proves: TensorBoard and Parquet keep up with 10,000 rows/s of twelve metrics from a journal, beside what each library's
own writer manages with the same values in the same run; with every outlet on at 10 steps/s the sidecar uses at most
5 % of a core without W&B's own processes, which stay under 130 MB; and an outage of W&B that lasts as long as two
hours of training loses no row and does not let memory grow without bound.

    python -m benchmarks.outlets                # everything, about two minutes
    python -m benchmarks.outlets rate           # one part: rate, weight, outage
"""

import csv
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

from benchmarks import common
from benchmarks.footprint import descendants, memory_mib

RUN = "load"
START_NS = 1_790_000_000_000_000_000
FRAME_EVENTS = 128
BATCH = 4096
EVERY = "wandb,tensorboard,jsonl,csv,parquet,otlp"


# -- a journal, and outlets fed from it --------------------------------------------------------------------------------


class Recording:
    """A run in a journal, written without a sidecar."""

    def __init__(self, folder: Path) -> None:
        from sidecar import wire
        from sidecar.store import Store

        self.store = Store(folder)
        self.store.prepare()
        self.journal = self.store.journal(RUN)
        self.hello = wire.Hello(run_id=RUN, rank=0, session=7, time_ns=START_NS, mono_ns=0, project="benchmark")
        self.journal.greet(self.hello, START_NS)
        self.steps = 0

    def add(self, steps: int, step_ns: int) -> None:
        """``steps`` further steps of twelve metrics, ``step_ns`` apart."""
        from sidecar import wire
        from sidecar.journal import Chunk

        for first in range(self.steps, self.steps + steps, FRAME_EVENTS):
            numbers = range(first, min(first + FRAME_EVENTS, self.steps + steps))
            events = [
                wire.encode_event(wire.Step(START_NS + n * step_ns, n * step_ns, n, dict(common.twelve_metrics(n))))
                for n in numbers
            ]
            self.journal.append([Chunk(7, first, START_NS + numbers[-1] * step_ns, events)])
        self.steps += steps

    def rows(self) -> list[Any]:
        """What every outlet is given: each step as it was sent, and what was derived from it."""
        from sidecar.follow import Follower

        follower = Follower(self.store.path(RUN), RUN, from_checkpoint=False)
        return [row for _, rows in follower.read(10**9) for row in rows]

    def manager(self, **options: Any) -> Any:
        from sidecar.sinks.manager import SinkManager
        from sidecar.telemetry import Telemetry

        fields = {"dir": str(self.store.directory), "sinks": (), "allow_sinks": None, "sink_period_steps": 1,
                  "allow": (), "allow_config": ()}  # fmt: skip
        return SinkManager(SimpleNamespace(**(fields | options)), self.store, Telemetry())


class Measured(NamedTuple):
    seconds: float
    cpu_seconds: float
    """Of this process and of the outlet's own."""


def deliver(recording: Recording, sink: str, **options: Any) -> Measured:
    """From the first row to the last one written and closed."""
    manager = recording.manager(**options)
    found = measured(lambda: _drain(manager, sink))
    health = manager.health(RUN, sink)
    if health.state != "ok" or health.lost_rows_total or health.dead_letters_total:
        raise SystemExit(f"{sink}: {health}")
    return found


def _drain(manager: Any, sink: str) -> None:
    try:
        manager.add(RUN, sink)
        if not common.wait_until(manager.drained, 600.0, every_seconds=0.005):
            raise SystemExit(f"{sink} did not take its rows: {manager.health(RUN, sink)}")
    finally:
        manager.close(60.0)


def measured(what: Callable[[], object]) -> Measured:
    cpu_began = cpu_of_all()
    seconds = common.timed(what)
    return Measured(seconds, cpu_of_all() - cpu_began)


def cpu_of_all() -> float:
    """This process and its ended children, seconds."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


# -- rate: beside each library's own writer ----------------------------------------------------------------------------


def tensorboard_itself(rows: list[Any], folder: Path) -> None:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    writer = EventFileWriter(str(folder))
    for row in rows:
        values = [Summary.Value(tag=name, simple_value=value) for name, value in row.metrics.items()]
        writer.add_event(Event(wall_time=row.time, step=row.step, summary=Summary(value=values)))
    writer.close()


def parquet_itself(rows: list[Any], folder: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir()
    for first in range(0, len(rows), BATCH):
        lines = [
            {"time": row.time, "step": row.step, "name": name, "value": float(value)}
            for row in rows[first : first + BATCH] for name, value in row.metrics.items()
        ]  # fmt: skip
        pq.write_table(pa.Table.from_pylist(lines), folder / f"{first}.parquet", compression="zstd")


def csv_itself(rows: list[Any], folder: Path) -> None:
    with folder.with_suffix(".csv").open("w", newline="") as file:
        writer = csv.writer(file)
        for row in rows:
            writer.writerows((row.time, row.step, name, value) for name, value in row.metrics.items())


def jsonl_itself(rows: list[Any], folder: Path) -> None:
    with folder.with_suffix(".jsonl").open("w") as file:
        for row in rows:
            file.write(json.dumps({"time": row.time, "step": row.step, "metrics": row.metrics}) + "\n")


THEMSELVES: dict[str, tuple[str, Callable[[list[Any], Path], None]]] = {
    "tensorboard": ("tensorboard's EventFileWriter", tensorboard_itself),
    "parquet": ("pyarrow from the same lines", parquet_itself),
    "csv": ("the csv module", csv_itself),
    "jsonl": ("the json module", jsonl_itself),
}
TARGETS = {"tensorboard": 10_000, "parquet": 10_000}


def rate(options: Any) -> None:
    print(f"rate: {options.rows:,} rows of 12 metrics from a journal, with what is derived from each "
          "(28 values), read, folded, written and closed")  # fmt: skip
    for sink in (*THEMSELVES, "otlp"):
        with common.folder() as folder, receiver() as url:
            recording = Recording(folder / "data")
            recording.add(options.rows, 100_000)
            ours = deliver(recording, sink, otlp_endpoint=url)
            line = f"{sink:<12} {_speed(ours, options.rows)}"
            if sink in THEMSELVES:
                name, write = THEMSELVES[sink]
                theirs = measured(partial(write, recording.rows(), folder / "itself"))
                ratio = ours.cpu_seconds / max(0.01, theirs.cpu_seconds)
                line += f"; {name} alone {_speed(theirs, options.rows)}; ratio of the CPU {ratio:.2f}"
        print(line, flush=True)
        if sink in TARGETS:
            for per, seconds in (("second", ours.seconds), ("second of CPU", ours.cpu_seconds)):
                common.verdict(f"{sink}: rows a {per}", options.rows / seconds, TARGETS[sink], "rows", at_least=True)


def _speed(found: Measured, rows: int) -> str:
    return f"{rows / found.seconds:8,.0f} rows/s, {1e6 * found.cpu_seconds / rows:6.1f} us CPU a row"


@contextmanager
def receiver() -> Iterator[str]:
    """An OTLP receiver that takes everything."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            return None

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


# -- weight: every outlet on -------------------------------------------------------------------------------------------


def weight(options: Any) -> None:
    import sidecar as client

    with receiver() as url, common.folder() as folder:
        env = common.environment(WANDB_MODE="offline", SIDECAR_OTLP_ENDPOINT=url)
        sidecar = common.Sidecar(folder, "--sink", EVERY, env=env)
        try:
            run = client.init("benchmark", endpoint=sidecar.endpoint, total_steps=100_000, config={"lr": 0.1})
            step(run, 0, options.settle)
            before, began = cpu_by_part(sidecar.pid), time.monotonic()
            step(run, int(10 * options.settle), options.seconds)
            after, seconds = cpu_by_part(sidecar.pid), time.monotonic() - began
            resident, proportional = memory_mib(wandb_child(sidecar.pid))
            whole, _ = memory_mib(sidecar.pid)
            states = {name: sink["state"] for name, sink in sidecar.status()["sinks"].items()}
            run.finish()
        finally:
            sidecar.stop()
    shares = {part: 100 * (after[part] - before.get(part, 0.0)) / seconds for part in after}
    print(f"weight: every outlet on ({', '.join(f'{name} {state}' for name, state in states.items())}), 10 steps/s of "
          f"12 metrics for {seconds:.0f} s, hardware every second")  # fmt: skip
    print("CPU, percent of a core: " + ", ".join(f"{part} {share:.1f}" for part, share in shares.items()))
    print(f"resident MiB: all processes {whole:.0f}, W&B's {resident:.0f} (proportional {proportional:.0f})")
    common.verdict("sidecar's CPU without W&B's processes", sum(shares.values()) - shares["wandb"], 5, "%")
    common.verdict("W&B's processes, resident", resident * 1.048576, 130, "MB")


def step(run: Any, first: int, seconds: float) -> None:
    for number in range(first, first + max(1, int(10 * seconds))):
        run.step(number, **common.step_arguments(number))
        time.sleep(0.1)


def wandb_child(pid: int) -> int:
    """The process in which the W&B outlet lives: its output goes to that outlet's log."""
    for child in descendants(pid):
        if os.readlink(f"/proc/{child}/fd/2").endswith("sinks/wandb.log"):
            return child
    raise SystemExit("the W&B outlet has no process")


def cpu_by_part(pid: int) -> dict[str, float]:
    """CPU seconds so far of the sidecar itself and of each outlet that has processes of its own."""
    found = {"sidecar": common.cpu_seconds(pid)}
    for child in descendants(pid):
        log = Path(os.readlink(f"/proc/{child}/fd/2"))
        part = log.stem if log.parent.name == "sinks" else "sidecar"
        found[part] = found.get(part, 0.0) + common.cpu_seconds(child)
    return found


# -- outage: W&B is away -----------------------------------------------------------------------------------------------


def outage(options: Any) -> None:
    """The rows of two hours at one step a second come while the server does not answer; then it does."""
    sys.path.insert(0, str(common.REPOSITORY / "tests"))
    from fakes.wandb_server import WandbServer

    quick = {"x_file_stream_transmit_interval": 1.0, "x_file_stream_retry_wait_max_seconds": 2.0,
             "x_graphql_retry_wait_max_seconds": 2.0}  # fmt: skip
    with common.folder() as folder, WandbServer() as server:
        os.environ.update(server.environment())
        recording = Recording(folder / "data")
        recording.add(60, 10**9)
        manager = recording.manager(wandb_internal=quick, wandb_mode=None, wandb_entity=None, wandb_dir=None)
        try:
            manager.add(RUN, "wandb")
            _await(lambda: _arrived(server) >= 60, "the first rows", manager)
            memory = {"before": memory_mib(wandb_child(os.getpid()))[0]}
            server.fault = "refuse"
            for _ in range(60):
                recording.add(options.outage_rows // 60, 10**9)
                manager.notify(RUN)
                time.sleep(options.outage_seconds / 60)
            memory["during"] = memory_mib(wandb_child(os.getpid()))[0]
            held = _arrived(server)
            server.fault = None
            began = time.monotonic()
            _await(lambda: _arrived(server) >= recording.steps, "the rows of the outage", manager)
            seconds = time.monotonic() - began
            memory["after"] = memory_mib(wandb_child(os.getpid()))[0]
        finally:
            manager.close(60.0)
        steps = [row["train/global_step"] for row in server.runs[RUN].history if "train/loss" in row]
    missing = recording.steps - held
    print(f"outage: {missing:,} of {recording.steps:,} rows came while W&B was away ({options.outage_seconds:.0f} s), "
          f"drained in {seconds:.1f} s, {missing / seconds:,.0f} rows/s")  # fmt: skip
    print("resident MiB of W&B's processes: " + ", ".join(f"{when} {mib:.0f}" for when, mib in memory.items()))
    common.verdict("rows lost", recording.steps - len(set(steps)), 0, "rows")
    common.verdict("rows doubled", len(steps) - len(set(steps)), 0, "rows")
    common.verdict("growth of W&B's processes", max(memory.values()) - memory["before"], 64, "MiB")


def _arrived(server: Any) -> int:
    return len(server.runs[RUN].lines) if RUN in server.runs else 0


def _await(condition: Callable[[], bool], what: str, manager: Any) -> None:
    if not common.wait_until(condition, 300.0, every_seconds=0.1):
        raise SystemExit(f"{what} did not arrive: {manager.health(RUN, 'wandb')}")


PARTS = {"rate": rate, "weight": weight, "outage": outage}


def main() -> int:
    parser = common.parser(__doc__)
    parser.add_argument("part", nargs="?", choices=PARTS, help="one part only")
    parser.add_argument("--rows", type=int, default=100_000, help="of the rate (default 100,000)")
    parser.add_argument("--seconds", type=float, default=30.0, help="how long the weight is watched (default 30)")
    parser.add_argument("--settle", type=float, default=10.0, help="before that (default 10)")
    parser.add_argument("--outage-rows", type=int, default=7200, help="rows during the outage (default 7,200)")
    parser.add_argument("--outage-seconds", type=float, default=20.0, help="how long it is shown for (default 20)")
    options = parser.parse_args()
    common.print_machine()
    for part in [options.part] if options.part else PARTS:
        PARTS[part](options)
    common.print_load_after()
    return 0


if __name__ == "__main__":
    sys.exit(main())
