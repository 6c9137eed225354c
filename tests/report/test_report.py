"""The report has the required content, is the same for the same inputs, and returns its key figures as numbers."""

import html
import json
import math
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_charts import make_chart

from kronos.evaluation import signals
from kronos.evaluation.forecast_evaluation import Before, Forecasts, Samples, measure, rank
from kronos.evaluation.large_moves import LargeMoves
from kronos.evaluation.portfolio import excesses, risk
from kronos.evaluation.ranking import TRADABLE
from kronos.evaluation.statistics import estimate
from kronos.evaluation.tear_sheet import tear_sheet
from kronos.evaluation.tradability import tradability
from kronos.report.content import metrics
from kronos.report.forecast_chart import BEST
from kronos.report.writer import Portfolio, ReportInputs, report_text, write_report
from kronos.utils.errors import UserError

NOTE = "too short to tell (57 days, 11 independent 5-day periods)"
HORIZON, LOOKBACK = 5, 20
YEAR = 251.6  # periods_per_year


def make_forecasts(days: int, names: int, strength: float, seed: int) -> tuple[Forecasts, pd.DataFrame]:
    """Forecasts that know `strength` of each later close, and their scores; bars go on for a horizon after them."""
    random = np.random.default_rng(seed)
    index = pd.bdate_range("2010-04-01", periods=LOOKBACK + days + HORIZON + 1, name="datetime")
    columns = pd.Index([f"N{place:02d}" for place in range(names)], name="instrument")
    close = pd.DataFrame(50 * np.exp(random.normal(0, 0.02, (len(index), names)).cumsum(0)), index, columns)
    opening = close.shift(1).bfill() * np.exp(random.normal(0, 0.002, close.shape))
    day, instrument = (grid.reshape(-1) for grid in np.mgrid[LOOKBACK : LOOKBACK + days, 0:names])
    table = close.to_numpy()
    last = table[day, instrument]
    steps = np.arange(1, HORIZON + 1)
    came = table[day[:, None] + steps, instrument[:, None]] / last[:, None]
    known = strength * (came - 1) + 0.02 * random.normal(size=(len(day), 1))
    predicted = last[:, None] * (1 + known)
    frame = pd.DataFrame(
        {
            "instrument": np.repeat(columns.to_numpy()[instrument], HORIZON),
            "as_of": np.repeat(index.to_numpy()[day], HORIZON),
            "step": np.tile(steps, len(day)),
            "close": predicted.reshape(-1),
        }
    )
    scores = signals.scores(frame, pd.Series(close.rename_axis(index="as_of").stack()))
    return Forecasts(
        close_NH=predicted, last_N=last, day_N=day, instrument_N=instrument, opening=opening, close=close,
        lookback=LOOKBACK, tradable=tradability(opening, close),
    ), scores  # fmt: skip


def make_portfolio(days: int, gain: float, random: np.random.Generator) -> Portfolio:
    index = pd.bdate_range("2010-05-28", periods=days, name="datetime")
    daily = pd.DataFrame(
        {"return": random.normal(gain, 0.01, days), "cost": 0.00025, "turnover": 0.2}, index=index
    )
    daily["bench"], daily["bench_cost"] = random.normal(0, 0.01, days), 0.00005
    daily["account"] = 1e8 * (1 + daily["return"] - daily["cost"]).cumprod()
    daily["cash"], daily["holdings"] = 5e6, 52
    daily["value"] = daily["account"] - daily["cash"]
    return Portfolio(daily=daily, risk=risk(daily, YEAR), turnover=0.2, stranded=("ARG", "MFE"))


