"""A shortened quick start: it evaluates, trains, evaluates again, and writes figures."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rllib_seqmarl.experiments.quickstart import run_quickstart


def test_the_quickstart_writes_a_curve_an_animation_and_a_checkpoint(
    ray_cluster: None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="rllib_seqmarl"):
        result = run_quickstart(tmp_path, minutes=1.0, steps=2400, episodes=4)
    assert result.before.team_returns.shape == (4,)
    assert not np.array_equal(result.before.team_returns, result.after.team_returns)
    assert len({tuple(team.team_returns) for team in (result.random, result.before, result.after)}) == 3
    assert Image.open(result.curve).size[0] > 600
    with Image.open(result.animation) as animation:
        assert 45 <= animation.n_frames <= 3 * 26  # the initial frame and 25 steps; equal frames are merged
    text = "\n".join(record.getMessage() for record in caplog.records)
    for name, team in (("random actions (uniform)", result.random), ("untrained network, greedy", result.before)):
        (row,) = (line for line in text.splitlines() if line.startswith(name))
        assert f"{team.team_returns.mean():.2f}" in row
    assert str(result.checkpoint) in text
