"""The one gate for every outlet that leaves the machine: metrics only, unless its owner allowed more in words.

Given: rows and the RunInfo, the allowed words, what identifies this machine and user. Hands on: the same, with
what may not leave taken out, and a count of what went and what was withheld.
Never: lets a string through that nobody allowed, or changes a number.

Allow words: text, histograms, artifacts, hosts, alerts. Default none: numbers, step, time, and a configuration of
numbers, booleans and the short strings of ALLOWED_STRINGS.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import msgspec

from sidecar.rows import Row, RunInfo
from sidecar.sinks.base import FILE
from sidecar.sinks.secrecy import REDACTED, STRONG_SECRET, is_secret_key, looks_secret, without_secrets

ALLOW_WORDS = frozenset({"text", "histograms", "artifacts", "hosts", "alerts"})
ALIASES = {"alert": "alerts", "samples": "text", "histogram": "histograms", "artifact": "artifacts", "host": "hosts"}

CONFIG_STRING_CHARS_MAX = 64
NAME_CHARS_MAX = 200
NAMES_REMEMBERED_MAX = 20_000
CONFIG_KEYS_MAX = 2_000
CONFIG_DEPTH_MAX = 6

ALLOWED_STRINGS = frozenset(
    {
        "activation", "algorithm", "arch", "architecture", "attention", "attn_implementation", "backend",
        "convention", "device", "device_name", "device_type", "distributed", "dtype", "format", "gpu", "head",
        "init", "initialization", "kind", "loss", "loss_type", "lr_scheduler", "lr_scheduler_type",
        "mixed_precision", "mode", "model", "model_name", "model_type", "name", "norm", "normalization",
        "optim", "optimizer", "peak_source", "pooling", "position_embedding", "positional", "precision",
        "quantization", "rope_type", "schedule", "scheduler", "size", "split", "stage", "strategy", "task",
        "template", "tokenizer", "type", "variant", "version", "weight_init",
    }
)  # fmt: skip
"""Last word of a configuration key whose short string value may leave the machine."""

HUB_KEYS = frozenset({"model", "model_name", "name", "tokenizer"})
"""Keys whose value may be an ``owner/name`` of a public hub; elsewhere that is taken for a path."""

_EMAIL = re.compile(r"[\w.+-]+@[\w-]+(\.[\w-]+)+")
_PATH = re.compile(r"(^|[\s=:,'\"(\[])(~?/|\.{1,2}/|[A-Za-z]:[\\/]|\\\\|file:|s3:|gs:|https?:)[^\s,'\")\]]*")
_INNER_PATH = re.compile(r"//|/(home|Users)/")
_FILE = re.compile(
    r"\.(py|ipynb|sh|jsonl?|[ct]sv|parquet|txt|md|ya?ml|toml|pth?|bin|ckpt|safetensors|arrow|gz|zip)$", re.IGNORECASE
)
_WORD_LIKE = re.compile(r"[A-Za-z0-9][\w.+:-]*")
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")

GENERIC_NAMES = frozenset(
    {"root", "user", "ubuntu", "admin", "nobody", "runner", "jovyan", "localhost", "none", "home"}
)
"""User and host names that identify nobody and would mangle ordinary words."""


class Identity(msgspec.Struct, frozen=True):
    """Words that name this user or machine, found nowhere in what leaves: user, full name, home, host."""

    words: tuple[str, ...] = ()

    @staticmethod
    def of(*words: str) -> "Identity":
        kept = {word for word in words if len(word) >= 3 and word.lower() not in GENERIC_NAMES}
        return Identity(tuple(sorted(kept, key=len, reverse=True)))


class Manifest(msgspec.Struct):
    """What left for one sink and what was withheld, counted by kind."""

    run: str
    sink: str
    allow: list[str] = []
    sent: dict[str, int] = {}
    """Rows by kind, and ``values``: single numbers."""
    withheld: dict[str, int] = {}
    """Rows and values by reason: text, histogram, string, structure, name, config."""
    config_keys: list[str] = []
    """Configuration keys that left, sorted."""


class Gate:
    """One per (run, sink). Not thread-safe."""

    def __init__(
        self,
        run_id: str,
        sink: str,
        allow: Iterable[str] = (),
        allow_config: Sequence[str] = (),
        identity: Identity | None = None,
        sends_files: bool = False,
        before: Manifest | None = None,
    ) -> None:
        """``before``: what an earlier process let out; the counts go on from there."""
        self.allow = frozenset(allow_words(allow))
        self._allow_config = tuple(allow_config)
        self._sends_files = sends_files
        self._identity = _compiled(identity or Identity())
        self._names: dict[str, str | None] = {}
        before = before or Manifest(run_id, sink)
        self._sent: Counter[str] = Counter(before.sent)
        self._withheld: Counter[str] = Counter(before.withheld)
        self._config_keys, self._allowed_before = before.config_keys, before.allow
        self._run, self._sink = run_id, sink

    def rows(self, rows: Sequence[Row]) -> list[Row]:
        """As many rows as were given; one of which nothing may leave has no metrics."""
        return [self._row(row) for row in rows]

    def info(self, info: RunInfo) -> RunInfo:
        """Hosts and launch id go only by the word ``hosts``; labels are cleaned; the configuration is filtered."""
        config = self.config(info.config)
        self._config_keys = sorted({*self._config_keys, *config})
        hosts = self.allow >= {"hosts"}
        return msgspec.structs.replace(
            info,
            name=self._label(info.name),
            group=self._label(info.group),
            tags=[clean for tag in info.tags if (clean := self._label(tag))],
            notes=self._label(info.notes),
            config=config,
            model_facts=self.config(info.model_facts),
            summary=self._summary(info.summary),
            hosts=info.hosts if hosts else [],
            launch_id=info.launch_id if hosts else "",
            alerts=[(name, level, self._scrub(text), step) for name, level, text, step in info.alerts]
            if "alerts" in self.allow
            else [],
        )

    def config(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The configuration that may leave: nested keys are joined by a slash, lists of numbers are kept."""
        kept: dict[str, Any] = {}
        for key, value in _flat(config):
            if len(kept) >= CONFIG_KEYS_MAX:
                self._withheld["config"] += 1
                continue
            clean = self._config_value(key, value)
            name = self._name(key)
            if clean is None or name is None:
                self._withheld["config"] += 1
            else:
                kept[name] = clean
        return kept

    def _summary(self, summary: Mapping[str, Any]) -> dict[str, Any]:
        """As rows: numbers, and maps of numbers (a minimum and a maximum); words only when texts are allowed."""
        kept: dict[str, Any] = {}
        for name, value in summary.items():
            clean = self._name(name)
            if clean is None:
                self._withheld["name"] += 1
            elif isinstance(value, dict):
                kept[clean] = {key: item for key, item in value.items() if type(item) in (int, float, bool)}
            elif value is None or type(value) in (int, float, bool):
                kept[clean] = value
            elif self._may_leave("summary", value):
                kept[clean] = self._scrub(value) if isinstance(value, str) else value
        return kept

    def manifest(self) -> Manifest:
        return Manifest(
            self._run, self._sink, sorted({*self.allow, *self._allowed_before}),
            dict(self._sent), dict(self._withheld), self._config_keys,
        )  # fmt: skip

    def _row(self, row: Row) -> Row:
        kind = row.kind
        if (kind == "text" and "text" not in self.allow) or (kind == "histogram" and "histograms" not in self.allow):
            self._withheld[kind] += 1
            return msgspec.structs.replace(row, metrics={})
        metrics: dict[str, Any] = {}
        names = self._names
        for name, value in row.metrics.items():
            if name == FILE:
                self._file(value, metrics)
                continue
            clean = names.get(name) or self._name(name)
            if clean is None:
                self._withheld["name"] += 1
            elif type(value) is float or type(value) is int or type(value) is bool:
                metrics[clean] = value
            elif self._may_leave(kind, value):
                metrics[clean] = self._scrub(value) if isinstance(value, str) else value
        if metrics:
            self._sent[kind] += 1
            self._sent["values"] += len(metrics)
        return msgspec.structs.replace(row, metrics=metrics)

    def _file(self, path: object, metrics: dict[str, Any]) -> None:
        """For a sink that sends files: the path itself, which it needs, and keeps to itself; else that there is one."""
        allowed = self._sends_files and "artifacts" in self.allow
        (self._sent if allowed else self._withheld)["artifact"] += 1
        if self._sends_files:
            metrics[FILE] = path if allowed else None

    def _may_leave(self, kind: str, value: object) -> bool:
        if isinstance(value, str):
            allowed, reason = "text" in self.allow, "string"
        elif kind == "histogram" and isinstance(value, dict):
            allowed, reason = True, "histogram"
        elif value is None:
            return False
        else:
            allowed, reason = False, "structure"
        if not allowed:
            self._withheld[reason] += 1
        return allowed

    def _name(self, name: str) -> str | None:
        """The metric or key name if it is fit to leave, cached: names repeat with every step."""
        if name in self._names:
            return self._names[name]
        clean = name if len(name) <= NAME_CHARS_MAX and not self._reveals(name, is_name=True) else None
        if len(self._names) < NAMES_REMEMBERED_MAX:
            self._names[name] = clean
        return clean

    def _config_value(self, key: str, value: object) -> object | None:
        if isinstance(value, bool):
            return value
        if isinstance(value, int | float):
            return None if STRONG_SECRET.search(key) else value
        if isinstance(value, list | tuple):
            numbers = [item for item in value if isinstance(item, bool | int | float)]
            return numbers if numbers and len(numbers) == len(value) and len(numbers) <= 64 else None
        if isinstance(value, str):
            return self._config_string(key, value)
        return None

    def _config_string(self, key: str, value: str) -> str | None:
        if is_secret_key(key):
            return None
        if any(fnmatchcase(key, glob) for glob in self._allow_config):
            return None if looks_secret(value) else self._scrub(value)[: CONFIG_STRING_CHARS_MAX * 4]
        last = key.replace(".", "/").rpartition("/")[2].lower()
        if not (last in ALLOWED_STRINGS or key.startswith(("model/", "hyperparams/"))):
            return None
        if len(value) > CONFIG_STRING_CHARS_MAX or self._reveals(value, is_name=False):
            return None
        word = bool(_WORD_LIKE.fullmatch(value)) or (last == "device_name" and value.isascii())
        return value if word or (last in HUB_KEYS and _HUB_NAME.fullmatch(value)) else None

    def _label(self, text: str | None) -> str | None:
        """A label its owner chose for publication (name, tag, notes): kept, with what identifies replaced."""
        return None if text is None else self._scrub(text)

    def _scrub(self, text: str) -> str:
        text = without_secrets(text)
        text = _EMAIL.sub(REDACTED, text)
        text = _PATH.sub(lambda found: found[1] + REDACTED, text)
        return self._identity.sub(REDACTED, text) if self._identity else text

    def _reveals(self, text: str, *, is_name: bool) -> bool:
        if looks_secret(text) or _EMAIL.search(text) or _PATH.search(text) or _INNER_PATH.search(text):
            return True
        if not is_name and _FILE.search(text):
            return True
        return bool(self._identity and self._identity.search(text))


def allow_words(words: Iterable[str]) -> list[str]:
    """Known allow words, aliases resolved. Raises ValueError for one that does not exist."""
    resolved = [ALIASES.get(word.strip().lower(), word.strip().lower()) for word in words]
    for word in resolved:
        if word not in ALLOW_WORDS:
            raise ValueError(f"unknown allow word {word!r}; use one of: {', '.join(sorted(ALLOW_WORDS))}")
    return resolved


def _flat(config: Mapping[str, Any], prefix: str = "", depth: int = 0) -> Iterable[tuple[str, object]]:
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and depth < CONFIG_DEPTH_MAX:
            yield from _flat(value, f"{name}/", depth + 1)
        else:
            yield name, value


def _compiled(identity: Identity) -> "re.Pattern[str] | None":
    if not identity.words:
        return None
    return re.compile("|".join(rf"(?<![A-Za-z0-9]){re.escape(word)}(?![A-Za-z0-9])" for word in identity.words), re.I)
