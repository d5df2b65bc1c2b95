"""The learner of joint policies: it makes columns of samples, weighs them, and differentiates any objective."""

import inspect
import time
from collections.abc import Iterable
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from ray.rllib.algorithms.ppo.ppo import PPOConfig
from ray.rllib.algorithms.ppo.ppo_learner import PPOLearner
from ray.rllib.algorithms.ppo.torch.ppo_torch_learner import PPOTorchLearner
from ray.rllib.connectors.learner import (
    AddStatesFromEpisodesToBatch,
    AddTimeDimToBatchAndZeroPad,
    GeneralAdvantageEstimation,
)
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.torch.torch_learner import TorchLearner
from ray.rllib.core.learner.training_data import TrainingData
from ray.rllib.evaluation.postprocessing import Postprocessing
from ray.rllib.policy.sample_batch import MultiAgentBatch
from ray.rllib.utils.annotations import override
from ray.rllib.utils.metrics import ALL_MODULES, DIFF_NUM_GRAD_UPDATES_VS_SAMPLER_POLICY
from torch import Tensor

from rllib_seqmarl.learners.advantages import AGENT_EARNS
from rllib_seqmarl.learners.distributed import fail_together, num_learners, sum_over_learners
from rllib_seqmarl.learners.guard import NonFiniteLossError
from rllib_seqmarl.learners.guarded_learner import GuardedTorchLearner
from rllib_seqmarl.learners.joint_gae import JointGAE
from rllib_seqmarl.learners.joint_ppo_loss import explained_variance
from rllib_seqmarl.learners.minibatches import make_batch, minibatches
from rllib_seqmarl.learners.objectives import (
    LOSS_WEIGHTS,
    VALUE_LOSS_WEIGHTS,
    check_objective,
    decouple,
    fake_batch,
    find_objective,
)
from rllib_seqmarl.learners.rollout_columns import rollout_columns
from rllib_seqmarl.learners.rollout_data import RolloutData
from rllib_seqmarl.learners.slices import Slice, add_gradients, join_slices, map_slices, slices
from rllib_seqmarl.learners.update_order import CRITIC, one_after_another, updated_groups, updated_part
from rllib_seqmarl.modules.users_connectors import check_connector

__all__ = ["JointPPOTorchLearner", "NonFiniteLossError"]


