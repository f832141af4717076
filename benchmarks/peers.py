"""The price of one step's twelve metrics in the tools people use today, and in ours, side by side in one run.

Each tool lives in its own process, all take turns in short blocks of one call per millisecond of work, in a new random
order each round, together with a loop that reports nothing. So all of them meet the same noise.

Proves: p50 and worst call of ``run.step`` lie at least 100 times below ``wandb.log``, and it slows the step least.

    pip install -r benchmarks/requirements.txt
    python -m benchmarks.peers                        # about two minutes
    python -m benchmarks.peers --only sidecar,wandb --rounds 3
    python -m benchmarks.peers --markdown             # the table as it stands in the README

A tool that is not installed is named as missing, never left out in silence.
"""

import http.server
import importlib
import importlib.metadata
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from benchmarks import common

SEED = 20261121
WARM_UP_STEPS = 100
STEPS_PER_BLOCK = 200
SLOW_STEPS_PER_BLOCK = 60  # For tools of several milliseconds a call.
READY_SECONDS = 120.0

Emit = Callable[[int, dict[str, float]], object]


class Peer(NamedTuple):
    title: str
    package: str | None
    """Distribution whose version is printed; None: the standard library."""
    begin: Callable[[Path], Emit]
    steps: int = STEPS_PER_BLOCK


def _nothing(folder: Path) -> Emit:
    return lambda step, metrics: None


def _sidecar(folder: Path) -> Emit:
    import sidecar

    run = sidecar.init("peers", endpoint=os.environ["BENCHMARK_ENDPOINT"])
    return lambda step, metrics: run.step(step, metrics=metrics)


def _wandb(folder: Path) -> Emit:
    os.environ.update(WANDB_MODE="offline", WANDB_SILENT="true", WANDB_DIR=str(folder))
    import wandb

    wandb.init(project="peers", dir=str(folder))
    return lambda step, metrics: wandb.log(metrics, step=step)


def _tensorboard(folder: Path) -> Emit:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(folder))

    def emit(step: int, metrics: dict[str, float]) -> None:
        for name, value in metrics.items():
            writer.add_scalar(name, value, step)

    return emit


def _trackio(folder: Path) -> Emit:
    os.environ.update(TRACKIO_DIR=str(folder), HF_HOME=str(folder), HF_HUB_OFFLINE="1")
    import trackio

    trackio.init(project="peers", embed=False)
    return lambda step, metrics: trackio.log(metrics, step=step)


def _mlflow(folder: Path) -> Emit:
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    import mlflow

    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    mlflow.set_experiment("peers")
    mlflow.start_run()
    return lambda step, metrics: mlflow.log_metrics(metrics, step=step)


def _prometheus(folder: Path) -> Emit:
    import prometheus_client

    names = common.twelve_metrics(0)
    gauges = {name: prometheus_client.Gauge(name.replace("/", "_"), name) for name in names}
    prometheus_client.start_http_server(0, addr="127.0.0.1")

    def emit(step: int, metrics: dict[str, float]) -> None:
        for name, value in metrics.items():
            gauges[name].set(value)

    return emit


def _opentelemetry(folder: Path) -> Emit:
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

    exporter = OTLPMetricExporter(endpoint=os.environ["BENCHMARK_OTLP"])
    provider = MeterProvider([PeriodicExportingMetricReader(exporter, export_interval_millis=1000)])
    meter = provider.get_meter("peers")
    gauges = {name: meter.create_gauge(name) for name in common.twelve_metrics(0)}
    attributes = {"run": "peers"}

    def emit(step: int, metrics: dict[str, float]) -> None:
        for name, value in metrics.items():
            gauges[name].set(value, attributes)

    return emit


def _jsonl(folder: Path) -> Emit:
    file = (folder / "metrics.jsonl").open("w")

    def emit(step: int, metrics: dict[str, float]) -> None:
        file.write(json.dumps({"step": step, **metrics}) + "\n")
        file.flush()

    return emit


