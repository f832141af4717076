"""Banner, progress line, card and screen: what they say, and that they fit."""

import shlex

import pytest
from fake_service import STATUS

from sidecar import banner, screen
from sidecar.card import card, sync_command
from sidecar.config import load
from sidecar.live import Live

CONFIG = load({"dir": "/data"}, {}).config
LIVE = Live(http="http://127.0.0.1:9797", events="ipc:///x", pid=7)


def test_banner_has_six_lines_whatever_the_sinks() -> None:
    lines = banner.banner(CONFIG, LIVE, "r1", ["a: ok", "b: failing (why)"], ours=True, environ={})
    assert len(lines) == 6
    assert lines[4] == "sinks    a: ok; b: failing (why)"


def test_banner_says_that_the_port_was_taken_only_of_a_sidecar_that_it_started() -> None:
    elsewhere = Live(http="http://127.0.0.1:4242", events="ipc:///x", pid=7)
    for ours, taken in ((True, True), (False, False)):
        page = banner.banner(CONFIG, elsewhere, "r1", [], ours=ours, environ={})[2]
        assert ("port 9797 was taken" in page) is taken


def test_banner_on_a_remote_host_has_the_tunnel_ready_to_paste() -> None:
    lines = banner.banner(CONFIG, LIVE, "r1", [], ours=True, environ={"SSH_CONNECTION": "x"})
    assert "ssh -L 9797:127.0.0.1:9797" in lines[2]


def test_progress_is_one_line_and_silent_before_the_first_step() -> None:
    assert banner.progress({}) is None
    assert banner.progress({"state": "starting", "step": None}) is None
    line = banner.progress(STATUS | {"state": "running", "eta": {"seconds": 65}})
    assert line == "sidecar: step 20/20 (100 %) | loss 2.5 | 1.23k tokens/s | MFU 31.2 % | ETA 1:05"


def test_progress_says_nan_and_does_not_fail_on_it() -> None:
    line = banner.progress(STATUS | {"loss": None, "loss_state": "nan"})
    assert line is not None
    assert "loss nan" in line


def test_card_has_at_most_twenty_lines_and_leaves_out_what_is_unknown() -> None:
    many = {f"sink{n}": {"state": "failing", "reason": "x"} for n in range(40)}
    assert len(card(CONFIG, STATUS | {"run_id": "r", "sinks": many}, 4.0, None)) == 20
    lines = card(CONFIG, {"run_id": "r", "state": "failed", "verdict": "It failed."}, None, None)
    assert not any("None" in line for line in lines)
    assert not any(line.startswith(("loss", "goodput", "lost", "tokens")) for line in lines)


def test_card_names_the_reason_when_mfu_is_unknown() -> None:
    unknown = {"percent": None, "reason": "no peak known for 'X'"}
    lines = card(CONFIG, STATUS | {"run_id": "r", "mfu": unknown}, None, None)
    assert "MFU      unknown: no peak known for 'X'" in lines


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (65.4, "1:05"), (3725, "1:02:05"), (90000, "25:00:00")])
def test_clock(seconds: float, text: str) -> None:
    assert banner.clock(seconds) == text


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0"), (999, "999"), (1234.5, "1.23k"), (20480, "20.5k"), (1e12, "1T"), (0.5, "0.5")]
)
def test_human(number: float, text: str) -> None:
    assert banner.human(number) == text


def test_screen_fits_and_lets_no_name_steer_the_terminal() -> None:
    status = STATUS | {"project": "evil\x1b[2J", "verdict": "Training: " + "x" * 300, "state": "running"}
    lines = screen.draw(status, [3.0, 2.0, 1.0], columns=80, rows=10, colour=False)
    assert len(lines) <= 10
    assert all(len(line) <= 80 and line.isprintable() for line in lines)


def test_screen_of_nothing_is_no_error() -> None:
    assert screen.draw({}, [], columns=80, rows=24, colour=True)


def test_sparkline_is_as_high_as_the_values_and_flat_for_equal_ones() -> None:
    assert screen.sparkline([1, 2, 3], 10) == "▁▅█"
    assert screen.sparkline([2, 2], 10) == "▁▁"
    assert screen.sparkline([], 10) == ""
    assert len(screen.sparkline(list(range(100)), 10)) == 10


