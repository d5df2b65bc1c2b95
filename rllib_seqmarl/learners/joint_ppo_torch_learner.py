"""The joint PPO learner: RLlib's PPO learner with per-agent advantages and the joint objective."""

from __future__ import annotations

import inspect
import time
from collections.abc import Iterable
from dataclasses import fields, replace
from typing import Any

import torch
from ray.rllib.algorithms.ppo.ppo import PPOConfig
from ray.rllib.algorithms.ppo.ppo_learner import PPOLearner
from ray.rllib.algorithms.ppo.torch.ppo_torch_learner import PPOTorchLearner
from ray.rllib.connectors.learner import GeneralAdvantageEstimation
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.torch.torch_learner import TorchLearner
from ray.rllib.core.learner.training_data import TrainingData
from ray.rllib.evaluation.postprocessing import Postprocessing
from ray.rllib.policy.sample_batch import MultiAgentBatch, SampleBatch
from ray.rllib.utils.annotations import override
from ray.rllib.utils.metrics import (
    ALL_MODULES,
    DIFF_NUM_GRAD_UPDATES_VS_SAMPLER_POLICY,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
)
from ray.rllib.utils.torch_utils import clip_gradients
from torch import Tensor

from rllib_seqmarl.learners.advantages import AGENT_EARNS
from rllib_seqmarl.learners.decoupled import decouple
from rllib_seqmarl.learners.distributed import (
    fail_together,
    num_learners,
    sum_over_learners,
)
from rllib_seqmarl.learners.guard import NonFiniteLossError, UpdateGuard
from rllib_seqmarl.learners.joint_gae import JointGAE
from rllib_seqmarl.learners.joint_ppo_loss import JointPPOLoss, explained_variance, joint_ppo_loss
from rllib_seqmarl.learners.minibatches import minibatches
from rllib_seqmarl.learners.rollout_data import RolloutData, rollout_columns
from rllib_seqmarl.learners.slices import add_gradients, map_slices, slices
from rllib_seqmarl.modules.users_connectors import check_connector

__all__ = ["JointPPOTorchLearner", "NonFiniteLossError"]
# Columns with the weight of each agent-step in the policy loss, and in the value loss.
_WEIGHTS, _VALUE_WEIGHTS = "loss_weights", "value_loss_weights"


