"""One bit flipped in a stored file: it is named in one line with the command that makes it anew, or made anew."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from newcomer import NAMES
from safetensors.torch import save_file
from torch import nn

from kronos.__main__ import main
from kronos.data.store import open_store
from kronos.model import load_predictor, load_tokenizer
from kronos.model.checkpoint import save_model
from kronos.model.presets import random_model
from kronos.stages.cache import read_record
from kronos.utils import digests
from kronos.utils.errors import Damaged, UserError
from kronos.utils.files import RECORD, read_json, write_json

STORE_FILES = (
    "values.npy", "session.npy", "flags.npy", "offsets.npy", "sessions.npy", "findings.json", "index.json",
)  # fmt: skip
MODELS = Path("outputs/models")
BACKTEST = Path("outputs/backtest_results/finetune_backtest_demo")
PREDICT = Path("outputs/predictions/latest")


def flip(file: Path, place: float = 0.5) -> None:
    """Flip one bit of a file; its size and times stay the same, as on a disk that goes bad."""
    times, content = file.stat(), bytearray(file.read_bytes())
    content[int(place * (len(content) - 1))] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line of a command that must end with status 2."""
    capsys.readouterr()
    assert main(arguments) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("kronos: ")]
    return line


@pytest.mark.parametrize("name", STORE_FILES)
@pytest.mark.parametrize("place", [0.4, 1.0])
def test_a_flipped_bit_of_a_store_is_named_with_the_command(
    name: str, place: float, sample_store: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(sample_store, tmp_path / "store"))
    whole = open_store(folder).digest
    flip(folder / name, place if name != "index.json" else place / 2)
    with pytest.raises(Damaged, match=rf"{name}.*build it again with  python -m kronos data") as caught:
        open_store(folder)
    assert "\n" not in str(caught.value)
    flip(folder / name, place if name != "index.json" else place / 2)
    assert open_store(folder).digest == whole


@pytest.mark.parametrize("kind", ["tokenizer", "predictor"])
@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "digests.json"])
@pytest.mark.parametrize("place", [0.1, 0.5, 0.9])
def test_a_flipped_bit_of_a_checkpoint_is_named(
    kind: str, name: str, place: float, weights: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(weights / kind, tmp_path / kind))
    load = load_tokenizer if kind == "tokenizer" else load_predictor
    load(folder)
    flip(folder / name, place)
    with pytest.raises(Damaged, match=r"is damaged.*download or save it again") as caught:
        load(folder)
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)
    (folder / "digests.json").unlink()
    if name == "digests.json":
        load(folder)  # without digests, as other programs save, the files are accepted


def test_weights_without_digests_that_cannot_be_used_are_refused(weights: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(weights / "predictor", tmp_path / "own"))
    (folder / "digests.json").unlink()
    model = load_predictor(folder)
    state = model.state_dict()
    name = next(iter(state))
    state[name].view(-1)[0] = float("nan")
    save_file(state, folder / "model.safetensors")
    with pytest.raises(UserError, match=f"cannot be used: {name} has values that are no finite numbers"):
        load_predictor(folder)
    good = read_json(folder / "config.json")
    for change in (
        {"n_layers": 1e9},
        {"n_heads": 0},
        {"n_layers": "two"},
        {"d_model": None},
        {"s1_bits": -3},
    ):
        write_json(folder / "config.json", {**good, **change})
        with pytest.raises(UserError) as caught:
            load_predictor(folder)
        assert str(folder) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["tokenizer", "predictor"])
