"""What /status says of a run: its states, its sentence, its sums."""

import json
import math

import pytest

from sidecar import wire
from sidecar.derive.snapshot import snapshot
from sidecar.rows import Projector
from sidecar.snapshot import RunSnapshot, to_json
from tests.derive.stream import Process, Record, by_sidecar, projected

SECOND = 1_000_000_000


def seen(records: list[Record], *hellos: wire.Hello, after: float = 0.0) -> RunSnapshot:
    projector, _ = projected(records, *hellos)
    return snapshot(projector.state, now_ns=records[-1].received_ns + int(after * SECOND))


def steps(p: Process, count: int, **metrics: float) -> list[Record]:
    return [p.step(i, **metrics) for i in range(1, count + 1)]


def test_a_run_that_has_said_hello_is_starting() -> None:
    projector, _ = projected([], Process().hello(name="n", stage="sft"))
    shown = snapshot(projector.state, now_ns=Process().wall_ns + 3 * SECOND)
    assert (shown.state, shown.name, shown.stage, shown.elapsed_seconds) == ("starting", "n", "sft", 3.0)
    assert shown.verdict == "Starting: no step yet."


def test_a_running_run_says_where_it_is() -> None:
    p = Process()
    facts = {"params": 1000, "layers": 1, "heads": 1, "head_dim": 8, "seq_len": 8, "peak_flops": 1e8}
    shown = seen(steps(p, 120, loss=3.21, tokens=12_345), p.hello(total_steps=160, model_facts=facts))
    assert shown.verdict == (
        "Training: step 120 of 160, loss 3.21, 12.3k tokens/s, MFU 83.6 % (full attention); 40 s to go."
    )
    assert (shown.state, shown.step, shown.loss, shown.tokens) == ("running", 120, 3.21, 120 * 12_345)
    assert shown.progress.step_percent == 75.0


def test_silence_beyond_sixty_seconds_is_a_stall() -> None:
    p = Process()
    records = steps(p, 20)
    assert seen(records, p.hello(), after=59).state == "running"
    shown = seen(records, p.hello(), after=93)
    assert shown.state == "stalled"
    assert shown.verdict == "Stalled: no step for 93 s (limit 60 s) at step 20."
    assert (shown.steps_per_second, shown.goodput.seconds["stalled"]) == (0.0, pytest.approx(33.0))
    assert [alert.name for alert in shown.alerts] == ["stalled"]


def test_a_resumed_run_says_when_it_began_and_when_it_was_last_started() -> None:
    first, second = Process(session=2), Process(session=3, at=100.0)
    records = [first.step(1), second.step(2)]
    shown = snapshot(projected(records, first.hello(), second.hello())[0].state, now_ns=second.wall_ns)
    assert (shown.started_ns, shown.last_started_ns) == (first.started[0], second.started[0])


def test_a_resumed_run_says_what_its_time_to_go_waits_for() -> None:
    first, second = Process(), Process(session=8, at=60.0, mono=160.0)
    hello = first.hello(total_steps=100)
    records = [*steps(first, 20), second.step(21)]
    shown = seen(records, hello, second.hello(total_steps=100))
    assert (shown.eta.seconds, shown.eta.reason) == (None, "two steps are needed to know the speed")
    shown = seen([*records, second.step(22)], hello, second.hello(total_steps=100))
    assert (shown.eta.seconds, shown.eta.reason) == (78.0, None)


def test_no_time_to_go_is_promised_once_the_next_step_is_overdue() -> None:
    p = Process()
    records, hello = steps(p, 20), p.hello(total_steps=25)
    shown = seen(records, hello, after=4)
    assert (shown.verdict, shown.eta.seconds) == ("Training: step 20 of 25, 1 steps/s; 5 s to go.", 5.0)
    shown = seen(records, hello, after=12)
    assert (shown.state, shown.verdict) == ("running", "Training: step 20 of 25, 1 steps/s; no step for 12 s.")
    assert (shown.eta.seconds, shown.eta.reason) == (None, "the next step is overdue: none for 12 s")
    assert seen([*records, p.step(21, 12.0)], hello).eta.seconds is not None


@pytest.mark.parametrize(("step_seconds", "promised", "overdue"), [(0.01, 4, 6), (10.0, 49, 51)])
def test_what_is_overdue_follows_the_usual_step(step_seconds: float, promised: float, overdue: float) -> None:
    p = Process()
    records, hello = [p.step(i, step_seconds) for i in range(1, 21)], p.hello(total_steps=1000)
    assert seen(records, hello, after=promised).eta.seconds is not None
    assert seen(records, hello, after=overdue).eta.seconds is None


