"""TensorBoard's event files, written by hand: protocol buffers and record framing, nothing imported.

Given: tags, steps, times, values. Hands on: bytes of one record of an events.out.tfevents file.
Never: imports tensorboard (33 MB, and its writer puts the host's name into the file name) or torch.

The messages are tensorboard.Event, Summary, HistogramProto, SessionLog and HParamsPluginData of
tensorboard/compat/proto and plugins/hparams/plugin_data.proto; tests read everything back with TensorBoard itself.
A record is length (8 bytes), masked CRC-32C of the length, data, masked CRC-32C of the data.
"""

import struct
from collections.abc import Mapping, Sequence
from functools import lru_cache

from sidecar.sinks.crc32c import START, advance, carry, mask, masked_crc

SESSION_START = 1
DT_FLOAT, DT_STRING = 1, 7
FLOAT_MAX = 3.4028235677973366e38  # Where float32 rounding reaches infinity.

_length = struct.Struct("<Q").pack
_word = struct.Struct("<I").pack
_double = struct.Struct("<d").pack
_float = struct.Struct("<f").pack


def record(data: bytes) -> bytes:
    return _header(len(data)) + data + _word(masked_crc(data))


def scalars_record(wall_time: float, step: int, metrics: Mapping[str, float]) -> bytes | None:
    """A whole record of nothing but scalars, several times as fast as the general way. None: not all are numbers."""
    try:
        return _layout(tuple(metrics)).record(wall_time, step, metrics)
    except struct.error:
        return None


def first_event(wall_time: float) -> bytes:
    return _time(wall_time) + _bytes(3, b"brain.Event:2")


def restart_event(wall_time: float, step: int) -> bytes:
    """Tells TensorBoard to forget what it read at ``step`` and later: that part is being done again."""
    return _time(wall_time) + _integer(2, step) + _bytes(7, _integer(1, SESSION_START))


def summary_event(wall_time: float, step: int, values: Sequence[bytes]) -> bytes:
    """``values``: what scalar, text, histogram and hparams give."""
    return _time(wall_time) + _integer(2, step) + _bytes(5, b"".join(values))


def scalar(tag: str, value: float) -> bytes:
    head, size = _scalar_head(tag)
    return head + _float(_fits_float(value)) if size else b""


def text(tag: str, content: str) -> bytes:
    tensor = _integer(1, DT_STRING) + _bytes(2, _bytes(2, _integer(1, 1))) + _bytes(8, content.encode())
    return _bytes(1, _bytes(1, tag.encode()) + _bytes(8, tensor) + _bytes(9, _plugin("text", b"")))


def histogram(tag: str, edges: Sequence[float], counts: Sequence[float]) -> bytes:
    """Moments are those of the bins' middles: the values themselves never left the training process."""
    middles = [(low + high) / 2 for low, high in zip(edges, edges[1:], strict=False)]
    total = sum(counts)
    moments = (
        edges[0], edges[-1], total,
        sum(middle * count for middle, count in zip(middles, counts, strict=True)),
        sum(middle * middle * count for middle, count in zip(middles, counts, strict=True)),
    )  # fmt: skip
    fields = b"".join(bytes((number << 3 | 1,)) + _double(value) for number, value in enumerate(moments, 1))
    limits, buckets = struct.pack(f"<{len(counts)}d", *edges[1:]), struct.pack(f"<{len(counts)}d", *counts)
    return _bytes(1, _bytes(1, tag.encode()) + _bytes(5, fields + _bytes(6, limits) + _bytes(7, buckets)))


def hparams(values: Mapping[str, object], started_seconds: float, group: str) -> bytes:
    """The run's configuration for the HParams page: numbers, booleans and strings."""
    entries = b"".join(_bytes(1, _bytes(1, key.encode()) + _bytes(2, _value(value))) for key, value in values.items())
    session = entries + _bytes(4, group.encode()) + b"\x29" + _double(started_seconds)
    content = _bytes(3, session)
    empty = _integer(1, DT_FLOAT) + _bytes(2, _bytes(2, b""))
    return _bytes(
        1, _bytes(1, b"_hparams_/session_start_info") + _bytes(8, empty) + _bytes(9, _plugin("hparams", content))
    )


class _Layout:
    """The record of one set of tags. Rows of a run have few of them: only times, steps and values differ."""

    def __init__(self, tags: tuple[str, ...]) -> None:
        heads = [_scalar_head(tag)[0] for tag in tags]
        size = sum(map(len, heads)) + 4 * len(heads)
        self._opening = b"\x2a" + _varint(size)  # Field 5 of the event: its summary.
        spaces = [len(head) for head in heads]
        self._pack = struct.Struct("<" + "".join(f"{space}sf" for space in spaces)).pack
        self._words = struct.Struct("<" + "".join(f"{space}xI" for space in spaces)).unpack
        self._slots: list[bytes | float] = [part for head in heads for part in (head, 0.0)]
        self._first = carry(spaces[0])
        self._carries = [carry(4 + space) for space in [*spaces[1:], 0]]
        self._fixed = advance(0, self._pack(*self._slots))
        self._size = size

    def record(self, wall_time: float, step: int, metrics: Mapping[str, float]) -> bytes:
        slots = self._slots.copy()
        slots[1::2] = metrics.values()
        try:
            values = self._pack(*slots)
        except OverflowError:
            slots[1::2] = map(_fits_float, metrics.values())
            values = self._pack(*slots)
        opening = _time(wall_time) + _integer(2, step) + self._opening
        x = advance(START, opening)
        low, second, third, high = self._first
        register = low[x & 255] ^ second[x >> 8 & 255] ^ third[x >> 16 & 255] ^ high[x >> 24]
        for word, (low, second, third, high) in zip(self._words(values), self._carries, strict=True):
            x = register ^ word
            register = low[x & 255] ^ second[x >> 8 & 255] ^ third[x >> 16 & 255] ^ high[x >> 24]
        checksum = _word(mask(register ^ self._fixed ^ START))
        return _header(len(opening) + self._size) + opening + values + checksum


@lru_cache(maxsize=128)
def _layout(tags: tuple[str, ...]) -> _Layout:
    return _Layout(tags)


@lru_cache(maxsize=4096)
def _header(size: int) -> bytes:
    length = _length(size)
    return length + _word(masked_crc(length))


@lru_cache(maxsize=16384)
def _scalar_head(tag: str) -> tuple[bytes, int]:
    """Everything of a scalar's message up to the four bytes of its value; tags repeat with every step."""
    named = _bytes(1, tag.encode())
    size = len(named) + 5
    return b"\x0a" + _varint(size) + named + b"\x15", size


def _fits_float(value: float) -> float:
    if value >= FLOAT_MAX:
        return float("inf")
    return float("-inf") if value <= -FLOAT_MAX else value


def _time(wall_time: float) -> bytes:
    return b"\x09" + _double(wall_time)


def _plugin(name: str, content: bytes) -> bytes:
    return _bytes(1, _bytes(1, name.encode()) + _bytes(2, content))


def _value(value: object) -> bytes:
    """google.protobuf.Value."""
    if isinstance(value, bool):
        return b"\x20" + bytes((value,))
    if isinstance(value, int | float):
        return b"\x11" + _double(float(value))
    return _bytes(3, str(value).encode())


def _integer(field: int, value: int) -> bytes:
    return bytes((field << 3,)) + _varint(value & 0xFFFFFFFFFFFFFFFF)


def _bytes(field: int, content: bytes) -> bytes:
    return bytes((field << 3 | 2,)) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    if value < 0x80:
        return bytes((value,))
    parts = bytearray()
    while value >= 0x80:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)
