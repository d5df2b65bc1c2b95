"""MAT, the Multi-Agent Transformer (Wen et al., arXiv 2205.14953)."""

from rllib_seqmarl.algorithms.joint_ppo import JointPPO
from rllib_seqmarl.algorithms.joint_ppo_config import JointPPOConfig


class MATConfig(JointPPOConfig):
    """Config of the Multi-Agent Transformer: attention over the agents in the encoder and in the decoder.

    ```python
    from rllib_seqmarl import MATConfig

    config = (
        MATConfig()
        .environment("mpe/simple_spread", env_config={"N": 3})
        .training(lr=7e-4, clip_param=0.05)
        .network(n_block=1, embed_dim=64)
    )
    algo = config.build_algo()
    algo.train()
    ```
    """


class MAT(JointPPO, config=MATConfig):
    """The Multi-Agent Transformer."""
