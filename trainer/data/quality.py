"""Data that is left out: rows that cannot be used, which are counted and named, or refused, and text that must not be
trained on. And the data/* and dataset/* metrics.

Given: texts with what their source says about them; bad rows and what is wrong with them. Hands on: whether to keep a
text, the numbers, and lines for the console.
Never: stores or prints a text. It is a coarse screen by unmistakable patterns, not a full scanner.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from trainer.errors import UserError

KINDS = ("malicious", "secrets", "license")
LANGUAGES_MAX = 50
NAMED_MAX = 3  # Bad rows.
HEAD_BYTES = 4096  # Licences stand at the top.
COPYLEFT = re.compile(rb"SPDX-License-Identifier:\s*(?:A?GPL|LGPL|SSPL|CC-BY-NC)", re.IGNORECASE)
COPYLEFT_NAMES = ("agpl", "gpl", "lgpl", "sspl", "cc-by-nc")
PATTERNS: tuple[tuple[str, bytes, re.Pattern[bytes]], ...] = (
    ("secrets", b"PRIVATE KEY-----", re.compile(rb"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----\s+[A-Za-z0-9+/=]{16}")),
    ("secrets", b"AKIA", re.compile(rb"\bAKIA[0-9A-Z]{16}\b")),
    ("secrets", b"gh", re.compile(rb"gh[pousr]_(?<!\wgh[pousr]_)[A-Za-z0-9]{36}\b")),
    ("secrets", b"xox", re.compile(rb"\bxox[abprs]-[0-9A-Za-z]{4,}-[0-9A-Za-z-]{10,}")),
    ("secrets", b"sk-", re.compile(rb"sk-(?<!\wsk-)(?:[a-z]+-)?[A-Za-z0-9_]{32,}")),
    ("malicious", b"/dev/tcp/", re.compile(rb"/dev/tcp/[\w.$]+/[\d$]")),
    ("malicious", b"--no-preserve-root", re.compile(rb"rm\s+-[rf]+\s[^\n]*--no-preserve-root")),
    ("malicious", b"b64decode", re.compile(rb"\b(?:eval|exec)\s*\(\s*(?:base64\.)?b64decode\s*\(")),
    ("malicious", b"stratum+tcp", re.compile(rb"stratum\+tcp://[\w.-]+:\d")),
)
"""(kind, a substring that is searched first because that is fast, what must match then)."""


def blocked(text: bytes, license: object = None) -> str | None:
    """Which of KINDS this text is; None if it may be trained on. ``license``: as its source names it."""
    if isinstance(license, str) and license.lower().startswith(COPYLEFT_NAMES):
        return "license"
    if b"SPDX" in text[:HEAD_BYTES] and COPYLEFT.search(text[:HEAD_BYTES]):
        return "license"
    return next((kind for kind, piece, pattern in PATTERNS if piece in text and pattern.search(text)), None)


@dataclass
class Quality:
    """Counts over the texts that were looked at."""

    screen: bool = True  # Leave out what is blocked.
    passed: int = 0
    characters: int = 0
    scores: list[float] = field(default_factory=list)
    languages: Counter[str] = field(default_factory=Counter)
    blocked: Counter[str] = field(default_factory=Counter)

    def keep(self, text: bytes, language: object = None, score: object = None, license: object = None) -> bool:
        """May this text be trained on? Counts it. The other arguments: what its source says about it."""
        if self.screen and (kind := blocked(text, license)):
            self.blocked[kind] += 1
            return False
        self.passed += 1
        self.characters += len(text.decode("utf-8", errors="ignore"))
        if isinstance(language, str) and language:
            self.languages[language] += 1
        if isinstance(score, int | float) and not isinstance(score, bool) and math.isfinite(score):
            self.scores.append(score)
        return True

    def metrics(self) -> dict[str, float]:
        """data/* metrics. What the source does not say is absent, and so are blocked_* without a screen."""
        stopped = self.blocked.total()
        found: dict[str, float] = {"data/total_samples": self.passed + stopped}
        if self.passed:
            found["data/avg_code_length"] = self.characters / self.passed
        if self.scores:
            found["data/avg_quality_score"] = sum(self.scores) / len(self.scores)
        if self.screen:
            found |= {f"data/blocked_{kind}": self.blocked[kind] for kind in KINDS}
            found["data/blocked_total"] = stopped
        if self.passed + stopped:
            found["data/pass_rate"] = 100 * self.passed / (self.passed + stopped)
        return found | self._languages()

    def _languages(self) -> dict[str, float]:
        common = dict(self.languages.most_common(LANGUAGES_MAX))
        if rest := self.languages.total() - sum(common.values()):
            common["other"] = common.get("other", 0) + rest
        counts = {f"data/language_{name}": count for name, count in common.items()}
        shares = {f"{name}_percent": 100 * count / self.languages.total() for name, count in counts.items()}
        return counts | shares


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


def statistics(lengths: Sequence[int], train: int, val: int) -> dict[str, float]:
    """dataset/* metrics. ``lengths``: tokens of each training sample; ``train``, ``val``: samples."""
    found: dict[str, float] = {
        "dataset/train_size": train,
        "dataset/eval_size": val,
        "dataset/total_size": train + val,
    }
    if val:
        found["dataset/train_eval_ratio"] = train / val
    if lengths:
        found["dataset/avg_tokens_per_sample"] = sum(lengths) / len(lengths)
        found["dataset/min_tokens"], found["dataset/max_tokens"] = min(lengths), max(lengths)
    return found
