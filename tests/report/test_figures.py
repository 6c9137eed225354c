"""Figures leave pyplot as the user has it: open figures, the current one, the backend and the style."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import optuna
import pandas as pd
import pytest
from matplotlib.figure import Figure
from test_report import make_inputs

from kronos.report.figures import compare_figure, save_plots, save_png
from kronos.report.writer import write_report


@pytest.fixture(params=["agg", "svg"])
def user(request: pytest.FixtureRequest) -> Iterator[list[Figure]]:
    """Figures that a notebook's user has open; the current one is neither the first nor the last."""
    before = matplotlib.get_backend()
    plt.switch_backend(request.param)
    figures = [plt.figure(number) for number in (2, 7, 4)]
    plt.figure(7).gca().plot([1, 2, 3])
    yield figures
    plt.close("all")
    plt.switch_backend(before)


def pyplot_state(figures: list[Figure]) -> dict[str, Any]:
    current = plt.gcf()
    managers = [(manager.num, manager.canvas.figure) for manager in plt._pylab_helpers.Gcf.figs.values()]
    return {
        "current": current, "managers": managers, "backend": matplotlib.get_backend(),
        "style": dict(matplotlib.rcParams), "lines": [len(axes.lines) for one in figures for axes in one.axes],
    }  # fmt: skip


def draw_optuna(folder: Path) -> list[str]:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(0))
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1) + trial.suggest_int("y", 1, 3), n_trials=8)
    draw = optuna.visualization.matplotlib

    def broken() -> None:
        plt.style.use("ggplot")
        plt.subplots(1, 2)
        raise ValueError("nothing to draw")

    plots = {
        "history": lambda: draw.plot_optimization_history(study),
        "broken": broken,
        "slice": lambda: draw.plot_slice(study),
        "parallel": lambda: draw.plot_parallel_coordinate(study),
    }
    return save_plots(plots, folder)


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_saving_optunas_figures_leaves_the_users_figures_backend_and_style(tmp_path, user):
    before = pyplot_state(user)
    assert draw_optuna(tmp_path) == ["broken: nothing to draw"]
    assert pyplot_state(user) == before
    assert sorted(path.stem for path in tmp_path.iterdir()) == ["history", "parallel", "slice"]


def test_writing_a_report_leaves_the_users_figures_backend_and_style(tmp_path, user):
    before = pyplot_state(user)
    write_report(tmp_path, make_inputs())
    save_png(compare_figure({"run": pd.Series([1.0, 0.5])}), tmp_path / "compare.png")
    assert pyplot_state(user) == before
