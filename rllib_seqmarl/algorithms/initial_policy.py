"""Initialisation of training from a trained policy of the same or another team."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.learner.learner_group import LearnerGroup
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModuleSpec

from rllib_seqmarl.envs.layout import TeamLayout
from rllib_seqmarl.modules.joint_sequence_module import make_policy
from rllib_seqmarl.policies import Policy
from rllib_seqmarl.policies.transfer import Trained, carried_over, check_alike
from rllib_seqmarl.policy import find_policy, read_policy

if TYPE_CHECKING:
    from rllib_seqmarl.algorithms.joint_ppo_config import JointPPOConfig

_NETWORK, _NORMALIZER = "network.", "value_normalizer."  # prefixes of parameters in JointSequenceModule


def check_initial_policy(config: JointPPOConfig, policy_class: type[Policy], options: dict[str, Any]) -> None:
    """Check `config.initial_policy` as far as possible without an environment.

    Args:
        config: The algorithm's config.
        policy_class: The policy that it trains.
        options: The policy's options in `config`.

    Raises:
        ValueError: The policy is missing, or its network is incompatible.
    """
    if config.initial_policy is None:
        return
    try:
        saved = read_policy(find_policy(config.initial_policy))
        trained = _trained(saved.network, saved.layout)
        here = replace(trained, policy=policy_class)
        if policy_class is trained.policy:
            here = replace(here, config=replace(here.config, **options))
        check_alike(trained, here)
        uses_norm = saved.value_normalizer is not None
        if uses_norm != config.use_value_norm:
            raise ValueError(
                f"it was trained with use_value_norm={uses_norm}, so its values have another scale. Set "
                f"use_value_norm={uses_norm}."
            )
    except ValueError as error:
        raise _with_path(config.initial_policy, error) from None


def load_initial_policy(path: str, learners: LearnerGroup, spec: MultiRLModuleSpec) -> None:
    """Set the weights of all learners to those of the policy at `path`.

    Args:
        path: A checkpoint directory or an exported policy.
        learners: The newly built learners.
        spec: The module spec they were built from.

    Raises:
        ValueError: The policy is incompatible with this team.
    """
    module = spec[DEFAULT_MODULE_ID]
    network = make_policy(module.observation_space, module.action_space, module.model_config)
    layout = getattr(module.observation_space, "layout", None)
    state = learners.get_weights()[DEFAULT_MODULE_ID]
    initial = {
        name.removeprefix(_NETWORK): torch.tensor(value) for name, value in state.items() if name.startswith(_NETWORK)
    }
    try:
        saved = read_policy(find_policy(path))
        trained = _trained(saved.network, saved.layout)
        weights = carried_over(trained, saved.network.state_dict(), _trained(network, layout), initial)
    except ValueError as error:
        raise _with_path(path, error) from None
    normalizer = {} if saved.value_normalizer is None else saved.value_normalizer.state_dict()
    tensors = {_NETWORK + name: value for name, value in weights.items()}
    tensors |= {_NORMALIZER + name: value for name, value in normalizer.items()}
    learners.set_weights({DEFAULT_MODULE_ID: {name: value.numpy() for name, value in tensors.items()}})


def _trained(policy: Policy, layout: TeamLayout | None) -> Trained:
    """Describe a policy and its inputs; if user connectors change observations, all inputs are the agents' own."""
    has_ids = layout is not None and layout.obs_dim == policy.config.obs_dim and layout.agent_ids
    return Trained(type(policy), policy.config, layout.n_agents if layout is not None and has_ids else 0)


def _with_path(path: str, error: ValueError) -> ValueError:
    return ValueError(f"initial_policy={path!r} cannot be used: {error}")
