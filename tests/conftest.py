"""For every test: no key of the user's, no setting of the user's, and in CI no silent skip."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sidecar import leftovers
from sidecar.rendezvous import default_endpoint

KEPT = {"SIDECAR_TEST_KEEP"}
USERS_ENDPOINT = default_endpoint()  # Before any test changes the environment.
RING_SECONDS = 60.0
"""A younger ring may be one that another worker's sidecar is about to fetch."""

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts its background jobs with SIGINT ignored, and every process inherits that: a command under test
    # would never see Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Nobody's W&B key, launch or settings leak into a test, and a test's data never into the user's directories."""
    for name in list(os.environ):
        if name.startswith(("SIDECAR_", "WANDB_", "SLURM_", "TORCHELASTIC_")) and name not in KEPT:
            monkeypatch.delenv(name)
        if name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "http_proxy", "HTTP_PROXY"):
            monkeypatch.delenv(name)
    home = tmp_path_factory.getbasetemp() / "home"
    home.mkdir(exist_ok=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_DATA_HOME", str(home / "data"))
    monkeypatch.setenv("NETRC", str(home / "no-netrc"))


@pytest.fixture(scope="session")
def rings_before() -> frozenset[Path]:
    """Those of other people's trainings, which are left alone."""
    return frozenset(one.path for one in leftovers.leftovers(time.time()))


@pytest.fixture(scope="module", autouse=True)
def rings_removed(rings_before: frozenset[Path]) -> Iterator[None]:
    """Trainers under test that end with no sidecar beside them leave their rings in memory, 16 MiB each.

    A young one is left to a later module's end.
    """
    yield
    found = leftovers.leftovers(time.time())
    others = rings_before | {one.path for one in leftovers.of_endpoint(found, USERS_ENDPOINT)}
    leftovers.remove([one for one in found if one.path not in others and one.age_seconds > RING_SECONDS])


@pytest.hookimpl(hookwrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Iterator[None]:
    """The same for modules that skip themselves as a whole."""
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    if os.environ.get("CI") == "true" and report.skipped:
        report.outcome = "failed"
        report.longrepr = f"skipped in CI, where nothing may be skipped: {report.longrepr}"


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """In CI a skipped test is a failure, unless it says it needs what CI may not have: a GPU, or root's networks."""
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    may_skip = any(item.get_closest_marker(name) for name in ("gpu", "network_namespaces"))
    if os.environ.get("CI") == "true" and report.skipped and not may_skip and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped in CI, where nothing may be skipped: {report.longrepr}"


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return Path(__file__).resolve().parent.parent
