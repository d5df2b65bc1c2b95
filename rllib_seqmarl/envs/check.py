"""A test that anyone can run on their environment: does it keep what a joint environment relies on?

As gymnasium's `check_env` and PettingZoo's `parallel_api_test` do for theirs, but for both kinds of
multi-agent environment, and naming every broken promise at once, with agent and step.
"""

from collections.abc import Mapping
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
from rllib_seqmarl.envs.catalog import EnvConfig, make_env
from rllib_seqmarl.envs.errors import JointEnvError, LayoutError
from rllib_seqmarl.envs.joint_env import JointEnv

RESULTS = ("observations", "rewards", "terminated", "truncated", "infos")


def check_joint_env(
    env: Any, env_config: EnvConfig | None = None, *, episodes: int = 3, max_steps: int = 200, seed: int = 0
) -> None:
    """Plays an environment with random legal actions and says which promises it breaks; returns if none.

    Args:
        env: a JointEnv, MultiAgentEnv or ParallelEnv, or anything that `make_env` takes (a name, class or
            creator).
        env_config: options, where `env` has still to be made.
        episodes: how many are played.
        max_steps: after how many an episode is left.
        seed: of the resets and of the random actions.

    Raises:
        JointEnvError: some promises are broken; the message lists them, each with its first breach.
        ValueError, ImportError, TypeError: the environment cannot be made; see `make_env`.
    """
    if isinstance(env, str | type) or not hasattr(env, "step"):
        env = make_env(env, env_config)
    if isinstance(env, JointEnv):
        env = env.env
    check = _Check(env)
    check.run(episodes, max_steps, seed)
    if check.breaches:
        broken = "".join(f"\n- It promises {promise}. {breach}" for promise, breach in check.breaches.items())
        raise JointEnvError(f"{type(env).__name__} cannot be relied on as a team's environment:{broken}")


