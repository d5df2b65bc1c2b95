"""The environment creator that an algorithm's config passes to RLlib."""

from typing import Any

import gymnasium as gym

from rllib_seqmarl.envs.batch_env import JointBatchEnv
from rllib_seqmarl.envs.catalog import find_creator, find_entry, make_batch, make_joint_env, takes_keywords
from rllib_seqmarl.envs.final_observations import check_start
from rllib_seqmarl.envs.vector_env import JointVector, JointVectorEnv


class JointEnvCreator:
    """Makes joint environments from the user's environment, on any worker.

    It is sent to remote workers, where it resolves names registered with Ray as well as those of this package.
    """

    def __init__(self, env: Any, **joint_options: Any) -> None:
        """Initialise the creator.

        Args:
            env: A registered name, an environment class or a creator function.
            **joint_options: Keyword arguments of `JointEnv`.
        """
        self.env = env
        self.joint_options = joint_options

    def __eq__(self, other: object) -> bool:
        return isinstance(other, JointEnvCreator) and vars(self) == vars(other)

    __hash__ = object.__hash__

    def require(self) -> None:
        """Raise an error if the environment is unknown or its packages are missing, without making it."""
        find_creator(self.env)

    @property
    def takes_keywords(self) -> bool:
        """Whether the environment is made with keyword arguments rather than with RLlib's `EnvContext` object.

        Raises the same errors as :meth:`require`.
        """
        return takes_keywords(find_creator(self.env))

    def __call__(self, env_config: dict[str, Any]) -> gym.Env | JointVector:
        """Make one environment, or a batch if RLlib's vector entry point has put `num_envs` into the config.

        Raises:
            JointEnvError: A user's own batch violates the contract; see `check_start`.
        """
        if not (self.takes_keywords and "num_envs" in env_config):
            return make_joint_env(self.env, env_config, **self.joint_options)
        options = dict(env_config)
        joint = self.make_vector(options.pop("num_envs"), options)
        if isinstance(joint, JointBatchEnv) and find_entry(self.env) is None:  # this package's own suites are tested
            check_start(joint.batch)
        return joint

    def make_vector(self, num_envs: int, env_config: dict[str, Any]) -> JointVector:
        """Make a batch: one batched simulator if the environment has one, otherwise single environments."""
        batch = make_batch(self.env, num_envs, env_config)
        if batch is not None:
            name = self.env if isinstance(self.env, str) else None
            return JointBatchEnv(batch, name=name, **self.joint_options)
        return JointVectorEnv([make_joint_env(self.env, env_config, **self.joint_options) for _ in range(num_envs)])

    def __repr__(self) -> str:
        return self.env if isinstance(self.env, str) else getattr(self.env, "__name__", repr(self.env))
