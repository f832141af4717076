import os
import stat
import subprocess
from pathlib import Path

import pytest

from sidecar.atomic_file import open_atomic, write_atomic


def test_a_file_appears_whole(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text("the old one")
    with open_atomic(path) as out:
        out.write(b"the new one")
        out.flush()
        assert path.read_text() == "the old one"
    assert path.read_text() == "the new one"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text("the old one")

    def fail() -> None:
        with open_atomic(path) as out:
            out.write(b"half of")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "the old one"
    assert list(tmp_path.iterdir()) == [path]


def test_two_writers_of_one_file_do_not_disturb_each_other(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    with open_atomic(path) as slow:
        slow.write(b"slow")
        write_atomic(path, b"fast")
        assert path.read_bytes() == b"fast"
    assert path.read_bytes() == b"slow"


@pytest.mark.parametrize("name", ["n" * 255, "ü" * 127])
def test_the_longest_name_that_the_file_system_takes_will_do(tmp_path: Path, name: str) -> None:
    write_atomic(tmp_path / name, b"x")
    assert (tmp_path / name).read_bytes() == b"x"


def test_permissions_are_those_asked_for_else_those_of_the_file_before(tmp_path: Path) -> None:
    def mode(name: str) -> int:
        return stat.S_IMODE((tmp_path / name).stat().st_mode)

    write_atomic(tmp_path / "private", b"x", mode=0o600)
    write_atomic(tmp_path / "usual", b"x")
    umask = os.umask(0)
    os.umask(umask)
    assert mode("private") == 0o600
    assert mode("usual") == 0o666 & ~umask
    write_atomic(tmp_path / "private", b"y")
    assert mode("private") == 0o600


def test_a_pipe_is_written_to_and_stays_one(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["cat", str(pipe)], stdout=subprocess.PIPE) as reader:
        with open_atomic(pipe) as out:
            out.write(b"through")
        assert reader.communicate(timeout=30)[0] == b"through"
    assert pipe.is_fifo()


def test_a_link_stays_one_and_its_target_is_replaced(tmp_path: Path) -> None:
    target, link = tmp_path / "run-7.csv", tmp_path / "latest.csv"
    target.write_text("old")
    link.symlink_to(target.name)
    write_atomic(link, b"new")
    assert link.is_symlink()
    assert target.read_text() == "new"


def test_the_name_of_an_open_file_is_written_to(tmp_path: Path) -> None:
    """As /dev/stdout, which is a link into /proc: replacing it would take it from every process of the machine."""
    stdout, file = tmp_path / "stdout", tmp_path / "file"
    with file.open("wb") as opened:
        stdout.symlink_to(f"/proc/self/fd/{opened.fileno()}")
        write_atomic(stdout, b"through")
        write_atomic(Path(f"/dev/fd/{opened.fileno()}"), b"again")
        assert file.samefile(f"/proc/self/fd/{opened.fileno()}")
    assert file.read_bytes() == b"again"
    assert stdout.is_symlink()
