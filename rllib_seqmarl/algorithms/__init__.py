"""What a user configures: one short file per algorithm family."""

from rllib_seqmarl.algorithms.joint_ppo import JointPPO, JointPPOConfig
from rllib_seqmarl.algorithms.mat import MAT, MATConfig

__all__ = ["MAT", "JointPPO", "JointPPOConfig", "MATConfig"]
