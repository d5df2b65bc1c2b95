"""Create RLlib episodes from a rollout's arrays, for callbacks, connectors and other code that reads episodes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.rllib.env.utils.infinite_lookback_buffer import InfiniteLookbackBuffer

if TYPE_CHECKING:
    from rllib_seqmarl.rollouts.rollout import Rollout


class Segment(NamedTuple):
    """Rows `first` to `last` (exclusive) of environment `env`: an episode, or the part of it in a rollout."""

    env: int
    first: int
    last: int
    is_done: bool


class _Rewards(InfiniteLookbackBuffer):
    """Rewards that may be set from lists, as callbacks of RLlib's own loop do before an episode becomes arrays."""

    def set(self, new_data: Any, **where: Any) -> None:
        super().set(np.asarray(new_data, np.float32) if isinstance(new_data, list | tuple) else new_data, **where)


def find_segments(is_step: np.ndarray, done: np.ndarray) -> list[Segment]:
    """Find all episode segments in `is_step` and `done` (T, B): first finished ones, by end, then running ones."""
    num_rows, num_envs = is_step.shape
    padded = np.zeros((num_envs, num_rows + 2), np.int8)  # (B, T + 2), zero-padded on both sides
    padded[:, 1:-1] = is_step.T
    changes = np.diff(padded, axis=1)  # (B, T + 1): 1 where a segment starts, -1 just after it ends
    envs, firsts = np.nonzero(changes == 1)
    _, lasts = np.nonzero(changes == -1)
    done = done[lasts - 1, envs]
    bounds = zip(envs.tolist(), firsts.tolist(), lasts.tolist(), done.tolist(), strict=True)
    segments = [Segment(*bound) for bound in bounds]
    return sorted(
        segments, key=lambda segment: (not segment.is_done, segment.last if segment.is_done else 0, segment.env)
    )


def make_episode(rollout: Rollout, segment: Segment) -> SingleAgentEpisode:
    """Create the episode at `segment` from views of the rollout's arrays."""
    env, first, last, is_done = segment
    rows = slice(first, last)
    observation_space, action_space = rollout.spaces
    is_first_episode = bool(rollout.is_step[:first, env].all())  # of this environment in the rollout
    outputs = {key: InfiniteLookbackBuffer(array[rows, env]) for key, array in rollout.outputs.items()}
    actions = outputs.pop("actions")
    number = rollout.episodes_before[env] + np.count_nonzero(~rollout.is_step[:first, env])  # one reset per new episode
    outputs["weights_seq_no"] = InfiniteLookbackBuffer(np.full(last - first, rollout.weights_seq_no))
    return SingleAgentEpisode(
        id_=f"{rollout.env_ids[env]}_{number}",
        observations=InfiniteLookbackBuffer({key: array[first : last + 1, env] for key, array in rollout.obs.items()}),
        observation_space=observation_space,
        infos=[row_info(rollout, t, env) for t in range(first - 1, last)],  # one per observation
        actions=actions,
        action_space=action_space,
        rewards=_Rewards(rollout.rewards[rows, env]),
        terminated=is_done and bool(rollout.terminated[last - 1, env]),
        truncated=is_done and bool(rollout.truncated[last - 1, env]),
        extra_model_outputs=outputs,
        t_started=int(rollout.lengths_before[env]) + first if is_first_episode else 0,
        len_lookback_buffer=0,
    )


def row_info(rows: Any, t: int, env: int) -> dict[str, Any]:
    """Return the info of row `t` of a rollout or its buffer, which belongs to the observation in row t + 1."""
    info: dict[str, Any] = {}
    if t >= 0 and rows.is_step[t, env]:
        info["agent_rewards"] = rows.agent_rewards[t, env]
        info["team_reward"] = float(rows.env_rewards[t, env])
        if not rows.agent_earns[t, env].all():
            info["agent_earns"] = rows.agent_earns[t, env]
        if rows.agent_terminated[t, env].any():
            info["agent_terminateds"] = rows.agent_terminated[t, env]
    return info | rows.infos.get((t, env), {})
