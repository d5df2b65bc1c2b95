"""A test that anyone can run on their environment: does it keep what a joint environment relies on?

As gymnasium's `check_env` and PettingZoo's `parallel_api_test` do for theirs, but for both kinds of
multi-agent environment, for batches of teams (`check_batch.py`), and in words that name the promise, the step and
the agent.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from gymnasium import spaces

from rllib_seqmarl.envs.adapters import ALL, ParallelAdapter, adapt
from rllib_seqmarl.envs.agent_spaces import (
    MASK_KEY,
    AgentAction,
    AgentID,
    AgentObservation,
    check_joinable,
    mask_in,
)
from rllib_seqmarl.envs.batched_simulator import BatchedSimulator
from rllib_seqmarl.envs.catalog import EnvConfig, make_batch, make_env
from rllib_seqmarl.envs.check_batch import check_batch
from rllib_seqmarl.envs.errors import JointEnvError, LayoutError
from rllib_seqmarl.envs.joint_env import JointEnv
from rllib_seqmarl.envs.promises import Breaches, of_pictures, refuse

COPIES = 3  # in a batch that is made to be checked: enough for them to disturb each other

Dict = Mapping[Any, Any]


def check_joint_env(
    env: Any, env_config: EnvConfig | None = None, *, episodes: int = 3, max_steps: int = 200, seed: int = 0
) -> None:
    """Plays an environment with random legal actions and says which promises it breaks; returns if none.

    Args:
        env: a JointEnv, MultiAgentEnv, ParallelEnv or BatchedSimulator, or anything that `make_env` takes (a name,
            class or creator); what makes batches of teams is looked at as a batch, of three copies.
        env_config: options, where `env` has still to be made.
        episodes: how many are played (in a batch by every copy), at least 2.
        max_steps: after how many an episode is left. Whether a batch shows final observations is seen only where
            episodes end before.
        seed: of the resets and of the random actions.

    Raises:
        JointEnvError: a promise is broken. The message lists all that a step broke; the play ends there.
        ValueError, ImportError, TypeError: the environment cannot be made; see `make_env`.
    """
    if isinstance(env, str | type) or not hasattr(env, "step"):
        batch = make_batch(env, COPIES, env_config)
        env = make_env(env, env_config) if batch is None else batch
    if isinstance(env, BatchedSimulator):
        check_batch(env, episodes=episodes, max_steps=max_steps, seed=seed)
        return
    if isinstance(env, JointEnv):
        env = env.env
    team = _Promises(env)
    _refuse(env, "", team.of_agents_and_spaces())
    records = [_play(team, seed + max(0, episode - 1), max_steps) for episode in range(episodes)]
    if not _same(records[0], records[1]):  # these two had the same seed
        _refuse(
            env,
            "",
            [("play the same episode for the same seed and actions", f"reset(seed={seed}) gave two.")],
        )
    _refuse(env, "", of_pictures(env))


def _play(team: "_Promises", seed: int, max_steps: int) -> list[Any]:
    """Plays an episode; returns all that the environment gave."""
    env, rng = team.env, np.random.default_rng(seed)
    result = env.reset(seed=seed)
    _refuse(env, f"At reset(seed={seed}): ", team.of_reset(result))
    observations, infos = result
    living = team.acting(observations)
    record: list[Any] = [_copy(observations)]
    for step in range(1, max_steps + 1):
        result = env.step({agent: team.draw(agent, observations, infos, rng) for agent in living})
        _refuse(env, f"At step {step} after reset(seed={seed}): ", team.of_step(result, living))
        observations, rewards, terminated, truncated, infos = result
        record.append((_copy(observations), _copy(rewards), dict(terminated), dict(truncated)))
        if team.done(terminated, truncated):
            break
        living = team.acting(observations)
    return record


def _refuse(env: Any, where: str, breaches: Iterable[tuple[str, str]]) -> None:
    """Raises if there are breaches."""
    refuse(type(env).__name__, "a team's environment", where, breaches)


class _Promises:
    """What an environment promises; each method `of_...` yields the promises that are broken."""

    def __init__(self, env: Any):
        self.env = env
        self.adapter = adapt(env)
        self.agents = self.adapter.agents
        self.is_parallel = isinstance(self.adapter, ParallelAdapter)
        self.masked: set[AgentID] = set()  # whose infos have held a mask
        self.gone: set[AgentID] = set()  # whose episode has ended

    def of_agents_and_spaces(self) -> Breaches:
        if not self.agents:
            yield "name at least one agent", "`possible_agents` is empty."
            return
        if len(set(self.agents)) < len(self.agents):
            yield "give each agent a name of its own", f"`possible_agents` is {list(self.agents)}."
        try:
            both = {agent: self.adapter.spaces_of(agent) for agent in self.agents}
            self.spaces = {agent: seen for agent, (seen, _) in both.items()}
            self.observed = {agent: AgentObservation.of(agent, seen) for agent, (seen, _) in both.items()}
            self.actions = {agent: AgentAction.of(agent, acted) for agent, (_, acted) in both.items()}
            check_joinable(list(self.actions.values()))
        except (LayoutError, JointEnvError) as error:
            yield "have spaces that can be joined", f"But {error}"
            return
        for agent in self.agents:
            if self.adapter.spaces_of(agent) != both[agent]:
                yield (
                    "give the same spaces each time it is asked",
                    f"Agent {agent!r} had others the second time.",
                )

    def of_reset(self, result: Any) -> Breaches:
        self.gone = set()
        if not _are_dicts(result, 2):
            yield "give a pair of dictionaries (observations, infos) from reset()", f"It gave {result!r}."
        elif not result[0]:
            yield "give somebody an observation after a reset", "Nobody can act."
        else:
            yield from self.of_observations(*result)

    def of_step(self, result: Any, living: list[AgentID]) -> Breaches:
        if not _are_dicts(result, 5):
            names = "observations, rewards, terminated, truncated, infos"
            yield f"give five dictionaries ({names}) from step()", f"It gave {result!r}."
            return
        observations, rewards, terminated, truncated, infos = result
        back = [agent for agent in self.gone if agent in (self.env.agents if self.is_parallel else observations)]
        if back:
            yield "leave out who has terminated or been truncated", f"{back} are back."
        yield from self.of_rewards(rewards, living)
        yield from self.of_ends(terminated, truncated, living)
        self.gone |= {agent for agent in living if terminated.get(agent) or truncated.get(agent)}
        yield from self.of_observations(observations, infos, over=self.done(terminated, truncated))

    def of_observations(self, observations: Dict, infos: Dict, over: bool = False) -> Breaches:
        awaited = self.env.agents if self.is_parallel else list(observations)
        unknown = [agent for agent in awaited if agent not in self.agents]
        if unknown:
            yield "name in `possible_agents` all agents that may ever appear", f"{unknown} are not named."
        unseeing = [agent for agent in awaited if agent not in observations]
        if unseeing and not over:
            yield "give an observation to every agent in `agents`", f"{unseeing} have none."
        broken = False
        for agent in self.agents:
            if agent in observations:
                for breach in self.of_observation(agent, observations[agent]):
                    broken = True
                    yield breach
        if not (over or broken):
            for agent in self.acting(observations):
                yield from self.of_mask(agent, self.mask_of(agent, observations, infos))

    def of_observation(self, agent: AgentID, seen: Any) -> Breaches:
        space, key = self.spaces[agent], self.observed[agent].key
        promise = "give observations of their space"
        if key is not None:
            if not (isinstance(seen, Mapping) and key in seen):
                yield promise, f"Agent {agent!r} observes no Dict with {key!r}."
                return
            assert isinstance(space, spaces.Dict)
            space, seen = space[key], seen[key]
        if not isinstance(space, spaces.Box):
            if seen not in space:
                yield promise, f"Agent {agent!r} observes {seen!r}, which is not in {space}."
            return
        # Its type may be another one, for a joint environment makes float32 of it; but pixels stay as they are.
        array = np.asarray(seen)
        if self.observed[agent].image_shape and array.dtype != np.uint8:
            yield promise, f"Agent {agent!r} observes pixels of {array.dtype}, not uint8."
        elif array.shape != space.shape:
            yield promise, f"Agent {agent!r} observes an array of shape {array.shape}, not {space.shape}."
        elif not np.isfinite(array).all():
            yield (
                "give finite observations",
                f"Agent {agent!r} observes {array[~np.isfinite(array)].flat[0]}.",
            )
        elif not ((array >= space.low) & (array <= space.high)).all():
            yield (
                "give observations within the bounds of their space",
                f"Agent {agent!r} observes values from {array.min()} to {array.max()}.",
            )

    def of_mask(self, agent: AgentID, mask: Any) -> Breaches:
        action = self.actions[agent]
        if mask is None:
            if agent in self.masked or self.observed[agent].key is not None:
                yield "give an action mask at every step, once there is one", f"Agent {agent!r} has none."
            return
        self.masked.add(agent)
        mask = np.hstack(mask)
        if mask.shape != (action.width,):
            yield (
                "give action masks with one entry per choice",
                f"That of agent {agent!r} has shape {mask.shape}, not ({action.width},).",
            )
        elif action.is_discrete and not all(part.any() for part in _components(mask, action)):
            yield "leave every living agent a legal action", f"Agent {agent!r} has none."

    def of_rewards(self, rewards: Dict, living: list[AgentID]) -> Breaches:
        for agent in living:
            if self.is_parallel and agent not in rewards:
                yield "give a reward to every agent that acted", f"Agent {agent!r} has none."
                continue
            reward = np.asarray(rewards.get(agent, 0.0))
            if reward.shape or reward.dtype.kind not in "biuf" or not np.isfinite(reward):
                yield "give finite numbers as rewards", f"That of agent {agent!r} is {rewards[agent]!r}."

    def of_ends(self, terminated: Dict, truncated: Dict, living: list[AgentID]) -> Breaches:
        for name, flags in (("terminated", terminated), ("truncated", truncated)):
            for agent in living if self.is_parallel else []:
                if agent not in flags:
                    yield f"give a flag to every agent that acted, in {name}", f"Agent {agent!r} has none."
            if not self.is_parallel and ALL not in flags:
                yield f"give {ALL!r} in {name}", "It is missing."
        for agent in living if self.is_parallel else []:
            if bool(terminated.get(agent) or truncated.get(agent)) == (agent in self.env.agents):
                yield (
                    "take from `agents` exactly those who terminated or were truncated",
                    f"Agent {agent!r} did not obey.",
                )

    # -- how it is played ------------------------------------------------------------------------------------

    def acting(self, observations: Dict) -> list[AgentID]:
        """Who is to act next."""
        awaited = self.env.agents if self.is_parallel else observations
        return [agent for agent in self.agents if agent in awaited and agent not in self.gone]

    def done(self, terminated: Dict, truncated: Dict) -> bool:
        """Whether the episode is."""
        return not self.env.agents if self.is_parallel else bool(terminated.get(ALL) or truncated.get(ALL))

    def mask_of(self, agent: AgentID, observations: Dict, infos: Dict) -> Any:
        """The agent's action mask, or None."""
        return observations[agent].get(MASK_KEY) if self.observed[agent].key else mask_in(infos, agent)

    def draw(self, agent: AgentID, observations: Dict, infos: Dict, rng: np.random.Generator) -> Any:
        """A random legal action in the agent's own space."""
        action = self.actions[agent]
        if isinstance(action.space, spaces.Box):
            low, high = (np.clip(bound, -1e3, 1e3) for bound in (action.space.low, action.space.high))
            return rng.uniform(low, high).astype(action.space.dtype)
        mask = self.mask_of(agent, observations, infos)
        action_mask = np.ones(action.width) if mask is None else np.hstack(mask)
        choices = [int(rng.choice(np.flatnonzero(part))) for part in _components(action_mask, action)]
        return action.decoder(0, several=True)([choices])


def _components(mask: np.ndarray, action: AgentAction) -> list[np.ndarray]:
    return np.split(mask, np.cumsum(action.nvec)[:-1])


def _are_dicts(result: Any, count: int) -> bool:
    return isinstance(result, tuple) and len(result) == count and all(isinstance(part, dict) for part in result)


def _copy(values: Dict) -> dict[Any, Any]:
    return {key: _copy(value) if isinstance(value, Mapping) else np.array(value) for key, value in values.items()}


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Mapping):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    return bool(np.array_equal(a, b))
