"""The live page in a real browser that can reach nothing but the sidecar."""

import importlib.util
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sidecar.rows import Row
from sidecar.snapshot import MetricValue
from sidecar.telemetry import SinkHealth
from sidecar.web import app as app_module
from sidecar.web.security import Security
from tests.web.conftest import Server, needed
from tests.web.fake_views import FakeViews, make_history, make_snapshot

PAGE = Path(__file__).parents[2] / "sidecar/web/page"
WAIT_MS = 20_000
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
         "--disable-background-networking", "--disable-component-update",
         "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
HOSTILE = '<img src=x onerror="document.title=\'owned\'">\u202e</td><script>document.title="owned"</script>\n\0{{7*7}}'

pytestmark = pytest.mark.slow


class Browser:
    """Opens the page and writes down everything that went wrong."""

    def __init__(self, chromium: Any) -> None:
        self._chromium = chromium
        self.errors: list[str] = []
        self.foreign: list[str] = []

    def open(self, server: Server, path: str = "/", **options: Any) -> Any:
        context = self._chromium.new_context(**({"viewport": {"width": 1360, "height": 900}} | options))
        page = context.new_page()
        page.set_default_timeout(WAIT_MS)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)
        page.on("dialog", lambda dialog: self.errors.append(f"dialog: {dialog.message}"))
        page.on("request", lambda request: self.foreign.append(request.url)
                if not request.url.startswith(server.url) else None)
        page.goto(server.url + path)
        return page


@pytest.fixture(scope="module")
def engine() -> Iterator[Any]:
    if importlib.util.find_spec("playwright") is None:
        cause = "playwright is not installed: pip install playwright"
        if os.environ.get("CI", "").lower() == "true":
            pytest.fail(cause)
        pytest.skip(cause)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=needed("chromium", "chromium"), args=FLAGS)
        yield launched
        launched.close()


@pytest.fixture
def browser(engine: Any) -> Iterator[Browser]:
    watched = Browser(engine)
    yield watched
    for context in engine.contexts:
        context.close()
    assert watched.foreign == []
    assert watched.errors == []


def text_is(page: Any, selector: str, expected: str) -> None:
    page.wait_for_function("([s, t]) => document.querySelector(s)?.textContent.includes(t)", arg=[selector, expected])


def charted(page: Any, chart: str, expected: str) -> None:
    """What a chart says of itself to those who cannot see it."""
    page.wait_for_function("([s, t]) => document.querySelector(s)?.getAttribute('aria-label')?.includes(t)",
                           arg=[f"#plot-{chart} canvas", expected])


@pytest.fixture
def full(serve: Callable[..., Server]) -> Server:
    run = make_snapshot(metrics=40)
    run.gpus[3]["attributed"] = False
    views = FakeViews(run)
    views.histories["nanochat-d12-1"] = make_history(3_000)
    return serve(views)


def test_every_section_shows_the_published_values(full: Server, browser: Browser) -> None:
    page = browser.open(full)
    text_is(page, "#verdict", "Step 12,840 of 100,000")
    for selector, expected in (
        ("#state", "running"), ("#name", "d12"), ("#stage", "pretrain"), ("#alive", "12,840 of 100,000"),
        ("#alive", "events lost0"), ("#alerts", "Rank 3 (node-0) is 3 % slower"), ("#learning-tiles", "2.3140"),
        ("#learning-tiles", "2.41"), ("#speed-tiles", "412ktokens/s"), ("#speed-tiles", "1.9PFLOP/s"),
        ("#speed-tiles", "41.2 %"),
        ("#speed-tiles", "full attention, 6N + 12LHQT"), ("#speed-tiles", "989.4 TFLOP/s bfloat16, table"),
        ("#legend-states", "productive"), ("#legend-phases", "backward"), ("#mixture", "fineweb-edu"),
        ("#mixture", "12.04 epochs"), ("#ranks", "node-0"), ("#gpus", "GPU 3"), ("#gpus", "sw power cap"),
        ("#gpus > :nth-child(4)", "not used by this run"),
        ("#gpu-note", "this run uses 3 of 4 GPUs, 1.923 kW together"),
        ("#host-tiles", "41 %"), ("#sinks", "wandb login"), ("#sinks", "40 rows"), ("#self", "bad magic 2"),
        ("#link-text", "live"), ("#all", "custom/metric_39"), ("#config", "124,000,000"),
    ):
        text_is(page, selector, expected)
    assert page.title().startswith("12,840 · loss 2.314")
    page.wait_for_selector("#plot-loss canvas")
    assert "Latest: loss" in page.get_attribute("#plot-loss canvas", "aria-label")
    page.wait_for_function("() => document.querySelector('#key-speed b')")


