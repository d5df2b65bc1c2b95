"""Joint environments: the wrapper for multi-agent environments, its check, and the catalog of named environments."""

from rllib_seqmarl.envs.batched_simulator import BatchedSimulator, BatchObservation, StepResult
from rllib_seqmarl.envs.catalog import CATALOG, EnvEntry, make_env, make_joint_env
from rllib_seqmarl.envs.check import check_joint_env
from rllib_seqmarl.envs.errors import JointEnvError, LayoutError
from rllib_seqmarl.envs.joint_env import JointEnv
from rllib_seqmarl.envs.layout import TeamLayout

__all__ = [
    "CATALOG",
    "BatchObservation",
    "BatchedSimulator",
    "EnvEntry",
    "JointEnv",
    "JointEnvError",
    "LayoutError",
    "StepResult",
    "TeamLayout",
    "check_joint_env",
    "make_env",
    "make_joint_env",
]
