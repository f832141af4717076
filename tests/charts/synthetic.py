"""Journals of made-up runs, written the way the sidecar writes them."""

import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from sidecar import wire
from sidecar.journal import Chunk, Journal
from sidecar.snapshot import RunSummary
from sidecar.store import Store

SECOND = 1_000_000_000
T0 = 1_750_000_000 * SECOND
FACTS = {"flops_per_token": 6e8, "peak_flops": 6e13, "peak_source": "override", "params": 100_000_000}


class Writer:
    """One run: events of its ranks in, a journal out. Closing writes the summary that `sidecar runs` shows."""

    def __init__(self, directory: Path, run_id: str, *, project: str = "p", start_ns: int = T0, **hello: Any) -> None:
        self.store = Store(directory)
        self.store.prepare()
        self.journal: Journal = self.store.journal(run_id)
        self.hello = {"run_id": run_id, "project": project, "time_ns": start_ns, "mono_ns": start_ns - T0 + 1} | hello
        self.seqs: dict[int, int] = {}
        self.waiting: dict[int, list[bytes]] = {}
        self.last_step: int | None = None
        self.start_ns = self.now_ns = start_ns

    def greet(self, rank: int = 0, session: int | None = None) -> int:
        session = session if session is not None else rank + 100
        self.journal.greet(wire.Hello(rank=rank, session=session, **self.hello), self.start_ns)
        self.seqs.setdefault(session, 0)
        return session

    def add(self, session: int, *events: Any) -> None:
        queue = self.waiting.setdefault(session, [])
        for event in events:
            if isinstance(event, wire.Step):
                self.last_step = event.step
            mono_ns = event.time_ns - T0 + SECOND  # Since a boot, as the real clock counts.
            queue.append(wire.encode_event(msgspec.structs.replace(event, mono_ns=mono_ns)))
            self.now_ns = max(self.now_ns, event.time_ns)
        if len(queue) >= wire.FRAME_EVENTS_MAX:
            self.flush()

    def hardware(self, *events: wire.Hardware) -> None:
        self.journal.own_stream(999, self.start_ns)
        self.seqs.setdefault(999, 0)
        self.add(999, *events)

    def flush(self) -> None:
        chunks = []
        for session, queue in self.waiting.items():
            for at in range(0, len(queue), 128):
                part = queue[at : at + 128]
                chunks.append(Chunk(session, self.seqs[session], self.now_ns, part))
                self.seqs[session] += len(part)
        self.journal.append(chunks)
        self.waiting.clear()

    def close(self, *, state: str = "finished") -> None:
        self.flush()
        h = self.hello
        names = (h["run_id"], h["project"], h.get("name"), h.get("stage"))
        summary = RunSummary(*names, state, self.last_step, self.start_ns)
        self.journal.put("summary", msgspec.msgpack.encode(summary))
        self.journal.close()


def curve(steps: int, seed: int = 0, start: float = 8.0, end: float = 3.0) -> Iterator[float]:
    noise = random.Random(seed)
    for step in range(steps):
        yield end + (start - end) * math.exp(-4.0 * step / steps) + noise.gauss(0, 0.03)


