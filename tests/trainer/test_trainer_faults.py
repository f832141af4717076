"""Damaged files, full disks, diverged models, odd data: what an acceptance test from outside found."""

import json
import math
import os
import resource
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from fake_run import Recorder

import sidecar
from trainer import checkpoint, data, run_history, sandbox, tasks
from trainer.__main__ import main
from trainer.chat_stage import fingerprint
from trainer.config import Config
from trainer.console import Console
from trainer.data.batch import BatchSampler
from trainer.data.conversations import Conversations, prepare
from trainer.data.preferences import PreferencePairs
from trainer.data.quality import DataReport, Quality
from trainer.distributed import World
from trainer.errors import UserError
from trainer.evaluate import TokenSums, summary
from trainer.generate import fit_prompt, generate_replies, generate_samples
from trainer.model import GPT, ModelConfig
from trainer.nonfinite import NonFiniteGuard
from trainer.tasks import formats
from trainer.tasks.example import Message, Preference, TaskMixture, ask
from trainer.tasks.rows import files_of

HERE = World(0, 0, 1, torch.device("cpu"))


@pytest.fixture
def files_of_100_kb() -> Iterator[None]:
    """No file may grow beyond that, as on a disk that is full."""
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


# -- checkpoints -------------------------------------------------------------------------------------------------------


def test_a_checkpoint_that_does_not_fit_is_an_oserror_and_leaves_nothing(tmp_path: Path, files_of_100_kb) -> None:
    with pytest.raises(OSError, match="File too large"):
        checkpoint.save(tmp_path / "a" / "checkpoint_000001.pt", {"weights": torch.zeros(1_000_000)})
    assert list((tmp_path / "a").iterdir()) == []