def make_trades(daily: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """One order per session, of a hundredth of the account in N01 and of a thousandth in N02, and traded money."""
    names = np.where(np.arange(len(daily)) % 2, "N01", "N02")
    before = daily["account"] / (1 + daily["return"] - daily["cost"])
    trades = pd.DataFrame({"datetime": daily.index, "instrument": names})
    trades["value"] = before.to_numpy() * np.where(names == "N01", 0.01, 0.001)
    days = pd.bdate_range(end=daily.index[-1], periods=LOOKBACK + len(daily), name="datetime")
    return trades, pd.DataFrame({"N01": 4e7, "N02": 1e7}, days)


def make_moves(days: int) -> LargeMoves:
    largest = pd.DataFrame(
        [("2010-06-01", "ARG", 0.021, True), ("2010-06-02", "MFE", -0.004, False)],
        columns=["session", "instrument", "contribution", "suspected"],
    )
    return LargeMoves(
        suspects=3, unnamed=0, pairs=17, rank_ic=estimate(pd.Series(np.linspace(-0.02, 0.01, days)), HORIZON),
        held=1, excess=0.0321, largest=largest, total=0.05, share=0.34,
    )  # fmt: skip


def make_inputs(days: int = 57, seed: int = 0, strength: float = 0.0, gain: float = 0.0) -> ReportInputs:
    random = np.random.default_rng(seed)
    forecasts, scores = make_forecasts(days, 12, strength, seed)
    before = Before(note="not compared, since it cannot be loaded")
    rows = np.arange(0, len(forecasts.day_N), 7)
    realised = forecasts.realised()[rows][:, None]
    spread = np.array([0.01, 0.03])[:, None, None, None] * random.normal(size=(2, len(rows), 20, HORIZON))
    samples = [
        Samples(name, np.exp(one) + 0 * realised, rows)
        for name, one in zip(("temperature 1, top-p 1", "trading settings"), spread, strict=True)
    ]
    portfolios = {name: make_portfolio(days, gain, random) for name in signals.SIGNALS}
    daily = portfolios["mean"].daily
    others = {
        "equal_weight": ("the equal weight before its costs", daily["bench"]),
        "equal_weight_with_cost": (
            "the equal weight after its own costs",
            daily["bench"] - daily["bench_cost"],
        ),
    }
    return ReportInputs(
        universe="some hundred members of an index",
        source_notes=[
            "The names were chosen with hindsight: survivorship remains, and returns prove nothing."
        ],
        warnings=["the predictor was trained on days of the backtest."],
        benchmark="the equal weight of each day's members",
        signal="mean",
        horizon=HORIZON,
        lookback=LOOKBACK,
        seed=100,
        topk=50,
        n_drop=5,
        hold_thresh=5,
        account=1e8,
        open_cost=0.001,
        close_cost=0.0015,
        min_cost=5,
        deal_price="open",
        limit_threshold=0.095,
        forecast="5 samples at temperature 0.6",
        scored=28500,
        excluded={"too few bars": 310, "filled bar": 12},
        repaired_bars=153,
        model_digests={"tokenizer": "ab12", "predictor": "cd34"},
        ranking=rank(forecasts, scores, signal="mean", seeds=3, before=before),
        before=before,
        accuracy=measure(forecasts, samples),
        portfolios=portfolios,
        excesses=excesses(daily, others, HORIZON, YEAR),
        large_moves=make_moves(days),
        tear_sheet=tear_sheet(daily, *make_trades(daily), YEAR, LOOKBACK),
        periods_per_year=YEAR,
        random_net=pd.DataFrame(random.normal(0, 0.01, (days, 3)), daily.index),
        charts=[make_chart("N00"), make_chart("N01", BEST, seed=1)],
    )  # fmt: skip


@pytest.fixture(scope="module")
def inputs() -> ReportInputs:
    return make_inputs()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, inputs: ReportInputs) -> tuple[Path, dict[str, float]]:
    """The folder of a report, and its metrics."""
    folder = tmp_path_factory.mktemp("report")
    return folder, write_report(folder, inputs)


def test_first_lines_say_that_it_is_too_short_the_warnings_universe_days_costs_and_benchmark(inputs):
    opening = report_text(inputs).split("## ")[0]
    assert (
        opening.splitlines()[2] == "- Verdict: **Too short to tell** (57 days, 11 independent 5-day periods)"
    )
    assert opening.index(f"**T{NOTE[1:]}.**") < opening.index(
        "**Warning:** the predictor was trained on days"
    )
    assert opening.index("**Warning:**") < opening.index("Some hundred members of an index; traded from")
    assert "traded from 2010-05-28 to 2010-08-16 (57 sessions)" in opening
    assert "0.100 % to buy and 0.150 % to sell, at least 5 per order" in opening
    assert "benchmark: the equal weight of each day's members" in opening
    assert "survivorship remains" in opening


def test_every_section_with_figures_begins_with_the_note_has_it_once_and_none_when_the_period_is_long(inputs):
    sections = report_text(inputs).split("\n## ")[1:]
    noted = [section for section in sections if NOTE[1:] in section]
    for section in noted:
        assert section.split("\n\n")[1] == f"**T{NOTE[1:]}.**" and section.count("oo short") == 1
    assert [section.partition("\n")[0] for section in noted] == [
        "Portfolio against the benchmark", "Tear sheet", "Ranking: information coefficient",
        "Suspected splits and the largest moves", "Accuracy of the forecast closes",
    ]  # fmt: skip

    text = report_text(make_inputs(days=120))
    assert "too short" not in text and "note" not in text.lower()
    assert "The test covers 24 independent 5-day periods" in text


