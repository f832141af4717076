"""``sidecar doctor``: is this machine fit for a sidecar, and what to do where it is not.

Given: a configuration and the machine. Hands on: one line a check, with its remedy.
Never: changes anything but a probe file it removes, or prints a secret.
"""

import argparse
import json
import os
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from sidecar import live, rendezvous
from sidecar.commands import options as shared
from sidecar.config import Config
from sidecar.errors import Exit

DESCRIPTION = "Check this machine: what works, what does not, and how to put it right. Exit code 0, 1 or 2."
EXAMPLES = ["sidecar doctor", "sidecar doctor --json --dir /data/runs"]

FREE_BYTES_MIN = 1 << 30
RING_BYTES = 16 << 20
PACKAGES = ("pyzmq", "msgspec", "fastapi", "uvicorn", "prometheus-client", "psutil", "nvidia-ml-py")
OPTIONAL = {"wandb": "--sink wandb", "tensorboard": "--sink tensorboard", "pyarrow": "export --format parquet"}
CLOCK_YEAR_MIN = 2025


class Finding(NamedTuple):
    level: str
    """ok | warning | error"""
    check: str
    text: str
    fix: str = ""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="as a list of {check, level, text, fix}")
    shared.add(parser, "dir", "endpoint", "host", "port")


def run(options: argparse.Namespace) -> int:
    config = shared.load(options).config
    findings = [finding for check in CHECKS for finding in check(config)]
    if options.json:
        print(json.dumps([finding._asdict() for finding in findings], indent=2))
    else:
        for finding in findings:
            print(f"{finding.level:<8} {finding.check:<12} {finding.text}")
            if finding.fix:
                print(f"{'':<21} fix: {finding.fix}")
    levels = {finding.level for finding in findings}
    return Exit.ERRORS if "error" in levels else Exit.WARNINGS if "warning" in levels else Exit.OK


def python(_: Config) -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    yield Finding("ok", "python", f"{version} at {sys.executable}")


def packages(_: Config) -> Iterator[Finding]:
    missing = [name for name in PACKAGES if _version(name) is None]
    if missing:
        yield Finding("error", "packages", f"missing: {', '.join(missing)}", "pip install trainer-sidecar")
    else:
        yield Finding("ok", "packages", ", ".join(f"{name} {_version(name)}" for name in PACKAGES))
    for name, purpose in OPTIONAL.items():
        version = _version(name)
        text = f"{name} {version}" if version else f"{name} is not installed: {purpose} will not work"
        yield Finding("ok", "optional", text, "" if version else f"pip install {name}")


def directory(config: Config) -> Iterator[Finding]:
    base = _nearest(config.data_directory)
    if not os.access(base, os.W_OK | os.X_OK):
        yield Finding("error", "directory", f"{base} cannot be written", "choose another with --dir or SIDECAR_DIR")
        return
    free = shutil.disk_usage(base).free
    text = f"{config.dir}, {free / 2**30:.1f} GiB free"
    if free < FREE_BYTES_MIN:
        yield Finding("warning", "directory", text, "free some space or choose another directory with --dir")
    else:
        yield Finding("ok", "directory", text)
    kind = _filesystem(base)
    if kind in ("nfs", "nfs4", "cifs", "lustre", "fuse.sshfs", "9p"):
        yield Finding("warning", "directory", f"is on {kind}", "put journals on a local disk: SQLite needs its locks")


def sockets(config: Config) -> Iterator[Finding]:
    try:
        yield Finding("ok", "endpoint", config.endpoint or rendezvous.default_endpoint())
    except OSError as error:
        yield Finding("error", "endpoint", str(error), "remove that directory, or set --endpoint")


def port(config: Config) -> Iterator[Finding]:
    running = live.find(config)
    if running is not None:
        yield Finding("ok", "sidecar", f"running, pid {running.pid}, {running.http}")
        return
    yield Finding("ok", "sidecar", "none is running on this directory")
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((config.host, config.port))
        except OSError as error:
            fix = "nothing to do: the next free port will be taken and printed; or choose one with --port"
            yield Finding("warning", "port", f"{config.host}:{config.port}: {error.strerror}", fix)
        else:
            yield Finding("ok", "port", f"{config.host}:{config.port} is free")


def shared_memory(_: Config) -> Iterator[Finding]:
    path = Path("/dev/shm")
    if not path.is_dir() or not os.access(path, os.W_OK):
        fix = "mount a tmpfs on /dev/shm; until then rings lie in the temp directory"
        yield Finding("warning", "/dev/shm", "is not there or not writable", fix)
        return
    free = shutil.disk_usage(path).free
    if free < 4 * RING_BYTES:
        fix = "give the container more (--shm-size=1g), or make rings smaller: SIDECAR_RING_MB=2"
        yield Finding("warning", "/dev/shm", f"only {free / 2**20:.0f} MiB free", fix)
    else:
        yield Finding("ok", "/dev/shm", f"{free / 2**20:.0f} MiB free")


def gpu(_: Config) -> Iterator[Finding]:
    try:
        import pynvml
    except ImportError:
        yield Finding("warning", "gpu", "nvidia-ml-py is not installed", "pip install nvidia-ml-py")
        return
    try:
        pynvml.nvmlInit()
        count = pynvml.nvmlDeviceGetCount()
        driver = pynvml.nvmlSystemGetDriverVersion()
        pynvml.nvmlShutdown()
        yield Finding("ok", "gpu", f"{count} NVIDIA GPUs, driver {driver}")
    except pynvml.NVMLError as error:
        yield Finding("ok", "gpu", f"no NVIDIA GPU can be read ({error}): GPU metrics will be absent")


def wandb_key(_: Config) -> Iterator[Finding]:
    """Whether there is a key, and where; never the key."""
    if os.environ.get("WANDB_API_KEY"):
        yield Finding("ok", "wandb key", "in WANDB_API_KEY (***)")
        return
    netrc = Path(os.environ.get("NETRC") or Path.home() / ".netrc")
    try:
        known = "wandb" in netrc.read_text()
    except (OSError, UnicodeDecodeError):
        known = False
    text = f"in {netrc} (***)" if known else "none: --sink wandb writes offline files"
    yield Finding("ok", "wandb key", text, "" if known else "wandb login, or set WANDB_API_KEY, to send online")


def clock(_: Config) -> Iterator[Finding]:
    now = time.gmtime()
    text = time.strftime("%Y-%m-%d %H:%M:%S UTC", now)
    if now.tm_year < CLOCK_YEAR_MIN:
        yield Finding("warning", "clock", f"{text} cannot be right", "set it: Prometheus and W&B refuse old times")
    else:
        yield Finding("ok", "clock", text)


CHECKS: tuple[Callable[[Config], Iterator[Finding]], ...] = (
    python,
    packages,
    directory,
    sockets,
    port,
    shared_memory,
    gpu,
    wandb_key,
    clock,
)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _nearest(path: Path) -> Path:
    """The path itself or the closest parent that exists."""
    return next(part for part in [path, *path.parents] if part.exists())


def _filesystem(path: Path) -> str:
    """The type of the file system ``path`` is on, as /proc/mounts names it; empty when unknown."""
    try:
        lines = Path("/proc/mounts").read_text().splitlines()
    except OSError:
        return ""
    mounts = [(fields[1], fields[2]) for fields in (line.split() for line in lines) if len(fields) > 2]
    inside = [(len(point), kind) for point, kind in mounts if path.resolve().is_relative_to(point)]
    return max(inside)[1] if inside else ""
