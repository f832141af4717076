"""Resuming: progress goes back to the checkpoint, lifetime counters never do."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar import wire
from sidecar.derive.snapshot import snapshot
from tests.derive.stream import Process, Record, by_sidecar, derived, projected


def run_of(process: Process, first: int, last: int, tokens: int = 64) -> list[Record]:
    return [process.step(i, 0.5, loss=2.0, tokens=tokens, samples=4, phases={"forward": 0.5})
            for i in range(first, last + 1)]


def test_killed_at_120_and_resumed_from_100_matches_an_uninterrupted_run() -> None:
    whole = Process(session=1)
    _, expected = projected(run_of(whole, 1, 200), whole.hello())
    first, second = Process(session=2), Process(session=3, at=300.0, mono=5.0)
    records = [*run_of(first, 1, 120), *run_of(second, 101, 200)]
    projector, rows = projected(records, first.hello(), second.hello())
    want, have = derived(expected)[200], derived(rows)[200]
    for name in ("train/num_input_tokens_seen", "train/total_training_time_seconds", "train/global_step"):
        assert have[name] == want[name], name
    state = projector.state
    assert state.tokens_total == 220 * 64
    assert (state.rework_steps, state.steps_total, state.restarts) == (20, 220, 1)


def test_flops_sent_step_by_step_go_back_with_the_tokens() -> None:
    first, second = Process(session=2), Process(session=3, at=300.0)
    records = [first.raw_step(i, {"train/flops": 1e12, "train/num_tokens": 10}) for i in range(1, 11)]
    records += [second.raw_step(i, {"train/flops": 1e12, "train/num_tokens": 10}) for i in range(6, 9)]
    projector, rows = projected(records, first.hello(), second.hello())
    assert derived(rows)[8]["train/flops_total"] == 8e12
    assert (projector.state.tokens, projector.state.flops_total) == (80, 13e12)


def test_a_process_that_greeted_only_and_is_gone_is_its_rank_unless_the_rank_has_spoken() -> None:
    spoke, silent = Process(0, 1), Process(1, 2)
    ended = wire.RankEnded(0, 0, rank=1, session=2, reason="gone")
    projector, _ = projected([spoke.step(0), by_sidecar(ended)], spoke.hello(), silent.hello(host="h1"))
    assert {number: (rank.state, rank.host) for number, rank in projector.state.ranks.items()} == {
        0: ("running", None), 1: ("lost", "h1")}
    assert snapshot(projector.state, now_ns=spoke.wall_ns).state == "running"

    second = Process(0, 3, at=9.0)
    ended = wire.RankEnded(0, 0, rank=0, session=3, reason="gone")
    projector, _ = projected([spoke.step(0), by_sidecar(ended)], spoke.hello(), second.hello())
    assert projector.state.ranks[0].state == "running"


def test_a_rewind_is_exact_at_an_old_checkpoint_even_with_uneven_steps() -> None:
    first, second = Process(session=2), Process(session=3, at=9000.0)
    records, expected = [], 0
    for step in range(1, 6001):
        tokens = 10 + step % 7
        records.append(first.step(step, 0.5, tokens=tokens))
        if step <= 500:
            expected += tokens
        if step == 500:
            records.append(first.record(wire.Checkpoint, step=500))
    records.append(second.step(501, 0.5, tokens=3))
    projector, _ = projected(records, first.hello(), second.hello())
    assert projector.state.tokens == expected + 3


def test_a_rewind_to_a_step_whose_mark_was_thinned_out_shares_evenly() -> None:
    first, second = Process(session=2), Process(session=3, at=9000.0)
    records = [*run_of(first, 1, 6000), *run_of(second, 124, 124)]
    projector, _ = projected(records, first.hello(), second.hello())
    assert projector.state.tokens == 124 * 64


def test_a_fresh_start_of_the_same_run_begins_at_nothing() -> None:
    first, second = Process(session=2), Process(session=3, at=100.0)
    projector, _ = projected([*run_of(first, 1, 20), *run_of(second, 1, 5)], first.hello(), second.hello())
    assert projector.state.tokens == 5 * 64
    assert projector.state.tokens_total == 25 * 64


def test_going_on_after_the_last_step_is_not_rework() -> None:
    first, second = Process(session=2), Process(session=3, at=100.0)
    projector, _ = projected([*run_of(first, 1, 20), *run_of(second, 21, 30)], first.hello(), second.hello())
    assert projector.state.tokens == 30 * 64
    assert projector.state.rework_steps == 0


def test_datasets_go_back_with_the_checkpoint_and_their_lifetime_counts_do_not() -> None:
    first, second = Process(session=2), Process(session=3, at=100.0)
    records = [first.step(i, datasets={"a": (2, 10)}) for i in range(1, 11)]
    records += [second.step(i, datasets={"a": (2, 10)}) for i in range(6, 11)]
    projector, _ = projected(records, first.hello(), second.hello())
    assert projector.state.datasets == {"a": (20, 100)}
    assert projector.state.datasets_total == {"a": (30, 150)}


def test_two_ranks_restarting_together_are_one_restart_and_join_with_each_other() -> None:
    old = [Process(rank, 10 + rank) for rank in (0, 1)]
    new = [Process(rank, 20 + rank, at=60.0) for rank in (0, 1)]
    records = []
    for step in range(1, 11):
        records += [process.step(step, tokens=8) for process in old]
    records.append(old[0].step(11, tokens=8))  # Rank 1 died before its step 11.
    for process in old:
        records.append(by_sidecar(wire.RankEnded(0, 0, rank=process.rank, session=process.session)))
    for step in range(6, 16):
        records += [process.step(step, tokens=8) for process in reversed(new)]
    projector, rows = projected(records, *(p.hello(world_size=2) for p in [*old, *new]))
    assert [row.step for row in rows if row.kind == "derived"] == [*range(1, 12), *range(6, 16)]
    state = projector.state
    assert (state.restarts, state.attempt) == (1, 2)
    assert state.tokens == 15 * 16
    assert state.tokens_total == 21 * 8 + 20 * 8


def test_a_rank_that_restarts_alone_joins_the_others_where_they_are() -> None:
    """Fault-tolerant training: the other replicas go on, and the new one begins at their step."""
    ranks = [Process(rank, 10 + rank) for rank in range(3)]
    new = Process(2, 22, at=20.0)
    projector, _ = projected([p.step(step, tokens=1) for step in range(10) for p in ranks],
                             *(p.hello(world_size=3) for p in [*ranks, new]))
    feed = projector.feed
    for p in ranks[:2]:
        p.wall_ns, p.mono_ns = p.wall_ns + 10**10, p.mono_ns + 10**10
    feed(new.record(wire.Log, metrics={"loading": 1.0}))
    for step in range(10, 60):
        for p in ranks[:2]:
            feed(p.step(step, tokens=1))
    behind = []
    for step in range(60, 80):
        for p in (*ranks[:2], new):
            rows = feed(p.step(step, 0.1, tokens=1))
        behind.append(step - (projector.state.step or 0))
        assert [row.kind for row in rows] == (["step", "derived"] if step > 60 else ["step"])  # At 60 it is level.
    state = projector.state
    assert behind == [0] * 20
    assert (state.tokens, state.tokens_total) == (30 + 100 + 60, 30 + 100 + 60)
    assert (state.restarts, state.rework_steps) == (1, 0)


def test_a_rank_that_restarts_alone_within_seconds_takes_nothing_back() -> None:
    ranks = [Process(rank, 10 + rank) for rank in range(2)]
    new = Process(1, 22, at=12.0)
    projector, _ = projected([p.step(step, tokens=1) for step in range(1, 11) for p in ranks],
                             *(p.hello(world_size=2) for p in [*ranks, new]))
    for step in range(11, 14):
        projector.feed(ranks[0].step(step, tokens=1))
    for step in range(14, 30):
        projector.feed(ranks[0].step(step, tokens=1))
        projector.feed(new.step(step, tokens=1))
    state = projector.state
    assert (state.tokens, state.tokens_total, state.rework_steps) == (20 + 3 + 32, 20 + 3 + 32, 0)
    assert state.step == 29


def test_ranks_that_a_restart_with_fewer_of_them_left_behind_are_no_longer_the_runs() -> None:
    old = [Process(rank, 10 + rank) for rank in range(4)]
    new = [Process(rank, 20 + rank, at=60.0) for rank in range(2)]
    records = [p.step(step, tokens=1) for step in range(10) for p in old]
    records += [by_sidecar(wire.RankEnded(0, 0, rank=p.rank, session=p.session), p.wall_ns) for p in old]
    records += [p.step(step, tokens=2) for step in range(5, 8) for p in new]
    hellos = [*(p.hello(world_size=4) for p in old), *(p.hello(world_size=2) for p in new)]
    shown = snapshot(projected(records, *hellos)[0].state, now_ns=new[0].wall_ns)
    assert (shown.state, shown.step, [rank.rank for rank in shown.ranks]) == ("running", 7, [0, 1])
    assert (shown.alerts, "gone" in shown.verdict) == ([], False)
    records += [p.record(wire.Finished) for p in new]
    assert snapshot(projected(records, *hellos)[0].state, now_ns=new[0].wall_ns).state == "finished"


def test_what_a_rank_reports_after_the_others_finished_is_not_forgotten_by_a_resume() -> None:
    """A short run: rank 0 has said everything and finished before rank 1's first word arrives."""
    old = [Process(rank, 10 + rank) for rank in (0, 1)]
    new = [Process(rank, 20 + rank, at=60.0) for rank in (0, 1)]
    records = []
    for process in old:
        records += [process.step(step, tokens=8, samples=1, datasets={"a": (1, 8)}) for step in range(1, 6)]
        records.append(process.record(wire.Finished))
    for step in range(4, 9):
        records += [process.step(step, tokens=8, samples=1, datasets={"a": (1, 8)}) for process in new]
    projector, _ = projected(records, *(p.hello(world_size=2) for p in [*old, *new]))
    state = projector.state
    assert (state.tokens, state.samples) == (8 * 16, 8 * 2)
    assert state.datasets == {"a": (8 * 2, 8 * 16)}
    assert (state.tokens_total, state.samples_total) == (10 * 16, 10 * 2)