def test_an_evaluation_is_overdue_only_after_several_times_its_own_duration() -> None:
    p = Process()
    records, hello = steps(p, 20), p.hello(total_steps=1000)
    records.append(p.record(wire.PhaseEntered, name="evaluation"))
    assert seen(records, hello, after=200).eta.seconds is not None, "nobody knows yet how long it takes"
    records.append(p.record(wire.PhaseExited, 30.0, name="evaluation", seconds=30.0))
    assert seen(records, hello, after=4).eta.seconds is not None, "the evaluation's end counts"
    assert seen(records, hello, after=6).eta.reason == "the next step is overdue: none for 36 s"
    records += [p.step(21), p.record(wire.PhaseEntered, name="evaluation")]
    assert seen(records, hello, after=150).eta.seconds is not None
    shown = seen(records, hello, after=200)
    assert shown.state == "running"
    assert shown.verdict.endswith(", now in evaluation; no step for 200 s.")


def test_slow_steps_have_a_longer_limit() -> None:
    p = Process()
    records = [p.step(i, 30.0) for i in range(20)]
    assert seen(records, p.hello(), after=149).state == "running"
    assert seen(records, p.hello(), after=151).state == "stalled"


def test_an_evaluation_may_be_silent_five_times_as_long() -> None:
    p = Process()
    records = [*steps(p, 20), p.record(wire.PhaseEntered, name="evaluation")]
    shown = seen(records, p.hello(), after=299)
    assert (shown.state, shown.phase, shown.stall_limit_seconds) == ("running", "evaluation", 300.0)
    assert shown.goodput.seconds["evaluation"] == 299.0
    assert "last in evaluation" in seen(records, p.hello(), after=301).verdict


def test_before_the_first_step_silence_may_last_five_minutes() -> None:
    p = Process()
    records = [p.record(wire.Log, metrics={"a": 1.0})]
    assert seen(records, p.hello(), after=299).state == "starting"
    assert seen(records, p.hello(), after=301).state == "stalled"


def test_a_stall_before_the_first_step_is_an_alert_too() -> None:
    p = Process()
    shown = seen([p.record(wire.Log, metrics={"a": 1.0})], p.hello(), after=301)
    assert [(alert.name, alert.message) for alert in shown.alerts] == [("stalled", "no first step yet (limit 300 s)")]


def test_after_a_long_evaluation_the_silence_counts_from_its_end() -> None:
    p = Process()
    records = [*steps(p, 20), p.record(wire.PhaseEntered, name="evaluation")]
    records.append(p.record(wire.PhaseExited, 200.0, name="evaluation", seconds=200.0))
    shown = seen(records, p.hello(), after=59)
    assert (shown.state, shown.last_step_age_seconds) == ("running", 259.0)
    assert seen(records, p.hello(), after=61).state == "stalled"


def test_while_no_step_time_is_known_the_second_step_may_take_as_long_as_the_first() -> None:
    p = Process()
    records = [p.step(0, 10.0)]
    assert seen(records, p.hello(), after=299).state == "running"
    assert seen(records, p.hello(), after=301).state == "stalled"
    shown = seen([*records, p.step(1, 120.0)], p.hello())
    assert (shown.goodput.seconds["step_productive"], shown.goodput.seconds["stalled"]) == (120.0, 0.0)


def test_a_restarted_trainer_has_the_limit_of_the_steps_before() -> None:
    first, second = Process(session=1), Process(session=2, at=1000.0)
    records = [first.step(i, 100.0) for i in range(5)]
    hellos = first.hello(), second.hello()
    assert seen([*records, second.step(5, 10.0)], *hellos, after=499).state == "running"
    assert seen([*records, second.step(5, 10.0)], *hellos, after=501).state == "stalled"


def test_a_heartbeat_of_logs_is_no_progress() -> None:
    p = Process()
    records = [*steps(p, 20), *(p.record(wire.Log, 10.0, metrics={"a": 1.0}) for _ in range(8))]
    assert seen(records, p.hello()).state == "stalled"


