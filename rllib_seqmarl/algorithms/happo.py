"""HAPPO, heterogeneous-agent PPO, which updates one agent after another (Kuba et al. 2022, arXiv 2109.11251)."""

from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.utils.annotations import override

from rllib_seqmarl.algorithms.joint_ppo import JointPPO
from rllib_seqmarl.algorithms.joint_ppo_config import JointPPOConfig


class HAPPOConfig(JointPPOConfig):
    """Config of HAPPO: an actor per agent, updated one after another, and a critic that reads the state of the team.

    In each update, agents take turns in random order, with all epochs of each. An agent's surrogate is multiplied by
    the ratio of new to old probabilities of its predecessors' actions, so that it improves on their new policies.
    Advantages are normalised over each agent's own living steps.

    The critic reads the environment's global state with `joint_env(global_state=True)`, if the environment has one, and
    the concatenated observations of all agents otherwise. It is updated last.

    The defaults are those of the authors' code (PKU-MARL/HARL, configs/algos_cfgs/happo.yaml): two hidden layers of
    128, ReLU, learning rates 5e-4, Adam's epsilon 1e-5, clipping 0.2, entropy coefficient 0.01, gradient norm 10,
    gamma 0.99, lambda 0.95, Huber delta 10, 5 epochs of one minibatch, and batches of 20 environments x 200 steps.

    Unlike there, a dead agent has no action, so that its steps do not change the factor of its successors; the ratio of
    a continuous action is that of the whole action (`action_aggregation: prod`); and time limits are handled as in all
    algorithms here, by bootstrapping from the value of the final observation.

    ```python
    from rllib_seqmarl import HAPPOConfig

    config = HAPPOConfig().environment("mamujoco/HalfCheetah-2x3").joint_env(global_state=True).training(lr=5e-4)
    algo = config.build_algo()
    algo.train()
    ```
    """

    default_policy = "independent"

    def __init__(self, algo_class: type[Algorithm] | None = None) -> None:
        super().__init__(algo_class)
        self.update_order = "sequential"
        self.share_actor = False
        self.hidden_sizes = (128, 128)
        self.num_epochs = 5
        self.num_envs_per_env_runner = 20
        self.train_batch_size_per_learner = 4000

    @override(JointPPOConfig)
    def validate(self) -> None:
        if self._validate_config and self.update_order != "sequential":
            raise ValueError(
                f"update_order={self.update_order!r} is not HAPPO, which updates one agent after another; remove it, "
                f"or use MAPPOConfig with network(share_actor=False)."
            )
        if self._validate_config and self.share_actor:
            raise ValueError(
                "share_actor=True leaves nothing to update one after another; remove it, or use MAPPOConfig."
            )
        super().validate()


class HAPPO(JointPPO, config=HAPPOConfig):
    """Heterogeneous-agent PPO, which updates one agent after another."""