def test_a_random_ranking_shows_no_evidence_and_an_informed_one_beats_the_baselines():
    opening = report_text(make_inputs(days=120, seed=1)).split("## ")[0]
    assert "**No evidence of predictive value: the ranking is indistinguishable from chance:**" in opening
    assert "is indistinguishable from momentum of 20 days (difference" in opening

    inputs = make_inputs(days=120, strength=0.8, gain=0.004)
    opening = report_text(inputs).split("## ")[0]
    assert "**The ranking has predictive value:** the Rank IC of the mean signal" in opening
    assert "the model beats momentum of 20 days (" in opening and "random, mean of 3 seeds (" in opening
    assert "After costs the portfolio beats the equal weight before its costs (excess return" in opening
    assert "The forecast closes are more accurate than the last price" in opening

    opening = report_text(make_inputs(days=120, strength=-0.8, gain=-0.004)).split("## ")[0]
    assert "**The ranking is worse than chance:**" in opening
    assert "underperforms the equal weight before its costs" in opening
    assert "The forecast closes are less accurate than the last price" in opening


def test_the_configured_signal_is_marked_and_the_others_are_exploratory(inputs):
    lines = report_text(replace(inputs, signal="max")).splitlines()
    rows = [line for line in lines if line.endswith(("| configured |", "| exploratory |"))]
    assert [row.split("|")[1].strip() for row in rows] == ["**max**", "last", "mean", "min"] * 3
    assert [row.split("|")[-2].strip() for row in rows] == ["configured", *["exploratory"] * 3] * 3


def moves_section(inputs: ReportInputs) -> str:
    return report_text(inputs).split("## Suspected splits and the largest moves")[1].split("\n## ")[0]


def test_figures_stand_beside_those_without_suspected_splits_and_the_largest_moves_are_listed():
    inputs = make_inputs(days=120)
    ic, risk_figures = inputs.ranking.worths[TRADABLE]["mean"].rank_ic, inputs.portfolio.risk["with_cost"]
    text = moves_section(inputs)
    assert f"| Rank IC with the tradable return | {ic.mean:+.4f} | " in text and " | -0.0050 | " in text
    year = f"{risk_figures['annualised_return']:+.2%}".replace("%", " %")
    assert f"| annualised excess return, with costs | {year} |  | +3.21 % |  |" in text
    assert "3 bars from the first scored day on are suspected splits: bars that open near" in text
    assert (
        "Without them: 17 (day, instrument) pairs" in text
        and "the 1 position of the portfolio in sessions with such a bar" in text
    )
    assert "| 2010-06-01 | ARG | +2.100 % | yes |" in text and "| MFE | -0.400 % | no |" in text
    assert "The 2 largest moves," in text and "add up to +1.70 %; the excess return after costs" in text
    assert "is +5.00 %. They are 34 % of it." in text

    none = replace(inputs.large_moves, suspects=0, unnamed=8, largest=inputs.large_moves.largest[:0])
    text = moves_section(replace(inputs, large_moves=none))
    assert "No bars from the first scored day on are suspected splits" in text and "Without them" not in text
    assert "| Rank IC" not in text and "8 more in these bars are only counted" in text


def test_metrics_are_the_numbers_of_the_parts(written, inputs):
    folder, metrics = written
    assert all(type(value) is float and math.isfinite(value) for value in metrics.values())
    for prefix, target in (("", "tradable"), ("predicted_", "predicted")):
        worth = inputs.ranking.worths[target]["mean"]
        assert metrics[f"{prefix}rank_ic_mean"] == worth.rank_ic.mean
        assert metrics[f"{prefix}rank_ic_low"] == worth.rank_ic.low
        assert metrics[f"{prefix}rank_icir"] == worth.rank_icir and metrics[f"{prefix}icir"] == worth.icir
        assert metrics[f"{prefix}ic_t"] == worth.ic.t
    portfolio = inputs.portfolio
    for name in ("with_cost", "without_cost", "with_both_costs"):
        assert metrics[f"excess_return_annualised_{name}"] == portfolio.risk[name]["annualised_return"]
        assert metrics[f"excess_volatility_annualised_{name}"] == portfolio.risk[name]["volatility"]
        assert metrics[f"information_ratio_{name}"] == portfolio.risk[name]["information_ratio"]
        assert metrics[f"excess_max_drawdown_{name}"] == portfolio.risk[name]["max_drawdown"]
    assert metrics["portfolio_sharpe_with_cost"] == portfolio.risk["portfolio_with_cost"]["information_ratio"]
    assert metrics["test_days"] == 57 and metrics["independent_periods"] == 11 and metrics["ic_days"] == 57
    assert metrics["periods_per_year"] == YEAR and "251.6 periods make a year" in report_text(inputs)
    assert metrics["turnover_daily"] == pytest.approx(0.2)
    assert metrics["suspected_splits"] == 3 and metrics["largest_moves_share"] == 0.34
    assert metrics["rank_ic_without_suspects"] == inputs.large_moves.rank_ic.mean
    assert metrics["excess_return_annualised_without_suspects"] == 0.0321
    assert metrics["scored_pairs"] == 28500 and metrics["excluded_pairs"] == 322
    stored = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    assert stored["metrics"] == metrics and stored["too_short"] == NOTE
    assert set(stored["information_coefficient"]["tradable"]) == set(signals.SIGNALS)