def test_an_event_is_on_the_page_without_a_reload(serve: Callable[..., Server], browser: Browser) -> None:
    views = FakeViews(make_snapshot())
    views.histories["nanochat-d12-1"] = make_history(300)
    page = browser.open(serve(views))
    text_is(page, "#link-text", "live")
    page.wait_for_selector("#plot-grad canvas")
    page.evaluate("window.untouched = true")
    views.histories["nanochat-d12-1"].add(Row("nanochat-d12-1", 0, 1, 301, 1.79e9, "step",
                                              {"train/grad_norm": 123.0}))
    views.publish(make_snapshot(step=12_841, loss=1.2345))
    text_is(page, "#learning-tiles", "1.2345")
    text_is(page, "#alive", "12,841 of 100,000")
    charted(page, "grad", "norm 123")
    assert page.evaluate("window.untouched")


def test_waiting_turns_into_a_run_by_itself(serve: Callable[..., Server], browser: Browser) -> None:
    views = FakeViews()
    page = browser.open(serve(views))
    text_is(page, "#waiting", "No run yet")
    assert not page.is_visible("#body")
    views.publish(make_snapshot(step=1))
    text_is(page, "#name", "d12")
    assert page.is_visible("#body")
    assert not page.is_visible("#waiting")


def test_without_a_free_stream_the_page_polls(serve: Callable[..., Server], browser: Browser) -> None:
    views = FakeViews(make_snapshot())
    page = browser.open(serve(views, Security(streams_max=0)))
    text_is(page, "#link-text", "polling")
    views.publish(make_snapshot(step=12_999))
    text_is(page, "#alive", "12,999")
    browser.errors.clear()  # The browser itself reports each refused stream.


def test_what_has_vanished_from_the_status_vanishes_from_the_page(
    serve: Callable[..., Server], browser: Browser
) -> None:
    views = FakeViews(make_snapshot(metrics=2))
    page = browser.open(serve(views))
    text_is(page, "#link-text", "live")
    text_is(page, "#sinks", "tensorboard")
    text_is(page, "#all", "custom/metric_1")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url.partition("?")[0].removeprefix(page.url)))
    views.telemetry.sinks = {}
    run = make_snapshot(step=12_841, metrics=1)
    run.phases, run.texts, run.dataset.mixture = {}, {}, {}
    views.publish(run)
    text_is(page, "#alive", "12,841 of 100,000")
    text_is(page, "#sinks", "None: add one")
    text_is(page, "#mixture", "This run does not say what it reads")
    assert "custom/metric_0" in page.inner_text("#all")
    assert "custom/metric_1" not in page.inner_text("#all")
    assert not page.is_visible("#phases-title")
    assert "status" not in asked, "the change was taken from the stream"


def test_a_sidecar_that_is_busy_is_not_said_to_be_gone(
    serve: Callable[..., Server], browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app_module, "JOURNAL_READS_MAX", 0)
    views = FakeViews(make_snapshot("new", name="second"), make_snapshot("old", name="first"))
    monkeypatch.setattr(views, "is_loaded", lambda run_id=None: run_id != "old")
    page = browser.open(serve(views), "/?run=old")
    text_is(page, "#link-text", "busy; asking again")
    assert not page.is_visible("#progress"), "nothing is known of any step"
    text_is(page, "#verdict", "The sidecar is busy: 0 requests wait for old journals to be read; ask again later.")
    monkeypatch.undo()
    text_is(page, "#name", "first")
    text_is(page, "#link-text", "live")
    browser.errors.clear()  # The browser itself reports each refused request.


def test_a_nan_loss_is_said_not_hidden(serve: Callable[..., Server], browser: Browser) -> None:
    views = FakeViews(make_snapshot(loss=None, loss_state="nan", mfu=make_snapshot().mfu.__class__(reason="no peak")))
    page = browser.open(serve(views))
    text_is(page, "#learning-tiles", "NaN")
    text_is(page, "#speed-tiles", "no peak")
    assert "loss NaN" in page.title()


def test_hostile_names_are_only_text(serve: Callable[..., Server], browser: Browser) -> None:
    run = make_snapshot(name=HOSTILE, project=HOSTILE, stage=HOSTILE, verdict=HOSTILE, config={HOSTILE: HOSTILE})
    run.metrics = {HOSTILE: MetricValue(1.0, None, 3)}
    run.texts = {HOSTILE: MetricValue(HOSTILE, None, 3)}
    run.val = {HOSTILE: 1.0}
    run.dataset.mixture = {HOSTILE: run.dataset.mixture["gsm8k"]}
    run.goodput.seconds = {HOSTILE: 3.0}
    run.phases = {HOSTILE: run.phases["forward"]}
    for rank in run.ranks:
        rank.host = rank.reason = rank.phase = HOSTILE
    for alert in run.alerts:
        alert.message = alert.name = HOSTILE
    run.gpus[0] |= {"name": HOSTILE, "throttle_reasons": [HOSTILE]}
    views = FakeViews(run, make_snapshot(HOSTILE))
    views.telemetry.sinks[HOSTILE] = SinkHealth(state=HOSTILE, reason=HOSTILE, url="javascript:document.title='owned'")
    views.telemetry.frames_rejected_total[HOSTILE] = 1
    page = browser.open(serve(views))
    page.wait_for_selector("#all button")
    page.click("#all button")
    page.click("#config-section summary")
    page.click("#texts-section summary")
    text_is(page, "#cap-any", "{{7*7}}")
    assert "owned" not in page.title().split("·")[0]
    assert page.evaluate("document.querySelectorAll('img').length") == 1  # The logo.
    assert page.evaluate("document.querySelectorAll('main script, main [onerror]').length") == 0
    assert page.evaluate("document.querySelectorAll('a[href^=\"javascript\"]').length") == 0
    assert "\u202e" not in page.inner_text("body")
    assert page.evaluate("document.title") != "owned"