def test_card_has_the_sync_command_only_when_something_is_unsent() -> None:
    def sync(**health: object) -> str | None:
        return sync_command(CONFIG, "r1", {"sinks": {"wandb": health}})

    assert sync(state="ok", lag_events=0) is None
    assert sync_command(CONFIG, "r1", {}) is None
    assert sync(state="disabled") is None
    assert sync(state="offline") == "sidecar sync r1 --dir /data"
    assert sync(state="ok", lag_events=3) is not None


@pytest.mark.parametrize(("code", "text"), [(0, None), (3, "exit code 3"), (137, "exit code 137 (SIGKILL)")])
def test_card_says_with_what_the_command_ended_unless_it_ended_well(code: int, text: str | None) -> None:
    lines = card(CONFIG, STATUS | {"run_id": "r", "state": "finished"}, 4.0, None, code)
    assert [line for line in lines if line.startswith("command")] == ([f"command  ended with {text}"] if text else [])


def test_commands_of_the_card_can_be_pasted_into_a_shell() -> None:
    config = load({"dir": "/my data/it's"}, {}).config
    lines = card(config, STATUS | {"run_id": "a b"}, None, sync_command(config, "a b", {"sinks": {"wandb": {}}}))
    (line,) = [line for line in lines if line.startswith("export")]
    assert shlex.split(line)[1:6] == ["sidecar", "export", "a b", "--dir", "/my data/it's"]
    assert sync_command(config, "a b", {"sinks": {"wandb": {"state": "offline"}}}) == (
        "sidecar sync 'a b' --dir '/my data/it'\"'\"'s'"
    )


def test_banner_says_why_wandb_is_offline_before_the_run_has_begun() -> None:
    config = load({"sinks": "wandb"}, {}).config
    assert banner.sink_lines(config, {}, {"WANDB_MODE": "offline"}) == ["wandb: offline: WANDB_MODE=offline"]
    assert banner.sink_lines(config, {}, {"NETRC": "/nowhere"})[0].startswith("wandb: offline: no key")
    assert banner.sink_lines(config, {}, {"WANDB_API_KEY": "k" * 40}) == ["wandb: online"]


def test_the_card_says_of_a_sink_that_never_started_no_more_than_that() -> None:
    config = load({"sinks": "wandb"}, {}).config
    idle = {"wandb": {"state": "starting", "lag_events": 0}}
    for sinks, words in (({}, "did not start"), (idle, "had nothing to send")):
        lines = card(config, STATUS | {"run_id": "r", "sinks": sinks}, 4.0, None)
        assert f"sink     wandb: {words}" in lines


def test_a_sink_with_a_page_of_its_own_is_shown_with_the_link() -> None:
    health = {"state": "ok", "reason": "W&B initialized: demo/d12", "url": "https://w.example/team/demo/runs/r1"}
    status = {"sinks": {"wandb": health, "jsonl": {"state": "ok", "reason": None, "url": None}}}
    line = "W&B initialized: demo/d12 https://w.example/team/demo/runs/r1"
    assert banner.links(status) == [line]
    assert banner.links({"sinks": {"wandb": health | {"state": "failing"}}}) == banner.links({}) == []
    config = load({"sinks": "wandb"}, {}).config
    assert banner.sink_lines(config, status, {})[0] == (
        "wandb: ok (W&B initialized: demo/d12) https://w.example/team/demo/runs/r1"
    )


def test_card_says_mfu_over_the_whole_run_where_it_can_be_known() -> None:
    denominator = {"peak_flops_per_device": 1e12, "devices": 2}
    mfu = STATUS["mfu"] | {"denominator": denominator}  # type: ignore[operator]
    lines = card(CONFIG, STATUS | {"run_id": "r", "mfu": mfu, "flops": 5e12, "training_seconds": 10.0}, 4.0, None)
    assert any(line.startswith("MFU      25.0 % over the run, 31.2 % at the end (full attention)") for line in lines)