FIGURES = (
    "calibration", "cumulative_return", "daily_ic", "drawdown", "examples", "group_returns", "monthly_ic",
    "rolling", "turnover",
)  # fmt: skip


def test_the_folder_holds_report_figures_and_ledger(written, inputs):
    folder, _ = written
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    figures = [f"figures/{name}.png" for name in FIGURES]
    assert names == sorted([
        "accuracy_by_instrument.csv", "accuracy_by_step.csv", "daily.csv", "daily_ic.csv", "forecasts.html",
        "metrics.json", "plotly.min.js", "ranking_baselines.csv", "report.html", "report.md", *figures,
    ])  # fmt: skip
    text = (folder / "report.md").read_text(encoding="utf-8")
    for name in figures:
        data = (folder / name).read_bytes()
        assert data[:8] == b"\x89PNG\r\n\x1a\n" and len(data) > 15_000
        assert f"]({name})" in text
    read = pd.read_csv(folder / "daily.csv", index_col="datetime", parse_dates=True)
    assert list(read.columns) == list(inputs.daily.columns) and read.index.equals(inputs.daily.index)
    np.testing.assert_allclose(read, inputs.daily, rtol=1e-9)


def test_the_html_page_needs_plotlys_script_beside_it_at_most_and_has_the_text_of_the_markdown(written):
    folder, _ = written
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert page.count('src="data:image/png;base64,') == len(FIGURES) == page.count("<img ")
    assert "http" not in page and "figures/" not in page
    assert re.findall(r'<script[^>]* src="([^"]*)"', page) == ["plotly.min.js"]
    assert page.count("<figure data-curve>") == page.count('<script type="application/json">') == 6
    plain = re.sub(r"<[^>]+>", "", page)
    for sentence in (
        "11 independent 5-day periods",
        "returns prove nothing",
        "Distribution of the sample paths",
    ):
        assert sentence in plain


def table_cells(markdown: str) -> list[str]:
    rows = [line for line in markdown.splitlines() if line.startswith("| ") and not line.startswith("| ---")]
    cells = [cell.strip() for row in rows for cell in re.split(r"(?<!\\)\|", row)[1:-1]]
    return [cell.replace("**", "").replace("`", "").replace("\\|", "|") for cell in cells]


def test_markdown_and_page_have_the_same_cells_in_the_same_order(tmp_path, inputs):
    inputs = replace(inputs, excluded={"a|b": 1, "c < d": 2})
    write_report(tmp_path, inputs)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    cells = [
        html.unescape(re.sub(r"<[^>]+>", "", cell))
        for cell in re.findall(r"<t[dh](?: [^>]*)?>(.*?)</t[dh]>", page)
    ]
    assert cells == table_cells((tmp_path / "report.md").read_text(encoding="utf-8"))
    assert len(cells) > 300 and "excluded: a|b" in cells and "excluded: c < d" in cells


def test_whatever_an_instrument_is_called_it_is_text_in_the_page(tmp_path, inputs):
    portfolio = replace(inputs.portfolio, stranded=("<b>", "<script>alert(1)</script>"))
    inputs = replace(
        inputs, portfolios={**inputs.portfolios, "mean": portfolio}, universe="<i>all</i>", warnings=["<u>"],
        model_digests={"<s>": "<em>"}, source_notes=["a & b"],
    )  # fmt: skip
    write_report(tmp_path, inputs)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count("<script>") == 1 and not re.search("<(b|i|u|s|em)>", page)
    for text in (
        "&lt;b&gt;, &lt;script&gt;",
        "&lt;i&gt;all",
        "&lt;u&gt;",
        "<code>&lt;em&gt;</code>",
        "a &amp; b",
    ):
        assert text in page
    assert "<b>, <script>" in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_a_registered_signal_is_in_tables_metrics_and_files_beside_the_built_in_ones(tmp_path):
    signals.register_signal("median", lambda closes: np.median(closes, axis=-1))
    try:
        inputs = replace(make_inputs(days=120), signal="median")
        found = write_report(tmp_path, inputs)
    finally:
        signals.SIGNALS.remove("median")
        del signals.REDUCTIONS["median"]
    assert {f"signal_{name}_rank_ic_mean" for name in ("last", "mean", "max", "min", "median")} <= set(found)
    assert found["rank_ic_mean"] == found["signal_median_rank_ic_mean"]
    lines = (tmp_path / "report.md").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "# Backtest of the median signal, 5 days ahead"
    assert sum(line.startswith("| **median** |") for line in lines) == 3
    assert "median" in set(pd.read_csv(tmp_path / "daily_ic.csv")["signal"])