def test_another_run_can_be_chosen(serve: Callable[..., Server], browser: Browser) -> None:
    views = FakeViews(make_snapshot("new", name="second", step=5), make_snapshot("old", name="first", step=7))
    page = browser.open(serve(views))
    text_is(page, "#name", "second")
    assert page.evaluate("document.querySelector('#runs').selectedOptions[0].textContent") == "the newest run"
    page.select_option("#runs", "old")
    text_is(page, "#name", "first")
    assert page.url.endswith("?run=old")
    page.reload()
    text_is(page, "#name", "first")


def test_the_axis_and_any_metric_can_be_chosen(full: Server, browser: Browser) -> None:
    page = browser.open(full)
    page.wait_for_selector("#plot-loss canvas")
    page.click("#axis button[data-x=tokens]")
    charted(page, "loss", "by tokens")
    page.fill("#filter", "train/lo")
    page.wait_for_function("() => document.querySelectorAll('#all tbody tr').length === 1")
    page.click("#all button")
    page.wait_for_selector("#plot-any canvas")
    page.click("#log-scale")
    assert page.get_attribute("#log-scale", "aria-pressed") == "true"


def test_with_a_token_the_page_asks_for_it(serve: Callable[..., Server], browser: Browser) -> None:
    token = "0123456789abcdef0123"
    server = serve(FakeViews(make_snapshot()), Security(token=token))
    page = browser.open(server)
    page.wait_for_selector("#token-form", state="visible")
    assert "d12" not in page.inner_text("body")
    page.fill("#token", token)
    page.click("#token-form button")
    text_is(page, "#name", "d12")
    assert not page.is_visible("#token-form")
    browser.errors.clear()  # The browser itself reports the 401s.
    linked = browser.open(server, f"/#token={token}")
    text_is(linked, "#name", "d12")
    assert token not in linked.url


def test_a_sidecar_that_is_gone_is_said_and_the_last_state_stays(full: Server, browser: Browser) -> None:
    page = browser.open(full)
    text_is(page, "#link-text", "live")
    full.close()
    text_is(page, "#link-text", "no answer")
    assert "2.3140" in page.inner_text("#learning-tiles")
    browser.errors.clear()  # The browser itself reports refused connections.


@pytest.mark.parametrize(("width", "scheme"), [(360, "light"), (390, "dark"), (820, "light"), (1900, "dark")])
def test_nothing_sticks_out_at_any_width(full: Server, browser: Browser, width: int, scheme: str) -> None:
    page = browser.open(full, viewport={"width": width, "height": 800}, color_scheme=scheme)
    page.wait_for_selector("#plot-loss canvas")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    brightness = sum(map(int, re.findall(r"\d+", background)[:3])) / 3
    assert (brightness < 60) is (scheme == "dark")


def test_everything_has_a_name_for_who_cannot_see_it(full: Server, browser: Browser) -> None:
    page = browser.open(full)
    page.wait_for_selector("#plot-loss canvas")
    assert page.get_attribute("html", "lang") == "en"
    unnamed = page.evaluate("""[...document.querySelectorAll('button, input, select, a, [role=img], canvas')].filter(
        n => n.checkVisibility() && !(n.textContent.trim() || n.getAttribute('aria-label') || n.labels?.length)
    ).length""")
    assert unnamed == 0
    assert page.evaluate("document.querySelectorAll('h1').length") == 1
    assert page.evaluate("[...document.querySelectorAll('th')].every(th => th.scope)")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the numbers"


def test_the_page_never_makes_markup_of_data_and_names_no_other_host() -> None:
    own = [path for path in PAGE.iterdir() if path.suffix != ".txt" and not path.name.startswith("uPlot")]
    script = "".join(path.read_text() for path in own if path.suffix == ".js")
    for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"):
        assert word not in script
    for path in own:
        hosts = re.findall(r"https?://[\w.]+", path.read_text())
        assert set(hosts) <= {"http://www.w3.org"}, path.name
    assert "1.6.32" in (PAGE / "uPlot.iife.min.js").read_text()[:100]
    assert "MIT" in (PAGE / "uPlot.LICENSE.txt").read_text()
