"""Rollouts divided among learners: every learner gets steps, and about as many as the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from rllib_seqmarl.rollouts.rollout import Rollout

Part = Callable[["Rollout", int, int], "Rollout"]


def share_out(rollouts: Sequence[Rollout], num_shares: int) -> list[list[Rollout]]:
    """Shares of about equal numbers of steps: whole environments, or stretches of time where there are too few of them.

    Args:
        rollouts: At least one.
        num_shares: How many shares to make.

    Returns:
        Each share's rollouts, with views of the given arrays; every share holds at least one step.

    Raises:
        ValueError: There are fewer steps than shares.
    """
    num_steps = sum(rollout.env_steps for rollout in rollouts)
    if num_steps < num_shares:
        raise ValueError(
            f"num_learners={num_shares} learners cannot share {num_steps} sampled steps. Raise "
            f"`train_batch_size_per_learner`, or lower `num_learners`."
        )
    for rollout in rollouts:
        rollout.take_changes()
    per_env = [rollout.is_step.sum(axis=0) for rollout in rollouts]  # (B,) of each
    if np.count_nonzero(np.concatenate(per_env)) >= num_shares:
        return _shares(rollouts, per_env, num_shares, lambda rollout, *envs: rollout.of_envs(*envs))
    columns = [rollout.of_envs(env, env + 1) for rollout in rollouts for env in range(rollout.num_envs)]
    per_row = [column.is_step[:, 0] for column in columns]  # (T,) of each
    return _shares(columns, per_row, num_shares, lambda rollout, *rows: rollout.of_rows(*rows))


def _shares(
    rollouts: Sequence[Rollout], steps: Sequence[np.ndarray], num_shares: int, part: Part
) -> list[list[Rollout]]:
    """Parts of `rollouts`, whose environments or rows stand in one line and have `steps` steps each."""
    starts = np.cumsum([0, *map(len, steps)])  # of the rollouts in the line
    cuts = balanced_cuts(np.concatenate(steps), num_shares)
    return [
        [
            part(rollout, max(first - start, 0), min(last, end) - start)
            for rollout, start, end in zip(rollouts, starts.tolist(), starts[1:].tolist(), strict=False)
            if first < end and start < last
        ]
        for first, last in zip(cuts, cuts[1:], strict=False)
    ]


def balanced_cuts(steps: np.ndarray, num_shares: int) -> list[int]:
    """Cuts through a sequence of items with `steps` steps each, such that each of `num_shares` parts has some."""
    filled = np.flatnonzero(steps)
    behind = np.cumsum(steps[filled], dtype=np.int64)  # steps up to and with each item that has any
    cuts, taken = [0], 0  # `taken` counts the items that have steps
    for share in range(1, num_shares):
        ideal = behind[-1] * share / num_shares
        nearest = int(np.abs(behind - ideal).argmin()) + 1
        taken = min(max(nearest, taken + 1), len(filled) - (num_shares - share))
        cuts.append(int(filled[taken]))
    return [*cuts, len(steps)]