def test_a_rank_that_only_logs_neither_hides_a_stall_nor_prolongs_it() -> None:
    worker, logger = Process(0, 1), Process(1, 2)
    records = [logger.record(wire.Log, metrics={"a": 1.0}), *steps(worker, 20)]
    records += [logger.record(wire.Log, 10.0, metrics={"a": 1.0}) for _ in range(9)]
    shown = seen(records, worker.hello(world_size=2), logger.hello(world_size=2))
    assert (shown.state, shown.stall_limit_seconds) == ("stalled", 60.0)


def test_the_end_of_a_run_and_how_it_came() -> None:
    p = Process()
    records = steps(p, 5, loss=2.0)
    done = seen([*records, p.record(wire.Finished)], p.hello(total_steps=5), after=1000)
    assert (done.state, done.verdict) == ("finished", "Finished at step 5 of 5, loss 2, 1 steps/s.")
    assert done.elapsed_seconds == 5.0
    assert done.eta.seconds is None
    failed = seen([*records, p.record(wire.Finished, state="failed", reason="OOM")], p.hello())
    assert failed.verdict == "Failed at step 5: OOM."
    lost = seen([*records, by_sidecar(wire.RankEnded(0, 0, rank=0, session=7))], p.hello())
    assert lost.verdict == "Lost: the trainer process is gone without saying goodbye at step 5."


def command_ended(p: Process, exit_code: int = 3) -> Record:
    reason = f"the command ended with exit code {exit_code}"
    return by_sidecar(wire.RankEnded(0, 0, rank=p.rank, session=p.session, reason=reason, exit_code=exit_code))


def test_an_exit_code_makes_a_failure_of_a_goodbye_and_adds_to_what_else_is_known() -> None:
    p = Process()
    records = steps(p, 5)
    good = [*records, p.record(wire.Finished)]
    shown = seen([*good, command_ended(p)], p.hello())
    assert (shown.state, shown.exit_code) == ("failed", 3)
    assert shown.verdict == "Failed at step 5: the command ended with exit code 3."
    assert (shown.ranks[0].state, shown.ranks[0].exit_code) == ("failed", 3)
    shown = seen([*records, p.record(wire.Finished, state="failed", reason="OOM"), command_ended(p, 1)], p.hello())
    assert (shown.state, shown.verdict, shown.exit_code) == ("failed", "Failed at step 5: OOM.", 1)
    shown = seen([*records, by_sidecar(wire.RankEnded(0, 0, rank=0, session=7)), command_ended(p)], p.hello())
    assert (shown.state, shown.exit_code) == ("lost", 3)
    assert shown.verdict == (
        "Lost: the trainer process is gone without saying goodbye at step 5; the command ended with exit code 3."
    )


def test_an_exit_code_ends_no_process_that_lives_on_and_none_that_came_after() -> None:
    first, second = Process(), Process(session=8, at=60.0, mono=160.0)
    assert seen([*steps(first, 5), command_ended(first)], first.hello()).state == "running"
    records = [*steps(first, 5), first.record(wire.Finished), command_ended(first), second.step(6)]
    shown = seen(records, first.hello(), second.hello())
    assert (shown.state, shown.exit_code, shown.ranks[0].exit_code) == ("running", None, None)
    shown = seen([*records, second.record(wire.Finished), command_ended(first)], first.hello(), second.hello())
    assert (shown.state, shown.exit_code) == ("finished", None)


def test_a_rank_that_failed_is_named_beside_those_that_were_terminated_for_it() -> None:
    ranks = [Process(0, 1), Process(1, 2)]
    records = [p.step(1) for p in ranks] + [ranks[1].record(wire.Finished, state="failed", reason="ValueError")]
    records += [by_sidecar(wire.RankEnded(0, 0, rank=0, session=1)), *(command_ended(p, 1) for p in ranks)]
    assert seen(records, *(p.hello(world_size=2) for p in ranks)).verdict == (
        "Lost: rank 0 is gone without saying goodbye at step 1; rank 1 failed: ValueError;"
        " the command ended with exit code 1."
    )


def test_one_lost_rank_of_two_is_an_alert_while_the_other_goes_on() -> None:
    ranks = [Process(0, 1), Process(1, 2)]
    records = [r for i in range(5) for r in (ranks[0].step(i), ranks[1].step(i))]
    shown = seen([*records, by_sidecar(wire.RankEnded(0, 0, rank=1, session=2), ranks[0].wall_ns)],
                 *(p.hello(world_size=2) for p in ranks))
    assert shown.state == "running"
    assert "Rank 1 is gone." in shown.verdict
    assert [(alert.name, alert.severity) for alert in shown.alerts] == [("rank_lost", "critical")]
    assert [rank.state for rank in shown.ranks] == ["running", "lost"]


