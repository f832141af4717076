"""``sidecar run --endpoint tcp://HOST:PORT``: the sidecar is on another host, the training here.

Given: a loaded configuration whose endpoint is another machine's, a command. Hands on: the command's exit code.
Never: starts a sidecar here, or gives up what a dead trainer left: its ring stays until it is acknowledged.
"""

import ipaddress
import socket
import time
from urllib.parse import urlsplit

from sidecar import recovery, replay
from sidecar.child import Child, resolve
from sidecar.config import Loaded
from sidecar.errors import UserError, one_line
from sidecar.launch import for_trainer, to_stderr
from sidecar.launch_identity import identify
from sidecar.rendezvous import NoKeys

REPLAY_SECONDS_MAX = 10.0
TICK_SECONDS = 1.0
KEYS = ("SIDECAR_SERVER_KEY", "SIDECAR_CLIENT_KEY")


def is_remote(endpoint: str | None) -> bool:
    """Is it a tcp address that no interface of this machine has? A name that cannot be resolved is taken for one."""
    if endpoint is None or not endpoint.startswith("tcp://"):
        return False
    host = urlsplit(endpoint).hostname or ""
    if host in ("", "*", "localhost"):
        return False
    return not any(_is_ours(address) for address in _addresses(host))


def run(
    loaded: Loaded, command: list[str], environ: dict[str, str], *, quiet: bool = False,
    capture: dict[str, str] | None = None,
) -> int:
    """Raises UserError before the command has started; afterwards the exit code is the command's."""
    config, endpoint = loaded.config, loaded.config.endpoint or ""
    run_id, launch_id = identify(config.run_id, environ, time.time())
    resolved = resolve(command, environ)
    _require_keys(environ)
    _replay(endpoint, environ, config.grace_seconds, quiet)
    child = Child(command, resolved | for_trainer(config, endpoint, run_id, launch_id) | (capture or {}))
    _say(f"run {run_id} is sent to the sidecar at {endpoint}; its page, /metrics and journal are on that host", quiet)
    while (code := child.wait(TICK_SECONDS)) is None:
        pass
    try:
        _replay(endpoint, environ, config.grace_seconds, quiet)
    except Exception as error:  # noqa: BLE001  # Whatever fails from here on, the shell must get the command's code.
        _say(error.cause if isinstance(error, UserError) else f"the end was not orderly: {error!r}", quiet)
    child.release()
    return code


def _require_keys(environ: dict[str, str]) -> None:
    missing = [name for name in KEYS if not environ.get(name)]
    if missing:
        raise UserError(
            f"a sidecar on another host needs {' and '.join(missing)}", "`sidecar keys` on that host prints both"
        )


def _replay(endpoint: str, environ: dict[str, str], seconds: float, quiet: bool) -> None:
    """Send what dead trainers of this host left for that sidecar. Raises UserError for unusable keys."""
    try:
        done = replay.replay_rings(endpoint, environ, min(max(seconds, TICK_SECONDS), REPLAY_SECONDS_MAX))
    except NoKeys as error:
        raise UserError(str(error), "`sidecar keys` on the sidecar's host prints both") from None
    if done:
        _say(f"sent what {done} ended training process{'es' if done > 1 else ''} had left", quiet)
    if left := sum(1 for _ in recovery.rings_of(endpoint)):
        rings = "1 ring waits" if left == 1 else f"{left} rings wait"
        _say(f"{rings} for {endpoint}; the next `sidecar run` to it sends those of ended processes", quiet)


def _addresses(host: str) -> set[str]:
    try:
        return {str(found[4][0]) for found in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    except OSError:
        return set()


def _is_ours(address: str) -> bool:
    """Only an address of this machine can be bound."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    if parsed.is_loopback or parsed.is_unspecified:
        return True
    family = socket.AF_INET6 if parsed.version == 6 else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True


def _say(line: str, quiet: bool) -> None:
    if not quiet:
        to_stderr(f"sidecar: {one_line(line)}")