def test_every_damaged_byte_of_a_checkpoint_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint_000001.pt"
    checkpoint.save(path, {"weights": torch.arange(64.0), "step": 3})
    whole = path.read_bytes()
    assert checkpoint.load_file(path, "weights", "step")["step"] == 3
    harmless = 0
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        try:
            state = checkpoint.load_file(path, "weights", "step")
        except UserError:
            continue
        harmless += 1  # A time stamp of the archive, or its padding.
        assert state["step"] == 3
        assert torch.equal(state["weights"], torch.arange(64.0))
    assert harmless < len(whole) / 7 / 2


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04"])
def test_other_files_are_no_checkpoints(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.pt").write_bytes(content)
    with pytest.raises(UserError, match="not a checkpoint that can be read"):
        checkpoint.load_file(tmp_path / "a.pt")


def test_a_checkpoint_without_what_is_needed_is_refused(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "a.pt", {"weights": torch.zeros(2)})
    with pytest.raises(UserError, match="not a checkpoint of this version"):
        checkpoint.load_file(tmp_path / "a.pt", "weights", "optimizer")


BAD_PARTS = {
    "model": [{}, None, [1], {"vocab_size": 320, "n_layer": "1"}], "weights": [{}, None, {"head.weight": 3}],
    "optimizer": [{}, None, {"state": {}, "param_groups": []}], "random": [{}, {"cpu": []}], "data": [{}, "x"],
    "step": ["x", None], "skipped_steps": ["x"], "data_of_ranks": [None, {"x": []}],
}  # fmt: skip


@pytest.mark.parametrize("part", BAD_PARTS)
def test_a_checkpoint_made_by_hand_is_refused_whatever_is_wrong_in_it(part: str, trained, tmp_path: Path) -> None:
    trained(out=str(tmp_path), steps=1)
    path = checkpoint.newest(str(tmp_path), "pretrain")
    state = checkpoint.load_file(path)
    for value in BAD_PARTS[part]:
        checkpoint.save(path, {**state, part: value})
        with pytest.raises(UserError, match=f"{path} (is not a checkpoint|was written with)"):
            trained(resume=str(path), steps=2)
        if part in ("model", "weights"):
            with pytest.raises(UserError, match=f"{path} is not a checkpoint of this version"):
                trained(from_weight=str(path), steps=1)


def test_moments_of_another_shape_never_reach_the_fused_optimizer(trained, tmp_path: Path) -> None:
    trained(out=str(tmp_path), steps=1)
    path = checkpoint.newest(str(tmp_path), "pretrain")
    state = checkpoint.load_file(path)
    state["optimizer"]["state"][0]["exp_avg"] = torch.zeros(3)
    checkpoint.save(path, state)
    with pytest.raises(UserError, match="moments are not of the shape"):
        trained(resume=str(path), steps=2)


def test_a_checkpoint_of_a_newer_format_says_so(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "a.pt", {"format": checkpoint.FORMAT + 1})
    with pytest.raises(UserError, match=f"is a checkpoint of format {checkpoint.FORMAT + 1}, this trainer reads"):
        checkpoint.load_file(tmp_path / "a.pt")


def test_the_newest_checkpoint_is_that_of_the_highest_step(tmp_path: Path) -> None:
    for name in ("checkpoint_999999.pt", "checkpoint_1000000.pt", "checkpoint_latest.pt"):
        (tmp_path / name).touch()
    assert checkpoint.newest_in(tmp_path) == tmp_path / "checkpoint_1000000.pt"
    assert checkpoint.newest(str(tmp_path), "sft") == tmp_path / "checkpoint_1000000.pt"


def test_ppo_resumes_only_with_rollouts_of_the_same_size(trained, tmp_path: Path) -> None:
    trained("ppo", out=str(tmp_path), steps=3, batch_size=4, max_reply=4, checkpoint_freq=2)
    with pytest.raises(UserError, match="rollout_batches = 2, this run has 4"):
        trained("ppo", resume=str(tmp_path), steps=6, batch_size=4, max_reply=4, rollout_batches=4)


@pytest.mark.parametrize("content", ['{"run_number": "two"}', "[]", "{"])
def test_a_run_history_that_is_none_ends_the_run_in_two_lines(tmp_path: Path, content: str) -> None:
    (tmp_path / "runs.json").write_text(content)
    with pytest.raises(UserError, match="not what this trainer wrote"):
        run_history.begin_run(Config(out=str(tmp_path)), HERE)


def test_a_run_history_that_cannot_be_written_ends_the_run_in_two_lines(tmp_path: Path, monkeypatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("trainer.run_history._write", full)
    with pytest.raises(UserError, match="No space left on device"):
        run_history.begin_run(Config(out=str(tmp_path)), HERE)


# -- numbers that are not finite, flags that make no sense -------------------------------------------------------------


def test_a_diverged_model_still_says_something() -> None:
    model = GPT(ModelConfig(n_layer=1, n_head=2, n_embd=16, seq_len=32))
    with torch.no_grad():
        model.head.weight.fill_(math.nan)
    (reply,) = generate_replies(model, [[1, 2, 3]], max_tokens=5)
    assert 1 <= len(reply) <= 5


def test_a_question_that_is_longer_than_the_context_is_answered_from_its_end() -> None:
    model = GPT(ModelConfig(n_layer=1, n_head=2, n_embd=16, seq_len=32))
    long = [7] * 100 + [1, 2, 3]
    assert len(fit_prompt(long, model, room=8)) == 24
    assert generate_replies(model, [long, [5]], 8) == generate_replies(model, [long[-24:], [5]], 8)
    texts = generate_samples(model, ["x" * 500], chat=True)
    assert next(iter(texts)) == "x" * 500


def test_skipped_steps_are_counted_on_after_a_resume() -> None:
    guard = NonFiniteGuard("stop", torch.device("cpu"))
    guard.restore(3)
    guard.check(8)
    assert guard.metrics() == {"train/skipped_steps": 3}
    nothing = torch.optim.AdamW([torch.nn.Parameter(torch.ones(1))], fused=True)
    guard.step(nothing, torch.tensor(math.nan), 9)
    assert guard.metrics() == {"train/skipped_steps": 4}
    with pytest.raises(UserError, match="not finite at step 9"):
        guard.check(9)


def test_the_perplexity_of_nan_is_nan_and_that_of_a_huge_loss_infinite() -> None:
    assert math.isnan(summary(TokenSums(math.nan, 0, 1, math.nan, 1))["val/perplexity"])
    assert math.isinf(summary(TokenSums(1e6, 0, 1, 1e6, 1))["val/perplexity"])


@pytest.mark.parametrize(
    "words",
    ["--dropout 1", "--seed -1", "--seed 99999999999", "--learning_rate inf", "--learning_rate nan", "--warmup 5",
     "--min_lr -3", "--weight_decay -1", "--threads 100000", "--val_fraction 1", "--steps 0"],
)  # fmt: skip
def test_a_number_out_of_its_range_is_refused(words: str, capsys) -> None:
    assert main(["pretrain", *words.split()]) == 2
    first, _ = capsys.readouterr().err.splitlines()
    assert first.startswith(f"trainer: {words.split()[0]} is ")


def test_an_error_of_one_rank_is_said_by_that_rank(monkeypatch, capsys, tmp_path: Path) -> None:
    monkeypatch.setenv("RANK", "1")
    assert main(["pretrain", "--data", str(tmp_path / "missing")]) == 2
    assert capsys.readouterr().err.startswith("trainer: rank 1: no such file or folder")
    assert main(["pretrain", "--steps", "0"]) == 2, "but a wrong flag by rank 0 alone: it is wrong on all of them"
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("rank", "waited"), [("0", []), ("1", [5.0])])
def test_under_torchrun_a_wrong_flag_is_said_before_another_rank_fails(
    rank: str, waited: list[float], monkeypatch, capsys
) -> None:
    slept: list[float] = []
    monkeypatch.setattr("trainer.__main__.time.sleep", slept.append)
    monkeypatch.setattr("trainer.__main__.die_with_torchrun", lambda: None)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("RANK", rank)
    assert main(["pretrain", "--steps", "0"]) == 2
    assert (slept, bool(capsys.readouterr().err)) == (waited, rank == "0")


def test_a_pipeline_that_is_told_to_resume_from_nothing_does_not_begin_again(tmp_path: Path, capsys) -> None:
    assert main(["pipeline", "--out", str(tmp_path), "--resume", str(tmp_path / "typo"), "--steps", "1"]) == 2
    assert "no stage has a checkpoint in" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_pipeline_misses_the_data_of_a_later_stage_before_it_begins(tmp_path: Path, capsys) -> None:
    write_rows(tmp_path / "gsm8k.jsonl", [{"question": "1?", "answer": "#### 1"}])
    assert main(["pipeline", "--out", str(tmp_path / "out"), "--data", str(tmp_path)]) == 2
    assert "none of the data sets of dpo" in capsys.readouterr().err
    row = '[[datasets]]\nname = "{0}"\nformat = "{0}"\npath = "{1}"\n'
    rows = [row.format("gsm8k", "gsm8k.jsonl"), row.format("preference", "missing.jsonl")]
    (tmp_path / "data.toml").write_text("".join(rows))
    assert main(["pipeline", "--out", str(tmp_path / "out"), "--data_config", str(tmp_path / "data.toml")]) == 2
    assert "missing.jsonl" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_ranks_that_cannot_meet_are_refused_in_one_line(monkeypatch, capsys) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["pretrain", "--steps", "1"]) == 2
    assert capsys.readouterr().err.startswith("trainer: WORLD_SIZE is 2, but RANK is not set\n")


