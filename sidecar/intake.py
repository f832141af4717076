"""Where events enter: a ROUTER socket, sequence numbers, the journal, and only then the acknowledgement.

Given: messages from trainers, orphaned rings, readings of the sidecar's own collectors.
Hands on: a longer journal, and the news of it.
Never: acknowledges what is not committed, does unbounded work in one round, or dies of what a peer sends.
"""

import logging
import math
import secrets
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import zmq
from zmq.auth.thread import ThreadAuthenticator

from sidecar import descriptors, wire
from sidecar.curve import secure
from sidecar.fetches import Fetches
from sidecar.journal import Chunk, Journal, Stream
from sidecar.listener import Listener
from sidecar.open_journals import OpenJournals
from sidecar.sessions import Sessions
from sidecar.store import Store
from sidecar.submissions import Submissions, Write
from sidecar.telemetry import Telemetry
from sidecar.waker import Waker

log = logging.getLogger("sidecar.intake")

MESSAGES_PER_ROUND_MAX = 256
ROUND_SECONDS_MAX = 0.02  # Also the shortest time between commits: at most 50 a second.
POLL_SECONDS = 1.0
LOSS_LOG_SECONDS = 60.0  # Losses are counted each time, and logged this often.
SEQ_MAX = 2**62
LOSS_REASON = "ring_overwritten"


class _Pending:
    """What one round has accepted for one run and not yet committed."""

    def __init__(self) -> None:
        self.chunks: list[Chunk] = []
        self.next_seqs: dict[int, int] = {}
        self.lost_events = 0
        """Declared lost in this batch. Counted when it is committed: a batch that fails declares them again."""


