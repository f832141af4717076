"""The training processes that have introduced themselves to this sidecar.

Given: Hellos and frames, as the intake takes them. Hands on: whom a session belongs to, and where it can be asked.
Never: grows beyond its bound. One that was forgotten to make room says Hello again when it comes back.
"""

from collections.abc import Container

from sidecar.open_journals import IDLE_SECONDS


class Session:
    __slots__ = ("heard", "peer", "run_id")

    def __init__(self, run_id: str, heard: float) -> None:
        self.run_id, self.heard = run_id, heard
        self.peer: bytes | None = None
        """Its address on the socket; None: its client does not know Fetch, so it is not asked."""


class Sessions:
    def __init__(self, sessions_max: int) -> None:
        self.sessions_max = sessions_max
        self._sessions: dict[int, Session] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    def __getitem__(self, id: int) -> Session:
        return self._sessions[id]

    def __contains__(self, id: int) -> bool:
        return id in self._sessions

    def get(self, id: int) -> Session | None:
        return self._sessions.get(id)

    def add(self, id: int, run_id: str, now: float) -> None:
        """``now``: monotonic seconds."""
        self._sessions[id] = Session(run_id, now)

    def make_room(self, now: float, in_use: Container[int]) -> bool:
        """Forget silent sessions where there are too many. False: too many are not silent. ``in_use`` ones are kept."""
        if len(self._sessions) >= self.sessions_max:
            silent = now - IDLE_SECONDS
            self._sessions = {
                id: session for id, session in self._sessions.items() if session.heard > silent or id in in_use
            }
        return len(self._sessions) < self.sessions_max

    def forget_run(self, run_id: str) -> None:
        self._sessions = {id: session for id, session in self._sessions.items() if session.run_id != run_id}

    def peers(self) -> dict[int, bytes]:
        """Session -> address, of those that can be asked for what they hold."""
        return {id: session.peer for id, session in self._sessions.items() if session.peer is not None}
