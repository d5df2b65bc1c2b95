"""Evaluation of a trained team on whole episodes with fixed seeds, without Ray."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rllib_seqmarl.envs.joint_env_creator import JointEnvCreator
from rllib_seqmarl.envs.vector_env import JointVector, JointVectorEnv
from rllib_seqmarl.experiments.animation import Frame
from rllib_seqmarl.experiments.errors import ExperimentError
from rllib_seqmarl.experiments.failures import root_message
from rllib_seqmarl.experiments.random_policy import RandomPolicy
from rllib_seqmarl.policies.export import ExportError
from rllib_seqmarl.policy import JointPolicy

PARALLEL_EPISODES = 32
"""Default number of episodes that are played in parallel."""


@dataclass(frozen=True)
class Evaluation:
    """The results of some episodes.

    Attributes:
        team_returns: (episodes,), the sum of the team's rewards.
        agent_returns: Agent -> (episodes,), the sum of the agent's own rewards.
        lengths: (episodes,), in env steps.
        wins: (episodes,), from 0 to 1; None if the environment reports none.
        frames: The frames of the rendered episodes, in order.
    """

    team_returns: np.ndarray
    agent_returns: dict[str, np.ndarray]
    lengths: np.ndarray
    wins: np.ndarray | None
    frames: list[Frame]

    def summary(self) -> str:
        """Return the results as text, one per line: mean and standard deviation over the episodes."""
        rows = [("team return", _spread(self.team_returns))]
        rows += [(f"  {agent}", _spread(returns)) for agent, returns in self.agent_returns.items()]
        rows.append(("episode length", _spread(self.lengths)))
        if self.wins is not None:
            rows.append(("win rate", f"{self.wins.mean():.1%}"))
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def _spread(values: np.ndarray) -> str:
    return f"{values.mean():.2f} +- {values.std():.2f}"


def load_policy(checkpoint: Path) -> JointPolicy:
    """Load the policy from a checkpoint folder.

    Raises:
        ExperimentError: The policy is missing, damaged or of another version.
    """
    try:
        return JointPolicy.from_checkpoint(checkpoint)
    except (ExportError, ValueError) as error:
        raise ExperimentError(str(error)) from error
    except (OSError, RuntimeError, LookupError, TypeError, AttributeError) as error:  # caused by damaged files
        raise ExperimentError(f"{checkpoint}: the policy cannot be loaded: {root_message(error)}") from error


def policy_env(
    policy: JointPolicy,
    env: str | None = None,
    env_config: Mapping[str, Any] | None = None,
    *,
    num_envs: int = 1,
    render: bool = False,
) -> JointVector:
    """Create the joint environment that a policy was trained in, with the same options.

    Args:
        policy: The policy.
        env: The name of another environment to use instead, without the options of training.
        env_config: Options of the environment; for that of training, they override its options.
        num_envs: The number of parallel environments.
        render: Whether the environment renders pictures.

    Raises:
        ExperimentError: The environment cannot be created or does not match the policy's spaces.
    """
    deployment = policy.deployment
    name = env or deployment["env"]
    left_out = [key for key in deployment["env_config_left_out"] if env is None and key not in (env_config or {})]
    if left_out:
        raise ExperimentError(
            f"the policy's environment cannot be created: its env_config had {', '.join(map(repr, left_out))}, which "
            f"cannot be saved. Use `JointPolicy.from_checkpoint(...).act(...)` in a program that creates it."
        )
    options = ({} if name != deployment["env"] else deployment["env_config"]) | dict(env_config or {})
    if render:
        options["render_mode"] = "rgb_array"
    try:
        joint = JointEnvCreator(name, **deployment["joint_options"]).make_vector(num_envs, options)
    except (ValueError, TypeError, ImportError) as error:
        raise ExperimentError(
            f"the policy's environment cannot be created: {error} Name one with --env, or use "
            f"`JointPolicy.from_checkpoint(...).act(...)` in a program that creates it."
        ) from error
    have, want = joint.layout, policy.layout
    if have.observation_space != want.observation_space or have.action_space != want.action_space:
        raise ExperimentError(
            f"environment '{name}' does not match the policy: it has {have.n_agents} agents with {have.obs_dim} "
            f"observations and {have.width} actions, but the policy was trained with {want.n_agents}, {want.obs_dim} "
            f"and {want.width}. Use the env_config of training."
        )
    return joint


def evaluate(
    policy: JointPolicy | RandomPolicy,
    env: JointVector,
    episodes: int,
    *,
    explore: bool = False,
    seed: int = 0,
    draw: int = 0,
) -> Evaluation:
    """Play whole episodes and return their results. The same policy, environment and seed give the same result.

    Args:
        policy: The team's policy.
        env: The environments, from `policy_env`; each plays one episode at a time. Sampled actions depend on the number
            of environments, greedy actions do not.
        episodes: The number of episodes; episode i is reset with `seed + i`.
        explore: Whether to sample actions instead of taking the most probable ones.
        seed: The seed of the episodes and of sampling.
        draw: The number of the first environment's episodes to render.

    Raises:
        ExperimentError: The environment does not render pictures.
    """
    torch.manual_seed(seed)
    team_returns, lengths = np.zeros(episodes), np.zeros(episodes, np.int64)
    agent_returns, wins = np.zeros((env.layout.n_agents, episodes)), np.full(episodes, np.nan)
    frames: list[Frame] = []
    for first in range(0, episodes, env.num_envs):
        policy.reset()
        observations, _ = env.reset(seed=[seed + first + i for i in range(env.num_envs)])
        is_rendered = draw * env.num_envs > first
        if is_rendered:
            frames.append(_frame(env, f"episode {first + 1} | start", alive=observations["alive"][0]))
        # Indices of the episodes being played; minus `first`, those of their environments.
        playing = np.arange(first, min(first + env.num_envs, episodes))
        while playing.size:
            actions, alive = policy.act_for_many(observations, explore=explore), observations["alive"][0].copy()
            observations, rewards, terminated, truncated, infos = env.step(actions)
            env_indices = playing - first
            team_returns[playing] += rewards[env_indices]
            lengths[playing] += 1
            done = terminated | truncated
            if is_rendered and env_indices[0] == 0:
                headline = _headline(first, lengths[first], team_returns[first], rewards[0], infos, ended=done[0])
                frames.append(_frame(env, headline, actions[0], alive))
            ended = done[env_indices]
            if ended.any():
                agent_returns[:, playing[ended]] = infos["episode_agent_returns"][env_indices[ended]].T
                if "win" in infos:
                    wins[playing[ended]] = infos["win"][env_indices[ended]]
                playing = playing[~ended]  # finished environments are still stepped, but ignored
    return Evaluation(
        team_returns=team_returns,
        agent_returns={str(agent): row for agent, row in zip(env.layout.agents, agent_returns, strict=True)},
        lengths=lengths,
        wins=None if np.isnan(wins).all() else wins[~np.isnan(wins)],
        frames=frames,
    )


def _headline(
    first: int, step: int, team_return: float, reward: float, infos: Mapping[str, Any], *, ended: bool
) -> str:
    parts = [f"episode {first + 1}", f"step {step}", f"reward {reward:.2f}", f"return {team_return:.2f}"]
    if ended:
        parts.append("end" if "win" not in infos else "won" if infos["win"][0] > 0 else "lost")
    return " | ".join(parts)


def _frame(env: JointVector, headline: str, actions: np.ndarray | None = None, alive: Any = None) -> Frame:
    """Return the first environment's picture with its agents' actions, if any."""
    try:
        picture = env.envs[0].render() if isinstance(env, JointVectorEnv) else (env.render() or (None,))[0]
    except NotImplementedError:
        picture = None
    if not isinstance(picture, np.ndarray) or picture.ndim != 3:
        raise ExperimentError(f"environment '{env.name}' does not support render_mode 'rgb_array'; omit --render.")
    split = {} if actions is None else env.layout.split(actions)
    agents = [
        f"{agent}: {_format_action(split[agent]) if agent in split else 'ready'}" if is_alive else f"{agent}: dead"
        for agent, is_alive in zip(env.layout.agents, alive, strict=True)
    ]
    return Frame(picture, headline, tuple(agents))


def _format_action(action: Any) -> str:
    """Format an action briefly: "3", "3, 1", "0.25, -0.70"."""
    values = np.asarray(action).reshape(-1).tolist()
    shown = [f"{value:.2f}" if isinstance(value, float) else str(value) for value in values[:3]]
    return ", ".join(shown + (["..."] if len(values) > 3 else []))