def test_after_a_restart_the_first_steps_wait_for_the_ranks_that_were_there_before() -> None:
    """One rank's first frame of the new attempt holds many steps before the other rank's first record."""
    for world_size in (2, 16):
        old = [Process(rank, 10 + rank) for rank in (0, 1)]
        new = [Process(rank, 20 + rank, at=60.0) for rank in (0, 1)]
        records = [p.step(step, tokens=8) for step in range(1, 31) for p in old]
        records += [by_sidecar(wire.RankEnded(0, 0, rank=p.rank, session=p.session)) for p in old]
        records += [new[0].step(step, 0.001, tokens=8) for step in range(31, 60)]
        records += [new[1].step(step, 0.001, tokens=8) for step in range(31, 60)]
        _, rows = projected(records, *(p.hello(world_size=world_size) for p in [*old, *new]))
        seen = [metrics["train/num_input_tokens_seen"] for metrics in derived(rows).values()]
        assert seen[20:] == [16 * step for step in range(21, 60)]


def test_the_tail_of_a_dead_process_that_is_recovered_late_is_no_restart() -> None:
    first, second = Process(session=2), Process(session=3, at=100.0)
    early = run_of(first, 1, 20)
    records = [*early[:18], *run_of(second, 21, 25), *early[18:], *[second.step(26, 0.5, tokens=64)]]
    projector, rows = projected(records, first.hello(), second.hello())
    state = projector.state
    assert state.ranks[0].session == 3
    assert (state.restarts, state.tokens, state.tokens_total) == (1, 26 * 64, 26 * 64)
    assert [row.step for row in rows if row.kind == "step"][23:25] == [19, 20]


