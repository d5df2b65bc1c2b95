"""A batched simulator as a vector environment of joint environments."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from rllib_seqmarl.envs.batch_contract import BATCH, check_attributes, check_observation, check_step_result
from rllib_seqmarl.envs.batched_simulator import BatchedSimulator, BatchObservation, StepResult
from rllib_seqmarl.envs.contract import raise_violations
from rllib_seqmarl.envs.errors import JointEnvError, LayoutError
from rllib_seqmarl.envs.joint_teams import Infos, JointTeams, TeamsStep
from rllib_seqmarl.envs.layout import ACTION_MASK, ALIVE, OBSERVATIONS, STATE, Arrays, TeamLayout
from rllib_seqmarl.envs.vector_env import JointVector


class BatchTeams(JointTeams):
    """The copies of a BatchedSimulator.

    Args:
        name: The simulator's name in messages.
        batch: The simulator; its attributes are valid.
        layout: The layout of its teams.
        team_reward: As in JointEnv.
    """

    def __init__(self, name: str, batch: BatchedSimulator, layout: TeamLayout, *, team_reward: str):
        super().__init__(name, layout, batch.num_envs, team_reward=team_reward)
        self.batch = batch
        self._size = max(layout.obs_sizes)
        # The form of results does not change, so checks stop once there has been a step with restarts.
        self._step_batch: Callable[[np.ndarray, np.ndarray], StepResult] = self._checked_step

    def _reset(self, arrays: Arrays, seeds: Sequence[int | None], options: dict[str, Any] | None) -> Infos:
        given = [int(seed) for seed in seeds if seed is not None]
        observation = self.batch.reset(given if len(given) == self.num_envs else None)
        raise_violations(self.name, BATCH, "At reset: ", check_observation(self.batch, observation))
        self._place_observation(arrays, observation)
        return {}

    def _step(self, actions: np.ndarray, reset_mask: np.ndarray, arrays: Arrays) -> TeamsStep:
        observation, rewards, terminated, truncated, wins = self._step_batch(actions, reset_mask)
        self._place_observation(arrays, observation)
        infos: Infos = {}
        if terminated.any():
            infos["agent_terminateds"] = np.repeat(terminated[:, None], self.layout.n_agents, axis=1)  # (B, n)
            infos["_agent_terminateds"] = terminated
        if wins is not None:
            done = terminated | truncated
            if done.any():
                for copy in np.flatnonzero(done & ~np.isfinite(wins)).tolist():
                    raise self._error(copy, f"its win is {wins[copy]}.")
                infos["win"], infos["_win"] = wins, done
        return TeamsStep(rewards, terminated, truncated, infos)

    def _checked_step(self, actions: np.ndarray, reset_mask: np.ndarray) -> StepResult:
        """Step the batch and check the form of the result; after the first restart, the checks are dropped."""
        result = self.batch.step(actions, reset_mask)
        where = f"At step {self._lengths.max()}: "
        raise_violations(self.name, BATCH, where, check_step_result(self.batch, result, reset_mask))
        if reset_mask.any():
            self._step_batch = self.batch.step
        return result

    def _place_observation(self, arrays: Arrays, observation: BatchObservation) -> None:
        """Write a batch's observation into blank arrays (B, n, ...)."""
        observations, alive = observation.observations, observation.alive
        if not alive.all():
            observations = np.where(alive[:, :, None], observations, 0.0)
        arrays[OBSERVATIONS][:, :, : self._size] = observations
        arrays[ALIVE][:] = alive
        if observation.action_mask is not None:
            arrays[ACTION_MASK] &= observation.action_mask.astype(np.int8, copy=False)
        if self.layout.state_dim:
            assert observation.state is not None
            arrays[STATE][:] = observation.state

    def _location(self, team: int) -> str:
        return f", environment {team} of {self.num_envs}"


class JointBatchEnv(JointVector):
    """A BatchedSimulator with JointEnv's observations, actions, rewards and infos, stepped without a loop over copies.

    Args:
        batch: The simulator.
        agent_ids, team_reward, global_state, name: As in JointEnv.

    Raises:
        ValueError: An option is invalid.
        JointEnvError: An attribute of the batch is missing or wrong, or `global_state` is set for a batch without one.
            At a reset, or a step up to the first restart of a copy: an array is missing or has the wrong type or
            shape, or `reset_mask` was not followed. At any time: an observation or reward is not finite, or a mask
            forbids every action.
    """

    def __init__(
        self,
        batch: BatchedSimulator,
        *,
        agent_ids: bool = True,
        team_reward: str = "mean",
        global_state: bool = False,
        name: str | None = None,
    ):
        self.batch = batch
        name = name or type(batch).__name__
        raise_violations(name, BATCH, "", check_attributes(batch))
        if global_state and not batch.state_dim:
            raise JointEnvError(f"{name} has no global state. Set global_state=False.")
        try:
            layout = TeamLayout(
                agents=tuple(batch.agents),
                observation_spaces=tuple(batch.observation_spaces),
                action_spaces=tuple(batch.action_spaces),
                agent_ids=agent_ids,
                info_masks=batch.has_action_mask,
                state_dim=batch.state_dim if global_state else 0,
            )
        except LayoutError as error:
            raise JointEnvError(f"{name}: {error}") from error.__cause__
        teams = BatchTeams(name, batch, layout, team_reward=team_reward)
        super().__init__(teams, batch.metadata, batch.render_mode)

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """The attribute `name` of the joint environment or of the simulator, once per copy."""
        owner = self if hasattr(self, name) else self.batch
        return (getattr(owner, name),) * self.num_envs

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """The attribute `name`, called once if it is a method; all copies share the simulator and thus the result."""
        value = self.get_attr(name)[0]
        return (value(*args, **kwargs) if callable(value) else value,) * self.num_envs

    def set_attr(self, name: str, values: Any) -> None:
        """Set an attribute of the simulator."""
        setattr(self.batch, name, values)

    def render(self) -> tuple[Any, ...]:
        """Render the first copy."""
        return (self.batch.render(),)

    def close_extras(self, **kwargs: Any) -> None:
        """Close the simulator."""
        self.batch.close()
