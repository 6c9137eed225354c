"""Figures of training runs, drawn with matplotlib's objects: no window, no global state."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure


def draw_loss_curve(curve: Sequence[Mapping[str, float]], title: str, path: str | Path) -> None:
    """Losses over training steps, from the entries of an evaluation curve; written as PNG.

    `val_loss` and `train_eval_loss` are one quantity on two sets of windows and share an axis; `train_loss` is
    another (drawn coarse tokens, all bars) and has its own.
    """
    figure = Figure(figsize=(7.5, 6.0), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    steps = [entry["step"] for entry in curve]
    for name, label in (
        ("val_loss", "validation"),
        ("train_eval_loss", "training subset, scored the same way"),
    ):
        upper.plot(steps, [entry.get(name, float("nan")) for entry in curve], marker="o", label=label)
    best = min(curve, key=lambda entry: entry["val_loss"])
    upper.axvline(best["step"], color="0.6", linestyle=":", label=f"best: {best['val_loss']:.4g}")
    lower.plot(
        steps, [entry.get("train_loss", float("nan")) for entry in curve], marker="o", color="tab:green",
        label="training loss (another quantity), mean since the last point",
    )  # fmt: skip
    upper.set_title(title)
    upper.set_ylabel("val_loss")
    lower.set_ylabel("train_loss")
    lower.set_xlabel("optimiser step")
    for axes in (upper, lower):
        axes.legend(frameon=False)
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110, metadata={"Software": None})
