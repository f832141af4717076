"""Data that cannot be used: counted and named, or refused.

Given: where it is and what is wrong with it. Hands on: data/unreadable, and lines for the console.
Never: raises unless told to refuse.
"""

from dataclasses import dataclass, field

from trainer.data.quality import Quality
from trainer.errors import UserError

NAMED_MAX = 3


@dataclass
class DataReport:
    """Unusable rows and files: all are counted, the first few named. ``refuse``: the first one raises."""

    refuse: bool = False
    count: int = 0
    unnamed: int = 0  # Those of count beyond the ones in named.
    named: list[str] = field(default_factory=list)
    quality: Quality = field(default_factory=Quality)  # About the rows that were usable.
    remarks: list[str] = field(default_factory=list)  # Other lines for the console about where the data come from.

    def add(self, where: str, reason: str, rows: int = 1) -> None:
        """Count ``rows`` unusable rows. Raises UserError if bad rows are refused."""
        if self.refuse:
            raise UserError(f"{where}: {reason}", "correct that, or skip such rows with --bad_rows skip")
        self.count += rows
        if len(self.named) < NAMED_MAX:
            self.named.append(f"{where}: {reason}")
        else:
            self.unnamed += rows

    def reset(self) -> None:
        """Forget the rows read so far: they will not be used."""
        self.count, self.unnamed, self.named, self.quality = 0, 0, [], Quality(self.quality.screen)

    def sentence(self) -> str:
        more = f" and {self.unnamed} more" if self.unnamed else ""
        return f"skipped {self.count} bad row(s): {'; '.join(self.named)}{more}"

    def lines(self) -> tuple[str, ...]:
        """For the console."""
        return (*self.remarks, *((self.sentence(),) if self.count else ()))
