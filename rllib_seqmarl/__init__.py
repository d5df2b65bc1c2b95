"""Cooperative multi-agent reinforcement learning as sequence modelling, on Ray RLlib.

Importing the package makes its algorithms and environments known to RLlib and Tune by their names. Where Ray is not
installed, the networks and trained policies still work.
"""

from importlib.util import find_spec

from rllib_seqmarl.envs import JointEnv, check_joint_env, make_joint_env
from rllib_seqmarl.mixers import register_mixer
from rllib_seqmarl.networks import load_published_marwkv, load_published_mat
from rllib_seqmarl.policy import JointPolicy
from rllib_seqmarl.version import __version__

__all__ = [
    "JointEnv",
    "JointPolicy",
    "__version__",
    "check_joint_env",
    "load_published_marwkv",
    "load_published_mat",
    "make_joint_env",
    "register_mixer",
]

if find_spec("ray") is not None:
    from rllib_seqmarl.algorithms import MAM, MARWKV, MAT, MAMConfig, MARWKVConfig, MATConfig
    from rllib_seqmarl.registry import register

    __all__ += ["MAM", "MARWKV", "MAT", "MAMConfig", "MARWKVConfig", "MATConfig"]
    register()