class Intake:
    """Owned by one thread; only :meth:`submit`, :meth:`write`, ``fetch`` and :meth:`wake` may be called from others."""

    def __init__(self, store: Store, telemetry: Telemetry, *, streams_max: int, runs_max: int) -> None:
        self._store, self._telemetry = store, telemetry
        self._sessions = Sessions(streams_max)
        """Only those that this process has heard of: one that the journal knows from before must say Hello again."""
        self._journals = OpenJournals(store, telemetry, runs_max)
        self._journals.on_closed = self._sessions.forget_run
        self._waker = Waker()
        self._fetches = Fetches(self._waker.wake)
        self.fetch = self._fetches.fetch
        self._own_session = secrets.randbits(63)
        self._submissions = Submissions()
        self._pending: dict[str, _Pending] = {}
        self._replies: dict[int, bytes] = {}  # session -> peer to answer after the commit
        self._authenticator: ThreadAuthenticator | None = None
        self._next_loss_log = 0.0
        self._committed = 0.0
        self._logged_fault = ""
        self.on_hello: Callable[[wire.Hello, int], None] = lambda hello, received_ns: None
        self.on_committed: Callable[[str], None] = lambda run_id: None
        self.summary_of: Callable[[str], bytes | None] = lambda run_id: None

    def bind(self, endpoint: str, keys: Path | None = None) -> None:
        """Open the socket. Raises zmq.ZMQError when it cannot be bound, OSError when too few file descriptors are left,
        UserError for tcp without ``keys``.
        """
        self._socket = descriptors.open_socket(zmq.ROUTER)
        for option, value in (
            (zmq.LINGER, 0), (zmq.MAXMSGSIZE, wire.MESSAGE_BYTES_MAX), (zmq.HANDSHAKE_IVL, 3000),
            (zmq.RCVHWM, 1000), (zmq.SNDHWM, 1000),
        ):  # fmt: skip
            self._socket.setsockopt(option, value)
        if not endpoint.startswith(("ipc://", "inproc://")):
            self._authenticator = secure(self._socket.context, self._socket, keys or self._store.directory / "keys")
        self._listener = Listener(self._socket, endpoint)
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        self._poller.register(self._waker.fileno(), zmq.POLLIN)

    def close(self) -> None:
        if self._authenticator is not None:
            self._authenticator.stop()
        self._socket.context.destroy(linger=0)
        self._waker.close()
        self._journals.close()

    def wake(self) -> None:
        """End the wait of a round that is in progress. Thread-safe."""
        self._waker.wake()

    def submit(self, run_id: str, event: wire.Event) -> None:
        """Journal an event of the sidecar's own: readings with a trainer's next batch, all else at once. Thread-safe.

        Where rounds take so long that too many wait (a disk that hangs), the oldest is given up and counted.
        """
        if not self._submissions.put(run_id, event, time.monotonic()):
            self._telemetry.events_lost_total["journal_stalled"] += 1
        if not isinstance(event, wire.Hardware):
            self._waker.wake()

    def open_run(self, run_id: str) -> Journal | None:
        """The journal of a run, opened on first use. None when there are too many, or the file is not usable."""
        return self._journals.open(run_id, self._busy_runs())

    def _busy_runs(self) -> set[str]:
        return self._pending.keys() | {self._sessions[session].run_id for session in self._replies}

    def write(self, run_id: str, kind: str, write: Write, *, at_once: bool = False) -> None:
        """Have something written beside the events (this thread owns the journals): with a trainer's next batch, or
        ``at_once``. Thread-safe.

        Only the last of each ``kind`` is written.
        """
        self._submissions.put_write(run_id, kind, write, time.monotonic(), at_once=at_once)
        if at_once:
            self._waker.wake()

    def journals(self) -> list[tuple[str, Journal]]:
        """The open journals. For this thread only."""
        return list(self._journals)

    def round(self, poll_seconds: float = POLL_SECONDS) -> bool:
        """Receive for a while, commit once, acknowledge, hand on. True when anything came."""
        now = time.monotonic()
        self._ask(now)
        received = 0
        if self._wait(min(poll_seconds, self._fetches.seconds_to_due(now))):
            received = self._receive(MESSAGES_PER_ROUND_MAX)
            while received < MESSAGES_PER_ROUND_MAX:  # After a silence, wait only for the others that were asked.
                gathered_since = max(self._committed, self._fetches.awaited_since())
                left = gathered_since + ROUND_SECONDS_MAX - time.monotonic()
                if left <= 0 or not self._socket.poll(max(1, int(left * 1000))):
                    break
                received += self._receive(MESSAGES_PER_ROUND_MAX - received)
        if received or poll_seconds == 0.0 or self._submissions.are_due(time.monotonic()):
            self._take_own()
        has_committed = self.commit()
        self._fetches.settle(time.monotonic())
        return has_committed or received > 0

    def _ask(self, now: float) -> None:
        if self._fetches.are_due(now):
            peers = self._sessions.peers()
            for session in self._fetches.ask(now, peers):
                self._answer(peers[session], wire.Fetch(session))
            self._fetches.settle(now)

    def _wait(self, seconds: float) -> bool:
        """Until a message is here (True), or the time is up, or somebody wakes us."""
        ends = time.monotonic() + seconds
        while True:
            now = time.monotonic()
            if self._listener.adjust(now):
                self._reject("descriptors_short")
            left = max(0.0, ends - now)
            ready = dict(self._poller.poll(math.ceil(1000 * min(left, self._listener.seconds_to_check(now)))))
            if self._waker.fileno() in ready:
                self._waker.clear()
            if ready or left == 0.0:
                return self._socket in ready

    def _receive(self, count_max: int) -> int:
        """Take what is here already, for no longer than a round may last. Returns how many messages that was."""
        ends = time.monotonic() + ROUND_SECONDS_MAX
        for count in range(count_max):
            try:
                peer, *frames = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return count
            self._take(peer, frames)
            if time.monotonic() > ends:
                return count + 1
        return count_max

    def ingest(self, hello: wire.Hello, first_seq: int, oldest_seq: int, records: list[bytes]) -> Stream | None:
        """Accept events that did not come over the socket (an orphaned ring). Commit with :meth:`commit`."""
        if not self._greet(hello):
            return None
        frame = wire.Frame(hello.run_id, hello.rank, hello.session, first_seq, oldest_seq, records)
        journal = self._journals[hello.run_id]
        self._accept(journal, journal.streams[hello.session], frame)
        return journal.streams[hello.session]

    def commit(self) -> bool:
        """Write what was accepted, acknowledge it, hand it on. False when there was nothing."""
        if not self._pending and not self._replies:
            return False
        self._committed = time.monotonic()
        pending, self._pending = self._pending, {}
        committed = [run_id for run_id, batch in pending.items() if self._append(run_id, batch)]
        self._acknowledge()
        for run_id in committed:
            self._guarded(self.on_committed, run_id)
        return True

    def _append(self, run_id: str, batch: _Pending) -> bool:
        try:
            self._journals[run_id].append(batch.chunks, self._guarded(self.summary_of, run_id))
        except (OSError, sqlite3.Error) as error:
            self._journals.note_failure(error)
            for session in batch.next_seqs:
                self._replies.pop(session, None)  # Not committed, so not acknowledged: the trainers hold their events.
            for chunk in batch.chunks:
                if chunk.session == self._own_session:
                    for record in chunk.records:
                        self._retry_own(run_id, wire.decode_event(record))
            return False
        if any(chunk.session != self._own_session for chunk in batch.chunks):
            self._journals.note_use(run_id, self._committed)
        self._telemetry.events_total += sum(len(chunk.records) for chunk in batch.chunks)
        if batch.lost_events:
            self._count_lost(run_id, batch.lost_events)
        self._journals.note_commit()
        return True

    def _retry_own(self, run_id: str, event: wire.Event) -> None:
        """Nobody else holds the news that a process is gone. Gaps are declared again; readings are let go."""
        if isinstance(event, wire.RankEnded):
            self.submit(run_id, event)

    def _count_lost(self, run_id: str, count: int) -> None:
        self._telemetry.events_lost_total[LOSS_REASON] += count
        if self._committed >= self._next_loss_log:
            self._next_loss_log = self._committed + LOSS_LOG_SECONDS
            log.warning("%d events of %s are lost: a trainer's ring was too small for the outage", count, run_id)

    def _take(self, peer: bytes, frames: list[bytes]) -> None:
        if len(frames) != 1:
            return self._reject("not_one_frame")
        try:
            message = wire.decode_from_trainer(frames[0])
        except wire.WrongVersion as error:
            self._answer(peer, wire.Refused(0, str(error)))
            return self._reject("wrong_version" if frames[0][:2] == wire.MAGIC else "not_this_protocol")
        except Exception:  # noqa: BLE001 - Hostile bytes raise more than msgspec's own errors (UnicodeDecodeError, RecursionError).
            return self._reject("malformed")
        if isinstance(message, wire.Hello):
            self._take_hello(peer, message)
        else:
            self._take_frame(peer, message)

    def _take_hello(self, peer: bytes, hello: wire.Hello) -> None:
        if reason := self._reason_to_refuse(hello):
            self._answer(peer, wire.Refused(hello.session, reason))
            return self._reject("hello_refused")
        if self._greet(hello):
            self._fetches.answered(hello.session)  # What it was asked may have been lost with its old connection.
            self._sessions[hello.session].peer = peer if hello.answers_fetch else None
            stream = self._journals[hello.run_id].streams[hello.session]
            waiting = self._pending.get(hello.run_id)
            if waiting is None or hello.session not in waiting.next_seqs:
                self._answer(peer, wire.Ack(hello.session, stream.next_seq))

    def _reason_to_refuse(self, hello: wire.Hello) -> str | None:
        known = self._sessions.get(hello.session)
        if known is not None:
            return None if known.run_id == hello.run_id else "session belongs to another run"
        if not 0 < len(hello.run_id.encode(errors="replace")) <= wire.NAME_BYTES_MAX:
            return f"a run id has 1 to {wire.NAME_BYTES_MAX} bytes"
        if not 0 <= hello.rank < 2**31 or not 0 <= hello.session < 2**63 or not 1 <= hello.world_size < 2**31:
            return "impossible rank, world size or session"
        if not self._sessions.make_room(time.monotonic(), self._replies):
            return f"more than {self._sessions.sessions_max} training processes; raise streams_max"
        if not self._journals.has_room_for(hello.run_id, self._busy_runs()):
            return f"more than {self._journals.runs_max} runs; raise runs_max"
        return None

    def _greet(self, hello: wire.Hello) -> bool:
        """Make sure the journal knows this stream and what it said of itself. False: it could not be stored."""
        journal = self.open_run(hello.run_id)
        if journal is None:
            return False
        stream, received_ns = journal.streams.get(hello.session), time.time_ns()
        changed = stream is None or stream.hello != hello
        if changed:
            try:
                journal.greet(hello, received_ns)
            except (OSError, sqlite3.Error) as error:
                self._journals.note_failure(error)
                return False
        if changed or hello.session not in self._sessions:
            self._sessions.add(hello.session, hello.run_id, time.monotonic())
            self._telemetry.streams = len(self._sessions)
            self._guarded(self.on_hello, hello, received_ns)
        return True

    def _take_frame(self, peer: bytes, frame: wire.Frame) -> None:
        session = self._sessions.get(frame.session)
        if session is None:
            return self._answer(peer, wire.WantHello(frame.session))
        possible = session.run_id == frame.run_id and 0 <= frame.first_seq <= SEQ_MAX
        if not possible or len(frame.records) > wire.FRAME_EVENTS_MAX:
            return self._reject("impossible_frame")
        session.heard = time.monotonic()
        if session.peer is not None:
            session.peer = peer  # It differs after the trainer has connected anew.
        self._fetches.answered(frame.session)
        journal = self._journals[session.run_id]
        stream = journal.streams[frame.session]
        self._telemetry.frames_total += 1
        if not self._accept(journal, stream, frame):
            self._answer(peer, wire.Resend(frame.session, stream.next_seq))
        elif frame.records:  # An empty frame only says that there is nothing to send.
            self._replies[frame.session] = peer

    def _accept(self, journal: Journal, stream: Stream, frame: wire.Frame) -> bool:
        """Queue the new part of a frame. False: something before it is missing and must be sent again."""
        waiting = self._pending.get(frame.run_id)
        expected = stream.next_seq if waiting is None else waiting.next_seqs.get(stream.session, stream.next_seq)
        end = frame.first_seq + len(frame.records)
        if frame.first_seq > expected:
            if frame.oldest_seq <= expected:
                return False
            missing = min(frame.oldest_seq, frame.first_seq) - expected
            if not self._declare_gap(journal, frame, expected, missing) or frame.first_seq > expected + missing:
                return False
            expected += missing
        self._telemetry.duplicates_total += max(0, min(end, expected) - frame.first_seq)
        fresh = frame.records[expected - frame.first_seq :] if end > expected else []
        if fresh:
            self._queue(frame.run_id, Chunk(frame.session, expected, time.time_ns(), fresh))
        return True

    def _queue(self, run_id: str, chunk: Chunk) -> None:
        waiting = self._pending.setdefault(run_id, _Pending())
        waiting.chunks.append(chunk)
        waiting.next_seqs[chunk.session] = chunk.first_seq + len(chunk.records)

    def _declare_gap(self, journal: Journal, frame: wire.Frame, first_seq: int, count: int) -> bool:
        """The ring had to overwrite these events: say so in the journal, once, in front of what follows."""
        gap = wire.Gap(time.time_ns(), time.monotonic_ns(), frame.rank, frame.session, first_seq, count, LOSS_REASON)
        if not self._queue_own(frame.run_id, journal, [wire.encode_event(gap)]):
            return False
        self._queue(frame.run_id, Chunk(frame.session, first_seq + count, time.time_ns(), []))
        self._pending[frame.run_id].lost_events += count
        return True

    def _take_own(self) -> None:
        taken = self._submissions.take()
        for run_id, write in taken.writes:
            self._write(run_id, write)
        for run_id, event in taken.events:
            journal = self.open_run(run_id)
            if journal is None or not self._queue_own(run_id, journal, [wire.encode_event(event)]):
                self._retry_own(run_id, event)

    def _write(self, run_id: str, write: Write) -> None:
        journal = self.open_run(run_id)
        if journal is None:
            return
        try:
            write(journal)
        except (OSError, sqlite3.Error) as error:
            self._journals.note_failure(error)

    def _queue_own(self, run_id: str, journal: Journal, records: list[bytes]) -> bool:
        """False: the journal does not take it now."""
        try:
            stream = journal.own_stream(self._own_session, time.time_ns())
        except (OSError, sqlite3.Error) as error:
            self._journals.note_failure(error)
            return False
        waiting = self._pending.get(run_id)
        seq = stream.next_seq if waiting is None else waiting.next_seqs.get(stream.session, stream.next_seq)
        self._queue(run_id, Chunk(stream.session, seq, time.time_ns(), records))
        return True

    def _acknowledge(self) -> None:
        replies, self._replies = self._replies, {}
        for session, peer in replies.items():
            stream = self._journals[self._sessions[session].run_id].streams[session]
            self._answer(peer, wire.Ack(session, stream.next_seq))

    def _answer(self, peer: bytes, reply: wire.Reply) -> None:
        try:
            self._socket.send_multipart([peer, wire.encode(reply)], zmq.NOBLOCK)
        except zmq.ZMQError as error:  # The peer is gone or does not read: acknowledgements are cumulative.
            log.debug("no answer to a trainer: %s", error)

    def _guarded(self, listener: Callable[..., Any], *news: object) -> Any:
        """None where it fails. A task boundary: whoever shows or passes on events must not stop their delivery."""
        try:
            return listener(*news)
        except Exception as error:  # noqa: BLE001 - See above.
            self._reject("internal_error")
            if repr(error) != self._logged_fault:  # Once for each condition, not for each commit.
                self._logged_fault = repr(error)
                log.exception("a listener of the intake failed")

    def _reject(self, reason: str) -> None:
        self._telemetry.frames_rejected_total[reason] += 1
