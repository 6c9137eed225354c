"""A model's way through the registry: pipelines register versions, the better one is the champion and is served."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from planted import planted_store
from serving import ask, serving

from kronos import latest, load_run
from kronos.__main__ import main
from kronos.config.loading import load_config
from kronos.data.store import open_store
from kronos.stages import promote as champion
from kronos.stages.inputs import backtest_points, resolve_splits
from kronos.stages.looks import read_looks
from kronos.tracking.model_registry import champion_of, versions_of

pytestmark = pytest.mark.slow
CONFIG = Path(__file__).resolve().parents[2] / "experiments" / "planted.json"
POOR = ["--n-train-iter", "64", "--n-val-iter", "64"]
QUICK = [
    "--calibration-series",
    "100",
    "--calibration-sample-count",
    "10",
    "--epochs",
    "1",
    "--baseline-lightgbm",
    "false",
    "--baseline-seeds",
    "2",
    "--evaluation-series",
    "50",
    "--inference-sample-count",
    "5",
]
AS_OF = "2022-03-15"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The working directory of the whole story, with planted bars."""
    folder = tmp_path_factory.mktemp("registry")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        planted_store(folder / "outputs" / "data")
        yield folder


def address() -> str:
    return f"sqlite:///{Path.cwd()}/mlflow.db"


def run(stage: str, *arguments: str) -> int:
    return main([stage, "--config-path", str(CONFIG), "--tracking-uri", address(), *QUICK, *arguments])


def pipeline(*arguments: str) -> int:
    return run("pipeline", "--skip-data-process", "--registered-model-name", "kronos", *arguments)


def tags(number: int) -> dict[str, str]:
    version = versions_of("kronos", address())[number - 1]
    return {name.removeprefix("kronos."): text for name, text in version.tags.items()}


def number_of_champion() -> int:
    found = champion_of("kronos", address())
    assert found is not None
    return found.number


