"""A network that swallows packets: no reset, no refusal, only silence. Two hosts, in network namespaces."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from sidecar.curve import create_keys
from tests.delivery.conftest import rings_of
from tests.delivery.processes import journaled_steps, kill, start, wait_until

pytestmark = pytest.mark.network_namespaces

NOBODY = "02:00:00:00:00:99"
TCP_ESTABLISHED = "01"
STEPS = 1000


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


class Hosts:
    """Two network namespaces with a cable between them."""

    def __init__(self) -> None:
        self.sidecar, self.trainer = f"sidecar-{os.getpid()}", f"trainer-{os.getpid()}"
        self.addresses = {self.sidecar: "10.77.0.1", self.trainer: "10.77.0.2"}

    def create(self) -> None:
        for host in self.addresses:
            ip("netns", "add", host)
        ends = ("link", "add", "cable", "netns", self.sidecar, "type", "veth", "peer", "name", "cable")
        ip(*ends, "netns", self.trainer)
        for host, address in self.addresses.items():
            ip("-n", host, "address", "add", f"{address}/24", "dev", "cable")
            ip("-n", host, "link", "set", "cable", "up")

    def remove(self) -> None:
        for host in self.addresses:
            subprocess.run(["ip", "netns", "delete", host], check=False, capture_output=True)

    def swallow_packets(self) -> None:
        for host, other in ((self.sidecar, self.trainer), (self.trainer, self.sidecar)):
            where = ("lladdr", NOBODY, "dev", "cable", "nud", "permanent")
            ip("-n", host, "neighbour", "replace", self.addresses[other], *where)

    def deliver_packets(self) -> None:
        for host, other in ((self.sidecar, self.trainer), (self.trainer, self.sidecar)):
            ip("-n", host, "neighbour", "delete", self.addresses[other], "dev", "cable")


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    made = Hosts()
    try:
        made.create()
    except (OSError, subprocess.CalledProcessError) as error:
        made.remove()
        pytest.skip(f"network namespaces need root and iproute2: {getattr(error, 'stderr', error)}")
    yield made
    made.remove()


def is_connected(pid: int) -> bool:
    rows = Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]
    return any(row.split()[3] == TCP_ESTABLISHED for row in rows)


def test_a_trainer_leaves_a_connection_that_went_silent_and_delivers_over_a_new_one(
    hosts: Hosts, tmp_path: Path
) -> None:
    server_key, secret = create_keys(tmp_path / "data" / "keys")
    keys = {"SIDECAR_SERVER_KEY": server_key, "SIDECAR_CLIENT_KEY": str(secret)}
    endpoint = f"tcp://{hosts.addresses[hosts.sidecar]}:9798"
    intake = start("intake", endpoint, tmp_path / "data", host=hosts.sidecar)
    words = ("train", endpoint, "r", tmp_path / "counter", STEPS, 0.005, "wait")
    trainer = start(*words, env=keys, host=hosts.trainer)
    try:
        assert wait_until(lambda: journaled_steps(tmp_path / "data", "r"))
        hosts.swallow_packets()
        # TCP by itself would hold on to it for a quarter of an hour, and try ever more seldom.
        assert wait_until(lambda: not is_connected(trainer.pid), 60)
        hosts.deliver_packets()
        assert wait_until(lambda: len(journaled_steps(tmp_path / "data", "r")) >= STEPS, 60)
        assert journaled_steps(tmp_path / "data", "r") == list(range(STEPS))
    finally:
        kill(trainer)
        kill(intake)
        for ring in rings_of(endpoint):
            ring.unlink()
