"""``sidecar doctor``: is this machine fit for a sidecar, and what to do where it is not.

Given: a configuration and the machine. Hands on: one line a check, with its remedy.
Never: changes anything, unless asked to remove orphaned rings, or prints a secret.
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

from sidecar import leftovers, live, rendezvous
from sidecar.commands import options as shared
from sidecar.commands import troubleshooting
from sidecar.commands.troubleshooting import Finding
from sidecar.config import Config
from sidecar.errors import Exit
from sidecar.filesystems import network_file_system

DESCRIPTION = "Check this machine: what works, what does not, and how to put it right. Exit code 0, 1 or 2."
EXAMPLES = ["sidecar doctor", "sidecar doctor --json --dir /data/runs"]

FREE_BYTES_MIN = 1 << 30
RING_BYTES = 16 << 20
PACKAGES = ("pyzmq", "msgspec", "fastapi", "uvicorn", "prometheus-client", "psutil", "nvidia-ml-py")
OPTIONAL = {"wandb": "--sink wandb", "tensorboard": "--sink tensorboard", "pyarrow": "export --format parquet"}
CLOCK_YEAR_MIN = 2025


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="as a list of {check, level, text, fix}")
    parser.add_argument(
        "--remove-orphans", action="store_true", help="first remove the rings of dead trainers, and what is in them"
    )
    shared.add(parser, "dir", "endpoint", "host", "port")


def run(options: argparse.Namespace) -> int:
    config = shared.load(options).config
    findings = list(_remove_orphans()) if options.remove_orphans else []
    findings += [finding for check in CHECKS for finding in attempt(check, config)]
    if options.json:
        print(json.dumps([finding._asdict() for finding in findings], indent=2))
    else:
        for finding in findings:
            print(f"{finding.level:<8} {finding.check:<12} {finding.text}")
            if finding.fix:
                print(f"{'':<21} fix: {finding.fix}")
    levels = {finding.level for finding in findings}
    return Exit.ERRORS if "error" in levels else Exit.WARNINGS if "warning" in levels else Exit.OK


def attempt(check: Callable[[Config], Iterator[Finding]], config: Config) -> list[Finding]:
    """Run one check. If it raises, that is a finding as well: the others must still run."""
    try:
        return list(check(config))
    except PermissionError as error:
        what = error.filename or "what it looks at"
        return [Finding("error", check.__name__, f"cannot read {what}: {error.strerror}",
                        "correct its permissions, or choose another directory with --dir")]  # fmt: skip
    except Exception as error:  # noqa: BLE001  # As the docstring says.
        return [Finding("error", check.__name__, f"cannot be checked: {error!r}", "report this, please")]


def _remove_orphans() -> Iterator[Finding]:
    removed = leftovers.remove(leftovers.leftovers(time.time()))
    total = sum(one.size_bytes for one in removed)
    yield Finding("ok", "rings", f"{len(removed)} orphaned rings removed, {total / 2**20:.1f} MiB")


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
    if kind := network_file_system(base):
        fix = "put journals on a local disk with --dir: SQLite needs its locks, and no sidecar starts here"
        yield Finding("error", "directory", f"is on a network file system ({kind})", fix)


def sockets(config: Config) -> Iterator[Finding]:
    try:
        yield Finding("ok", "endpoint", config.endpoint or rendezvous.default_endpoint())
    except OSError as error:
        yield Finding("error", "endpoint", str(error), "remove that directory, or set --endpoint")


def port(config: Config) -> Iterator[Finding]:
    running = live.find(config)
    if running is not None:
        yield _answering(config, running)
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


def _answering(config: Config, running: live.Live) -> Finding:
    text = f"running, pid {running.pid}, {running.http}"
    try:
        live.status(running, config)
    except live.Unreachable as error:
        return Finding("warning", "sidecar", f"{text}, but: {error}", "it is busy, or stopped: look again in a while")
    return Finding("ok", "sidecar", text)


def shared_memory(_: Config) -> Iterator[Finding]:
    path = Path("/dev/shm")
    if not path.is_dir() or not os.access(path, os.W_OK):
        fix = "mount a tmpfs on /dev/shm; until then rings lie in the temp directory"
        yield Finding("warning", "/dev/shm", "is not there or not writable", fix)
        return
    size, _used, free = shutil.disk_usage(path)
    if free < 4 * RING_BYTES:
        fix = "give the container more (--shm-size=1g), or make rings smaller: SIDECAR_RING_MB=2"
        yield Finding("warning", "/dev/shm", f"only {free / 2**20:.0f} of {size / 2**20:.0f} MiB free", fix)
    else:
        yield Finding("ok", "/dev/shm", f"{free / 2**20:.0f} of {size / 2**20:.0f} MiB free")


def gpu(_: Config) -> Iterator[Finding]:
    try:
        import pynvml
    except ImportError:
        yield Finding("warning", "gpu", "nvidia-ml-py is not installed", "pip install nvidia-ml-py")
        return
    try:
        pynvml.nvmlInit()
        count = pynvml.nvmlDeviceGetCount()
        driver, nvml = pynvml.nvmlSystemGetDriverVersion(), pynvml.nvmlSystemGetNVMLVersion()
        pynvml.nvmlShutdown()
        yield Finding("ok", "gpu", f"{count} NVIDIA GPUs, driver {driver}, NVML {nvml}")
    except pynvml.NVMLError as error:
        yield Finding("ok", "gpu", f"no NVIDIA GPU can be read ({error}): GPU metrics will be absent")


def clock(_: Config) -> Iterator[Finding]:
    now = time.gmtime()
    text = time.strftime("%Y-%m-%d %H:%M:%S UTC", now)
    boot = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    if now.tm_year < CLOCK_YEAR_MIN or boot < 0:
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
    clock,
    *troubleshooting.CHECKS,
)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _nearest(path: Path) -> Path:
    """The path itself or the closest parent that exists."""
    return next(part for part in [path, *path.parents] if part.exists())

