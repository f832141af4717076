"""TensorBoard's event files, written by hand: protocol buffers and record framing, nothing imported.

Given: tags, steps, times, values. Hands on: bytes of one record of an events.out.tfevents file.
Never: imports tensorboard (33 MB, and its writer puts the host's name into the file name) or torch.

The messages are tensorboard.Event, Summary, HistogramProto, SessionLog and HParamsPluginData of
tensorboard/compat/proto and plugins/hparams/plugin_data.proto; tests read everything back with TensorBoard itself.
A record is length (8 bytes), masked CRC-32C of the length, data, masked CRC-32C of the data.
"""

import array
import struct
import sys
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache

CRC32C = 0x82F63B78
SESSION_START = 1
DT_FLOAT, DT_STRING = 1, 7
FLOAT_MAX = 3.4028235677973366e38  # Where float32 rounding reaches infinity.

_length = struct.Struct("<Q").pack
_word = struct.Struct("<I").pack
_double = struct.Struct("<d").pack
_float = struct.Struct("<f").pack


def record(data: bytes) -> bytes:
    header = _length(len(data))
    return header + _word(masked_crc(header)) + data + _word(masked_crc(data))


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


def masked_crc(data: bytes) -> int:
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def crc32c(data: bytes) -> int:
    """Two bytes at a time: half the turns of the usual table, and no library."""
    table = _table()
    crc = 0xFFFFFFFF
    even = len(data) & ~1
    words = array.array("H", data[:even])
    if sys.byteorder == "big":
        words.byteswap()
    for word in words:
        crc = crc >> 16 ^ table[(crc ^ word) & 0xFFFF]
    if even != len(data):
        crc = crc >> 8 ^ _byte_table()[(crc ^ data[-1]) & 0xFF]
    return crc ^ 0xFFFFFFFF


@cache
def _byte_table() -> list[int]:
    table = []
    for crc in range(256):
        for _ in range(8):
            crc = crc >> 1 ^ (CRC32C if crc & 1 else 0)
        table.append(crc)
    return table


@cache
def _table() -> list[int]:
    single = _byte_table()
    return [first >> 8 ^ single[first & 0xFF] for word in range(65536) for first in (word >> 8 ^ single[word & 0xFF],)]


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