@pytest.mark.parametrize(("resumed_at", "progress"), [(21, 20), (11, 10)])
def test_the_datasets_and_flops_of_a_late_tail_are_counted(resumed_at: int, progress: int) -> None:
    first, second = Process(session=2), Process(session=3, at=100.0)
    early = [first.record(wire.Step, 1.0, step=i, metrics={"train/flops": 1e12}, datasets={"a": (1, 8)})
             for i in range(1, 20)]
    early.append(first.record(wire.Consumed, 1.0, step=20, datasets={"a": (1, 8)}))
    records = [*early[:10], second.step(resumed_at, datasets={"b": (1, 1)}), *early[10:]]
    state = projected(records, first.hello(), second.hello())[0].state
    assert state.datasets == {"a": (progress, progress * 8), "b": (1, 1)}
    assert state.datasets_total == {"a": (20, 160), "b": (1, 1)}
    assert (state.flops, state.flops_total) == (min(progress, 19) * 1e12, 19e12)
    assert state.dataset_current == "b"


def test_a_whole_process_that_becomes_known_after_its_successor_is_history() -> None:
    first, second = Process(session=2, mono=100.0), Process(session=3, at=100.0, mono=200.0)
    records = [*run_of(second, 21, 25), *run_of(first, 1, 20), second.step(26, 0.5, tokens=64)]
    projector, _ = projected(records, first.hello(), second.hello())
    state = projector.state
    assert (state.restarts, state.step, state.tokens, state.tokens_total) == (0, 26, 26 * 64, 26 * 64)


