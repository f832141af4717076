"""The rule that nothing is skipped in CI, tried on tests that do skip."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SKIPPING = """
import pytest

@pytest.fixture
def missing():
    pytest.skip("nothing here")

def test_in_a_fixture(missing): pass
def test_in_the_body(): pytest.skip("nothing here")
@pytest.mark.skip
def test_by_a_mark(): pass
@pytest.mark.gpu
def test_for_hardware(): pytest.skip("no GPU")
@pytest.mark.network_namespaces
def test_for_root(): pytest.skip("not root")
"""


@pytest.mark.parametrize(("ci", "summary"), [("true", "1 failed, 2 skipped, 3 errors"), ("", "6 skipped")])
def test_skipped_tests_fail_in_ci_unless_they_need_a_gpu_or_root(
    tmp_path: Path, repository: Path, ci: str, summary: str
) -> None:
    (tmp_path / "conftest.py").write_text(Path(__file__).with_name("conftest.py").read_text())
    (tmp_path / "test_skipping.py").write_text(SKIPPING)
    (tmp_path / "test_module.py").write_text("import pytest\npytest.importorskip('no_such_module_anywhere')\n")
    options = ["-q", "-W", "ignore", "-p", "no:cacheprovider", "--continue-on-collection-errors"]
    command = [sys.executable, "-m", "pytest", *options, str(tmp_path)]
    result = subprocess.run(
        command,
        cwd=tmp_path,
        env=os.environ | {"CI": ci, "PYTHONPATH": str(repository)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert summary in result.stdout.splitlines()[-1], result.stdout
