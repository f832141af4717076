"""``sidecar compare``."""

import argparse
import sys
from pathlib import Path

from sidecar.atomic_file import open_atomic
from sidecar.commands import options as shared
from sidecar.errors import Exit, UserError

DESCRIPTION = "Runs side by side: final and best values, what was set otherwise, where they part for good."
EXAMPLES = [
    "sidecar compare baseline candidate",
    "sidecar compare baseline candidate --gate rules.toml   # exit code 0 pass, 1 regression, 2 cannot tell",
    "sidecar compare A B C --by tokens -o compare.html",
]


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("which", metavar="RUN", nargs="+",
                        help="ids, names, latest, or files; the first is the one compared with")
    parser.add_argument("--by", choices=["step", "tokens", "time"], default="step", help="common axis (default step)")
    parser.add_argument("--gate", metavar="FILE", type=Path, help="rules (TOML): exit code 0, 1 or 2")
    parser.add_argument("--json", action="store_true", help="as one object, for programs")
    parser.add_argument("-o", "--output", metavar="FILE", type=Path,
                        help="also a page with the curves laid over each other")
    shared.add(parser, "dir")


def run(options: argparse.Namespace) -> int:
    from sidecar.charts import compare as comparing
    from sidecar.charts import compare_page, gate
    from sidecar.charts.load import load_each

    if len(options.which) < 2:
        raise UserError("comparing takes two runs or more", "`sidecar runs` lists them")
    rules = gate.read_rules(options.gate) if options.gate else None
    runs = load_each(shared.load(options).config.data_directory, options.which)
    comparison = comparing.compare(runs, options.by)
    verdict, findings = gate.judge(comparison, runs, rules) if rules else (None, [])
    word = gate.WORDS[verdict] if verdict is not None else None
    if options.output is not None:
        figures = comparing.overlay_figures(runs, options.by, comparison.divergences)
        try:
            with open_atomic(options.output) as out:
                out.write(compare_page.html(comparison, figures, findings, word).encode("utf-8", "replace"))
        except OSError as error:
            raise UserError(f"cannot write {options.output}: {error.strerror}", "choose another file with -o",
                            Exit.NOT_WRITABLE) from None
    if options.json:
        sys.stdout.write(compare_page.to_json(comparison, findings, word).decode() + "\n")
    else:
        print("\n".join(compare_page.lines(comparison, findings, word)))
    return Exit.OK if verdict is None else int(verdict)