def test_equal_inputs_give_equal_files_without_paths(tmp_path):
    for place in ("first", "second"):
        write_report(tmp_path / place, make_inputs())
    for file in (tmp_path / "first").rglob("*.*"):
        name = file.relative_to(tmp_path / "first")
        assert file.read_bytes() == (tmp_path / "second" / name).read_bytes(), name
    assert str(tmp_path) not in (tmp_path / "first" / "report.md").read_text(encoding="utf-8")


def test_numbers_that_do_not_exist_are_left_out_of_metrics_and_said_in_the_text(tmp_path):
    inputs = make_inputs(days=1)
    metrics = write_report(tmp_path, replace(inputs, limit_threshold=None))
    assert "rank_ic_low" not in metrics and "information_ratio_with_cost" not in metrics
    assert metrics["test_days"] == 1 and metrics["independent_periods"] == 0
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "n/a" in text and "no price limit" in text and "nan" not in text
    assert "NaN" not in (tmp_path / "metrics.json").read_text(encoding="utf-8")


def test_a_report_of_nothing_is_refused(tmp_path, inputs):
    with pytest.raises(UserError, match="backtest_signal is 'median', expected one of last, mean, max, min"):
        write_report(tmp_path, replace(inputs, signal="median"))
    empty = replace(inputs.portfolio, daily=inputs.daily.iloc[:0])
    with pytest.raises(UserError, match="no day to report"):
        write_report(tmp_path, replace(inputs, portfolios={"mean": empty}))
    assert list(tmp_path.iterdir()) == []


def test_drawing_leaves_pyplot_alone():
    code = "import sys, kronos.report.writer; print('matplotlib.pyplot' in sys.modules)"
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_an_annual_figure_of_bars_within_a_day_lies_in_its_own_interval():
    inputs = make_inputs(days=120)
    inputs = replace(inputs, excesses=[replace(one, periods=238 * 48) for one in inputs.excesses])
    said = re.search(
        r"\(excess return ([+-][\d.]+) % per year, ([+-][\d.]+) % to ([+-][\d.]+) %\)", report_text(inputs)
    )
    assert said is not None
    value, low, high = map(float, said.groups())
    assert low < value < high


def test_days_of_too_few_instruments_are_reported_as_not_evaluable():
    inputs = make_inputs(days=120)
    worths = inputs.ranking.worths
    nothing = replace(worths[TRADABLE]["mean"], rank_ic=estimate(pd.Series([np.nan] * 120), HORIZON))
    ranking = replace(inputs.ranking, worths={**worths, TRADABLE: {**worths[TRADABLE], "mean": nothing}})
    assert (
        "The ranking cannot be evaluated:** no day has scores and returns of at least 5 instruments"
        in report_text(replace(inputs, ranking=ranking))
    )


def test_the_days_and_instruments_of_the_ic_are_those_of_the_tradable_return(inputs):
    primary, found = inputs.ranking.worths[TRADABLE]["mean"], metrics(inputs)
    assert (found["ic_days"], found["ic_names_mean"]) == (primary.rank_ic.days, primary.names)


def test_the_report_says_how_often_its_days_were_looked_at_before_and_what_that_does(inputs):
    def opening(looks: int) -> str:
        return " ".join(report_text(replace(inputs, looks_before=looks)).split("## ")[0].split())

    assert "These days had not been looked at before on this machine." in opening(0)
    assert (
        "These days were looked at once before with another model or other settings: with 2 looks the chance that at "
        "least one of them shows a significant result without any effect is up to 10 %."
    ) in opening(1)
    assert (
        "These days were looked at 7 times before with other models or settings: with 8 looks the chance that at "
        "least one of them shows a significant result without any effect is up to 34 %."
    ) in opening(7)
    assert metrics(replace(inputs, looks_before=7))["looks_before"] == 7
