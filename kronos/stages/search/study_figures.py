"""Optuna's plots of a study as PNG files."""

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.importance import get_param_importances
from optuna.trial import TrialState

from kronos.report.figures import save_plots

FEWEST_FOR_CONTOURS = 10  # finished trials; with fewer, most of a contour plot is empty
MOST_IN_CONTOURS = 3  # fields: each pair of them has a panel


def quiet(function: Callable[[], Any]) -> Any:
    """Call a function without Optuna's warnings about experimental features."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return function()


def write_figures(study: optuna.Study, metrics: Sequence[str], prunes: bool, folder: Path) -> list[str]:
    """Write the plots into `folder`; returns one line with the reason per plot that was left out."""
    from optuna.visualization import matplotlib as draw  # over a second, which trials skip

    first = metrics[0]
    target: dict[str, Any] = {"target": lambda trial: trial.values[0], "target_name": first}
    figures: dict[str, Callable[[], Any]] = {
        "history": lambda: draw.plot_optimization_history(study, **target),
        "importance": lambda: draw.plot_param_importances(study, **target),
        "slice": lambda: draw.plot_slice(study, **target),
        "contour": lambda: draw.plot_contour(study, _most_important(study), **target),
        "parallel_coordinates": lambda: draw.plot_parallel_coordinate(study, **target),
        "timeline": lambda: draw.plot_timeline(study),
    }
    if len(metrics) > 1:
        figures["pareto_front"] = lambda: draw.plot_pareto_front(study, target_names=list(metrics))
    elif prunes:
        figures["intermediate_values"] = lambda: draw.plot_intermediate_values(study)
    return save_plots({name: partial(quiet, plot) for name, plot in figures.items()}, folder)


def _most_important(study: optuna.Study) -> list[str]:
    """The fields whose contours are drawn. Raises ValueError where too few trials have finished."""
    done = len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))
    if done < FEWEST_FOR_CONTOURS:
        raise ValueError(f"contours need {FEWEST_FOR_CONTOURS} finished trials, there are {done}")
    return list(get_param_importances(study, target=lambda trial: trial.values[0]))[:MOST_IN_CONTOURS]