def test_versions_are_registered_and_the_better_one_is_the_champion(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert pipeline(*POOR) == 0
    assert tags(1)["decision"] == "first" and number_of_champion() == 1

    assert pipeline() == 0
    better = tags(2)
    assert better["decision"] == "promoted" and number_of_champion() == 2
    assert (
        0 < float(better["difference_low"]) < float(better["difference"]) < float(better["difference_high"])
    )
    assert (better["champion_version"], better["windows_used"], better["days_used"]) == ("1", "1", "1")
    assert better["seen_until"] == "2021-10-13" and int(better["periods"]) >= 20
    assert (better["challenge"], better["looks_before"]) == ("1", "1") and float(better["p"]) < float(
        better["level"]
    )
    parent = load_run(load_run(better["backtest_run"], address()).parent or "", address())
    assert (
        parent.tags["kronos.registered_version"] == "kronos/2"
        and parent.tags["kronos.decision"] == "promoted"
    )

    capsys.readouterr()
    assert pipeline() == 0
    said = capsys.readouterr().out
    assert "models:/kronos/2 is this backtest's already (promoted)" in said and "runs, since" not in said
    assert len(versions_of("kronos", address())) == 2

    assert pipeline("--reuse", "false") == 0  # the same weights once more
    assert (
        tags(3)["decision"] == "refused"
        and "not distinguishable from version 2" in tags(3)["decision_reason"]
    )
    assert float(tags(3)["difference"]) == 0 and tags(3)["windows_used"] == "2"
    assert tags(3)["predictor_digest"] == better["predictor_digest"]

    assert pipeline(*POOR) == 0
    assert tags(4)["decision"] == "refused" and "worse than version 2" in tags(4)["decision_reason"]
    assert (tags(4)["windows_used"], number_of_champion()) == ("3", 2)
    assert pipeline(*POOR, "--promote", "force") == 0
    assert tags(4)["decision"] == "forced" and number_of_champion() == 4
    assert "worse than version 2" in tags(4)["decision_reason"]
    assert pipeline("--promote", "never") == 0
    assert tags(5)["decision"] == "not asked" and number_of_champion() == 4
    kinds = [one.kind for one in read_looks(Path("outputs/looks.jsonl"), pytest.fail)]
    assert kinds == ["backtest", "backtest", "challenge", "challenge"]  # equal weights do not count again


def test_weights_of_unknown_origin_are_registered_but_not_promoted(folder: Path, weights: Path) -> None:
    given = ["--tokenizer-path", str(weights / "tokenizer"), "--predictor-path", str(weights / "predictor")]
    before = number_of_champion()
    assert run("backtest", "--registered-model-name", "kronos", *given) == 0
    last = versions_of("kronos", address())[-1]
    assert last.tag("decision") == "refused" and last.tag("seen_until") == "unknown"
    assert "the folder tokenizer has seen is not known: it has no record" in last.tag("decision_reason")
    assert number_of_champion() == before


def test_a_champion_with_other_windows_forecasts_the_new_ones_as_its_backtest_did(folder: Path) -> None:
    given = {"registered_model_name": "kronos", "tracking_uri": address()}
    config, _ = load_config(str(CONFIG), given)
    store = open_store(config.dataset_path)
    present = versions_of("kronos", address())[1]
    splits = resolve_splits(config, store)
    new = champion.Candidate(config, store, splits, None, None, champion.Seen(None))
    points = backtest_points(config, store, splits)
    lines: list[str] = []
    stored = champion.forecast_of(present, new, points, lines.append)
    present.tags["kronos.windows"] = "other"
    anew = champion.forecast_of(present, new, points, lines.append)
    assert "stored predictions" in lines[0] and "its backtest had other windows" in lines[1]
    pd.testing.assert_frame_equal(anew, stored, rtol=1e-5)


def bars() -> pd.DataFrame:
    frame = open_store(Path("outputs/data")).frame()
    frame = frame[frame["instrument"].isin(["P00", "P07"]) & (frame["datetime"] <= AS_OF)]
    columns = ["instrument", "datetime", "open", "high", "low", "close", "volume", "amount"]
    return frame.groupby("instrument").tail(20).reset_index(drop=True)[columns]


def own_forecast() -> np.ndarray:
    """What the champion's own backtest forecast for those bars."""
    found = champion_of("kronos", address())
    assert found is not None
    own = load_run(found.tag("backtest_run"), address()).predictions()
    own = own[(own["as_of"] == AS_OF) & own["instrument"].isin(["P00", "P07"])]
    return own[["open", "high", "low", "close"]].to_numpy()


def test_a_fresh_process_loads_the_champion_and_forecasts_as_its_backtest_did(folder: Path) -> None:
    bars().to_parquet("in.parquet")
    code = (
        "import mlflow, pandas as pd\n"
        f"mlflow.set_tracking_uri({address()!r})\n"
        "model = mlflow.pyfunc.load_model('models:/kronos@champion')\n"
        "model.predict(pd.read_parquet('in.parquet')).to_parquet('out.parquet')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    loaded = pd.read_parquet("out.parquet")[["open", "high", "low", "close"]].to_numpy()
    np.testing.assert_allclose(loaded, own_forecast(), rtol=1e-5)


def test_the_served_champion_answers_as_its_backtest_did(folder: Path) -> None:
    with serving("models:/kronos@champion", address()) as server:
        status, answer = ask(server, bars())
    assert status == 200
    predictions = pd.DataFrame(answer["predictions"])
    np.testing.assert_allclose(predictions[["open", "high", "low", "close"]], own_forecast(), rtol=1e-5)


def test_metrics_are_shown_at_the_model(folder: Path) -> None:
    found = champion_of("kronos", address())
    assert found is not None
    client = MlflowClient(address())
    model = client.get_logged_model(
        load_run(found.run_id, address()).tags["kronos.model_uri"].removeprefix("models:/")
    )
    assert {"ranking/rank_ic"} <= {metric.key for metric in model.metrics or []}
    trained = load_run(load_run(found.run_id, address()).parent or "", address()).children()[1]
    predictor = client.get_logged_model(trained.tags["kronos.model_uri"].removeprefix("models:/"))
    assert "best_val_loss" in {metric.key for metric in predictor.metrics or []}


def test_the_champion_is_used_by_its_address(folder: Path) -> None:
    given = ["--tokenizer-path", "models:/kronos@champion", "--predictor-path", "models:/kronos@champion"]
    assert run("predict", *given) == 0
    found = champion_of("kronos", address())
    predicted = latest("predict", address())
    assert found is not None and predicted.tags["kronos.predictor_run"] == found.run_id
    assert predicted.tags["kronos.predictor_digest"] == found.tag("predictor_digest")
