"""The joint PPO learner: RLlib's PPO learner with per-agent advantages and the joint objective."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import repeat
from typing import Any

import torch
from ray.rllib.algorithms.ppo.ppo import PPOConfig
from ray.rllib.algorithms.ppo.ppo_learner import PPOLearner
from ray.rllib.algorithms.ppo.torch.ppo_torch_learner import PPOTorchLearner
from ray.rllib.connectors.learner import GeneralAdvantageEstimation
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.torch.torch_learner import TorchLearner
from ray.rllib.core.learner.training_data import TrainingData
from ray.rllib.evaluation.postprocessing import Postprocessing
from ray.rllib.policy.sample_batch import MultiAgentBatch
from ray.rllib.utils.annotations import override
from ray.rllib.utils.metrics import NUM_ENV_STEPS_SAMPLED_LIFETIME
from ray.rllib.utils.torch_utils import clip_gradients
from torch import Tensor

from rllib_seqmarl.learners.distributed import num_learners, sum_over_learners
from rllib_seqmarl.learners.joint_gae import JointGAE
from rllib_seqmarl.learners.joint_ppo_loss import joint_ppo_loss


class NonFiniteLossError(FloatingPointError):
    """The loss became NaN or infinite. No update was made with it; the last checkpoint is good."""


class JointPPOTorchLearner(PPOTorchLearner):
    """Updates a joint policy agent by agent with PPO's clipped objective (arXiv 2205.14953, eq. 4 and 5)."""

    @override(PPOLearner)
    def build(self) -> None:
        super().build()
        if self._learner_connector is not None and self.config.add_default_connectors_to_learner_pipeline:
            self._learner_connector.remove(GeneralAdvantageEstimation)
            self._learner_connector.append(
                JointGAE(
                    gamma=self.config.gamma,
                    lambda_=self.config.lambda_,
                    shared_reward=self.config.shared_reward,
                )
            )

    @override(TorchLearner)
    def configure_optimizers_for_module(self, module_id: str, config: PPOConfig | None = None) -> None:
        config = config or self.config.get_config_for_module(module_id)
        params = self.get_parameters(self._module[module_id])
        # Fused: one kernel for all parameters, instead of a dozen small ones for each.
        optimizer = torch.optim.Adam(params, eps=config.adam_epsilon, fused=True)
        self.register_optimizer(module_id=module_id, optimizer=optimizer, params=params, lr_or_lr_schedule=config.lr)

    @override(TorchLearner)
    def update(
        self,
        *args: Any,
        minibatch_size: int | None = None,
        num_total_minibatches: int = 0,
        **kwargs: Any,
    ) -> dict[str, Any]:
        # Env runners sample a few steps more than they were asked for. A minibatch of the whole batch's nominal size
        # means all of it, not all but a few steps, and those in the next epoch.
        if minibatch_size is not None and minibatch_size >= self.config.train_batch_size_per_learner:
            minibatch_size, num_total_minibatches = None, 0
        return super().update(
            *args, minibatch_size=minibatch_size, num_total_minibatches=num_total_minibatches, **kwargs
        )

    @override(TorchLearner)
    def _create_iterator_if_necessary(
        self, *, training_data: TrainingData, num_epochs: int = 1, minibatch_size: int | None = None, **kwargs: Any
    ) -> Iterable[MultiAgentBatch]:
        if minibatch_size is not None or training_data.data_iterators:
            return super()._create_iterator_if_necessary(
                training_data=training_data, num_epochs=num_epochs, minibatch_size=minibatch_size, **kwargs
            )
        # The whole batch in each epoch: the same tensors again, where RLlib would copy them.
        (batch,) = super()._create_iterator_if_necessary(training_data=training_data)
        return repeat(batch, num_epochs)

    @override(TorchLearner)
    def before_gradient_based_update(self, *, timesteps: dict[str, Any]) -> None:
        super().before_gradient_based_update(timesteps=timesteps)
        # PPO sets the entropy coefficient after an update, for the next one. Nothing of that is in a checkpoint, so
        # the first update after a restore would start the schedule over; the step counter is always right.
        for module_id in self.module.keys():  # noqa: SIM118 (a MultiRLModule is no dict)
            self.entropy_coeff_schedulers_per_module[module_id].update(
                timestep=timesteps.get(NUM_ENV_STEPS_SAMPLED_LIFETIME, 0)
            )

    @override(PPOTorchLearner)
    def compute_loss_for_module(
        self, *, module_id: str, config: PPOConfig, batch: dict[str, Any], fwd_out: dict[str, Tensor]
    ) -> Tensor:
        module = self.module[module_id].unwrapped()
        returns = batch[Postprocessing.VALUE_TARGETS]  # (b, n), in reward units
        module.update_value_normalizer(returns, sync=sum_over_learners)
        loss = joint_ppo_loss(
            log_probs=fwd_out[Columns.ACTION_LOGP],
            old_log_probs=batch[Columns.ACTION_LOGP],
            advantages=batch[Postprocessing.ADVANTAGES],
            entropy=fwd_out["entropy"],
            values=fwd_out[Columns.VF_PREDS],
            old_values=batch[Columns.VF_PREDS],
            value_targets=module.normalize_values(returns),
            weights=_living_agent_weights(batch[Columns.OBS]["alive"], returns.dtype),
            clip_param=config.clip_param,
            vf_clip_param=config.clip_param if config.vf_clip_param is None else config.vf_clip_param,
            huber_delta=config.huber_delta,
            vf_loss_coeff=config.vf_loss_coeff,
            entropy_coeff=self.entropy_coeff_schedulers_per_module[module_id].get_current_value(),
        )
        if not torch.isfinite(loss.total):
            raise NonFiniteLossError(
                f"The loss became {loss.total.item()} (policy loss {loss.policy.item():.4g}, value loss "
                f"{loss.value.item():.4g}, entropy {loss.entropy.item():.4g}), so training stopped before this update "
                f"was made. Continue from the last checkpoint with a lower `lr` (now "
                f"{config.lr}) or a lower `grad_clip` (now {config.grad_clip}), and check the scale of the "
                f"environment's rewards and observations."
            )
        self.metrics.log_dict(
            {
                "policy_loss": loss.policy,
                "vf_loss": loss.value,
                "vf_explained_var": loss.explained_variance,
                "entropy": loss.entropy,
                "clip_fraction": loss.clip_fraction,
                "approx_kl": loss.approx_kl,
            },
            key=module_id,
            window=1,
        )
        return loss.total

    @override(TorchLearner)
    def apply_gradients(self, gradients_dict: dict[Tensor, Tensor]) -> None:
        # RLlib asks every gradient by itself, twice, whether it is finite, which is a hundred small operations and on
        # a GPU as many waits. Their common norm answers for all.
        gradients = [gradient for gradient in gradients_dict.values() if gradient is not None]
        is_plain = self._grad_scalers is None and self._lr_scheduler_classes is None
        if not (is_plain and torch.isfinite(torch.nn.utils.get_total_norm(gradients))):
            super().apply_gradients(gradients_dict)
            return
        for parameter, gradient in gradients_dict.items():
            parameter.grad = gradient
        for optimizer in self._named_optimizers.values():
            optimizer.step()

    @staticmethod
    @override(TorchLearner)
    def _get_clip_function() -> Callable[..., Tensor | None]:
        return _clip_gradients


def _clip_gradients(gradients_dict: dict[Tensor, Tensor], *, grad_clip: float, grad_clip_by: str) -> Tensor | None:
    """RLlib's clipping, in place, with one operation over all gradients where it is by global norm."""
    if grad_clip_by != "global_norm":
        return clip_gradients(gradients_dict, grad_clip=grad_clip, grad_clip_by=grad_clip_by)
    gradients = [gradient for gradient in gradients_dict.values() if gradient is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    torch._foreach_mul_(gradients, (grad_clip / (norm + 1e-6)).clamp(max=1.0))
    return norm


def _living_agent_weights(alive: Tensor, dtype: torch.dtype) -> Tensor:
    """What each agent-step counts in the loss, (b, n), such that a sum is the mean over the living.

    With several learners, whose gradients are averaged, shares with more living agents count for more, so that the
    average is the mean over the agent-steps of all learners.
    """
    alive = alive.to(dtype)
    count = alive.sum()
    sum_over_learners(count)
    return alive * (num_learners() / count.clamp_min(1.0))
