"""What the trainer says about its data, its checkpoints and its history, read from the sidecar's journal."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

STEPS = 6
PREPARED = {
    "data/total_samples", "data/avg_quality_score", "data/avg_code_length", "data/language_python",
    "data/language_python_percent", "data/blocked_malicious", "data/blocked_secrets", "data/blocked_license",
    "data/blocked_total", "data/pass_rate", "dataset/train_size", "dataset/eval_size", "dataset/total_size",
    "dataset/train_eval_ratio", "dataset/avg_tokens_per_sample", "dataset/max_tokens", "dataset/min_tokens",
}  # fmt: skip
AT_THE_END = {
    "continuous/run_number", "continuous/total_runs", "continuous/last_trained_id", "continuous/total_samples_trained",
    "continuous/uptime_hours",
}  # fmt: skip
"""The third document's lists 3, 4 and 7, every name."""


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Two runs on one folder under one sidecar each, the second resumed from the first one's checkpoint."""
    folder = tmp_path_factory.mktemp("journal")
    root, home = Path(__file__).resolve().parents[2], folder / "home"
    home.mkdir()
    (folder / "data").mkdir()
    rows = [f"def f{n}():\n    return {n}\n" * 9 for n in range(60)]
    rows[::20] = ["key = 'AKIAABCDEFGH12345678'"] * 3
    columns = {"text": rows, "language": ["python"] * 60, "score": [2.5] * 60}
    pyarrow.parquet.write_table(pyarrow.table(columns), folder / "data" / "code.parquet")
    environment = {
        **{n: v for n, v in os.environ.items() if not n.startswith(("SIDECAR_", "WANDB_", "TRAINER_"))},
        "HOME": str(home), "XDG_DATA_HOME": str(home), "XDG_RUNTIME_DIR": str(home), "SIDECAR_DIR": str(folder / "dir"),
        "PYTHONPATH": str(root),
    }  # fmt: skip

    def sidecar(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "sidecar", *words], cwd=folder, env=environment, capture_output=True, text=True,
            timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr + done.stdout
        return done.stdout

    flags = (
        "--data data --n_layer 1 --n_head 2 --n_embd 32 --seq_len 32 --batch_size 4 --threads 1 --eval_iters 1 "
        "--generation_prompts def --out out --checkpoint_freq 3 --run night_{n} --eval_freq 100 --generate_freq 100"
    )
    said = []
    for more in (f"--steps {STEPS}", f"--steps {STEPS + 3} --resume out"):
        command = [sys.executable, "-m", "trainer", "pretrain", *flags.split(), *more.split()]
        said.append(sidecar("run", "--port", "0", "--grace", "20", "--", *command))
    rows = [json.loads(line) for line in sidecar("export", "latest", "--format", "jsonl", "-o", "-").splitlines()]
    files = {path.name: path.stat().st_size for path in (folder / "out" / "pretrain").iterdir()}
    return {"rows": rows, "files": files, "said": said, "runs": json.loads(sidecar("runs", "--json"))}


def told(journal: dict[str, Any], name: str) -> list[tuple[int, Any]]:
    return [(row["step"], row["metrics"][name]) for row in journal["rows"] if name in row["metrics"]]


def test_every_name_of_the_third_documents_lists_arrives_once_and_right(journal) -> None:
    for name in PREPARED:
        assert [step for step, _ in told(journal, name)] == [0], name
    assert told(journal, "data/total_samples") == [(0, 60)]
    assert told(journal, "data/blocked_secrets") == [(0, 3)]
    assert told(journal, "data/pass_rate") == [(0, 95.0)]
    assert told(journal, "data/avg_quality_score") == [(0, 2.5)]


def test_the_history_goes_on_over_the_resume_of_one_and_the_same_run(journal) -> None:
    assert [run["name"] for run in journal["runs"]] == ["night_1"]
    for name in AT_THE_END:
        assert [step for step, _ in told(journal, name)] == [STEPS, STEPS + 3], name
    assert [value for _, value in told(journal, "continuous/run_number")] == [1, 1]
    assert [value for _, value in told(journal, "continuous/total_samples_trained")] == [4 * STEPS, 4 * (STEPS + 3)]
    first, second = (value for _, value in told(journal, "continuous/uptime_hours"))
    assert 0 < first < second


def test_every_checkpoint_is_an_event_with_its_step_seconds_and_bytes(journal) -> None:
    events = [row for row in journal["rows"] if row["kind"] == "checkpoint"]
    assert [row["step"] for row in events] == [3, 6, 9]
    for row in events:
        assert row["metrics"]["checkpoint/seconds"] > 0
        assert row["metrics"]["checkpoint/bytes"] == journal["files"][row["metrics"]["checkpoint/name"]]


def test_the_console_ends_with_a_sample_and_a_summary(journal) -> None:
    lines = journal["said"][0].splitlines()
    samples = [number for number, line in enumerate(lines) if line.startswith("  sample: def")]
    epochs = [number for number, line in enumerate(lines) if line.startswith("Epoch:")]
    assert samples[-1] > epochs[-1]
    assert any(line.startswith("done: ") for line in lines[samples[-1] :])
