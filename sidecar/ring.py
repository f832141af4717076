"""The ring: a trainer's unacknowledged events in shared memory, laid out so that they outlive the trainer.

Given: encoded events from the training process. Hands on: the same bytes, in order, to the pump or to a later sidecar.
Never: makes a system call after creation, waits, or grows. When full it overwrites the oldest and counts.

File layout, little-endian:

    0      header   magic, version, offsets, session, rank, pid: written once
    1024   cursors  head, head_seq, tail, tail_seq, overwritten: positions count bytes ever written, never wrap
    4096   hello    u32 length + the encoded wire.Hello, so that a tail can be journaled with nobody left to ask
    data   records  u32 length, u32 checksum, u64 seq, payload, padded to 8; length 0xFFFFFFFF skips to the start

The writer stores the record first and the head last: a process killed in between has not emitted that event.
The writing process holds a POSIX record lock on the file. It is not inherited by fork, is seen across pid
namespaces, and is free the moment the process is gone: that is how a sidecar knows a tail is orphaned.
"""

import contextlib
import fcntl
import mmap
import os
import stat
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING
from zlib import adler32

if TYPE_CHECKING:
    from pathlib import Path

MAGIC = b"TSRING01"
# magic, version, hello_offset, data_offset, capacity, session, rank, pid, spare, started
HEADER = struct.Struct("<8sIIQQQIIId")
VERSION = 2
CHECKSUMS = {1: zlib.crc32, 2: zlib.adler32}
"""Of a payload, starting from its seq, by version. Not a CRC any more: its tables fill a hundred cache lines, which a
training step has just evicted, and fetching them was a tenth of what a call cost."""
CURSORS_OFFSET = 1024
CURSORS = struct.Struct("<QQQQQ")  # head, head_seq, tail, tail_seq, overwritten
HEAD = struct.Struct("<QQ")
TAIL = struct.Struct("<QQQ")
TAIL_OFFSET = CURSORS_OFFSET + HEAD.size
HELLO_OFFSET = 4096
LENGTH = struct.Struct("<I")
RECORD = struct.Struct("<IIQ")
SKIP = 0xFFFFFFFF

CAPACITY_BYTES_DEFAULT = 16 * 1024 * 1024
CAPACITY_BYTES_MIN = 256 * 1024
SUFFIX = ".ring"
DRAFT_SUFFIX = ".draft"
"""Of a ring that is being created. It holds no event yet."""
DRAFT_SECONDS_MAX = 60.0
"""Creating one takes less than a second: an older draft is of a process that was killed."""


class RingRefused(OSError):
    """The file is not a ring that may be read: foreign owner, open mode, symlink, or not this layout."""


