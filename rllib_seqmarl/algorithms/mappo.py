"""MAPPO, multi-agent PPO with a centralised critic (Yu et al. 2022, arXiv 2103.01955)."""

from ray.rllib.algorithms.algorithm import Algorithm

from rllib_seqmarl.algorithms.joint_ppo import JointPPO
from rllib_seqmarl.algorithms.joint_ppo_config import JointPPOConfig


class MAPPOConfig(JointPPOConfig):
    """Config of MAPPO: actors that read their own observation, and a critic that reads the state of the team.

    The critic reads the environment's global state with `joint_env(global_state=True)`, if the environment has one, and
    the concatenated observations of all agents otherwise.

    The defaults are those of the paper's code (marlbenchmark/on-policy, config.py): two hidden layers of 64, ReLU,
    learning rates 5e-4, Adam's epsilon 1e-5, clipping 0.2, entropy coefficient 0.01, gradient norm 10, gamma 0.99,
    lambda 0.95, Huber delta 10, one minibatch. A batch of 3200 steps is that of its scripts for SMAC (8 environments x
    400 steps) and MPE (128 x 25). The paper used 15, 10 or 5 epochs, the fewer the harder the task (section 5);
    5 is also the default of HARL's MAPPO (arXiv 2304.09870).

    Time limits are handled as in all algorithms here, by bootstrapping from the value of the final observation; the
    published code treats them as the end of the task.

    ```python
    from rllib_seqmarl import MAPPOConfig

    config = (
        MAPPOConfig()
        .environment("smax/2s3z")
        .joint_env(global_state=True)
        .training(lr=5e-4, critic_lr=1e-3)
        .network(hidden_sizes=[128, 128])
    )
    algo = config.build_algo()
    algo.train()
    ```
    """

    default_policy = "independent"

    def __init__(self, algo_class: type[Algorithm] | None = None) -> None:
        super().__init__(algo_class)
        self.num_epochs = 5


class MAPPO(JointPPO, config=MAPPOConfig):
    """Multi-agent PPO with a centralised critic."""
