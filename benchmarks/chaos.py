"""Nothing that was emitted is lost or doubled, whoever dies, stops or runs out of disk, whenever.

A trainer stand-in emits 10,000 events a second and counts each one in shared memory after the call returned. Sidecar
and trainer are killed (SIGKILL) and stopped (SIGSTOP) at random moments, both at once too, and the disk of the journal
is filled and freed. Somebody reads /status all the while, so that trainers are asked for what they hold at any moment.
Then the journal, read without any of the product's code, is compared with the count.

    python -m benchmarks.chaos                          # 30 s, 20 faults, a seed that is printed
    python -m benchmarks.chaos --seed 7 --seconds 120 --faults 100
    python -m benchmarks.chaos --endpoint tcp --only kill_sidecar
    python -m benchmarks.chaos --endpoint network       # tcp through a forwarder that cuts, stalls and truncates

Proves: emitted = journaled, nothing lost, duplicated or out of order, as long as the backlog fits into the ring, whose
size is chosen for the rate and printed. The exit code is 1 otherwise. The disk is a tmpfs of its own when we may mount
one, else a limit on the size of the files that the sidecar may write.
"""

import contextlib
import os
import random
import resource
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path

from benchmarks import common, witness
from benchmarks.proxy import Proxy

RUN_ID = "chaos"
RECORD_BYTES = 420  # A step of twelve metrics with its header in the ring, rounded up.
OUTAGE_SECONDS_MAX = 40  # What the ring must hold: the longest time without acknowledgements that we provoke.
SETTLE_SECONDS_MAX = 90.0
READ_SECONDS = 0.05


class Testbed:
    """One sidecar, one trainer, one disk, and everything that can happen to them."""

    def __init__(self, folder: Path, options, rng: random.Random) -> None:
        self.folder, self.options, self.rng = folder, options, rng
        self.counter = folder / "counter"
        port = free_port()
        self.endpoint = f"ipc://{folder}/events" if options.endpoint == "ipc" else f"tcp://127.0.0.1:{port}"
        self.proxy = Proxy(port) if options.endpoint == "network" else None
        self.seen_endpoint = f"tcp://127.0.0.1:{self.proxy.port}" if self.proxy else self.endpoint
        self.ring_mb = max(16, int(options.rate * OUTAGE_SECONDS_MAX * RECORD_BYTES / 2**20))
        self.trainers = self.sidecars = 0
        self.keys = make_keys(folder / "data") if options.endpoint != "ipc" else {}
        self.start_sidecar()
        self.start_trainer()

    # -- parts that come and go --

    def start_sidecar(self) -> None:
        self.sidecars += 1
        self.sidecar = common.Sidecar(self.folder, endpoint=self.endpoint)

    def start_trainer(self) -> None:
        self.trainers += 1
        command = [sys.executable, "-m", "benchmarks.witness", self.seen_endpoint, RUN_ID, str(self.counter)]
        self.trainer = subprocess.Popen(
            [*command, "--rate", str(self.options.rate), "--seconds", "86400"], cwd=common.REPOSITORY,
            env=common.environment(SIDECAR_RING_MB=str(self.ring_mb), **self.keys), stdin=subprocess.DEVNULL,
        )  # fmt: skip

    # -- faults --

    def kill_sidecar(self) -> None:
        common.kill(self.sidecar.process)
        time.sleep(self.rng.uniform(0, 1))
        self.start_sidecar()

    def stop_sidecar(self) -> None:
        self._stop(self.sidecar.process, self.rng.uniform(0.2, 2.5))

    def stop_and_kill_sidecar(self) -> None:
        """Stuck first, killed then: what was sent meanwhile sits in buffers that die with it."""
        self.sidecar.process.send_signal(signal.SIGSTOP)
        time.sleep(self.rng.uniform(0.1, 1))
        self.kill_sidecar()

    def kill_trainer(self) -> None:
        common.kill(self.trainer)
        self.start_trainer()

    def stop_trainer(self) -> None:
        self._stop(self.trainer, self.rng.uniform(0.2, 1.5))

    def kill_both(self) -> None:
        first, second = self.rng.sample([self.trainer, self.sidecar.process], 2)
        common.kill(first)
        time.sleep(self.rng.uniform(0, 0.5))
        common.kill(second)
        self.start_trainer()
        time.sleep(self.rng.uniform(0, 0.5))
        self.start_sidecar()

    def fill_disk(self) -> None:
        with full_disk(self.folder / "data", self.sidecar.pid):
            time.sleep(self.rng.uniform(0.5, 3))

    def cut_network(self) -> None:
        self.proxy.cut()

    def truncate_network(self) -> None:
        self.proxy.truncate()

    def stall_network(self) -> None:
        seconds = self.rng.uniform(0.5, 4)
        self.proxy.stall(seconds)
        time.sleep(seconds)

    def _stop(self, process: "subprocess.Popen[bytes]", seconds: float) -> None:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGSTOP)
            time.sleep(seconds)
            process.send_signal(signal.SIGCONT)

    # -- the end --

    def settle(self) -> bool:
        """Let the trainer end, and the sidecar take what is left. False: rings were left over."""
        self.counter.with_suffix(".stop").touch()
        self.trainer.wait(60)
        if self.sidecar.process.poll() is not None:
            self.start_sidecar()
        return common.wait_until(lambda: not common.rings_of(self.seen_endpoint), SETTLE_SECONDS_MAX)

    def close(self) -> None:
        for process in (self.trainer, self.sidecar.process):
            if process.poll() is None:
                common.kill(process)
        if self.proxy:
            self.proxy.close()
        common.remove_rings(self.seen_endpoint)


