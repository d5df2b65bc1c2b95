"""IPPO, independent PPO (de Witt et al. 2020, arXiv 2011.09533)."""

from ray.rllib.algorithms.algorithm import Algorithm

from rllib_seqmarl.algorithms.joint_ppo import JointPPO
from rllib_seqmarl.algorithms.mappo import MAPPOConfig


class IPPOConfig(MAPPOConfig):
    """Config of IPPO: actor and critic read the agent's own observation, and all agents share their weights.

    The other defaults are those of MAPPO, whose published code also implements IPPO.

    ```python
    from rllib_seqmarl import IPPOConfig

    config = IPPOConfig().environment("mpe/simple_spread", env_config={"N": 3}).network(activation="tanh")
    algo = config.build_algo()
    algo.train()
    ```
    """

    def __init__(self, algo_class: type[Algorithm] | None = None) -> None:
        super().__init__(algo_class)
        self.critic = "observations"


class IPPO(JointPPO, config=IPPOConfig):
    """Independent PPO."""
