"""The RLModule of every joint policy: a thin wrapper that gives a `Policy` RLlib's interface."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from pyarrow.fs import LocalFileSystem
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.apis.value_function_api import ValueFunctionAPI
from ray.rllib.core.rl_module.rl_module import RLModule
from ray.rllib.core.rl_module.torch.torch_compile_config import TorchCompileConfig
from ray.rllib.core.rl_module.torch.torch_rl_module import TorchRLModule
from ray.rllib.utils.annotations import override
from torch import Tensor
from torch.utils._pytree import tree_map

from rllib_seqmarl.networks.policy_config import ActionSpec, PolicyConfig
from rllib_seqmarl.networks.value_normalizer import ValueNormalizer
from rllib_seqmarl.ops.backends import leave_kernels_out_of_graphs
from rllib_seqmarl.policies import POLICIES, Policy
from rllib_seqmarl.policies.base import SeparatePolicy, check_extras, check_state
from rllib_seqmarl.policy import POLICY_NAME, JointPolicy

RESETS = "resets"  # column: whether an episode begins with this step, (B, T)


class JointSequenceModule(TorchRLModule, ValueFunctionAPI):
    """A joint policy of a team.

    Observations are the Dict of arrays that a `JointEnv` returns: "observations" (B, n, obs_dim), "alive" (B, n), and
    optionally "action_mask" (B, n, width) and "state" (B, state_dim).

    The forward methods return, for n agents each:
        ACTIONS: (B, n), or (B, n, k) for actions of several components or dimensions.
        ACTION_LOGP: (B, n), or (B, n, k) if the policy has one log-probability per action dimension.
        VF_PREDS: (B, n); in reward units when acting, in the value normaliser's units when training.
        "entropy": Same shape as ACTION_LOGP; only when training.
        and the policy's extras, (B, ...).

    If the policy carries a state from step to step, the module is stateful as RLlib defines it: batches have STATE_IN,
    a tree of (B, ...), and a time axis after the first in all other columns, (B, T, ...), of length 1 when acting;
    outputs too have a time axis, and there is STATE_OUT.

    Attributes:
        network: The policy.
        value_normalizer: The normaliser of its values; None if they are in reward units.
        max_seq_len: The length of the windows in which a policy with memory learns; 0 without memory.
    """

    @override(TorchRLModule)
    def setup(self) -> None:
        self.network = make_policy(self.observation_space, self.action_space, self.model_config)
        check_state(self.network)
        config = self.network.config
        self.max_seq_len = config.seq_len if config.has_memory else 0
        self.value_normalizer = ValueNormalizer() if self.model_config.get("use_value_norm", True) else None
        self.eval()

    @property
    def policy(self) -> Policy:
        """The policy. Its parameters have the prefix "network." in checkpoints."""
        return self.network

    def train(self, mode: bool = True) -> JointSequenceModule:
        # RLlib sets the mode around every forward pass. Nothing here depends on it, and setting it on some fifty
        # submodules twice a step is slow.
        return self if self.training == mode else super().train(mode)

    @override(TorchRLModule)
    def compile(self, compile_config: TorchCompileConfig) -> Any:
        """Compile as RLlib does; the graphs exclude this package's kernels, or use plain torch instead."""
        leave_kernels_out_of_graphs()
        # Backends are chosen and logged on first use, which cannot be traced, so choose them before compiling.
        obs = {
            key: torch.from_numpy(array).to(next(self.parameters()).device)
            for key, array in self.observation_space.layout.blank(1).items()
        }
        with torch.no_grad():
            decision = self.network.act(obs)
            if not self.network.config.has_memory:
                self.network.evaluate(obs, decision.actions, extras=decision.extras)
        return super().compile(compile_config)

    @override(TorchRLModule)
    def get_initial_state(self) -> Any:
        """The state of one team before the first step, without batch axis; {} if there is none."""
        return tree_map(lambda x: x[0].cpu(), self.network.initial_state(1))

    @override(TorchRLModule)
    def _forward_exploration(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        return self._act(batch, deterministic=False)

    @override(TorchRLModule)
    def _forward_inference(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        return self._act(batch, deterministic=True)

    @torch.no_grad()
    def _act(self, batch: dict[str, Any], deterministic: bool) -> dict[str, Any]:
        obs, state = batch[Columns.OBS], batch.get(Columns.STATE_IN)
        if state is not None:
            obs = {key: x.squeeze(1) for key, x in obs.items()}  # (B, ...) from (B, 1, ...)
        decision = self.network.act(obs, state, deterministic)
        check_extras(decision.extras)
        outputs = {
            Columns.ACTIONS: decision.actions,
            Columns.ACTION_LOGP: decision.log_probs,
            Columns.VF_PREDS: self.denormalize_values(decision.values),
            **decision.extras,
        }
        if state is None:
            return outputs
        return {key: x.unsqueeze(1) for key, x in outputs.items()} | {Columns.STATE_OUT: decision.state}

    @override(TorchRLModule)
    def _forward_train(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Tensor]:
        evaluation = self.network.evaluate(
            batch[Columns.OBS], batch[Columns.ACTIONS], batch.get(Columns.STATE_IN), batch.get(RESETS), batch
        )
        return {
            Columns.ACTION_LOGP: evaluation.log_probs,
            "entropy": evaluation.entropy,
            Columns.VF_PREDS: evaluation.values,
            **evaluation.extras,
        }

    def forward_part(self, batch: dict[str, Any], part: int | None) -> dict[str, Tensor]:
        """Compute what :meth:`forward_train` does, but only one agent's log-probabilities and entropy, or the values.

        Everything else is that of the batch, without a gradient. A policy that is no `SeparatePolicy` is evaluated
        as a whole.

        Args:
            batch: A batch for `forward_train`, with ACTION_LOGP and, in the value normaliser's units, VF_PREDS.
            part: The index of the agent, -1 for the values, or None for everything.
        """
        if part is None or not isinstance(self.network, SeparatePolicy):
            outputs: dict[str, Tensor] = self.forward_train(batch)
            return outputs
        log_probs, values, obs = batch[Columns.ACTION_LOGP], batch[Columns.VF_PREDS], batch[Columns.OBS]
        state, resets, entropy = batch.get(Columns.STATE_IN), batch.get(RESETS), torch.zeros_like(log_probs)
        if part < 0:
            values = self.network.evaluate_values(obs, state, resets)
        else:
            parts = self.network.evaluate_agent(part, obs, batch[Columns.ACTIONS], state, resets)
            axis = values.dim() - 1
            log_probs, entropy = (
                whole.slice_scatter(own, axis, part, part + 1)
                for whole, own in zip((log_probs, entropy), parts, strict=True)
            )
        return {Columns.ACTION_LOGP: log_probs, "entropy": entropy, Columns.VF_PREDS: values}

    @override(ValueFunctionAPI)
    def compute_values(self, batch: dict[str, Any], embeddings: Any = None) -> Tensor:
        """Every agent's state value of one step in reward units, (B, n), given the state before it in STATE_IN."""
        return self.denormalize_values(self.network.values(batch[Columns.OBS], batch.get(Columns.STATE_IN)))

    def normalize_values(self, values: Tensor) -> Tensor:
        """Convert from reward units to the units that the network predicts in."""
        return values if self.value_normalizer is None else self.value_normalizer.normalize(values)

    def denormalize_values(self, values: Tensor) -> Tensor:
        """Convert from the units that the network predicts in to reward units."""
        return values if self.value_normalizer is None else self.value_normalizer.denormalize(values)

    def update_value_normalizer(
        self, returns: Tensor, weights: Tensor | None = None, sync: Callable[[Tensor], None] | None = None
    ) -> None:
        """Call :meth:`ValueNormalizer.update` if there is a value normaliser; `returns` are in reward units."""
        if self.value_normalizer is not None:
            self.value_normalizer.update(returns, weights=weights, sync=sync)

    @override(RLModule)
    def set_state(self, state: dict[str, Any]) -> None:
        # RLlib's version converts float64 to float32, which would lose precision in the value normaliser's statistics.
        self.load_state_dict({key: torch.tensor(np.asarray(value)) for key, value in state.items()})

    def joint_policy(self) -> JointPolicy:
        """Return this module's policy, which acts without RLlib and shares the module's weights."""
        layout, deployment = self.observation_space.layout, self.model_config["deployment"]
        return JointPolicy(self.network, layout, self.value_normalizer, deployment)

    @override(RLModule)
    def save_to_path(self, path: Any = None, **kwargs: Any) -> str:
        """Save the module as RLlib does, and next to it the policy in a form that loads without unpickling."""
        saved_to = super().save_to_path(path, **kwargs)
        is_local = kwargs.get("filesystem") is None or isinstance(kwargs["filesystem"], LocalFileSystem)
        if is_local and hasattr(self.observation_space, "layout"):
            self.joint_policy().save(Path(saved_to) / POLICY_NAME)
        return saved_to


def make_policy(observation_space: gym.Space, action_space: gym.Space, model_config: dict[str, Any]) -> Policy:
    """Make the policy that `model_config` selects and configures, for a joint environment's spaces."""
    return _policy_class(model_config)(policy_config(observation_space, action_space, model_config))


def _policy_class(model_config: dict[str, Any]) -> type[Policy]:
    return POLICIES.find("policy", model_config.get("policy", "sequence"))


def policy_config(observation_space: gym.Space, action_space: gym.Space, model_config: dict[str, Any]) -> PolicyConfig:
    """Configure the policy of a joint environment's spaces, with the options in `model_config`."""
    if not isinstance(observation_space, gym.spaces.Dict) or "observations" not in observation_space.spaces:
        raise ValueError(
            f"A joint policy reads the Dict of arrays of a JointEnv ('observations', 'alive', ...), but the "
            f"observation space is {observation_space}. A custom env-to-module connector must keep the Dict and "
            f"change only the array under 'observations'."
        )
    n_agents, *_, obs_dim = observation_space["observations"].shape or ()
    state_shape = observation_space["state"].shape or () if "state" in observation_space.spaces else (0,)
    config_class = _policy_class(model_config).Config
    return config_class(
        obs_dim=obs_dim,
        action=action_spec(action_space),
        n_agents=n_agents,
        state_dim=state_shape[-1],
        has_agent_states=len(state_shape) > 1,
        image_shape=_image_shape(observation_space),
        **{key: value for key, value in model_config.items() if key in config_class.options()},
    )


def _image_shape(observation_space: gym.spaces.Dict) -> tuple[int, int, int] | None:
    """Shape of the agents' images; None if there are none, or if a connector has changed the observations."""
    layout = getattr(observation_space, "layout", None)
    if layout is None or observation_space["observations"] != layout.observation_space["observations"]:
        return None
    return layout.image_shape


def action_spec(action_space: gym.Space) -> ActionSpec:
    """Describe one agent's action in a joint action space: MultiDiscrete (n,) or (n, k), or Box (n, dim).

    For agents with fewer choices than others, the missing ones are masked.
    """
    if isinstance(action_space, gym.spaces.MultiDiscrete):
        nvec = action_space.nvec.reshape(len(action_space.nvec), -1).max(axis=0)  # (k,)
        return ActionSpec(kind="discrete", nvec=tuple(nvec.tolist()))
    if isinstance(action_space, gym.spaces.Box):
        return ActionSpec(kind="continuous", dim=int(action_space.shape[-1]))
    raise ValueError(
        f"A joint action space must be MultiDiscrete or Box, not {action_space}. Wrap the environment in JointEnv."
    )