def test_what_a_diverged_model_is_worth_is_json_too(trained, monkeypatch, capsys, tmp_path: Path) -> None:
    trained(out=str(tmp_path), steps=1, seq_len=128)
    capsys.readouterr()
    hopeless = {"val/loss": math.nan, "val/perplexity": math.inf}
    monkeypatch.setattr("trainer.commands.validated", lambda *_, **__: dict(hopeless))
    monkeypatch.setattr("trainer.commands.evaluate_tasks", lambda *_, **__: {"eval/mean_acc": 0.25})
    assert main(["eval", "--out", str(tmp_path), "--from_weight", "pretrain", "--threads", "1"]) == 0
    found = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert found == {"val/loss": None, "val/perplexity": None, "eval/mean_acc": 0.25}


def test_programs_that_are_not_run_are_said_to_be_left_out(trained, monkeypatch, capsys, tmp_path: Path) -> None:
    trained(out=str(tmp_path), steps=1, seq_len=128)
    row = {"prompt": "def f():\n", "canonical_solution": "    return 1\n", "test": "x = 1", "entry_point": "f"}
    (tmp_path / "humaneval.jsonl").write_text(json.dumps(row))
    words = ["eval", "--out", str(tmp_path), "--from_weight", "pretrain", "--data", str(tmp_path), "--threads", "1"]
    monkeypatch.setattr("trainer.task_eval.count_passing_programs", lambda *_: 0)
    for more, said in (((), True), (("--allow_code",), False)):
        assert main([*words, *more]) == 0
        assert ("HumanEval: left out, only --allow_code runs programs" in capsys.readouterr().err) == said


