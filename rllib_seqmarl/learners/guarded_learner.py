"""How weights change: optimizer, schedules, clipping, and the guard against updates that are not finite."""

from typing import Any

import torch
from ray.rllib.algorithms.ppo.ppo import PPOConfig
from ray.rllib.algorithms.ppo.ppo_learner import PPOLearner
from ray.rllib.algorithms.ppo.torch.ppo_torch_learner import PPOTorchLearner
from ray.rllib.core.learner.torch.torch_learner import TorchLearner
from ray.rllib.utils.annotations import override
from ray.rllib.utils.metrics import NUM_ENV_STEPS_SAMPLED_LIFETIME
from ray.rllib.utils.torch_utils import clip_gradients
from torch import Tensor

from rllib_seqmarl.learners.distributed import num_learners, sum_over_learners
from rllib_seqmarl.learners.guard import UpdateGuard


class GuardedTorchLearner(PPOTorchLearner):
    """RLlib's learner with a fused Adam, schedules that survive a restore, and guarded updates."""

    @override(PPOLearner)
    def build(self) -> None:
        super().build()
        # With `debugging(seed=...)` RLlib makes torch deterministic, which also fills new memory with NaNs: a debugging
        # aid that takes a tenth of an update.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        self._guard = UpdateGuard(self.config)

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
        n_agents = policy.config.n_agents
        if config.update_order == "sequential" and len(groups) - ("critic" in groups) != n_agents:
            raise ValueError(
                f"update_order='sequential' updates one agent after another, but {n_agents} agents share parameters of "
                f"policy={config.policy!r} ({', '.join(groups)}). Use a policy with one group per agent, such as "
                f"policy='independent' with network(share_actor=False); or update_order='together'."
            )
        grouped = {id(parameter) for params in groups.values() for parameter in params}
        if left_out := [name for name, parameter in policy.named_parameters() if id(parameter) not in grouped]:
            raise ValueError(
                f"policy={config.policy!r}: {left_out[0]} would never be trained. Add it to a group in "
                f"`parameter_groups`."
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
        for reference, parameter in self._params.items():
            gradient = gradients_dict.get(reference)  # None, not the last one's, if this update has none
            if gradient is not None and gradient.stride() != parameter.stride():
                # torch's fused Adam reads a gradient in the memory layout of its parameter, whatever its own is.
                gradient = torch.empty_like(parameter).copy_(gradient)
            parameter.grad = gradient
        if self._grad_scalers is not None or self._lr_scheduler_classes is not None:
            super().apply_gradients(gradients_dict)
            return
        for optimizer in self._named_optimizers.values():
            optimizer.step()

    def _record_norm(self, norm: Tensor) -> None:
        if self._grad_scalers is None:  # a scaler checks gradients itself, and lowers its scale if they overflow
            self._guard.norms.append(norm)
