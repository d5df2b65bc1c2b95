"""MAT-Dec, the Multi-Agent Transformer with decentralised actors (Wen et al. 2022, arXiv 2205.14953)."""

from ray.rllib.algorithms.algorithm import Algorithm

from rllib_seqmarl.algorithms.joint_ppo import JointPPO
from rllib_seqmarl.algorithms.joint_ppo_config import JointPPOConfig


class MATDecConfig(JointPPOConfig):
    """Config of MAT-Dec: MAT's encoder is the critic, and a shared actor reads the agent's own observation.

    The defaults are those of MAT. The actor is that of the published code (PKU-MARL/Multi-Agent-Transformer): two
    hidden layers as wide as the encoder's tokens, 64 (set `hidden_sizes` with `embed_dim`), with GELU, shared by all
    agents.

    Unlike there, the gradients of actor and critic, which share no parameters, are clipped separately, and with
    continuous actions the ratio of an agent's whole action is clipped rather than that of each dimension.

    ```python
    from rllib_seqmarl import MATDecConfig

    config = MATDecConfig().environment("mpe/simple_spread", env_config={"N": 3}).network(n_block=2, embed_dim=64)
    algo = config.build_algo()
    algo.train()
    ```
    """

    default_policy = "independent"

    def __init__(self, algo_class: type[Algorithm] | None = None) -> None:
        super().__init__(algo_class)
        self.critic = "encoder"
        self.activation = "gelu"


class MATDec(JointPPO, config=MATDecConfig):
    """The Multi-Agent Transformer with decentralised actors."""
