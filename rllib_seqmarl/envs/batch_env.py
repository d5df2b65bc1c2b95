"""A simulator that steps many teams at once, as one vector environment of joint ones."""

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from rllib_seqmarl.envs.batch_promises import A_BATCH, of_attributes, of_moved, of_seen
from rllib_seqmarl.envs.batched_simulator import BatchedSimulator, BatchObservation, StepResult
from rllib_seqmarl.envs.errors import JointEnvError
from rllib_seqmarl.envs.joint_env import check_joint_options
from rllib_seqmarl.envs.layout import ACTION_MASK, ALIVE, OBSERVATIONS, STATE, Arrays, TeamLayout
from rllib_seqmarl.envs.promises import refuse


class JointBatchEnv(gym.vector.VectorEnv):
    """A BatchedSimulator with JointEnv's observations, actions, rewards and infos, without a loop over its copies.

    A copy whose episode is over starts the next one in the step after the last one (AutoresetMode.NEXT_STEP), so
    final observations are seen. Returned arrays are new at every step and may be kept.

    Args:
        batch: what is stepped.
        agent_ids, team_reward, global_state, agent_order, name: as JointEnv's.

    Raises:
        ValueError: an option has a wrong value.
        JointEnvError: an attribute of the batch is missing or wrong, or it has no global state but one is asked for; at
            a reset, or at a step until copies have begun anew for the first time, an array is missing, or of the wrong
            type or shape, or a copy does not begin when told; or, at any time, an observation or reward is not finite
            or a mask forbids every action.
    """

    def __init__(
        self,
        batch: BatchedSimulator,
        *,
        agent_ids: bool = True,
        team_reward: str = "mean",
        global_state: bool = False,
        agent_order: str = "fixed",
        name: str | None = None,
    ):
        self.batch = batch
        self.name = name or type(batch).__name__
        refuse(self.name, A_BATCH, "", of_attributes(batch))
        if global_state and not batch.state_dim:
            raise JointEnvError(f"{self.name}: it has no global state. Set global_state=False.")
        self.layout = layout = TeamLayout(
            agents=tuple(batch.agents),
            observation_spaces=tuple(batch.observation_spaces),
            action_spaces=tuple(batch.action_spaces),
            agent_ids=agent_ids,
            info_masks=batch.has_action_mask,
            state_dim=batch.state_dim if global_state else 0,
        )
        check_joint_options(self.name, layout, team_reward, agent_order)
        self.num_envs = batch.num_envs
        self.single_observation_space = layout.observation_space
        self.single_action_space = layout.action_space
        self.observation_space = batch_space(layout.observation_space, self.num_envs)
        self.action_space = batch_space(layout.action_space, self.num_envs)
        self.metadata = {**batch.metadata, "autoreset_mode": AutoresetMode.NEXT_STEP}
        self.render_mode = batch.render_mode
        self._size = max(layout.obs_sizes)
        self._reward_share = 1.0 / layout.n_agents if team_reward == "mean" else 1.0
        self._shuffles = agent_order == "shuffled"
        shape = (self.num_envs, layout.n_agents)
        self._order = np.tile(np.arange(layout.n_agents), (self.num_envs, 1))  # (B, n): row i is agent order[b, i]
        self._returns = np.zeros(shape)  # of the running episodes, in the layout's order
        self._reset_mask = np.zeros(self.num_envs, np.bool_)
        self._step = 0
        # What a batch gives has one form throughout: once copies have begun anew, every kind of step has been seen.
        self._step_batch: Callable[[np.ndarray, np.ndarray], StepResult] = self._step_watched

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Arrays, dict[str, Any]]:
        """Resets all copies; one seed is counted up from copy to copy."""
        if isinstance(seed, int):
            seed = [seed + i for i in range(self.num_envs)]
        seeds = None if seed is None or None in seed else [int(s) for s in seed if s is not None]
        if seeds is not None:
            self.np_random = np.random.default_rng(seeds)
        self._step = 0
        seen = self.batch.reset(seeds)
        refuse(self.name, A_BATCH, "At reset: ", of_seen(self.batch, seen))
        self._returns[:] = 0.0
        self._reset_mask[:] = False
        self._shuffle(np.ones(self.num_envs, np.bool_))
        arrays = self.layout.blank(self.num_envs)
        self._write(arrays, seen, over=self._reset_mask)
        return arrays, {}

    def step(self, actions: np.ndarray) -> tuple[Arrays, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Steps all copies; `actions` is (B, n) or (B, n, dim)."""
        arrays = self.layout.blank(self.num_envs)
        return arrays, *self.step_into(actions, arrays)

    def step_into(
        self, actions: np.ndarray, arrays: Arrays
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """As `step`, with the observations written into blank arrays of the caller's; returns all the rest."""
        self._step += 1
        reset_mask = self._reset_mask
        if self._shuffles:
            actions = _in_order(actions, np.argsort(self._order, axis=1))
            self._shuffle(reset_mask)
        seen, agent_rewards, terminated, truncated, wins = self._step_batch(actions, reset_mask)
        over = terminated | truncated
        self._returns[reset_mask] = 0.0
        self._returns += agent_rewards
        team_rewards = agent_rewards.sum(axis=1, dtype=np.float64) * self._reward_share
        if not np.isfinite(team_rewards).all():
            copy, row = np.argwhere(~np.isfinite(agent_rewards))[0]
            raise self._error(copy, row, f"its reward is {agent_rewards[copy, row]}")
        self._write(arrays, seen, over)
        ordered = _in_order(agent_rewards, self._order) if self._shuffles else agent_rewards
        is_step = ~reset_mask
        infos: dict[str, Any] = {"agent_rewards": ordered, "_agent_rewards": is_step}
        infos |= {"team_reward": team_rewards, "_team_reward": is_step}
        if over.any():
            infos["episode_agent_returns"] = self._returns.astype(np.float32)
            infos["_episode_agent_returns"] = over
            if terminated.any():
                infos["agent_terminateds"] = np.repeat(terminated[:, None], self.layout.n_agents, axis=1)
                infos["_agent_terminateds"] = terminated
            if wins is not None:
                infos["win"], infos["_win"] = wins, over
        self._reset_mask = over
        return team_rewards, terminated, truncated, infos

    def _step_watched(self, actions: np.ndarray, reset_mask: np.ndarray) -> StepResult:
        """The batch's own step, and a look at the form of what it gives; takes itself out of the way in the end."""
        moved = self.batch.step(actions, reset_mask)
        refuse(self.name, A_BATCH, f"At step {self._step}: ", of_moved(self.batch, moved, reset_mask))
        if reset_mask.any():
            self._step_batch = self.batch.step
        return moved

    def _write(self, arrays: Arrays, seen: BatchObservation, over: np.ndarray) -> None:
        """Writes what the teams see into blank arrays (B, n, ...); `over` tells whose episode has ended."""
        layout = self.layout
        # A sum is the quickest test of all numbers; what it finds is looked for only if it fails.
        if not np.isfinite(seen.observations.sum(dtype=np.float64)):
            self._check_finite(seen)
        observed, alive = seen.observations, seen.alive
        everybody = bool(alive.all())
        arrays[OBSERVATIONS][:, :, : self._size] = observed if everybody else np.where(alive[:, :, None], observed, 0.0)
        arrays[ALIVE][:] = alive
        if layout.has_action_mask and layout.is_discrete:
            mask = arrays[ACTION_MASK]  # (B, n, width)
            if seen.action_mask is not None:
                mask &= seen.action_mask.astype(np.int8, copy=False)
            if not everybody:
                mask[~alive] = layout.no_choice
            if not mask.any(axis=2).all():
                self._check_masks(mask.any(axis=2) | over[:, None])
        if layout.state_dim:
            assert seen.state is not None
            arrays[STATE][:] = seen.state
        if self._shuffles:
            for key in arrays:
                if key != STATE:
                    arrays[key][:] = _in_order(arrays[key], self._order)

    def _shuffle(self, reset_mask: np.ndarray) -> None:
        """Draws new orders for the copies that begin."""
        if self._shuffles and reset_mask.any():
            self._order[reset_mask] = self.np_random.permuted(self._order[reset_mask], axis=1)

    def _check_finite(self, seen: BatchObservation) -> None:
        bad = ~np.isfinite(seen.observations) & seen.alive[:, :, None]
        for copy, row, entry in np.argwhere(bad):
            value = seen.observations[copy, row, entry]
            raise self._error(copy, row, f"its observation is {value} at entry {entry}")

    def _check_masks(self, fine: np.ndarray) -> None:
        for copy, row in np.argwhere(~fine):
            raise self._error(
                copy,
                row,
                "its action mask forbids every action. Leave a living agent at least one legal choice, such as a no-op",
            )

    def _error(self, copy: int, row: int, what: str) -> JointEnvError:
        return JointEnvError(
            f"{self.name}, step {self._step}, environment {copy} of {self.num_envs}: agent "
            f"{self.layout.agents[row]!r}: {what}."
        )

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """The attribute `name` for every copy, the same for all; so callbacks ask other vector environments as well."""
        return (getattr(self, name),) * self.num_envs

    def render(self) -> tuple[Any, ...]:
        """A picture of the first copy."""
        return (self.batch.render(),)

    def close_extras(self, **kwargs: Any) -> None:
        """Closes the simulator."""
        self.batch.close()


def _in_order(array: np.ndarray, order: np.ndarray) -> np.ndarray:
    """The rows (B, n, ...) of `array`, those of each copy arranged by its `order` (B, n)."""
    return array[np.arange(len(order))[:, None], order]
