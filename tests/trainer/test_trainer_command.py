"""The command line: flags, errors in two lines, console lines, signals and two ranks."""

import contextlib
import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from fake_run import Recorder

import sidecar
from trainer import checkpoint
from trainer.__main__ import main
from trainer.config import Config
from trainer.console import Console, printable, progress_bar
from trainer.errors import UserError
from trainer.flags import parse

RUN_RECORDED = Path(__file__).with_name("run_recorded.py")
CONSOLE_LINE = re.compile(
    r"Epoch:\[\d+/\d+\]\(\d+/\d+\) loss:(-|\d+\.\d{6}) lr:\d\.\d{12} grad_norm:(-|\d+\.\d{4}) "
    r"tokens/s:(-|\d+) MFU:(-|\d+\.\d\d)% epoch_Time:(-|\d+\.\d)min ETA:(-|\d+\.\d\d)min"
)


def flags_of(settings: dict[str, object]) -> list[str]:
    pairs = ((f"--{name}",) if value is True else (f"--{name}", str(value)) for name, value in settings.items())
    return [word for pair in pairs for word in pair]


def recorded(command: list[str], out: Path, repository: Path) -> subprocess.CompletedProcess[str]:
    """Run the trainer in processes of its own, each writing what it told the sidecar to ``out``."""
    environment = {**os.environ, "RECORD_TO": str(out), "PYTHONPATH": str(repository)}
    return subprocess.run(command, cwd=repository, env=environment, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    ("arguments", "cause", "remedy"),
    [
        (["fly"], "no stage called 'fly'", "pretrain"),
        (["pretrain", "--lerning_rate", "1"], "'--lerning_rate'", "--learning_rate"),
        (["pretrain", "--no_compile"], "'--no_compile'", "did you mean --no-compile?"),
        (["pretrain", "--no-steps"], "'--no-steps'", "--help"),
        (["pretrain", "--steps", "many"], "invalid int value", "--help"),
        (["pretrain", "--batch_size", "0"], "not a finite number above zero", "--batch_size"),
        (["pretrain", "--n_embd", "30"], "heads of an even size", "multiple"),
        (["pretrain", "--data", "/no/such/folder"], "no such file", "--data"),
        (["pretrain", "--device", "tpu"], "invalid choice", "--help"),
        (["pretrain", "--checkpoint_freq", "5"], "needs a folder", "--out"),
    ],
)
def test_a_wrong_command_is_a_cause_and_a_remedy_with_exit_code_2(arguments, cause, remedy, capsys) -> None:
    assert main(arguments) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert cause in first
    assert remedy in second


def test_no_stage_at_all_shows_the_usage(capsys) -> None:
    assert main([]) == 2
    assert "pretrain" in capsys.readouterr().err


def test_asking_for_help_needs_no_torch(repository: Path) -> None:
    code = "import sys; sys.modules['torch'] = None; from trainer.__main__ import main; main(['pretrain', '--help'])"
    done = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--learning_rate X" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 110


def test_flags_may_be_spelt_with_dashes_underscores_and_the_documents_other_names() -> None:
    assert parse(Config, "pretrain", ["--batch-size", "3"]) == parse(Config, "pretrain", ["--batch_size", "3"])
    assert parse(Config, "pretrain", ["--max_iters", "9"]).steps == 9
    assert parse(Config, "pretrain", ["--wandb_project", "p"]).project == "p"
    assert parse(Config, "pretrain", ["-q"]).quiet


def test_a_flag_wins_over_the_environment_and_that_over_the_default(monkeypatch) -> None:
    assert parse(Config, "pretrain", []).project == "bdh-training"
    monkeypatch.setenv("WANDB_PROJECT", "from-environment")
    assert parse(Config, "pretrain", []).project == "from-environment"
    assert parse(Config, "pretrain", ["--project", "from-flag"]).project == "from-flag"


def test_the_documents_defaults_are_kept() -> None:
    config = parse(Config, "pretrain", [])
    assert (config.project, config.log_train_freq) == ("bdh-training", 10)


