"""The page that promises names tests that exist, for every fault of the matrix."""

import re
from pathlib import Path

FAULTS = 45


def test_every_fault_has_a_test_that_exists_or_a_written_reason(repository: Path) -> None:
    page = (repository / "docs/reliability.md").read_text()
    rows = dict(re.findall(r"^\| (\d+) \|.*?\|.*?\| (.+) \|$", page, re.MULTILINE))
    assert [int(number) for number in rows] == list(range(1, FAULTS + 1))
    for number, cell in rows.items():
        named = re.findall(r"`([\w/]+\.py)::(\w+)`", cell)
        assert named or "no test" in cell, f"fault {number}"
        for file, test in named:
            path = repository / "tests" / file
            assert path.exists(), f"fault {number}: {file}"
            assert re.search(rf"^(async )?def {test}\(", path.read_text(), re.MULTILINE), f"fault {number}: {test}"
