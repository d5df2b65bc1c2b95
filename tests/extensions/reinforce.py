"""An objective of one's own, REINFORCE with a baseline, and an algorithm that uses it."""

from ray.rllib.core.columns import Columns
from ray.rllib.evaluation.postprocessing import Postprocessing
from ray.tune.registry import register_trainable

from rllib_seqmarl.algorithms.joint_ppo import JointPPO
from rllib_seqmarl.algorithms.joint_ppo_config import JointPPOConfig
from rllib_seqmarl.learners.objectives import LOSS_WEIGHTS, VALUE_LOSS_WEIGHTS


def reinforce(columns, outputs, settings):
    gain = columns[Postprocessing.ADVANTAGES] * outputs[Columns.ACTION_LOGP]  # (b, n)
    error = (outputs[Columns.VF_PREDS] - columns[Postprocessing.VALUE_TARGETS]).square()
    policy, value = (columns[LOSS_WEIGHTS] * -gain).sum(), (columns[VALUE_LOSS_WEIGHTS] * error).sum()
    return {"total": policy + settings.vf_loss_coeff * value, "policy_loss": policy.detach(), "vf_loss": value.detach()}


class ReinforceConfig(JointPPOConfig):
    def __init__(self, algo_class=None) -> None:
        super().__init__(algo_class=algo_class or Reinforce)
        self.objective = reinforce
        self.num_epochs = 1


class Reinforce(JointPPO):
    @classmethod
    def get_default_config(cls):
        return ReinforceConfig()


register_trainable("Reinforce", Reinforce)
