"""``sidecar sync``."""

import argparse
import sys
from typing import TYPE_CHECKING

from sidecar.commands import options as shared
from sidecar.errors import Exit, UserError

if TYPE_CHECKING:
    from sidecar.config import Config
    from sidecar.sinks.late import Pair
    from sidecar.store import Store
    from sidecar.telemetry import SinkHealth

DESCRIPTION = "Send what outlets have not got yet, and W&B runs written offline once there is a key."
EXAMPLES = ["sidecar sync            everything unsent of every run", "sidecar sync latest --timeout 600"]


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="*", metavar="RUN", help="only these, by id or name, or latest")
    parser.add_argument(
        "--timeout", type=shared.number(float, 0), default=120.0, metavar="SECONDS",
        help="stop waiting after this long (default 120)",
    )
    shared.add(parser, "dir", "allow", "wandb_mode")


def run(options: argparse.Namespace) -> int:
    from sidecar.sinks import late
    from sidecar.store import Store

    config = shared.load(options).config
    store = Store(config.data_directory)
    wanted = {late.run_of(store, word).run_id for word in options.runs}
    bindings = late.bindings(store) if store.directory.is_dir() else []
    bindings = [binding for binding in bindings if not wanted or binding.run_id in wanted]
    not_online = late.why_not_online(config)
    pairs, said = [], False
    for binding in bindings:
        offline = binding.sink == "wandb" and late.offline_logs(config, binding.run_id)
        files = late.files_waiting(config, binding.run_id) if binding.sink == "wandb" else 0
        if binding.paused and binding.lag_rows:
            said = True
            print(f"{binding.sink} of {binding.run_id}: paused; `sidecar sink resume {binding.sink} {binding.run_id}`")
        elif binding.lag_rows or ((offline or files) and not not_online):
            pairs.append((binding.run_id, binding.sink))
        elif offline:
            said = True
            print(f"wandb of {binding.run_id}: written to {offline[0].parent}, not sent ({not_online}); "
                  "`sidecar sync` sends it once that has changed")  # fmt: skip
    if pairs:
        return deliver(config, store, pairs, options.timeout)
    if not said:
        print("nothing to send")
    return Exit.OK


def deliver(config: "Config", store: "Store", pairs: "list[Pair]", timeout_seconds: float) -> int:
    """Deliver through the sidecar that serves the directory, or here when there is none. Returns the exit code."""
    from sidecar.sinks import late

    store.prepare()
    try:
        store.lock()
    except UserError as error:
        if error.exit_code != Exit.BUSY:
            raise
        return _by_the_other(config, store, pairs, timeout_seconds)
    try:
        health = late.deliver_now(config, store, pairs, timeout_seconds=timeout_seconds, on_progress=_Progress())
    finally:
        store.unlock()
    for (run_id, sink), ended in health.items():
        print(f"{sink} of {run_id}: {_outcome(ended)}")
    return Exit.WARNINGS if any(_is_unsent(ended) for ended in health.values()) else Exit.OK


def _by_the_other(config: "Config", store: "Store", pairs: "list[Pair]", timeout_seconds: float) -> int:
    from sidecar.sinks import late

    print("a sidecar serves this directory and sends it", file=sys.stderr)
    targets = {}
    for run_id, sink in pairs:
        late.request(store.directory, run_id, sink)
        targets[run_id, sink] = late.last_row(late.run_of(store, run_id))
    behind = late.wait_for(store.directory, targets, timeout_seconds)
    not_online, unsent = late.why_not_online(config), bool(behind)
    for run_id, sink in targets:
        outcome = "sent"
        if (run_id, sink) in behind:
            outcome = "not all sent yet; `sidecar status` says why"
        elif sink == "wandb" and late.offline_logs(config, run_id):
            outcome = "written offline by that sidecar; `sidecar sync` sends it, with a key, once that has ended"
            unsent = unsent or not not_online  # From here it could be sent.
        print(f"{sink} of {run_id}: {outcome}")
    return Exit.WARNINGS if unsent else Exit.OK


class _Progress:
    """Prints each new failure reason once while delivery is retried."""

    def __init__(self) -> None:
        self._said: dict[Pair, str] = {}

    def __call__(self, health: "dict[Pair, SinkHealth]") -> None:
        for pair, state in health.items():
            if state.state == "failing" and state.reason and self._said.get(pair) != state.reason:
                self._said[pair] = state.reason
                print(f"{pair[1]} of {pair[0]}: {state.reason}; trying again", file=sys.stderr, flush=True)


def _is_unsent(health: "SinkHealth") -> bool:
    return health.state == "failing" or (health.lag_events != 0 and health.state != "disabled")


def _outcome(health: "SinkHealth") -> str:
    where = f", {health.url}" if health.url else ""
    if health.state == "failing":
        return f"not all sent: {health.reason}"
    if health.lag_events != 0 and health.state != "disabled":
        left = "" if health.lag_events is None else f", {health.lag_events} journal rows to go"
        return f"not all sent in time{left}; run the same again"
    why = f" ({health.reason.removeprefix(f'{health.state}: ')})" if health.reason else ""
    return f"{health.state}{why}{where}" if health.state != "ok" else f"sent{why}{where}"
