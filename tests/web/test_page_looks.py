"""What a reader sees and does on the live page: nothing jumps, nothing hides, nothing is lost on an update."""

from collections.abc import Callable
from typing import Any

import pytest

from sidecar.rows import Row
from sidecar.snapshot import MetricValue
from tests.web.conftest import Server
from tests.web.fake_views import FakeViews, make_history, make_snapshot
from tests.web.test_page import HOSTILE, Browser, browser, charted, engine, text_is

__all__ = ["browser", "engine"]
pytestmark = pytest.mark.slow
RUN = "nanochat-d12-1"

CONTRASTS = """() => {
  const context = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const over = (colors) => {  // From the page's ground up.
    context.clearRect(0, 0, 1, 1);
    for (const color of colors) { context.fillStyle = color; context.fillRect(0, 0, 1, 1); }
    return [...context.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const light = (rgb) => rgb.map((v) => v / 255).map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const weak = [];
  for (const node of document.querySelectorAll('body *')) {
    const text = [...node.childNodes].filter((n) => n.nodeType === 3).map((n) => n.data).join('').trim();
    if (!text || !node.checkVisibility() || node.closest('.sr, .skip')) continue;
    const grounds = [];
    for (let at = node; at; at = at.parentElement) grounds.unshift(getComputedStyle(at).backgroundColor);
    const [a, b] = [light(over(grounds)), light(over([...grounds, getComputedStyle(node).color]))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) weak.push(`${ratio.toFixed(2)} ${node.className || node.tagName}: ${text.slice(0, 40)}`);
  }
  return [...new Set(weak)];
}"""
PLACES = """() => [...document.querySelectorAll('h2, .tile .t, figcaption > span:first-child, .plot, th, dt')]
  .filter((n) => n.checkVisibility()).map((n) => { const box = n.getBoundingClientRect();
    return `${n.id || n.textContent} ${box.x.toFixed(0)} ${(box.y + scrollY).toFixed(0)}`; })"""
"""Headings and labels, and where they are."""


def with_history(run: Any, steps: int = 300) -> FakeViews:
    views = FakeViews(run)
    views.histories[run.run_id] = make_history(steps, run.run_id)
    return views


def long_names() -> Any:
    run = make_snapshot(name="an-extremely-long-run-name-" * 12, project="a-long-project-" * 9, stage="my own " * 12)
    run.dataset.mixture["HuggingFaceFW/fineweb-edu-score-2-sample-350BT-" * 4] = run.dataset.mixture["gsm8k"]
    run.metrics["custom/" + "very_long_metric_name_" * 12] = MetricValue(1.0, None, 3)
    for rank in run.ranks:
        rank.host = "ip-10-0-113-112.us-west-2.compute.internal.example.org"
    return run


def hostile_names() -> Any:
    run = make_snapshot(name=HOSTILE, project=HOSTILE, stage=HOSTILE, verdict=HOSTILE)
    run.dataset.mixture = {HOSTILE: run.dataset.mixture["gsm8k"]}
    return run


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_stands_out_from_its_ground(serve: Callable[..., Server], browser: Browser, scheme: str) -> None:
    states = ("running", "waiting", "stalled", "finished", "starting")
    for state in states:
        run = make_snapshot(state=state, loss=None, loss_state="nan" if state == "running" else None, grad_norm=None)
        page = browser.open(serve(FakeViews() if state == "waiting" else FakeViews(run)), color_scheme=scheme)
        text_is(page, "#state", state)
        assert page.evaluate(CONTRASTS) == [], state


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("make", [long_names, hostile_names])
def test_no_name_is_too_long_for_the_page(
    serve: Callable[..., Server], browser: Browser, make: Callable[[], Any], width: int
) -> None:
    page = browser.open(serve(FakeViews(make())), viewport={"width": width, "height": 800})
    page.wait_for_selector("#ranks tbody tr")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.evaluate("document.querySelector('header').offsetHeight") <= (100 if width == 360 else 52)
    card = page.evaluate("""(() => { const card = document.querySelector('#mixture').parentElement;
                                     return card.scrollWidth - card.clientWidth; })()""")
    assert card == 0, "the share and the coverage of a long named dataset are out of sight"


def test_a_phone_shows_every_value_whole(serve: Callable[..., Server], browser: Browser) -> None:
    views = with_history(make_snapshot())
    views.telemetry.sinks.clear()
    page = browser.open(serve(views), viewport={"width": 390, "height": 800})
    charted(page, "loss", "validation")
    cut = page.evaluate("""[...document.querySelectorAll('.key, .key > span, .meter > span, .tile .v, tr.empty td, dd')]
        .filter((n) => n.checkVisibility()).filter((n) => {
            const edge = n.closest('.card, .tile, .hero').getBoundingClientRect().right - 8;
            return n.clientWidth && n.scrollWidth > n.clientWidth + 1 || n.getBoundingClientRect().right > edge;
        }).map((n) => n.textContent)""")
    assert [text for text in cut if text not in page.inner_text("#ranks")] == []
    assert page.evaluate("document.querySelector('#mixture .meter span').offsetHeight") < 30


def test_an_update_moves_nothing(serve: Callable[..., Server], browser: Browser) -> None:
    views = with_history(make_snapshot())
    page = browser.open(serve(views))
    page.wait_for_selector("#plot-loss canvas")
    before = page.evaluate(PLACES)
    later = make_snapshot(step=99_999, loss=11.0, grad_norm=123.456, last_step_age_seconds=59.0, elapsed_seconds=3.6e5)
    for rank in later.ranks:
        rank.step, rank.age_seconds, rank.step_seconds = 99_999, 59.0, 12.25
    views.publish(later)
    text_is(page, "#alive", "99,999")
    assert page.evaluate(PLACES) == before


