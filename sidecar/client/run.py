"""The object a training loop holds: every call encodes one event, copies it into the ring, and returns.

Given: numbers, texts, phases. Hands on: events in shared memory; the pump takes them from there.
Never: raises into the loop, blocks, makes a system call in step(), or synchronises a device.
"""

import atexit
import contextlib
import os
import secrets
import socket
import sys
import threading
import weakref
from collections import deque
from collections.abc import Mapping, Sequence
from time import monotonic_ns, time_ns
from types import TracebackType
from typing import Any

import msgspec

import sidecar
from sidecar import ring as ring_file
from sidecar import wire
from sidecar.client import facts, identity, values
from sidecar.client.histogram import binned
from sidecar.client.pump import CONNECT_SECONDS, Pump
from sidecar.rendezvous import default_endpoint, endpoint_key, private_directory, ring_directories

ASIDE_EVENTS_MAX = 4096  # Events that met a held lock; the next wake-up of the pump moves them into the ring.
REPORT_SECONDS = 1.0
FLUSH_SECONDS_DEFAULT = 10.0

IMPLICIT = "torch"
IMPLICIT_FLUSH_SECONDS = 1.0

_live_runs: "weakref.WeakSet[Run]" = weakref.WeakSet()
_begun: "list[Run]" = []  # Those that live, in the order of their beginning.
_implicit: "Run | None" = None


def init(
    project: str,
    name: str | None = None,
    stage: str | None = None,
    *,
    config: Mapping[str, Any] | None = None,
    total_steps: int | None = None,
    model: Any = None,
    model_facts: Mapping[str, Any] | None = None,
    run_id: str | None = None,
    group: str | None = None,
    tags: Sequence[str] = (),
    notes: str | None = None,
    entity: str | None = None,
    sinks: Sequence[str] | None = None,
    rank: int | None = None,
    world_size: int | None = None,
    endpoint: str | None = None,
    captured: str | None = None,
) -> "Run":
    """Begin a run, or this rank's part of it. Call it once per process (again for a further run).

    ``model`` is an nn.Module whose size and shape are looked up; ``model_facts`` are the same by hand and win:
    flops_per_token, peak_flops (of one device, FLOP/s), peak_source, params, trainable_params, layers, heads, head_dim,
    seq_len, dtype, device_name. ``sinks`` names outlets such as "wandb"; None leaves the choice to the sidecar.

    The sidecar is found by ``endpoint``, else SIDECAR_ENDPOINT, else the default of this user and machine. It need not
    be there: the ring keeps what is emitted, and the next sidecar at that endpoint claims it.

    ``captured`` names the library whose calls make this run; "torch" begins an implicit one, which the first run that
    somebody asks for replaces under the same id.

    Raises TypeError or ValueError for a wrong argument; nothing after this call ever raises.
    """
    _check(project, name, stage, total_steps, sinks)
    environ = os.environ
    _retire_implicit()
    number = identity.next_init_number()
    hello = wire.Hello(
        run_id=identity.run_id(run_id, environ, number, project, name, stage),
        rank=identity.rank(environ) if rank is None else rank,
        session=secrets.randbits(63),
        time_ns=time_ns(),
        mono_ns=monotonic_ns(),
        project=project,
        name=name,
        stage={"pretraining": "pretrain", "midtraining": "midtrain"}.get(stage or "", stage),
        world_size=identity.world_size(environ) if world_size is None else world_size,
        local_rank=identity.local_rank(environ),
        pid=os.getpid(),
        pid_started=ring_file.process_started_seconds(os.getpid()),
        host=socket.gethostname(),
        launch_id=identity.launch_id(environ),
        config=_wire_map(config),
        model_facts=_wire_map(facts.model_facts(model, model_facts)),
        total_steps=total_steps,
        group=group,
        tags=[str(tag) for tag in tags],
        notes=notes,
        entity=entity,
        sinks=None if sinks is None else list(sinks),
        gpu_uuids=facts.gpu_uuids(),
        client=sidecar.__version__,
        captured=captured,
    )
    run = Run(hello, endpoint or environ.get("SIDECAR_ENDPOINT") or default_endpoint())
    if captured == IMPLICIT:
        global _implicit
        _implicit = run
    return run


