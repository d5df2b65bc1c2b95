"""A simulator that steps many teams at once, as one vector environment of joint ones."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from rllib_seqmarl.envs.batch_promises import A_BATCH, of_attributes, of_moved, of_seen
from rllib_seqmarl.envs.batched_simulator import BatchedSimulator, BatchObservation, StepResult
from rllib_seqmarl.envs.errors import JointEnvError
from rllib_seqmarl.envs.joint_teams import Infos, JointTeams, TeamsStep
from rllib_seqmarl.envs.layout import ACTION_MASK, ALIVE, OBSERVATIONS, STATE, Arrays, TeamLayout
from rllib_seqmarl.envs.promises import refuse
from rllib_seqmarl.envs.vector_env import JointVector


class BatchTeams(JointTeams):
    """The copies of a BatchedSimulator.

    Args:
        name: What messages call the simulator.
        batch: What is stepped; its attributes are in order.
        layout: Of its teams.
        options: `team_reward` and `agent_order`, as JointEnv's.
    """

    def __init__(self, name: str, batch: BatchedSimulator, layout: TeamLayout, **options: str):
        super().__init__(name, layout, batch.num_envs, **options)
        self.batch = batch
        self._size = max(layout.obs_sizes)
        # A batch returns one form throughout: once copies have begun again, every kind of step has been seen.
        self._step_batch: Callable[[np.ndarray, np.ndarray], StepResult] = self._step_watched

    def _reset(self, arrays: Arrays, seeds: Sequence[int | None], options: dict[str, Any] | None) -> Infos:
        known = [int(seed) for seed in seeds if seed is not None]
        seen = self.batch.reset(known if len(known) == self.num_envs else None)
        refuse(self.name, A_BATCH, "At reset: ", of_seen(self.batch, seen))
        self._place_seen(arrays, seen)
        return {}

    def _step(self, actions: np.ndarray, begins: np.ndarray, arrays: Arrays) -> TeamsStep:
        seen, rewards, terminated, truncated, wins = self._step_batch(actions, begins)
        self._place_seen(arrays, seen)
        infos: Infos = {}
        if terminated.any():
            infos["agent_terminateds"] = np.repeat(terminated[:, None], self.layout.n_agents, axis=1)  # (B, n)
            infos["_agent_terminateds"] = terminated
        if wins is not None:
            done = terminated | truncated
            if done.any():
                infos["win"], infos["_win"] = wins, done
        return TeamsStep(rewards, terminated, truncated, infos)

    def _step_watched(self, actions: np.ndarray, begins: np.ndarray) -> StepResult:
        """The batch's own step, and a check of the form of its results; in the end it gives way to that step alone."""
        moved = self.batch.step(actions, begins)
        where = f"At step {self._lengths.max()}: "
        refuse(self.name, A_BATCH, where, of_moved(self.batch, moved, begins))
        if begins.any():
            self._step_batch = self.batch.step
        return moved

    def _place_seen(self, arrays: Arrays, seen: BatchObservation) -> None:
        """Writes what the teams observe into blank arrays (B, n, ...)."""
        observed, alive = seen.observations, seen.alive
        if not alive.all():
            observed = np.where(alive[:, :, None], observed, 0.0)
        arrays[OBSERVATIONS][:, :, : self._size] = observed
        arrays[ALIVE][:] = alive
        if seen.action_mask is not None:
            arrays[ACTION_MASK] &= seen.action_mask.astype(np.int8, copy=False)
        if self.layout.state_dim:
            assert seen.state is not None
            arrays[STATE][:] = seen.state

    def _place(self, team: int) -> str:
        return f", environment {team} of {self.num_envs}"


class JointBatchEnv(JointVector):
    """A BatchedSimulator with JointEnv's observations, actions, rewards and infos, without a loop over its copies.

    Args:
        batch: The simulator.
        agent_ids, team_reward, global_state, agent_order, name: As JointEnv's.

    Raises:
        ValueError: An option has a wrong value.
        JointEnvError: An attribute of the batch is missing or wrong, or it has no global state although one is
            required; at a reset, or at a step until copies have begun again for the first time, an array is missing or
            of the wrong type or shape, or a copy does not begin as `reset_mask` requires; or, at any time, an
            observation or reward is not finite or a mask forbids every action.
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
        name = name or type(batch).__name__
        refuse(name, A_BATCH, "", of_attributes(batch))
        if global_state and not batch.state_dim:
            raise JointEnvError(f"{name}: it has no global state. Set global_state=False.")
        layout = TeamLayout(
            agents=tuple(batch.agents),
            observation_spaces=tuple(batch.observation_spaces),
            action_spaces=tuple(batch.action_spaces),
            agent_ids=agent_ids,
            info_masks=batch.has_action_mask,
            state_dim=batch.state_dim if global_state else 0,
        )
        teams = BatchTeams(name, batch, layout, team_reward=team_reward, agent_order=agent_order)
        super().__init__(teams, batch.metadata, batch.render_mode)

    def _found(self, name: str) -> tuple[Any, ...]:
        owner = self if hasattr(self, name) else self.batch
        return (getattr(owner, name),) * self.num_envs

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """The attribute `name`, called once where it is a method: all copies have one simulator, and one result."""
        value = self._found(name)[0]
        return (value(*args, **kwargs) if callable(value) else value,) * self.num_envs

    def set_attr(self, name: str, values: Any) -> None:
        """Sets an attribute of the simulator."""
        setattr(self.batch, name, values)

    def render(self) -> tuple[Any, ...]:
        """A picture of the first copy."""
        return (self.batch.render(),)

    def close_extras(self, **kwargs: Any) -> None:
        """Closes the simulator."""
        self.batch.close()
