import os
import subprocess
from pathlib import Path

import pytest

from sidecar.whole import open_whole


def test_a_file_appears_whole(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text("the old one")
    with open_whole(path) as out:
        out.write(b"the new one")
        out.flush()
        assert path.read_text() == "the old one"
    assert path.read_text() == "the new one"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text("the old one")

    def fail() -> None:
        with open_whole(path) as out:
            out.write(b"half of")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "the old one"
    assert list(tmp_path.iterdir()) == [path]


def test_a_pipe_is_written_to_and_stays_one(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["cat", str(pipe)], stdout=subprocess.PIPE) as reader:
        with open_whole(pipe) as out:
            out.write(b"through")
        assert reader.communicate(timeout=30)[0] == b"through"
    assert pipe.is_fifo()
