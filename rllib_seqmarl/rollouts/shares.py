"""Divide rollouts among learners, so that all learners have steps, and about the same number."""

from collections.abc import Callable, Sequence

import numpy as np

from rllib_seqmarl.rollouts.rollout import Rollout

Select = Callable[[Rollout, int, int], Rollout]


def split_rollouts(rollouts: Sequence[Rollout], num_shares: int) -> list[list[Rollout]]:
    """Split rollouts into shares of about equal numbers of steps, by environment, or by time if there are too few.

    With memory, time is cut only between windows.

    Args:
        rollouts: At least one rollout.
        num_shares: The number of shares.

    Returns:
        Each share's rollouts, with views of the given arrays; every share holds at least one step.

    Raises:
        ValueError: There are fewer steps, or windows of steps, than shares.
    """
    num_steps = sum(rollout.env_steps for rollout in rollouts)
    if num_steps < num_shares:
        raise ValueError(
            f"num_learners={num_shares} learners cannot share {num_steps} sampled steps. Increase "
            f"`train_batch_size_per_learner`, or decrease `num_learners`."
        )
    for rollout in rollouts:
        rollout.take_changes()
    per_env = [rollout.is_step.sum(axis=0) for rollout in rollouts]  # (B,) each
    if np.count_nonzero(np.concatenate(per_env)) >= num_shares:
        return _split(rollouts, per_env, num_shares, Rollout.of_envs)
    columns = [rollout.of_envs(env, env + 1) for rollout in rollouts for env in range(rollout.num_envs)]
    length = rollouts[0].max_seq_len or 1
    per_window = [  # (T / length,) each
        np.add.reduceat(column.is_step[:, 0].astype(np.int64), range(0, column.num_rows, length)) for column in columns
    ]
    num_windows = np.count_nonzero(np.concatenate(per_window))
    if num_windows < num_shares:
        raise ValueError(
            f"num_learners={num_shares} learners cannot share {num_windows} windows of max_seq_len={length} steps. "
            f"Increase `train_batch_size_per_learner`, or decrease `num_learners` or `max_seq_len`."
        )

    def of_windows(rollout: Rollout, first: int, last: int) -> Rollout:
        return rollout.of_rows(first * length, min(last * length, rollout.num_rows))

    return _split(columns, per_window, num_shares, of_windows)


def _split(
    rollouts: Sequence[Rollout], steps: Sequence[np.ndarray], num_shares: int, select: Select
) -> list[list[Rollout]]:
    """Split the concatenated environments or rows of `rollouts`, which have `steps` steps each."""
    starts = np.cumsum([0, *map(len, steps)])  # of the rollouts in the concatenation
    cuts = find_balanced_cuts(np.concatenate(steps), num_shares)
    return [
        [
            select(rollout, max(first - start, 0), min(last, end) - start)
            for rollout, start, end in zip(rollouts, starts.tolist(), starts[1:].tolist(), strict=False)
            if first < end and start < last
        ]
        for first, last in zip(cuts, cuts[1:], strict=False)
    ]


def find_balanced_cuts(steps: np.ndarray, num_shares: int) -> list[int]:
    """Cut a sequence of items with `steps` steps each into `num_shares` parts that have at least one step."""
    nonempty = np.flatnonzero(steps)
    cumulative = np.cumsum(steps[nonempty], dtype=np.int64)  # steps up to and including each nonempty item
    cuts, taken = [0], 0  # `taken` counts nonempty items
    for share in range(1, num_shares):
        ideal = cumulative[-1] * share / num_shares
        nearest = int(np.abs(cumulative - ideal).argmin()) + 1
        taken = min(max(nearest, taken + 1), len(nonempty) - (num_shares - share))
        cuts.append(int(nonempty[taken]))
    return [*cuts, len(steps)]
