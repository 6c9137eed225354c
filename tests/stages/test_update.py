"""The update stage on a service on loopback: bars topped up, forecasts kept, and scored when their days have come."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sina_server import Service, series, serve

from kronos import newest
from kronos.__main__ import main
from kronos.data.sources import base, living, polite, sina
from kronos.evaluation.signals import daily_ic
from kronos.tracking.client import connect

pytestmark = pytest.mark.slow

SYMBOLS = [f"sh60000{number}" for number in range(6)]
DAYS = ("2024-06-25", "2024-06-26", "2024-06-27", "2024-06-28")
LOG, CARD = Path("outputs/forecast_log/forecast_log.parquet"), Path("outputs/forecast_log/scorecard.json")
Update = Callable[..., int]


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    monkeypatch.setattr(polite, "PAUSE", 0.0)
    with serve(Service()) as running:
        yield running


@pytest.fixture
def update(service: Service, weights: Path, in_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Update:
    def run(day: str, *more: str) -> int:
        moment = pd.Timestamp(f"{day} 18:00").tz_localize("Asia/Shanghai").tz_convert("UTC")
        for module in (base, living, sina):
            monkeypatch.setattr(module, "now", lambda: moment)
        service.bars = {symbol: series(symbol, until=day) for symbol in SYMBOLS}
        fields = {
            "data-source": "sina", "sina-symbols": ",".join(SYMBOLS), "sina-url": service.url,
            "sina-factor-url": "none", "dataset-begin-time": "2024-01-02", "lookback-window": 10,
            "predict-window": 2, "train-time-range": "2024-01-02,2024-03-14",
            "val-time-range": "2024-03-15,2024-04-30", "test-time-range": "2024-05-06,2024-06-21",
            "backtest-time-range": "2024-06-03,2024-06-21", "inference-sample-count": 4,
            "tokenizer-path": weights / "tokenizer", "predictor-path": weights / "predictor", "bands": "raw",
        }  # fmt: skip
        flags = [text for field, value in fields.items() for text in (f"--{field}", str(value))]
        return main(["update", *flags, *more])

    return run


def test_forecasts_of_days_running_are_kept_and_scored_as_a_computation_by_hand(
    update: Update, service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    cards = {}
    for count, day in enumerate(DAYS, start=1):
        assert update(day, "--forecast") == 0
        log = pd.read_parquet(LOG)
        assert len(log) == count * len(SYMBOLS) * 2 and log["as_of"].max() == pd.Timestamp(day)
        (cards[day],) = json.loads(CARD.read_text()).values()
        asked, files = len(service.asked), {path: path.read_bytes() for path in (LOG, CARD)}
        assert update(day, "--forecast") == 0  # again on the same day
        assert len(service.asked) == asked and files == {path: path.read_bytes() for path in (LOG, CARD)}
    out = capsys.readouterr().out
    assert (
        "no forecast has come to its end yet, 6 are waiting" in out and "2 days, 12 forecasts scored" in out
    )

    (card,) = json.loads(CARD.read_text()).values()
    closes = pd.DataFrame({
        symbol.upper(): pd.Series({row["day"]: float(row["close"]) for row in series(symbol)}) for symbol in SYMBOLS
    })  # fmt: skip
    closes.index = pd.to_datetime(closes.index)
    inside, ranks, error, naive = [], [], [], []
    for day in DAYS[:2]:
        place = closes.index.get_loc(pd.Timestamp(day))
        own = log[log["as_of"] == day]
        held, score, truth = [], {}, {}
        for name in closes:
            rows, ahead = own[own["instrument"] == name], closes[name].iloc[place + 1 : place + 3].to_numpy()
            held += list((rows["low"] <= ahead) & (ahead <= rows["high"]))
            score[name] = rows["close"].to_numpy(np.float64).mean() / closes[name].iloc[place] - 1
            truth[name] = ahead.mean() / closes[name].iloc[place] - 1
        inside.append(np.mean(held))
        ranks.append(daily_ic(pd.DataFrame([score]), pd.DataFrame([truth]))["rank_ic"].iloc[0])
        error.append(np.mean([abs(score[name] - truth[name]) for name in closes]))
        naive.append(np.mean(np.abs(list(truth.values()))))
    assert (card["days"], card["forecasts"], card["waiting"]) == (2, 12, 12)
    assert card["coverage"] == pytest.approx(np.mean(inside))
    assert card["rank_ic"] == pytest.approx(np.mean(ranks))
    assert card["skill"] == pytest.approx(1 - np.mean(error) / np.mean(naive), rel=1e-5)
    (run,) = newest("update", 1)
    assert run.metrics["live/coverage_90"] == pytest.approx(card["coverage"])

    # One run has grown with the log: a step for each day, with the figures that the scorecard had on it.
    client = connect(None)
    (live,) = newest("live", 20)
    assert len(newest("update", 20)) == 2 * len(DAYS) and live.parent is None and live.status == "FINISHED"
    steps = {pd.Timestamp(day).toordinal(): day for day in DAYS}
    for name in card:
        metric = f"live/{name.replace('coverage', 'coverage_90')}"
        assert {point.step: point.value for point in client.get_metric_history(live.id, metric)} == {
            step: cards[day][name] for step, day in steps.items() if name in cards[day]
        }
        assert len(client.get_metric_history(live.id, metric)) == sum(name in one for one in cards.values())
    assert live.name.startswith("live · predictor ") and live.name.endswith("since 2024-06-25")
    note = live.tags["mlflow.note.content"]
    assert "no change" in note and "2 days, 12 forecasts scored" in note and "the last one 2024-06-28" in note


def test_a_dry_run_asks_nothing_and_says_what_is_due(
    update: Update, service: Service, in_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert update(DAYS[0], "--dry-run") == 0
    out = capsys.readouterr().out
    assert "SH600000: nothing is cached, would be asked for bars to 2024-06-25" in out
    assert "6 symbols would be asked for" in out and not service.asked and not list(in_folder.iterdir())
    assert update(DAYS[0]) == 0 and not LOG.exists()
    asked = len(service.asked)
    capsys.readouterr()
    assert update(DAYS[0], "--dry-run") == 0 and update(DAYS[1], "--dry-run") == 0
    out = capsys.readouterr().out
    assert "0 symbols would be asked for" in out and "cached to 2024-06-25" in out
    assert len(service.asked) == asked
    assert main(["update", "--dry-run", "--data-source", "sample"]) == 2
    assert "is no source of today" in capsys.readouterr().err