def test_the_console_lines_are_the_documents_to_the_letter(capsys) -> None:
    """The second document's own example, followed by the time left; and the fourth document's lines."""
    console = Console()
    console.train(
        epoch=2, epochs=2, step=2900, iters=2969, loss=4.6319781, lr=5.0167e-8, grad_norm=0.82341,
        tokens_per_second=89233.7, mfu=0.02512, epoch_seconds=1.2, eta_seconds=6.0,
    )  # fmt: skip
    console.mean_loss(100, 3000, 2.7182818)
    console.validation(500, {"val/loss": 2.91204, "val/perplexity": 18.394, "val/accuracy": 0.4})
    assert capsys.readouterr().out.splitlines() == [
        "Epoch:[2/2](2900/2969) loss:4.631978 lr:0.000000050167 grad_norm:0.8234 tokens/s:89234 MFU:2.51% "
        "epoch_Time:0.0min ETA:0.10min",
        "Step: 100/3000 loss 2.72",
        "Step 500: val_loss=2.9120, val_ppl=18.39",
    ]


def test_the_mean_loss_is_that_of_exactly_the_last_log_freq_steps(trained, capsys) -> None:
    run = trained(steps=9, log_freq=4, log_train_freq=3, quiet=False)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Step: ")]
    assert lines == [f"Step: {end}/9 loss {sum(run.losses[end - 4 : end]) / 4:.3}" for end in (4, 8)]


def test_there_is_a_sample_at_the_very_end_whatever_the_period(trained, capsys) -> None:
    run = trained(steps=5, generate_freq=4, quiet=False)
    assert sorted({step for step, _, _ in run.texts}) == [4, 5]
    out = capsys.readouterr().out
    assert out.rindex("  sample: ") > out.rindex("Epoch:")


def test_the_console_line_is_the_documents_and_unknown_prints_as_a_dash(capsys) -> None:
    known = {"epoch": 1, "epochs": 2, "step": 10, "iters": 300, "lr": 1e-3, "loss": 2.5, "grad_norm": 0.5}
    unknown = dict.fromkeys(("tokens_per_second", "mfu", "epoch_seconds", "eta_seconds"))
    Console().train(**known, **unknown)
    line = capsys.readouterr().out.strip()
    assert CONSOLE_LINE.fullmatch(line)
    assert "tokens/s:- MFU:-% epoch_Time:-min" in line


def test_training_prints_plain_lines_at_the_logging_steps(trained, capsys) -> None:
    run = trained(steps=10, log_train_freq=5, eval_freq=10, quiet=False)
    out = capsys.readouterr().out
    lines = [line for line in out.splitlines() if line.startswith("Epoch:")]
    assert [CONSOLE_LINE.fullmatch(line) is not None for line in lines] == [True, True]
    assert f"loss:{sum(run.losses[:5]) / 5:.6f} " in lines[0], "the mean over the steps since the last line"
    assert re.search(r"^Step 10: val_loss=\d+\.\d{4}, val_ppl=\d+\.\d\d$", out, re.MULTILINE)
    assert all(c.isprintable() or c == "\n" for c in out)


def test_quiet_and_verbose_change_the_console_and_nothing_else(trained, capsys) -> None:
    quiet = trained(steps=4)
    assert len(capsys.readouterr().out.splitlines()) == 1
    verbose = trained(steps=4, quiet=False, verbose=True)
    assert capsys.readouterr().out.count("Step ") >= 4
    assert verbose.losses == quiet.losses
    assert [set(m) for _, m in verbose.logs] == [set(m) for _, m in quiet.logs]


def test_only_the_main_rank_prints(capsys) -> None:
    Console(is_main=False, level=2).say("hello", 0)
    assert capsys.readouterr().out == ""


def test_a_sample_cannot_send_control_characters_to_the_terminal() -> None:
    assert printable("a\x1b[31mb\nc") == "a\\x1b[31mb\\nc"


