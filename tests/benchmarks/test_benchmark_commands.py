"""Each benchmark runs as the documentation says and prints its ratio. Nothing here asserts how fast anything is."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SEED = 20261121

TINY = "--steps 60 --n_layer 1 --n_embd 32 --n_head 2 --batch_size 2 --threads 1 --eval_freq 999 --generate_freq 999"
INSTRUMENTED = "--n_layer 1 --n_embd 32 --n_head 2 --batch_size 2 --threads 1"
STAGE = ["--trainer", "--stage", "dpo", "--minutes", "0", "--block-seconds", "0.02"]
VERDICT = r"^(ok  |MISS|undecided) .*: -?[\d.,e+-]+ .*\(target [<>]= "
COMMANDS = {
    "step_cost": ["step_cost", "--blocks", "1"],
    "cold_calls": ["cold_calls", "--steps", "3"],
    "inflation": ["inflation", "--pairs", "2", "--steps", "20"],
    "inflation-stage": ["inflation", *STAGE, "--trainer-arguments", TINY],
    "pipeline": ["pipeline", "--arguments", f"{TINY} --steps 8 --eval_examples 4 --max_reply 4 --eval_freq 4"],
    "footprint": ["footprint", "--seconds", "1"],
    "ingest-rate": ["ingest", "rate", "--events", "8000", "--profile"],
    "ingest-ranks": ["ingest", "ranks", "--events", "4000", "--rank-counts", "1,16"],
    "ingest-paced": ["ingest", "paced", "--seconds", "1", "--rank-counts", "8"],
    "ingest-recovery": ["ingest", "recovery", "--recovery-events", "5000"],
    "peers": ["peers", "--rounds", "1", "--only", "jsonl,prometheus"],
    "capture_cost": ["capture_cost", "--calls", "20", "--turns", "1"],
    "probe_cost": ["probe_cost", "--pairs", "1", "--batch-size", "1"],
    "instruments": ["instruments", "--rounds", "2", "--every", "8", "--trainer-arguments", INSTRUMENTED],
    "stalled": ["stalled", "--seconds", "2"],
    "scrape": ["scrape", "--seconds", "1", "--ranks", "4"],
    "outlets-rate": ["outlets", "rate", "--rows", "1000"],
    "outlets-weight": ["outlets", "weight", "--settle", "0.5", "--seconds", "0.5"],
    "outlets-outage": ["outlets", "outage", "--outage-rows", "240", "--outage-seconds", "1"],
    "soak": ["soak", "--minutes", "0.1", "--every", "2", "--seed", str(SEED)],
}


def run(repository: Path, *arguments: str, timeout_seconds: float = 120) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", f"benchmarks.{arguments[0]}", *arguments[1:]],
        cwd=repository, capture_output=True, text=True, timeout=timeout_seconds, stdin=subprocess.DEVNULL,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_command_runs_and_prints_a_measured_value_beside_its_bound(repository: Path, name: str) -> None:
    done = run(repository, *COMMANDS[name])
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(VERDICT, done.stdout, re.MULTILINE), done.stdout
    assert "machine:" in done.stdout, "a figure without the load of the machine cannot be compared"


@pytest.mark.slow
@pytest.mark.parametrize("endpoint", ["ipc", "tcp"])
def test_chaos_with_a_fixed_seed_loses_and_doubles_nothing(repository: Path, endpoint: str) -> None:
    arguments = ["--seconds", "8", "--faults", "8", "--rate", "2000", "--seed", str(SEED), "--endpoint", endpoint]
    done = run(repository, "chaos", *arguments, timeout_seconds=240)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"seed {SEED}" in done.stdout
    assert re.search(r"lost 0  duplicated 0  out of order 0", done.stdout), done.stdout


@pytest.mark.slow
def test_no_system_call_happens_inside_a_step(repository: Path) -> None:
    if shutil.which("strace") is None:
        missing = "strace is not installed: apt-get install strace"
        pytest.fail(missing) if os.environ.get("CI") == "true" else pytest.skip(missing)
    done = run(repository, "step_cost", "--strace", "--steps", "200")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "200 calls of run.step traced; system calls inside them: 0" in done.stdout


def test_every_benchmark_says_how_it_is_run(repository: Path) -> None:
    for path in (repository / "benchmarks").glob("*.py"):
        text = path.read_text()
        if "def main()" in text:
            assert f"python -m benchmarks.{path.stem}" in text, path.name
