"""Pack episodes into a rollout, so that everything after sampling knows one form of data."""

import heapq
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import tree
from ray.rllib.core.columns import Columns
from ray.rllib.env.single_agent_episode import SingleAgentEpisode

from rllib_seqmarl.rollouts.rollout import Rollout

_NOT_OUTPUTS = (
    Columns.OBS,
    Columns.REWARDS,
    Columns.TERMINATEDS,
    Columns.TRUNCATEDS,
    Columns.LOSS_MASK,
    Columns.STATE_IN,
)


def pack_episodes(columns: dict[str, Any], episodes: Sequence[SingleAgentEpisode], max_seq_len: int = 0) -> Rollout:
    """Pack the rows of a learner pipeline's batch into a rollout.

    RLlib's `AddOneTsToEpisodesAndTruncate` has added a row with the last observation to every episode chunk, which
    LOSS_MASK marks. In the rollout it is the row in which the environment was reset.

    Args:
        columns: A batch of arrays (rows, ...), chunk after chunk; VF_PREDS is also valid in the added rows. With
            memory, STATE_IN is the state before each row.
        episodes: The chunks, from whose infos each agent's rewards and termination are read.
        max_seq_len: See `Rollout`.

    Returns:
        A rollout whose environments hold one or several chunks, and whose last row is no step. Columns that are no part
        of a rollout are among its outputs.
    """
    is_step = columns[Columns.LOSS_MASK]  # (rows,)
    lengths = np.diff(np.flatnonzero(~is_step), prepend=-1)  # (chunks,), including the added row
    rows, is_inside, starts = _arrange(lengths, [episode.t_started for episode in episodes])
    arrays = _read_infos(columns, episodes)

    def pack(array: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(array[rows])

    return Rollout(
        obs={key: pack(array)[[*range(len(rows)), -1]] for key, array in columns[Columns.OBS].items()},
        outputs={key: tree.map_structure(pack, column) for key, column in columns.items() if key not in _NOT_OUTPUTS},
        terminated=pack(columns[Columns.TERMINATEDS]),
        truncated=pack(columns[Columns.TRUNCATEDS]),
        is_step=pack(is_step) & is_inside,
        **{key: pack(array) for key, array in arrays.items()},
        infos={},
        lengths_before=starts,
        episodes_before=np.zeros(rows.shape[1], np.int64),
        env_ids=[str(env) for env in range(rows.shape[1])],
        weights_seq_no=0,
        spaces=(gym.spaces.Space(), gym.spaces.Space()),
        max_seq_len=max_seq_len,
        states=tree.map_structure(lambda x: x[rows[::max_seq_len]], columns[Columns.STATE_IN]) if max_seq_len else None,
    )


def _arrange(lengths: np.ndarray, starts: Sequence[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Place chunks of `lengths` rows below each other, in environments of about equal height.

    A chunk that continues an episode comes first in its environment.

    Returns:
        The row of the batch at each place (T, B), whether there is one (T, B), and the first chunks' starts (B,).
    """
    number = max(np.count_nonzero(starts), -(-lengths.sum() // lengths.max()))
    envs: list[tuple[int, int, list[int]]] = [(0, env, []) for env in range(number)]  # height, env, chunks
    for chunk in sorted(range(len(lengths)), key=lambda chunk: (not starts[chunk], -lengths[chunk])):
        height, env, chunks = envs[0]
        heapq.heapreplace(envs, (height + int(lengths[chunk]), env, [*chunks, chunk]))
    ends = np.cumsum(lengths)
    rows = np.zeros((max(height for height, *_ in envs), number), np.int64)
    is_inside = np.zeros(rows.shape, np.bool_)
    for height, env, chunks in envs:
        rows[:height, env] = np.concatenate([np.arange(ends[c] - lengths[c], ends[c]) for c in chunks])
        is_inside[:height, env] = True
    first_starts = {env: starts[chunks[0]] for _, env, chunks in envs}
    return rows, is_inside, np.array([first_starts[env] for env in range(number)], np.int64)


def _read_infos(columns: dict[str, Any], episodes: Sequence[SingleAgentEpisode]) -> dict[str, np.ndarray]:
    """Read what a rollout stores about rewards and terminations, arrays (rows,) and (rows, n)."""
    shape = columns[Columns.VF_PREDS].shape  # (rows, n)
    team_rewards = columns[Columns.REWARDS].astype(np.float32)
    arrays = {
        "rewards": team_rewards,
        "env_rewards": team_rewards.copy(),
        "agent_rewards": np.zeros(shape, np.float32),
        "agent_terminated": np.zeros(shape, np.bool_),
        "agent_earns": np.ones(shape, np.bool_),
    }
    row = 0
    for episode in episodes:
        # The added row is not a step; its info repeats the last one.
        for info in episode.get_infos(slice(1, len(episode))):
            arrays["agent_rewards"][row] = info.get("agent_rewards", team_rewards[row])
            arrays["env_rewards"][row] = info.get("team_reward", team_rewards[row])
            arrays["agent_terminated"][row] = info.get("agent_terminateds", False)
            arrays["agent_earns"][row] = info.get("agent_earns", True)
            row += 1
        row += 1
    return arrays
