"""Initialisation of training from a trained policy of the same or another team."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.learner.learner_group import LearnerGroup
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModuleSpec
from torch import Tensor

from rllib_seqmarl.envs.layout import TeamLayout
from rllib_seqmarl.modules.joint_sequence_module import network_config
from rllib_seqmarl.networks import NetworkConfig
from rllib_seqmarl.networks.transfer import Trained, carried_over, check_alike
from rllib_seqmarl.policy import find_policy, read_policy

if TYPE_CHECKING:
    from rllib_seqmarl.algorithms.joint_ppo_config import JointPPOConfig

# Parameter prefixes in JointSequenceModule.
_NETWORK, _NORMALIZER = "network.", "value_normalizer."


@dataclass(frozen=True)
class InitialPolicy:
    """The weights of a policy and the team it was trained for.

    Attributes:
        trained: The network's config and the layout of its inputs.
        weights: The network's parameters.
        normalizer: The statistics of the value normaliser; empty if the policy was trained without one.
    """

    trained: Trained
    weights: dict[str, Tensor]
    normalizer: dict[str, Tensor]

    @classmethod
    def read(cls, path: str) -> InitialPolicy:
        """Read the policy of a checkpoint or an exported policy, without unpickling.

        Raises:
            ValueError: The policy is missing or damaged.
        """
        saved = read_policy(find_policy(path))
        return cls(_trained(saved.network.config, saved.layout), saved.network.state_dict(), saved.normalizer)


def check_initial_policy(config: JointPPOConfig, network_options: dict[str, Any]) -> None:
    """Check `config.initial_policy` as far as possible without an environment.

    Args:
        config: The algorithm's config.
        network_options: The network options in `config`.

    Raises:
        ValueError: The policy is missing, or its network is incompatible.
    """
    if config.initial_policy is None:
        return
    try:
        policy = InitialPolicy.read(config.initial_policy)
        check_alike(policy.trained.config, replace(policy.trained.config, **network_options))
        if bool(policy.normalizer) != config.use_value_norm:
            raise ValueError(
                f"it was trained with use_value_norm={bool(policy.normalizer)}, so its values have another scale. "
                f"Set use_value_norm={bool(policy.normalizer)}."
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
    config = network_config(module.observation_space, module.action_space, module.model_config)
    layout = getattr(module.observation_space, "layout", None)
    state = learners.get_weights()[DEFAULT_MODULE_ID]
    initial = {name.removeprefix(_NETWORK): torch.tensor(value) for name, value in state.items()}
    initial = {name: value for name, value in initial.items() if not name.startswith(_NORMALIZER)}
    try:
        policy = InitialPolicy.read(path)
        weights = carried_over(policy.trained, policy.weights, _trained(config, layout), initial)
    except ValueError as error:
        raise _with_path(path, error) from None
    learners.set_weights(
        {
            DEFAULT_MODULE_ID: {
                **{_NETWORK + name: value.numpy() for name, value in weights.items()},
                **{_NORMALIZER + name: value.numpy() for name, value in policy.normalizer.items()},
            }
        }
    )


def _trained(config: NetworkConfig, layout: TeamLayout | None) -> Trained:
    """Describe a network and its inputs; if user connectors change observations, all inputs are the agents' own."""
    if layout is None or layout.obs_dim + layout.state_dim != config.obs_dim:
        return Trained(config)
    return Trained(config, layout.n_agents if layout.agent_ids else 0, layout.state_dim)


def _with_path(path: str, error: ValueError) -> ValueError:
    return ValueError(f"initial_policy={path!r} cannot be used: {error}")
