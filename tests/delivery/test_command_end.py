"""Whose the exit code of a command is: what a sidecar journals of the launcher's word, from journals made by hand."""

import os
import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sidecar import command_end, exit_codes, wire
from sidecar.command_end import CommandEnd, EndedCommands, events_of, leave
from sidecar.exit_codes import ExitCodes
from sidecar.journal import Chunk, Journal
from sidecar.ring import process_started_seconds
from sidecar.store import Store

SECOND = 1_000_000_000
BEGAN_NS = 1_000 * SECOND
ENDED_NS = BEGAN_NS + 7_200 * SECOND
END = CommandEnd("launch", "here", 100, BEGAN_NS, ENDED_NS, 5, 3)


class Journals:
    """The runs of a data directory. Times are seconds before the end of the command."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._store = Store(directory)
        self._store.prepare()
        self.open: dict[str, Journal] = {}
        self.sessions = 0

    def process(self, run: str, *, begun: float, ended: float | None, how: str = "finished", rank: int = 0,
                pid: int = 7, launch_id: str = "launch") -> int:  # fmt: skip
        """A training process and its end: finished, failed, lost, or None for one that lives on."""
        self.sessions += 1
        session = self.sessions
        journal = self.open.get(run) or self._store.journal(run)
        self.open[run] = journal
        hello = wire.Hello(
            run_id=run, rank=rank, session=session, time_ns=ENDED_NS - int(begun * SECOND), mono_ns=1, project="p",
            pid=pid, host="here", launch_id=launch_id,
        )  # fmt: skip
        journal.greet(hello, 1)
        if ended is not None:
            end_ns = ENDED_NS - int(ended * SECOND)
            if how == "lost":
                journal.own_stream(99, 1)
                self._append(journal, 99, wire.RankEnded(end_ns, 1, rank=rank, session=session))
            else:
                self._append(journal, session, wire.Finished(end_ns, 1, how))
        return session

    def _append(self, journal: Journal, session: int, event: wire.Event) -> None:
        first = journal.streams[session].next_seq
        journal.append([Chunk(session, first, 1, [wire.encode_event(event)])])

    def blamed(self, end: CommandEnd = END, codes: dict[int, int] | None = None) -> list[tuple[str, int]]:
        """``codes``: what the kernel says, by session."""
        found = events_of(self.directory, end, lambda hello: (codes or {}).get(hello.session))
        return sorted((run, event.rank) for run, event in found)


@pytest.fixture
def journals(tmp_path: Path) -> Iterator[Journals]:
    made = Journals(tmp_path)
    yield made
    for journal in made.open.values():
        journal.close()


def test_the_process_that_ended_with_the_command_gets_its_exit_code(journals: Journals) -> None:
    session = journals.process("r", begun=60, ended=1)
    [(run, event)] = events_of(journals.directory, END)
    assert (run, event.session, event.time_ns, event.exit_code) == ("r", session, ENDED_NS, 3)
    assert event.reason == "the command ended with exit code 3"


@pytest.mark.parametrize(("pid", "host", "seconds"), [(100, "here", 59), (7, "here", 4)])
def test_how_long_before_the_end_a_goodbye_may_be(journals: Journals, pid: int, host: str, seconds: int) -> None:
    """The command's own process says it, then frees its devices. After one below it other work may have failed."""
    journals.process("r", begun=1000, ended=seconds, pid=pid)
    assert journals.blamed() == [("r", 0)]
    later = ENDED_NS + 2 * SECOND
    assert journals.blamed(CommandEnd("launch", host, 100, BEGAN_NS, later, 5, 3)) == []


def test_a_process_id_of_another_host_is_not_the_commands_own(journals: Journals) -> None:
    journals.process("r", begun=1000, ended=30, pid=100)
    assert journals.blamed(CommandEnd("launch", "there", 100, BEGAN_NS, ENDED_NS, 5, 3)) == []


def test_of_runs_one_after_another_only_the_last_is_blamed(journals: Journals) -> None:
    journals.process("long ago", begun=7000, ended=3600)
    journals.process("just before", begun=10, ended=3)
    journals.process("last", begun=2, ended=1)
    assert journals.blamed() == [("last", 0)]


def test_all_ranks_that_said_goodbye_are_blamed_together(journals: Journals) -> None:
    for rank in range(3):
        journals.process("r", begun=100, ended=1 + rank / 10, rank=rank)
    assert journals.blamed() == [("r", 0), ("r", 1), ("r", 2)]


@pytest.mark.parametrize("how", ["failed", "lost"])
def test_a_process_that_failed_by_itself_explains_the_exit_code_and_the_others_stay_finished(
    journals: Journals, how: str
) -> None:
    journals.process("good", begun=100, ended=1)
    journals.process("r", begun=100, ended=1, rank=0)
    journals.process("r", begun=100, ended=2, rank=1, how=how)
    assert journals.blamed() == [("r", 1)]


def test_a_step_that_fails_right_after_a_good_training_is_not_the_trainings_where_the_kernel_tells(
    journals: Journals,
) -> None:
    session = journals.process("r", begun=60, ended=0.1)
    assert journals.blamed() == [("r", 0)]
    assert journals.blamed(codes={session: 0}) == []


