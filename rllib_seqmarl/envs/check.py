"""A check that users can run on their multi-agent environments.

The counterpart of gymnasium's `check_env` and PettingZoo's `parallel_api_test` for both kinds of multi-agent
environment and for batches of teams (`check_batch.py`). The environment is played through the same JointEnv as in
training, so training errors are raised here with the same messages. Checks that need a repetition or a comparison are
added.
"""

from typing import Any

import numpy as np
from gymnasium import spaces

from rllib_seqmarl.envs.adapters import reset_options, spaces_of
from rllib_seqmarl.envs.agent_spaces import Space
from rllib_seqmarl.envs.batched_simulator import BatchedSimulator
from rllib_seqmarl.envs.catalog import EnvConfig, make_batch, make_joint_env
from rllib_seqmarl.envs.check_batch import check_batch
from rllib_seqmarl.envs.contract import Violations, check_rendering, raise_violations
from rllib_seqmarl.envs.joint_env import JointEnv
from rllib_seqmarl.envs.layout import ACTION_MASK
from rllib_seqmarl.envs.vector_env import check_copies

COPIES = 3  # of a batch made for the check: enough to detect interference


def check_joint_env(
    env: Any, env_config: EnvConfig | None = None, *, episodes: int = 3, max_steps: int = 200, seed: int = 0
) -> None:
    """Play an environment with random legal actions and raise if it violates the contract.

    Args:
        env: A JointEnv (played with its options), MultiAgentEnv, ParallelEnv or BatchedSimulator, or anything that
            `make_env` accepts (a name, class or creator). Sources of batches are checked as a batch of three copies.
        env_config: Options, if `env` is a name, class or creator.
        episodes: Number of episodes (per copy of a batch), at least 2.
        max_steps: Number of steps after which an episode is abandoned. The final observations of a batch are checked
            only if its episodes end earlier.
        seed: Seed of the resets and the random actions.

    Raises:
        JointEnvError: The environment violates the contract.
        ValueError, ImportError, TypeError: The environment cannot be made; see `make_env`.
    """
    if isinstance(env, str | type) or not hasattr(env, "step"):
        batch = make_batch(env, COPIES, env_config)
        if batch is None:
            copies = [make_joint_env(env, env_config) for _ in range(2)]
            check_copies(copies)
            _check_joint(copies[0], episodes, max_steps, seed)
            copies[1].close()
            return
        env = batch
    if isinstance(env, BatchedSimulator):
        check_batch(env, episodes=episodes, max_steps=max_steps, seed=seed)
    else:
        _check_joint(env if isinstance(env, JointEnv) else JointEnv(env), episodes, max_steps, seed)


def _check_joint(joint: JointEnv, episodes: int, max_steps: int, seed: int) -> None:
    _raise_violations(joint, "", _check_spaces(joint))
    joint.reader.env = wrapped = _LastObservations(joint.env)
    try:
        records = [_play(joint, wrapped, seed + max(0, episode - 1), max_steps) for episode in range(episodes)]
    finally:
        joint.reader.env = joint.env
    _raise_violations(joint, "", _check_determinism(joint, seed, *records[:2]))
    _raise_violations(joint, "", check_rendering(joint.env))


class _LastObservations:
    """Wraps the user's environment and keeps its last observations."""

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


def _play(joint: JointEnv, wrapped: _LastObservations, seed: int, max_steps: int) -> list[Any]:
    """Play an episode and return all results of the joint environment."""
    rng = np.random.default_rng(seed)
    observation, _ = joint.reset(seed=seed)
    _raise_violations(joint, f"At reset(seed={seed}): ", _check_bounds(joint, wrapped))
    record: list[Any] = [observation]
    for step in range(1, max_steps + 1):
        mask = observation.get(ACTION_MASK)  # (n, width)
        (action,) = joint.layout.sample(rng, 1, None if mask is None else mask[None])
        observation, *rest, info = joint.step(action)
        _raise_violations(joint, f"At step {step} after reset(seed={seed}): ", _check_bounds(joint, wrapped))
        record.append({**observation, "agent_rewards": info["agent_rewards"], "result": np.array(rest)})
        if rest[1] or rest[2]:
            break
    return record


def _raise_violations(joint: JointEnv, where: str, violations: Violations) -> None:
    raise_violations(type(joint.env).__name__, "multi-agent environment", where, violations)


# -- checks: each function yields violations ------------------------------------------------------------------


def _check_spaces(joint: JointEnv) -> Violations:
    layout = joint.layout
    for agent, *pair in zip(layout.agents, layout.observation_spaces, layout.action_spaces, strict=True):
        if spaces_of(joint.env, agent) != tuple(pair):
            yield "return the same spaces every time", f"Those of agent {agent!r} differed the second time."


def _check_bounds(joint: JointEnv, wrapped: _LastObservations) -> Violations:
    for agent, space in zip(joint.layout.agents, joint.layout.observation_spaces, strict=True):
        if agent not in wrapped.observations:
            continue
        for array in _out_of_bounds(space, wrapped.observations[agent]):
            yield (
                "return observations within the bounds of their space",
                f"Agent {agent!r} observes values from {array.min()} to {array.max()}. Clip them, or widen the space.",
            )


def _out_of_bounds(space: Space, observation: Any) -> list[np.ndarray]:
    """The arrays in an observation that exceed the bounds of their Box."""
    if isinstance(space, spaces.Dict):
        shared = (key for key in space.spaces if key in observation)
        return [array for key in shared for array in _out_of_bounds(space[key], observation[key])]
    if isinstance(space, spaces.Tuple):
        return [array for part, one in zip(space, observation, strict=True) for array in _out_of_bounds(part, one)]
    if not isinstance(space, spaces.Box):
        return []
    array = np.asarray(observation)
    return [] if ((array >= space.low) & (array <= space.high)).all() else [array]


def _check_determinism(joint: JointEnv, seed: int, first: list[Any], second: list[Any]) -> Violations:
    """Compare two episodes with the same seed."""
    is_same = all(np.array_equal(a[key], b[key]) for a, b in zip(first, second, strict=False) for key in a)
    if len(first) != len(second) or not is_same:
        remedy = "" if "seed" in reset_options(joint.env) else " Its reset() has no parameter `seed`: add it."
        yield "play the same episode for the same seed and actions", f"Two with reset(seed={seed}) differed.{remedy}"