def test_a_rank_that_stops_reporting_while_the_others_go_on_is_an_alert() -> None:
    ranks = [Process(0, 1), Process(1, 2)]
    records = [p.step(0) for p in ranks] + [ranks[0].step(step, 10.0) for step in range(1, 12)]
    shown = seen(records, *(p.hello(world_size=2) for p in ranks))
    assert [(alert.name, alert.step) for alert in shown.alerts] == [("rank_silent", 0)]
    records += [ranks[1].step(step, 0.1) for step in range(1, 13)]
    assert seen(records, *(p.hello(world_size=2) for p in ranks)).alerts == []


def test_several_lost_ranks_are_named_in_the_verdict() -> None:
    ranks = [Process(rank, 1 + rank) for rank in range(3)]
    records = [p.step(1) for p in ranks]
    records += [by_sidecar(wire.RankEnded(0, 0, rank=p.rank, session=p.session), p.wall_ns) for p in ranks]
    hellos = [p.hello(world_size=3) for p in ranks]
    assert "Ranks 0, 1 are gone." in seen(records[:-1], *hellos).verdict
    assert seen(records, *hellos).verdict.startswith("Lost: ranks 0, 1, 2 are gone without saying goodbye")


def test_states_of_time_are_exclusive_and_sum_to_elapsed() -> None:
    p = Process()
    records = []
    for i in range(1, 11):
        records.append(p.step(i, 1.0, phases={"data_wait": 0.25, "forward": 0.5}))
    records += [p.record(wire.PhaseEntered, 0.5, name="checkpoint"),
                p.record(wire.PhaseEntered, 0.5, name="sampling"),
                p.record(wire.PhaseExited, 1.0, name="sampling", seconds=1.0),
                p.record(wire.PhaseExited, 0.5, name="checkpoint", seconds=2.0), p.step(11, 0.5)]
    shown = seen(records, p.hello())
    seconds = {state: s for state, s in shown.goodput.seconds.items() if s}
    assert seconds == {"init": 0.25, "step_productive": pytest.approx(8.25), "data_wait": 2.5, "checkpoint": 2.0}
    assert sum(seconds.values()) == shown.elapsed_seconds == 13.0
    assert shown.goodput.ratio == pytest.approx(8.25 / 13)
    assert shown.phases["sampling"].seconds_total == 1.0
    assert shown.phases["data_wait"].count == 10


def test_a_wall_clock_that_jumps_leaves_the_ledger_alone() -> None:
    p = Process()
    records = steps(p, 5)
    p.wall_ns += 10**15
    records.append(p.step(6))
    assert seen(records, p.hello()).elapsed_seconds == 6.0


def test_state_counters_do_not_go_back_when_a_step_ends() -> None:
    p = Process()
    projector, _ = projected(steps(p, 3), p.hello())
    before = snapshot(projector.state, now_ns=p.wall_ns + SECOND).goodput.seconds
    projector.feed(p.step(4, 1.0))
    after = snapshot(projector.state, now_ns=p.wall_ns).goodput.seconds
    assert all(after[state] >= before[state] for state in before)


def energy(p: Process, *readings: tuple[dict[str, object], ...], uuids: tuple[str, ...] = ()) -> float | None:
    return hardware(p, *readings, uuids=uuids).energy_joules


def hardware(p: Process, *readings: tuple[dict[str, object], ...], uuids: tuple[str, ...] = ()) -> RunSnapshot:
    """Of a run whose process has pid 70, after these readings of the machine's GPUs."""
    first = p.step(1, 20.0)
    records = [by_sidecar(wire.Hardware(p.wall_ns, 0, gpus=list(gpus)), p.wall_ns) for gpus in readings]
    return seen([first, *records], p.hello(pid=70, gpu_uuids=list(uuids)))


def gpu(uuid: str, joules: float, *trainers: int | None, **more: object) -> dict[str, object]:
    processes = [{"pid": 900 + n} | ({"trainer_pid": pid} if pid else {}) for n, pid in enumerate(trainers)]
    return {"uuid": uuid, "energy_joules": joules, "processes": processes, **more}


