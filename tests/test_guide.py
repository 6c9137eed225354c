"""The Chinese user guide, row by row: what README.zh-CN.md maps each row to exists, runs, or says so."""

import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from newcomer import ROOT, commands, kronos, shell
from safetensors.torch import load_file, save_file

import kronos as package
from kronos import latest
from kronos.__main__ import main
from kronos.config.schema import FIELDS
from kronos.distributed import launcher as crew
from kronos.utils.errors import UserError

MAP = (
    (ROOT / "README.zh-CN.md")
    .read_text(encoding="utf-8")
    .split("<!-- guide -->")[1]
    .split("<!-- /guide -->")[0]
)
# Commands of the right-hand column that are not run here, by their beginning, and why.
NOT_RUN = {
    "pip install -r requirements.txt": "installs from the package index; CI does it",
    "torchrun --nnodes=2": "needs two machines; tests/distributed/test_launch.py has two nodes on loopback",
}


def rows(title: str) -> list[list[str]]:
    """(guide, here, why) of the table under a title."""
    part = MAP.split(f"**{title}**")[1].split("\n**")[0]
    lines = [line for line in part.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def quoted(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def here(title: str) -> list[str]:
    return [text for row in rows(title) for text in quoted(row[1])]


def test_every_row_has_a_counterpart() -> None:
    for title in re.findall(r"^\*\*(.+?)\*\*$", MAP, flags=re.MULTILINE):
        for row in rows(title):
            assert len(row) == 3
            assert row[0] and row[1], row


def test_every_key_of_the_guide_is_a_field_with_its_default() -> None:
    for row in rows("配置"):
        key = quoted(row[0])[0]
        if key.startswith("self."):
            assert quoted(row[1]) == [key.removeprefix("self.")]
            assert quoted(row[1])[0] in FIELDS
    for name in ("accumulation_steps", "precision", "num_workers", "model_preset", "fast_mode"):
        assert name in FIELDS
        assert f"`{name}`" in MAP


def test_every_import_of_the_guide_has_its_place() -> None:
    for text in here("扩展"):
        if text.startswith("kronos."):
            names = text.split(".")[1:]
            found: Any = package
            for name in names:
                found = getattr(found, name)
    for name in ("train_tokenizer", "train_predictor"):
        assert callable(getattr(package.TrainingPipeline, name))


def test_out_of_memory_says_what_to_change(
    store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*arguments: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr("kronos.training.objectives.TokenizerObjective.loss", full)
    assert main(["tokenizer", "--epochs", "1", "--n-train-iter", "128", "--n-val-iter", "64"]) == 2
    said = capsys.readouterr().err
    # On a GPU the device's name is CUDA; here the step ran on the CPU.
    assert "out of memory at batch_size 64: use batch_size=32 with accumulation_steps=2" in said
    assert "out of memory at batch_size" in rows("故障")[0][1]
    assert not Path("outputs/models/finetune_tokenizer_demo").exists()


def test_missing_data_names_the_folder(in_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "--data-source", "qlib", "--qlib-data-path", "nowhere"]) == 2
    said = capsys.readouterr().err
    assert quoted(rows("故障")[1][1])[0] in said
    assert "nowhere" in said
    assert main(["data", "--data-source", "csv", "--data-path", "nowhere.csv"]) == 2
    assert "nowhere.csv" in capsys.readouterr().err


def test_an_nccl_error_says_where_to_look(
    store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    error = RuntimeError("NCCL error in: ../torch/csrc/distributed/c10d/ProcessGroupNCCL.cpp:1234")
    assert crew.lost_peer(error)
    assert crew.explain(error).startswith(quoted(rows("故障")[2][1])[0])
    assert "device=cpu" in crew.explain(error)

    def broken(*arguments: Any, **named: Any) -> None:
        raise UserError(crew.explain(error))

    monkeypatch.setattr("kronos.training.trainer.fit", broken)
    assert main(["tokenizer", "--epochs", "1", "--n-train-iter", "128", "--n-val-iter", "64"]) == 2
    assert "kronos: NCCL, which joins the GPUs, failed: NCCL error in" in capsys.readouterr().err


def test_weights_that_do_not_fit_name_their_keys(
    store: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(weights / "tokenizer", tmp_path / "other")
    file = tmp_path / "other" / "model.safetensors"
    state = load_file(file)
    state["stranger"] = state.pop("embed.weight")
    save_file(state, file)
    (tmp_path / "other" / "digests.json").unlink()  # changed on purpose
    assert main(["tokenizer", "--pretrained-tokenizer-path", str(tmp_path / "other")]) == 2
    said = capsys.readouterr().err
    assert quoted(rows("故障")[3][1])[0] in said
    assert "missing embed.weight" in said and "not expected stranger" in said


def test_torch_debug_switches_on_what_pytorch_has(
    store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TORCH_DEBUG", "1")
    monkeypatch.setenv("TORCH_DISTRIBUTED_DEBUG", "OFF")
    seen = []
    real = torch.autograd.set_detect_anomaly
    monkeypatch.setattr(torch.autograd, "set_detect_anomaly", lambda on: seen.append(on) or real(on))
    try:
        assert main(["tokenizer", "--epochs", "1", "--n-train-iter", "64", "--n-val-iter", "64"]) == 0
        assert seen and all(seen)
        assert torch.distributed.get_debug_level() == torch.distributed.DebugLevel.DETAIL
    finally:
        real(False)
        torch.distributed.set_debug_level(torch.distributed.DebugLevel.OFF)
    said = [line for line in capsys.readouterr().out.splitlines() if "TORCH_DEBUG" in line]
    assert len(said) == 1 and "anomaly detection" in said[0]


def test_torch_debug_is_off_unless_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    from kronos.distributed.device import choose

    for value in ("", "0", "false"):
        monkeypatch.setenv("TORCH_DEBUG", value)
        assert not any("TORCH_DEBUG" in reason for reason in choose("cpu").reasons)
    assert not torch.is_anomaly_enabled()


@pytest.mark.slow
def test_every_command_of_the_guide_has_one_that_runs(clone: Path, sina: str) -> None:
    own = {"epochs": 2, "batch_size": 32, "tokenizer_learning_rate": 1e-4, "predictor_learning_rate": 2e-5,
           "pretrained_tokenizer_path": "NeoQuasar/Kronos-Tokenizer-base",
           "pretrained_predictor_path": "NeoQuasar/Kronos-small"}  # fmt: skip
    from kronos.utils.files import read_json, write_json

    write_json(clone / "my_config.json", {**read_json(clone / "experiments/csi300.json"), **own})
    skipped = dict.fromkeys(NOT_RUN, False)
    kronos(clone, ["pipeline"])
    for text in (*here("要求与安装"), *here("配置"), *here("命令")):
        if not text.startswith(("python", "torchrun", "mkdir", "pip", "CUDA_")):
            continue
        if text in commands((ROOT / "README.md").read_text(encoding="utf-8")):
            continue  # tests/test_readme.py runs it
        known = [start for start in NOT_RUN if text.startswith(start)]
        skipped.update(dict.fromkeys(known, True))
        if known:
            continue
        command = text.replace("nproc_per_node=4", "nproc_per_node=2").replace("NUM_GPUS", "2")
        command = command.replace("sh600519'", f"sh600519', sina_url='{sina}', sina_factor_url=None")
        if "kronos" in command and "--data-source" not in command:
            kronos(clone, ["data"])  # the sample again, whatever bars the row before has stored
        if command.startswith("python -m kronos"):
            kronos(clone, shlex.split(command)[3:])
        else:
            shell(clone, command)
    assert skipped["torchrun --nnodes=2"] and skipped["pip install -r requirements.txt"]
    check_outputs_and_metrics(clone)


def check_outputs_and_metrics(clone: Path) -> None:
    store = f"sqlite:///{clone}/mlflow.db"
    logged = set(latest("tokenizer", store).metrics) & set(latest("predictor", store).metrics)
    for text in here("输出与指标"):
        if text.startswith("outputs/"):
            assert (clone / text).exists(), text
        elif not text.endswith(".parquet"):
            assert text in logged, text
