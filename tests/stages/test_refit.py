"""The refit of earlier weights: what it begins from, learns, forgets and says; what it refuses."""

from pathlib import Path
from typing import Any

import pytest
from planted import planted_store

from kronos import load_run
from kronos.__main__ import main
from kronos.config.loading import load_config
from kronos.stages import STAGES
from kronos.stages.inputs import resolve_splits, stored_bars
from kronos.stages.refit import with_ranges
from kronos.tracking.model_registry import champion_of, versions_of
from kronos.utils.errors import UserError
from kronos.utils.files import RECORD, read_json

CONFIG = str(Path(__file__).resolve().parents[2] / "experiments" / "planted.json")
TURN, SINCE = 300, "2021-03-15"  # the pattern has the other sign from session 300, 2021-03-12, on
OLD = {
    "train_time_range": "2020-01-02,2020-11-30", "val_time_range": "2020-11-02,2021-01-13",
    "test_time_range": "2020-12-16,2021-03-10", "backtest_time_range": "2021-01-19,2021-03-10",
}  # fmt: skip
NEW = {
    "train_time_range": "2020-01-02,2021-09-30", "val_time_range": "2021-09-02,2021-11-26",
    "test_time_range": "2021-11-02,2022-02-28", "backtest_time_range": "2021-12-01,2022-02-28",
}  # fmt: skip
QUICK = {
    "skip_calibrate": "true", "baseline_lightgbm": "false", "baseline_seeds": "1", "evaluation_series": "50",
    "inference_sample_count": "2", "backtest_max_instruments": "20", "epochs": "2", "n_train_iter": "2500",
    "n_val_iter": "400",
}  # fmt: skip


def run(stage: str, **fields: str) -> int:
    given = {"tracking_uri": f"sqlite:///{Path.cwd()}/mlflow.db", **QUICK, **fields}
    flags = [part for name, text in given.items() for part in ("--" + name.replace("_", "-"), text)]
    return main([stage, "--config-path", CONFIG, *flags])


def summary() -> dict[str, Any]:
    found: dict[str, Any] = read_json(Path("outputs/models/finetune_predictor_demo") / RECORD)
    return found


@pytest.mark.slow
def test_a_champion_is_refit_tested_and_challenged_and_forgets_less_with_replay(
    in_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    planted_store(Path("outputs/data"), turn=TURN)
    uri, skip = f"sqlite:///{Path.cwd()}/mlflow.db", {"skip_data_process": "true"}
    assert run("pipeline", **skip, **OLD, registered_model_name="kronos") == 0
    champion, before = champion_of("kronos", uri), summary()
    assert champion is not None and champion.number == 1
    assert run("refit", **skip, **NEW, **{"from": "models:/kronos@champion"}, since=SINCE) == 0
    said, after = capsys.readouterr().out, summary()
    assert after["started_from"] == {"address": "models:/kronos/1", "digest": before["digest"]}
    assert after["made_from"]["inputs"]["tokenizer"] == before["made_from"]["inputs"]["tokenizer"]
    metrics = after["metrics"]
    assert metrics["best_val_loss"] < after["curve"][0]["val_loss"] - 0.01  # the new pattern is learnt
    assert metrics["older_loss_after"] > metrics["older_loss_before"] + 0.01  # and the old one forgotten
    new = versions_of("kronos", uri)[1]
    assert new.tag("seen_until") == "2021-11-26" and new.tag("decision") in ("promoted", "refused")
    assert new.tag("champion_version") == "1" and float(new.tag("difference")) > 0
    refit = load_run(load_run(new.tag("backtest_run"), uri).parent or "", uri)
    assert refit.metrics["loss/older_after"] == metrics["older_loss_after"]
    text = f"from {metrics['older_loss_before']:.5g} to {metrics['older_loss_after']:.5g}"
    assert (
        text in said and text in Path("outputs/backtest_results/finetune_backtest_demo/report.md").read_text()
    )

    replay = {"from": "models:/kronos/1", "skip_backtest": "true"}
    assert run("refit", **skip, **NEW, **replay, since=SINCE, replay_fraction="0.5") == 0
    replayed = summary()["metrics"]
    assert replayed["older_loss_before"] == metrics["older_loss_before"]
    assert replayed["older_loss_after"] < metrics["older_loss_after"] - 0.01
    assert replayed["best_val_loss"] < after["curve"][0]["val_loss"]


def test_ranges_that_are_not_given_lie_after_the_first_new_day(in_folder: Path) -> None:
    planted_store(Path("outputs/data"))
    given = {f"{name}_time_range": None for name in ("train", "val", "test", "backtest")}
    config = load_config(CONFIG)[0].replace(**given, since=SINCE)
    store = stored_bars(config)
    ranges = resolve_splits(with_ranges(config, store), store)
    assert ranges.train[0].isoformat() == "2020-01-02" and ranges.train[1].isoformat() == "2021-11-24"
    assert ranges.train[1] < ranges.backtest[0] and ranges.val[1] < ranges.backtest[0]
    assert ranges.backtest[1].isoformat() == "2022-05-18"
    for day in ("2019-12-31", "2020-01-02", "2022-05-19"):
        with pytest.raises(UserError, match=rf"since {day} is not within the bars, which are of 2020-01-02"):
            with_ranges(config.replace(since=day), store)


def test_the_weights_of_a_folder_bring_their_tokenizer(weights: Path, in_folder: Path) -> None:
    best, own = (in_folder / "trained" / "checkpoints" / name for name in ("best_model", "tokenizer"))
    best.mkdir(parents=True), own.mkdir()
    config = load_config(CONFIG)[0].replace(since=SINCE)
    for given in (in_folder / "trained", best):
        found = STAGES["refit"].resolved(config.replace(refit_from=str(given)))
        assert found.pretrained_predictor_path == str(best) and found.pretrained_tokenizer_path == str(own)
        assert found.freeze_tokenizer and found.registered_model_name is None
    with pytest.raises(UserError, match="there is no tokenizer beside it"):
        STAGES["refit"].resolved(config.replace(refit_from=str(weights / "predictor")))


@pytest.mark.slow
def test_a_refit_without_a_day_or_a_champion_is_refused_in_one_line(
    store: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = f"sqlite:///{Path.cwd()}/mlflow.db"
    assert main(["data", "--tracking-uri", uri]) == 0  # makes the database
    capsys.readouterr()
    for flags, said in [
        ([], "refit needs the first day of the new windows: give --since"),
        (["--since", "2010-01-04"], "refit needs weights to begin from: give --from models:/NAME@champion"),
        (["--since", "2010-01-04", "--from", "models:/kronos@champion"], "no version of kronos has the alias"),
        (["--since", "2010-01-04", "--registered-model-name", "mine"], "no version of mine has the alias"),
        (["--since", "2010-01-04", "--from", "x", "--predictor-path", "y"], "give --from instead of tokenizer_path"),
        (
            ["--since", "2031-01-01", "--from", str(weights / "predictor"), "--skip-data-process",
             "--pretrained-tokenizer-path", str(weights / "tokenizer")],
            "since 2031-01-01 is not within the bars, which are of 2009-08-21..2010-08-20",
        ),
    ]:  # fmt: skip
        assert main(["refit", "--tracking-uri", uri, *flags]) == 2
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1 and "Traceback" not in error