class Ring:
    """The writer's side. Not thread-safe: the caller holds its lock around whatever stores or releases."""

    def __init__(
        self, memory: mmap.mmap, data_offset: int, capacity: int, *, path: "Path | None", fd: int | None
    ) -> None:
        self.path = path
        self.capacity = capacity
        self.head = self.tail = 0
        self.head_seq = self.tail_seq = 0
        self.overwritten = 0
        self._limit = capacity  # Where the head may not go without a look at the alert, and at what there is room for.
        self._alert: Callable[[], None] | None = None
        self._fd = fd
        self._memory, self._data_offset = memory, data_offset

    def append(self, payload: bytes) -> int:
        """Store one event and return its sequence number. The payload must be at most a quarter of the capacity."""
        length = len(payload)
        size = (length + 23) & ~7  # Record header of 16, rounded up to 8.
        capacity = self.capacity
        offset = self.head % capacity
        if offset + size > capacity:
            offset = self._skip_to_start(offset)
        if self.head + size > self._limit:
            self._pass_limit(self.head + size)
        seq = self.head_seq
        memory, start = self._memory, self._data_offset + offset
        memory[start + 16 : start + 16 + length] = payload
        RECORD.pack_into(memory, start, length, adler32(payload, seq), seq)
        self.head += size
        self.head_seq = seq + 1
        HEAD.pack_into(memory, CURSORS_OFFSET, self.head, self.head_seq)
        return seq

    def append_unsettled(self, payload: bytes) -> None:
        """Store an event that may still change: the next append replaces it, and it is read only from the file that a
        killed process leaves. Does nothing where there is no room for it without giving up an older event.
        """
        length = len(payload)
        size = (length + 23) & ~7
        offset = self.head % self.capacity
        if offset + size > self.capacity or self.head + size - self.tail > self.capacity:
            return
        seq = self.head_seq
        memory, start = self._memory, self._data_offset + offset
        memory[start + 16 : start + 16 + length] = payload
        RECORD.pack_into(memory, start, length, adler32(payload, seq), seq)
        HEAD.pack_into(memory, CURSORS_OFFSET, self.head + size, seq + 1)

    @property
    def is_half_full(self) -> bool:
        return self.head - self.tail > self.capacity // 2

    def alert_when_half_full(self, alert: Callable[[], None]) -> None:
        """Have the append that fills more than half of the ring call ``alert``, once. Does nothing where it is so full
        already. ``alert`` must not raise or wait.

        Takes no lock, because a step that finds it taken has to defer its event. None is needed: an append in between
        calls ``alert`` at once, at worst.
        """
        if not self.is_half_full:
            self._alert, self._limit = alert, self.tail + self.capacity // 2

    def release(self, position: int, seq: int) -> None:
        """Forget everything before ``position``, whose record has number ``seq``: it is safe elsewhere."""
        if position > self.tail:
            self.tail, self.tail_seq = position, seq
            self._store_tail()

    def read(self, position: int, seq: int, *, bytes_max: int, events_max: int) -> tuple[list[bytes], int]:
        """Copy up to ``events_max`` events from ``position`` on; return them and the position after the last.

        Stops early rather than hand on bytes that the writer may have overwritten while they were copied.
        """
        memory, capacity, head = self._memory, self.capacity, self.head
        records: list[bytes] = []
        total = 0
        while position < head and len(records) < events_max:
            offset = position % capacity
            start = self._data_offset + offset
            length = LENGTH.unpack_from(memory, start)[0]
            if length == SKIP:
                position += capacity - offset
                continue
            if records and total + length > bytes_max:
                break
            _, checksum, stored_seq = RECORD.unpack_from(memory, start)
            payload = memory[start + 16 : start + 16 + length]
            if position < self.tail or stored_seq != seq or checksum != adler32(payload, seq):
                break
            records.append(payload)
            seq += 1
            total += length
            position += (length + 23) & ~7
        return records, position

    def remove(self) -> None:
        """Delete the file: nothing in it is needed any more. The lock goes with the descriptor."""
        if self.path is not None:
            with contextlib.suppress(OSError):
                self.path.unlink()
        self.close()

    def ends_with(self, payload: bytes) -> bool:
        """Whether this event is the last one stored."""
        length = len(payload)
        position = self.head - ((length + 23) & ~7)
        offset = position % self.capacity
        if position < self.tail or offset + RECORD.size + length > self.capacity:
            return False
        start = self._data_offset + offset
        found_length, _, seq = RECORD.unpack_from(self._memory, start)
        stored = self._memory[start + RECORD.size : start + RECORD.size + length]
        return bool(found_length == length and seq == self.head_seq - 1 and stored == payload)

    def close(self) -> None:
        """Leave the file for a later sidecar."""
        if not self._memory.closed:
            self._store_tail()  # An append that a signal has interrupted may not have come to it.
        self._drop_handles()

    def forget(self) -> None:
        """In a forked child: drop every handle without touching what the parent still writes.

        A descriptor left open would keep the memory of a removed ring for as long as the child lives. Closing it here
        leaves the parent's lock alone: record locks belong to the process that took them.
        """
        self._drop_handles()

    def _drop_handles(self) -> None:
        fd, self._fd = self._fd, None
        if fd is not None:
            with contextlib.suppress(OSError):  # A program that closes every descriptor has closed this one too.
                os.close(fd)
        self._memory.close()

    def _skip_to_start(self, offset: int) -> int:
        size = self.capacity - offset
        if self.head + size > self._limit:
            self._pass_limit(self.head + size)
        LENGTH.pack_into(self._memory, self._data_offset + offset, SKIP)
        self.head += size
        return 0

    def _pass_limit(self, head: int) -> None:
        """The next record ends at ``head``, which is beyond the limit."""
        alert, self._alert = self._alert, None
        if alert is not None:
            alert()
        if head - self.tail > self.capacity:
            self._overwrite(head - self.capacity)
        if self._alert is None:  # Else somebody has just asked for the next one.
            self._limit = self.tail + self.capacity

    def _overwrite(self, needed_tail: int) -> None:
        """Give up the oldest events until the tail has passed ``needed_tail``."""
        while self.tail < needed_tail:
            offset = self.tail % self.capacity
            length = LENGTH.unpack_from(self._memory, self._data_offset + offset)[0]
            if length == SKIP:
                self.tail += self.capacity - offset
                continue
            self.tail += (length + 23) & ~7
            self.tail_seq += 1
            self.overwritten += 1
        self._store_tail()

    def _store_tail(self) -> None:
        TAIL.pack_into(self._memory, TAIL_OFFSET, self.tail, self.tail_seq, self.overwritten)


