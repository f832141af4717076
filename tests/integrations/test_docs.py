# ruff: noqa: E501 - scripts and tables read better on one line
"""docs/integrations.md: every block is a script that runs as written, and its change is small."""

import re
import textwrap
from pathlib import Path

import pytest

CHANGED_LINES_MAX = 10
PAGE = Path(__file__).resolve().parents[2] / "docs" / "integrations.md"
BLOCKS = {
    title.strip(): block
    for title, block in re.findall(r"\n## ([^\n]+)\n(?:(?!\n## ).)*?```diff\n(.*?)```", PAGE.read_text(), re.DOTALL)
}
CAPTURES = {"MiniMind style": "swanlab"}


def after(block: str) -> str:
    """The script once the change is made."""
    return "\n".join(line[1:] for line in block.splitlines() if not line.startswith("-"))


@pytest.mark.parametrize("title", BLOCKS)
def test_the_change_is_at_most_ten_lines(title: str) -> None:
    assert 0 < sum(line.startswith("+") for line in BLOCKS[title].splitlines()) <= CHANGED_LINES_MAX


@pytest.mark.parametrize("title", BLOCKS)
def test_the_example_runs_and_its_loss_arrives(title: str, captured, script, listener) -> None:
    if title in CAPTURES:
        captured(after(BLOCKS[title]), CAPTURES[title])
    else:
        script(textwrap.dedent(after(BLOCKS[title])))
    rows = listener.rows(kinds=("step", "log"), wait=lambda rows: any("train/loss" in row.metrics for row in rows))
    assert any("train/loss" in row.metrics for row in rows)
    assert len({row.step for row in rows}) >= 3


def test_all_loops_the_page_promises_are_there() -> None:
    assert {"A plain torch loop", "nanochat style", "MiniMind style", "Hugging Face Trainer", "Lightning", "Accelerate"} <= set(BLOCKS)
