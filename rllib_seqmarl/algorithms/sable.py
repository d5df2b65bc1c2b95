"""Sable, retention over time and agents (Mahjoub et al. 2024, arXiv 2410.01706)."""

from ray.rllib.algorithms.algorithm import Algorithm

from rllib_seqmarl.algorithms.joint_ppo import JointPPO
from rllib_seqmarl.algorithms.joint_ppo_config import JointPPOConfig


class SableConfig(JointPPOConfig):
    """Config of Sable: an encoder and a decoder with retention, whose state runs over agents and time steps.

    The defaults are those of the published code (instadeepai/Mava): one block, one head, embed_dim 64, learning rate
    2.5e-4, 4 epochs, 2 minibatches, clipping 0.2, entropy coefficient 0.01, gradient norm 0.5, value loss coefficient
    0.5, no value normalisation and a quadratic value loss; 32 environments x 128 steps, in windows of 128 steps.

    Unlike there, the feed-forward layers do not start at zero, where they would never train (`zero_ffn=True`), agents
    keep their order in training, evaluation is greedy, and a time limit is not the end of the task.

    With `network(recurrent=False)` retention runs over the agents of a step only (`ff_sable`).

    ```python
    from rllib_seqmarl import SableConfig

    config = SableConfig().environment("mpe/simple_spread", env_config={"N": 3}).network(n_head=2, max_seq_len=25)
    algo = config.build_algo()
    algo.train()
    ```
    """

    default_policy = "sable"

    def __init__(self, algo_class: type[Algorithm] | None = None) -> None:
        super().__init__(algo_class)
        self.train_batch_size_per_learner = 4096  # 32 environments x 128 steps
        self.minibatch_size = 2048
        self.lr = 2.5e-4
        self.num_epochs = 4
        self.grad_clip = 0.5
        self.vf_loss_coeff = 0.5
        self.use_value_norm = False
        self.huber_delta = None


class Sable(JointPPO, config=SableConfig):
    """Retention over time and agents."""
