"""The algorithms and their configs, one file per family."""

from rllib_seqmarl.algorithms.happo import HAPPO, HAPPOConfig
from rllib_seqmarl.algorithms.ippo import IPPO, IPPOConfig
from rllib_seqmarl.algorithms.joint_ppo import JointPPO
from rllib_seqmarl.algorithms.joint_ppo_config import JointPPOConfig
from rllib_seqmarl.algorithms.mam import MAM, MAMConfig
from rllib_seqmarl.algorithms.mappo import MAPPO, MAPPOConfig
from rllib_seqmarl.algorithms.marwkv import MARWKV, MARWKVConfig
from rllib_seqmarl.algorithms.mat import MAT, MATConfig
from rllib_seqmarl.algorithms.mat_dec import MATDec, MATDecConfig
from rllib_seqmarl.algorithms.sable import Sable, SableConfig

__all__ = [
    "HAPPO",
    "IPPO",
    "MAM",
    "MAPPO",
    "MARWKV",
    "MAT",
    "HAPPOConfig",
    "IPPOConfig",
    "JointPPO",
    "JointPPOConfig",
    "MAMConfig",
    "MAPPOConfig",
    "MARWKVConfig",
    "MATConfig",
    "MATDec",
    "MATDecConfig",
    "Sable",
    "SableConfig",
]
