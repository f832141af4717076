"""Where the two worlds meet: the default endpoint, the folders of sockets and rings, and the keys for tcp.

Given: the environment and the user id. Hands on: paths in private folders that were verified; encrypted sockets.
Never: trusts a folder that another user could have prepared, or lets an event travel over tcp in the clear.
"""

import os
import stat
import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    import zmq

APPLICATION = "trainer-sidecar"
IPC_PATH_BYTES_MAX = 107  # sockaddr_un; $TMPDIR on clusters is long.


class NoKeys(ValueError):
    """The endpoint is tcp and a key is missing, unreadable, or readable by others."""


class UnsafeDirectory(OSError):
    """The folder exists but is not a private folder of ours (owner, mode or symlink)."""


def private_directory(path: "Path") -> "Path":
    """Create ``path`` with mode 0700, or verify that it already is ours alone. Raises UnsafeDirectory or OSError."""
    try:
        path.mkdir(mode=0o700, parents=True)
    except FileExistsError:
        pass
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise UnsafeDirectory(f"{path} is not a directory")
    if found.st_uid != os.getuid():
        raise UnsafeDirectory(f"{path} belongs to user {found.st_uid}, not to {os.getuid()}")
    if found.st_mode & 0o077:
        raise UnsafeDirectory(f"{path} is open to others (mode {stat.S_IMODE(found.st_mode):o}, need 700)")
    return path


def runtime_directory() -> "Path":
    """The private folder of sockets: $XDG_RUNTIME_DIR/trainer-sidecar, else a folder of ours in the temp folder."""
    base = os.environ.get("XDG_RUNTIME_DIR")
    if base and os.path.isdir(base) and os.access(base, os.W_OK):
        return private_directory(_path(base) / APPLICATION)
    return private_directory(_temporary_directory() / f"{APPLICATION}-{os.getuid()}")


def _temporary_directory() -> "Path":
    import tempfile  # Only here: it costs an importing trainer five milliseconds.

    return _path(tempfile.gettempdir())


def _path(text: str) -> "Path":
    from pathlib import Path  # Only here: three milliseconds more.

    return Path(text)


def default_endpoint() -> str:
    """The endpoint that trainers and sidecars use when nothing else is said."""
    return ipc_endpoint("events")


def ipc_endpoint(name: str) -> str:
    path = str(runtime_directory() / name)
    if len(os.fsencode(path)) > IPC_PATH_BYTES_MAX:
        short = endpoint_key(path)
        path = str(private_directory(_path("/tmp") / f"{APPLICATION}-{os.getuid()}") / short)
    return f"ipc://{path}"


def endpoint_key(endpoint: str) -> str:
    """Eight hex digits that stand for an endpoint in a ring's file name: only its sidecar claims the ring."""
    return f"{zlib.crc32(os.fsencode(endpoint)):08x}"


def ring_directories() -> "list[Path]":
    """Folders that may hold rings, best first: memory under /dev/shm, else the temp folder."""
    name = f"{APPLICATION}-rings-{os.getuid()}"
    shared_memory = _path("/dev/shm")
    bases = [shared_memory] if shared_memory.is_dir() and os.access(shared_memory, os.W_OK) else []
    return [base / name for base in [*bases, _temporary_directory()]]


def secure_client(socket: "zmq.Socket[bytes]", endpoint: str, environ: Mapping[str, str]) -> None:
    """Before a connect: for tcp, speak only encrypted, only to the sidecar expected, as a trainer it may know.

    SIDECAR_SERVER_KEY is the sidecar's public key, SIDECAR_CLIENT_KEY the path of our secret key file. Raises NoKeys.
    """
    if not endpoint.startswith("tcp://"):
        return
    import zmq.auth

    server, path = environ.get("SIDECAR_SERVER_KEY"), environ.get("SIDECAR_CLIENT_KEY")
    if not server or not path:
        raise NoKeys("a tcp endpoint needs SIDECAR_SERVER_KEY and SIDECAR_CLIENT_KEY; `sidecar keys` prints both")
    try:
        if os.stat(path).st_mode & 0o077:
            raise NoKeys(f"others can read the secret key {path}; chmod 600 it")
        public, secret = zmq.auth.load_certificate(path)
        if secret is None:
            raise NoKeys(f"{path} holds no secret key")
        socket.curve_publickey, socket.curve_secretkey, socket.curve_serverkey = public, secret, server.encode()
    except (OSError, zmq.ZMQError) as error:
        raise NoKeys(f"the keys cannot be used: {error}") from error
