"""Simulated training processes: one socket that speaks the wire for many ranks at once.

Given: an endpoint and how many ranks to play. Hands on: frames of step events, until each is acknowledged.
Never: keeps its events (it makes them again when asked to resend), so it measures the sidecar and not itself.

    python -m benchmarks.ranks ENDPOINT RUN_ID --ranks 64 --steps 1000        # as fast as the sidecar takes them
    python -m benchmarks.ranks ENDPOINT RUN_ID --ranks 64 --steps 100 --rate 10  # at 10 steps a second

It greets, prints "ready", waits for a line on stdin, and then sends. Its last line is what happened, as JSON.
"""

import json
import secrets
import socket as sockets
import sys
import time

import zmq

from benchmarks import common
from sidecar import wire

EVENTS_IN_FLIGHT_MAX = 4096
QUIET_SECONDS = 60.0
SILENCE_SECONDS = 3.0


class Ranks:
    def __init__(self, endpoint: str, run_id: str, first_rank: int, ranks: int, world_size: int) -> None:
        self.run_id, self.ranks, self.first_rank, self.world_size = run_id, ranks, first_rank, world_size
        self.sessions = [secrets.randbits(63) for _ in range(ranks)]
        self.acknowledged = [0] * ranks
        self.sent = [0] * ranks
        self.resends = self.silences = 0
        self._by_session = {session: index for index, session in enumerate(self.sessions)}
        self._metrics = dict(common.twelve_metrics(1))
        self._socket = zmq.Context().socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.connect(endpoint)

    def greet(self, timeout_seconds: float = 60.0) -> None:
        """Introduce every rank and wait until the sidecar has answered each."""
        waiting, deadline = set(self.sessions), time.monotonic() + timeout_seconds
        for index in range(self.ranks):
            self._socket.send(wire.encode(self._hello(index)))
        while waiting and time.monotonic() < deadline:
            if self._socket.poll(1000):
                reply = wire.decode_from_sidecar(self._socket.recv())
                if isinstance(reply, wire.Refused):
                    raise SystemExit(f"refused: {reply.reason}")
                waiting.discard(reply.session)
        if waiting:
            raise SystemExit(f"{len(waiting)} ranks were not answered")

    def _hello(self, index: int) -> wire.Hello:
        return wire.Hello(
            run_id=self.run_id, rank=self.first_rank + index, session=self.sessions[index], time_ns=time.time_ns(),
            mono_ns=time.monotonic_ns(), project="benchmark", world_size=self.world_size, host=sockets.gethostname(),
            launch_id="benchmark", total_steps=1_000_000,
            model_facts={"flops_per_token": 6e9, "peak_flops": 1e15, "peak_source": "benchmark", "dtype": "bf16"},
        )  # fmt: skip

    def send(self, index: int, count: int) -> None:
        first = self.sent[index]
        now_ns, mono_ns = time.time_ns(), time.monotonic_ns()
        records = [
            wire.encode_event(wire.Step(now_ns, mono_ns, step, self._metrics)) for step in range(first, first + count)
        ]
        frame = wire.Frame(
            self.run_id, self.first_rank + index, self.sessions[index], first, self.acknowledged[index], records
        )
        self._socket.send(wire.encode(frame))
        self.sent[index] = first + count

    def receive(self, wait_milliseconds: int) -> None:
        while self._socket.poll(wait_milliseconds):
            wait_milliseconds = 0
            reply = wire.decode_from_sidecar(self._socket.recv())
            index = self._by_session.get(reply.session)
            if isinstance(reply, wire.Refused) or index is None:
                raise SystemExit(f"refused: {reply}")
            if isinstance(reply, wire.Ack):
                self.acknowledged[index] = max(self.acknowledged[index], reply.next_seq)
            else:
                self.resends += 1
                self.sent[index] = reply.next_seq if isinstance(reply, wire.Resend) else self.sent[index]

    def ask(self, frame: wire.Frame) -> bool:
        """Send one frame and wait a while. True: all of it is acknowledged."""
        self._socket.send(wire.encode(frame))
        self.receive(1000)
        return self.acknowledged[0] >= frame.first_seq + len(frame.records)

    def full_speed(self, steps: int, frame_events: int) -> None:
        """All ranks advance together, a frame at a time, inside a window of frames that are not acknowledged."""
        last_progress, done_before, asked = time.monotonic(), 0, 0.0
        while (done := sum(self.acknowledged)) < steps * self.ranks:
            idle = True
            for index in range(self.ranks):
                ahead = self.sent[index] - self.acknowledged[index]
                if self.sent[index] < steps and ahead < max(frame_events, EVENTS_IN_FLIGHT_MAX // self.ranks):
                    self.send(index, min(frame_events, steps - self.sent[index]))
                    idle = False
            self.receive(20 if idle else 0)
            if done > done_before:
                last_progress, done_before = time.monotonic(), done
            elif time.monotonic() - max(last_progress, asked) > SILENCE_SECONDS:
                asked = time.monotonic()
                self._ask_again(steps)
            elif time.monotonic() - last_progress > QUIET_SECONDS:
                raise SystemExit(f"nothing acknowledged for {QUIET_SECONDS:.0f} s")

    def _ask_again(self, steps: int) -> None:
        """As the client does after a silence: say hello, and go on from where the answer says."""
        self.silences += 1
        for index in range(self.ranks):
            if self.acknowledged[index] < steps:
                self._socket.send(wire.encode(self._hello(index)))
        self.receive(1000)
        self.sent = list(self.acknowledged)

    def paced(self, steps: int, per_second: float) -> float:
        """One step of every rank per period, a frame each. Returns the worst delay behind the schedule, seconds."""
        began, behind = time.monotonic(), 0.0
        for step in range(steps):
            for index in range(self.ranks):
                self.send(index, 1)
                if index % 64 == 0:
                    self.receive(0)
            due = began + (step + 1) / per_second
            behind = max(behind, time.monotonic() - due)
            while (left := due - time.monotonic()) > 0:
                self.receive(max(1, int(left * 1000)))
        deadline = time.monotonic() + QUIET_SECONDS
        while min(self.acknowledged) < steps and time.monotonic() < deadline:
            self.receive(100)
        return behind


def main() -> int:
    parser = common.parser(__doc__)
    parser.add_argument("endpoint")
    parser.add_argument("run_id")
    parser.add_argument("--first-rank", type=int, default=0)
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--world-size", type=int, default=0, help="default: as many as --ranks")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--frame-events", type=int, default=wire.FRAME_EVENTS_MAX)
    parser.add_argument("--rate", type=float, help="steps per second of each rank (default: as fast as possible)")
    options = parser.parse_args()
    ranks = Ranks(
        options.endpoint, options.run_id, options.first_rank, options.ranks, options.world_size or options.ranks
    )
    ranks.greet()
    print("ready", flush=True)
    sys.stdin.readline()
    began, cpu_began, behind = time.monotonic(), time.process_time(), None
    if options.rate:
        behind = ranks.paced(options.steps, options.rate)
    else:
        ranks.full_speed(options.steps, options.frame_events)
    facts = {
        "seconds": time.monotonic() - began,
        "cpu_seconds": time.process_time() - cpu_began,
        "acknowledged": sum(ranks.acknowledged),
        "resends": ranks.resends,
        "silences": ranks.silences,
        "behind_seconds": behind,
    }
    print(json.dumps(facts), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
