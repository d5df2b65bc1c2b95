"""Checks that evaluation uses the policy that is trained: its options before training, its team once there is one."""

from __future__ import annotations

import inspect
import reprlib
from typing import TYPE_CHECKING, Any

import gymnasium as gym
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.env.env_runner_group import EnvRunnerGroup

from rllib_seqmarl.modules.joint_sequence_module import network_config

if TYPE_CHECKING:
    from rllib_seqmarl.algorithms.joint_ppo import JointPPOConfig

# RLlib overwrites these in an evaluation config.
_OVERWRITTEN = {
    "num_env_runners": "write 'evaluation_num_env_runners' instead",
    "batch_mode": "write 'evaluation_duration_unit' instead",
    "rollout_fragment_length": "write 'evaluation_duration' instead",
}
_LEARNING = "evaluation uses the policy that is trained. Remove it, or set it outside of evaluation_config"


def check_evaluation_options(config: JointPPOConfig) -> None:
    """Checks `evaluation_config`, which RLlib itself checks only after all env runners have started.

    Raises:
        ValueError: An option is wrong in itself, or has no effect on evaluation.
    """
    overrides = config.evaluation_config
    if not overrides:
        return
    if not isinstance(overrides, dict):
        if not isinstance(overrides, type(config)):
            raise ValueError(
                f"evaluation_config is a {type(overrides).__name__}; give a dict of the options that differ, or a "
                f"{type(config).__name__}."
            )
        overrides = {}
    try:
        config.get_evaluation_config_object().validate()
    except ValueError as error:
        raise ValueError(f"evaluation_config: {error}") from None
    of_learning = _options_of(type(config), "training", "network", "learners")
    no_effect = {**dict.fromkeys(of_learning, _LEARNING), **_OVERWRITTEN}
    for name, value in overrides.items():
        key = config._translate_special_keys(name, warn_deprecated=False)
        if key in no_effect and value != getattr(config, key, None):
            raise ValueError(f"evaluation_config: {name}={reprlib.repr(value)} has no effect: {no_effect[key]}.")


def _options_of(config_class: type, *methods: str) -> set[str]:
    """The options that a config class, or one that it derives from, sets by these methods."""
    found = {vars(cls)[name] for cls in config_class.__mro__ for name in methods if name in vars(cls)}
    return {name for method in found for name in inspect.signature(method).parameters} - {"self", "kwargs"}


def check_evaluation_team(config: JointPPOConfig, training: EnvRunnerGroup, evaluation: EnvRunnerGroup | None) -> None:
    """Checks that the network that is trained can act in the evaluation environment.

    Raises:
        ValueError: It has other inputs or outputs there.
    """
    if evaluation is None:
        return
    ours, theirs = (group.get_spaces()[DEFAULT_MODULE_ID] for group in (training, evaluation))
    if _inputs(config, *ours) != _inputs(config, *theirs):
        hint = "; with `joint_env(agent_ids=False)` the number of agents may differ" if config.agent_ids else ""
        raise ValueError(
            f"evaluation_config: the policy is trained for {_described(*ours)}, and cannot act for "
            f"{_described(*theirs)} in the evaluation environment. Give both environments the same agents, "
            f"observations and actions{hint}."
        )


def _inputs(config: JointPPOConfig, obs_space: Any, action_space: gym.Space) -> tuple[Any, ...]:
    """The properties that must agree for one network to act in two environments."""
    n_agents, obs_dim = obs_space["observations"].shape[0], obs_space["observations"].shape[1:]
    network = network_config(obs_space, action_space, config.model_config)
    return network, obs_dim, n_agents if config.agent_ids else None


def _described(obs_space: Any, action_space: gym.Space) -> str:
    n_agents, *obs_dim = obs_space["observations"].shape
    state = f", a state of {obs_space['state'].shape[0]}" if "state" in obs_space.spaces else ""
    return f"{n_agents} agents with {obs_dim[-1]} observed numbers each{state} and {_actions(action_space)}"


def _actions(space: Any) -> str:
    if isinstance(space, gym.spaces.MultiDiscrete):
        return f"{space.nvec.reshape(len(space.nvec), -1).max(axis=0).tolist()} actions"
    return f"actions of {space.shape[-1]} numbers"
