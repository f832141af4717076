"""Rows: what the export prints and every sink receives."""

from sidecar import wire
from sidecar.rows import Merger, merged_rows
from tests.derive.stream import Process, Record, by_sidecar, projected


def kinds(rows: list) -> list[tuple]:
    return [(row.kind, row.rank, row.step) for row in rows]


def test_phases_and_datasets_that_ride_on_a_step_come_out_before_it() -> None:
    p = Process()
    record = p.step(4, loss=1.0, phases={"data_wait": 0.5}, datasets={"a": (2, 10)})
    _, rows = projected([record], p.hello())
    assert kinds(rows) == [("phase", 0, 4), ("dataset", 0, 4), ("step", 0, 4), ("derived", -1, 4)]
    assert rows[0].metrics == {"phase/data_wait": 0.5}
    assert rows[1].metrics == {"dataset/a/samples": 2, "dataset/a/tokens": 10}
    assert rows[2].metrics == {"train/loss": 1.0}
    assert rows[2].time == record.event.time_ns / 1e9
    assert (rows[2].run, rows[2].seq) == ("run", 0)


def test_each_kind_of_event_has_its_kind_of_row() -> None:
    p = Process()
    records: list[Record] = [
        p.record(wire.Log, step=1, metrics={"val/loss": 2.0}),
        p.record(wire.Log, step=0, metrics={"late": 1}, late=True),
        p.record(wire.Text, step=1, name="sample/x", text="abc"),
        p.record(wire.Histogram, step=1, name="weights/w", edges=[0.0, 1.0, 2.0], counts=[3.0, 4.0]),
        p.record(wire.PhaseEntered, step=1, name="evaluation"),
        p.record(wire.PhaseExited, step=1, name="evaluation", seconds=2.5),
        p.record(wire.Consumed, step=1, datasets={"a": (1, 2)}),
        p.record(wire.Checkpoint, step=1, seconds=3.0, bytes=99),
        p.record(wire.ConfigChanged, config={"a": 1}),
        p.record(wire.ClientReport),
        p.record(wire.Finished),
    ]
    _, rows = projected(records, p.hello())
    assert [(row.kind, row.metrics) for row in rows] == [
        ("log", {"val/loss": 2.0}),
        ("late", {"late": 1}),
        ("text", {"sample/x": "abc"}),
        ("histogram", {"weights/w": {"edges": [0.0, 1.0, 2.0], "counts": [3.0, 4.0]}}),
        ("phase", {"phase/evaluation": 2.5}),
        ("dataset", {"dataset/a/samples": 1, "dataset/a/tokens": 2}),
        ("checkpoint", {"checkpoint/seconds": 3.0, "checkpoint/bytes": 99}),
    ]


def test_hardware_has_the_second_documents_names_and_units() -> None:
    gpu = {"uuid": "G", "index": 3, "name": "NVIDIA L4", "utilization_percent": 90, "memory_utilization_percent": 40,
           "memory_used_bytes": 5_000_000_000, "throttle_seconds": {"sw_power_cap": 1.5}, "lost": False}
    event = wire.Hardware(10**18, 0, step=10, gpus=[gpu], host={
        "cpu_percent": 12.5, "cpu_count": 8, "memory_used_bytes": 2e9, "disk_free_bytes": 7e9,
        "trainer_memory_bytes@77": 1.0})
    _, rows = projected([by_sidecar(event)])
    assert (rows[0].kind, rows[0].rank, rows[0].step) == ("hardware", -1, 10)
    assert rows[0].metrics == {
        "system/cpu_percent": 12.5, "system/cpu_count": 8, "system/memory_used_gb": 2.0, "system/disk_free_gb": 7.0,
        "system/gpu_3_utilization": 90, "system/gpu_3_memory_utilization": 40, "system/gpu_3_memory_used_gb": 5.0,
        "system/gpu_3_throttle_sw_power_cap_seconds": 1.5,
    }


def test_merged_rows_are_one_row_a_step_with_the_joined_loss() -> None:
    ranks = [Process(0, 1), Process(1, 2)]
    records = [p.step(i, loss=loss, tokens=1) for i in range(3) for p, loss in ((ranks[1], 3.0), (ranks[0], 1.0))]
    records.insert(2, ranks[0].record(wire.Log, step=0, metrics={"val/loss": 5.0}))
    _, rows = projected(records, *(p.hello(world_size=2) for p in ranks))
    merged = merged_rows(rows)
    assert kinds(merged) == [("step", 0, 0), ("log", 0, 0), ("step", 0, 1), ("step", 0, 2)]
    assert merged[0].metrics["train/loss"] == 2.0
    assert merged[0].metrics["train/num_tokens"] == 1
    assert merged[0].metrics["train/global_step"] == 0


def test_a_merger_fed_bit_by_bit_gives_what_it_gives_at_once() -> None:
    ranks = [Process(0, 1), Process(1, 2)]
    records = [r for i in range(5) for r in (ranks[0].step(i, loss=1.0), ranks[1].step(i, loss=3.0))]
    _, rows = projected(records, *(p.hello(world_size=2) for p in ranks))
    merger = Merger()
    assert [row for one in rows for row in merger.feed([one])] + merger.flush() == merged_rows(rows)


def test_a_merger_keeps_at_most_128_steps_that_nothing_completes() -> None:
    p = Process()
    _, rows = projected([p.step(i) for i in range(200)], p.hello())
    merger = Merger()
    alone = merger.feed([row for row in rows if row.kind == "step"])
    assert [row.step for row in alone] == list(range(72))
    assert [row.step for row in merger.flush()] == list(range(72, 200))


def test_a_step_of_a_backlog_never_shows_a_higher_ranks_values_after_the_lowest_ranks() -> None:
    """After an outage all rows of one rank may come before those of the next."""
    ranks = [Process(0, 1), Process(1, 2)]
    streams = [[p.raw_step(i, {"aux": float(p.rank), "train/loss": 1.0}, 0.001) for i in range(200)] for p in ranks]
    _, rows = projected([*streams[0], *streams[1]], *(p.hello(world_size=2) for p in ranks))
    merged = merged_rows(rows)
    assert [row.metrics["aux"] for row in merged if "aux" in row.metrics] == [0.0] * 200
    assert {row.step for row in merged if "train/global_step" in row.metrics} == set(range(200))


def test_merging_does_not_change_the_rows_it_was_given() -> None:
    p = Process()
    _, rows = projected([p.step(1, loss=1.0)], p.hello())
    merged_rows(rows)
    assert rows[0].metrics == {"train/loss": 1.0}


def test_run_info_is_merged_from_the_hellos_whose_processes_have_spoken() -> None:
    ranks = [Process(0, 1), Process(1, 2)]
    hellos = [ranks[0].hello(config={"a": 1}, tags=["x"], host="h0", name="n"),
              ranks[1].hello(config={"b": 2}, tags=["x", "y"], host="h1")]
    projector, _ = projected([ranks[0].step(0), ranks[1].step(0)], *hellos)
    info = projector.info()
    assert (info.config, info.tags, info.hosts, info.name) == ({"a": 1, "b": 2}, ["x", "y"], ["h0", "h1"], "n")
    projector, _ = projected([], *hellos)
    assert projector.info().config == {"a": 1}