class Reader(threading.Thread):
    """Reads /status of whichever sidecar lives, again and again, until told to stop."""

    def __init__(self, testbed: Testbed) -> None:
        super().__init__(daemon=True)
        self.answers = 0
        self._testbed, self._ended = testbed, threading.Event()

    def run(self) -> None:
        while not self._ended.wait(READ_SECONDS):
            with contextlib.suppress(OSError, HTTPException, ValueError):  # It was killed before or while it answered.
                self._testbed.sidecar.status()
                self.answers += 1

    def stop(self) -> None:
        self._ended.set()
        self.join()


FAULTS = ("kill_sidecar", "kill_sidecar", "stop_sidecar", "stop_and_kill_sidecar", "kill_trainer", "kill_trainer",
          "stop_trainer", "kill_both", "fill_disk")  # fmt: skip
NETWORK_FAULTS = ("cut_network", "cut_network", "truncate_network", "stall_network", "kill_sidecar", "stop_trainer")
"""Over the network the trainer lives on: the tail of a dead one is replayed by the launcher on its own host."""
NETWORK_ONLY = frozenset(NETWORK_FAULTS) - frozenset(FAULTS)


def make_keys(data: Path) -> dict[str, str]:
    """Keys for events over tcp, as `sidecar keys` makes them; the environment that a trainer needs."""
    from sidecar.curve import create_keys

    server_key, secret = create_keys(data / "keys")
    return {"SIDECAR_SERVER_KEY": server_key, "SIDECAR_CLIENT_KEY": str(secret)}


def free_port() -> int:
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[bool]:
    """Mount a tmpfs at ``folder``/data when we may. False: an ordinary folder."""
    data = folder / "data"
    data.mkdir(mode=0o700)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=0700", "tmpfs", str(data)]
    mounted = os.geteuid() == 0 and subprocess.run(mount, capture_output=True).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(data)], check=False)


@contextlib.contextmanager
def full_disk(data: Path, pid: int) -> Iterator[None]:
    """Nothing more can be written to the journal while inside."""
    if os.path.ismount(data):
        filler = data / "filler"
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(1 << 20))
        with filler.open("ab", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(512))
        try:
            yield
        finally:
            filler.unlink()
    else:
        hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)[1]
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (4096, hard))
        try:
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard, hard))


def inject_faults(testbed: Testbed, faults: list[str], seconds: float) -> None:
    """One fault after the other, with pauses drawn so that all of them take about ``seconds``, and no less."""
    began = time.monotonic()
    for fault in faults:
        time.sleep(testbed.rng.uniform(0, 2 * seconds / len(faults)))
        print(f"{time.monotonic() - began:7.2f} s  {fault}", flush=True)
        getattr(testbed, fault)()
    time.sleep(max(0.5, began + seconds - time.monotonic()))


def run(options) -> bool:
    rng = random.Random(options.seed)
    faults = [
        options.only or rng.choice(NETWORK_FAULTS if options.endpoint == "network" else FAULTS)
        for _ in range(options.faults)
    ]
    megabytes = int(64 + 2.5 * options.rate * options.seconds * RECORD_BYTES / 2**20)
    pace = f"{options.rate:,.0f} events/s over {options.endpoint}"
    print(f"seed {options.seed}: {options.faults} faults in {options.seconds:.0f} s at {pace}", flush=True)
    with common.folder() as folder, small_disk(folder, megabytes) as mounted:
        print(f"disk: {f'a tmpfs of {megabytes} MB' if mounted else 'a limit on file sizes (no right to mount)'}")
        testbed = Testbed(folder, options, rng)
        print(f"ring: {testbed.ring_mb} MB, which holds {OUTAGE_SECONDS_MAX} s without a sidecar", flush=True)
        try:
            common.wait_until(lambda: testbed.counter.exists() and witness.emitted(testbed.counter) > 0)
            reader = Reader(testbed)
            reader.start()
            inject_faults(testbed, faults, options.seconds)
            reader.stop()
            settled = testbed.settle()
            status = testbed.sidecar.status()["sidecar"]
            testbed.sidecar.stop()
            found = witness.compare(witness.journal_in(folder), witness.emitted(testbed.counter), testbed.trainers)
        finally:
            testbed.close()
        print(f"{testbed.sidecars} sidecars and {testbed.trainers} trainers lived; the slowest call of run.step took "
              f"{1e3 * witness.slowest_call_seconds(testbed.counter):.1f} ms")  # fmt: skip
        print(f"/status was read {reader.answers} times")
        print(f"the last sidecar's journal: {status['journal']['state']}")
    found.print()
    if not settled:
        print(f"rings were left over after {SETTLE_SECONDS_MAX:.0f} s")
    ratio = (found.journaled - found.uncounted - found.duplicated) / max(1, found.emitted)
    common.verdict("ratio journaled / emitted", ratio, 1.0, "", at_least=True)
    return settled and found.nothing_lost and found.emitted > 0


def main() -> int:
    parser = common.parser(__doc__)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--faults", "--kills", type=int, default=20)
    parser.add_argument("--rate", type=float, default=10_000, help="events per second (default 10,000)")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6))
    parser.add_argument("--endpoint", choices=("ipc", "tcp", "network"), default="ipc")
    parser.add_argument("--only", choices=sorted({*FAULTS, *NETWORK_FAULTS}), help="this kind of fault and no other")
    options = parser.parse_args()
    if options.only in NETWORK_ONLY and options.endpoint != "network":
        parser.error(f"{options.only} needs --endpoint network")
    common.print_machine()
    good = run(options)
    common.print_load_after()
    print("VERDICT: " + ("nothing lost, nothing doubled, in order" if good else f"NOT KEPT, seed {options.seed}"))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
