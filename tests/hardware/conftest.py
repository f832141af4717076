"""The fake NVML library, built once, and its state, fresh for each test."""

import ctypes
import os
import shutil
from pathlib import Path

import pynvml
import pytest

from tests.fakes.nvml.fake import FakeGpus, build


def _needs_gcc() -> None:
    if shutil.which("gcc") is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("gcc not installed: apt-get install gcc")


@pytest.fixture(scope="session")
def nvml_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory for LD_LIBRARY_PATH: the fake under the real library's name."""
    _needs_gcc()
    return build(tmp_path_factory.mktemp("nvml")).parent


@pytest.fixture(scope="session")
def _nvml_in_process(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    _needs_gcc()
    return ctypes.CDLL(str(build(tmp_path_factory.mktemp("nvml-in-process"), soname=None)))


@pytest.fixture
def gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, _nvml_in_process: ctypes.CDLL) -> FakeGpus:
    """Eight healthy GPUs behind the real bindings, in this process."""
    state = FakeGpus(tmp_path / "gpus")
    monkeypatch.setenv("FAKE_NVML_STATE", str(state.path))
    monkeypatch.setattr(pynvml, "nvmlLib", _nvml_in_process)
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
    return state
