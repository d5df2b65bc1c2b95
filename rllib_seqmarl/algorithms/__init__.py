"""The algorithms and their configs, one file per family."""

from rllib_seqmarl.algorithms.joint_ppo import JointPPO
from rllib_seqmarl.algorithms.joint_ppo_config import JointPPOConfig
from rllib_seqmarl.algorithms.mam import MAM, MAMConfig
from rllib_seqmarl.algorithms.marwkv import MARWKV, MARWKVConfig
from rllib_seqmarl.algorithms.mat import MAT, MATConfig

__all__ = ["MAM", "MARWKV", "MAT", "JointPPO", "JointPPOConfig", "MAMConfig", "MARWKVConfig", "MATConfig"]
