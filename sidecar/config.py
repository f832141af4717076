"""The configuration: one frozen value, read once, refused whole; and where each part of it came from.

Given: command line options, an environment, the text of a sidecar.toml. Hands on: a ``Loaded``.
Never: reads the environment or a file by itself (``read`` at the end is the one place that does), guesses, or
accepts an unknown key.
"""

import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import msgspec
from msgspec import Meta

from sidecar.errors import UserError
from sidecar.rendezvous import APPLICATION

FILE_NAME = "sidecar.toml"
SECRETS = frozenset({"token"})
MASK = "***"
PASSWORD = re.compile(r"(://)[^/@\s]+@")
ENVIRONMENT_ALIASES = {
    "SIDECAR_GRACE": "grace_seconds", "SIDECAR_SINK": "sinks", "SIDECAR_SINK_PERIOD": "sink_period_steps",
}  # fmt: skip
"""Variables named after the options, where these are shorter than the fields."""

NEARLY = 0.85
"""How similar (0..1) the name of a variable must be to one of ours to be taken for a typing error."""

Seconds = Annotated[float, Meta(ge=0, le=1e6)]
Positive = Annotated[int, Meta(ge=1)]
Names = tuple[str, ...]


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that can be set. Options beat SIDECAR_<FIELD> beat sidecar.toml beat these defaults."""

    dir: str
    """Where journals live. Default: $XDG_DATA_HOME/trainer-sidecar, else ~/.local/share/trainer-sidecar."""
    endpoint: Annotated[str, Meta(pattern="^(ipc|tcp)://.")] | None = None
    """Where events arrive, e.g. ipc:///run/x.sock or tcp://127.0.0.1:9798. Default: ipc in a private directory."""
    host: str = "127.0.0.1"
    """Address the HTTP server binds. Anything but loopback needs a token."""
    port: Annotated[int, Meta(ge=0, le=65535)] = 9797
    """Port of the HTTP server. 0: any free one. Taken: the next free one, which is printed."""
    token: str | None = None
    """Bearer token that HTTP clients must show; required with a host that is not loopback."""
    allowed_hosts: Names = ()
    """Host headers to accept beside loopback's own (protection against DNS rebinding)."""
    sinks: Names = ()
    """Outlets every run gets: wandb, tensorboard, ..."""
    allow_sinks: Names | None = None
    """Outlets a trainer may ask for by init(sinks=...). Default: any. Empty: none."""
    project: str | None = None
    """Project of runs that name none."""
    name: str | None = None
    """Name of the launched run. `run` puts the next number, never given twice, in the place of {n}; a name that a
    script gives to init is taken as it is."""
    run_id: str | None = None
    """Id of the launched run. Default: date, time and six random digits."""
    grace_seconds: Seconds = 5.0
    """How long `run` waits, after its command ended, for sinks to drain and for one last scrape."""
    keep: bool = False
    """`run` leaves the sidecar running after its command ended."""
    sample_seconds: Annotated[float, Meta(gt=0, le=3600)] = 1.0
    """Period of hardware readings."""
    journal_bytes_max: Annotated[int, Meta(ge=64 << 20)] = 2 << 30
    """Size at which a run's journal gives up its oldest events: those first that every sink has, counted."""
    nice: Annotated[int, Meta(ge=0, le=19)] = 10
    """How far the sidecar stands back when CPUs are busy (nice(1)): training and its data loaders go first."""
    snapshot_steps: Positive = 10
    """A hardware reading is also taken at every so many steps."""
    log_level: Literal["debug", "info", "warning", "error"] = "warning"
    """What the sidecar says on stderr. Numbers are not affected."""
    sink_period_steps: Positive | Literal["preset"] = 1
    """Remote outlets get every so many steps; the journal keeps all. preset: 100 when pretraining, 10 midtraining, 50
    sft, else the run's log_train_freq or 10."""
    names: Literal["s1", "s2", "s3"] | None = None
    """Other spellings of metric names that W&B, TensorBoard and OTLP show beside the canonical ones (docs/sinks.md)."""
    allow: Names = ()
    """What may leave the machine beside numbers: text, histograms, artifacts, hosts, alerts."""
    allow_config: Names = ()
    """Keys of the run's configuration that may leave the machine though they are not numbers (globs)."""
    wandb_mode: Literal["online", "offline", "disabled"] | None = None
    """Default: WANDB_MODE, else online with a key and offline without."""
    wandb_dir: str | None = None
    """Where the W&B child writes. Default: DIR/wandb."""
    wandb_entity: str | None = None
    """Team in W&B. Default: what the trainer says, else WANDB_ENTITY."""
    tensorboard_dir: str | None = None
    """Where TensorBoard's files go. Default: DIR/tensorboard."""
    disks: Names = ()
    """Mount points whose free space is watched. Default: that of the data directory."""
    otlp_endpoint: str | None = None
    """OTLP receiver, e.g. http://localhost:4318. Default: OTEL_EXPORTER_OTLP_ENDPOINT, else that."""
    runs_max: Positive = 256
    """Runs one sidecar follows at once; more are refused, counted."""
    streams_max: Positive = 4096
    """Training processes one sidecar listens to at once; more are refused, counted."""

    def shown(self, field: str) -> Any:
        """The value as it may be shown: None, or a secret masked, also one that stands in an address."""
        value = getattr(self, field)
        if field in SECRETS and value is not None:
            return MASK
        return PASSWORD.sub(rf"\1{MASK}@", value) if isinstance(value, str) else value

    @property
    def data_directory(self) -> Path:
        return Path(self.dir)

    @property
    def endpoints_file(self) -> Path:
        """Written by the service, atomically, once it is ready: {"http": URL, "events": ENDPOINT, "pid": N}."""
        return Path(self.dir) / "endpoints.json"