def test_absurd_sizes_in_a_models_configuration_are_refused_before_anything_is_built(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = load_tokenizer if kind == "tokenizer" else load_predictor
    save_model(random_model(kind, "nano"), folder := tmp_path / "weights")
    (folder / "digests.json").unlink()
    good = read_json(folder / "config.json")
    layers = "n_enc_layers" if kind == "tokenizer" else "n_layers"
    built: list[object] = []
    monkeypatch.setattr(nn.Module, "__init__", lambda *given, **named: built.append(1))
    absurd = [
        10**9,
        10**12,
        10**4000,
        -1,
        0,
        2.0,
        float("nan"),
        float("inf"),
        True,
        "64",
        None,
        [1],
        {"a": 1},
    ]
    for name in (layers, "d_model", "n_heads", "ff_dim", "s1_bits", "s2_bits"):
        for value in absurd:
            (folder / "config.json").write_text(json.dumps({**good, name: value}))
            with pytest.raises(UserError, match=r"config.json") as caught:
                load(folder)
            line = str(caught.value)
            assert "\n" not in line and len(line) < 400 + len(str(folder))
    for value in (float("nan"), float("inf"), "0.1", None, True):
        (folder / "config.json").write_text(json.dumps({**good, "ffn_dropout_p": value}))
        with pytest.raises(UserError, match="ffn_dropout_p"):
            load(folder)
    assert built == []


def test_a_pipe_in_place_of_a_file_is_named_and_not_waited_for(
    sample_store: Path, in_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(sample_store, in_folder / "outputs" / "data"))
    (folder / "values.npy").unlink()
    os.mkfifo(folder / "values.npy")
    assert main(["verify"]) == 2
    assert "values.npy" in capsys.readouterr().out
    (folder / "index.json").unlink()
    os.mkfifo(folder / "index.json")
    assert main(["verify"]) in (0, 2)


def test_a_file_is_read_once_per_process_as_long_as_it_stays_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"one")
    long_ago = 10**18
    os.utime(file, ns=(long_ago, long_ago))
    monkeypatch.setattr(digests, "SETTLED", -(10**12))
    read: list[object] = []
    own = digests.hashlib.file_digest
    monkeypatch.setattr(digests.hashlib, "file_digest", lambda *given: read.append(1) or own(*given))
    first = digests.file_digest(file)
    assert digests.file_digest(file) == first and len(read) == 1
    file.write_bytes(b"two")
    assert digests.file_digest(file) != first and len(read) == 2


def test_an_object_knows_its_own_digest(tmp_path: Path) -> None:
    file = tmp_path / "object.json"
    content = {"b": [1, 2.5, None], "a": {"é": "x", "1": True}, "t": (1, 2)}
    write_json(file, digests.with_own_digest(content))
    assert digests.read_object(file, "remedy")["b"] == content["b"]
    write_json(file, {**read_json(file), "b": [1, 2.25, None]})
    with pytest.raises(Damaged, match=r"it was altered \(its digest differs\); remedy"):
        digests.read_object(file, "remedy")
    write_json(file, content)  # replaced by hand
    with pytest.raises(Damaged, match=r"it was altered \(its digest is missing\); remedy"):
        digests.read_object(file, "remedy")