def test_pointing_at_a_chart_moves_nothing(serve: Callable[..., Server], browser: Browser) -> None:
    page = browser.open(serve(with_history(make_snapshot(), 2_000)), viewport={"width": 390, "height": 800})
    page.wait_for_selector("#plot-loss canvas")
    before = page.evaluate(PLACES)
    page.hover("#plot-loss .u-over", position={"x": 120, "y": 60})
    text_is(page, "#key-loss", "step ")
    text_is(page, "#key-loss", " to ")
    assert page.evaluate(PLACES) == before


def test_the_keyboard_focus_survives_an_update(serve: Callable[..., Server], browser: Browser) -> None:
    views = with_history(make_snapshot(metrics=5))
    page = browser.open(serve(views))
    page.focus("#all button[data-metric='custom/metric_3']")
    later = make_snapshot(step=12_841, metrics=5)
    later.metrics["custom/metric_3"] = MetricValue(77.5, None, 12_841)
    views.publish(later)
    text_is(page, "#all", "77.5")
    assert page.evaluate("document.activeElement.dataset.metric") == "custom/metric_3"
    page.keyboard.press("Enter")
    text_is(page, "#cap-any", "custom/metric_3")


def test_the_page_comes_back_with_a_restarted_sidecar(serve: Callable[..., Server], browser: Browser) -> None:
    first = serve(with_history(make_snapshot()))
    page = browser.open(first)
    text_is(page, "#link-text", "live")
    page.evaluate("window.untouched = true")
    first.close()
    text_is(page, "#link-text", "no answer")
    serve(with_history(make_snapshot(step=13_000)), port=first.port)
    text_is(page, "#link-text", "live")
    text_is(page, "#alive", "13,000 of 100,000")
    assert page.evaluate("window.untouched")
    browser.errors.clear()  # The browser itself reports refused connections.


def test_another_version_of_the_sidecar_brings_its_own_page(serve: Callable[..., Server], browser: Browser) -> None:
    views = FakeViews(make_snapshot())
    page = browser.open(serve(views))
    text_is(page, "#version", "0.1.0")
    page.evaluate("window.untouched = true")
    views.telemetry.version = "0.2.0"
    views.publish()
    text_is(page, "#version", "0.2.0")
    assert not page.evaluate("window.untouched")


def test_an_unknown_run_is_said_and_the_others_can_be_chosen(serve: Callable[..., Server], browser: Browser) -> None:
    page = browser.open(serve(FakeViews(make_snapshot())), "/?run=gone")
    text_is(page, "#verdict", "There is no run gone here")
    page.select_option("#runs", RUN)
    text_is(page, "#name", "d12")
    assert page.is_visible("#body")
    browser.errors.clear()  # The browser itself reports the 404.


def test_a_nan_that_is_the_latest_value_is_the_latest_value(serve: Callable[..., Server], browser: Browser) -> None:
    run = make_snapshot(loss=None, loss_state="nan", val={"loss": None})
    run.metrics["val/loss"] = MetricValue(None, "nan", 12_840)
    views = with_history(run)
    views.histories[RUN].add(Row(RUN, 0, 301, 301, 1.79e9 + 200, "step", {"train/loss": float("nan")}))
    page = browser.open(serve(views))
    charted(page, "loss", "loss NaN")
    text_is(page, "#key-loss", "loss NaN")
    assert page.inner_text("#learning-tiles .tile:nth-child(3)").startswith("validation loss\nNaN")
    assert "bad" in page.get_attribute(".hero", "class")


def test_a_run_that_has_ended_says_when(serve: Callable[..., Server], browser: Browser) -> None:
    run = make_snapshot(state="finished", started_at="2026-11-21T07:00:00Z", elapsed_seconds=3_600.0)
    page = browser.open(serve(FakeViews(run)), timezone_id="UTC", locale="en-GB")
    text_is(page, "#alive", "ended21 Nov 2026, 08:00")
    assert " ago" not in page.inner_text("#alive") + page.inner_text("#ranks")


def test_numbers_are_written_for_people(serve: Callable[..., Server], browser: Browser) -> None:
    page = browser.open(serve(FakeViews(make_snapshot(loss=3.2e-5))))
    text_is(page, "#learning-tiles", "3.2e-5")
    written = {
        "lossText": {2.314: "2.3140", 3.2e-5: "3.2e-5", 0.0: "0", 1e9: "1e9"},
        "fixed": {0.0: "0", 2.9e-4: "2.9e-4", 12345.6: "12,346", -1.5: "-1.5", 1e21: "1e21"},
        "short": {999: "999", 999_999: "1M", 412_000: "412k", 1.9e15: "1.9P", -2500: "-2.5k"},
        "tokens": {999: "999", 2.4e9: "2.4B", 3.366e12: "3.366T"},
        "bytes": {12: "12 B", 1023 * 2**20: "1023 MiB", 80 * 2**30: "80 GiB", 1.5 * 2**50: "1.5 PiB"},
        "span": {0: "0 s", 2.5e-5: "25 µs", 0.9996: "1.0 s", 59.7: "1 min 00 s", 3600: "1 h 00 min", 9e5: "10 d 10 h"},
        "ago": {0.3: "< 1 s ago", 2.44: "2.4 s ago"},
    }
    for function, cases in written.items():
        shown = page.evaluate("([f, values]) => import('/page/format.js').then((m) => values.map((v) => m[f](v)))",
                              [function, list(cases)])
        assert shown == list(cases.values()), function
    assert page.evaluate("import('/page/format.js').then((m) => [null, undefined, NaN, Infinity].map((v) => m.span(v)))"
                         ) == ["–"] * 4
