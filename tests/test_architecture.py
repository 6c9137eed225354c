"""The structure of the package: imports go down its rows, and each outside system is imported in one place."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent / "kronos"
# Rows of packages, bottom up. A module imports from lower rows and from its own package.
ROWS = [
    {"utils"},
    {"config"},
    {"model", "data"},
    {"distributed"},
    {"training", "forecast", "evaluation"},
    {"report"},
    {"tracking"},
    {"stages"},
    {"app"},
    {"cli"},
    {"__main__"},
]
# Rows of the modules of kronos/stages, bottom up: a module imports from lower rows only.
STAGE_ROWS = [
    {"base", "addresses"},
    {"cache", "description"},
    {"inputs", "run_folder", "report_pages"},
    {"weights"},
    {"additions"},
    {"provenance", "model_logging", "train_setup", "decision", "looks", "ensemble", "calibration"},
    {
        "test_loss",
        "validation_forecasts",
        "forgetting",
        "preflight",
        "over_time",
        "forecast_charts",
        "members",
        "head_setup",
    },
    {"runner", "evaluate", "train_worker", "head_evaluation"},
    {"data", "train", "promote"},
    {
        "audit",
        "backtest",
        "calibrate",
        "embed",
        "generate",
        "head",
        "predict",
        "data_check",
        "compared_models",
    },
    {"five_tasks"},
    {"walk_forward", "pipeline", "search", "benchmark", "update"},
    {"refit"},
    {"__init__"},
]
SEARCH_ROWS = [
    {"__init__"},
    {"space", "storage", "study_figures"},
    {"study"},
    {"trial"},
    {"trial_pool", "trial_worker"},
    {"session"},
    {"selection"},
    {"results"},
    {"stage"},
]
# Outside systems, and the only modules that import them.
DOORS = {
    "mlflow": ("kronos.tracking",),
    "optuna": ("kronos.stages.search.study", "kronos.stages.search.study_figures"),
    "qlib": (
        "kronos.evaluation.qlib_store",
        "kronos.evaluation.qlib_arrays",
        "kronos.evaluation.qlib_features",
        "kronos.evaluation.qlib_backtest",
        "kronos.data.sources.qlib",
    ),
    "index_constitution": ("kronos.data.sources.membership",),
    "dash": ("kronos.app",),
    "flask": ("kronos.app",),
    "waitress": ("kronos.app.server",),
    "peft": ("kronos.training.adapters",),
    **{
        name: (f"kronos.data.sources.{name}",)
        for name in ("akshare", "baostock", "ccxt", "tushare", "yfinance")
    },
}
FILES = sorted(ROOT.rglob("*.py"))
MOST_PACKAGES = 13


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in FILES}


def imports(path: Path) -> list[tuple[str, int]]:
    """Every module that a file imports, wherever in the file, with the line."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}:{node.lineno}: write imports in full, from kronos"
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            modules = {name for name in whole if name in MODULES} or {node.module or ""}
            found += [(name, node.lineno) for name in sorted(modules)]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "load_module")):
            argument = node.args[0] if node.args else None
            if isinstance(argument, ast.Constant):
                found.append((str(argument.value), node.lineno))
    return found


def package_of(module: str) -> str:
    """The top-level package of a module of this project, `__main__` for itself."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def row(name: str, rows: list[set[str]]) -> int:
    return next((level for level, names in enumerate(rows) if name in names), -1)


def test_the_top_level_holds_packages_only() -> None:
    modules = {path.stem for path in ROOT.glob("*.py")}
    assert modules == {"__init__", "__main__"}
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert packages == set().union(*ROWS) - {"__main__"}
    assert len(packages) <= MOST_PACKAGES


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down_the_rows(module: str) -> None:
    here = package_of(module)
    if here == "__init__":
        return
    for there, line in imports(MODULES[module]):
        if not there.startswith("kronos."):
            continue
        package = package_of(there)
        assert package == here or row(package, ROWS) < row(here, ROWS), (
            f"{module}:{line} imports {there}, which is no lower than {here}: "
            "pass a function or a plain value in, or move what both need to a lower row"
        )


def rows_inside(package: str, rows: list[set[str]]) -> list[str]:
    """Imports within a package that do not go down its rows."""
    found = []
    depth = len(package.split("."))
    for module, path in MODULES.items():
        if not module.startswith(package):
            continue
        here = module.split(".")[depth] if module != package else "__init__"
        assert row(here, rows) >= 0, f"{module} is new: give it a row, under everything that uses it"
        for there, line in imports(path):
            if there.startswith(f"{package}."):
                name = there.split(".")[depth]
                if name != here and row(name, rows) >= row(here, rows):
                    found.append(f"{module}:{line} imports {there}")
    return found


def test_imports_inside_stages_go_down_its_rows() -> None:
    assert rows_inside("kronos.stages", STAGE_ROWS) == []


def test_imports_inside_search_go_down_its_rows() -> None:
    assert rows_inside("kronos.stages.search", SEARCH_ROWS) == []


def test_no_import_circle() -> None:
    graph = {
        name: {there for there, _ in imports(path) if there in MODULES and there != name}
        for name, path in MODULES.items()
    }
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, f"circle: {' -> '.join((*trail[trail.index(name) :], name))}"
        if name not in done:
            for there in graph[name]:
                visit(there, (*trail, name))
            done.add(name)

    for name in graph:
        visit(name, ())


@pytest.mark.parametrize("module", MODULES)
def test_each_outside_system_is_imported_in_one_place(module: str) -> None:
    for there, line in imports(MODULES[module]):
        doors = DOORS.get(there.split(".")[0])
        assert doors is None or any(module == door or module.startswith(f"{door}.") for door in doors), (
            f"{module}:{line} imports {there}: only {' and '.join(doors or ())} may; "
            "ask it for what is needed, or pass a function in"
        )


def test_model_code_is_torch_and_nothing_else() -> None:
    allowed = {"kronos.model", "kronos.utils", "torch", "numpy", "safetensors", "huggingface_hub"}
    for path in (ROOT / "model").rglob("*.py"):
        for module, line in imports(path):
            parts = module.split(".")
            known = parts[0] in sys.stdlib_module_names or any(
                ".".join(parts[:depth]) in allowed for depth in (1, 2)
            )
            assert known or module == "kronos", f"model/{path.name}:{line} imports {module}: pass values in"


def test_files_stay_short() -> None:
    for path in FILES:
        lines = len(path.read_text(encoding="utf-8").splitlines())
        assert lines <= 400, f"{path.relative_to(ROOT)} has {lines} lines: split it along the flow of data"


@pytest.mark.parametrize("module", ["kronos", "kronos.__main__", "kronos.config.schema", "kronos.stages"])
def test_listing_stages_and_fields_loads_nothing_heavy(module: str) -> None:
    heavy = {"torch", "mlflow", "pandas", "qlib", "optuna"}
    code = f"import sys, {module}; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_data_stage_and_what_runs_it_do_not_load_torch() -> None:
    code = "import sys, kronos.stages.runner, kronos.stages.data; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
