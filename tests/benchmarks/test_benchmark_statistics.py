"""The arithmetic behind the verdicts: a wrong comparison would prove anything."""

import pytest

from benchmarks import soak, step_cost, witness


def journal(*streams: list[int]) -> witness.Journaled:
    """One stream per list of steps; sequence numbers as they should be."""
    return witness.Journaled(
        {number: list(range(len(steps))) for number, steps in enumerate(streams)}, dict(enumerate(streams)), 0, 0
    )


def test_all_that_was_emitted_by_two_processes_is_found() -> None:
    found = witness.compare(journal([0, 1, 2], [3, 4]), 5, 2)
    assert found.nothing_lost
    assert (found.emitted, found.journaled, found.uncounted) == (5, 5, 0)


def test_an_event_between_its_call_and_its_count_is_neither_lost_nor_doubled() -> None:
    found = witness.compare(journal([0, 1, 2, 3], [3, 4]), 5, 2)
    assert found.nothing_lost
    assert found.uncounted == 1


def test_a_missing_event_is_lost() -> None:
    assert witness.compare(journal([0, 2, 3]), 4, 1).lost == 1


def test_the_missing_tail_is_lost() -> None:
    assert witness.compare(journal([0, 1]), 4, 1).lost == 2


def test_an_event_twice_in_one_stream_is_a_duplicate() -> None:
    twice = witness.Journaled({1: [0, 1, 1, 2]}, {1: [0, 1, 1, 2]}, 0, 0)
    found = witness.compare(twice, 3, 1)
    assert found.duplicated >= 1
    assert not found.nothing_lost


def test_more_repeated_steps_than_killed_processes_are_duplicates() -> None:
    assert witness.compare(journal([0, 1, 2, 3], [2, 3, 4]), 5, 1).duplicated == 1


def test_swapped_events_are_out_of_order() -> None:
    swapped = witness.Journaled({1: [0, 2, 1, 3]}, {1: [0, 2, 1, 3]}, 0, 0)
    assert witness.compare(swapped, 4, 1).out_of_order == 4


def test_steps_that_overtook_each_other_on_their_way_into_the_ring_are_out_of_order() -> None:
    assert witness.compare(journal([0, 2, 3, 1]), 4, 1).out_of_order == 1


def test_the_slope_of_a_line_is_found_with_no_error() -> None:
    value, error = soak.slope([(x, 3.0 * x + 1) for x in range(10)])
    assert value == pytest.approx(3.0)
    assert error == pytest.approx(0.0, abs=1e-9)


def test_system_calls_of_the_stepping_thread_between_the_marks_are_counted() -> None:
    mark = f'access("{step_cost.MARK}", F_OK) = -1 ENOENT'
    trace = "\n".join(
        [
            f"7 {mark}",
            '7 write(1, "x", 1) = 1',
            "8 poll([], 1) = 0",
            f"7 {mark}",
            "7 read(3) = 0",
            f"7 {mark}",
            f"7 {mark}",
        ]
    )
    calls, counts = step_cost.count_system_calls(trace, "7")
    assert calls == 2
    assert counts == {"write": 1}
