"""Multi-agent environments as joint ones: the wrapper, its check, and the table of known environments."""

from rllib_seqmarl.envs.catalog import CATALOG, EnvEntry, make_env, make_joint_env
from rllib_seqmarl.envs.check import check_joint_env
from rllib_seqmarl.envs.errors import JointEnvError, LayoutError
from rllib_seqmarl.envs.joint_env import JointEnv
from rllib_seqmarl.envs.layout import TeamLayout
from rllib_seqmarl.envs.team_batch import Moved, Seen, TeamBatch

__all__ = [
    "CATALOG",
    "EnvEntry",
    "JointEnv",
    "JointEnvError",
    "LayoutError",
    "Moved",
    "Seen",
    "TeamBatch",
    "TeamLayout",
    "check_joint_env",
    "make_env",
    "make_joint_env",
]
