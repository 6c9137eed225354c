"""What every figure promises a reader: no legend over data, both axes labelled, years on dates, ordered colours."""

from datetime import date

import numpy as np
import pandas as pd
import pytest
from made_charts import make_chart
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from test_report import make_inputs

from kronos.evaluation.ranking import TRADABLE
from kronos.evaluation.statistics import estimate
from kronos.report import evaluation_figures, figures
from kronos.report.candle_figures import examples_figure, forecast_figure
from kronos.report.forecast_chart import LATEST

PERIOD = "a period"


def all_figures() -> dict[str, Figure]:
    inputs = make_inputs(days=60)
    ic, daily, ranking = inputs.ranking.worths[TRADABLE]["mean"].daily, inputs.daily, inputs.ranking
    sessions = pd.bdate_range("2010-01-04", periods=80)
    counts = pd.DataFrame({"bars": 50, "filled": 3}, index=sessions)
    ranges = {"train": (date(2010, 1, 4), date(2010, 3, 1)), "val": (date(2010, 2, 1), date(2010, 4, 1))}
    curve = [{"step": step, "val_loss": 3 / step, "train_loss": 4 / step} for step in (1, 2, 3)]
    folds = [estimate(ic["rank_ic"], 5), estimate(-ic["rank_ic"], 5)]
    return {
        "cumulative": figures.cumulative_figure(daily, "mean", PERIOD, inputs.random_net),
        "drawdown": evaluation_figures.drawdown_figure(daily, "mean", PERIOD),
        "turnover": evaluation_figures.turnover_figure(daily, ranking.turnover, "mean", PERIOD),
        "rolling": evaluation_figures.rolling_figure(
            inputs.tear_sheet.rolling, inputs.tear_sheet.window, "mean", PERIOD
        ),
        "ic": figures.ic_figure(ic, "mean", 5, PERIOD),
        "months": evaluation_figures.monthly_ic_figure(ic, "mean", 5, PERIOD),
        "groups": evaluation_figures.group_figure(ranking.groups, ranking.group_means, "mean", 5, PERIOD),
        "calibration": evaluation_figures.calibration_figure(inputs.accuracy.distributions, PERIOD),
        "folds": evaluation_figures.fold_figure(["1", "2"], folds, daily["bench"], "mean", PERIOD),
        "data": figures.data_figure(counts, ranges, {"train": 20, "val": 20}, "made bars"),
        "loss": figures.loss_figure(curve, "Loss"),
        "examples": examples_figure([make_chart(f"N{seed}", seed=seed) for seed in range(3)], PERIOD),
        "forecast": forecast_figure(make_chart(kind=LATEST)),
    }


@pytest.fixture(scope="module")
def drawn() -> dict[str, Figure]:
    found = all_figures()
    for figure in found.values():
        figure.canvas.draw()
    return found


def test_no_legend_lies_over_data(drawn):
    for name, figure in drawn.items():
        panels = [axes.get_window_extent() for axes in figure.axes if axes.axison]
        legends = [axes.get_legend() for axes in figure.axes] + figure.legends
        for legend in filter(None, legends):
            box = legend.get_window_extent().padded(-1)
            assert not any(box.overlaps(panel) for panel in panels), name
            assert figure.bbox.containsx(box.x0) and figure.bbox.containsx(box.x1), name


def test_both_axes_of_every_panel_have_a_label(drawn):
    for name, figure in drawn.items():
        for axes in figure.axes:
            shared = axes.get_shared_x_axes().get_siblings(axes)
            assert not axes.axison or any(one.get_xlabel() for one in shared), name
            assert not axes.axison or axes.get_ylabel(), name


@pytest.mark.parametrize(
    "name", ["cumulative", "drawdown", "rolling", "turnover", "ic", "months", "groups", "data", "examples"]
)
def test_dates_on_an_axis_have_their_year(drawn, name):
    axes = [one for one in drawn[name].axes if one.axison][-1]
    texts = [label.get_text() for label in axes.get_xticklabels() if label.get_text()]
    assert texts and all("2010" in text for text in texts)


def lightness(color: str) -> float:
    red, green, blue = np.power(to_rgb(color), 2.2)
    return float(0.2126 * red + 0.7152 * green + 0.0722 * blue)


def test_the_colours_of_ordered_groups_are_ordered_by_lightness():
    assert len(figures.ORDERED) == 5
    assert list(map(lightness, figures.ORDERED)) == sorted(map(lightness, figures.ORDERED))


def test_the_data_figure_tells_sessions_that_are_only_seen_from_those_that_are_scored(drawn):
    """Two ranges share sessions that are context of the second: nothing that is scored is scored twice."""
    upper = drawn["data"].axes[0]
    spans = [patch for patch in upper.patches if patch.get_width() > 0]
    seen = [(one.get_x(), one.get_x() + one.get_width()) for one in spans if one.get_hatch()]
    scored = [(one.get_x(), one.get_x() + one.get_width()) for one in spans if not one.get_hatch()]
    assert len(seen) == len(scored) == 2
    assert [end for _, end in seen] == [begin for begin, _ in scored]
    assert scored[0][1] <= scored[1][0]