HINTS: dict[str, Any] = get_type_hints(Config, include_extras=True)
FIELDS: tuple[str, ...] = Config.__struct_fields__


class Loaded(msgspec.Struct, frozen=True):
    """A configuration and, for each field, who set it: an option, a variable, a file, or nobody ("default")."""

    config: Config
    origins: dict[str, str]

    def shown(self) -> list[tuple[str, str, str]]:
        """(field, value as TOML-like text, origin) of each field; secrets masked."""
        return [(field, _display(self.config.shown(field)), self.origins[field]) for field in FIELDS]


def load(
    options: Mapping[str, object],
    environ: Mapping[str, str],
    file_text: str | None = None,
    file_name: str = FILE_NAME,
) -> Loaded:
    """Merge the sources. Pure. Raises UserError (exit code 2) for an unknown key or a bad value."""
    values: dict[str, Any] = {"dir": default_data_directory(environ)}
    origins = dict.fromkeys(FIELDS, "default")
    for field, value in _from_file(file_text, file_name).items():
        values[field], origins[field] = _typed(field, value, f"{file_name}: {field}"), file_name
    for variable, field in _variables(environ).items():
        values[field], origins[field] = _typed(field, environ[variable], variable), variable
    for field, value in options.items():
        if value is not None:
            flag = option_of(field)
            values[field], origins[field] = _typed(field, value, flag), f"option {flag}"
    values["dir"] = _absolute(values["dir"])
    return Loaded(Config(**values), origins)


def _absolute(directory: str) -> str:
    expanded = os.path.expanduser(directory)
    if expanded.startswith("~"):  # As in a container that runs under a user id of its own.
        raise UserError(
            f"no home directory is known for {directory}", "set HOME, or choose a directory with --dir or SIDECAR_DIR"
        )
    return os.path.abspath(expanded)


def default_data_directory(environ: Mapping[str, str]) -> str:
    """``$XDG_DATA_HOME/trainer-sidecar``, else ``~/.local/share/trainer-sidecar``."""
    base = environ.get("XDG_DATA_HOME", "")
    if not os.path.isabs(base):  # The XDG specification: relative values are ignored.
        base = os.path.join(environ.get("HOME") or os.path.expanduser("~"), ".local", "share")
    return os.path.join(base, APPLICATION)


def option_of(field: str) -> str:
    """The command line option of a field: grace_seconds is --grace, sinks is --sink, others keep their name."""
    short = {"grace_seconds": "grace", "sinks": "sink", "sink_period_steps": "sink-period"}
    return "--" + short.get(field, field).replace("_", "-")


def read(options: Mapping[str, object], environ: Mapping[str, str], file_path: str | None = None) -> Loaded:
    """``load`` with the file found: ``file_path`` (must exist), else ./sidecar.toml if there is one."""
    path = file_path or environ.get("SIDECAR_CONFIG") or (FILE_NAME if os.path.exists(FILE_NAME) else None)
    if path is None:
        return load(options, environ)
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UserError(f"cannot read {path}: {reason}", "give the path of a sidecar.toml to --config") from None
    return load(options, environ, text, path)


