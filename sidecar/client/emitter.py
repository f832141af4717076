"""How an event gets into the ring: encode it, take a lock for microseconds, copy it into shared memory.

Given: events from any thread. Hands on: records in shared memory, in the order they were stored.
Never: raises for what an event holds, blocks on a lock, or makes a system call.
"""

import contextlib
import os
import sys
import threading
from collections import deque
from collections.abc import Sequence
from time import monotonic_ns, sleep, time_ns
from types import FrameType

import msgspec

from sidecar import ring as ring_file
from sidecar import wire
from sidecar.client import values
from sidecar.client.device import DeviceScalars, Transfer
from sidecar.client.pump import CONNECT_SECONDS, Pump, warn
from sidecar.rendezvous import endpoint_key, private_directory, ring_directories

DEFERRED_EVENTS_MAX = 4096  # They found the lock held; the next call, or the pump's next tick, stores them in the ring.
RINGS_MAX = 128  # In one folder. Those of trainers that ended with no sidecar beside them wait there, in memory.
REPORT_SECONDS = 1.0
DEVICE_SECONDS = 2.0  # How long the end of a run lets a device complete the scalars that were passed last.
LOCK_SECONDS = 0.5  # Nobody holds the lock for longer than microseconds.


class Emitter:
    """One stream: its ring, its pump, and the count of what could not be taken."""

    def __init__(self, hello: wire.Hello, endpoint: str) -> None:
        self.rejected: dict[str, int] = {}
        self.ring = _make_ring(hello, endpoint)
        self.lock = threading.Lock()
        self.device = DeviceScalars()
        self._encode = msgspec.msgpack.Encoder(enc_hook=values.plain).encode
        self._deferred: deque[tuple[bytes, Sequence[str], Transfer | None]] = deque()  # Records, ready for the ring.
        self._record_bytes_max = min(wire.FRAME_BYTES_MAX, self.ring.capacity // 8)
        self._held: bytes | None = None
        self._completed: bytes | None = None
        """The event of a call that a signal handler interrupted for good, stored by the handler: see finish()."""
        self._reported: tuple[dict[str, int], int] = ({}, 0)
        self._next_report_ns = 0
        self.pump = Pump(self.ring, self.lock, hello, endpoint, self.housekeeping)
        self.pump.start()
        self.emit = self._to_ring
        """Store one event. Replaced when the run has ended, and in a forked child."""

    @property
    def is_open(self) -> bool:
        return self.emit == self._to_ring

    def finish(self, event: wire.Finished, timeout_seconds: float) -> None:
        """Store the last event and wait until everything is acknowledged, or the time is over."""
        self._await_device(DEVICE_SECONDS)
        free = self.lock.acquire(timeout=LOCK_SECONDS)
        interrupted = None if free else self._interrupted_call()
        try:
            if interrupted:
                self._complete_call(interrupted)
            elif free:
                self._store_deferred()
            self._emit_last(event)  # The lock is held: these are deferred.
            if free or interrupted:
                self._store_deferred()  # Left for the pump, the last event could miss the flush.
        finally:
            if free or interrupted:
                self.lock.release()
        delivered = self.pump.flush(timeout_seconds if self.pump.connected else min(timeout_seconds, CONNECT_SECONDS))
        self.pump.stop()
        if interrupted:
            self.lock.acquire(timeout=LOCK_SECONDS)  # It will be released when that call goes on, and ends.
        if delivered:
            self.ring.remove()
        else:
            self.ring.close()

    def _emit_last(self, event: wire.Finished) -> None:
        if (self.rejected, self.ring.overwritten) != self._reported:
            self.emit(wire.ClientReport(time_ns(), monotonic_ns(), dict(self.rejected), self.ring.overwritten))
        self.emit(event)
        self.emit = self._after_finish

    def hold(self, event: wire.Event | None) -> None:
        """Keep an event that may still change in shared memory, so that a kill does not lose it; emit() sends it later.

        None drops what is held. Best effort: nothing is stored while the lock is taken or when there is no room.
        """
        self._held = None
        if event is None or not self.is_open:
            return
        try:
            payload = self._encode(event)
        except Exception:  # noqa: BLE001 - Values that a device still computes: held once they are plain.
            return
        if len(payload) <= self._record_bytes_max:
            self._held = payload
            if self.lock.acquire(False):
                try:
                    self.ring.append_unsettled(payload)
                except (ValueError, TypeError):
                    self._note_closed(payload)
                finally:
                    self.lock.release()

    def settle(self) -> bool:
        """Emit the held event as it is. False where there is none."""
        payload, self._held = self._held, None
        if payload is None or not self.is_open:
            return False
        self._put(payload, [], None)
        return True

    def forget_after_fork(self) -> None:
        """In a forked child: the ring, the socket and the thread belong to the parent."""
        self.emit = self._in_child
        self.lock = threading.Lock()
        self.ring.forget()

    def housekeeping(self) -> None:
        """Called by the pump at each tick: store the deferred events, report what was lost."""
        if self._deferred and self.lock.acquire(timeout=LOCK_SECONDS):
            try:
                self._store_deferred()
            finally:
                self.lock.release()
        now_ns = monotonic_ns()
        totals = (dict(self.rejected), self.ring.overwritten)
        if totals != self._reported and now_ns >= self._next_report_ns:
            self._reported, self._next_report_ns = totals, now_ns + int(REPORT_SECONDS * 1e9)
            self._put(self._encode(wire.ClientReport(time_ns(), now_ns, *totals)), [], None)

    def _to_ring(self, event: wire.Event) -> None:
        """Defers the event where the lock is held: by another thread, or by the code that a signal has interrupted."""
        if self.device.outstanding:
            self._complete_records()
        try:
            payload = self._encode(event)
        except Exception:  # noqa: BLE001 - Some value has no form on the wire, or is still on a device: keep the others.
            self._put_what_can_be_encoded(event)
            return
        try:
            free = len(payload) <= self._record_bytes_max and self.lock.acquire(False)
        except BaseException:
            self._recover_lock()
            raise
        if free:  # The usual case, without detours.
            try:
                if self._deferred:
                    self._store_deferred()
                self.ring.append(payload)
            except (ValueError, TypeError):
                self._note_closed(payload)
            finally:
                self.lock.release()
        else:
            self._put(payload, [], None)

    def _put(self, payload: bytes, names: list[str], transfer: Transfer | None) -> None:
        try:
            free = self.lock.acquire(False)
        except BaseException:
            self._recover_lock()
            raise
        if free:
            try:
                self._store_deferred()
                self._store(payload, names, transfer)
            except (ValueError, TypeError):
                self._note_closed(payload)
            finally:
                self.lock.release()
        elif len(self._deferred) < DEFERRED_EVENTS_MAX:
            records = self._records(payload)
            awaited = [((), None)] * (len(records) - 1) + [(names, transfer)]  # The last record brings the values.
            self._deferred.extend((record, *each) for record, each in zip(records, awaited, strict=False))
        else:
            values.count(self.rejected, "aside_full")

    def _recover_lock(self) -> None:
        """A signal handler raised (Ctrl-C) while the lock was being taken: if it had been, nobody would release it."""
        self.lock.acquire(timeout=LOCK_SECONDS)
        self.lock.release()

    def _interrupted_call(self) -> FrameType | None:
        """The call that holds the lock beneath a signal handler which ends the run: it cannot go on before we return.

        Only the stack tells: remembering who holds the lock would cost every step something.
        """
        found, frame = None, sys._getframe(1)
        while frame is not None:
            if frame.f_code in _CALLS_THAT_LOCK and frame.f_locals.get("self") is self:
                found = frame  # The outermost: a handler that was interrupted in turn found the lock held, too.
            frame = frame.f_back  # type: ignore[assignment]
        return found

    def _complete_call(self, call: FrameType) -> None:
        """Store the event of an interrupted call, unless it got as far as that. When it goes on, the ring is closed.

        The ring is whole: signals are handled where something is called or repeated, and its positions, which an
        append moves together, never differ there.
        """
        given = call.f_locals
        payload = self._completed = given["payload"]
        if call.f_code is not Emitter.hold.__code__ and not self.ring.ends_with(payload):
            self._store_deferred()
            self._store(payload, given.get("names", ()), given.get("transfer"))

    def _note_closed(self, payload: bytes) -> None:
        """Called where storing failed: a signal handler may have ended the run within the call and closed the ring."""
        if self.is_open:
            raise  # What the caller handles.
        if payload is not self._completed:
            values.count(self.rejected, "after_finish")

    def _store_deferred(self) -> None:
        """Called before anything else is stored: a step that arrived after its successors would look like a restart.

        Each stays in the queue until it is stored, and a signal handler that ends this in between has it stored once.
        """
        while self._deferred:
            record, names, transfer = self._deferred[0]
            if not self.ring.ends_with(record):
                self.ring.append(record)
            self._follow_up(self.ring.head_seq - 1, names, transfer)
            with contextlib.suppress(IndexError):  # A signal handler has ended the run, and emptied the queue.
                self._deferred.popleft()

    def _after_finish(self, event: wire.Event) -> None:
        values.count(self.rejected, "after_finish")

    def _in_child(self, event: wire.Event) -> None:
        if "in_forked_child" not in self.rejected:
            warn("sidecar: this process was forked after sidecar.init: call it here, or nothing from here is kept")
        values.count(self.rejected, "in_forked_child")

    def _put_what_can_be_encoded(self, event: wire.Event) -> None:
        given = getattr(event, "metrics", None)
        if given is None:
            values.count(self.rejected, "unsupported_type")
            return
        metrics, names, transfer = self.device.start(given, self.rejected)
        kept = values.metrics(metrics, self.rejected)
        if transfer is not None:
            kept[wire.PENDING] = len(names)
        self._put(self._encode(msgspec.structs.replace(event, metrics=kept)), names, transfer)

    def _complete_records(self) -> None:
        """Send the device scalars that have arrived, each to the record it belongs to."""
        for seq, late in self.device.arrived():
            found = values.metrics(late, self.rejected)
            self._put(self._encode(wire.Completion(time_ns(), monotonic_ns(), seq, found)), [], None)

    def _await_device(self, timeout_seconds: float) -> None:
        deadline = monotonic_ns() + int(timeout_seconds * 1e9)
        self._complete_records()
        while self.device.outstanding and monotonic_ns() < deadline:
            sleep(0.001)
            self._complete_records()

    def _store(self, payload: bytes, names: Sequence[str] = (), transfer: Transfer | None = None) -> None:
        seq = None
        for record in self._records(payload):
            seq = self.ring.append(record)
        if seq is not None:
            self._follow_up(seq, names, transfer)

    def _records(self, payload: bytes) -> Sequence[bytes]:
        """The event in pieces that a frame can carry. None, and counted, when it is too large for the wire."""
        if len(payload) <= self._record_bytes_max:
            return (payload,)
        if len(payload) > wire.RECORD_BYTES_MAX or len(payload) > self.ring.capacity // 4:
            values.count(self.rejected, "record_too_large")
            return ()
        size = self._record_bytes_max - 64  # Room for the part's own envelope.
        slices = [payload[i : i + size] for i in range(0, len(payload), size)]
        now_ns, mono_ns = time_ns(), monotonic_ns()
        parts = (wire.Part(now_ns, mono_ns, index, len(slices), data) for index, data in enumerate(slices))
        return [self._encode(part) for part in parts]

    def _follow_up(self, seq: int, names: Sequence[str], transfer: Transfer | None) -> None:
        """An event has been stored, the last of its records under ``seq``."""
        if self._held is not None:
            self.ring.append_unsettled(self._held)
        if transfer is not None and (given_up := self.device.expect(seq, list(names), transfer)):
            values.count(self.rejected, "device_too_late", given_up)


_CALLS_THAT_LOCK = frozenset(call.__code__ for call in (Emitter._to_ring, Emitter._put, Emitter.hold))
"""Those of the user's threads. finish() locks as well, but is not entered twice; the rest is the pump's."""


def _make_ring(hello: wire.Hello, endpoint: str) -> ring_file.Ring:
    """In /dev/shm, else the temp folder, else plain memory: whatever there is, training goes on."""
    encoded = wire.encode(hello)
    name = f"{endpoint_key(endpoint)}-{hello.rank}-{hello.session:016x}"
    for directory in ring_directories():
        with contextlib.suppress(OSError, ValueError, OverflowError):  # No space, no permission, an absurd size.
            capacity = _capacity(private_directory(directory))
            if capacity >= ring_file.CAPACITY_BYTES_MIN and _ring_count(directory) < RINGS_MAX:
                return ring_file.create(
                    directory, name, hello=encoded, session=hello.session, rank=hello.rank, capacity=capacity
                )
    warn(
        "sidecar: no place for a ring in %s: what is not sent yet is lost if this process dies; see `sidecar doctor`",
        " or ".join(map(str, ring_directories())),
    )
    return ring_file.create_in_memory(ring_file.CAPACITY_BYTES_DEFAULT)


def _ring_count(directory: os.PathLike[str]) -> int:
    """Rings in a folder, those of trainers that ended with no sidecar beside them included."""
    return sum(name.endswith(ring_file.SUFFIX) for name in os.listdir(directory))


def _capacity(directory: os.PathLike[str]) -> int:
    """SIDECAR_RING_MB, else 16 MiB, and never more than an eighth of what is free there: it is shared with others."""
    wanted = os.environ.get("SIDECAR_RING_MB", "")
    if wanted.replace(".", "", 1).isdigit():
        return max(ring_file.CAPACITY_BYTES_MIN, int(float(wanted) * 2**20) & ~7)
    found = os.statvfs(directory)
    return min(ring_file.CAPACITY_BYTES_DEFAULT, (found.f_bavail * found.f_frsize // 8) & ~7)
