"""What a script says of its run after it began: a new name, tags, and values of its summary."""

from sidecar import wire
from sidecar.derive.snapshot import snapshot
from sidecar.state import CONFIG_KEYS_MAX, RunState
from tests.derive.stream import Process, projected


def folded(*events: dict[str, object]) -> RunState:
    process = Process()
    projector, rows = projected([process.record(wire.RunChanged, **event) for event in events], process.hello())
    assert rows == []
    return projector.state


def test_name_notes_and_tags_are_the_last_ones_said() -> None:
    state = folded({"name": "first", "tags": ["a"]}, {"name": "second", "notes": "why"}, {})
    shown = snapshot(state, now_ns=2)
    assert (shown.name, shown.notes, shown.tags) == ("second", "why", ["a"])


def test_a_summary_is_merged_by_name_until_a_name_follows_its_rows_again() -> None:
    first = {"summary": {"best": 3, "loss": {"min": 1}}}
    state = folded(first, {"summary": {"best": None}, "summary_follows": ["loss"]})
    assert snapshot(state, now_ns=2).summary == {"best": None}


def test_a_summary_is_bounded_and_what_is_over_is_counted() -> None:
    state = folded({"summary": {str(i): i for i in range(CONFIG_KEYS_MAX + 5)}})
    assert len(state.summary) == CONFIG_KEYS_MAX
    assert state.rejected == {"summary_over_limit": 5}
