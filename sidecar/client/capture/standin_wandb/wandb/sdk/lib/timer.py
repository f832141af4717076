"""A stopwatch, by wandb's name."""

import time
from typing import Any


class Timer:
    def __enter__(self) -> "Timer":
        self.start_time, self.start = time.time(), time.perf_counter()
        return self

    def __exit__(self, *args: Any) -> None:
        self.stop = time.perf_counter()
        self.elapsed = self.stop - self.start