class JointPPOTorchLearner(PPOTorchLearner):
    """PPO learner of a joint policy, with a clipped objective per agent (arXiv 2205.14953, eq. 4 and 5)."""

    @override(PPOLearner)
    def build(self) -> None:
        super().build()
        # With `debugging(seed=...)` RLlib makes torch deterministic, which also fills new memory with NaNs: a debugging
        # aid that takes a tenth of an update.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        self._guard = UpdateGuard(self.config)
        module = self.module[DEFAULT_MODULE_ID].unwrapped()
        if self._torch_compile_forward_train and "_forward_train" not in vars(module):
            module.compile(self._torch_compile_cfg)  # RLlib checks the wrong object, and so skips compilation
        for connector in self._learner_connector.connectors if self._learner_connector is not None else ():
            check_connector("learner_connector", connector)
        if self._learner_connector is not None and self.config.add_default_connectors_to_learner_pipeline:
            self._learner_connector.remove(GeneralAdvantageEstimation)
            self._learner_connector.append(
                JointGAE(
                    gamma=self.config.gamma,
                    lambda_=self.config.lambda_,
                    shared_reward=self.config.shared_reward,
                    team_reward=self.config.team_reward,
                )
            )

    @override(TorchLearner)
    def configure_optimizers_for_module(self, module_id: str, config: PPOConfig | None = None) -> None:
        config = config or self.config.get_config_for_module(module_id)
        policy = self._module[module_id].unwrapped().policy
        groups = policy.parameter_groups()
        if config.critic_lr is not None and "critic" not in groups:
            raise ValueError(
                f"critic_lr={config.critic_lr!r} has no effect: all parameters of policy={config.policy!r} are learned "
                f"with lr; remove it."
            )
        for name, params in groups.items():
            is_critic = name == "critic" and config.critic_lr is not None
            self.register_optimizer(
                module_id=module_id,
                optimizer_name=f"{name}_optimizer",
                # Fused: one kernel for all parameters, instead of a dozen small ones per parameter.
                optimizer=torch.optim.Adam(params, eps=config.adam_epsilon, fused=True),
                params=params,
                lr_or_lr_schedule=config.critic_lr if is_critic else config.lr,
            )

    @override(TorchLearner)
    def update(
        self,
        *args: Any,
        minibatch_size: int | None = None,
        num_total_minibatches: int = 0,
        **kwargs: Any,
    ) -> dict[str, Any]:
        # Env runners may sample a few more steps than requested. A minibatch of the nominal batch size means the whole
        # batch, rather than leaving those few steps to the next epoch.
        if minibatch_size is not None and minibatch_size >= self.config.train_batch_size_per_learner:
            minibatch_size, num_total_minibatches = None, 0
        with fail_together(NonFiniteLossError):
            return super().update(
                *args, minibatch_size=minibatch_size, num_total_minibatches=num_total_minibatches, **kwargs
            )

    @override(TorchLearner)
    def _create_iterator_if_necessary(
        self,
        *,
        training_data: TrainingData,
        num_epochs: int = 1,
        minibatch_size: int | None = None,
        shuffle_batch_per_epoch: bool = False,
        num_total_minibatches: int = 0,
        **kwargs: Any,
    ) -> Iterable[MultiAgentBatch]:
        if training_data.data_iterators:
            return super()._create_iterator_if_necessary(
                training_data=training_data, num_epochs=num_epochs, minibatch_size=minibatch_size, **kwargs
            )
        (batch,) = super()._create_iterator_if_necessary(training_data=training_data)
        return minibatches(
            batch,
            size=minibatch_size,
            num_epochs=num_epochs,
            shuffle=shuffle_batch_per_epoch,
            total=num_total_minibatches,
        )

    @override(TorchLearner)
    def _make_batch_if_necessary(self, training_data: TrainingData) -> MultiAgentBatch:
        start = time.perf_counter()
        batch = self._make_batch(training_data)
        if self.config.sample_while_learning:
            self._decouple(batch.policy_batches[DEFAULT_MODULE_ID])
        self.metrics.log_value((ALL_MODULES, "seconds", "connector"), time.perf_counter() - start, reduce="sum")
        return batch

    def _make_batch(self, training_data: TrainingData) -> MultiAgentBatch:
        if not isinstance(training_data, RolloutData):
            return super()._make_batch_if_necessary(training_data)
        if self.config._learner_connector is not None or not self.config.add_default_connectors_to_learner_pipeline:
            # The user's connectors process episodes.
            episodes = [episode for rollout in training_data.rollouts for episode in rollout.writable()]
            return super()._make_batch_if_necessary(TrainingData(episodes=episodes))
        columns = rollout_columns(
            training_data.rollouts,
            self.module[DEFAULT_MODULE_ID].unwrapped(),
            gamma=self.config.gamma,
            lambda_=self.config.lambda_,
            shared_reward=self.config.shared_reward,
            team_reward=self.config.team_reward,
            device=self.device,
        )
        age = self._weights_seq_no - min(rollout.weights_seq_no for rollout in training_data.rollouts)
        self.metrics.log_value((DEFAULT_MODULE_ID, DIFF_NUM_GRAD_UPDATES_VS_SAMPLER_POLICY), age, window=1)
        return MultiAgentBatch({DEFAULT_MODULE_ID: SampleBatch(columns)}, env_steps=training_data.env_steps)

    def _decouple(self, batch: SampleBatch) -> None:
        """Clip around the current policy instead of the one that acted, which is one update old."""
        columns = dict(batch)
        module = self.module[DEFAULT_MODULE_ID].unwrapped()

        @torch.no_grad()
        def evaluate_slice(part: dict[str, Any]) -> tuple[Tensor, Tensor]:
            outputs = module.forward_train(part)
            return outputs[Columns.ACTION_LOGP], outputs[Columns.VF_PREDS]

        rows, n_agents = columns[Postprocessing.ADVANTAGES].shape
        parts = slices(columns, rows, n_agents, self.device)
        log_probs, values = map(torch.cat, zip(*map_slices(evaluate_slice, parts), strict=True))
        decouple(batch, log_probs, values)

    @override(TorchLearner)
    def before_gradient_based_update(self, *, timesteps: dict[str, Any]) -> None:
        super().before_gradient_based_update(timesteps=timesteps)
        # RLlib sets scheduled values after an update, for the next one, and does not store them in checkpoints. The
        # first update after a restore would thus restart the schedules, so set them here from the step counter.
        step = timesteps.get(NUM_ENV_STEPS_SAMPLED_LIFETIME, 0)
        for module_id in self.module.keys():  # noqa: SIM118 (a MultiRLModule is no dict)
            self.entropy_coeff_schedulers_per_module[module_id].update(timestep=step)
        if self._lr_scheduler_classes is None:
            for optimizer, schedule in self._optimizer_lr_schedules.items():
                self._set_optimizer_lr(optimizer, lr=schedule.update(timestep=step))

    @override(TorchLearner)
    def set_state(self, state: dict[str, Any]) -> None:
        # RLlib ignores weights with fewer updates than the module's. That suits env runners, which may receive outdated
        # weights late, but a learner must be able to return to an earlier checkpoint.
        self._weights_seq_no = 0
        super().set_state(state)

    @override(TorchLearner)
    def _set_optimizer_state(self, state: dict[str, Any]) -> None:
        """Restore moments and step counts from the state, but keep the config's optimizer settings."""
        # torch's schedulers continue from the learning rate in the state.
        scheduled = ("lr", "initial_lr") if self._lr_scheduler_classes is not None else ()
        settings = {
            name: [{k: v for k, v in group.items() if k != "params" and k not in scheduled} for group in groups]
            for name, groups in ((name, optimizer.param_groups) for name, optimizer in self._named_optimizers.items())
        }
        super()._set_optimizer_state(state)
        for name, groups in settings.items():
            for group, group_settings in zip(self._named_optimizers[name].param_groups, groups, strict=True):
                group.update(group_settings)

    @override(TorchLearner)
    def _uncompiled_update(self, batch: dict[str, Any], **kwargs: Any) -> tuple[Any, dict[str, Tensor], dict[str, Any]]:
        """Update as RLlib does, but compute gradients slice by slice."""
        if not self._can_slice():
            return super()._uncompiled_update(batch, **kwargs)
        self._compute_off_policyness(batch)
        columns = dict(batch[DEFAULT_MODULE_ID])
        self._weigh(columns)
        rows, n_agents = columns[_WEIGHTS].shape
        parameters = list(self._params.values())

        def differentiate_slice(part: dict[str, Any]) -> tuple[JointPPOLoss, Tensor, tuple[Tensor | None, ...]]:
            loss, values = self._joint_loss(part, self.module[DEFAULT_MODULE_ID].unwrapped().forward_train(part))
            return loss, values, torch.autograd.grad(loss.total, parameters, allow_unused=True)

        parts = slices(columns, rows, n_agents, self.device)
        losses, values, gradients = zip(*map_slices(differentiate_slice, parts), strict=True)
        terms = {term.name: [getattr(loss, term.name).detach() for loss in losses] for term in fields(JointPPOLoss)}
        loss = JointPPOLoss(**{name: torch.stack(slice_terms).sum() for name, slice_terms in terms.items()})
        self._log_loss(loss, torch.cat(values), columns)
        summed, self._guard.loss = add_gradients(gradients, loss.total)
        self.apply_gradients(self.postprocess_gradients(dict(zip(self._params, summed, strict=True))))
        return {}, {DEFAULT_MODULE_ID: loss.total}, {}

    def _can_slice(self) -> bool:
        """Return whether gradients can be computed slice by slice.

        A subclass may change the loss, which is then not the sum over slices. Compiled modules take whole batches,
        because slices have varying shapes and run in several threads.
        """
        # In a remote learner, Ray wraps all methods.
        is_unchanged = all(
            inspect.unwrap(getattr(type(self), name)) is inspect.unwrap(getattr(JointPPOTorchLearner, name))
            for name in ("compute_loss_for_module", "compute_losses", "compute_gradients")
        )
        return is_unchanged and self._grad_scalers is None and not self._torch_compile_forward_train

    @override(PPOTorchLearner)
    def compute_loss_for_module(
        self, *, module_id: str, config: PPOConfig, batch: dict[str, Any], fwd_out: dict[str, Tensor]
    ) -> Tensor:
        """Compute the joint objective of a whole minibatch; subclasses may add terms to it."""
        columns = dict(batch)
        self._weigh(columns)
        loss, values = self._joint_loss(columns, fwd_out)
        self._log_loss(loss, values, columns)
        return loss.total

    def _weigh(self, columns: dict[str, Any]) -> None:
        """Add loss weights to a minibatch before it is sliced, and update the value normaliser with its returns."""
        module = self.module[DEFAULT_MODULE_ID].unwrapped()
        returns = columns[Postprocessing.VALUE_TARGETS]  # (b, n), in reward units
        alive = columns[Columns.OBS]["alive"].to(returns.dtype)  # (b, n)
        earns = columns[AGENT_EARNS].to(returns.dtype) if AGENT_EARNS in columns else alive.new_ones(alive.shape)
        self._guard.save_normalizer(module.value_normalizer)
        module.update_value_normalizer(returns, weights=earns, sync=sum_over_learners)
        columns[Postprocessing.VALUE_TARGETS] = module.normalize_values(returns)
        columns[_WEIGHTS], columns[_VALUE_WEIGHTS] = _mean_weights(alive, earns)

    def _joint_loss(self, columns: dict[str, Any], fwd_out: dict[str, Tensor]) -> tuple[JointPPOLoss, Tensor]:
        """Compute the weighted sum of the objective over the given rows, and their value predictions."""
        config = self.config
        values = fwd_out[Columns.VF_PREDS]
        loss = joint_ppo_loss(
            log_probs=fwd_out[Columns.ACTION_LOGP],
            old_log_probs=columns[Columns.ACTION_LOGP],
            advantages=columns[Postprocessing.ADVANTAGES],
            entropy=fwd_out["entropy"],
            values=values,
            old_values=columns[Columns.VF_PREDS],
            value_targets=columns[Postprocessing.VALUE_TARGETS],
            weights=columns[_WEIGHTS],
            value_weights=columns[_VALUE_WEIGHTS],
            clip_param=config.clip_param,
            vf_clip_param=config.clip_param if config.vf_clip_param is None else config.vf_clip_param,
            huber_delta=config.huber_delta,
            vf_loss_coeff=config.vf_loss_coeff,
            entropy_coeff=self.entropy_coeff_schedulers_per_module[DEFAULT_MODULE_ID].get_current_value(),
        )
        return loss, values.detach()

    def _log_loss(self, loss: JointPPOLoss, values: Tensor, columns: dict[str, Any]) -> None:
        """Log a minibatch's loss, and pass it to the guard, which checks it together with the gradients."""
        self._guard.terms = replace(loss, total=loss.total.detach())
        self._guard.loss = self._guard.terms.total
        explained = explained_variance(values, columns[Postprocessing.VALUE_TARGETS], columns[_VALUE_WEIGHTS])
        self.metrics.log_dict(
            {
                "policy_loss": loss.policy,
                "vf_loss": loss.value,
                "vf_explained_var": explained,
                "entropy": loss.entropy,
                "clip_fraction": loss.clip_fraction,
                "approx_kl": loss.approx_kl,
            },
            key=DEFAULT_MODULE_ID,
            window=1,
        )

    @override(TorchLearner)
    def compute_gradients(self, loss_per_module: dict[str, Tensor], **kwargs: Any) -> dict[Tensor, Tensor]:
        """Compute gradients as RLlib does; average the loss over all learners too, so that all check the same one."""
        gradients = super().compute_gradients(loss_per_module, **kwargs)
        loss = torch.stack([torch.as_tensor(loss).detach() for loss in loss_per_module.values()]).sum() / num_learners()
        sum_over_learners(loss)
        self._guard.loss = loss
        return gradients

    @override(TorchLearner)
    def postprocess_gradients_for_module(
        self, *, module_id: str, config: PPOConfig | None = None, module_gradients_dict: dict[Tensor, Tensor]
    ) -> dict[Tensor, Tensor]:
        """Clip gradients and log their norm; RLlib's version loses the gradients if it only logs the norm."""
        config = config or self.config.get_config_for_module(module_id)
        for name, optimizer in self.get_optimizers_for_module(module_id):
            gradients = self.filter_param_dict_for_optimizer(module_gradients_dict, optimizer)
            if not gradients:
                continue
            norm = torch.nn.utils.get_total_norm(list(gradients.values()))
            self._record_norm(norm)
            if config.grad_clip and config.grad_clip_by == "global_norm":
                # One operation over all gradients.
                torch._foreach_mul_(list(gradients.values()), (config.grad_clip / (norm + 1e-6)).clamp(max=1.0))
            elif config.grad_clip:
                clip_gradients(gradients, grad_clip=config.grad_clip, grad_clip_by=config.grad_clip_by)
                module_gradients_dict.update(gradients)
            if config.log_gradients or (config.grad_clip and config.grad_clip_by == "global_norm"):
                self.metrics.log_value((module_id, f"gradients_{name}_global_norm"), norm, window=1)
        return module_gradients_dict

    @override(TorchLearner)
    def apply_gradients(self, gradients_dict: dict[Tensor, Tensor]) -> None:
        # RLlib checks each gradient for finiteness separately, twice: a hundred small operations, and on a GPU as many
        # synchronisations. The global norm is finite only if all gradients are.
        gradients = [gradient for gradient in gradients_dict.values() if gradient is not None]
        if gradients:
            self._record_norm(torch.nn.utils.get_total_norm(gradients))
        if not self._guard.passes():
            return
        if self._grad_scalers is not None or self._lr_scheduler_classes is not None:
            super().apply_gradients(gradients_dict)
            return
        for parameter, gradient in gradients_dict.items():
            parameter.grad = gradient
        for optimizer in self._named_optimizers.values():
            optimizer.step()

    def _record_norm(self, norm: Tensor) -> None:
        if self._grad_scalers is None:  # a scaler checks gradients itself, and lowers its scale if they overflow
            self._guard.norms.append(norm)


def _mean_weights(*masks: Tensor) -> list[Tensor]:
    """For each mask (b, n), compute weights of agent-steps whose weighted sum is the mean over the mask.

    Several learners average their gradients. Shares with more such agent-steps therefore weigh more, so that the
    average is the mean over the agent-steps of all learners.
    """
    counts = torch.stack([mask.sum() for mask in masks])
    sum_over_learners(counts)
    return [mask * weight for mask, weight in zip(masks, num_learners() / counts.clamp_min(1.0), strict=True)]
