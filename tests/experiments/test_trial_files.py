"""Finding checkpoints and curves in results folders, and drawing figures and animations."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rllib_seqmarl.experiments.animation import Frame, write_gif
from rllib_seqmarl.experiments.errors import ExperimentError
from rllib_seqmarl.experiments.plots import plot_learning_curves, running_mean
from rllib_seqmarl.experiments.trial_files import Curve, find_checkpoint, read_curve


def make_trial(folder: Path, returns: list[float | None], checkpoints: list[int]) -> Path:
    folder.mkdir(parents=True)
    lines = [
        json.dumps(
            {
                "num_env_steps_sampled_lifetime": 10 * (i + 1),
                "env_runners": {} if r is None else {"episode_return_mean": r},
            }
        )
        for i, r in enumerate(returns)
    ]
    (folder / "result.json").write_text("\n".join(lines) + '\n{"num_env_st')  # killed while writing
    for number in checkpoints:
        (folder / f"checkpoint_{number:06d}").mkdir()
    return folder


def test_a_curve_starts_with_the_first_finished_episode(tmp_path):
    assert read_curve(make_trial(tmp_path / "t", [None, -3.0, -2.0], [])) == Curve([20.0, 30.0], [-3.0, -2.0])


def test_checkpoints_are_found_in_trials_and_experiments(tmp_path):
    worse = make_trial(tmp_path / "exp" / "worse", [-9.0, -8.0], [7, 12])
    better = make_trial(tmp_path / "exp" / "better", [-9.0, -1.0], [0, 3])
    assert find_checkpoint(worse) == worse / "checkpoint_000012"
    assert find_checkpoint(worse / "checkpoint_000007") == worse / "checkpoint_000007"
    assert find_checkpoint(tmp_path / "exp") == better / "checkpoint_000003"


def test_paths_without_a_checkpoint_are_rejected(tmp_path):
    with pytest.raises(ExperimentError, match="no such folder"):
        find_checkpoint(tmp_path / "nowhere")
    trial = make_trial(tmp_path / "t", [1.0], [])
    with pytest.raises(ExperimentError, match="no checkpoint has been written yet"):
        find_checkpoint(trial)
    with pytest.raises(ExperimentError, match="a checkpoint is a folder, not a file"):
        find_checkpoint(trial / "result.json")


def test_the_running_mean_averages_existing_neighbours():
    assert running_mean([1.0, 2.0, 6.0, 7.0], 1) == [1.5, 3.0, 5.0, 6.5]
    assert running_mean([], 3) == []


def test_figures_are_written(tmp_path):
    picture = tmp_path / "new" / "curve.png"
    plot_learning_curves({"a": Curve([1, 2], [3, 4]), "b": Curve([], [])}, picture, "title", marks={"m": 3.5})
    assert Image.open(picture).size[0] > 600


@pytest.mark.parametrize(("n_agents", "height"), [(0, 200), (2, 200 + 2 * 18 + 12), (40, 0)])
def test_captions_are_below_the_picture(tmp_path, n_agents, height):
    agents = tuple(f"agent_{i}: {i}" for i in range(n_agents))
    headline = "episode 1 | step 2" if agents else ""
    frames = [Frame(np.full((40, 60, 3), shade, np.uint8), headline, agents) for shade in (0, 120, 200)]
    write_gif(frames, tmp_path / "new" / "a.gif", fps=20)
    with Image.open(tmp_path / "new" / "a.gif") as animation:
        assert (animation.n_frames, animation.width) == (3, 300) and animation.height == (height or animation.height)
        pixels = np.asarray(animation.convert("RGB"))
    assert (pixels[:200] == 0).all() and (pixels[200:] > 250).sum() > (pixels[200:] < 250).sum() - (not agents)
