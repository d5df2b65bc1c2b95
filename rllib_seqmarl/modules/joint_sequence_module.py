"""The RLModule of every joint policy: a thin wrapper that gives `JointPolicyNetwork` RLlib's interface."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
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

from rllib_seqmarl.networks import ActionSpec, JointPolicyNetwork, NetworkConfig, ValueNormalizer
from rllib_seqmarl.ops.backends import leave_kernels_out_of_graphs
from rllib_seqmarl.policy import POLICY_NAME, JointPolicy, network_input


class JointSequenceModule(TorchRLModule, ValueFunctionAPI):
    """A joint policy over a team as one sequence of n agent tokens.

    Observations are the Dict of arrays that a `JointEnv` returns: "observations" (B, n, obs_dim), "alive" (B, n), and
    optionally "action_mask" (B, n, width) and "state" (B, state_dim). The encoder reads the global state, if any,
    together with each agent's observation.

    The forward methods return, for n agents each:
        ACTIONS: (B, n), or (B, n, k) for actions of several components or dimensions.
        ACTION_LOGP: (B, n), or (B, n, k) for continuous actions of k dimensions.
        VF_PREDS: (B, n); in reward units when acting, in the value normaliser's units when training.
        "entropy": Same shape as ACTION_LOGP; only when training.
    """

    @override(TorchRLModule)
    def setup(self) -> None:
        config = network_config(self.observation_space, self.action_space, self.model_config)
        self.network = JointPolicyNetwork(config)
        self.value_normalizer = ValueNormalizer() if self.model_config.get("use_value_norm", True) else None
        self.eval()

    def train(self, mode: bool = True) -> JointSequenceModule:
        # RLlib sets the mode around every forward pass. Nothing here depends on it, and setting it on some fifty
        # submodules twice a step is slow.
        return self if self.training == mode else super().train(mode)

    @override(TorchRLModule)
    def compile(self, compile_config: TorchCompileConfig) -> Any:
        """Compile as RLlib does; the graphs exclude this package's kernels, or use plain torch instead."""
        leave_kernels_out_of_graphs()
        # Backends are chosen and logged on first use, which cannot be traced, so choose them before compiling.
        obs = next(self.parameters()).new_zeros(1, 1, self.network.config.obs_dim)
        with torch.no_grad():
            self.network.evaluate(obs, self.network.act(obs)[0])
        return super().compile(compile_config)

    @override(TorchRLModule)
    def _forward_exploration(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Tensor]:
        return self._act(batch, deterministic=False)

    @override(TorchRLModule)
    def _forward_inference(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Tensor]:
        return self._act(batch, deterministic=True)

    @torch.no_grad()
    def _act(self, batch: dict[str, Any], deterministic: bool) -> dict[str, Tensor]:
        obs = batch[Columns.OBS]
        actions, log_probs, values = self.network.act(
            network_input(obs), obs.get("action_mask"), obs["alive"], deterministic=deterministic
        )
        return {
            Columns.ACTIONS: actions,
            Columns.ACTION_LOGP: log_probs,
            Columns.VF_PREDS: self.denormalize_values(values),
        }

    @override(TorchRLModule)
    def _forward_train(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Tensor]:
        obs = batch[Columns.OBS]
        log_probs, entropy, values = self.network.evaluate(
            network_input(obs), batch[Columns.ACTIONS], obs.get("action_mask"), obs["alive"]
        )
        return {Columns.ACTION_LOGP: log_probs, "entropy": entropy, Columns.VF_PREDS: values}

    @override(ValueFunctionAPI)
    def compute_values(self, batch: dict[str, Any], embeddings: Any = None) -> Tensor:
        """Every agent's state value in reward units, (B, n)."""
        return self.denormalize_values(self.network.values(network_input(batch[Columns.OBS])))

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
        return JointPolicy(
            self.network,
            self.observation_space.layout,
            self.value_normalizer,
            self.model_config["deployment"],
        )

    @override(RLModule)
    def save_to_path(self, path: Any = None, **kwargs: Any) -> str:
        """Save the module as RLlib does, and next to it the policy in a form that loads without unpickling."""
        saved_to = super().save_to_path(path, **kwargs)
        is_local = kwargs.get("filesystem") is None or isinstance(kwargs["filesystem"], LocalFileSystem)
        if is_local and hasattr(self.observation_space, "layout"):
            self.joint_policy().save(Path(saved_to) / POLICY_NAME)
        return saved_to


def network_config(
    observation_space: gym.Space, action_space: gym.Space, model_config: dict[str, Any]
) -> NetworkConfig:
    """Configure a network for a joint environment's spaces, with the sizes and mixers of `model_config`."""
    if not isinstance(observation_space, gym.spaces.Dict) or "observations" not in observation_space.spaces:
        raise ValueError(
            f"A joint policy reads the Dict of arrays of a JointEnv ('observations', 'alive', ...), but the "
            f"observation space is {observation_space}. A custom env-to-module connector must keep the Dict and "
            f"change only the array under 'observations'."
        )
    *_, obs_dim = observation_space["observations"].shape or ()
    if "state" in observation_space.spaces:
        (state_dim,) = observation_space["state"].shape or ()
        obs_dim += state_dim
    sizes = {option.name for option in fields(NetworkConfig)}
    return NetworkConfig(
        obs_dim=obs_dim,
        action=action_spec(action_space),
        image_shape=_image_shape(observation_space),
        **{key: value for key, value in model_config.items() if key in sizes},
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
