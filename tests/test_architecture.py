"""The house: imports go down its layers, and each outside system has one door."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent / "kronos"
# Bottom up; a module may import what stands on a lower row, and its own row where that is one package.
LAYERS = [
    {"errors", "mishaps", "files", "console", "processes", "contradictions"},
    {"config", "flags"},
    {"model", "data"},
    {"objectives", "runtime", "crew", "collectives", "statistics", "document", "outbox"},
    {"fit_plan", "training_state", "feed", "scoring", "stepping", "loop"},
    {"forecast", "signals", "accuracy", "portfolio"},
    {"ranking", "figures"},
    {"evaluation", "qlib_bridge"},
    {"report_inputs"},
    {"report_words", "evaluation_figures"},
    {"report_tables", "report_portfolio", "pooling"},
    {"report"},
    {"recording", "tracking", "tracked", "registry", "search", "search_space", "served_model"},
    {"stages"},
    {"pipeline", "mlproject", "fields_table", "commands", "trial_worker", "__main__"},
]
# Neighbours on one row that do know each other.
ALLOWED = {
    ("files", "errors"), ("flags", "config"), ("loop", "training_state"), ("loop", "fit_plan"),
    ("loop", "feed"), ("loop", "scoring"), ("loop", "stepping"), ("feed", "fit_plan"), ("scoring", "feed"),
    ("stepping", "feed"), ("stepping", "fit_plan"), ("stepping", "training_state"), ("runtime", "crew"),
    ("__main__", "mlproject"), ("__main__", "fields_table"), ("__main__", "commands"),
    ("tracking", "recording"), ("tracked", "tracking"), ("registry", "tracking"), ("registry", "tracked"),
    ("registry", "recording"),
    ("search", "search_space"),
}  # fmt: skip
DOORS = {
    "mlflow": {"recording", "tracking", "tracked", "registry", "served_model"},
    "optuna": {"search"},
    "qlib": {"qlib_bridge"},
}
FILES = sorted(path for path in ROOT.rglob("*.py"))


def room(path: Path) -> str:
    """The part of the house that a file belongs to: its module, or its package for model/, data/, stages/."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports(path: Path) -> list[tuple[str, int]]:
    """Every module that a file imports, wherever in the file, with the line."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}:{node.lineno}: write imports in full, from kronos"
            found.append((node.module or "", node.lineno))
            if node.module == "kronos":
                found += [(f"kronos.{alias.name}", node.lineno) for alias in node.names]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "_import")):
            argument = node.args[0] if node.args else None
            if isinstance(argument, ast.Constant):
                found.append((str(argument.value), node.lineno))
    return found


def layer(name: str) -> int:
    return next((level for level, rooms in enumerate(LAYERS) if name in rooms), -1)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_down_the_layers(path: Path) -> None:
    here = room(path)
    if here == "__init__":
        return
    assert layer(here) >= 0, f"{here} is new: give it a row in LAYERS, under everything that uses it"
    for module, line in imports(path):
        if not module.startswith("kronos."):
            continue
        there = module.split(".")[1]
        down = layer(there) < layer(here) or there == here or (here, there) in ALLOWED
        assert down, (
            f"{path.name}:{line} imports kronos.{there}, which stands no lower than {here}: "
            "pass a function or a plain value in, or move what both need to a lower layer"
        )


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_each_outside_system_has_one_door(path: Path) -> None:
    for module, line in imports(path):
        doors = DOORS.get(module.split(".")[0])
        assert doors is None or room(path) in doors, (
            f"{path.name}:{line} imports {module}: only {' and '.join(sorted(doors))}.py may; "
            "ask it for what is needed, or pass a function in"
        )


def test_model_code_is_torch_and_nothing_else() -> None:
    allowed = {
        "kronos.model",
        "kronos.errors",
        "kronos.files",
        "torch",
        "numpy",
        "safetensors",
        "huggingface_hub",
    }
    for path in (ROOT / "model").glob("*.py"):
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


@pytest.mark.parametrize("module", ["kronos", "kronos.__main__", "kronos.config", "kronos.stages"])
def test_listing_stages_and_fields_loads_nothing_heavy(module: str) -> None:
    heavy = {"torch", "mlflow", "pandas", "qlib", "optuna"}
    code = f"import sys, {module}; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
