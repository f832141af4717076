"""``sidecar viz``."""

import argparse
import sys
from pathlib import Path

from sidecar.commands import options as shared
from sidecar.errors import Exit, UserError

DESCRIPTION = "Draw runs in 3D: one page that opens offline, from the journals or from exported files."
EXAMPLES = [
    "sidecar viz --project nanochat -o nanochat.html",
    "sidecar viz --run latest --color-by learning_rate -o run.html",
    "sidecar viz exports/ -o all.html --png pictures/",
]


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", metavar="PATH", nargs="*", type=Path,
                        help="journals, exports (.jsonl, .parquet) or folders of them")
    parser.add_argument("--project", metavar="NAME", action="append", default=[],
                        help="all runs of a project; may be repeated")
    parser.add_argument("--run", metavar="RUN", action="append", default=[],
                        help="an id, a name, or latest; may be repeated")
    parser.add_argument("-o", "--output", metavar="FILE", type=Path, default=Path("pictures.html"),
                        help="(default pictures.html)")
    parser.add_argument("--color-by", metavar="KEY", help="any configuration key or metric (default: the stage)")
    parser.add_argument("--png", metavar="DIR", type=Path, help="also every chart as a PNG file")
    parser.add_argument("--publish", choices=["wandb"], help="also as plotly panels, if --allow artifacts says so")
    shared.add(parser, "dir", "allow", "wandb_mode")


def run(options: argparse.Namespace) -> int:
    from sidecar.charts.app import VisualizationApp
    from sidecar.charts.load import load_runs
    from sidecar.charts.registry import Options

    config = shared.load(options).config
    if options.publish:
        from sidecar.charts.publish import check_allowed

        check_allowed(config.allow)
    also = (options.color_by,) if options.color_by else ()
    runs = load_runs(config.data_directory, projects=options.project, runs=options.run, paths=options.paths, also=also)
    projects = sorted({run.project for run in runs if run.project})
    app = VisualizationApp(", ".join(options.project or projects) or "runs", runs, Options(options.color_by))
    try:
        app.write(options.output)
    except OSError as error:
        raise UserError(f"cannot write {options.output}: {error.strerror}", "choose another file with -o",
                        Exit.NOT_WRITABLE) from None
    drawn = sum(one.figure is not None for one in app.drawn)
    print(f"{options.output}: {len(runs)} run{'s' * (len(runs) != 1)}, {drawn} of {len(app.drawn)} charts")
    for note in app.notes:
        print(note, file=sys.stderr)
    if options.png is not None:
        from sidecar.charts.png import write_all

        for path in write_all(app.figures, options.png):
            print(path)
    if options.publish:
        from sidecar.charts.publish import publish

        name = (options.project or projects or ["runs"])[0]
        directory = Path(config.wandb_dir) if config.wandb_dir else config.data_directory / "wandb"
        directory.mkdir(parents=True, exist_ok=True)
        sent = publish(app, config.allow, project=name, mode=config.wandb_mode, directory=str(directory))
        print(f"W&B: {', '.join(sent)}")
    return Exit.OK
