"""When a captured value is the one real wandb stored."""

import math
from collections.abc import Mapping
from typing import Any


def same(mine: Any, real: Any) -> bool:
    """Equal, of one kind, and NaN equal to NaN. JSON has one kind of number: 2.0 is written as 2."""
    if isinstance(mine, dict) and isinstance(real, dict):
        return mine.keys() == real.keys() and all(same(mine[key], real[key]) for key in mine)
    if isinstance(mine, list) and isinstance(real, list):
        return len(mine) == len(real) and all(map(same, mine, real))
    if isinstance(mine, bool) or isinstance(real, bool):
        return mine is real
    if isinstance(mine, float | int) and isinstance(real, float | int):
        return mine == real or (math.isnan(mine) and math.isnan(real))
    return type(mine) is type(real) and mine == real


def without(row: Mapping[str, Any], words: tuple[str, ...]) -> dict[str, Any]:
    """Of what a script measures itself (times, speeds) only the names can be compared."""
    return {name: "measured" if any(word in name for word in words) else value for name, value in row.items()}
