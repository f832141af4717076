"""Every page in a real browser that can reach nothing: no error, no request, everything drawn."""

import importlib.util
import json
import math
import os
import re
import shutil
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sidecar import cli, wire
from sidecar.charts import png
from sidecar.charts.app import VisualizationApp
from sidecar.charts.data import RunData
from sidecar.charts.load import load_runs
from sidecar.errors import UserError
from tests.charts import synthetic
from tests.charts.synthetic import SECOND, T0, Writer

WAIT_MS = 60_000
FLAGS = ["--headless", "--no-sandbox", "--disable-quic", "--no-first-run", "--disable-sync",
         "--disable-component-update", "--disable-background-networking",
         "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
         "--host-resolver-rules=MAP * ~NOTFOUND"]
NO_WEBGL = ["--disable-gpu", "--disable-3d-apis", "--disable-software-rasterizer"]
EVIL = '<img src=x onerror="document.title=\'owned\'">\u202e</script><script>document.title="owned"</script>'

slow = pytest.mark.slow


def needed(condition: object, cause: str) -> None:
    """In CI everything is installed, and nothing may be skipped."""
    if not condition:
        if os.environ.get("CI", "").lower() == "true":
            pytest.fail(cause)
        pytest.skip(cause)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    needed(importlib.util.find_spec("playwright"), "playwright is not installed: pip install playwright")
    needed(shutil.which("chromium"), "chromium is not installed: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        yield playwright.chromium


class Opened:
    """A page with everything that went wrong on it."""

    def __init__(self, browser: Any, path: Path, suffix: str = "", **options: Any) -> None:
        self.wrong: list[str] = []
        context = browser.new_context(viewport={"width": 1200, "height": 800}, **options)
        context.set_offline(True)
        self.page = context.new_page()
        self.page.set_default_timeout(WAIT_MS)
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("dialog", lambda dialog: self.wrong.append("dialog"))
        self.page.on("console", lambda said: self.wrong.append(said.text) if said.type == "error" else None)
        self.page.on("request", lambda request: self.wrong.append(request.url) if not request.url.startswith(
            ("file://", "data:", "blob:")) else None)
        self.page.goto(path.as_uri() + suffix)

    def draw_all(self) -> list[str]:
        """Scroll to every chart and wait until it is drawn; their names."""
        names = self.page.eval_on_selector_all(".plot", "plots => plots.map(plot => plot.id)")
        for name in names:
            self.page.locator(f"#{name}").scroll_into_view_if_needed()
            self.page.wait_for_selector(f"#{name}[data-ready]")
        return [str(name) for name in names]


@pytest.fixture(scope="module")
def browser(chromium: Any) -> Iterator[Any]:
    launched = chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
    yield launched
    launched.close()


@pytest.fixture(scope="module")
def page_file(app: VisualizationApp, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return app.write(tmp_path_factory.mktemp("page") / "pictures.html")


def test_figures_are_plain_json_in_the_page_and_nothing_points_outside(page_file: Path, app: VisualizationApp) -> None:
    text = page_file.read_text()
    found = dict(re.findall(r'<script type="application/json" id="figure-([\w-]+)">(.*?)</script>', text, re.S))
    assert set(found) == set(app.figures)
    assert len(found) == 8
    for name, body in found.items():
        assert json.loads(body)["layout"].keys() == app.figures[name]["layout"].keys()
        assert "<" not in body
    ours = re.sub(r'<script type="text/plain" id="library">.*?</script>', "", text, flags=re.S)
    assert not re.search(r"https?://", ours), "no address but in the library's own comments"
    assert "connect-src" not in text
    assert "default-src 'none'" in text
    assert len(text) < 10_000_000


@slow
def test_every_chart_is_drawn_without_an_error_and_without_a_request(browser: Any, page_file: Path) -> None:
    opened = Opened(browser, page_file)
    assert len(opened.draw_all()) == 8
    assert opened.page.locator(".plot canvas").count() >= 7, "WebGL scenes"
    assert not opened.page.locator("#flat-note").is_visible()
    assert opened.wrong == []


@slow
def test_the_scrubber_goes_through_the_run_and_keeps_the_bad_step(browser: Any, page_file: Path) -> None:
    opened = Opened(browser, page_file, "#film")
    opened.page.locator("#plot-film").scroll_into_view_if_needed()
    opened.page.wait_for_selector("#plot-film[data-ready]")
    peak = "() => Number(document.querySelector('#plot-film').dataset.peak)"
    opened.page.select_option("[data-film=run]", index=0)
    opened.page.wait_for_function(f"({peak})() > 5")
    opened.page.locator("[data-film=position]").fill("1000")
    opened.page.wait_for_function(f"({peak})() < 1")
    assert opened.page.input_value("[data-film=window]") == "8", "the scrubber works without choosing a window first"
    assert "239" in str(opened.page.text_content("[data-film=where]"))
    opened.page.locator("[data-film=position]").fill("120")
    opened.page.wait_for_function(f"({peak})() > 5")
    assert opened.wrong == []


@slow
def test_the_film_is_rotated_zoomed_and_read_with_mouse_and_keys(browser: Any, page_file: Path) -> None:
    opened = Opened(browser, page_file, "#film")
    canvas = opened.page.locator("#plot-film > canvas")
    eye = "() => Object.values(document.querySelector('#plot-film').film.eye).join()"
    before = opened.page.evaluate(eye)
    canvas.press("ArrowLeft")
    canvas.press("+")
    assert opened.page.evaluate(eye) != before
    opened.page.locator("#film [data-do=reset]").click()
    assert opened.page.evaluate(eye) == before
    box = canvas.bounding_box()
    opened.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    shown = str(opened.page.locator("#plot-film .tip").text_content())
    assert re.search(r"d12 .+rank [01]step \d+: .+ m?sshortest nearby", shown)
    assert not opened.page.evaluate("Boolean(window.Plotly)"), "the film does not wait for the other charts' library"
    chip = opened.page.locator("#plot-film .chip", has_text="checkpoint")
    chip.click()
    assert chip.get_attribute("aria-pressed") == "false"
    assert opened.wrong == []


@slow
@pytest.mark.parametrize(("steps", "bad"), [
    (range(2), {}), ([*range(40), *range(5000, 5040)], {}), ([*range(60), *range(30, 80)], {}),
    (range(300), {123: 100.0}),
])  # fmt: skip
def test_a_film_of_one_column_with_gaps_with_rework_or_with_one_huge_step_is_drawn(
    browser: Any, tmp_path: Path, steps: Any, bad: dict[int, float]
) -> None:
    writer = Writer(tmp_path, "r")
    session = writer.greet()
    now = T0
    for step in steps:
        now += int(bad.get(step, 0.5) * SECOND)
        writer.add(session, wire.Step(now, now, step, {"train/loss": math.nan if step == 7 else 2.0}))
    writer.close()
    opened = Opened(browser, VisualizationApp("p", load_runs(tmp_path)).write(tmp_path / "p.html"), "#film")
    opened.page.wait_for_selector("#plot-film[data-ready]")
    peak = float(opened.page.locator("#plot-film").get_attribute("data-peak"))
    assert peak == pytest.approx(max(bad.values(), default=0.5))
    filled = """() => { const c = document.querySelector("#plot-film > canvas"), at = c.getContext("2d");
      const bytes = at.getImageData(0, 0, c.width, c.height).data;
      return bytes.filter((v, i) => i % 4 === 1 && v > 100 && v < 190).length }"""
    assert opened.page.evaluate(filled) > 300, "something of the landscape's colours"
    for window in ("200", "40"):
        opened.page.select_option("[data-film=window]", window)
        opened.page.locator("[data-film=position]").fill("700")
    assert opened.wrong == []


@slow
def test_the_film_is_a_group_of_controls_and_the_other_charts_are_pictures(page_file: Path) -> None:
    """What is inside a picture cannot be reached by a screen reader, and the film's legend is buttons."""
    roles = dict(re.findall(r'id="plot-(\w+)"[^>]* role="(\w+)"', page_file.read_text(encoding="utf-8")))
    assert roles.pop("film") == "group"
    assert set(roles.values()) == {"img"}


def test_without_webgl_everything_is_drawn_flat_with_a_note(chromium: Any, page_file: Path) -> None:
    launched = chromium.launch(executable_path=shutil.which("chromium"), args=[*FLAGS[:7], *NO_WEBGL])
    try:
        opened = Opened(launched, page_file)
        assert len(opened.draw_all()) == 8
        assert opened.page.locator("#flat-note").is_visible()
        kinds = opened.page.eval_on_selector_all(
            ".plot:not([data-film])", "plots => plots.flatMap(plot => plot.data.map(t => t.type))")
        assert set(kinds) == {"scatter"}
        assert opened.wrong == []
    finally:
        launched.close()


@slow
def test_hostile_names_stay_text_in_the_page(browser: Any, tmp_path: Path) -> None:
    synthetic.run(tmp_path, "r", steps=40, tasks=True, datasets=True, name=EVIL, stage=EVIL, project=EVIL)
    runs: list[RunData] = load_runs(tmp_path)
    path = VisualizationApp(EVIL, runs).write(tmp_path / "evil.html")
    opened = Opened(browser, path)
    opened.draw_all()
    assert opened.page.locator("img").count() == 0
    assert opened.page.title().startswith("<img"), "shown, not run"
    assert opened.wrong == []


@slow
def test_hostile_names_stay_text_in_a_comparison_and_a_report(browser: Any, tmp_path: Path) -> None:
    for number in range(2):
        synthetic.run(tmp_path, f"r{number}", steps=60, name=EVIL, project=EVIL, start_ns=T0 + number,
                      config={EVIL: f"{EVIL}{number}"}, loss=(8.0, 3.0 + number), datasets=True)
    where = ["--dir", str(tmp_path)]
    assert cli.main(["compare", "r0", "r1", *where, "-o", str(tmp_path / "c.html")]) == 0
    assert cli.main(["report", "r0", *where, "-o", str(tmp_path / "r.html")]) == 0
    for name in ("c", "r"):
        opened = Opened(browser, tmp_path / f"{name}.html")
        opened.draw_all()
        assert opened.page.locator("img").count() == 0
        assert opened.page.title().startswith("<img")
        assert opened.wrong == []


@slow
def test_a_comparison_and_a_report_open_without_an_error(
    browser: Any, pipeline_directory: Path, tmp_path: Path
) -> None:
    where = ["--dir", str(pipeline_directory)]
    assert cli.main(["compare", "d12-pretrain", "d12-sft", *where, "-o", str(tmp_path / "c.html")]) == 0
    assert cli.main(["report", "d12-sft", *where, "-o", str(tmp_path / "r.html")]) == 0
    compared, reported = Opened(browser, tmp_path / "c.html"), Opened(browser, tmp_path / "r.html", color_scheme="dark")
    assert len(compared.draw_all()) == 6
    assert reported.page.locator("svg.curve").count() >= 5
    assert compared.wrong + reported.wrong == []


@slow
def test_a_figure_becomes_a_png_of_the_promised_size(app: VisualizationApp, tmp_path: Path) -> None:
    needed(png.find_browser(), "chromium is not installed: apt-get install chromium")
    path = png.write(app.figures["film"], tmp_path / "film.png")
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", data[16:24]) == (1600, 1000)
    assert len(data) > 20_000, "an empty page is smaller"


def test_without_any_way_to_draw_the_message_says_what_to_install(
    app: VisualizationApp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("BROWSER_PATH", "")
    monkeypatch.setitem(sys.modules, "kaleido", None)
    with pytest.raises(UserError, match="there is no Chromium") as error:
        png.write(app.figures["landscape"], tmp_path / "x.png")
    assert "apt-get install chromium" in error.value.remedy
    out = tmp_path / "p.html"
    synthetic.run(tmp_path, steps=20)
    code = cli.main(["viz", "--dir", str(tmp_path), "-o", str(out), "--png", str(tmp_path / "png")])
    assert code == error.value.exit_code
    assert out.exists(), "the page is there all the same"


@slow
def test_kaleido_draws_with_our_own_library_and_asks_no_network(
    app: VisualizationApp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed(importlib.util.find_spec("kaleido"), "kaleido is not installed: pip install 'trainer-sidecar[images]'")
    needed(png.find_browser(), "chromium is not installed: apt-get install chromium")
    import kaleido

    asked: list[dict[str, Any]] = []
    real = kaleido.write_fig_from_object_sync
    monkeypatch.setattr(kaleido, "write_fig_from_object_sync",
                        lambda jobs, kopts: (asked.append(kopts), real(jobs, kopts=kopts)))
    monkeypatch.setattr(png, "_draw", lambda *_: pytest.fail("kaleido did not draw"))
    paths = png.write_all({name: app.figures[name] for name in ("landscape", "stages")}, tmp_path)
    for path in paths:
        assert struct.unpack(">II", path.read_bytes()[16:24]) == (1600, 1000)
    assert len(asked) == 1, "one browser for all"
    assert asked[0]["mathjax"] is False
    assert Path(asked[0]["plotlyjs"]).is_file(), "by itself it would fetch both from the network"


def test_a_kaleido_that_fails_leaves_it_to_chromium(
    app: VisualizationApp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Kaleido:
        @staticmethod
        def write_fig_from_object_sync(*_: object, **__: object) -> None:
            raise RuntimeError("no browser for me")

    drawn: list[str] = []
    monkeypatch.setitem(sys.modules, "kaleido", Kaleido)
    monkeypatch.setattr(png, "find_browser", lambda: "/usr/bin/some-chromium")
    monkeypatch.setattr(png, "_draw", lambda browser, *_: drawn.append(browser))
    png.write(app.figures["landscape"], tmp_path / "landscape.png")
    png.write(app.figures["film"], tmp_path / "film.png")
    assert drawn == ["/usr/bin/some-chromium"] * 2


def test_the_command_writes_the_page_and_says_how_much_is_on_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    synthetic.run(tmp_path, steps=40, project="nanochat", start_ns=T0)
    out = tmp_path / "p.html"
    command = ["viz", "--dir", str(tmp_path), "--project", "nanochat", "-o", str(out), "--color-by", "batch_size"]
    assert cli.main(command) == 0
    assert capsys.readouterr().out == f"{out}: 1 run, 6 of 8 charts\n"
    assert cli.main(["viz", "--dir", str(tmp_path), "-o", str(tmp_path / "no" / "p.html")]) == 73