def test_energy_is_of_the_gpus_on_which_processes_of_the_run_were_seen() -> None:
    before = (gpu("A", 100.0), gpu("B", 200.0), gpu("C", 300.0))
    during = (gpu("A", 110.0, 70), gpu("B", 220.0, 71, 70), gpu("C", 340.0, 71, None))
    after = (gpu("A", 111.0), gpu("B", 222.0), gpu("C", 344.0))
    assert energy(Process(), before, during) == 10.0 + 20.0
    assert energy(Process(), before, during, after) == 11.0 + 22.0, "they stay its GPUs when a process has ended"
    assert energy(Process(), before, during, uuids=("C",)) == 10.0 + 20.0 + 40.0, "the run says that it has it"


def test_energy_is_of_all_gpus_while_none_is_known_to_be_of_the_run() -> None:
    before, after = (gpu("A", 100.0), gpu("B", 200.0)), (gpu("A", 110.0, 71, None), gpu("B", 220.0))
    assert energy(Process(), before, after) == 30.0
    assert energy(Process(), before, after, uuids=("A",)) == 30.0, "a process may say one GPU and use several"
    assert energy(Process(), ({"uuid": "A", "energy_joules": 1.0},), ({"uuid": "A", "energy_joules": 3.0},)) == 2.0


@pytest.mark.parametrize("has_stepped", [False, True])
def test_energy_never_goes_back_when_it_becomes_known_whose_gpus_they_are(has_stepped: bool) -> None:
    """While the model loads, NVML lists no process of the run: all other GPUs would count, and then not any more. After
    a first step that comes at once it does, but it takes a second until it is known that they are the run's."""
    p = Process()
    first = p.step(1, 0.1) if has_stepped else p.record(wire.PhaseEntered, name="init")
    loading = [(gpu("A", 100.0 + n), gpu("B", 900.0 * n, 71)) for n in range(3)]
    training = [(gpu("A", 110.0 + n, 70), gpu("B", 9000.0 * n, 71)) for n in range(2)]
    projector = Projector("run")
    projector.greet(p.hello(pid=70), p.wall_ns)
    records = [first, *(
        by_sidecar(wire.Hardware(p.wall_ns, 0, gpus=list(gpus)), p.wall_ns) for gpus in (*loading, *training))]
    shown = []
    for record in records:
        projector.feed(record)
        shown.append(snapshot(projector.state, now_ns=p.wall_ns).energy_joules)
    assert shown == [None] * 4 + [10.0, 11.0]


def test_a_run_that_ended_without_a_step_has_used_the_energy_of_all_gpus() -> None:
    p = Process()
    readings = [by_sidecar(wire.Hardware(p.wall_ns, 0, gpus=[gpu("A", joules)]), p.wall_ns) for joules in (1.0, 3.0)]
    shown = seen([p.record(wire.Log, metrics={"val/loss": 1.0}), *readings, p.record(wire.Finished)], p.hello())
    assert shown.energy_joules == 2.0


def test_each_gpu_says_whether_its_energy_counts_as_the_runs() -> None:
    before, during = (gpu("A", 100.0), gpu("B", 200.0)), (gpu("A", 110.0, 70), gpu("B", 220.0, 71))
    after = (gpu("A", 111.0), gpu("B", 222.0))
    for readings, expected in (((before,), [True, True]), ((before, during), [True, False]),
                               ((before, during, after), [True, False])):
        assert [each["attributed"] for each in hardware(Process(), *readings).gpus] == expected
    assert [each["attributed"] for each in hardware(Process(), before, during, uuids=("B",)).gpus] == [True, True]


def test_a_mig_slice_stands_for_its_gpu() -> None:
    slices = {"uuid": "A-1", "parent_uuid": "A", "processes": [{"pid": 900, "trainer_pid": 70}]}
    before, after = (gpu("A", 100.0), slices, gpu("B", 200.0)), (gpu("A", 110.0), slices, gpu("B", 220.0))
    assert energy(Process(), before, after) == 10.0
    shown = {each["uuid"]: each["attributed"] for each in hardware(Process(), before, after).gpus}
    assert shown == {"A": True, "A-1": True, "B": False}


def test_json_has_null_and_a_state_where_a_value_is_not_finite() -> None:
    p = Process()
    records = [p.step(1, loss=2.0, grad_norm=1.0), p.step(2, loss=math.nan, grad_norm=math.inf),
               p.record(wire.Log, step=2, metrics={"val/loss": -math.inf, "x": math.nan})]
    shown = json.loads(to_json(seen(records, p.hello())), parse_constant=pytest.fail)
    assert (shown["loss"], shown["loss_state"]) == (None, "nan")
    assert (shown["grad_norm"], shown["grad_norm_state"]) == (None, "inf")
    assert shown["metrics"]["val/loss"] | {"age_seconds": 0} == {
        "value": None, "state": "-inf", "step": 2, "age_seconds": 0, "unit": "nats"}
    assert shown["perplexity"] is None
    assert "loss is nan" in shown["verdict"]