def test_a_sample_that_the_terminal_cannot_show_does_not_end_training() -> None:
    written = io.BytesIO()
    terminal = io.TextIOWrapper(written, encoding="ascii")
    Console(stream=terminal).samples({"a": "na\u00efve"})
    assert written.getvalue() == b"  sample: na\\xefve\n"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("command", ["eval --eval_examples 1 --eval_iters 1", "generate --prompt é --max_tokens 3"])
def test_a_result_that_nobody_reads_or_that_ascii_cannot_show_is_no_error(
    command: str, trained, monkeypatch, tmp_path: Path
) -> None:
    trained(out=str(tmp_path), steps=1, seq_len=128)
    words = [*command.split(), "--out", str(tmp_path), "--from_weight", "pretrain", "--threads", "1", "-q"]
    with (tmp_path / "out").open("w", encoding="ascii") as ascii_only:
        monkeypatch.setattr(sys, "stdout", ascii_only)
        assert main(words) == 0
    assert (tmp_path / "out").read_bytes().startswith((b"{", b"\\xe9"))
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as closed:
        monkeypatch.setattr(sys, "stdout", closed)
        assert main(words) == 0


def test_a_terminal_shows_how_far_it_is_and_a_file_gets_plain_lines() -> None:
    terminal, file = Terminal(), io.StringIO()
    for stream in (terminal, file):
        console = Console(stream=stream)
        console.progress(3, 12)
        console.say("a line")
    assert terminal.getvalue().startswith("\r[##########....")
    assert terminal.getvalue().endswith("\ra line\n")
    assert file.getvalue() == "a line\n"


@pytest.mark.parametrize(
    ("columns", "shown"), [(1, "100/200"), (13, "[#.] 100/200"), (20, "[####.....] 100/200"), (200, "[" + "#" * 20)]
)
def test_a_bar_never_wraps_however_narrow_the_terminal(columns: int, shown: str) -> None:
    bar = progress_bar(100, 200, columns)
    assert bar.startswith(shown)
    assert len(bar) <= max(7, min(50, columns - 1))