def _from_file(text: str | None, file_name: str) -> dict[str, Any]:
    if text is None:
        return {}
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        place = re.search(r"line (\d+)", str(error))
        remedy = f"correct line {place[1]} of {file_name}" if place else f"correct the end of {file_name}"
        raise UserError(f"{file_name} is not valid TOML: {error}", f"{remedy}, or move the file away") from None
    flat: dict[str, Any] = {}
    for key, value in document.items():
        nested = value.items() if isinstance(value, dict) and key not in FIELDS else [(None, value)]
        flat.update({key if sub is None else f"{key}_{sub}": inner for sub, inner in nested})
    for key in flat:
        if key not in FIELDS:
            raise UserError(f'{file_name}: unknown key "{key}"', _suggestion(key))
    return flat


def _suggestion(key: str) -> str:
    close = difflib.get_close_matches(key, FIELDS, n=1, cutoff=0.5)
    if close:
        return f'did you mean "{close[0]}"? `sidecar config show` lists every key'
    return "`sidecar config show` lists every key"


def _variables(environ: Mapping[str, str]) -> dict[str, str]:
    """Which variables of ``environ`` set which fields. Raises UserError for one that is nearly, but not quite, ours.

    Other unknown SIDECAR_* belong to somebody else (the client, Kubernetes) and are left alone.
    """
    known = {f"SIDECAR_{field.upper()}": field for field in FIELDS} | ENVIRONMENT_ALIASES
    for variable in environ:
        if variable.startswith("SIDECAR_") and variable not in known:
            close = difflib.get_close_matches(variable[8:], [name[8:] for name in known], n=1, cutoff=NEARLY)
            swapped = [name[8:] for name in known if sorted(name) == sorted(variable)]  # PROT is no nearer than 0.75.
            if meant := close or swapped:
                raise UserError(f"unknown variable {variable}", f"did you mean SIDECAR_{meant[0]}?")
    found = {variable: field for variable, field in known.items() if environ.get(variable, "") != ""}
    # In Kubernetes a Service called "sidecar" sets SIDECAR_PORT=tcp://10.0.0.1:9797 in every pod: not ours.
    if environ.get("SIDECAR_PORT", "").startswith(("tcp://", "udp://")):
        found.pop("SIDECAR_PORT", None)
    return found


def _typed(field: str, value: object, source: str) -> Any:
    """``value`` as the field's type. Text is split at commas for lists and read as a number where one is due."""
    hint = HINTS[field]
    if isinstance(value, str) and "tuple" in str(hint).lower():
        value = [part.strip() for part in value.split(",") if part.strip()]
        value = [] if value == ["none"] else value
    try:
        return msgspec.convert(value, hint, strict=not isinstance(value, str), str_keys=False)
    except msgspec.ValidationError as error:
        shown = MASK if field in SECRETS else PASSWORD.sub(rf"\1{MASK}@", repr(value))
        raise UserError(f"{source}: {shown} is not accepted: {_plain(str(error))}", _expected(field)) from None


def _plain(message: str) -> str:
    return message[:1].lower() + message[1:].replace("`", "")


def _expected(field: str) -> str:
    hint = str(HINTS[field])
    if field == "sink_period_steps":
        return "use a number of steps, or preset"
    if "Literal" in hint:
        return "use one of " + ", ".join(re.findall(r"'(\w+)'", hint))
    if HINTS[field] is bool:
        return "use true or false"
    if field == "endpoint":
        return "use ipc://PATH or tcp://ADDRESS:PORT"
    if field == "port":
        return "use a number from 0 (any free port) to 65535"
    return f"`sidecar config show` prints {field} and the value in use"


def _display(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, tuple):
        return ",".join(value) or "none"
    return str(value).lower() if isinstance(value, bool) else str(value)


def document() -> str:
    """The table of settings in docs/cli.md, from the docstrings above."""
    import ast

    tree = ast.parse(Path(__file__).read_text(encoding="utf-8"))
    body = next(node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Config")
    lines = ["| Key | Variable | Default | Meaning |", "|---|---|---|---|"]
    for field, text in zip(body, body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Expr):
            key = field.target.id
            default = ast.unparse(field.value).replace("'", '"') if field.value is not None else "see right"
            shown = {"None": "", "()": "none", "2 << 30": "2147483648"}.get(default, default.lower().strip('"'))
            meaning = " ".join(ast.literal_eval(text.value).split())
            lines.append(f"| `{key}` | `SIDECAR_{key.upper()}` | {shown} | {meaning} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(document())