def test_a_wall_clock_set_back_between_two_processes_makes_no_history_of_the_second() -> None:
    first, second = Process(session=2, mono=100.0), Process(session=3, at=-5000.0, mono=200.0)
    projector, _ = projected([*run_of(first, 1, 20), *run_of(second, 11, 30)], first.hello(), second.hello())
    assert (projector.state.restarts, projector.state.step, projector.state.tokens) == (1, 30, 30 * 64)


def test_a_tail_of_steps_that_the_successor_repeats_is_lifetime_only() -> None:
    first, second = Process(session=2), Process(session=3, at=100.0)
    early = run_of(first, 1, 20)
    records = [*early[:18], *run_of(second, 11, 25), *early[18:]]
    projector, _ = projected(records, first.hello(), second.hello())
    assert projector.state.tokens == 25 * 64
    assert projector.state.tokens_total == 35 * 64


def test_epochs_that_number_their_steps_anew_lose_nothing() -> None:
    process = Process()
    records = [process.step(step, tokens=5) for _ in range(3) for step in range(1, 11)]
    projector, rows = projected(records, process.hello())
    assert projector.state.tokens == 150
    assert projector.state.restarts == 0
    assert sum(row.kind == "derived" for row in rows) == 30


@pytest.mark.parametrize("resumed_at", [1, 2, 5])
def test_a_resume_goes_back_within_the_epoch_where_each_one_numbers_its_steps_anew(resumed_at: int) -> None:
    first, second = Process(session=2), Process(session=3, at=100.0)
    records = [first.step(step, tokens=5) for epoch in range(3) for step in range(1, 11 if epoch < 2 else 8)]
    records.append(second.step(resumed_at, tokens=5))
    projector, _ = projected(records, first.hello(), second.hello())
    assert projector.state.tokens == 20 * 5 + resumed_at * 5
    assert projector.state.marks == sorted(projector.state.marks, key=lambda mark: mark.step)


@given(st.data())
def test_lifetime_counters_never_go_down(data: st.DataObject) -> None:
    processes = [Process(0, session, at=100.0 * session) for session in (1, 2, 3)]
    records = []
    for process in processes:
        start = data.draw(st.integers(0, 30))
        records += run_of(process, start, start + data.draw(st.integers(0, 15)))
    from sidecar.rows import Projector

    projector, before = Projector("run"), (0, 0, 0)
    for process in processes:
        projector.greet(process.hello(), 0)
    for record in records:
        projector.feed(record)
        state = projector.state
        now = (state.tokens_total, state.steps_total, state.samples_total)
        assert all(a <= b for a, b in zip(before, now, strict=True))
        assert 0 <= state.tokens <= state.tokens_total
        before = now


def test_time_between_two_processes_is_down_and_states_sum_to_elapsed() -> None:
    first, second = Process(session=2), Process(session=3, at=100.0)
    records = [*run_of(first, 1, 20), *run_of(second, 11, 30)]
    projector, _ = projected(records, first.hello(), second.hello())
    shown = snapshot(projector.state, now_ns=records[-1].received_ns)
    seconds = shown.goodput.seconds
    assert seconds["down"] == 90.0
    assert seconds["redone"] == 5.0
    assert sum(seconds.values()) == shown.elapsed_seconds == 110.0