def run(
    directory: Path, run_id: str = "r1", *, steps: int = 200, ranks: int = 1, stage: str | None = "pretrain",
    accuracy: bool = True, tasks: bool = False, gpu: bool = False, datasets: bool = False, seconds: float = 0.5,
    start_ns: int = T0, seed: int = 0, loss: tuple[float, float] = (8.0, 3.0),
    slow: dict[tuple[int, int], float] | None = None, config: dict[str, Any] | None = None,
    facts: dict[str, Any] | None = FACTS, finished: bool = True, checkpoint_every: int = 0, **hello: Any,
) -> None:
    """One plausible run. ``slow``: {(rank, step): seconds that step took}."""
    settings = {"n_layer": 12, "n_embd": 768, "batch_size": 32, "learning_rate": 3e-4} if config is None else config
    if datasets:
        settings = settings | {"dataset_sizes": {"GSM8K": 8 * steps, "SmolTalk": 40 * steps}}
    writer = Writer(directory, run_id, start_ns=start_ns, stage=stage, config=settings, model_facts=facts or {},
                    world_size=ranks, total_steps=steps, **hello)
    sessions = [writer.greet(rank) for rank in range(ranks)]
    noise = random.Random(seed + 1)
    every = max(1, steps // 8)
    now = start_ns
    for step, value in enumerate(curve(steps, seed, *loss)):
        jitter = [seconds * noise.uniform(0.95, 1.05) for _ in range(ranks)]
        took = [(slow or {}).get((rank, step), jitter[rank]) for rank in range(ranks)]
        now += int(max(took) * SECOND)
        for rank, session in enumerate(sessions):
            at = now - int((max(took) - took[rank]) * SECOND)
            eaten = {"GSM8K": (8, 4096), "SmolTalk": (24, 12288)} if datasets else {}
            writer.add(session, wire.Step(at, at, step, {
                "train/loss": value + rank * 1e-3, "train/learning_rate": 3e-4 * (1 - step / steps),
                "train/grad_norm": 1.0 + noise.random() / 5, "train/num_tokens": 16384, "train/num_samples": 32,
            }, {}, eaten))  # fmt: skip
        if gpu and step % 10 == 0:
            writer.hardware(wire.Hardware(now, now, step, {"cpu_percent": 20.0}, [
                {"index": i, "uuid": f"GPU-{i}", "utilization_percent": 90 + noise.random() * 8,
                 "memory_used_bytes": int((40 + 10 * step / steps) * 1e9), "power_watts": 500.0} for i in range(2)]))
        elif step % 10 == 0:
            host = {"cpu_percent": 60 + noise.random() * 20, "memory_used_bytes": 8e9 + step * 1e6}
            writer.hardware(wire.Hardware(now, now, step, host, []))
        if accuracy and step and step % every == 0:
            writer.add(sessions[0], wire.PhaseEntered(now, now, step, "evaluation"))
            now += SECOND
            share = 0.1 + 0.6 * step / steps
            values = {"val/loss": value + 0.1, "val/accuracy": share}
            if tasks:
                values |= {"eval/mmlu_acc": share * 0.8, "eval/arc_easy_acc": share, "eval/gsm8k_acc": share * 0.5,
                           "eval/humaneval_acc": share * 0.3}
            writer.add(sessions[0], wire.Log(now, now, step, values),
                       wire.PhaseExited(now, now, step, "evaluation", 1.0))
        if checkpoint_every and step and step % checkpoint_every == 0:
            writer.add(sessions[0], wire.Checkpoint(now, now, step, 0.2, 10**9, f"step-{step}"))
    if finished:
        for session in sessions:
            writer.add(session, wire.Finished(now, now))
    writer.close(state="finished" if finished else "running")


def pipeline(directory: Path, *, steps: int = 400, **more: Any) -> None:
    """Pretraining, midtraining, SFT, RL, one after another, with everything the charts can show."""
    plan = [("pretrain", 1.0, (8.0, 3.4), 12), ("midtrain", 0.5, (3.6, 2.6), 12), ("sft", 0.4, (2.7, 1.9), 12),
            ("rl", 0.3, (1.9, 1.5), 12)]  # fmt: skip
    start = T0
    for number, (stage, part, loss, depth) in enumerate(plan):
        size = int(steps * part)
        run(directory, f"d12-{stage}", steps=size, stage=stage, loss=loss, start_ns=start, seed=number, tasks=True,
            gpu=True, datasets=stage != "pretrain", seconds=0.5 - 0.05 * number, checkpoint_every=max(1, size // 3),
            config={"n_layer": depth, "n_embd": 768, "batch_size": 64 >> number, "learning_rate": 6e-4 / (number + 1)},
            name=f"d12 {stage}", **more)  # fmt: skip
        start += int(size * 1.2) * SECOND + 600 * SECOND
