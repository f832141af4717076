"""The gallery of docs/: the reference trainer's whole pipeline, watched by a sidecar and drawn.

    python -m benchmarks.gallery [--out docs/gallery] [--keep FOLDER]

Given: a checkout with torch and Chromium. Hands on: PNG files of the charts, some minutes later.
Never: touches the user's data: journals go to a temporary folder, or to the one given with --keep.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from sidecar.charts.app import VisualizationApp
from sidecar.charts.load import load_runs
from sidecar.charts.png import write

ROOT = Path(__file__).resolve().parent.parent
SHOWN = ("trajectory", "stages", "landscape", "film")
"""Four are enough: the repository stays small."""
TRAINER = ("pipeline", "--n_layer", "2", "--n_embd", "64", "--eval_examples", "10", "--eval_freq", "20")


def record(directory: Path) -> None:
    """Raises CalledProcessError."""
    command = [sys.executable, "-m", "sidecar", "run", "--dir", str(directory), "--port", "0", "--project", "gallery",
               "--", sys.executable, "-m", "trainer", *TRAINER]
    subprocess.run(command, cwd=ROOT, check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw the gallery of docs/ again.")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "gallery")
    parser.add_argument("--keep", type=Path, help="journals go here; if there are some already, they are drawn")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sidecar-gallery-") as folder:
        directory = options.keep or Path(folder)
        if not list(directory.glob("runs/*.sqlite")):
            record(directory)
        app = VisualizationApp("gallery", load_runs(directory))
    options.out.mkdir(parents=True, exist_ok=True)
    for name in SHOWN:
        print(write(app.figures[name], options.out / f"{name}.png", name, scale=1.0))


if __name__ == "__main__":
    main()
