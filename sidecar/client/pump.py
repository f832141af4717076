"""The only thread of the client, and the only owner of its socket: it moves the ring to the sidecar.

Given: the ring. Hands on: frames over ZeroMQ; takes back acknowledgements and frees what they cover.
Never: is woken by a step, except by one that has filled half of the ring since the last tick. Otherwise the sidecar
wakes it (``Fetch``: once a second, and when somebody reads), or the clock, because waking a sleeping reader is what
makes a hand-off expensive.

The protocol is go-back-N with cumulative acknowledgements. A Hello asks where to begin; its Ack answers. Then frames
flow inside a window. A Resend, or silence for a while, sends us back to the oldest event that is not acknowledged.
"""

import os
import threading
import time
from collections import deque
from collections.abc import Callable

import zmq

from sidecar import descriptors, wire
from sidecar.rendezvous import secure_client
from sidecar.ring import Ring
from sidecar.waker import Waker

TICK_SECONDS = 2.0  # While the sidecar does not ask: it is busy, gone, or too old to know Fetch.
BACKLOG_TICK_SECONDS = 0.002
GREETING_TICK_SECONDS = 0.02  # Until the first answer, so that a new run is soon seen ...
GREETING_SECONDS = 2.0  # ... but no longer: there may be no sidecar.
FLUSH_TICK_SECONDS = 0.05  # Acknowledgements end the wait anyway; all ranks of a node flush at the same time.
FRAMES_PER_TICK_MAX = 8  # About 1 ms of work: the training thread shares the interpreter lock with us.
FRAMES_IN_FLIGHT_MAX = 64
SILENCE_SECONDS_MIN = 2.0  # Nothing acknowledged for this long: greet again. Doubles up to the maximum.
SILENCE_SECONDS_MAX = 5.0
HELLO_SECONDS = 0.5
REFUSED_SECONDS = 30.0
REWIND_SECONDS = 0.1  # At most one rewind in this time: each duplicate frame in a burst asks for one.
FAULT_SECONDS = 1.0  # Before another attempt, so that a fault that lasts costs training next to nothing.
DESCRIPTORS_SECONDS = 0.25  # Between two looks, while the process has no file descriptor left.
HEARTBEAT_MILLISECONDS = 5_000  # Of libzmq, over tcp: a connection can die without either end being told.
HEARTBEATS_MISSED = 3  # Then libzmq connects anew. What was on its way is sent again.
STOP_SECONDS = 2.0
CONNECT_SECONDS = 1.0  # How long a flush waits for a sidecar that never answered.


