"""``sidecar sink``."""

import argparse
import json
import sys
from typing import TYPE_CHECKING

from sidecar.commands import options as shared
from sidecar.commands import sync
from sidecar.errors import Exit, UserError

if TYPE_CHECKING:
    from sidecar.config import Config
    from sidecar.store import Store

DESCRIPTION = "Add an outlet to a run that goes on or is over, pause it, or see how far each one is."
EXAMPLES = [
    "sidecar sink add wandb latest       its whole history from the first step, then live",
    "sidecar sink pause tensorboard d12  it keeps its place until `resume`",
    "sidecar sink list --json",
]
ACTIONS = ("add", "pause", "resume", "list")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=ACTIONS, metavar="ACTION", help="add, pause, resume or list")
    parser.add_argument("words", nargs="*", metavar="NAME RUN", help="an outlet, and runs by id or name, or latest")
    parser.add_argument("--json", action="store_true", help="list as objects, for programs")
    parser.add_argument(
        "--timeout", type=shared.number(float, 0), default=120.0, metavar="SECONDS",
        help="stop waiting after this long (default 120)",
    )
    shared.add(parser, "dir", "allow", "wandb_mode")


def run(options: argparse.Namespace) -> int:
    from sidecar.store import Store

    config = shared.load(options).config
    store = Store(config.data_directory)
    if options.action == "list":
        return _list(store, options.words, as_json=options.json)
    if len(options.words) < 2:
        raise UserError(f"`sidecar sink {options.action}` needs an outlet and a run", "for instance: "
                        f"sidecar sink {options.action} wandb latest")  # fmt: skip
    name, *runs = options.words
    if options.action == "add":
        return _add(config, store, name, runs, options.timeout)
    return _pause(store, name, runs, paused=options.action == "pause")


def _add(config: "Config", store: "Store", name: str, words: list[str], timeout_seconds: float) -> int:
    from sidecar.sinks import late, registry

    registry.load(name)  # First: an unknown name is an error that lists the known ones.
    entries = [late.run_of(store, word) for word in words]
    for entry in entries:
        late.request(store.directory, entry.run_id, name)
    return sync.deliver(config, store, [(entry.run_id, name) for entry in entries], timeout_seconds)


def _pause(store: "Store", name: str, words: list[str], *, paused: bool) -> int:
    from sidecar.sinks import late

    for word in words:
        entry = late.run_of(store, word)
        late.pause(store.directory, entry.run_id, name, paused)
        done = "paused, it keeps its place" if paused else "goes on (without a running sidecar: `sidecar sync`)"
        print(f"{name} of {entry.run_id}: {done}")
    return Exit.OK


def _list(store: "Store", words: list[str], *, as_json: bool) -> int:
    from sidecar.sinks import late

    wanted = {late.run_of(store, word).run_id for word in words}
    bindings = late.bindings(store) if store.directory.is_dir() else []
    found = [binding for binding in bindings if not wanted or binding.run_id in wanted]
    if as_json:
        print(json.dumps([binding._asdict() | {"state": binding.state} for binding in found], indent=2))
        return Exit.OK
    if not found:
        print("no run has an outlet; `sidecar sink add wandb latest` adds one", file=sys.stderr)
        return Exit.OK
    lines = [["RUN", "SINK", "STATE", "ROWS", "BEHIND"]]
    lines += [[b.run_id, b.sink, b.state, str(b.delivered), str(b.lag_rows)] for b in found]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    return Exit.OK
