"""The interactive pages hold what the charts are made of, are text whatever names hold, and stay small."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made_charts import make_chart
from test_report import make_inputs

from kronos.report.forecast_chart import ASKED, BEST, LATEST, OTHER_DAY, RANDOM, WORST
from kronos.report.pages import curves
from kronos.report.pages.candles import candle_template, chart_arrays
from kronos.report.pages.curves import report_curves
from kronos.report.pages.forecasts import MOST_BYTES, write_forecasts, write_ranking
from kronos.report.tiles import BAD, GOOD, NEUTRAL, report_tiles


def held(folder: Path) -> dict[str, Any]:
    """The data of a page, as its script reads it."""
    page = (folder / "forecasts.html").read_text(encoding="utf-8")
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page)
    return json.loads(text)


def make_risks(names: list[str], expected: list[float]) -> pd.DataFrame:
    rows = [
        (name, step, value * step) for name, value in zip(names, expected, strict=True) for step in (1, 2)
    ]
    table = pd.DataFrame(rows, columns=["instrument", "step", "expected_return"])
    table["as_of"], table["datetime"] = pd.Timestamp("2010-05-26"), pd.Timestamp("2010-05-28")
    return table.assign(
        median=0.0, rise_probability=0.5, var_95=0.02, es_95=0.03, drawdown_probability=np.nan
    )


def test_a_chart_counts_bars_from_the_last_one_seen_and_what_came_stands_beside_the_forecast():
    chart = make_chart(seen=40, horizon=5)
    arrays = chart_arrays(chart)
    traces = arrays["traces"]
    assert traces["seen"]["x"] == list(range(-39, 1)) and arrays["first"] == -39
    assert [round(place) for place in traces["forecast"]["x"]] == [1, 2, 3, 4, 5]
    assert [round(place) for place in traces["came"]["x"]] == [1, 2, 3, 4, 5]
    assert max(traces["forecast"]["x"]) < max(traces["came"]["x"])
    assert arrays["times"][39] == arrays["as_of"] == f"{chart.as_of:%Y-%m-%d}" and len(arrays["times"]) == 45
    for name in ("open", "high", "low", "close", "volume"):
        np.testing.assert_allclose(traces["came"][name], chart.came[name], rtol=1e-5)
    low, high = chart.bands[0.9]
    assert traces["band_0"]["name"] == "90 % band" and traces["band_1"]["name"] == "50 % band"
    np.testing.assert_allclose(
        traces["band_0"]["y"], [chart.seen["close"].iloc[-1], *high, *low[::-1]], rtol=1e-5
    )
    drawn = [value for value in traces["paths"]["y"] if value is not None]
    np.testing.assert_allclose(np.reshape(drawn, (8, 6))[:, 1:], chart.paths, rtol=1e-5)


def test_a_session_without_a_bar_is_a_gap_and_a_forecast_of_the_future_has_nothing_that_came():
    chart = make_chart()
    suspended = make_chart()
    object.__setattr__(suspended, "came", chart.came.drop(chart.came.index[1]))
    assert [round(place) for place in chart_arrays(suspended)["traces"]["came"]["x"]] == [1, 3, 4, 5]
    latest = chart_arrays(make_chart(kind=LATEST))["traces"]
    assert "came" not in latest and latest["forecast"]["x"] == [1, 2, 3, 4, 5]


def test_fills_stand_at_their_bar_and_price_and_those_of_other_days_are_left_out():
    days = make_chart().seen.index
    fills = pd.DataFrame(
        {"datetime": [days[-3], days[-1], pd.Timestamp("2009-01-02")], "side": ["buy", "sell", "buy"],
         "shares": [100.0, 40.0, 7.0], "price": [50.25, 51.5, 1.0]}
    )  # fmt: skip
    traces = chart_arrays(make_chart(fills=fills))["traces"]
    assert (traces["buy"]["x"], traces["buy"]["y"]) == ([-2.0], [50.25])
    assert (traces["sell"]["x"], traces["sell"]["y"]) == ([0.0], [51.5])
    assert traces["buy"]["text"] == [f"{days[-3]:%Y-%m-%d}: 100 shares at 50.25"]


def test_every_array_has_a_trace_and_bars_within_a_day_have_their_time():
    names = {trace["meta"] for trace in candle_template()["data"]}
    arrays = chart_arrays(make_chart(freq="5min", begin="2010-04-01 09:35"))
    volumes = {f"volume_{name}" for name in ("seen", "forecast", "came")}
    assert set(arrays["traces"]) | volumes | {"buy", "sell", "band_2"} == names
    assert arrays["times"][:2] == ["2010-04-01 09:35", "2010-04-01 09:40"]


def test_the_page_lists_why_a_forecast_is_shown_and_other_days_only_by_their_date(tmp_path):
    kinds = (RANDOM, WORST, OTHER_DAY, BEST, ASKED)
    charts = [make_chart(f"N{place}", kind, seed=place) for place, kind in enumerate(kinds)]
    write_forecasts(tmp_path, charts, "mean")
    found = [(chart["kind"], chart["listed"]) for chart in held(tmp_path)["charts"]]
    assert found == [(ASKED, True), (BEST, True), (WORST, True), (RANDOM, True), (OTHER_DAY, False)]


def test_whatever_an_instrument_is_called_it_is_text_in_the_page(tmp_path):
    names = ["</script><b>", "a & 'b'", "中国"]
    charts = [make_chart(name, LATEST, seed=place) for place, name in enumerate(names)]
    write_ranking(tmp_path, charts, make_risks(names, [0.03, 0.02, 0.01]), 0.1)
    page = (tmp_path / "forecasts.html").read_text(encoding="utf-8")
    assert "<b>" not in page and "http" not in page and (tmp_path / "plotly.min.js").is_file()
    assert {chart["instrument"] for chart in held(tmp_path)["charts"]} == set(names)


def test_the_ranking_is_that_of_the_last_step_and_keeps_the_number_behind_each_text(tmp_path):
    names = ["low", "high", "middle"]
    charts = [make_chart(name, LATEST, seed=place) for place, name in enumerate(names)]
    write_ranking(tmp_path, charts, make_risks(names, [-0.01, 0.02, 0.001]), 0.1)
    page = (tmp_path / "forecasts.html").read_text(encoding="utf-8")
    assert re.findall(r'<tr data-instrument="(\w+)">', page) == ["high", "middle", "low"]
    assert '<td data-value="0.04">+4.00 %</td>' in page and '<td data-value="">n/a</td>' in page
    assert "chance of the drawdown of 10 %" in page and "have no candles here" not in page


def test_a_page_of_many_instruments_stays_small_and_draws_the_ends_of_the_ranking(tmp_path, monkeypatch):
    monkeypatch.setattr("kronos.report.pages.forecasts.MOST_BYTES", 30_000)
    names = [f"N{place:02d}" for place in range(40)]
    charts = [make_chart(name, ASKED if name == "N20" else LATEST, seen=20, seed=3) for name in names]
    write_ranking(tmp_path, charts, make_risks(names, list(np.linspace(0.1, -0.1, 40))), 0.1)
    drawn = [chart["instrument"] for chart in held(tmp_path)["charts"]]
    assert 3 < len(drawn) < 40 and drawn[0] == "N20" and {"N00", "N39"} <= set(drawn[:3])
    page = (tmp_path / "forecasts.html").read_text(encoding="utf-8")
    assert f"{40 - len(drawn)} instruments in the middle of the ranking have no candles here" in page
    assert page.count("<tr data-instrument") == 40
    assert MOST_BYTES < 2_700_000  # with Plotly's script, of 4.8 MB, a folder's pages are below 8 MB


def test_the_curves_are_the_cumulative_sums_of_the_ledger_and_long_ones_are_thinned():
    inputs = make_inputs(days=120)
    drawn = {
        name: {trace["name"]: trace for trace in one["data"]} for name, one in report_curves(inputs).items()
    }
    assert set(drawn) == {"cumulative_return", "drawdown", "rolling", "daily_ic", "group_returns", "turnover"}
    net = (inputs.daily["return"] - inputs.daily["cost"]).cumsum().to_numpy()
    np.testing.assert_allclose(drawn["cumulative_return"]["portfolio, with costs"]["y"], net, rtol=1e-4)
    highest = np.maximum(np.maximum.accumulate(net), 0)
    np.testing.assert_allclose(
        drawn["drawdown"]["portfolio, with costs"]["y"], net - highest, rtol=1e-3, atol=1e-9
    )
    np.testing.assert_allclose(drawn["turnover"]["portfolio: bought plus sold, of the account"]["y"], 0.2)
    thin = curves._thinned(pd.Series(np.arange(100_000)))
    assert len(thin) == curves.MOST_POINTS and (thin.iloc[0], thin.iloc[-1]) == (0, 99_999)


@pytest.mark.parametrize(
    ("strength", "gain", "tones"), [(0.8, 0.004, (GOOD, GOOD, GOOD)), (-0.8, -0.004, (BAD, BAD, BAD))]
)
def test_the_tiles_say_verdict_rank_ic_and_skill_and_color_them_by_their_interval(strength, gain, tones):
    inputs = make_inputs(days=120, strength=strength, gain=gain)
    tiles = report_tiles(inputs)
    assert len(tiles) == 6 and tuple(tile.tone for tile in tiles[:3]) == tones
    rank_ic = inputs.ranking.worths["tradable"]["mean"].rank_ic
    assert (
        tiles[1].value == f"{rank_ic.mean:+.4f}"
        and tiles[1].detail == f"{rank_ic.low:+.4f} to {rank_ic.high:+.4f}"
    )


def test_too_short_a_period_has_no_good_or_bad_tile():
    tiles = report_tiles(make_inputs(days=57, strength=0.8, gain=0.004))
    assert {tile.tone for tile in tiles} == {NEUTRAL} and tiles[0].value == "Too short to tell"
    assert tiles[5].value == "0 times" and tiles[3].value == "n/a"
