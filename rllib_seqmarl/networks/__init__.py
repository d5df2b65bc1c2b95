"""The networks: pure torch, usable without Ray."""

from rllib_seqmarl.networks.config import ActionSpec, NetworkConfig
from rllib_seqmarl.networks.joint_policy_network import JointPolicyNetwork
from rllib_seqmarl.networks.published import load_published_marwkv, load_published_mat
from rllib_seqmarl.networks.value_normalizer import ValueNormalizer

__all__ = [
    "ActionSpec",
    "JointPolicyNetwork",
    "NetworkConfig",
    "ValueNormalizer",
    "load_published_marwkv",
    "load_published_mat",
]