class _Check:
    """One run of the check; `breaches` maps each broken promise to its first breach."""

    def __init__(self, env: Any):
        self.env = env
        self.adapter = adapt(env)
        self.is_parallel = isinstance(self.adapter, ParallelAdapter)
        self.breaches: dict[str, str] = {}
        self.where = ""
        self.masked: set[AgentID] = set()  # whose infos have held a mask

    def expect(self, kept: bool, promise: str, breach: str) -> bool:
        """Notes the first breach of a promise; returns whether it was kept."""
        if not kept:
            self.breaches.setdefault(promise, f"{self.where}: {breach}" if self.where else breach)
        return kept

    def run(self, episodes: int, max_steps: int, seed: int) -> None:
        if not self.check_agents():
            return
        first = self.play(seed, max_steps)
        if first is None:
            return
        again = self.play(seed, max_steps)
        self.where = ""
        self.expect(
            again is not None and _same(first, again),
            "the same episode for the same seed and actions",
            f"Two episodes from reset(seed={seed}) differ.",
        )
        for episode in range(1, episodes):
            self.play(seed + episode, max_steps)
        self.where = ""
        self.check_picture()

    def check_agents(self) -> bool:
        agents = self.adapter.agents
        if not self.expect(bool(agents), "at least one agent", "`possible_agents` is empty."):
            return False
        self.expect(
            len(set(agents)) == len(agents),
            "a name of its own for every agent",
            f"`possible_agents` is {agents}.",
        )
        try:
            spaces_of = {agent: self.adapter.spaces_of(agent) for agent in agents}
            self.observed = {
                agent: AgentObservation.of(agent, seen) for agent, (seen, _) in spaces_of.items()
            }
            self.actions = {agent: AgentAction.of(agent, acted) for agent, (_, acted) in spaces_of.items()}
            check_joinable(list(self.actions.values()))
        except (LayoutError, JointEnvError) as error:
            return self.expect(False, "spaces that can be joined", f"{error}")
        for agent in agents:
            self.expect(
                self.adapter.spaces_of(agent) == spaces_of[agent],
                "the same spaces each time it is asked",
                f"Agent {agent!r} has other ones at the second time.",
            )
        self.spaces = {agent: seen for agent, (seen, _) in spaces_of.items()}
        return True

    # -- one episode -----------------------------------------------------------------------------------------

    def play(self, seed: int, max_steps: int) -> list[Any] | None:
        """Plays an episode; returns what the environment gave, or None where it cannot be played on."""
        rng = np.random.default_rng(seed)
        self.where = f"At reset(seed={seed})"
        result = self.env.reset(seed=seed)
        if not self.expect(
            _are_dicts(result, 2),
            "a pair of dictionaries (observations, infos) from reset()",
            f"It gave {result!r}.",
        ):
            return None
        observations, infos = result
        self.expect(
            len(observations) > 0, "that somebody can act after a reset", "No agent has an observation."
        )
        living = self.check_observations(observations, infos, set())
        gone: set[AgentID] = set()
        record: list[Any] = [_copy(observations)]
        for step in range(1, max_steps + 1):
            self.where = f"At step {step} after reset(seed={seed})"
            actions = {agent: self.draw(agent, observations, infos, rng) for agent in living}
            result = self.env.step(actions)
            if not self.expect(
                _are_dicts(result, 5),
                f"five dictionaries ({', '.join(RESULTS)}) from step()",
                f"It gave {result!r}.",
            ):
                return None
            observations, rewards, terminated, truncated, infos = result
            record.append((_copy(observations), _copy(rewards), dict(terminated), dict(truncated)))
            self.check_rewards(rewards, living)
            if self.check_ends(living, terminated, truncated):
                self.check_observations(observations, infos, gone, over=True)
                break
            self.expect(
                not gone & set(self.env.agents if self.is_parallel else observations),
                "that who has terminated or been truncated stays away",
                f"{sorted(map(repr, gone))} had, and some of them act again.",
            )
            gone |= {agent for agent in living if terminated.get(agent) or truncated.get(agent)}
            living = self.check_observations(observations, infos, gone)
        return record

    def check_observations(
        self,
        observations: Mapping[Any, Any],
        infos: Mapping[Any, Any],
        gone: set[AgentID],
        over: bool = False,
    ) -> list[AgentID]:
        """Checks what the agents see; returns who is to act."""
        agents = self.adapter.agents
        if self.is_parallel:
            awaited = self.env.agents
            missing = [agent for agent in awaited if agent not in observations]
            self.expect(
                over or not missing, "an observation for every agent in `agents`", f"{missing} have none."
            )
        else:
            awaited = [agent for agent in observations if agent not in gone]
        unknown = [agent for agent in awaited if agent not in agents]
        self.expect(
            not unknown, "all agents that may ever appear in `possible_agents`", f"{unknown} are not there."
        )
        acting = [agent for agent in agents if agent in awaited and agent in observations]
        for agent in agents:
            if agent in observations:
                self.check_observation(agent, observations[agent])
        for agent in [] if over else acting:
            self.check_mask(agent, observations, infos)
        return acting

    def check_observation(self, agent: AgentID, seen: Any) -> None:
        space, observed = self.spaces[agent], self.observed[agent]
        if observed.key is not None:
            if not self.expect(
                isinstance(seen, Mapping) and observed.key in seen,
                "observations of their space",
                f"Agent {agent!r} observes no Dict with {observed.key!r}.",
            ):
                return
            assert isinstance(space, spaces.Dict)
            space, seen = space[observed.key], seen[observed.key]
        if not isinstance(space, spaces.Box):
            self.expect(seen in space, "observations of their space", f"Agent {agent!r} observes {seen!r}.")
            return
        array = np.asarray(seen)
        if not self.expect(
            array.shape == space.shape,
            "observations of their space",
            f"Agent {agent!r} observes an array of shape {array.shape}, not {space.shape}.",
        ):
            return
        if self.expect(
            bool(np.isfinite(array).all()),
            "finite observations",
            f"Agent {agent!r} observes {array[~np.isfinite(array)][:1]}.",
        ):
            self.expect(
                bool(((array >= space.low) & (array <= space.high)).all()),
                "observations within the bounds of their space",
                f"Agent {agent!r} observes values from {array.min()} to {array.max()}.",
            )

    def mask_of(self, agent: AgentID, observations: Mapping[Any, Any], infos: Mapping[Any, Any]) -> Any:
        if self.observed[agent].key is not None:
            return observations[agent].get(MASK_KEY)
        return mask_in(infos, agent)

    def check_mask(self, agent: AgentID, observations: Mapping[Any, Any], infos: Mapping[Any, Any]) -> None:
        mask = self.mask_of(agent, observations, infos)
        if mask is None:
            self.expect(
                agent not in self.masked and self.observed[agent].key is None,
                "an action mask at every step, once there is one",
                f"Agent {agent!r} has none.",
            )
            return
        self.masked.add(agent)
        action = self.actions[agent]
        mask = np.concatenate(mask) if isinstance(mask, tuple) else np.asarray(mask)
        if self.expect(
            mask.shape == (action.width,),
            "action masks with one entry per choice",
            f"That of agent {agent!r} has shape {mask.shape}, not ({action.width},).",
        ):
            parts = np.split(mask, np.cumsum(action.nvec)[:-1]) if action.is_discrete else []
            self.expect(
                all(part.any() for part in parts),
                "a legal action for every living agent",
                f"{agent!r} has none.",
            )

    def check_rewards(self, rewards: Mapping[Any, Any], living: list[AgentID]) -> None:
        for agent in living:
            if self.is_parallel and not self.expect(
                agent in rewards, "a reward for every agent that acted", f"Agent {agent!r} has none."
            ):
                continue
            reward = rewards.get(agent, 0.0)
            self.expect(
                np.ndim(reward) == 0
                and np.issubdtype(np.asarray(reward).dtype, np.number)
                and np.isfinite(reward),
                "finite numbers as rewards",
                f"That of agent {agent!r} is {reward!r}.",
            )

    def check_ends(
        self, living: list[AgentID], terminated: Mapping[Any, Any], truncated: Mapping[Any, Any]
    ) -> bool:
        """Checks how the end is told; returns whether the episode is over."""
        for name, flags in (("terminated", terminated), ("truncated", truncated)):
            for key in living if self.is_parallel else (ALL,):
                self.expect(
                    key in flags,
                    f"{'a flag for every agent that acted' if self.is_parallel else f'{ALL!r}'} in {name}",
                    f"{key!r} is missing.",
                )
        ended = {agent for agent in living if terminated.get(agent) or truncated.get(agent)}
        if not self.is_parallel:
            return bool(terminated.get(ALL) or truncated.get(ALL))
        for agent in living:
            if agent in ended:
                self.expect(
                    agent not in self.env.agents,
                    "that who has terminated or been truncated leaves `agents`",
                    f"Agent {agent!r} is still there.",
                )
            else:
                self.expect(
                    agent in self.env.agents,
                    "that nobody leaves `agents` without being terminated or truncated",
                    f"Agent {agent!r} did.",
                )
        return not self.env.agents

    # -- the rest --------------------------------------------------------------------------------------------

    def draw(
        self,
        agent: AgentID,
        observations: Mapping[Any, Any],
        infos: Mapping[Any, Any],
        rng: np.random.Generator,
    ) -> Any:
        """A random legal action in the agent's own space."""
        action = self.actions[agent]
        if not action.is_discrete:
            assert isinstance(action.space, spaces.Box)
            low, high = (np.clip(bound, -1e3, 1e3) for bound in (action.space.low, action.space.high))
            return rng.uniform(low, high).astype(action.space.dtype)
        mask = self.mask_of(agent, observations, infos)
        legal = np.ones(action.width, bool) if mask is None else np.hstack(mask).astype(bool)
        if legal.size != action.width:
            legal = np.ones(action.width, bool)
        choices = [
            int(rng.choice(np.flatnonzero(part) if part.any() else part.size))
            for part in np.split(legal, np.cumsum(action.nvec)[:-1])
        ]
        return action.decoder(0, several=True)([choices])

    def check_picture(self) -> None:
        if getattr(self.env, "render_mode", None) != "rgb_array":
            return
        picture = self.env.render()
        shape = np.shape(picture)
        self.expect(
            len(shape) == 3 and shape[2] == 3,
            "a picture (height, width, 3) from render() with render_mode='rgb_array'",
            f"It gave {type(picture).__name__} of shape {shape}.",
        )


def _are_dicts(result: Any, count: int) -> bool:
    return (
        isinstance(result, tuple)
        and len(result) == count
        and all(isinstance(part, Mapping) for part in result)
    )


def _copy(values: Mapping[Any, Any]) -> dict[Any, Any]:
    return {
        key: _copy(value) if isinstance(value, Mapping) else np.array(value) for key, value in values.items()
    }


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Mapping):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    return bool(np.array_equal(a, b, equal_nan=np.asarray(a).dtype.kind == "f"))