PEERS = {
    "nothing": Peer("(no reporting)", None, _nothing),
    "sidecar": Peer("trainer-sidecar", None, _sidecar),
    "prometheus": Peer("prometheus_client, in-process", "prometheus-client", _prometheus),
    "jsonl": Peer("JSONL with flush", None, _jsonl),
    "trackio": Peer("trackio", "trackio", _trackio),
    "opentelemetry": Peer("OpenTelemetry SDK, OTLP each second", "opentelemetry-sdk", _opentelemetry),
    "wandb": Peer("wandb, offline", "wandb", _wandb),
    "tensorboard": Peer("TensorBoard SummaryWriter", "tensorboard", _tensorboard),
    "mlflow": Peer("mlflow, sqlite", "mlflow-skinny", _mlflow, SLOW_STEPS_PER_BLOCK),
}


# -- one tool, in its own process --------------------------------------------------------------------------------------


def serve(name: str, folder: Path, rounds: int) -> None:
    """Set one tool up, then one block of steps for each line on stdin. Answers in JSON lines on its own descriptor."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # Whatever the tool prints must not be taken for an answer.
    peer = PEERS[name]
    emit = peer.begin(folder)
    for step in range(WARM_UP_STEPS if peer.steps == STEPS_PER_BLOCK else 10):
        emit(step, dict(common.twelve_metrics(step)))
    number = WARM_UP_STEPS
    print(json.dumps({"pid": os.getpid()}), file=out, flush=True)
    for _ in sys.stdin:
        durations, began = [], time.perf_counter_ns()
        for step in range(number, number + peer.steps):
            common.work(rounds)
            metrics = dict(common.twelve_metrics(step))
            called = time.perf_counter_ns()
            emit(step, metrics)
            durations.append(time.perf_counter_ns() - called)
        elapsed = time.perf_counter_ns() - began
        number += peer.steps
        print(json.dumps({"durations": durations, "elapsed": elapsed}), file=out, flush=True)
    out.close()
    os._exit(0)


class Process:
    """One tool's process, as the parent sees it."""

    def __init__(self, name: str, folder: Path, rounds: int, env: dict[str, str]) -> None:
        self.name, self.peer = name, PEERS[name]
        self.durations: list[int] = []
        self.step_ns: list[float] = []
        self.cpu_seconds = 0.0
        folder.mkdir()
        self._log = (folder / "log").open("w+")
        command = [sys.executable, "-m", "benchmarks.peers", "--serve", name, str(folder), str(rounds)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log,
                                         text=True, env=env, cwd=common.REPOSITORY)  # fmt: skip

    def wait_until_ready(self) -> str | None:
        """None: ready. Else why this tool cannot take part."""
        timer = threading.Timer(READY_SECONDS, self._process.kill)
        timer.start()
        line = self._process.stdout.readline()
        timer.cancel()
        if line:
            return None
        self._log.seek(0)
        lines = [text for text in self._log.read().splitlines() if text.strip()]
        return lines[-1][:150] if lines else "it ended without a word"

    def block(self) -> None:
        cpu_began = self._cpu()
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        self.cpu_seconds += self._cpu() - cpu_began
        self.durations += answer["durations"]
        self.step_ns.append(answer["elapsed"] / self.peer.steps)

    def _cpu(self) -> float:
        from benchmarks.footprint import descendants

        pid = self._process.pid
        return sum(common.cpu_seconds(one) for one in [pid, *descendants(pid)])

    def close(self) -> None:
        common.kill(self._process)
        self._log.close()