def current() -> "Run | None":
    """The run of this process that was begun last and is not finished."""
    return _begun[-1] if _begun else None


def _retire_implicit() -> None:
    global _implicit
    if _implicit is not None:
        _implicit.finish(timeout_seconds=IMPLICIT_FLUSH_SECONDS)
        _implicit = None
        identity.forget_last_init()


class Run:
    """One rank's part of a run. Made by :func:`init`; every method may be called from any thread."""

    def __init__(self, hello: wire.Hello, endpoint: str) -> None:
        self.id = hello.run_id
        self.project, self.name, self.stage = hello.project, hello.name, hello.stage
        self.rank, self.world_size = hello.rank, hello.world_size
        self.rejected: dict[str, int] = {}
        """What could not be taken, by reason; also sent to the sidecar."""
        self._encode = msgspec.msgpack.Encoder(enc_hook=values.plain).encode
        self._lock = threading.Lock()
        self._aside: deque[wire.Event] = deque(maxlen=ASIDE_EVENTS_MAX)
        self._phases: dict[str, float] = {}
        self._datasets: dict[str, tuple[int, int]] = {}
        self._phase: Phase | None = None
        self._last_step: int | None = None
        self._reported: tuple[dict[str, int], int] = ({}, 0)
        self._next_report_ns = 0
        self._ring = _make_ring(hello, endpoint)
        self._record_bytes_max = min(wire.FRAME_BYTES_MAX, self._ring.capacity // 8)
        self._pump = Pump(self._ring, self._lock, hello, endpoint, self._housekeeping)
        self._pump.start()
        self._emit = self._emit_to_ring
        _live_runs.add(self)
        _begun.append(self)

    def step(
        self,
        step: int,
        *,
        loss: Any = None,
        learning_rate: Any = None,
        grad_norm: Any = None,
        tokens: Any = None,
        samples: Any = None,
        epoch: Any = None,
        metrics: Mapping[str, Any] | None = None,
    ) -> None:
        """One optimizer step has ended. ``tokens`` and ``samples`` are what this rank consumed in it.

        Values may be Python or numpy numbers or 0-d CPU tensors. None means not measured.
        """
        try:
            now_ns, mono_ns = time_ns(), monotonic_ns()
            sent: dict[str, Any] = {}
            if loss is not None:
                sent["train/loss"] = loss
            if learning_rate is not None:
                sent["train/learning_rate"] = learning_rate
            if grad_norm is not None:
                sent["train/grad_norm"] = grad_norm
            if tokens is not None:
                sent["train/num_tokens"] = tokens
            if samples is not None:
                sent["train/num_samples"] = samples
            if epoch is not None:
                sent["train/epoch"] = epoch
            if metrics:
                sent.update(metrics)
                for name in metrics:
                    if type(name) is not str:
                        sent = values.metrics(sent, self.rejected)
                        break
            if type(step) is not int or not 0 <= step <= wire.STEP_MAX:
                number = values.step_number(step)
                if number is None:
                    values.count(self.rejected, "bad_step")
                    return
                step = number
            phases, datasets = self._phases, self._datasets
            if phases:
                self._phases = {}
            if datasets:
                self._datasets = {}
            self._last_step = step
            self._emit(wire.Step(now_ns, mono_ns, step, sent, phases, datasets))
        except Exception:  # The promise of this file: nothing escapes into the loop; what was lost is counted.
            values.count(self.rejected, "internal_error")

    def log(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Any numbers, at any time. Without ``step`` they belong to the step last begun."""
        with self._guard():
            sent = values.metrics(dict(metrics), self.rejected)
            if sent or not metrics:
                self._emit(wire.Log(time_ns(), monotonic_ns(), self._step(step), sent))

    def text(self, name: str, text: str, step: int | None = None) -> None:
        """A text, such as a sample. It stays on this machine unless the sidecar is told otherwise."""
        with self._guard():
            self._emit(wire.Text(time_ns(), monotonic_ns(), self._step(step), values.label(name), str(text)))

    def histogram(self, name: str, values_: Any, step: int | None = None, *, bins: int = 64) -> None:
        """The distribution of a tensor, array or list, in ``bins`` equal bins; only the bins leave the process."""
        with self._guard("bad_histogram"):
            edges, counts = binned(values_, bins)
            self._emit(wire.Histogram(time_ns(), monotonic_ns(), self._step(step), values.label(name), edges, counts))

    def phase(self, name: str) -> "Phase":
        """``with run.phase("evaluation"):`` - what the loop is doing, for its time and for knowing a stall from work.

        data_wait, forward, backward and optimizer belong to each step; all others pause the training clock.
        """
        return Phase(self, values.label(name))

    def dataset(self, name: str, *, samples: int = 0, tokens: int = 0) -> None:
        """What the current step consumed from a dataset, on this rank. Counted when the step ends."""
        with self._guard("bad_dataset"):
            name = values.label(name)
            old_samples, old_tokens = self._datasets.get(name, (0, 0))
            self._datasets[name] = (old_samples + int(samples), old_tokens + int(tokens))

    def checkpoint(self, step: int | None = None, *, seconds: float | None = None, bytes: int | None = None, name: str = "") -> None:
        """A checkpoint has been written: how long it took and how large it is."""
        with self._guard():
            event = wire.Checkpoint(
                time_ns(), monotonic_ns(), self._step(step), None if seconds is None else float(seconds), bytes, values.label(name)
            )
            self._emit(event)

    def config(self, changes: Mapping[str, Any]) -> None:
        """Merge keys into the run's configuration."""
        with self._guard():
            self._emit(wire.ConfigChanged(time_ns(), monotonic_ns(), _wire_map(changes, self.rejected)))

    def facts(self, changes: Mapping[str, Any]) -> None:
        """Merge keys into the model facts (see :func:`init`), for what is known only later."""
        with self._guard():
            self._emit(wire.FactsChanged(time_ns(), monotonic_ns(), _wire_map(changes, self.rejected)))

    def finish(self, state: str = "finished", *, reason: str | None = None, timeout_seconds: float | None = None) -> None:
        """End the run and wait until the sidecar has everything, at most ``timeout_seconds`` (default 10).

        Where no sidecar ever answered it waits one second. What is not acknowledged stays in the ring, from where the
        next sidecar takes it. Idempotent; also called when the interpreter exits.
        """
        with self._guard():
            if self._emit != self._emit_to_ring:
                return
            self._emit_leftovers()
            self._emit(wire.Finished(time_ns(), monotonic_ns(), state, reason))
            self._emit = self._emit_after_finish
            _live_runs.discard(self)
            if self in _begun:
                _begun.remove(self)
            limit = FLUSH_SECONDS_DEFAULT if timeout_seconds is None else timeout_seconds
            if not self._pump.connected:
                limit = min(limit, CONNECT_SECONDS)
            delivered = self._pump.flush(limit)
            self._pump.stop()
            if delivered:
                self._ring.remove()
            else:
                self._ring.close()

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            self.finish()
        else:
            self.finish("failed", reason=kind.__name__)

    # -- below: how an event gets into the ring ----------------------------------------------------------------------

    def _emit_to_ring(self, event: wire.Event) -> None:
        """Encode, then copy under the one short lock. A call that finds it held, or re-enters, leaves the event aside."""
        try:
            payload = self._encode(event)
        except Exception:  # Some value has no form on the wire: keep the others.
            payload = self._encode_what_can_be(event)
        if self._lock.acquire(False):
            try:
                self._store(payload)
            finally:
                self._lock.release()
        elif len(self._aside) < ASIDE_EVENTS_MAX:
            self._aside.append(event)
        else:
            values.count(self.rejected, "aside_full")

    def _encode_what_can_be(self, event: wire.Event) -> bytes:
        kept = values.metrics(getattr(event, "metrics", {}), self.rejected)
        return self._encode(msgspec.structs.replace(event, metrics=kept))

    def _store(self, payload: bytes) -> None:
        if len(payload) <= self._record_bytes_max:
            self._ring.append(payload)
        elif len(payload) > wire.RECORD_BYTES_MAX or len(payload) > self._ring.capacity // 4:
            values.count(self.rejected, "record_too_large")
        else:
            self._store_in_parts(payload)

    def _store_in_parts(self, payload: bytes) -> None:
        size = self._record_bytes_max - 64  # Room for the part's own envelope.
        slices = [payload[i : i + size] for i in range(0, len(payload), size)]
        now_ns, mono_ns = time_ns(), monotonic_ns()
        for index, data in enumerate(slices):
            self._ring.append(self._encode(wire.Part(now_ns, mono_ns, index, len(slices), data)))

    def _emit_after_finish(self, event: wire.Event) -> None:
        values.count(self.rejected, "after_finish")

    def _emit_in_child(self, event: wire.Event) -> None:
        values.count(self.rejected, "in_forked_child")

    def _housekeeping(self) -> None:
        """Called by the pump at each wake-up: move what was left aside, report what was lost."""
        while self._aside:
            payload = self._encode(self._aside[0])
            with self._lock:
                self._store(payload)
            self._aside.popleft()
        now_ns = monotonic_ns()
        totals = (dict(self.rejected), self._ring.overwritten)
        if totals != self._reported and now_ns >= self._next_report_ns:
            self._reported, self._next_report_ns = totals, now_ns + int(REPORT_SECONDS * 1e9)
            payload = self._encode(wire.ClientReport(time_ns(), now_ns, *totals))
            with self._lock:
                self._store(payload)

    def _emit_leftovers(self) -> None:
        """Phases and consumption that no step carried away."""
        phases, datasets, step = self._phases, self._datasets, self._last_step
        self._phases, self._datasets = {}, {}
        for name, seconds in phases.items():
            self._emit(wire.PhaseExited(time_ns(), monotonic_ns(), step, name, seconds))
        if datasets:
            self._emit(wire.Consumed(time_ns(), monotonic_ns(), step, datasets))
        if (self.rejected, self._ring.overwritten) != self._reported:
            self._emit(wire.ClientReport(time_ns(), monotonic_ns(), dict(self.rejected), self._ring.overwritten))

    def _step(self, step: Any) -> int | None:
        if step is None:
            return self._last_step
        number = values.step_number(step)
        if number is None:
            values.count(self.rejected, "bad_step")
        return number

    @contextlib.contextmanager
    def _guard(self, reason: str = "internal_error") -> Any:
        try:
            yield
        except Exception:  # As in step(): nothing escapes, everything is counted.
            values.count(self.rejected, reason)

    def _forget_after_fork(self) -> None:
        """In a forked child: the ring, the socket and the thread belong to the parent."""
        self._emit = self._emit_in_child
        self._lock = threading.Lock()
        self._ring.forget()


class Phase:
    """Context manager of :meth:`Run.phase`. Nested phases count their time once, for the innermost."""

    __slots__ = ("_name", "_nested_ns", "_outer", "_run", "_started_ns")

    def __init__(self, run: Run, name: str) -> None:
        self._run, self._name = run, name
        self._nested_ns = self._started_ns = 0
        self._outer: Phase | None = None

    def __enter__(self) -> "Phase":
        run = self._run
        self._outer = run._phase
        run._phase = self
        self._started_ns = monotonic_ns()
        if self._name not in wire.STEP_PHASES:
            with run._guard():
                run._emit(wire.PhaseEntered(time_ns(), self._started_ns, run._last_step, self._name))
        return self

    def __exit__(self, *error: object) -> None:
        run, ended_ns = self._run, monotonic_ns()
        run._phase = self._outer
        elapsed_ns = ended_ns - self._started_ns
        if self._outer is not None:
            self._outer._nested_ns += elapsed_ns
        seconds = (elapsed_ns - self._nested_ns) / 1e9
        if self._name not in wire.STEP_PHASES:
            with run._guard():
                run._emit(wire.PhaseExited(time_ns(), ended_ns, run._last_step, self._name, seconds))
        elif self._outer is None or self._outer._name in wire.STEP_PHASES:
            run._phases[self._name] = run._phases.get(self._name, 0.0) + seconds


def _check(project: Any, name: Any, stage: Any, total_steps: Any, sinks: Any) -> None:
    if not isinstance(project, str) or not project:
        raise TypeError(f"project must be a non-empty string, not {project!r}")
    for label, text in (("name", name), ("stage", stage)):
        if text is not None and not isinstance(text, str):
            raise TypeError(f"{label} must be a string or None, not {text!r}")
    if total_steps is not None and (not isinstance(total_steps, int) or total_steps < 0):
        raise ValueError(f"total_steps must be a whole number of steps or None, not {total_steps!r}")
    if isinstance(sinks, str):
        raise TypeError(f"sinks must be a list of names, such as [{sinks!r}], not a string")


def _wire_map(given: Mapping[str, Any] | None, rejected: dict[str, int] | None = None) -> dict[str, Any]:
    """A map that surely fits the wire: what has no form there is kept as its text, bounded."""
    result: dict[str, Any] = {}
    for key, value in dict(given or {}).items():
        kept = values.metrics({str(key): value}, {} if rejected is None else rejected)
        result[str(key)] = kept[str(key)] if kept else str(value)[:1000]
    return result


def _make_ring(hello: wire.Hello, endpoint: str) -> ring_file.Ring:
    """In /dev/shm, else the temp folder, else plain memory: whatever there is, training goes on."""
    encoded = wire.encode(hello)
    name = f"{endpoint_key(endpoint)}-{hello.rank}-{hello.session:016x}"
    for directory in ring_directories():
        with contextlib.suppress(OSError, ValueError):
            capacity = _capacity(private_directory(directory))
            if capacity >= ring_file.CAPACITY_BYTES_MIN:
                return ring_file.create(
                    directory, name, hello=encoded, session=hello.session, rank=hello.rank, capacity=capacity
                )
    return ring_file.create_in_memory(ring_file.CAPACITY_BYTES_DEFAULT)


def _capacity(directory: os.PathLike[str]) -> int:
    """SIDECAR_RING_MB, else 16 MiB, and never more than an eighth of what is free there: it is shared with others."""
    wanted = os.environ.get("SIDECAR_RING_MB", "")
    if wanted.replace(".", "", 1).isdigit():
        return max(ring_file.CAPACITY_BYTES_MIN, int(float(wanted) * 2**20) & ~7)
    found = os.statvfs(directory)
    return min(ring_file.CAPACITY_BYTES_DEFAULT, (found.f_bavail * found.f_frsize // 8) & ~7)


def _forget_all_after_fork() -> None:
    for run in list(_live_runs):
        run._forget_after_fork()


def _finish_all_at_exit() -> None:
    error = getattr(sys, "last_type", None)  # Set by the interpreter when an exception ended the program.
    for run in list(_live_runs):
        run.finish("failed", reason=error.__name__) if error else run.finish()


os.register_at_fork(after_in_child=_forget_all_after_fork)
atexit.register(_finish_all_at_exit)
