"""Reports of every kind on made figures, with every section and every clause between them, for tests."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from made_charts import make_chart
from test_report import HORIZON, YEAR, make_inputs, make_portfolio

from kronos.evaluation.coverage import BANDS, REGIMES, Coverage
from kronos.evaluation.departures import Departures
from kronos.evaluation.forecast_evaluation import Before, Member
from kronos.evaluation.held_out import HeldOut
from kronos.evaluation.portfolio import excesses
from kronos.evaluation.ranking import Comparison
from kronos.evaluation.statistics import estimate
from kronos.evaluation.tasks import Score
from kronos.evaluation.time_series import Ledger, LossComparison, TimeSeries
from kronos.report.content import ReportInputs
from kronos.report.forecast_chart import ASKED, BEST, LATEST, OTHER_DAY, TYPICAL, WORST
from kronos.report.leaderboard import METRICS, Entry, Leaderboard
from kronos.report.walk_forward import Fold

SHARES = {"share": 0.87, "low": 0.81, "high": 0.93}


def make_coverage(width: float) -> Coverage:
    steps = [{"band": band, "step": step, **SHARES} for band in BANDS for step in range(HORIZON + 1)]
    regimes = [{"band": band, "regime": name, **SHARES} for band in BANDS for name in REGIMES]
    return Coverage(
        pd.DataFrame(steps), pd.DataFrame(regimes), {"N00": 0.8, "N01": 0.9}, np.full(20, 0.05), width, width / 9,
        57, 98,
    )  # fmt: skip


def make_verdict(better: bool, note: str) -> TimeSeries:
    random = np.random.default_rng(0)
    days = pd.bdate_range("2010-05-28", periods=57, name="datetime")
    names = [
        ("last", "last price"), ("drift", "drift of 20 bars"), ("seasonal", "seasonal naive of 5 bars"),
        ("historical", "historical volatility of 20 bars"), ("ewma", "EWMA volatility, decay 0.94"),
    ]  # fmt: skip
    errors = [
        LossComparison(key, name, 0.02, 0.01, 0.03, 2.5, 0.012 if better else 0.3) for key, name in names[:3]
    ]
    scores = [
        LossComparison(key, name, -0.02, -0.03, 0.01, -0.5, 0.6, (-0.04, 0.02)) for key, name in names[3:]
    ]
    daily = pd.DataFrame({"position": 1.0, "gross": 0.0, "cost": 0.0, "funding": 0.0, "net": 0.001}, days)
    over = estimate(random.normal(0, 0.01, 57), HORIZON)
    ledgers = {name: Ledger(daily, 0.11, 1.2, -0.05, over) for name in ("long_flat", "long_short", "hold")}
    return TimeSeries(errors, scores, estimate(random.normal(0, 0.1, 57), HORIZON), ledgers, note)


def make_full(days: int = 57, **more: Any) -> ReportInputs:
    """A report with all sections: bands, members, departures, test losses, warnings and notes as stages make them."""
    plain = make_inputs(days, **more)
    random = np.random.default_rng(7)
    before = Before("model before training (random weights)", note="forecast on every 5th day")
    gain = pd.DataFrame({"model": random.normal(0.2, 0.1, days), "baseline": 0.0})
    added = [
        Comparison(
            key, name, estimate(gain["baseline"], HORIZON), estimate(sign * gain["model"], HORIZON), gain,
        )
        for key, name, sign in (
            ("linear", "linear regression on the last 19 returns", -1),
            ("lightgbm", "LightGBM on Qlib's Alpha158 features", 1),
            ("before", before.name, 0),
        )
    ]  # fmt: skip
    member = Member("first", added[0], make_coverage(0.08))
    charts = [
        make_chart(name, kind, seed=place)
        for place, (name, kind) in enumerate(
            [
                ("N00", "random"),
                ("N01", BEST),
                ("N02", WORST),
                ("N03", TYPICAL),
                ("N04", ASKED),
                ("N04", OTHER_DAY),
            ]
        )
    ]
    index = plain.daily.index
    left = {f"N{place:02d}": index[place] for place in range(7)}
    return replace(
        plain,
        universe="csi300: 320 instruments that were members at some time, each scored only on its days of "
        "membership",
        source_notes=[
            "Membership is point in time, as the file of symbols states it: the bars are free of survivorship bias "
            "as far as that file is complete and the source has those that left the market.",
            "Bars of 5min: a day or session of this report is one bar, an annual figure is per year.",
        ],
        warnings=[
            "the predictor was trained on days of the backtest: 2010-06-01 to 2010-06-30 lie within 2010-01-04 to "
            "2010-06-30.",
            "the tokenizer was chosen by validation on days after the backtest (2011-01-04 to 2011-03-31).",
            "the predictor comes from NeoQuasar/Kronos-small: the days that it was trained on are not known.",
        ],
        benchmark=(
            "the equal weight of each day's members, rebalanced daily (the index SH000300 is not among the bars)"
        ),
        forecast="5 sample paths at temperature 0.6, top-p 0.9, top-k off",
        excluded={"fewer than 20 bars in a row": 310, "no bar, filled": 12, "not a member": 5},
        ranking=replace(plain.ranking, comparisons=[*plain.ranking.comparisons, *added]),
        before=before, coverages={"raw": make_coverage(0.1), "calibrated": make_coverage(0.12)},
        members=[member, Member("second", None, None)],
        test_losses={"test_loss_tokenizer": 0.0123, "test_loss_predictor": 2.345, "test_windows": 4096.0},
        forgetting={
            "since": "2009-01-05", "older_windows": 1234.0, "older_loss_before": 2.1, "older_loss_after": 2.25,
            "val_loss_before": 2.4, "val_loss_after": 2.2,
        },
        charts=charts,
        departures=Departures(left, -0.3, (0.0123, 0.0101), 0.012), looks_before=3, limit_threshold="auto",
    )  # fmt: skip


def make_variants() -> dict[str, ReportInputs]:
    """Backtests that differ in their verdict and in the clauses that they have."""
    full = make_full()
    long = make_full(days=240, strength=0.2, gain=0.01)
    loss = excesses(make_portfolio(240, -0.01, np.random.default_rng(3)).daily,
                    {"equal_weight": ("the equal weight before its costs", long.daily["bench"])}, HORIZON,
                    YEAR)  # fmt: skip
    unknown = float("nan")
    worth = full.ranking.worths
    blind = {
        target: {
            name: replace(one, rank_ic=estimate([unknown] * 3, HORIZON)) for name, one in signals.items()
        }
        for target, signals in worth.items()
    }
    few = replace(full.large_moves, suspects=0, unnamed=2, largest=full.large_moves.largest.iloc[:0])
    one = replace(full.large_moves, suspects=1, held=1, unnamed=0)
    gap = estimate(np.random.default_rng(5).normal(-0.01, 0.05, 240), HORIZON)
    apart = HeldOut(
        names=("N00", "N01"), maybe_seen=True, seen=50, rank_ic_seen=gap, rank_ic_unseen=gap, rank_ic_difference=gap,
        skill_seen=(0.1, 0.05, 0.15), skill_unseen=(0.02, -0.1, 0.14), skill_difference=gap,
    )  # fmt: skip
    return {
        "short": full,
        "long": replace(long, held_out=apart),
        "chance": make_full(days=240, seed=4),
        "loss": replace(
            long, excesses=loss, limit_threshold=None, looks_before=1, large_moves=one, charts=(),
            accuracy=replace(long.accuracy, skill=(-0.2, -0.3, -0.1)),
        ),
        "better_closes": replace(
            long, accuracy=replace(long.accuracy, skill=(0.2, 0.1, 0.3)), members=(), random_net=None
        ),
        "uncalibrated": replace(
            full, coverages={"raw": make_coverage(0.1)}, large_moves=few, looks_before=0, excesses=(), warnings=(),
            calibration_note="no calibration of the bands: there is none: run  python -m kronos calibrate",
            departures=Departures({"N00": full.daily.index[3]}, None, (0.01, 0.02), 0.0), limit_threshold=0.095,
        ),
        "blind": replace(long, ranking=replace(long.ranking, worths=blind)),
        "asset": replace(long, time_series=make_verdict(True, "")),
        "asset_not_better": replace(
            long,
            time_series=make_verdict(
                False, "no GARCH(1, 1): the package arch is not installed (pip install 'kronos-pipeline[garch]')"
            ),
        ),
        "asset_short": replace(full, time_series=make_verdict(False, "")),
    }  # fmt: skip


def make_board() -> Leaderboard:
    random = np.random.default_rng(2)
    days = pd.bdate_range("2024-01-02", periods=120, name="datetime")
    entries = []
    for place, name in enumerate(("trained", "before fine-tuning", "random walk", "garch")):
        daily = pd.Series(random.normal(0.02 * (2 - place), 0.05, 120), days)
        scores = {
            one.key: Score(float(daily.mean()), -0.01, 0.03, daily)
            for one in METRICS[: 11 - 3 * (place == 3)]
        }
        facts = {"kurtosis": Score(3.2, 2.9, 3.6), "leverage": Score(-0.1, -0.2, 0.0), "large": Score(0.01)}
        entries.append(Entry(name, scores, facts if place < 3 else {}))
    return Leaderboard(
        entries=entries, real=entries[0].facts, horizon=5, lookback=20, bars=30, forecasts=5200, instruments=52,
        days=120, first="2024-01-02", last="2024-06-17", signal="mean", sampled=400, series=200,
        universe="52 instruments",
        notes=[
            "the weights before training: the predictor's weights have no record of what they were trained from.",
            "No synthetic bars: the range has too few contexts that 30 bars follow.",
        ],
    )  # fmt: skip


def make_folds(days: int = 60) -> list[Fold]:
    found = []
    for place in range(3):
        random = np.random.default_rng(place)
        index = pd.bdate_range("2024-01-02", periods=3 * days, name="datetime")[
            place * days : (place + 1) * days
        ]
        daily = pd.DataFrame({"return": random.normal(0, 0.01, days), "cost": 0.0002, "bench": 0.0}, index)
        ic = pd.Series(random.normal(0.05, 0.1, days), index)
        beside = pd.DataFrame({"model": ic, "baseline": random.normal(0, 0.1, days)})
        keys = {"momentum": beside, "lightgbm": beside, "before": beside.iloc[::5]}
        held = {"raw": 0.8, "calibrated": 0.9, "series": 100.0}
        found.append(Fold(f"fold {place + 1}", "2020-01-02 to 2023-06-30", daily, ic, keys, held))
    return found


def make_risks() -> pd.DataFrame:
    """Figures of the latest forecasts of four instruments, one of them unknown."""
    rows = [
        {"instrument": f"N{place:02d}", "as_of": pd.Timestamp("2024-03-01"), "datetime": pd.Timestamp("2024-03-08"),
         "step": 5, "expected_return": 0.01 * place, "median": 0.01 * place - 0.001, "rise_probability": 0.5,
         "var_95": 0.03, "es_95": 0.04, "var_99": 0.05, "es_99": 0.06,
         "drawdown_probability": float("nan") if place == 3 else 0.2}
        for place in range(4)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def latest() -> list[Any]:
    return [make_chart(f"N{place:02d}", LATEST, seed=place) for place in range(3)]


def pages(folder: Path) -> dict[str, str]:
    """The text of every page in a folder."""
    return {
        path.name: path.read_text(encoding="utf-8")
        for path in sorted(folder.iterdir())
        if path.suffix in (".md", ".html")
    }
