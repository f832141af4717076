"""A network that misbehaves: a TCP forwarder between trainer and sidecar that can be cut, stalled, and made to lose
or to forget.

Given: where to forward to. Hands on: bytes, unless told otherwise.
Never: looks into what it forwards.
"""

import contextlib
import selectors
import socket
import struct
import threading
import time

CHUNK_BYTES = 65536
RESET = struct.pack("ii", 1, 0)  # SO_LINGER 0: closing sends RST instead of FIN.


class Proxy:
    """Forwards from ``.port`` to ``target_port`` on loopback, in a thread of its own."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._peers: dict[socket.socket, socket.socket] = {}
        self._forgotten: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._stalled_until = 0.0
        self._truncate = False
        self._closed = False
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._forward, daemon=True)
        self._thread.start()

    def cut(self) -> None:
        """Every connection is reset, at any byte."""
        with self._lock:
            for end in list(self._peers):
                self._drop(end)

    def stall(self, seconds: float) -> None:
        """Nothing is forwarded for a while; connections stay open (a half-open network)."""
        self._stalled_until = time.monotonic() + seconds

    def forget(self) -> None:
        """Of the connections of now nothing is forwarded any more, and neither end is told; new ones work."""
        with self._lock:
            self._forgotten |= self._peers.keys()

    def truncate(self) -> None:
        """The next bytes are cut in the middle, then the connection is reset."""
        self._truncate = True

    def close(self) -> None:
        self._closed = True
        self._thread.join(5.0)
        self.cut()
        self._listener.close()

    def _forward(self) -> None:
        while not self._closed:
            if time.monotonic() < self._stalled_until:
                time.sleep(0.01)
                continue
            for key, _ in self._selector.select(0.05):
                with self._lock:
                    if key.fileobj is self._listener:
                        self._accept()
                    elif key.fileobj in self._peers:
                        self._pass_on(key.fileobj)

    def _accept(self) -> None:
        near, _ = self._listener.accept()
        try:
            far = socket.create_connection(("127.0.0.1", self._target_port), 1.0)
        except OSError:
            near.close()
            return
        self._peers[near], self._peers[far] = far, near
        for end in (near, far):
            end.settimeout(1.0)
            self._selector.register(end, selectors.EVENT_READ)

    def _pass_on(self, end: socket.socket) -> None:
        try:
            data = end.recv(CHUNK_BYTES)
            if self._truncate and len(data) > 1:
                self._truncate = False
                self._peers[end].sendall(data[: len(data) // 2])
                data = b""
            if data:
                if end not in self._forgotten:
                    self._peers[end].sendall(data)
                return
        except OSError:
            pass
        self._drop(end)

    def _drop(self, end: socket.socket) -> None:
        other = self._peers.pop(end, None)
        if other is None:
            return
        self._peers.pop(other, None)
        self._forgotten -= {end, other}
        for one in (end, other):
            with contextlib.suppress(OSError, KeyError, ValueError):
                self._selector.unregister(one)
            with contextlib.suppress(OSError):
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            one.close()
