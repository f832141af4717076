"""Figures as PNG files, without a browser window and without a download.

Given: figures, a folder. Hands on: files. Never: downloads a browser, or asks the network for anything.

kaleido is used where it is installed (with the library from our own folder: by itself it would ask the network for
one); else a Chromium of this machine draws our own page, as it does for the film, which only that page can draw well;
else there is a message that says what to install.
"""

import os
import re
import shutil
import struct
import subprocess
import tempfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sidecar.charts import page
from sidecar.charts.registry import Figure
from sidecar.errors import Exit, UserError

WIDTH, HEIGHT = 1000, 625
"""Of the page. The file has SCALE times as many pixels: text stays readable in a column of a paper."""
SCALE = 1.6
INK, MUTED, GRID = "#171b21", "#5d6776", "#dfe3e8"
FRAME = 160
"""A headless window is higher than its page by its frame; what is below the page is cut off again."""
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
SECONDS_MAX = 90.0
CHANNELS = {2: 3, 6: 4}
"""PNG colour type -> bytes a pixel: colour, colour with transparency."""
DRAW_MS = 12_000
"""Of the page's own time: Chromium waits for nothing in it, so a quick chart takes a fraction."""
FLAGS = (
    "--headless", "--no-sandbox", "--hide-scrollbars", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage", "--disable-extensions",
    "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--force-color-profile=srgb",
)  # fmt: skip


def write_all(figures: Mapping[str, Figure], directory: Path) -> list[Path]:
    """One file per figure. Raises UserError when nothing here can draw, or the folder cannot be written."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to {directory}: {error.strerror}", "choose another folder with --png",
                        Exit.NOT_WRITABLE) from None
    return _write({directory / f"{re.sub(r'[^a-z0-9_-]+', '-', name.lower())}.png": (name, figure)
                   for name, figure in figures.items()}, SCALE)


def write(figure: Figure, path: Path, title: str = "figure", *, scale: float = SCALE) -> Path:
    """Raises UserError."""
    return _write({path: (title, figure)}, scale)[0]


def _write(wanted: Mapping[Path, tuple[str, Figure]], scale: float) -> list[Path]:
    """``wanted``: path -> (title, figure)."""
    browser = find_browser()
    drawn = _by_kaleido({path: figure for path, (_, figure) in wanted.items() if not (browser and _has_film(figure))},
                        scale, browser)
    for path, (title, figure) in wanted.items():
        if path in drawn:
            continue
        if browser is None:
            raise UserError(
                "no way to draw a PNG here: there is no Chromium (kaleido 1 needs one too)",
                "apt-get install chromium, or name one with SIDECAR_BROWSER, or use `Save PNG` on the page",
                Exit.MISSING,
            )
        with tempfile.TemporaryDirectory(prefix="sidecar-png-") as folder:
            source = Path(folder) / "figure.html"
            source.write_text(page.single(figure, title), encoding="utf-8")
            _draw(browser, source, path, Path(folder), scale)
    return list(wanted)


def _has_film(figure: Figure) -> bool:
    return "films" in (figure["layout"].get("meta") or {})


def find_browser() -> str | None:
    """SIDECAR_BROWSER, else the first Chromium on the path."""
    asked = os.environ.get("SIDECAR_BROWSER")
    return shutil.which(asked) if asked else next((found for name in BROWSERS if (found := shutil.which(name))), None)


def _by_kaleido(figures: Mapping[Path, Figure], scale: float, browser: str | None) -> set[Path]:
    """Those it has drawn, all in one browser: all of them, or none."""
    try:
        import kaleido  # type: ignore[import-not-found,import-untyped,unused-ignore]
    except ImportError:
        return set()
    if not figures:
        return set()
    options = {"format": "png", "width": WIDTH, "height": HEIGHT, "scale": scale}
    own = {"plotlyjs": page.VENDOR, "mathjax": False, "timeout": SECONDS_MAX} | ({"path": browser} if browser else {})
    jobs = [{"fig": on_paper(figure), "path": path, "opts": options} for path, figure in figures.items()]
    try:
        kaleido.write_fig_from_object_sync(jobs, kopts=own)
    except Exception:  # noqa: BLE001 - A third-party library: without its browser it raises many kinds of errors.
        return set()
    return {path for path in figures if path.is_file() and path.stat().st_size > 0}


def on_paper(figure: Figure) -> Figure:
    """With the colours and fonts that our own page gives it."""
    layout = {key: value for key, value in figure["layout"].items() if key != "meta"}
    layout["font"] = {"color": INK, "family": "system-ui, 'Noto Sans', 'DejaVu Sans', sans-serif", "size": 12.5}
    layout |= {"paper_bgcolor": "#ffffff", "plot_bgcolor": "rgba(0,0,0,0)"}
    lines = {"gridcolor": GRID, "zerolinecolor": GRID, "linecolor": GRID, "tickfont": {"color": MUTED, "size": 11}}
    if "scene" in layout:
        walls = {"showbackground": True, "backgroundcolor": "#f7f8fa"}
        scene = layout["scene"]
        layout["scene"] = scene | {name: _named(scene[name]) | lines | walls for name in ("xaxis", "yaxis", "zaxis")}
    else:
        layout |= {name: _named(layout[name]) | lines for name in ("xaxis", "yaxis") if name in layout}
    return {"data": figure["data"], "layout": layout}


def _named(axis: dict[str, Any]) -> dict[str, Any]:
    return axis | {"title": axis["title"] | {"font": {"color": INK, "size": 13}}}


def cropped(data: bytes, height: int) -> bytes:
    """The first ``height`` rows of a PNG. A row depends on those above it only, so the rest can simply go."""
    chunks, at = [], 8
    while at < len(data):
        size, kind = struct.unpack(">I4s", data[at : at + 8])
        chunks.append((kind, data[at + 8 : at + 8 + size]))
        at += size + 12
    header = chunks[0][1]
    width, rows, depth, colour = struct.unpack(">IIBB", header[:10])
    if rows <= height or depth != 8 or colour not in CHANNELS:
        return data
    row_bytes = 1 + width * CHANNELS[colour]
    pixels = zlib.decompress(b"".join(body for kind, body in chunks if kind == b"IDAT"))[: height * row_bytes]
    shorter = struct.pack(">II", width, height) + header[8:]
    parts = [(b"IHDR", shorter), (b"IDAT", zlib.compress(pixels, 9)), (b"IEND", b"")]
    return data[:8] + b"".join(struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
                               for kind, body in parts)


def _draw(browser: str, source: Path, path: Path, profile: Path, scale: float) -> None:
    output = profile / "figure.png"
    command = [
        browser, *FLAGS, f"--user-data-dir={profile / 'profile'}",
        f"--window-size={WIDTH},{HEIGHT + FRAME}", f"--force-device-scale-factor={scale}",
        f"--virtual-time-budget={DRAW_MS}", f"--screenshot={output}", source.as_uri(),
    ]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, timeout=SECONDS_MAX, check=False)
        reason = f"exit code {done.returncode}"
    except (subprocess.TimeoutExpired, OSError) as error:
        reason = type(error).__name__
    if not output.is_file():
        raise UserError(f"{browser} drew nothing: {reason}", "use `Save PNG` on the page instead", Exit.FAILED)
    try:
        path.write_bytes(cropped(output.read_bytes(), round(HEIGHT * scale)))
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}", "choose another folder", Exit.NOT_WRITABLE) from None
