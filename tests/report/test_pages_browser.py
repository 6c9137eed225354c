"""The pages in a real headless browser: they can be touched, ask nothing of a network, and fit a phone."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from browser import Browser
from made_charts import make_chart
from test_pages import make_risks
from test_report import make_inputs

from kronos.report.forecast_chart import BEST, LATEST, OTHER_DAY, WORST
from kronos.report.pages.forecasts import write_forecasts, write_ranking
from kronos.report.writer import write_report

pytestmark = pytest.mark.slow
NAMES = ["ALPHA", "BETA", "GAMMA", "DELTA"]
EXPECTED = [0.01, -0.02, 0.03, 0.002]


@pytest.fixture
def browser(opened: Browser) -> Iterator[Browser]:
    """Every test ends with: only files of the page's folder were asked for, and nothing was complained about."""
    yield opened
    assert {url.rpartition("/")[2] for url in opened.asked if not url.startswith("data:")} <= {
        "report.html", "forecasts.html", "forecasts.zh.html", "plotly.min.js",
    }  # fmt: skip
    assert all(url.startswith(("file:", "data:")) for url in opened.asked) and opened.complaints == []


@pytest.fixture(scope="module")
def backtest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a report, with three instruments on its page of candles, one of them on two days."""
    folder = tmp_path_factory.mktemp("backtest")
    write_report(folder, make_inputs())
    fills = pd.DataFrame(
        {"datetime": make_chart().seen.index[[-4]], "side": ["buy"], "shares": [10.0], "price": [50.0]}
    )
    charts = [
        make_chart("ALPHA", BEST, fills=fills),
        make_chart("ALPHA", OTHER_DAY, begin="2010-05-03", seed=1),
        make_chart("BETA", WORST, seed=2),
    ]
    write_forecasts(folder, charts, "mean")
    return folder


@pytest.fixture(scope="module")
def latest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("latest")
    charts = [make_chart(name, LATEST, seed=place) for place, name in enumerate(NAMES)]
    write_ranking(folder, charts, make_risks(NAMES, EXPECTED), 0.1)
    return folder


def closes(page: Any) -> list[float]:
    """The closes of the bars seen that Plotly has drawn."""
    return page.evaluate("document.getElementById('chart').data.find((one) => one.meta === 'seen').close")


def shown(page: Any) -> dict[str, bool]:
    return page.evaluate(
        """Object.fromEntries(document.getElementById("chart").data
            .map((one) => [one.meta, one.visible !== "legendonly"]))"""
    )


def test_the_chooser_changes_the_chart_by_instrument_and_by_date(browser, backtest):
    page = browser.open((backtest / "forecasts.html").as_uri())
    expected = [make_chart("ALPHA"), make_chart(begin="2010-05-03", seed=1), make_chart(seed=2)]
    assert page.locator("#instrument option").all_inner_texts() == ["ALPHA", "BETA"]
    np.testing.assert_allclose(closes(page), expected[0].seen["close"], rtol=1e-5)
    page.click("#later")
    np.testing.assert_allclose(closes(page), expected[1].seen["close"], rtol=1e-5)
    assert page.is_disabled("#later") and "another day" in page.locator("#as-of option:checked").inner_text()
    page.select_option("#instrument", label="BETA")
    np.testing.assert_allclose(closes(page), expected[2].seen["close"], rtol=1e-5)
    assert page.is_hidden("#later")


def test_hover_shows_the_bar_its_time_and_its_prices(browser, backtest):
    page = browser.open((backtest / "forecasts.html").as_uri())
    place = page.evaluate(
        """() => {
            const chart = document.getElementById("chart"), box = chart.getBoundingClientRect();
            const { xaxis, yaxis } = chart._fullLayout;
            return [box.left + xaxis._offset + xaxis.c2p(-7), box.top + yaxis._offset + yaxis._length / 2];
        }"""
    )
    page.mouse.move(place[0] - 3, place[1])
    page.mouse.move(*place)
    page.wait_for_function("document.querySelector('#chart .hoverlayer').textContent.includes('open')")
    text, bar = page.text_content("#chart .hoverlayer"), make_chart().seen.iloc[-8]
    assert f"{bar.name:%Y-%m-%d}" in text
    found = dict(re.findall(r"(open|high|low|close) ([\d.]+)", text))
    assert {name: float(value) for name, value in found.items()} == pytest.approx(
        {name: bar[name] for name in ("open", "high", "low", "close")}, rel=1e-4
    )


def test_sample_paths_are_shown_on_request_and_ranges_and_fills_are_drawn(browser, backtest):
    page = browser.open((backtest / "forecasts.html").as_uri())
    assert shown(page)["paths"] is False and shown(page)["buy"] is True
    page.check("#paths")
    assert shown(page)["paths"] is True
    page.click("text=10 bars")
    assert page.evaluate("document.getElementById('chart').layout.xaxis.range") == pytest.approx([-9.7, 5.7])
    labels = page.evaluate("document.getElementById('chart').layout.xaxis.ticktext")
    assert labels[0] == f"{make_chart().seen.index[-10]:%Y-%m-%d}"
    assert labels[-1] == f"{make_chart().forecast.index[-1]:%Y-%m-%d}"


def test_the_ranking_sorts_by_any_column_and_one_click_on_a_row_shows_its_candles(browser, latest):
    page = browser.open((latest / "forecasts.html").as_uri())

    def names() -> list[str]:
        return page.locator("#ranking tbody tr:visible td:nth-child(2)").all_inner_texts()

    assert (
        names() == ["GAMMA", "ALPHA", "DELTA", "BETA"] and page.locator("#ranking svg polyline").count() == 8
    )
    page.click("th:has-text('instrument')")
    assert names() == sorted(NAMES)
    page.click("th:has-text('expected return')")
    assert names() == ["BETA", "DELTA", "ALPHA", "GAMMA"]
    page.click("th:has-text('expected return')")
    assert names() == ["GAMMA", "ALPHA", "DELTA", "BETA"]
    page.click("tr[data-instrument=DELTA]")
    np.testing.assert_allclose(closes(page), make_chart(kind=LATEST, seed=3).seen["close"], rtol=1e-5)
    assert page.get_attribute("tr[data-instrument=DELTA]", "aria-selected") == "true"
    page.fill("#find", "et")
    assert names() == ["BETA"]


def test_the_curves_of_the_report_are_drawn_sections_fold_and_print_has_the_pictures(browser, backtest):
    page = browser.open((backtest / "report.html").as_uri())
    assert page.locator("figure.live .plot .main-svg").count() >= 5
    assert page.locator("#section-2 table").first.is_hidden()
    page.click(".contents a >> nth=1")
    assert page.evaluate("location.hash") == "#section-2"
    tear_sheet = page.locator("#section-2")  # closed until its link was followed
    assert tear_sheet.locator("h2").inner_text() == "Tear sheet"
    tear_sheet.locator(".plot .main-svg").first.wait_for(state="visible")
    section = page.locator("#section-1")
    section.locator("summary").click()
    assert section.locator("table").first.is_hidden()
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print")
    assert section.locator("table").first.is_visible() and page.locator("figure.live img").first.is_visible()
    assert page.locator("figure.live .plot").first.is_hidden()


def test_dark_and_light_follow_the_system_and_the_button(browser, backtest):
    page = browser.open((backtest / "report.html").as_uri())
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.emulate_media(color_scheme="dark")
    page.wait_for_function("light => getComputedStyle(document.body).backgroundColor !== light", arg=light)
    page.click("#theme")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == light


@pytest.mark.parametrize("name", ["report", "forecasts", "ranking"])
def test_nothing_is_cut_on_a_phone_of_400_pixels(browser, backtest, latest, name):
    path = latest / "forecasts.html" if name == "ranking" else backtest / f"{name}.html"
    page = browser.open(path.as_uri(), width=400)
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    cut = page.evaluate(
        """() => [...document.querySelectorAll("main *")]
            .filter((one) => !one.closest(".scroll table, svg, .plot, #chart"))
            .filter((one) => one.getBoundingClientRect().right > 400.5 || (one.scrollWidth > one.clientWidth + 1
                && one.clientWidth && getComputedStyle(one).overflowX === "hidden"))
            .map((one) => one.outerHTML.slice(0, 80))"""
    )
    assert cut == []


def test_without_plotlys_script_the_pictures_stay_and_the_page_of_candles_says_what_it_needs(
    chromium, backtest, tmp_path
):
    for name in ("report.html", "forecasts.html"):
        shutil.copy(backtest / name, tmp_path)
    page = chromium.new_page()
    page.goto((tmp_path / "report.html").as_uri())
    assert page.locator("figure img").first.is_visible() and page.locator(".live").count() == 0
    page.goto((tmp_path / "forecasts.html").as_uri())
    assert "need the file plotly.min.js" in page.inner_text("#message")
    page.close()


def test_a_chinese_page_has_chinese_controls_and_leads_to_the_english_one(browser: Browser, tmp_path: Path):
    charts = [make_chart(name, LATEST, seed=place) for place, name in enumerate(NAMES)]
    write_ranking(tmp_path, charts, make_risks(NAMES, EXPECTED), 0.05, "both")
    page = browser.open((tmp_path / "forecasts.zh.html").as_uri())
    page.wait_for_selector('.modebar-btn[data-title="缩小"]', state="attached")
    assert page.locator("html").get_attribute("lang") == "zh-CN"
    assert page.locator("#ranking thead button").all_inner_texts()[:3] == ["名次", "标的", "预期收益"]
    assert "预测（均值）" in page.locator("#chart .legendtext").all_text_contents()
    page.locator(".bar a").click()
    page.wait_for_selector('.modebar-btn[data-title="Zoom out"]', state="attached")
    assert page.url.endswith("/forecasts.html") and page.locator(".bar a").inner_text() == "中文"