def test_an_error_does_not_stand_behind_the_bar(trained, monkeypatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr("trainer.console.REDRAW_SECONDS", 0)
    with monkeypatch.context() as failing:
        failing.setattr("trainer.loop.Loop._validate", lambda _: sys.exit(143))
        with pytest.raises(SystemExit):
            trained(steps=2, quiet=False)
    assert re.search(r"\r\[[#.]+\] \d/2\r +\r$", terminal.getvalue())


def test_an_output_that_was_closed_from_the_beginning_ends_nothing(trained, monkeypatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)  # As Python has it after >&-.
    assert trained(steps=2, quiet=False).finished == {}


def test_a_real_terminal_sees_the_bar_besides_the_lines_that_a_pipe_sees(
    tiny, trained, capsys, tmp_path: Path, repository: Path
) -> None:
    settings = {**tiny, "steps": 3, "log_train_freq": 1}
    settings.pop("quiet")
    command = [sys.executable, str(RUN_RECORDED), "pretrain", *flags_of(settings)]
    environment = {**os.environ, "RECORD_TO": str(tmp_path), "PYTHONPATH": str(repository)}
    ours, theirs = pty.openpty()
    with subprocess.Popen(command, cwd=repository, env=environment, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # A terminal that nobody has open any more ends with EIO.
            while part := os.read(ours, 4096):
                shown += part
    os.close(ours)
    assert process.returncode == 0
    assert re.search(rb"\r\[#+\.*\] \d/3", shown)
    assert b"\x1b" not in shown, "a bar needs no escape codes"
    trained(steps=3, log_train_freq=1, quiet=False)
    piped = capsys.readouterr().out
    assert "\r" not in piped

    def lines(text: str) -> list[str]:
        kept = (re.sub(r".*\r(?=.)", "", line.rstrip("\r")) for line in text.split("\n"))
        return [line.split(" ")[0].rstrip() for line in kept if line.strip()]

    assert lines(shown.decode()) == lines(piped), "the same lines, but for the figures of speed"


def test_training_goes_on_when_nobody_listens_any_more(tiny, tmp_path: Path, repository: Path) -> None:
    settings = {**tiny, "steps": 6, "verbose": True}
    settings.pop("quiet")
    command = [sys.executable, str(RUN_RECORDED), "pretrain", *flags_of(settings)]
    environment = {**os.environ, "RECORD_TO": str(tmp_path), "PYTHONPATH": str(repository)}
    with subprocess.Popen(
        command, cwd=repository, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        said = process.stderr.read().decode()
    assert (process.returncode, said) == (0, "")
    assert len(json.loads((tmp_path / "rank0.json").read_text())["steps"]) == 6


def test_two_ranks_train_the_model_that_one_rank_trains_with_twice_the_batch(
    tiny, trained, tmp_path, repository
) -> None:
    alone = trained(**{"steps": 6, "batch_size": 8, "out": str(tmp_path / "alone")})
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(RUN_RECORDED)]
    settings = {**tiny, "steps": 6, "batch_size": 4, "out": tmp_path / "pair"}
    done = recorded([*torchrun, "pretrain", *flags_of(settings)], tmp_path, repository)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("done:") == 1, "rank 0 alone speaks"
    files = [tmp_path / name / "pretrain" / "checkpoint_000006.pt" for name in ("alone", "pair")]
    pair = [torch.load(file, weights_only=True) for file in files]
    for name, weight in pair[0]["weights"].items():
        torch.testing.assert_close(pair[1]["weights"][name], weight, rtol=1e-3, atol=1e-4)
    ranks = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2)]
    assert [len(rank["steps"]) for rank in ranks] == [6, 6], "both ranks report every step"
    assert ranks[0]["steps"][0]["tokens"] == alone.steps[0]["tokens"] / 2
    assert [s["loss"] for s in ranks[0]["steps"]] != [s["loss"] for s in ranks[1]["steps"]], "each its own text"
    assert [bool(rank["logs"]) for rank in ranks] == [True, False]
    joined = sum(rank["steps"][0]["loss"] for rank in ranks) / 2
    assert joined == pytest.approx(alone.losses[0], rel=1e-4)