def test_validation_values_are_found_by_their_short_names() -> None:
    p = Process()
    shown = seen([p.step(1), p.record(wire.Log, step=1, metrics={"val/loss": 2.0, "val/accuracy": 0.5})], p.hello())
    assert shown.val == {"loss": 2.0, "accuracy": 0.5, "perplexity": math.exp(2.0)}


def test_datasets_show_shares_coverage_and_passes() -> None:
    p = Process()
    records = [p.step(i, datasets={"a": (3, 30), "b": (1, 70)}) for i in range(10)]
    records.append(p.record(wire.Consumed, datasets={"b": (10, 0)}))
    shown = seen(records, p.hello(model_facts={"dataset_sizes": {"a": 20}, "dataset_ratios": {"a": 0.7}}))
    a, b = shown.dataset.mixture["a"], shown.dataset.mixture["b"]
    assert shown.dataset.current == "b"
    assert (a.samples, a.tokens, a.ratio, a.coverage, a.epochs, a.target_ratio) == (30, 300, 0.6, 1.5, 1, 0.7)
    assert (b.coverage, b.size, b.epochs) == (None, None, None)
    assert math.isclose(sum(view.ratio or 0 for view in shown.dataset.mixture.values()), 1.0, abs_tol=1e-9)


def test_hardware_is_shown_as_it_was_read_and_energy_counts_from_the_start() -> None:
    p = Process()
    readings = [100.0, 150.0, 20.0, 60.0]  # The driver was loaded again in between.
    records = [p.step(1, 20.0)]
    for joules in readings:
        gpus = [{"uuid": "G1", "index": 0, "energy_joules": joules, "power_watts": 300.0}]
        records.append(by_sidecar(wire.Hardware(p.wall_ns, 0, host={"cpu_percent": 12.0}, gpus=gpus), p.wall_ns))
    shown = seen(records, p.hello())
    assert shown.energy_joules == 50.0 + 40.0
    assert shown.gpus[0]["power_watts"] == 300.0
    assert (shown.gpu.available, shown.host["cpu_percent"]) == (True, 12.0)


def test_without_a_gpu_there_is_a_reason_and_no_zero() -> None:
    p = Process()
    shown = seen(steps(p, 2), p.hello())
    assert (shown.gpus, shown.energy_joules, shown.gpu.available) == ([], None, False)
    assert shown.gpu.reason


def test_what_is_not_known_is_null() -> None:
    p = Process()
    shown = seen(steps(p, 1), p.hello())
    for field in ("loss", "learning_rate", "grad_norm", "tokens", "tokens_total", "samples", "flops", "epoch",
                  "tokens_per_second", "perplexity", "total_steps", "energy_joules"):
        assert getattr(shown, field) is None, field
    assert shown.eta.reason == "total_steps is not known"


def test_a_published_snapshot_does_not_change_when_the_run_goes_on() -> None:
    p = Process()
    projector, _ = projected([*steps(p, 5, loss=1.0), p.step(6, datasets={"a": (1, 1)}, phases={"forward": 0.1})],
                             p.hello(config={"a": 1}))
    shown = snapshot(projector.state, now_ns=p.wall_ns)
    before = to_json(shown)
    for record in (p.step(7, loss=9.0, datasets={"a": (1, 1)}, phases={"forward": 0.1}),
                   p.record(wire.ConfigChanged, config={"b": 2}), p.record(wire.ClientReport, rejected={"x": 1})):
        projector.feed(record)
    assert to_json(shown) == before


def test_percentiles_and_histogram_of_the_step_time() -> None:
    p = Process()
    shown = seen([p.step(i, 2.0 if i == 50 else 0.02) for i in range(101)], p.hello())
    assert shown.step_time.p50_seconds == pytest.approx(0.02)
    assert shown.step_time.p99_seconds is not None
    assert shown.step_time.p99_seconds < 2.0
    histogram = dict(zip([*shown.step_histogram.bounds_seconds, math.inf], shown.step_histogram.counts, strict=True))
    assert {bound: n for bound, n in histogram.items() if n} == {0.025: 99, 2.5: 1}
    assert shown.step_histogram.sum_seconds == pytest.approx(2.0 + 99 * 0.02)
