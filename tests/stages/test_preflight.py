"""What would fail later is refused before anything begins, in one message, and nothing else is."""

import importlib.util
import os
import shutil
import socket
import sys
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from newcomer import chinese_bars

from kronos.__main__ import main
from kronos.config.loading import load_config, to_text
from kronos.config.schema import Config
from kronos.data.store import open_store
from kronos.distributed import device
from kronos.model.presets import random_model
from kronos.stages import STAGES, preflight
from kronos.training.objectives import PredictorObjective, TokenizerObjective
from kronos.utils.digests import with_own_digest
from kronos.utils.errors import UserError
from kronos.utils.files import write_json

Usage = namedtuple("Usage", "total used free")


def config(**fields: Any) -> Config:
    return load_config(None, {"data_source": "sample", **fields})[0]


def closed_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


def free(monkeypatch: pytest.MonkeyPatch, *, disk: int | None = None, memory: int | None = None) -> None:
    if disk is not None:
        monkeypatch.setattr(shutil, "disk_usage", lambda place: Usage(10**15, 0, disk))
    if memory is not None:
        monkeypatch.setattr(device, "free_memory", lambda where: memory)


def without(monkeypatch: pytest.MonkeyPatch, *packages: str) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name in packages else found(name, *more)
    )
    for name in packages:
        monkeypatch.setitem(sys.modules, name, None)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_with_all_that_it_needs_is_not_refused(stage: str, in_folder: Path) -> None:
    preflight.check(STAGES[stage], config())
    assert list(in_folder.iterdir()) == []


