"""Bytes recorded from version 1 of the wire: rings and journals hold such bytes for longer than any release lives."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sidecar import wire
from sidecar.decoding import decode

RECORDED: dict[str, list[dict[str, Any]]] = json.loads(Path(__file__).with_name("wire_v1.json").read_text())
EVENTS = {record["kind"]: record for record in RECORDED["events"]}
KINDS_SINCE = {"RunChanged"}
"""Kinds of events that were added after the recording: older sidecars count them and go on."""


def fields_of(message: Any) -> dict[str, Any]:
    return json.loads(msgspec.json.encode(msgspec.structs.asdict(message)))


def includes(found: dict[str, Any], recorded: dict[str, Any]) -> bool:
    """Fields may have been added since, with defaults."""
    return {name: found.get(name) for name in recorded} == recorded


@pytest.mark.parametrize("kind", EVENTS)
def test_a_recorded_event_means_what_it_meant(kind: str) -> None:
    event = wire.decode_event(bytes.fromhex(EVENTS[kind]["bytes"]))
    assert type(event).__name__ == kind
    assert includes(fields_of(event), EVENTS[kind]["fields"])


@pytest.mark.parametrize("side", ["from_trainer", "from_sidecar"])
def test_a_recorded_message_means_what_it_meant(side: str) -> None:
    read = {"from_trainer": wire.decode_from_trainer, "from_sidecar": wire.decode_from_sidecar}[side]
    for record in RECORDED[side]:
        message = read(bytes.fromhex(record["bytes"]))
        assert type(message).__name__ == record["kind"]
        assert includes(fields_of(message), record["fields"])


@pytest.mark.parametrize("kind", EVENTS)
def test_an_event_of_a_newer_trainer_with_a_field_more_is_read_without_it(kind: str) -> None:
    newer = msgspec.msgpack.decode(bytes.fromhex(EVENTS[kind]["bytes"])) + ["a field of tomorrow"]
    event = wire.decode_event(msgspec.msgpack.encode(newer))
    known = len(event.__struct_fields__) + 1  # Its tag comes first.
    if len(newer) > known:
        assert includes(fields_of(event), EVENTS[kind]["fields"])


def test_an_event_of_an_older_trainer_without_the_newest_fields_is_read_with_their_defaults() -> None:
    older = msgspec.msgpack.decode(bytes.fromhex(EVENTS["Step"]["bytes"]))[:4]
    assert wire.decode_event(msgspec.msgpack.encode(older)) == wire.Step(older[1], older[2], older[3])


def test_a_kind_of_event_that_is_not_known_here_is_no_event_and_no_error() -> None:
    assert decode(msgspec.msgpack.encode(["kind of tomorrow", 1, 2, 3]), 1, {}) is None


def test_every_kind_of_event_is_recorded() -> None:
    """A new kind is added to the recording or, if it came later, to KINDS_SINCE: never is one taken away."""
    known = {kind.__name__ for kind in wire.AnyEvent.__args__}
    assert known == set(EVENTS) | KINDS_SINCE