def test_a_flipped_bar_stops_a_later_stage_in_one_line(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flip(store / "values.npy")
    assert fails(capsys, "predict") == (
        "kronos: the store at outputs/data is damaged: values.npy was altered (its digest differs); build it again "
        "with  python -m kronos data"
    )
    assert "1 of " in fails(capsys, "verify")
    flip(store / "values.npy")
    assert main(["verify"]) == 0
    flip(store / "splits.json", 0.3)
    line = fails(capsys, "predict")
    assert "outputs/data/splits.json is damaged" in line and "python -m kronos data" in line


def without_digest(file: Path) -> None:
    """Replace a file by one with the same content, but other figures and no digest of its own."""
    write_json(file, {name: value for name, value in read_json(file).items() if name != digests.OWN})


@pytest.mark.parametrize("name", [RECORD, "splits.json"])
@pytest.mark.parametrize("damage", [Path.unlink, without_digest])
def test_a_small_file_of_the_store_that_is_deleted_or_replaced_is_missed(
    name: str, damage: Callable[[Path], None], store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(store / name)
    line = fails(capsys, "predict")
    assert str(Path("outputs/data") / name) in line and "run  python -m kronos data  again" in line


def test_the_record_of_other_bars_is_refused(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = read_json(store / RECORD)
    other = {**record, "outputs": {**record["outputs"], "index.json": "0" * 64}}
    write_json(store / RECORD, digests.with_own_digest(other))
    line = fails(capsys, "predict")
    assert f"outputs/data/{RECORD} is that of other bars" in line and "python -m kronos data" in line


@pytest.mark.slow
def test_a_small_file_of_trained_weights_that_is_deleted_or_replaced_is_missed(
    outputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for kind in ("tokenizer", "predictor"):
        stage = MODELS / f"finetune_{kind}_demo"
        best, other = (
            stage / "checkpoints/best_model",
            Path(shutil.copytree("outputs", "kept", dirs_exist_ok=True)),
        )
        for file in (best / "digests.json", best / "config.json", stage / RECORD):
            for damage in (Path.unlink, without_digest):
                if (file.name, damage) in ((RECORD, Path.unlink), ("config.json", without_digest)):
                    continue  # weights from elsewhere have no record; a configuration has no digest of its own
                damage(file)
                line = fails(capsys, "backtest")
                assert str(file) in line, line
                assert f"python -m kronos {kind}" in line or "save it again" in line, line
                shutil.copy2(other / file.relative_to("outputs"), file)


@pytest.mark.slow
def test_the_data_stage_makes_a_damaged_store_anew(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = (store / "values.npy").read_bytes()
    flip(store / "values.npy")
    assert main(["data"]) == 0
    assert "data: runs, since outputs/data/values.npy is damaged" in capsys.readouterr().out
    assert (store / "values.npy").read_bytes() == whole
    assert main(["data"]) == 0 and "data: reused" in capsys.readouterr().out


@pytest.fixture
def outputs(finished: Path, in_folder: Path) -> Path:
    """A copy of the outputs of a finished pipeline."""
    return Path(shutil.copytree(finished / "outputs", in_folder / "outputs"))


def test_verify_names_every_damaged_file_of_a_store_with_the_command(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = sorted(path for path in store.iterdir() if path.name[0] != ".")
    assert {file.name for file in files} > {
        *STORE_FILES,
        RECORD,
        "splits.json",
        "windows.csv",
        "data_report.md",
    }
    for file in files:
        whole = file.read_bytes()
        for damage in (flip, Path.unlink, lambda path: path.write_bytes(b"")):
            damage(file)
            assert main(["verify"]) == 2, (file, damage)
            listed = capsys.readouterr().out.splitlines()
            about = [line for line in listed if file.name in line]
            assert about and all(
                "run  python -m kronos data" in line or "with  python" in line for line in about
            )
            file.write_bytes(whole)
    assert main(["verify"]) == 0


@pytest.mark.slow
def test_verify_names_every_flipped_file_of_a_pipeline(
    outputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify"]) == 0
    capsys.readouterr()
    files = [
        *(
            f"data/{name}"
            for name in (*STORE_FILES, "summary.json", "splits.json", "windows.csv", "data_report.png")
        ),
        *(
            str(path.relative_to("outputs"))
            for path in MODELS.rglob("*")
            if path.is_file() and path.name[0] != "."
        ),
        *(str(path.relative_to("outputs")) for path in BACKTEST.rglob("*") if path.is_file()),
    ]
    assert len(files) > 30
    for name in files:
        flip(outputs / name, 0.3)
        assert main(["verify"]) == 2
        said = capsys.readouterr()
        assert f"outputs/{name}" in said.out or f"{Path(name).name} " in said.out, (name, said)
        assert "python -m kronos" in said.out or "download or save" in said.out, (name, said)
        assert said.err.startswith("kronos: ") and " files in outputs are damaged" in said.err
        flip(outputs / name, 0.3)
    assert main(["verify", "outputs/models"]) == 0
    assert main(["verify", "outputs/nowhere"]) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "command"),
    [
        (MODELS / "finetune_tokenizer_demo/checkpoints/best_model/model.safetensors", "tokenizer"),
        (MODELS / "finetune_predictor_demo/summary.json", "predictor"),
        *(
            pytest.param(MODELS / file, command, marks=pytest.mark.nightly)
            for file, command in (
                ("finetune_predictor_demo/checkpoints/best_model/model.safetensors", "predictor"),
                ("finetune_predictor_demo/checkpoints/best_model/config.json", "predictor"),
                ("finetune_tokenizer_demo/summary.json", "tokenizer"),
            )
        ),
    ],
)
def test_a_flipped_bit_of_a_trained_model_stops_the_stages_that_read_it(
    file: Path, command: str, outputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flip(file, 0.7)
    line = fails(capsys, "backtest")
    assert f"{file} is damaged" in line and f"python -m kronos {command}" in line


@pytest.mark.slow
def test_damaged_predictions_are_said_and_made_anew(
    in_folder: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ["--data-source", "sample", "--symbols", NAMES]
    assert main(["data", *few]) == 0
    given = [
        "predict",
        *few,
        "--tokenizer-path",
        str(weights / "tokenizer"),
        "--predictor-path",
        str(weights / "predictor"),
    ]
    assert main(given) == 0
    outputs = read_record(PREDICT)["outputs"]
    for file, damage in (("forecast.parquet", flip), ("forecast.csv", Path.unlink), (RECORD, flip)):
        damage(PREDICT / file)
        assert "1 of " in fails(capsys, "verify")
        assert main(given) == 0
        assert f"predict: runs, since {PREDICT / file} is " in capsys.readouterr().out
        assert read_record(PREDICT)["outputs"] == outputs
    assert main(given) == 0 and "predict: reused" in capsys.readouterr().out