def test_every_problem_of_a_pipeline_is_told_at_once_before_a_run_exists(
    in_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    free(monkeypatch, disk=1000, memory=1000)
    without(monkeypatch, "qlib", "lightgbm")
    Path("taken").write_text("a file")
    fields = {
        "tracking_uri": closed_port(), "backtest_result_path": "taken/here", "backtest_benchmark": "nowhere.csv",
        "pretrained_predictor_path": "./no/weights", "registered_model_name": "kronos",
    }  # fmt: skip
    flags = [part for name, text in fields.items() for part in ("--" + name.replace("_", "-"), text)]
    assert main(["pipeline", *flags, "--cpu", "true"]) == 2
    said = capsys.readouterr().err
    for problem in (
        "9 problems:", "the package qlib is not installed", "the package lightgbm is not installed",
        "taken is a file", f"MLflow at {fields['tracking_uri']} does not answer", "there is no file nowhere.csv",
        "pretrained_predictor_path: there is no folder ./no/weights",
        "the first batch of the tokenizer needs at least", "the first batch of the predictor needs at least",
        "lower batch_size and raise accumulation_steps", "checkpoints of the predictor",
    ):  # fmt: skip
        assert problem in said
    assert "Traceback" not in said
    assert [path.name for path in in_folder.iterdir()] == ["taken"]


def test_a_precision_that_the_device_lacks_is_refused_before_the_bars_are_read(
    in_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pipeline", "--cpu", "true", "--precision", "fp16"]) == 2
    assert "precision=fp16 needs CUDA" in capsys.readouterr().err
    assert list(in_folder.iterdir()) == []


@pytest.mark.parametrize(
    ("stage", "package", "fields", "needed"),
    [
        ("backtest", "qlib", {}, True),
        ("backtest", "lightgbm", {}, True),
        ("backtest", "lightgbm", {"baseline_lightgbm": False}, False),
        ("data", "qlib", {}, False),
        ("data", "qlib", {"data_source": "qlib"}, True),
        ("tokenizer", "qlib", {}, False),
        ("search", "psycopg2", {"storage": "postgresql+psycopg2://someone:secret@127.0.0.1/nothing"}, True),
        ("pipeline", "qlib", {"skip_backtest": True}, False),
        ("pipeline", "peft", {"adapter": "lora"}, True),
        ("search", "peft", {"adapter": "dora"}, True),
        ("backtest", "peft", {"adapter": "lora"}, False),
    ],
)
def test_a_package_is_missed_where_it_is_needed(
    stage: str, package: str, fields: dict[str, Any], needed: bool, in_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    without(monkeypatch, package)
    if not needed:
        preflight.check(STAGES[stage], config(**fields))
        return
    with pytest.raises(UserError, match=f"the package {package} is not installed: run  pip install"):
        preflight.check(STAGES[stage], config(**fields))


@pytest.mark.skipif(sys.platform == "win32", reason="permission bits")
def test_one_sentence_for_each_place_that_cannot_be_written(
    in_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    allowed = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != in_folder and allowed(path, mode))
    with pytest.raises(UserError) as caught:
        preflight.check(STAGES["pipeline"], config())
    assert str(caught.value).count("no permission to write to") == 1
    assert f"no permission to write to {in_folder}, where" in str(caught.value)
    assert "the bar store" in str(caught.value) and "the tracking store mlflow.db" in str(caught.value)


def test_links_to_nowhere_and_names_that_are_too_long_are_told_before_the_work(in_folder: Path) -> None:
    (in_folder / "loop").symlink_to("loop")
    (in_folder / "gone").symlink_to(in_folder / "not mounted")
    places = {"dataset_path": "loop/bars", "save_path": "gone", "tokenizer_save_folder_name": "x" * 240}
    with pytest.raises(UserError) as caught:
        preflight.check(STAGES["pipeline"], config(**places))
    said = str(caught.value)
    assert "loop is a link to loop, which is not there" in said
    assert f"gone is a link to {in_folder}/not mounted, which is not there" in said
    with pytest.raises(UserError, match="a name of 240 bytes is too long for the output of tokenizer"):
        preflight.check(
            STAGES["tokenizer"], config(**{**places, "save_path": "models", "dataset_path": "bars"})
        )


def test_a_stage_that_is_reused_needs_no_space(in_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free(monkeypatch, disk=1000)
    stage, settings = STAGES["tokenizer"], config()
    with pytest.raises(UserError, match=r"disk: at least 3 MiB are needed .* 0 MiB are free"):
        preflight.check(stage, settings)
    fields = {name: to_text(getattr(settings, name)) for name in stage.key_fields(settings)}
    write_json(stage.folder(settings) / "summary.json", with_own_digest({"made_from": {"fields": fields}}))
    preflight.check(stage, settings)
    with pytest.raises(UserError, match="disk"):
        preflight.check(stage, settings.replace(reuse=False))


def test_processes_share_the_memory_of_a_machine_and_a_search_counts_its_smallest_batch(
    in_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config(cpu=True)
    one = preflight.batch_memory("predictor", settings, settings.training.batch_size, 4)
    free(monkeypatch, memory=one)
    preflight.check(STAGES["predictor"], settings)
    with pytest.raises(UserError, match="in 2 processes"):
        preflight.check(STAGES["predictor"], settings.replace(nproc_per_node=2))
    preflight.check(STAGES["search"], settings.replace(search_batch_size=(64, 4096)))
    with pytest.raises(UserError, match="lower search_batch_size"):
        preflight.check(STAGES["search"], settings.replace(search_batch_size=(4096, 8192)))


@pytest.mark.parametrize(
    ("kind", "preset"), [("tokenizer", "nano"), ("predictor", "nano"), ("predictor", "mini")]
)
def test_the_estimate_of_memory_is_a_low_one(kind: Any, preset: str) -> None:
    """The reference is what autograd keeps for the backward pass."""
    windows, settings = 3, config(model_preset=preset, lookback_window=90, predict_window=10)
    bars = settings.window_length
    model = random_model(kind, preset).train()
    objective: Any = TokenizerObjective(90, 10)
    if kind == "predictor":
        objective = PredictorObjective(random_model("tokenizer", preset), 90, 10)
    batch = SimpleNamespace(
        x=torch.randn(windows, bars, 6), stamp=torch.zeros(windows, bars, 5, dtype=torch.long),
        window=torch.arange(windows), uniform=torch.rand(windows, bars),
    )  # fmt: skip
    own = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    kept: dict[int, int] = {}

    def keep(value: torch.Tensor) -> torch.Tensor:
        storage = value.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return value

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        objective.loss(model, batch)
    count = sum(weight.numel() for weight in model.parameters())
    assert preflight.parameters(kind, preset) == count
    estimate = preflight.batch_memory(kind, settings, windows, 4) - preflight.OPTIMIZER_BYTES * count
    assert 0.5 * sum(kept.values()) < estimate < sum(kept.values())


@pytest.mark.parametrize("stage", ["backtest", "walk_forward"])
@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("SP500", "'SP500': no such instrument among the"),
        ("index.csv", "expected datetime (or date) and close"),
    ],
)
def test_a_benchmark_that_the_bars_do_not_have_is_refused_before_anything_is_forecast(
    stage: str, named: str, said: str, store: Path
) -> None:
    Path("index.csv").write_text("day,price\n2024-07-01,1\n")
    wanted = config(backtest_benchmark=named, qlib_data_path="nowhere")
    with pytest.raises(UserError) as caught:
        preflight.check(STAGES[stage], wanted)
    assert said in str(caught.value) and "\n" not in str(caught.value)
    instrument = open_store(store).instruments[0]
    preflight.check(STAGES[stage], config(backtest_benchmark=instrument, qlib_data_path="nowhere"))


@pytest.mark.slow
def test_a_pipeline_asks_for_its_benchmark_after_its_data_stage_and_before_training(
    in_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pipeline", "--backtest-benchmark", "SP500"]) == 2
    said = capsys.readouterr()
    assert "backtest_benchmark is 'SP500': no such instrument" in said.err and "Traceback" not in said.err
    assert Path("outputs/data/index.json").is_file() and not Path("outputs/models").exists()


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("http://", "it names no host"),
        ("http://host:99999", "Port out of range"),
        ("http://[::1", "Invalid IPv6 URL"),
        ("http://a b/", "it holds a space"),
        ("htp://x", "htp is no kind of tracking store"),
        ("sqlite:/x.db", "expected sqlite:///FILE"),
        ("sqlite://x.db", "Invalid SQLite URL"),
        ("sqlite:///afile/x.db", "afile is a file, a folder was expected there"),
        ("postgresql+psycopg2://host:port/x", "expected sqlite:///FILE"),
        ("nosuchsql://x", "nosuchsql is no kind of tracking store"),
        ("postgresql+nosuch://host/x", "expected sqlite:///FILE"),
        ("afile", "MLflow keeps no runs in folders any more"),
        ("some text", "MLflow keeps no runs in folders any more"),
    ],
)
def test_a_tracking_address_that_cannot_be_right_is_refused_with_its_field(
    address: str,
    said: str,
    in_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("afile").write_text("a file")
    for field in ("tracking_uri", "MLFLOW_TRACKING_URI"):
        given = ["--tracking-uri", address] if field == "tracking_uri" else []
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "" if given else address)
        assert main(["data", *given]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert f"{field} is {address!r}: " in line and said in line
    assert os.listdir() == ["afile"]


@pytest.mark.parametrize(
    "address",
    [
        "foo://bar",
        "x",
        "sqlite:/x.db",
        "sqlite:///afile/x.db",
        "journal:",
        "postgresql+psycopg2://h:p/x",
        "http://x",
    ],
)
def test_a_storage_that_cannot_be_right_is_refused_before_the_search(address: str, in_folder: Path) -> None:
    Path("afile").write_text("a file")
    with pytest.raises(UserError) as caught:
        preflight.check(STAGES["search"], config(storage=address))
    assert f"storage is {address!r}: " in str(caught.value) and "\n" not in str(caught.value)
    preflight.check(STAGES["data"], config(storage=address))


@pytest.mark.parametrize("address", ["postgresql+psycopg2://me:secret@h:x/db", "nosuch://me:secret@h/db"])
def test_a_password_is_not_repeated(address: str, in_folder: Path) -> None:
    for fields in ({"storage": address}, {"tracking_uri": address}):
        with pytest.raises(UserError) as caught:
            preflight.check(STAGES["search"], config(**fields))
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize("field", ["experiment_name", "run_name"])
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("x" * 500, "500 letters were given, expected at most 25"),
        ("a\nb", "control character"),
        ("a\x1b[31m", "control character"),
        ("\udcf0\udc9f\udc98\udc80", "PYTHONUTF8=1"),  # an emoji in the C locale
        ("\0", "which is no text"),
    ],
)
def test_a_name_that_mlflow_or_its_database_would_refuse_is_refused_with_its_field(
    field: str, name: str, said: str
) -> None:
    with pytest.raises(UserError, match=f"{field}: .*") as caught:
        config(**{field: name})
    assert said in str(caught.value)
    for right in ("\U0001f600", "\u884c\u60c5\u3000k", "x" * 250):
        assert getattr(config(**{field: right}), field) == right


def test_the_size_of_a_qlib_folders_store_is_estimated_low(in_folder: Path) -> None:
    chinese_bars(in_folder / "cn")
    ranges = {"dataset_begin_time": "2022-01-04", "dataset_end_time": "2024-06-28", "lookback_window": 32,
              "predict_window": 5}  # fmt: skip
    settings = config(data_source="qlib", qlib_data_path="cn", instrument="csi300", **ranges)
    found = {what: size for what, _, size in preflight.disk_space({"data": STAGES["data"]}, settings)}
    flags = [part for name, value in ranges.items() for part in ("--" + name.replace("_", "-"), str(value))]
    assert (
        main(["data", "--data-source", "qlib", "--qlib-data-path", "cn", "--instrument", "csi300", *flags])
        == 0
    )
    written = Path("outputs/data/values.npy").stat().st_size
    assert written / 3 < found["the bar store"] <= written
