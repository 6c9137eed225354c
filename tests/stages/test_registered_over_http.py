"""The registry of a real MLflow server: versions and the champion there, and none while it is away."""

from pathlib import Path

import mlflow
import pytest
from planted import planted_store
from servers import MlflowServer

from kronos.__main__ import main
from kronos.tracking.model_registry import champion_of, versions_of

pytestmark = pytest.mark.nightly
CONFIG = Path(__file__).resolve().parents[2] / "experiments" / "planted.json"
QUICK = [
    "--epochs", "1", "--n-train-iter", "64", "--n-val-iter", "64", "--inference-sample-count", "1",
    "--baseline-lightgbm", "false", "--calibration-series", "100", "--calibration-sample-count", "10",
    "--baseline-seeds", "2", "--evaluation-series", "20", "--skip-data-process", "--registered-model-name", "kronos",
]  # fmt: skip


def test_the_champion_lives_on_a_tracking_server_and_waits_for_one_that_is_away(
    in_folder: Path, server: MlflowServer, capsys: pytest.CaptureFixture[str]
) -> None:
    planted_store(in_folder / "outputs" / "data")
    given = ["--config-path", str(CONFIG), "--tracking-uri", server.address, *QUICK]
    assert main(["pipeline", *given]) == 0
    first = champion_of("kronos", server.address)
    assert first is not None and (first.number, first.tag("decision")) == (1, "first")

    assert main(["pipeline", *given, "--seed", "7"]) == 0
    second = versions_of("kronos", server.address)[1]
    assert second.tag("champion_version") == "1" and int(second.tag("periods")) >= 20
    assert "compared with the stored predictions of models:/kronos/1" in capsys.readouterr().out
    mlflow.set_tracking_uri(server.address)
    try:
        assert mlflow.pyfunc.load_model("models:/kronos@champion").metadata.run_id == first.run_id
    finally:
        mlflow.set_tracking_uri(None)

    server.end()
    assert main(["backtest", *given, "--seed", "7", "--promote", "force", "--tracking-wait", "1"]) == 2
    assert "Traceback" not in capsys.readouterr().err
    server.start()
    assert main(["backtest", *given, "--seed", "7", "--promote", "force"]) == 0
    now = champion_of("kronos", server.address)
    assert now is not None and (now.number, now.tag("decision")) == (2, "forced")
    assert len(versions_of("kronos", server.address)) == 2
