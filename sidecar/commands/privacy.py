"""``sidecar privacy``."""

import argparse
import json
import sys
from typing import TYPE_CHECKING

from sidecar.commands import options as shared
from sidecar.errors import Exit

if TYPE_CHECKING:
    from sidecar.sinks.audit import Audit

DESCRIPTION = "Read again what each outlet of a run was given, and certify that only numbers left."
BLIND = "cannot be seen from here: addresses and accounts of connections, and what a third party's outlet sends besides"
EXAMPLES = ["sidecar privacy audit latest", "sidecar privacy audit d12 --json"]


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=["audit"], metavar="audit", help="exit code 0: clean, 1: there are findings")
    parser.add_argument("run", metavar="RUN", help="id or name of a run, or latest")
    parser.add_argument("--json", action="store_true", help="as an object, for programs")
    shared.add(parser, "dir")


def run(options: argparse.Namespace) -> int:
    import os
    from pathlib import Path

    from sidecar.sinks import late
    from sidecar.sinks.audit import audit
    from sidecar.sinks.factory import identity_of_machine
    from sidecar.store import Store

    config = shared.load(options).config
    entry = late.run_of(Store(config.data_directory), options.run)
    elsewhere = config.wandb_dir or os.environ.get("WANDB_DIR")
    folders = [Path(folder) if folder else None for folder in (elsewhere, config.tensorboard_dir)]
    with late.explained(config.data_directory):
        report = audit(config.data_directory, entry.run_id, identity_of_machine(), *folders)
    if options.json:
        import msgspec

        print(json.dumps(msgspec.to_builtins(report) | {"clean": report.clean}, indent=2))
    else:
        _print(report)
    return Exit.OK if report.clean else Exit.WARNINGS


def _print(report: "Audit") -> None:
    for manifest in report.manifests:
        sent = ", ".join(f"{count} {kind}" for kind, count in sorted(manifest.sent.items())) or "nothing"
        withheld = ", ".join(f"{count} {reason}" for reason, count in sorted(manifest.withheld.items())) or "nothing"
        print(f"{manifest.sink}: sent {sent}; withheld {withheld}; allowed {', '.join(manifest.allow) or 'numbers'}")
    for outlet in report.outlets:
        print(f"{outlet.sink}: {outlet.looked_at}")
    if report.config_keys:
        print(f"configuration that left: {', '.join(report.config_keys)}")
    for finding in report.findings:
        print(f"finding: {finding}", file=sys.stderr)
    print(BLIND)
    word = "clean: numbers and what was allowed, nothing else" if report.clean else f"{len(report.findings)} findings"
    print(f"{report.run_id}: {word}")