def test_a_rank_that_is_not_the_first_leaves_the_error_message_to_it(repository) -> None:
    single = {**os.environ, "RANK": "1", "PYTHONPATH": str(repository)}
    done = subprocess.run(
        [sys.executable, "-m", "trainer", "fly"], cwd=repository, env=single, capture_output=True, text=True
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (2, "")


def test_a_sigterm_during_imports_ends_the_process_as_it_always_does(monkeypatch) -> None:
    """An exception out of its handler may be lost there, and training would begin in spite of it."""
    heard: list[object] = []

    def handler(*_: object) -> None:
        heard.append(signal.getsignal(signal.SIGTERM))

    def imported(_: str) -> SimpleNamespace:
        handler()
        return SimpleNamespace(run_stage=handler)

    monkeypatch.setattr("trainer.__main__.importlib.import_module", imported)
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        assert main(["sft"]) == 0
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard[0] is signal.SIG_DFL
    assert callable(heard[1])


def test_sigterm_ends_the_run_with_its_last_words(tiny, tmp_path: Path, repository: Path) -> None:
    settings = {**tiny, "steps": 100_000, "verbose": True}
    settings.pop("quiet")
    environment = {**os.environ, "RECORD_TO": str(tmp_path), "PYTHONPATH": str(repository)}
    command = [sys.executable, str(RUN_RECORDED), "pretrain", *flags_of(settings)]
    with subprocess.Popen(command, cwd=repository, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("Step 2"):
                process.send_signal(signal.SIGTERM)
                break
        process.stdout.read()
    assert process.returncode == 143
    told = json.loads((tmp_path / "rank0.json").read_text())
    assert told["finished"] == {"state": "failed", "reason": "SystemExit"}


def test_a_checkpoint_is_whole_or_not_there(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "checkpoint_000001.pt"
    checkpoint.save(path, {"step": 1})
    before = path.read_bytes()
    monkeypatch.setattr(torch, "save", lambda state, file: file.write(b"half") and 1 / 0)
    with pytest.raises(ZeroDivisionError):
        checkpoint.save(path, {"step": 2})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_checkpoint_that_cannot_be_used_is_refused_in_one_line(trained, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no checkpoint at"):
        trained(resume=str(tmp_path))
    (tmp_path / "checkpoint_000009.pt").write_bytes(b"PK\x03\x04 not really")
    with pytest.raises(UserError, match="cannot be read|can be read"):
        trained(resume=str(tmp_path))
    torch.save({"some": "thing"}, tmp_path / "checkpoint_000010.pt")
    with pytest.raises(UserError, match="not a checkpoint of this version"):
        trained(resume=str(tmp_path))


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ({"n_layer": 2}, "model n_layer = 1, this run has 2"),
        ({"batch_size": 2}, "batch_size = 4"),
        ({"seed": 7}, "seed"),
        ({"data_bytes": 9000}, "dataset dataset/train_size = "),
    ],
)
def test_a_checkpoint_of_another_run_is_refused_by_name(trained, tmp_path: Path, flags, named) -> None:
    trained(steps=2, out=str(tmp_path))
    with pytest.raises(UserError, match=f"written with {named}"):
        trained(steps=4, resume=str(tmp_path), **flags)


def test_a_checkpoint_of_another_stage_is_refused_by_name(trained, tmp_path: Path) -> None:
    trained(steps=2, out=str(tmp_path))
    with pytest.raises(UserError, match="written with stage = pretrain, this run has sft") as caught:
        trained("sft", steps=4, resume=str(tmp_path / "pretrain"))
    assert "--from_weight" in caught.value.remedy


def test_resuming_what_is_already_done_is_refused(trained, tmp_path: Path) -> None:
    trained(steps=2, out=str(tmp_path))
    with pytest.raises(UserError, match="already at step 2 of 2"):
        trained(steps=2, resume=str(tmp_path))


@pytest.mark.parametrize("where", ["", "pretrain", "pretrain/checkpoint_000002.pt"])
def test_a_run_that_is_only_told_where_to_resume_goes_on_saving_there(
    where: str, trained, tiny, tmp_path: Path, monkeypatch
) -> None:
    begun: list[Recorder] = []
    trained(steps=2, out=str(tmp_path))
    monkeypatch.setattr(sidecar, "init", lambda **told: begun.append(Recorder(**told)) or begun[-1])
    flags = {**tiny, "steps": 6, "checkpoint_freq": 2, "resume": tmp_path / where}
    assert main(["pretrain", *flags_of({name: value for name, value in flags.items() if name != "quiet"})]) == 0
    assert [event["path"].relative_to(tmp_path) for event in begun[0].checkpoints] == [
        Path(f"pretrain/checkpoint_{step:06d}.pt") for step in (4, 6)
    ]
    assert json.loads((tmp_path / "runs.json").read_text())["run_number"] == 1


def test_the_stages_of_a_pipeline_that_is_only_told_where_to_resume_save_there(
    trained, tmp_path: Path, monkeypatch
) -> None:
    trained(steps=2, out=str(tmp_path), checkpoint_freq=1)
    (tmp_path / "pretrain" / "checkpoint_000002.pt").unlink()
    told: list[Config] = []
    monkeypatch.setattr("trainer.pipeline.train_stage", lambda name, config, *_: told.append(config))
    assert main(["pipeline", "--resume", str(tmp_path)]) == 0
    assert {config.out for config in told} == {str(tmp_path)}
    assert [config.resume for config in told] == [f"{tmp_path}/pretrain/checkpoint_000001.pt", *[None] * 4]
