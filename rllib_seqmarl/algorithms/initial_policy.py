"""Training that begins with the weights of a trained policy, of this team or of another one."""

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
    from rllib_seqmarl.algorithms.joint_ppo import JointPPOConfig

# How JointSequenceModule calls its parts.
_NETWORK, _NORMALIZER = "network.", "value_normalizer."


@dataclass(frozen=True)
class InitialPolicy:
    """A policy's weights, and the team that they are for.

    Attributes:
        trained: The network and what its inputs are.
        weights: Its parameters.
        normalizer: The statistics of its value normaliser; empty if it was trained without.
    """

    trained: Trained
    weights: dict[str, Tensor]
    normalizer: dict[str, Tensor]

    @classmethod
    def read(cls, path: str) -> InitialPolicy:
        """Reads a checkpoint's policy or an exported one; nothing is unpickled.

        Raises:
            ValueError: There is none, or it is damaged.
        """
        saved = read_policy(find_policy(path))
        return cls(_trained(saved.network.config, saved.layout), saved.network.state_dict(), saved.normalizer)


def check_initial_policy(config: JointPPOConfig, network_options: dict[str, Any]) -> None:
    """Checks of `config.initial_policy` that need no environment.

    Args:
        config: The algorithm's.
        network_options: What it says of the network.

    Raises:
        ValueError: There is no such policy, or its network is of another kind.
    """
    if config.initial_policy is None:
        return
    try:
        policy = InitialPolicy.read(config.initial_policy)
        check_alike(policy.trained.config, replace(policy.trained.config, **network_options))
        if bool(policy.normalizer) != config.use_value_norm:
            raise ValueError(
                f"it was trained with use_value_norm={bool(policy.normalizer)}, and its values mean something else "
                f"here. Write use_value_norm={bool(policy.normalizer)}."
            )
    except ValueError as error:
        raise _named(config.initial_policy, error) from None


def start_from(path: str, learners: LearnerGroup, spec: MultiRLModuleSpec) -> None:
    """Gives all learners the weights of the policy at `path`.

    Args:
        path: A checkpoint's directory or an exported policy.
        learners: As they are built.
        spec: What they are built from.

    Raises:
        ValueError: The policy is of another kind than this team's.
    """
    module = spec[DEFAULT_MODULE_ID]
    config = network_config(module.observation_space, module.action_space, module.model_config)
    layout = getattr(module.observation_space, "layout", None)
    state = learners.get_weights()[DEFAULT_MODULE_ID]
    fresh = {name.removeprefix(_NETWORK): torch.tensor(value) for name, value in state.items()}
    fresh = {name: value for name, value in fresh.items() if not name.startswith(_NORMALIZER)}
    try:
        policy = InitialPolicy.read(path)
        weights = carried_over(policy.trained, policy.weights, _trained(config, layout), fresh)
    except ValueError as error:
        raise _named(path, error) from None
    learners.set_weights(
        {
            DEFAULT_MODULE_ID: {
                **{_NETWORK + name: value.numpy() for name, value in weights.items()},
                **{_NORMALIZER + name: value.numpy() for name, value in policy.normalizer.items()},
            }
        }
    )


def _trained(config: NetworkConfig, layout: TeamLayout | None) -> Trained:
    """A network and its inputs. Where connectors of the user's change observations, all of it is the agents' own."""
    if layout is None or layout.obs_dim + layout.state_dim != config.obs_dim:
        return Trained(config)
    return Trained(config, layout.n_agents if layout.agent_ids else 0, layout.state_dim)


def _named(path: str, error: ValueError) -> ValueError:
    return ValueError(f"initial_policy={path!r} cannot be taken: {error}")
