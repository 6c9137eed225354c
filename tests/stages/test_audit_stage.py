"""The audit stage: from stored bars to its report and run, reuse, and what it refuses."""

import json
from pathlib import Path

import numpy as np
import pytest

from kronos import latest
from kronos.__main__ import main
from kronos.config.loading import load_config
from kronos.evaluation import signals
from kronos.evaluation.tradability import trading_mask
from kronos.stages.audit import market_of
from kronos.stages.inputs import backtest_points, resolve_splits, stored_bars, wide_bars

SMALL = ["audit", "--audit-seeds", "20", "--backtest-max-instruments", "20"]
FOLDER = Path("outputs/audit")
CONFIG = Path(__file__).resolve().parents[2] / "experiments" / "sample.json"


@pytest.mark.slow
def test_the_stage_writes_its_page_and_run_and_is_reused(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(SMALL) == 0
    said = capsys.readouterr().out
    assert "a Rank IC of 0.02 is found in" in said and "truth inside" in said
    assert "outputs/audit/audit.md (and audit.html)" in said
    stored = json.loads((FOLDER / "audit.json").read_text())
    assert stored["setting"]["seeds"] == 20 and stored["setting"]["names"] <= 20
    assert {case["covered"]["of"] for case in stored["cases"]} == {20}
    run = latest("audit")
    assert run.figures == pytest.approx(stored["metrics"]) and run.params["audit_seeds"] == "20"
    assert run.file("audit.md").read_text() == (FOLDER / "audit.md").read_text()
    assert run.tags["kronos.data_digest"] == stored_bars(run.config).digest

    assert main([*SMALL, "--audit-path", "elsewhere"]) == 0
    assert "no finished output" in capsys.readouterr().out
    assert (Path("elsewhere") / "audit.json").read_bytes() == (FOLDER / "audit.json").read_bytes()
    assert main(SMALL) == 0 and "audit: reused" in capsys.readouterr().out
    english = {path.name: path.read_bytes() for path in FOLDER.iterdir()}
    assert main([*SMALL, "--report-language", "zh"]) == 0
    said = capsys.readouterr().out
    assert "audit: reused" in said and "audit: report written again, since report_language=zh" in said
    assert '<html lang="zh-CN">' in (FOLDER / "audit.html").read_text(encoding="utf-8")
    assert (FOLDER / "audit.json").read_bytes() == english["audit.json"]
    assert main(SMALL) == 0 and "audit: report written again" in capsys.readouterr().out
    assert {path.name: path.read_bytes() for path in FOLDER.iterdir()} == english
    assert main([*SMALL, "--seed", "7"]) == 0 and "seed was 100, is 7" in capsys.readouterr().out
    assert json.loads((FOLDER / "audit.json").read_text())["cases"] != stored["cases"]


def test_the_pairs_and_returns_are_those_of_a_backtest(store: Path) -> None:
    config, _ = load_config(None, {})
    bars = stored_bars(config)
    splits = resolve_splits(config, bars)
    points, market = backtest_points(config, bars, splits), market_of(config, bars, splits)
    assert market.scored.sum() == len(points)
    whole = wide_bars(bars, 0)
    mask = trading_mask(bars, whole, "open", config.backtest.backtest_limit_threshold)
    returns = signals.tradable_returns(whole["open"], whole["close"], config.data.predict_window, mask)
    found = market.target(config.data.predict_window).stack().dropna()
    days = np.unique(points.session)
    assert set(found.index.get_level_values(0)) <= set(bars.sessions[days].astype("datetime64[ns]"))
    np.testing.assert_allclose(found, returns.stack().reindex(found.index), rtol=1e-12)
    assert len(found) > 20_000


def test_a_range_without_an_interval_is_refused_in_one_line(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--config-path", str(CONFIG), "--backtest-time-range", "2010-08-04,2010-08-20"]
    assert main([*SMALL, *given]) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert (
        "too few for an interval" in line and "lengthen backtest_time_range or shorten predict_window" in line
    )
    assert not FOLDER.exists()


def test_bars_that_are_not_there_are_refused_with_what_to_run(
    in_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(SMALL) == 2
    assert "no store at outputs/data" in capsys.readouterr().err