class Pump:
    def __init__(
        self, ring: Ring, lock: threading.Lock, hello: wire.Hello, endpoint: str, on_tick: Callable[[], None]
    ) -> None:
        """``on_tick`` is called at each wake-up, before anything is sent: the run's own housekeeping."""
        self.connected = False
        self.refused_reason: str | None = None
        self._ring, self._lock, self._hello, self._endpoint, self._on_tick = ring, lock, hello, endpoint, on_tick
        self._position, self._seq = ring.tail, ring.tail_seq
        self._in_flight: deque[tuple[int, int]] = deque()  # (seq, position) after each frame not yet acknowledged
        self._next_hello = self._last_progress = self._last_rewind = self._last_heard = 0.0
        self._silence_seconds = SILENCE_SECONDS_MIN
        self._greeting_until = 0.0
        self._flush_until: float | None = None
        self._is_asked = False
        """A frame is to be sent, if only an empty one: the sidecar waits for it, or may not know that we are here."""
        self._stopping = self._has_failed = False
        self._waker: Waker | None = None
        """There while the thread has a socket."""
        self._idle = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sidecar-pump", daemon=True)

    def start(self) -> None:
        """Begin to send. A process that may not have another thread trains on, and its events wait in the ring."""
        try:
            self._thread.start()
        except RuntimeError as error:
            warn("sidecar: events stay in the ring, no thread can send them: %s", error)

    def flush(self, timeout_seconds: float) -> bool:
        """Wait until everything is acknowledged, at most ``timeout_seconds``. True: nothing is left in the ring."""
        if self._thread.is_alive():
            self._idle.clear()
            self._flush_until = time.monotonic() + timeout_seconds
            self._wake()
            self._idle.wait(timeout_seconds + 1.0)
        return self._ring.tail_seq == self._ring.head_seq

    def stop(self) -> None:
        """End the thread and close the socket. Bounded: the thread never waits longer than a tick."""
        self._stopping = True
        self._wake()
        if self._thread.is_alive():
            self._thread.join(STOP_SECONDS)

    def _wake(self) -> None:
        """End the wait that is under way, or the next one. Takes no lock: a signal may interrupt the step that calls
        this, and its handler may end the run, which calls this as well."""
        waker = self._waker  # Holding it keeps its descriptors from being closed meanwhile.
        if waker is not None:
            waker.wake()

    def _run(self) -> None:
        try:
            while (socket := self._open_socket()) is not None:
                try:
                    self._connect(socket)
                    self._converse(socket)
                finally:
                    socket.context.destroy(linger=0)
        except Exception as error:  # noqa: BLE001 - Task boundary: the training process must not notice, the ring keeps everything.
            warn("sidecar: events stay in the ring, the pump stopped: %s", error)
        finally:
            self._waker = None
            self._idle.set()

    def _open_socket(self) -> "zmq.Socket[bytes] | None":
        """Waits while the process has too few file descriptors. None: stopped meanwhile."""
        warned = False
        while not self._stopping:
            try:
                self._waker = Waker()
                return descriptors.open_socket(zmq.DEALER)
            except OSError:
                self._waker = None
                if not warned:
                    warn("sidecar: no file descriptors left, events stay in the ring until there are; see ulimit -n")
                    warned = True
            self._on_tick()
            self._finish_flush(time.monotonic())
            time.sleep(DESCRIPTORS_SECONDS)
        return None

    def _connect(self, socket: "zmq.Socket[bytes]") -> None:
        """Raises NoKeys, or zmq.ZMQError for an impossible endpoint. There is no use in trying that again."""
        self._configure(socket, self._endpoint)
        secure_client(socket, self._endpoint, os.environ)
        socket.connect(self._endpoint)
        self._greeting_until = time.monotonic() + GREETING_SECONDS

    def _converse(self, socket: "zmq.Socket[bytes]") -> None:
        """Until the end of the run, or a fault such as a lack of memory: then another socket may do better."""
        poller = self._poller(socket)
        try:
            while not self._stopping:
                self._tick(socket, time.monotonic())
                self._pause(socket, poller)
        except Exception as error:  # noqa: BLE001 - Task boundary: a run of weeks must not go dark for one fault.
            if not self._has_failed:
                warn("sidecar: a fault while events were sent, they wait in the ring for the next attempt: %r", error)
            self._has_failed, self.connected = True, False
            time.sleep(FAULT_SECONDS)

    @staticmethod
    def _configure(socket: "zmq.Socket[bytes]", endpoint: str) -> None:
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.SNDHWM, FRAMES_IN_FLIGHT_MAX + 8)
        socket.setsockopt(zmq.RCVHWM, 1000)
        socket.setsockopt(zmq.RECONNECT_IVL, 50)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)
        socket.setsockopt(zmq.MAXMSGSIZE, wire.MESSAGE_BYTES_MAX)
        if endpoint.startswith("tcp://"):
            patience = HEARTBEATS_MISSED * HEARTBEAT_MILLISECONDS
            socket.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MILLISECONDS)
            socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, patience)
            socket.setsockopt(zmq.HEARTBEAT_TTL, patience + HEARTBEAT_MILLISECONDS)  # After this the sidecar hangs up.
            socket.setsockopt(zmq.CONNECT_TIMEOUT, HEARTBEAT_MILLISECONDS)  # The kernel would ask ever more seldom.

    def _poller(self, socket: "zmq.Socket[bytes]") -> zmq.Poller:
        assert self._waker is not None
        poller = zmq.Poller()
        poller.register(socket, zmq.POLLIN)
        poller.register(self._waker.fileno(), zmq.POLLIN)
        return poller

    def _tick(self, socket: "zmq.Socket[bytes]", now: float) -> None:
        self._on_tick()
        self._receive(socket, now)
        if not self.connected:
            self._greet(socket, now)
        elif self._in_flight and now - self._last_progress > self._silence_seconds:
            self.connected = False
            self._silence_seconds = min(2 * self._silence_seconds, SILENCE_SECONDS_MAX)
            self._greet(socket, now)
        elif not self._in_flight and now - self._last_heard >= TICK_SECONDS:
            self._is_asked = True  # Perhaps by a sidecar that was started since, and does not know us.
        if self.connected:
            self._send_frames(socket, now)
        self._finish_flush(now)

    def _pause(self, socket: "zmq.Socket[bytes]", poller: zmq.Poller) -> None:
        """Until there is something to do. Acknowledgements are taken meanwhile."""
        seconds = self._seconds_to_tick()
        ends = time.monotonic() + seconds
        while seconds > 0.0 and (ready := dict(poller.poll(int(1000 * seconds)))):
            now = time.monotonic()
            if socket not in ready:
                assert self._waker is not None
                self._waker.clear()
                return
            before = self.connected, self._seq
            self._receive(socket, now)
            if self._is_asked or self._flush_until is not None or (self.connected, self._seq) != before:
                return
            seconds = ends - now

    def _seconds_to_tick(self) -> float:
        seconds = self._seconds_to_usual_tick()
        return seconds if self._flush_until is None else min(seconds, FLUSH_TICK_SECONDS)

    def _seconds_to_usual_tick(self) -> float:
        if not self.connected:
            return GREETING_TICK_SECONDS if time.monotonic() < self._greeting_until else HELLO_SECONDS
        if self._ring.is_half_full and self._unsent_events and len(self._in_flight) < FRAMES_IN_FLIGHT_MAX:
            return 0.0  # A loss is nearer than a slow step.
        if self._has_backlog:
            return BACKLOG_TICK_SECONDS
        self._ring.alert_when_half_full(self._wake)
        return TICK_SECONDS

    @property
    def _unsent_events(self) -> int:
        return self._ring.head_seq - self._seq

    @property
    def _has_backlog(self) -> bool:
        return self._ring.is_half_full or self._unsent_events > wire.FRAME_EVENTS_MAX

    def _finish_flush(self, now: float) -> None:
        if self._flush_until is None:
            return
        done = self._ring.tail_seq == self._ring.head_seq
        if done or now > self._flush_until or (self.refused_reason and not self.connected):
            self._flush_until = None
            self._idle.set()

    def _greet(self, socket: "zmq.Socket[bytes]", now: float) -> None:
        if now >= self._next_hello:
            self._next_hello = now + (REFUSED_SECONDS if self.refused_reason else HELLO_SECONDS)
            self._send(socket, wire.encode(self._hello))

    def _receive(self, socket: "zmq.Socket[bytes]", now: float) -> None:
        for _ in range(4 * FRAMES_IN_FLIGHT_MAX):
            try:
                reply = wire.decode_from_sidecar(socket.recv(zmq.NOBLOCK))
            except zmq.Again:
                return
            except Exception as error:  # noqa: BLE001 - Bytes from elsewhere raise more than msgspec's own errors.
                self._note_unreadable(error)
                continue
            if reply.session == self._hello.session:
                self._last_heard = now
                self._handle(reply, now)

    def _note_unreadable(self, error: Exception) -> None:
        """A sidecar that took us may be newer, and say what we need not know. Another one is asked on, slowly."""
        if not self.connected:
            if self.refused_reason is None:
                warn("sidecar: what answers at %s cannot be understood: %s", self._endpoint, error)
            self.refused_reason = f"unreadable answer: {error}"

    def _handle(self, reply: wire.Reply, now: float) -> None:
        if isinstance(reply, wire.Refused):
            if self.refused_reason is None:
                warn("sidecar: the sidecar refuses this run: %s", reply.reason)
            self.connected, self.refused_reason = False, reply.reason
            self._next_hello = now + REFUSED_SECONDS
        elif isinstance(reply, wire.WantHello):
            self.connected, self._next_hello = False, now
        elif isinstance(reply, wire.Fetch):
            self._is_asked = True
        elif isinstance(reply, wire.Resend):
            self._acknowledge(reply.next_seq, now)
            if now - self._last_rewind > REWIND_SECONDS:
                self._rewind(now)
        else:
            self._acknowledge(reply.next_seq, now)
            if not self.connected:
                self.connected = True
                self.refused_reason = None
                self._rewind(now)

    def _acknowledge(self, next_seq: int, now: float) -> None:
        if next_seq > self._ring.head_seq:
            return  # A lie or a bug on the other side: believing it would forget events.
        position = None
        while self._in_flight and self._in_flight[0][0] <= next_seq:
            position = self._in_flight.popleft()
        if position is not None:
            self._last_progress, self._silence_seconds = now, SILENCE_SECONDS_MIN
            with self._lock:
                self._ring.release(position[1], position[0])

    def _rewind(self, now: float) -> None:
        self._last_rewind = self._last_progress = now
        self._in_flight.clear()
        with self._lock:
            self._position, self._seq = self._ring.tail, self._ring.tail_seq

    def _send_frames(self, socket: "zmq.Socket[bytes]", now: float) -> None:
        for _ in range(FRAMES_PER_TICK_MAX):
            unsent_events = self._unsent_events
            if len(self._in_flight) >= FRAMES_IN_FLIGHT_MAX or not (unsent_events or self._is_asked):
                return
            records, position = self._ring.read(
                self._position, self._seq, bytes_max=wire.FRAME_BYTES_MAX, events_max=wire.FRAME_EVENTS_MAX
            )
            if unsent_events and not records:  # The ring overwrote what we were about to send: go on with the rest.
                self._rewind(now)
                continue
            if not self._send(socket, wire.encode(self._frame(records))):
                return
            self._is_asked = False
            if records:
                self._note_sent(len(records), position, now)

    def _frame(self, records: list[bytes]) -> wire.Frame:
        hello = self._hello
        return wire.Frame(
            hello.run_id, hello.rank, hello.session, self._seq, min(self._ring.tail_seq, self._seq), records
        )

    def _note_sent(self, count: int, position: int, now: float) -> None:
        if not self._in_flight:
            self._last_progress = now
        self._position, self._seq = position, self._seq + count
        self._in_flight.append((self._seq, position))

    @staticmethod
    def _send(socket: "zmq.Socket[bytes]", message: bytes) -> bool:
        try:
            socket.send(message, zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True


def warn(text: str, *values: object) -> None:
    import logging  # Only here: most training processes hear nothing from us, and loading it takes two milliseconds.

    logging.getLogger("sidecar").warning(text, *values)