def test_an_evaluation_without_data_opens_no_run_and_one_that_breaks_ends_it_as_failed(
    trained, monkeypatch, tmp_path: Path
) -> None:
    trained(out=str(tmp_path), steps=1, seq_len=128)
    begun: list[Recorder] = []
    monkeypatch.setattr(sidecar, "init", lambda **told: begun.append(Recorder(**told)) or begun[0])
    words = ["eval", "--out", str(tmp_path), "--from_weight", "pretrain", "--threads", "1"]
    assert main([*words, "--seq_len", "8"]) == 2
    assert begun == []
    monkeypatch.setattr("trainer.commands.evaluate_tasks", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main([*words, "--eval_iters", "1"])
    assert begun[0].finished == {"state": "failed"}


@pytest.mark.parametrize("command", ["eval", "generate"])
def test_commands_that_do_not_train_have_no_flags_of_training(command: str, tmp_path: Path, capsys) -> None:
    assert main([command, "--learning_rate", "1"]) == 2
    assert "unknown flag '--learning_rate'" in capsys.readouterr().err
    (tmp_path / "all.toml").write_text("learning_rate = 1.0\nn_layer = 3\n")
    assert main([command, "--config", str(tmp_path / "all.toml"), "--show_config"]) == 0, "one file for all commands"
    out = capsys.readouterr().out
    assert "n_layer" in out
    assert "learning_rate" not in out


def test_a_pipeline_shows_the_values_of_each_stage(capsys) -> None:
    assert main(["pipeline", "--show_config", "--n_layer", "2"]) == 0
    stages = {part.split("]")[0]: part for part in capsys.readouterr().out.split("[")[1:]}
    assert "steps                   240                          pipeline" in stages["pretrain"]
    assert "batch_size              64                           pipeline" in stages["ppo"]
    assert all("n_layer                 2                            flag" in stages[name] for name in ("sft", "dpo"))


def test_a_validation_without_perplexity_prints_its_loss(capsys) -> None:
    Console().validation(15, {"val/loss": 0.5, "val/rewards_accuracy": 0.75})
    assert capsys.readouterr().out.splitlines()[0] == "Step 15: val_loss=0.5000, val_ppl=-"


# -- data --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", ["", "BC", "E", 4, -1, "a", True])
def test_an_answer_that_is_no_choice_is_refused(answer: object) -> None:
    with pytest.raises((ValueError, IndexError, TypeError)):
        formats.mmlu({"question": "?", "choices": ["w", "x", "y", "z"], "answer": answer})
    choices = {"text": ["w", "x"], "label": ["A", "B"]}
    with pytest.raises((ValueError, TypeError)):
        formats.arc({"question": "?", "choices": choices, "answerKey": answer})


@pytest.mark.parametrize("choices", [{"text": ["w", "x"], "label": ["A", "A"]}, {"text": "wx", "label": ["A", "B"]}])
def test_choices_that_are_no_list_of_different_ones_are_refused(choices: dict[str, object]) -> None:
    with pytest.raises((ValueError, TypeError)):
        formats.arc({"question": "?", "choices": choices, "answerKey": "A"})


def write_rows(path: Path, rows: list[dict[str, object]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_data_config_serves_several_stages(tmp_path: Path) -> None:
    write_rows(tmp_path / "sums.jsonl", [{"question": f"{n}?", "answer": f"#### {n}"} for n in range(8)])
    write_rows(tmp_path / "pairs.jsonl", [{"prompt": f"{n}?", "chosen": "a", "rejected": "b"} for n in range(8)])
    config = tmp_path / "data.toml"
    config.write_text(
        '[[datasets]]\nname = "sums"\nformat = "gsm8k"\npath = "sums.jsonl"\n'
        '[[datasets]]\nname = "pairs"\nformat = "preference"\npath = "pairs.jsonl"\n'
    )
    report = DataReport()
    assert [task.name for task in tasks.load("dpo", None, str(config), report, 0.25)] == ["pairs"]
    assert report.lines() == ("sums: not used, dpo has no use for gsm8k",)
    assert [task.name for task in tasks.load("ppo", None, str(config), DataReport(), 0.25)] == ["sums"]
    config.write_text('[[datasets]]\nname = "sums"\nformat = "gsm8k"\npath = "sums.jsonl"\n')
    with pytest.raises(UserError, match="names no dataset that dpo can use"):
        tasks.load("dpo", None, str(config), DataReport(), 0.25)


def test_all_rows_of_a_benchmark_are_evaluated(tmp_path: Path) -> None:
    row = {"prompt": "def one():\n", "canonical_solution": "    return 1\n", "test": "def check(f): pass",
           "entry_point": "one"}  # fmt: skip
    write_rows(tmp_path / "humaneval.jsonl", [row])
    (task,) = tasks.load("eval", str(tmp_path), None, DataReport(), 0.1)
    assert (len(task.train), len(task.val)) == (0, 1)


def test_hidden_files_and_folders_named_like_data_are_no_data(tmp_path: Path) -> None:
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "metadata.json").write_text("{}")
    (tmp_path / "folder.jsonl").mkdir()
    (tmp_path / "rows.jsonl").write_text("{}\n")
    (tmp_path / "dataset_infos.json").write_text("{}")
    assert files_of(tmp_path) == [tmp_path / "rows.jsonl"]


def test_a_folder_of_every_stages_sets_is_one_for_pretraining_too(tmp_path: Path) -> None:
    (tmp_path / "fineweb-edu").mkdir()
    (tmp_path / "fineweb-edu" / "a.txt").write_text("some text")
    (tmp_path / "gsm8k.jsonl").write_text("{}")
    assert data.locate(str(tmp_path)).path == tmp_path / "fineweb-edu"


def test_a_score_that_is_no_number_is_no_score() -> None:
    quality = Quality()
    for score in (math.nan, math.inf, True, 0.5):
        quality.keep(b"text", score=score)
    assert quality.metrics()["data/avg_quality_score"] == 0.5


def test_a_small_validation_split_makes_smaller_batches() -> None:
    few = BatchSampler(3, batch_size=8, shrink=True)
    assert (few.batch_size, few.batches_per_epoch) == (3, 1)
    assert sorted(few.next().tolist()) == [0, 1, 2]
    assert BatchSampler(3, batch_size=8).batches_per_epoch == 0


def test_a_fingerprint_knows_every_example() -> None:
    rows = [ask(f"{n}?", "yes") for n in range(5)]
    changed = [*rows[:2], ask("2?", "no"), *rows[3:]]
    assert fingerprint(rows) == fingerprint(list(rows)) != fingerprint(changed)


def test_tokens_of_datasets_add_up_to_those_of_the_batch_also_in_full_rows() -> None:
    examples = [ask("x" * 3, "y" * n) for n in range(1, 9)]
    room = len(prepare(TaskMixture({"a": examples[-1:]}), 100).tokens) - 1
    for packed in (False, True):
        rows = Conversations(
            prepare(TaskMixture({"a": examples}), room), name="a", seq_len=room, packed=packed, batch_size=2
        )
        for _ in range(rows.batches_per_epoch):
            batch = rows.next_batch()
            assert sum(tokens for _, tokens in batch.datasets.values()) == batch.tokens
    pairs = [Preference((Message("user", "?"),), "y" * n, "z") for n in (1, 9)]
    longest = PreferencePairs(TaskMixture({"p": pairs}), seq_len=1000, batch_size=2).lengths()
    rows = PreferencePairs(TaskMixture({"p": pairs}), seq_len=max(longest) - 7 - 1, batch_size=2)
    batch = rows.next_batch()
    assert batch.datasets["p"] == (2, batch.tokens)


def test_ppo_counts_each_dataset_and_the_prompts_that_do_not_fit(trained, tmp_path: Path) -> None:
    write_rows(tmp_path / "gsm8k.jsonl", [{"question": f"{n}?", "answer": f"#### {n}"} for n in range(30)])
    long = {"prompt": "x" * 500, "answer": "1"}
    write_rows(tmp_path / "prompts.jsonl", [*({"prompt": f"{n}!", "answer": str(n)} for n in range(30)), long, long])
    run = trained("ppo", data=str(tmp_path), steps=4, batch_size=8, max_reply=4, val_fraction=0.1)
    assert run.begun["config"]["dataset/dropped_samples"] == 2
    assert run.datasets.keys() == {"GSM8K", "prompts"}


def test_a_program_leaves_no_child_behind() -> None:
    child = "import os, time\nif os.fork() == 0:\n    time.sleep(60)\n"
    before = set(os.listdir("/proc"))
    assert sandbox.passes(child)
    deadline = time.monotonic() + 20
    while any(map(is_program, set(os.listdir("/proc")) - before)):
        assert time.monotonic() < deadline


def is_program(pid: str) -> bool:
    try:
        return b"-I\0-S\0-" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