class Collector(http.server.BaseHTTPRequestHandler):
    """Takes what OpenTelemetry exports, and forgets it."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        pass


# -- all of them -------------------------------------------------------------------------------------------------------


def compare(names: list[str], rounds: int, nice: int | None) -> list[Process]:
    """Start every tool, let them take turns, and return those that took part. Those that could not are printed."""
    collector = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    threading.Thread(target=collector.serve_forever, daemon=True).start()
    otlp = f"http://127.0.0.1:{collector.server_address[1]}/v1/metrics"
    rng, work_rounds, taking_part = random.Random(SEED), common.rounds_for(), []
    with common.sidecar_alive() as sidecar, tempfile.TemporaryDirectory() as folder:
        env = common.environment(BENCHMARK_ENDPOINT=sidecar.endpoint, BENCHMARK_OTLP=otlp, HOME=folder)
        common.set_priority(nice)
        processes = [Process(name, Path(folder) / name, work_rounds, env) for name in names]
        try:
            for process in processes:
                if reason := process.wait_until_ready():
                    print(f"MISSING {process.peer.title}: {reason}", flush=True)
                else:
                    taking_part.append(process)
            for _ in range(rounds):
                for process in rng.sample(taking_part, len(taking_part)):
                    process.block()
                    time.sleep(0.05)
        finally:
            for process in processes:
                process.close()
            collector.shutdown()
    return taking_part


class Line(NamedTuple):
    title: str
    version: str
    p50_us: float
    p99_us: float
    worst_us: float
    cpu_per_1000: float
    """CPU seconds beyond the loop that reports nothing, of the process and its children, for 1,000 steps."""
    inflation: float
    ratio: float
    """Its p50 over ours."""


def lines(processes: list[Process]) -> dict[str, Line]:
    by_name = {process.name: process for process in processes}
    plain, ours = by_name["nothing"], by_name["sidecar"]
    our_p50 = common.percentile(ours.durations, 0.5)
    plain_cpu = plain.cpu_seconds / len(plain.durations)
    result = {}
    for name, process in by_name.items():
        growth = [a / b for a, b in zip(process.step_ns, plain.step_ns, strict=True)]
        p50, p99 = (common.percentile(process.durations, share) for share in (0.5, 0.99))
        cpu = 1000 * (process.cpu_seconds / len(process.durations) - plain_cpu)
        result[name] = Line(process.peer.title, version(process.peer.package), p50 / 1e3, p99 / 1e3,
                            max(process.durations) / 1e3, cpu, common.median(growth), p50 / our_p50)  # fmt: skip
    return result


def version(package: str | None) -> str:
    return importlib.metadata.version(package) if package else "-"


def print_table(found: dict[str, Line], markdown: bool) -> None:
    heads = ("tool", "version", "p50 us", "p99 us", "worst us", "CPU s/1000", "step time", "p50 / ours")
    rows = [
        (line.title, line.version, f"{line.p50_us:.1f}", f"{line.p99_us:.1f}", f"{line.worst_us:,.0f}",
         f"{line.cpu_per_1000:+.2f}", f"x{line.inflation:.3f}", f"{line.ratio:,.1f}")
        for line in sorted(found.values(), key=lambda line: line.p50_us)
    ]  # fmt: skip
    if markdown:
        print("| " + " | ".join(heads) + " |\n|" + "---|" * len(heads))
        print("\n".join("| " + " | ".join(row) + " |" for row in rows))
        return
    widths = [max(len(row[i]) for row in [heads, *rows]) for i in range(len(heads))]
    for row in [heads, *rows]:
        print(
            "  ".join(
                cell.ljust(width) if i < 2 else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
        )


def main() -> int:
    if sys.argv[1:2] == ["--serve"]:
        serve(sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))
        return 0
    parser = common.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=20, help="blocks of each tool (default 20)")
    parser.add_argument("--only", default=",".join(PEERS), help=f"of {', '.join(PEERS)}")
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--nice", type=int, metavar="N", help="priority of all tools, -20 is first (root)")
    options = parser.parse_args()
    names = list(dict.fromkeys(["nothing", "sidecar", *options.only.split(",")]))
    if unknown := set(names) - set(PEERS):
        parser.error(f"no such tool: {', '.join(sorted(unknown))}")
    common.print_machine()
    processes = compare(names, options.rounds, options.nice)
    found = lines(processes)
    print_table(found, options.markdown)
    ours = found["sidecar"]
    if "wandb" in found:
        wandb = found["wandb"]
        common.verdict("ratio p50 of wandb.log / run.step", wandb.ratio, 100, "", at_least=True)
        common.verdict("ratio worst wandb.log / worst run.step", wandb.worst_us / ours.worst_us, 100, "", at_least=True)
    others = {name: line.inflation for name, line in found.items() if name not in ("nothing", "sidecar")}
    if others:
        name = min(others, key=lambda name: others[name])
        common.verdict(
            f"step time with ours / with the lightest other ({name})", ours.inflation / others[name], 1.0, ""
        )
    common.print_load_after()
    return 0


if __name__ == "__main__":
    sys.exit(main())