def create(
    directory: "Path", name: str, *, hello: bytes, session: int, rank: int, capacity: int = CAPACITY_BYTES_DEFAULT
) -> Ring:
    """Make a ring file that is fully backed by memory before it is used. Raises OSError (no space, no permission)."""
    data_offset = _page_up(HELLO_OFFSET + LENGTH.size + len(hello))
    size = data_offset + capacity
    draft = directory / f".{name}{DRAFT_SUFFIX}"
    fd = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(fd, 0, size)  # A sparse map on a full tmpfs is SIGBUS; this is a catchable error.
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        memory = mmap.mmap(fd, size)
        _prefault(memory, size)
        started = process_started_seconds(os.getpid())
        HEADER.pack_into(
            memory, 0, MAGIC, VERSION, HELLO_OFFSET, data_offset, capacity, session, rank, os.getpid(), 0, started
        )
        LENGTH.pack_into(memory, HELLO_OFFSET, len(hello))
        memory[HELLO_OFFSET + LENGTH.size : HELLO_OFFSET + LENGTH.size + len(hello)] = hello
        path = directory / f"{name}{SUFFIX}"
        os.rename(draft, path)  # Only now can a sidecar see it, and it is already locked.
    except BaseException:
        os.close(fd)
        with contextlib.suppress(OSError):
            draft.unlink()
        raise
    return Ring(memory, data_offset, capacity, path=path, fd=fd)


def create_in_memory(capacity: int) -> Ring:
    """A ring with no file: events survive the sidecar, not the trainer. For machines with nowhere to write."""
    memory = mmap.mmap(-1, HELLO_OFFSET + capacity)
    return Ring(memory, HELLO_OFFSET, capacity, path=None, fd=None)


class Orphan:
    """A ring file as a sidecar finds it: its hello, and the events that nobody acknowledged."""

    def __init__(self, path: "Path") -> None:
        """Open and verify. Raises RingRefused, or OSError when the file is gone."""
        self.path = path
        self._fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            self._verify()
        except BaseException:
            os.close(self._fd)
            raise

    def _verify(self) -> None:
        found = os.fstat(self._fd)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
            raise RingRefused("not a plain file with one name")
        if found.st_uid != os.getuid():
            raise RingRefused(f"belongs to user {found.st_uid}")
        if found.st_mode & 0o077:
            raise RingRefused("readable by others")
        head = os.pread(self._fd, HEADER.size, 0)
        if len(head) < HEADER.size:
            raise RingRefused("too short")
        magic, version, hello_offset, data_offset, capacity, session, rank, pid, _, _ = HEADER.unpack(head)
        if magic != MAGIC or version not in CHECKSUMS:
            raise RingRefused("not a ring of this version")
        if hello_offset != HELLO_OFFSET or not HELLO_OFFSET < data_offset <= found.st_size - capacity or capacity <= 0:
            raise RingRefused("impossible offsets")
        self.session, self.rank, self.pid = session, rank, pid
        self._data_offset, self._capacity, self._checksum_of = data_offset, capacity, CHECKSUMS[version]

    def claim(self) -> bool:
        """Take the writer's lock. False: the training process is alive and still owns the ring."""
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            return False
        return True

    def hello(self) -> bytes:
        """The encoded wire.Hello. Raises RingRefused if its length is impossible."""
        length = LENGTH.unpack(os.pread(self._fd, LENGTH.size, HELLO_OFFSET))[0]
        if length > self._data_offset - HELLO_OFFSET - LENGTH.size:
            raise RingRefused("impossible hello")
        return os.pread(self._fd, length, HELLO_OFFSET + LENGTH.size)

    def oldest_seq(self) -> int:
        """The number of the oldest event; of the next one when there is none.

        As its own record says: a writer killed between its stores leaves a tail that is ahead of ``tail_seq``.
        """
        for seq, _ in self.events():
            return seq
        return int(CURSORS.unpack(os.pread(self._fd, CURSORS.size, CURSORS_OFFSET))[3])

    def events(self) -> Iterator[tuple[int, bytes]]:
        """(seq, payload) from the oldest on. Ends at the head, or at the first record whose checksum is wrong."""
        head, _, tail, _, _ = CURSORS.unpack(os.pread(self._fd, CURSORS.size, CURSORS_OFFSET))
        if not 0 <= head - tail <= self._capacity:
            return
        position, expected = tail, None
        while position < head:
            offset = position % self._capacity
            start = self._data_offset + offset
            length = LENGTH.unpack(os.pread(self._fd, LENGTH.size, start))[0]
            if length == SKIP:
                position += self._capacity - offset
                continue
            if offset + RECORD.size + length > self._capacity:
                return
            _, checksum, seq = RECORD.unpack(os.pread(self._fd, RECORD.size, start))
            payload = os.pread(self._fd, length, start + RECORD.size)
            if checksum != self._checksum_of(payload, seq) or seq != (seq if expected is None else expected):
                return
            yield seq, payload
            position, expected = position + ((length + 23) & ~7), seq + 1

    def remove(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()

    def close(self) -> None:
        os.close(self._fd)


def process_started_seconds(pid: int) -> float:
    """Seconds after boot at which ``pid`` started, 0.0 where /proc does not tell. A hint against pid reuse."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        return int(fields[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, IndexError, ValueError):
        return 0.0


def _page_up(size: int) -> int:
    return -(-size // mmap.PAGESIZE) * mmap.PAGESIZE


def _prefault(memory: mmap.mmap, size: int) -> None:
    """Touch every page now, so that no step ever takes a page fault."""
    for offset in range(0, size, mmap.PAGESIZE):
        memory[offset] = 0