def test_a_process_whose_own_exit_code_is_known_is_blamed_however_long_ago_it_was(journals: Journals) -> None:
    early = journals.process("early", begun=7000, ended=3600)
    good = journals.process("good", begun=100, ended=50)
    late = journals.process("late", begun=40, ended=1)
    assert journals.blamed(codes={early: 4, good: 0, late: 0}) == [("early", 0)]
    [(_, event)] = events_of(journals.directory, END, lambda hello: 4 if hello.session == early else 0)
    assert (event.exit_code, event.reason) == (4, "the training process ended with exit code 4")
    assert journals.blamed(codes={early: 0, good: 3}) == [("good", 0)], "that explains the exit code"


def test_a_rank_that_failed_explains_why_the_others_were_ended(journals: Journals) -> None:
    ended = journals.process("r", begun=100, ended=3, rank=0)
    failed = journals.process("r", begun=100, ended=4, rank=1, how="failed")
    assert journals.blamed(codes={ended: 143, failed: 1}) == [("r", 1)]


TELLS = tuple(int(part) for part in re.findall(r"\d+", os.uname().release)[:2]) >= (6, 15)


def introduced(process: "subprocess.Popen[str]", session: int) -> wire.Hello:
    return wire.Hello(run_id="r", rank=0, session=session, time_ns=1, mono_ns=1, project="p", pid=process.pid,
                      pid_started=process_started_seconds(process.pid), host=socket.gethostname())  # fmt: skip


@pytest.mark.parametrize(("command", "code"), [("exit 0", 0), ("exit 3", 3), ("kill -9 $$", 137)])
def test_the_kernel_tells_the_exit_code_of_a_process_that_somebody_else_waited_for(command: str, code: int) -> None:
    codes = ExitCodes()
    with subprocess.Popen(["sh", "-c", f"read line; {command}"], stdin=subprocess.PIPE, text=True) as process:
        hello = introduced(process, 7)
        codes.greet(hello)
        assert codes.of(hello) is None, "it lives"
    assert codes.of(hello) == (code if TELLS else None)
    codes.greet(hello)
    assert codes.of(hello) == (code if TELLS else None), "a Hello that comes twice changes nothing"


@pytest.mark.parametrize("change", [{"pid": 0}, {"pid": 2**40}, {"host": "elsewhere"}, {"pid_started": 1.0}])
def test_of_a_process_that_is_not_to_be_found_here_no_exit_code_is_known(change: dict[str, Any]) -> None:
    codes = ExitCodes()
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, text=True) as process:
        hello = msgspec.structs.replace(introduced(process, 7), **change)
        codes.greet(hello)
    assert codes.of(hello) is None


def test_descriptors_are_given_back_and_the_codes_of_the_newest_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exit_codes, "PROCESSES_MAX", 2)
    codes, hellos = ExitCodes(), []
    before = len(os.listdir("/proc/self/fd"))
    for session in range(4):
        with subprocess.Popen(["cat"], stdin=subprocess.PIPE, text=True) as process:
            hellos.append(introduced(process, session))
            codes.greet(hellos[-1])
    assert [codes.of(hello) for hello in hellos] == ([None, None, 0, 0] if TELLS else [None] * 4)
    assert len(os.listdir("/proc/self/fd")) == before + (0 if TELLS else 2)


def test_a_failure_of_long_ago_explains_nothing(journals: Journals) -> None:
    journals.process("old", begun=7000, ended=3600, how="lost")
    journals.process("restarted", begun=50, ended=40, how="lost")
    journals.process("restarted", begun=30, ended=1)
    assert journals.blamed() == [("restarted", 0)]


def test_processes_of_other_launches_and_those_that_live_on_are_left_alone(journals: Journals) -> None:
    journals.process("other", begun=100, ended=1, launch_id="another")
    journals.process("before", begun=8000, ended=1)
    journals.process("lives on", begun=100, ended=None)
    assert journals.blamed() == []


def test_a_file_is_removed_once_its_news_is_committed_and_is_taken_once_where_it_cannot_be(
    journals: Journals, monkeypatch: pytest.MonkeyPatch
) -> None:
    journals.process("r", begun=60, ended=1)
    done: list[str] = []
    path = leave(journals.directory, END)
    assert path is not None

    def commit() -> None:
        done.append("commit" if path.exists() else "too late")

    ended = EndedCommands(journals.directory, lambda run_id, event: done.append(run_id), commit)
    ended.take(ended.waiting())
    assert (done, path.exists()) == (["commit", "r", "commit"], False)
    leave(journals.directory, END)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", lambda path: (_ for _ in ()).throw(PermissionError()))
        ended.take(ended.waiting())
    assert ended.waiting() == []


TOO_MUCH = msgspec.json.encode(msgspec.structs.replace(END, exit_code=2**63))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"launch_id": 5}', b"\xff" * 100, TOO_MUCH])
def test_a_file_that_makes_no_sense_is_removed_and_nobody_is_blamed(tmp_path: Path, content: bytes) -> None:
    folder = tmp_path / command_end.FOLDER
    folder.mkdir()
    (folder / "x.json").write_bytes(content)
    submitted: list[object] = []
    ended = EndedCommands(tmp_path, lambda *news: submitted.append(news), lambda: None)
    ended.take(ended.waiting())
    assert (submitted, list(folder.iterdir())) == ([], [])


def test_a_folder_that_cannot_be_written_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / command_end.FOLDER).write_text("a file")
    assert leave(tmp_path, END) is None
    assert EndedCommands(tmp_path, lambda *_: None, lambda: None).waiting() == []
