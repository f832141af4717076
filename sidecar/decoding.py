"""Journaled bytes back to events: parts are joined, and a row with an impossible value loses that value only.

Given: records as they were sent. Hands on: events, or None. Never: raises, whatever the bytes are.
"""

from typing import Any

import msgspec

from sidecar import wire

NO_EVENT = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for hostile bytes: text that is none, and nesting without end, beside errors of its own."""


def decode(data: bytes, session: int, parts: dict[int, list[bytes]]) -> wire.AnyEvent | None:
    """One record as an event. None: it is no event, or a part whose record is not complete (``parts`` keeps those)."""
    event = _decode_or_repair(data)
    if not isinstance(event, wire.Part):
        parts.pop(session, None)  # A record that stopped in the middle never comes back.
        return event
    if event.index == 0:
        parts[session] = []
    collected = parts.get(session)
    if (
        collected is None
        or event.index != len(collected)
        or event.count * wire.FRAME_BYTES_MAX > 64 * wire.RECORD_BYTES_MAX
    ):
        parts.pop(session, None)
        return None
    collected.append(event.data)
    if len(collected) < event.count:
        return None
    del parts[session]
    whole = _decode_or_repair(b"".join(collected))
    return None if isinstance(whole, wire.Part) else whole


def _decode_or_repair(data: bytes) -> wire.AnyEvent | None:
    """Strict first. A row with one impossible value or name loses that value, not the row."""
    try:
        return wire.decode_event(data)
    except NO_EVENT:
        pass
    try:
        raw = msgspec.msgpack.decode(data)
        if isinstance(raw, list) and len(raw) > 4 and raw[0] in ("step", "log") and isinstance(raw[4], dict):
            raw[4] = {name: value for name, value in raw[4].items() if _fits(name, value)}
        return msgspec.convert(raw, wire.AnyEvent, strict=True)
    except NO_EVENT:
        return None


def _fits(name: Any, value: Any) -> bool:
    try:
        msgspec.convert({name: value}, wire.Metrics, strict=True)
    except NO_EVENT:
        return False
    return True
