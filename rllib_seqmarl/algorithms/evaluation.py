"""Checks that the evaluation settings and environment are compatible with the trained policy."""

from __future__ import annotations

import inspect
import reprlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import gymnasium as gym
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.env.env_runner_group import EnvRunnerGroup

from rllib_seqmarl.modules.joint_sequence_module import policy_config

if TYPE_CHECKING:
    from rllib_seqmarl.algorithms.joint_ppo_config import JointPPOConfig

# RLlib overwrites these options in evaluation configs.
_OVERWRITTEN = {
    "num_env_runners": "write 'evaluation_num_env_runners' instead",
    "batch_mode": "write 'evaluation_duration_unit' instead",
    "rollout_fragment_length": "write 'evaluation_duration' instead",
}
_LEARNING = "evaluation uses the policy being trained. Remove it, or set it outside of evaluation_config"


def check_evaluation_options(config: JointPPOConfig) -> None:
    """Check `evaluation_config`, which RLlib itself checks only after all env runners have started.

    Raises:
        ValueError: An option is invalid or has no effect on evaluation.
    """
    overrides = config.evaluation_config
    if not overrides:
        return
    if not isinstance(overrides, dict | type(config)):
        raise ValueError(
            f"evaluation_config is a {type(overrides).__name__}; pass a dict of the options that differ, or a "
            f"{type(config).__name__}."
        )
    try:
        config.get_evaluation_config_object().validate()
    except ValueError as error:
        raise ValueError(f"evaluation_config: {error}") from None
    if not isinstance(overrides, dict):
        return
    options = config._options
    learned = {*_method_options(type(config), "training", "network", "learners"), *options}
    no_effect = dict.fromkeys(learned, _LEARNING) | _OVERWRITTEN
    for name, value in overrides.items():
        key = config._translate_special_keys(name, warn_deprecated=False)
        if key in no_effect and value != options.get(key, getattr(config, key, None)):
            raise ValueError(f"evaluation_config: {name}={reprlib.repr(value)} has no effect: {no_effect[key]}.")


def _method_options(config_class: type, *methods: str) -> set[str]:
    """Return the options that the given methods of a config class and its bases accept."""
    functions = {vars(cls)[name] for cls in config_class.__mro__ for name in methods if name in vars(cls)}
    return {name for function in functions for name in inspect.signature(function).parameters} - {"self", "kwargs"}


def check_evaluation_team(config: JointPPOConfig, training: EnvRunnerGroup, evaluation: EnvRunnerGroup | None) -> None:
    """Check that the trained network can act in the evaluation environment.

    Raises:
        ValueError: The network's inputs or outputs differ between the two environments.
    """
    if evaluation is None:
        return
    training_spaces, evaluation_spaces = (group.get_spaces()[DEFAULT_MODULE_ID] for group in (training, evaluation))
    if _network_inputs(config, *training_spaces) != _network_inputs(config, *evaluation_spaces):
        hint = "; with `joint_env(agent_ids=False)` the number of agents may differ" if config.agent_ids else ""
        raise ValueError(
            f"evaluation_config: the policy is trained for {_describe(*training_spaces)}, and cannot act for "
            f"{_describe(*evaluation_spaces)} in the evaluation environment. Both environments need the same agents, "
            f"observations and actions{hint}."
        )


def _network_inputs(config: JointPPOConfig, obs_space: Any, action_space: gym.Space) -> tuple[Any, ...]:
    """Return the properties that must match for one network to act in two environments."""
    obs_dim = obs_space["observations"].shape[1:]
    policy = policy_config(obs_space, action_space, config.model_config)
    any_number = not config.agent_ids and not policy.needs_n_agents
    return replace(policy, n_agents=None) if any_number else policy, obs_dim


def _describe(obs_space: Any, action_space: Any) -> str:
    n_agents, *obs_dim = obs_space["observations"].shape
    state = f", a state of {obs_space['state'].shape[-1]}" if "state" in obs_space.spaces else ""
    actions = f"actions of {action_space.shape[-1]} numbers"
    if isinstance(action_space, gym.spaces.MultiDiscrete):
        actions = f"{action_space.nvec.reshape(n_agents, -1).max(axis=0).tolist()} actions"
    return f"{n_agents} agents with {obs_dim[-1]} observed numbers each{state} and {actions}"
