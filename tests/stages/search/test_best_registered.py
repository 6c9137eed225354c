"""A search's best weights in the registry: a version that is no champion, which the pipeline then enters for it."""

from pathlib import Path

import mlflow
import pytest

from kronos.__main__ import main
from kronos.tracking.model_registry import champion_of, versions_of

pytestmark = pytest.mark.slow
TINY = ["--epochs", "1", "--n-train-iter", "384", "--n-val-iter", "64", "--search-reports", "3"]
SEARCH = [*TINY, "--search-batch-size", "32", "--n-trials", "2", "--search-pruner", "none"]
NAME = ["--registered-model-name", "kronos"]


def test_the_best_trial_is_registered_once_and_the_pipeline_makes_it_the_champion(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    address = f"sqlite:///{Path.cwd()}/mlflow.db"
    given = [*NAME, "--tracking-uri", address]
    assert main(["search", *SEARCH, *given, "--search-stage", "tokenizer", "--skip-data-process"]) == 2
    assert "a search of the tokenizer alone has no predictor to register" in capsys.readouterr().err
    assert main(["search", *SEARCH, *given, "--skip-data-process"]) == 0
    (version,) = versions_of("kronos", address)
    assert version.tag("decision") == "not asked" and "selects on the validation days" in version.tag(
        "decision_reason"
    )
    assert version.tag("seen_until") == "2010-05-28" and float(version.tag("search_val_loss")) > 0
    assert champion_of("kronos", address) is None
    mlflow.set_tracking_uri(address)
    try:
        assert mlflow.pyfunc.load_model("models:/kronos/1") is not None
    finally:
        mlflow.set_tracking_uri(None)

    assert main(["search", *SEARCH, *given, "--skip-data-process", "--skip-tokenizer"]) == 0
    assert "models:/kronos/1 is this trial's already" in capsys.readouterr().out

    (answer,) = Path("outputs/search").glob("*/best.json")
    quick = [
        "--inference-sample-count", "1", "--evaluation-series", "20", "--baseline-lightgbm", "false",
        "--baseline-seeds", "2", "--calibration-series", "100", "--calibration-sample-count", "10",
    ]  # fmt: skip
    assert main(["pipeline", "--config-path", str(answer), "--skip-data-process", *quick, *given]) == 0
    found = champion_of("kronos", address)
    assert found is not None and (found.number, found.tag("decision")) == (2, "first")
    assert found.tag("predictor_digest") == version.tag("predictor_digest")  # trained again, bit for bit
    assert found.tag("seen_until") == "2010-05-28"
