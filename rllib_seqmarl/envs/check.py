"""A test that anyone can run on their environment: does it keep what a joint environment relies on?

As gymnasium's `check_env` and PettingZoo's `parallel_api_test` do for theirs, but for both kinds of multi-agent
environment, and for batches of teams (`check_batch.py`). The environment is played through the JointEnv that trains, so
that whatever training refuses is refused here, in the same words. What only a repetition or a comparison shows comes in
addition.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces

from rllib_seqmarl.envs.adapters import adapt
from rllib_seqmarl.envs.agent_spaces import Space
from rllib_seqmarl.envs.batched_simulator import BatchedSimulator
from rllib_seqmarl.envs.catalog import EnvConfig, make_batch, make_env
from rllib_seqmarl.envs.check_batch import check_batch
from rllib_seqmarl.envs.joint_env import JointEnv
from rllib_seqmarl.envs.layout import ACTION_MASK, Arrays, TeamLayout
from rllib_seqmarl.envs.promises import Breaches, of_pictures, refuse

COPIES = 3  # in a batch that is made to be checked: enough for them to disturb each other


def check_joint_env(
    env: Any, env_config: EnvConfig | None = None, *, episodes: int = 3, max_steps: int = 200, seed: int = 0
) -> None:
    """Plays an environment with random legal actions and reports which promises it breaks; returns if none.

    Args:
        env: A JointEnv (which is played with its options), MultiAgentEnv, ParallelEnv or BatchedSimulator, or anything
            that `make_env` takes (a name, class or creator); what makes batches of teams is checked as a batch, of
            three copies.
        env_config: Options, where `env` has still to be made.
        episodes: How many are played (in a batch by every copy), at least 2.
        max_steps: After how many an episode is left. Whether a batch shows final observations is found out only where
            episodes end before.
        seed: Of the resets and of the random actions.

    Raises:
        JointEnvError: A promise is broken.
        ValueError, ImportError, TypeError: The environment cannot be made; see `make_env`.
    """
    if isinstance(env, str | type) or not hasattr(env, "step"):
        batch = make_batch(env, COPIES, env_config)
        env = make_env(env, env_config) if batch is None else batch
    if isinstance(env, BatchedSimulator):
        check_batch(env, episodes=episodes, max_steps=max_steps, seed=seed)
        return
    joint = env if isinstance(env, JointEnv) else JointEnv(env)
    _refuse(joint, "", _of_spaces(joint))
    joint.reader.env = watched = _Watched(joint.env)
    try:
        records = [_play(joint, watched, seed + max(0, episode - 1), max_steps) for episode in range(episodes)]
    finally:
        joint.reader.env = joint.env
    _refuse(joint, "", _of_repetition(joint, seed, *records[:2]))
    _refuse(joint, "", of_pictures(joint.env))


class _Watched:
    """The user's environment, which keeps the last observations it returned."""

    def __init__(self, env: Any):
        self.env = env
        self.observations: Any = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.env, name)

    def reset(self, **options: Any) -> Any:
        return self._keep(self.env.reset(**options))

    def step(self, actions: Any) -> Any:
        return self._keep(self.env.step(actions))

    def _keep(self, result: Any) -> Any:
        self.observations = result[0] if isinstance(result, tuple | list) and result else None
        return result


def _play(joint: JointEnv, watched: _Watched, seed: int, max_steps: int) -> list[Any]:
    """Plays an episode; returns all that the joint environment gave."""
    rng = np.random.default_rng(seed)
    seen, _ = joint.reset(seed=seed)
    _refuse(joint, f"At reset(seed={seed}): ", _of_bounds(joint, watched))
    record: list[Any] = [seen]
    for step in range(1, max_steps + 1):
        seen, *rest, info = joint.step(_draw(joint.layout, seen, rng))
        _refuse(joint, f"At step {step} after reset(seed={seed}): ", _of_bounds(joint, watched))
        record.append({**seen, "agent_rewards": info["agent_rewards"], "result": np.array(rest)})
        if rest[1] or rest[2]:
            break
    return record


def _draw(layout: TeamLayout, seen: Arrays, rng: np.random.Generator) -> np.ndarray:
    """A random legal joint action."""
    if not layout.is_discrete:
        return layout.fit(rng.uniform(-1.0, 1.0, layout.action_shape).astype(np.float32), normalize=True, clip=True)
    scores = np.where(seen.get(ACTION_MASK, layout.own_actions), rng.random((layout.n_agents, layout.width)), -1.0)
    components = np.split(scores, np.cumsum(layout.nvec)[:-1], axis=1)
    return np.stack([part.argmax(axis=1) for part in components], axis=1).reshape(layout.action_shape)


def _refuse(joint: JointEnv, where: str, breaches: Breaches) -> None:
    """Raises if there are breaches."""
    refuse(type(joint.env).__name__, "a team's environment", where, breaches)


# -- the promises: each function yields those that are broken -------------------------------------------------


def _of_spaces(joint: JointEnv) -> Breaches:
    layout = joint.layout
    first = zip(layout.agents, layout.observation_spaces, layout.action_spaces, strict=True)
    again = adapt(joint.env)
    for agent, *pair in first:
        if again.spaces_of(agent) != tuple(pair):
            yield "give the same spaces each time it is asked", f"Agent {agent!r} had others the second time."


def _of_bounds(joint: JointEnv, watched: _Watched) -> Breaches:
    for agent, space in zip(joint.layout.agents, joint.layout.observation_spaces, strict=True):
        if agent not in watched.observations:
            continue
        for array in _out_of_bounds(space, watched.observations[agent]):
            yield (
                "give observations within the bounds of their space",
                f"Agent {agent!r} observes values from {array.min()} to {array.max()}. Clip them, or widen the space.",
            )


def _out_of_bounds(space: Space, seen: Any) -> list[np.ndarray]:
    """The arrays among the parts of an observation that leave their Box."""
    if isinstance(space, spaces.Dict):
        return [array for key, part in space.items() if key in seen for array in _out_of_bounds(part, seen[key])]
    if isinstance(space, spaces.Tuple):
        return [array for part, one in zip(space, seen, strict=True) for array in _out_of_bounds(part, one)]
    if not isinstance(space, spaces.Box):
        return []
    array = np.asarray(seen)
    return [] if ((array >= space.low) & (array <= space.high)).all() else [array]


def _of_repetition(joint: JointEnv, seed: int, first: list[Any], second: list[Any]) -> Breaches:
    """Two episodes with the same seed."""
    if len(first) != len(second) or not all(map(_same, first, second)):
        unseeded = "" if joint.reader.can_be_seeded else " Its reset() has no parameter `seed`: add it."
        yield "play the same episode for the same seed and actions", f"reset(seed={seed}) gave two.{unseeded}"


def _same(a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray]) -> bool:
    return all(np.array_equal(a[key], b[key]) for key in a)
