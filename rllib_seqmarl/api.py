"""The package's public names. Those that need Ray are missing where Ray is not installed."""

from importlib.util import find_spec

from rllib_seqmarl.envs import JointEnv, check_joint_env, make_joint_env
from rllib_seqmarl.mixers import register_mixer
from rllib_seqmarl.mixers.check import check_mixer
from rllib_seqmarl.networks.action_heads import register_head
from rllib_seqmarl.policies import register_policy
from rllib_seqmarl.policies.published import load_published_marwkv, load_published_mat
from rllib_seqmarl.policy import JointPolicy
from rllib_seqmarl.version import __version__

__all__ = [
    "JointEnv",
    "JointPolicy",
    "__version__",
    "check_joint_env",
    "check_mixer",
    "load_published_marwkv",
    "load_published_mat",
    "make_joint_env",
    "register_head",
    "register_mixer",
    "register_policy",
]

if find_spec("ray") is not None:
    import rllib_seqmarl.registry  # noqa: F401  registers all names
    from rllib_seqmarl.algorithms import (
        HAPPO,
        IPPO,
        MAM,
        MAPPO,
        MARWKV,
        MAT,
        HAPPOConfig,
        IPPOConfig,
        MAMConfig,
        MAPPOConfig,
        MARWKVConfig,
        MATConfig,
        MATDec,
        MATDecConfig,
        Sable,
        SableConfig,
    )

    __all__ += ["HAPPO", "IPPO", "MAM", "MAPPO", "MARWKV", "MAT", "MATDec", "Sable"]
    __all__ += ["HAPPOConfig", "IPPOConfig", "MAMConfig", "MAPPOConfig", "MARWKVConfig", "MATConfig", "MATDecConfig"]
    __all__ += ["SableConfig"]