class JointPPOTorchLearner(GuardedTorchLearner):
    """Learner of a joint policy; the config's `objective` and `update_order` decide what it minimises, and when."""

    _updated: int | None = None  # the part that the current minibatch updates, see `updated_part`

    @override(PPOLearner)
    def build(self) -> None:
        super().build()
        module = self._joint_module
        if self._torch_compile_forward_train and "_forward_train" not in vars(module):
            module.compile(self._torch_compile_cfg)  # RLlib checks the wrong object, and so skips compilation
        for connector in self._learner_connector.connectors if self._learner_connector is not None else ():
            check_connector("learner_connector", connector)
        if self._learner_connector is not None and self.config.add_default_connectors_to_learner_pipeline:
            for replaced in (AddTimeDimToBatchAndZeroPad, AddStatesFromEpisodesToBatch, GeneralAdvantageEstimation):
                self._learner_connector.remove(replaced)
            self._learner_connector.append(JointGAE(settings=self.config, device=self.device))
        self._objective = find_objective(self.config.objective)
        if self.config.objective is not None and self.config._learner_connector is None:  # which may add columns
            settings = self._settings
            check_objective(self._objective, *fake_batch(module, settings), settings)

    @property
    def _joint_module(self) -> Any:
        return self.module[DEFAULT_MODULE_ID].unwrapped()

    @property
    def _settings(self) -> SimpleNamespace:
        """The config's options, with the entropy coefficient's current value."""
        entropy_coeff = self.entropy_coeff_schedulers_per_module[DEFAULT_MODULE_ID].get_current_value()
        options = vars(self.config) | self.config._options | {"entropy_coeff": entropy_coeff}
        return SimpleNamespace(**options)

    @override(TorchLearner)
    def update(self, *args: Any, minibatch_size: int | None = None, **kwargs: Any) -> dict[str, Any]:
        # Env runners may sample a few more steps than requested. A minibatch of the nominal batch size means the whole
        # batch, rather than leaving those few steps to the next epoch.
        if minibatch_size is not None and minibatch_size >= self.config.train_batch_size_per_learner:
            minibatch_size, kwargs["num_total_minibatches"] = None, 0
        with fail_together(NonFiniteLossError):
            return super().update(*args, minibatch_size=minibatch_size, **kwargs)

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
        make_minibatches = partial(
            minibatches,
            size=minibatch_size,
            num_epochs=num_epochs,
            shuffle=shuffle_batch_per_epoch,
            total=num_total_minibatches,
        )
        if self.config.update_order == "together":
            return make_minibatches(batch)
        return one_after_another(batch, make_minibatches, lambda columns: self._evaluate(columns)[0])

    @override(TorchLearner)
    def _make_batch_if_necessary(self, training_data: TrainingData) -> MultiAgentBatch:
        start = time.perf_counter()
        batch = self._make_batch(training_data)
        if self.config.sample_while_learning:
            columns = batch.policy_batches[DEFAULT_MODULE_ID]
            decouple(columns, *self._evaluate(dict(columns)))
        self.metrics.log_value((ALL_MODULES, "seconds", "connector"), time.perf_counter() - start, reduce="sum")
        return batch

    def _make_batch(self, training_data: TrainingData) -> MultiAgentBatch:
        if not isinstance(training_data, RolloutData):
            return self._make_batch_of_episodes(training_data)
        if self.config._learner_connector is not None or not self.config.add_default_connectors_to_learner_pipeline:
            # The user's connectors process episodes.
            episodes = [episode for rollout in training_data.rollouts for episode in rollout.writable()]
            return self._make_batch_of_episodes(TrainingData(episodes=episodes))
        columns = rollout_columns(training_data.rollouts, self._joint_module, self.config, self.device)
        age = self._weights_seq_no - min(rollout.weights_seq_no for rollout in training_data.rollouts)
        self.metrics.log_value((DEFAULT_MODULE_ID, DIFF_NUM_GRAD_UPDATES_VS_SAMPLER_POLICY), age, window=1)
        return make_batch(columns)

    def _make_batch_of_episodes(self, training_data: TrainingData) -> MultiAgentBatch:
        batch = super()._make_batch_if_necessary(training_data)
        columns = dict(batch.policy_batches[DEFAULT_MODULE_ID])
        return make_batch(columns) if Columns.LOSS_MASK in columns else batch  # RLlib counts windows

    def _evaluate(self, columns: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Compute the current policy's log-probabilities (b, n, ...) and values (b, n); see `forward_part`."""
        updated = updated_part(columns)

        @torch.no_grad()
        def evaluate_slice(part: Slice) -> tuple[Tensor, Tensor]:
            outputs = self._joint_module.forward_part(part.columns, updated)
            return outputs[Columns.ACTION_LOGP], outputs[Columns.VF_PREDS]

        shape = columns[Postprocessing.ADVANTAGES].shape
        parts = slices(columns, shape, self.device)
        outputs = zip(*map_slices(evaluate_slice, parts), strict=True)
        log_probs, values = (join_slices(parts, output, shape) for output in outputs)
        return log_probs, values

    @override(TorchLearner)
    def _uncompiled_update(self, batch: dict[str, Any], **kwargs: Any) -> tuple[Any, dict[str, Tensor], dict[str, Any]]:
        """Update as RLlib does, but compute gradients slice by slice."""
        if not self._can_slice():
            return super()._uncompiled_update(batch, **kwargs)
        self._compute_off_policyness(batch)
        columns, settings = dict(batch[DEFAULT_MODULE_ID]), self._settings
        self._weigh(columns)
        updated, parameters = self._updated, self._updated_parameters()

        def differentiate_slice(part: Slice) -> tuple[dict[str, Tensor], Tensor, tuple[Tensor | None, ...]]:
            outputs = self._joint_module.forward_part(part.columns, updated)
            terms = self._objective(part.columns, outputs, settings)
            gradients = torch.autograd.grad(terms["total"], list(parameters.values()), allow_unused=True)
            return {key: term.detach() for key, term in terms.items()}, outputs[Columns.VF_PREDS].detach(), gradients

        shape = columns[LOSS_WEIGHTS].shape
        parts = slices(columns, shape, self.device)
        slice_terms, values, gradients = zip(*map_slices(differentiate_slice, parts), strict=True)
        terms = {key: torch.stack([part[key] for part in slice_terms]).sum() for key in slice_terms[0]}
        self._log_terms(terms, join_slices(parts, values, shape), columns)
        summed, self._guard.loss = add_gradients(gradients, terms["total"])
        self.apply_gradients(self.postprocess_gradients(dict(zip(parameters, summed, strict=True))))
        return {}, {DEFAULT_MODULE_ID: terms["total"]}, {}

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
        """Compute the objective of a whole minibatch; subclasses may add terms to it."""
        columns = dict(batch)
        self._weigh(columns)
        terms = self._objective(columns, fwd_out, self._settings)
        detached = {key: term.detach() for key, term in terms.items()}
        self._log_terms(detached, fwd_out[Columns.VF_PREDS].detach(), columns)
        return terms["total"]

    @override(TorchLearner)
    def postprocess_gradients(self, gradients_dict: dict[Tensor, Tensor]) -> dict[Tensor, Tensor]:
        parameters = self._updated_parameters()
        gradients: dict[Tensor, Tensor] = super().postprocess_gradients(
            {key: gradient for key, gradient in gradients_dict.items() if key in parameters}
        )
        return gradients

    def _updated_parameters(self) -> dict[Any, Tensor]:
        """Those of `_params` that the current minibatch updates."""
        optimizers = dict(self.get_optimizers_for_module(DEFAULT_MODULE_ID))
        names = {name.removesuffix("_optimizer"): optimizer for name, optimizer in optimizers.items()}
        chosen = [names[group] for group in updated_groups(names, self._updated)]
        return {key: self._params[key] for optimizer in chosen for key in self._optimizer_parameters[optimizer]}

    def _weigh(self, columns: dict[str, Any]) -> None:
        """Add loss weights to a minibatch before it is sliced, and update the value normaliser with its returns."""
        module, self._updated = self._joint_module, updated_part(columns)
        returns = columns[Postprocessing.VALUE_TARGETS]  # (b, n), in reward units
        acts = columns[Columns.OBS]["alive"].to(returns.dtype)  # (b, n)
        earns = columns[AGENT_EARNS].to(returns.dtype) if AGENT_EARNS in columns else acts.new_ones(acts.shape)
        if Columns.LOSS_MASK in columns:
            is_step = columns[Columns.LOSS_MASK][..., None]
            acts, earns = acts * is_step, earns * is_step
        if self._updated is not None:
            is_updated = torch.arange(acts.shape[-1], device=acts.device) == self._updated  # (n,)
            acts, earns = acts * is_updated, earns * (self._updated == CRITIC)
        self._guard.save_normalizer(module.value_normalizer)
        if self._updated in (None, CRITIC):
            module.update_value_normalizer(returns, weights=earns, sync=sum_over_learners)
        columns[Postprocessing.VALUE_TARGETS] = module.normalize_values(returns)
        columns[LOSS_WEIGHTS], columns[VALUE_LOSS_WEIGHTS] = _mean_weights(acts, earns)

    def _log_terms(self, terms: dict[str, Tensor], values: Tensor, columns: dict[str, Any]) -> None:
        """Log a minibatch's terms, and pass them to the guard, which checks them together with the gradients."""
        self._guard.terms, self._guard.loss = terms, terms["total"]
        explained = explained_variance(values, columns[Postprocessing.VALUE_TARGETS], columns[VALUE_LOSS_WEIGHTS])
        logged = {key: term for key, term in (terms | {"vf_explained_var": explained}).items() if key != "total"}
        if self._updated is not None:
            logged = {key: term for key, term in logged.items() if key.startswith("vf_") == (self._updated == CRITIC)}
        self.metrics.log_dict(logged, key=DEFAULT_MODULE_ID, window=1)


def _mean_weights(*masks: Tensor) -> list[Tensor]:
    """For each mask (b, n), compute weights of agent-steps whose weighted sum is the mean over the mask.

    Several learners average their gradients. Shares with more such agent-steps therefore weigh more, so that the
    average is the mean over the agent-steps of all learners.
    """
    counts = torch.stack([mask.sum() for mask in masks])
    sum_over_learners(counts)
    return [mask * weight for mask, weight in zip(masks, num_learners() / counts.clamp_min(1.0), strict=True)]
