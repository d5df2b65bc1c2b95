"""RLlib's episodes out of a rollout's arrays, for callbacks, connectors and other code that reads episodes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.rllib.env.utils.infinite_lookback_buffer import InfiniteLookbackBuffer

if TYPE_CHECKING:
    from rllib_seqmarl.rollouts.rollout import Rollout


class Segment(NamedTuple):
    """The rows `first` to before `last` of environment `env`: an episode, or the piece of it that a rollout holds."""

    env: int
    first: int
    last: int
    is_done: bool


def find_segments(is_step: np.ndarray, done: np.ndarray) -> list[Segment]:
    """All pieces of episodes in `is_step` and `done` (T, B): those that ended, by their ends; then the others."""
    num_rows, num_envs = is_step.shape
    padded = np.zeros((num_envs, num_rows + 2), np.int8)  # (B, T + 2), with no step before and after
    padded[:, 1:-1] = is_step.T
    changes = np.diff(padded, axis=1)  # (B, T + 1): 1 where steps begin, -1 where they have ended
    envs, firsts = np.nonzero(changes == 1)
    _, lasts = np.nonzero(changes == -1)
    done = done[lasts - 1, envs]
    places = zip(envs.tolist(), firsts.tolist(), lasts.tolist(), done.tolist(), strict=True)
    segments = [Segment(*place) for place in places]
    return sorted(
        segments, key=lambda segment: (not segment.is_done, segment.last if segment.is_done else 0, segment.env)
    )


def make_episode(rollout: Rollout, segment: Segment) -> SingleAgentEpisode:
    """The episode at `segment`, in views of the rollout's arrays."""
    env, first, last, is_done = segment
    rows = slice(first, last)
    observation_space, action_space = rollout.spaces
    is_first_rows = bool(rollout.is_step[:first, env].all())  # of the episode that the rollout began with
    outputs = {key: InfiniteLookbackBuffer(array[rows, env]) for key, array in rollout.outputs.items()}
    actions = outputs.pop("actions")
    number = rollout.episodes_before[env] + np.count_nonzero(~rollout.is_step[:first, env])  # resets are no steps
    outputs["weights_seq_no"] = InfiniteLookbackBuffer(np.full(last - first, rollout.weights_seq_no))
    return SingleAgentEpisode(
        id_=f"{rollout.env_ids[env]}_{number}",
        observations=InfiniteLookbackBuffer({key: array[first : last + 1, env] for key, array in rollout.obs.items()}),
        observation_space=observation_space,
        infos=[row_info(rollout, t, env) for t in range(first - 1, last)],  # one per observation
        actions=actions,
        action_space=action_space,
        rewards=InfiniteLookbackBuffer(rollout.rewards[rows, env]),
        terminated=is_done and bool(rollout.terminated[last - 1, env]),
        truncated=is_done and bool(rollout.truncated[last - 1, env]),
        extra_model_outputs=outputs,
        t_started=int(rollout.lengths_before[env]) + first if is_first_rows else 0,
        len_lookback_buffer=0,
    )


def row_info(rows: Any, t: int, env: int) -> dict[str, Any]:
    """The info of row `t` of a rollout or its buffer, which came with the observation in row t + 1."""
    info: dict[str, Any] = {}
    if t >= 0 and rows.is_step[t, env]:
        info["agent_rewards"] = rows.agent_rewards[t, env]
        info["team_reward"] = float(rows.env_rewards[t, env])
        if not rows.agent_earns[t, env].all():
            info["agent_earns"] = rows.agent_earns[t, env]
        if rows.agent_terminated[t, env].any():
            info["agent_terminateds"] = rows.agent_terminated[t, env]
    return info | rows.infos.get((t, env), {})
