"""Rows: what the export prints and every sink receives."""

from sidecar import wire
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


def test_run_info_is_merged_from_the_hellos_whose_processes_have_spoken() -> None:
    ranks = [Process(0, 1), Process(1, 2)]
    hellos = [ranks[0].hello(config={"a": 1}, tags=["x"], host="h0", name="n"),
              ranks[1].hello(config={"b": 2}, tags=["x", "y"], host="h1")]
    projector, _ = projected([ranks[0].step(0), ranks[1].step(0)], *hellos)
    info = projector.info()
    assert (info.config, info.tags, info.hosts, info.name) == ({"a": 1, "b": 2}, ["x", "y"], ["h0", "h1"], "n")
    projector, _ = projected([], *hellos)
    assert projector.info().config == {"a": 1}
