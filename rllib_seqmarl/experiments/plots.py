"""Pictures for people: learning curves, and animations of a team at work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from rllib_seqmarl.experiments.trial_files import Curve

_REACH = 8  # how many reported returns on either side the bold line averages
_SMALLEST = 300  # pixels of an animation's longer side, about
_COLOURS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
)  # told apart by colour-blind eyes too


def plot_learning_curves(
    curves: Mapping[str, Curve], path: Path, title: str, marks: Mapping[str, float] | None = None
) -> None:
    """Writes a picture of returns against env steps.

    Args:
        curves: Label -> curve. Each is drawn as reported, thin, and as a running mean, bold.
        path: Where to; the suffix tells the format (.png, .svg, .pdf).
        title: What stands above.
        marks: Label -> a return to mark with a dashed line, such as that of an evaluation.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    figure = Figure(figsize=(7.0, 4.2), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for number, (label, curve) in enumerate(curves.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        axes.plot(curve.steps, curve.returns, color=colour, linewidth=0.7, alpha=0.35)
        axes.plot(curve.steps, running_mean(curve.returns, _REACH), color=colour, linewidth=2.0, label=label)
    for number, (label, value) in enumerate((marks or {}).items()):
        colour = ("#999999", "#333333")[number % 2]
        axes.axhline(value, color=colour, linestyle=(0, (4, 3)), linewidth=1.1, label=f"{label}: {value:.4g}")
    axes.set_title(title, loc="left", fontsize=11)
    axes.set_xlabel("environment steps")
    axes.set_ylabel("team return per episode")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_xlim(left=0)
    axes.grid(color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if curves or marks:
        axes.legend(frameon=False, fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def running_mean(values: Sequence[float], reach: int) -> list[float]:
    """The mean of each value and of up to `reach` neighbours on either side."""
    sums = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
    places = np.arange(len(values))
    starts, ends = np.maximum(0, places - reach), np.minimum(len(values), places + reach + 1)
    return list((sums[ends] - sums[starts]) / (ends - starts))


def write_gif(frames: Sequence[np.ndarray], path: Path, fps: float = 10.0) -> None:
    """Writes an endless animation; its last frame stands for a second.

    Args:
        frames: Pictures (height, width, 3), uint8, all of one size; at least one. Small ones are enlarged.
        path: Where to.
        fps: Frames a second.
    """
    from PIL import Image

    enlarge = max(1, _SMALLEST // max(frames[0].shape[:2]))
    blocks = np.ones((enlarge, enlarge, 1), np.uint8)
    images = [Image.fromarray(np.kron(frame, blocks)) for frame in frames]
    durations = [round(1000 / fps)] * (len(images) - 1) + [1000]
    path.parent.mkdir(parents=True, exist_ok=True)
    images[0].save(path, save_all=True, append_images=images[1:], duration=durations, loop=0, optimize=True)
