"""Figures of learning curves."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from rllib_seqmarl.experiments.trial_files import Curve

_REACH = 8  # reported returns on either side that the bold line averages
# Distinguishable with colour-blindness.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")


@contextmanager
def drawing(path: Path, title: str, width: float, height: float) -> Iterator[Any]:
    """Yield Matplotlib axes, and write the figure on exit; its size is in inches, its format the suffix of `path`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    yield axes
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def plot_learning_curves(
    curves: Mapping[str, Curve], path: Path, title: str, marks: Mapping[str, float] | None = None
) -> None:
    """Write a figure of returns over env steps.

    Args:
        curves: Label -> curve. Each is drawn as reported (thin) and as a running mean (bold).
        path: The file to write.
        title: The title.
        marks: Label -> return to mark with a dashed line, such as an evaluation result.
    """
    from matplotlib.ticker import EngFormatter

    with drawing(path, title, 7.0, 4.2) as axes:
        for number, (label, curve) in enumerate(curves.items()):
            colour = _COLOURS[number % len(_COLOURS)]
            axes.plot(curve.steps, curve.returns, color=colour, linewidth=0.7, alpha=0.35)
            axes.plot(curve.steps, running_mean(curve.returns, _REACH), color=colour, linewidth=2.0, label=label)
        for number, (label, value) in enumerate((marks or {}).items()):
            colour = ("#bbbbbb", "#888888", "#333333")[number % 3]
            axes.axhline(value, color=colour, linestyle=(0, (4, 3)), linewidth=1.1, label=f"{label}: {value:.4g}")
        axes.set_xlabel("environment steps")
        axes.set_ylabel("team return per episode")
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.set_xlim(left=0)
        axes.grid(color="#e6e6e6", linewidth=0.8)
        axes.set_axisbelow(True)
        if curves or marks:
            axes.legend(frameon=False, fontsize=9)


def running_mean(values: Sequence[float], reach: int) -> list[float]:
    """Return the mean of each value and up to `reach` neighbours on either side."""
    sums = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
    places = np.arange(len(values))
    starts, ends = np.maximum(0, places - reach), np.minimum(len(values), places + reach + 1)
    return list((sums[ends] - sums[starts]) / (ends - starts))
