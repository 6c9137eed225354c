"""The wheel: what is in it, and that the command works from it in any folder."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from kronos import __version__

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, since setuptools leaves a folder `build` behind."""
    from newcomer import TAKEN, copy

    folder = tmp_path_factory.mktemp("wheel")
    copy(TAKEN, folder / "source")
    (folder / "source" / "outputs").mkdir()
    (folder / "source" / "outputs" / "secret.json").write_text("{}")
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet", "-w", str(folder),
         str(folder / "source")], check=True, env={**os.environ, "PIP_NO_INDEX": "1"},
    )  # fmt: skip
    (found,) = folder.glob("*.whl")
    return found


def test_the_wheel_holds_the_package_its_recipes_and_nothing_else(wheel: Path) -> None:
    assert wheel.name == f"kronos_pipeline-{__version__}-py3-none-any.whl"
    names = set(zipfile.ZipFile(wheel).namelist())
    package = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "kronos").rglob("*")
        if path.suffix in (".py", ".j2", ".po")
    }
    recipes = {
        f"kronos/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / "experiments").rglob("*.json")
    }
    info = f"kronos_pipeline-{__version__}.dist-info"
    about = {f"{info}/{name}" for name in ("METADATA", "WHEEL", "RECORD", "top_level.txt", "entry_points.txt",
                                           "licenses/LICENSE")}  # fmt: skip
    assert names == {*package, *recipes, *about, "kronos/py.typed", "kronos/config/fields.zh.json"}
    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_the_installed_command_works_from_an_empty_folder(wheel: Path, tmp_path: Path) -> None:
    environment_folder, work = tmp_path / "environment", tmp_path / "我的 work"
    work.mkdir()
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment_folder)], check=True)
    python = environment_folder / "bin" / "python"
    (packages,) = (environment_folder / "lib").glob("python*/site-packages")
    # The dependencies are those of this environment; its own installation of kronos comes later on the path.
    (packages / "dependencies.pth").write_text(
        "\n".join(path for path in sys.path if "site-packages" in path)
    )
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index",
         "--force-reinstall", str(wheel)], check=True,
    )  # fmt: skip
    clean = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTHONPATH", "MLFLOW"))
    }

    def kronos(*arguments: str, status: int = 0) -> str:
        done = subprocess.run(
            [str(environment_folder / "bin" / "kronos"), *arguments], cwd=work, env=clean, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert done.returncode == status, done.stdout
        return done.stdout

    where = [str(python), "-c", "import kronos; print(kronos.__file__)"]
    assert str(packages) in subprocess.run(where, cwd=work, env=clean, capture_output=True, text=True).stdout
    assert "--predictor-learning-rate" in kronos("--help")
    assert kronos("--version") == f"kronos {__version__}\n"
    assert "belongs to a clone" in kronos("mlproject", "--write", status=2)
    assert list(work.iterdir()) == []
    gentle = ("--config-path", "experiments/csi300_gentle.json", "--qlib-data-path", "nowhere")
    assert "is not a Qlib store of" in kronos("data", *gentle, status=2)
    small = ("--epochs", "1", "--n-train-iter", "128", "--n-val-iter", "64", "--inference-sample-count", "1",
             "--baseline-seeds", "1", "--evaluation-series", "20",
             "--calibration-series", "100", "--calibration-sample-count", "10",
             "--symbols", "AAPL,XOM,IBM,GE,BA,KO",
             "--data-source", "sample", "--backtest-n-symbol-hold", "2", "--backtest-n-symbol-drop", "1")  # fmt: skip
    said = kronos("pipeline", *small)
    assert "SAMPLE DATA" in said and "pipeline: done" in said
    assert sorted(path.name for path in work.iterdir()) == ["mlflow.db", "mlruns", "outputs"]
