"""A step whose values are still being computed on the device: its row waits, its successors wait behind it."""

from sidecar import wire
from sidecar.fold import PENDING
from tests.derive.stream import Process, by_sidecar, derived, projected


def test_a_step_row_waits_for_its_late_values_and_comes_out_once_and_whole() -> None:
    p = Process()
    waiting = p.step(1, tokens=5, **{PENDING: 2})
    _, rows = projected([waiting, p.step(2, tokens=5)], p.hello())
    assert rows == []
    projector, rows = projected([
        waiting,
        p.record(wire.Completion, seq=waiting.seq, metrics={"train/loss": 1.5}),
        p.record(wire.Completion, seq=waiting.seq, metrics={"train/grad_norm": 0.5}),
    ], p.hello())
    assert [row.kind for row in rows] == ["step", "derived"]
    assert rows[0].metrics == {"train/num_tokens": 5, "train/loss": 1.5, "train/grad_norm": 0.5}
    assert projector.state.loss == 1.5


def test_rows_of_one_stream_keep_their_order_while_one_waits() -> None:
    p = Process()
    waiting = p.step(1, **{PENDING: 1})
    records = [waiting, p.record(wire.Log, step=1, metrics={"val/loss": 2.0}), p.step(2, loss=0.5),
               p.record(wire.Completion, seq=waiting.seq, metrics={"train/loss": 1.0})]
    _, rows = projected(records, p.hello())
    assert [(row.kind, row.step) for row in rows] == [
        ("step", 1), ("derived", 1), ("log", 1), ("step", 2), ("derived", 2)]


def test_values_that_do_not_come_are_waited_for_during_64_steps_only() -> None:
    p = Process()
    records = [p.step(0, tokens=1, **{PENDING: 1}), *(p.step(i, tokens=1) for i in range(1, 65))]
    _, rows = projected(records[:-1], p.hello())
    assert rows == []
    _, rows = projected(records, p.hello())
    assert sum(row.kind == "step" for row in rows) == 65
    assert all(PENDING not in row.metrics for row in rows)


def test_values_that_come_after_their_row_was_let_go_are_a_late_row_of_that_step() -> None:
    p = Process()
    waiting = p.step(3, **{PENDING: 1})
    records = [waiting, *(p.step(i) for i in range(4, 70)),
               p.record(wire.Completion, seq=waiting.seq, metrics={"train/loss": 1.0})]
    _, rows = projected(records, p.hello())
    assert (rows[-1].kind, rows[-1].step, rows[-1].metrics) == ("late", 3, {"train/loss": 1.0})


def test_the_end_of_the_process_lets_everything_go() -> None:
    for ending in (lambda p: p.record(wire.Finished),
                   lambda p: by_sidecar(wire.RankEnded(0, 0, rank=0, session=7)),
                   lambda p: by_sidecar(wire.Gap(0, 0, rank=0, session=7, first_seq=9, count=1, reason="x"))):
        p = Process()
        records = [p.step(1, tokens=4, **{PENDING: 1}), p.step(2, tokens=4), ending(p)]
        projector, rows = projected(records, p.hello())
        assert list(derived(rows)) == [1, 2]
        assert projector.state.tokens == 8


def test_a_new_process_lets_go_of_what_the_old_one_left() -> None:
    old, new = Process(session=1), Process(session=2, at=50.0)
    _, rows = projected([old.step(1, **{PENDING: 1}), new.step(2)], old.hello(), new.hello())
    assert [(row.kind, row.step) for row in rows] == [("step", 1), ("derived", 1), ("step", 2), ("derived", 2)]


def test_a_log_row_waits_for_its_values_too() -> None:
    p = Process()
    waiting = p.record(wire.Log, step=1, metrics={PENDING: 1})
    _, rows = projected([waiting, p.record(wire.Completion, seq=waiting.seq, metrics={"val/loss": 1.0})], p.hello())
    assert [(row.kind, row.metrics) for row in rows] == [("log", {"val/loss": 1.0})]


def test_waiting_steps_still_show_that_the_trainer_lives() -> None:
    p = Process()
    projector, _ = projected([p.step(1, **{PENDING: 1}), p.step(2, 30.0)], p.hello())
    assert projector.state.ranks[0].last_step_received_ns == p.wall_ns


def test_a_marker_that_is_no_number_holds_nothing_up() -> None:
    p = Process()
    _, rows = projected([p.step(1, **{PENDING: "soon"})], p.hello())
    assert rows[0].metrics == {}
