"""Published rollouts and weights of MAPPO and HAPPO, as ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from rllib_seqmarl.policies import IndependentPolicy

Golden = dict[str, np.ndarray]
T, ENVS, N = 6, 4, 3


def load(name: str) -> Golden:
    with np.load(Path(__file__).parent.parent / "golden" / f"{name}.npz") as file:
        return {key: file[key] for key in file.files}


def option(golden: Golden, key: str) -> Any:
    return golden[f"config/{key}"].item()


def spaces(golden: Golden) -> tuple[gym.Space, gym.Space]:
    def box(array: np.ndarray) -> gym.Space:
        return gym.spaces.Box(-np.inf, np.inf, array.shape[2:], np.float32)

    arrays = {"observations": box(golden["obs"]), "alive": gym.spaces.MultiBinary(N), "state": box(golden["state"])}
    if not (n_actions := option(golden, "n_actions")):
        return gym.spaces.Dict(arrays), box(golden["actions"])
    return (
        gym.spaces.Dict(arrays | {"action_mask": gym.spaces.MultiBinary((N, n_actions))}),
        gym.spaces.MultiDiscrete([n_actions] * N),
    )


def set_published_state(golden: Golden, module: Any) -> None:
    """Give a module the weights and value normaliser of the published one before its update."""
    module.policy.load_state_dict(published_state(golden, "weights/", module.policy), strict=False)
    for ours, theirs in (("mean", "mean"), ("mean_square", "mean_sq"), ("debias", "debias")):
        getattr(module.value_normalizer, ours).fill_(golden[f"valuenorm_{theirs}_before"].item())


def published_state(golden: Golden, prefix: str, policy: IndependentPolicy) -> dict[str, Tensor]:
    """The published weights by our names. Layers are in the same order, then log_std, and last in ours the GRUs."""
    state = {}
    for part, group in policy.parameter_groups().items():
        keys = [key for key in golden if key.startswith(f"{prefix}{part}/")]
        arrays = [golden[key] for key in sorted(keys, key=lambda key: ("/rnn." in key, "log" in key))]
        names = {id(parameter): name for name, parameter in policy.named_parameters()}
        for parameter, array in zip(group, arrays, strict=True):
            state[names[id(parameter)]] = torch.from_numpy(array).reshape(parameter.shape)
    return state


def observations(golden: Golden) -> dict[str, Tensor]:
    """The joint observations of all rows, including the last one after the rollout."""
    keys = {"observations": "obs", "alive": "active", "state": "state", "action_mask": "available_actions"}
    return {ours: rows(golden[key], T + 1) for ours, key in keys.items() if key in golden}


def rows(array: np.ndarray, n_rows: int = T) -> Tensor:
    """The first rows (n_rows, ENVS, ...) as one axis."""
    return torch.from_numpy(array[:n_rows]).flatten(0, 1)


def per_agent(array: np.ndarray) -> np.ndarray:
    """(T, ENVS, N) of an array that may have one entry per environment."""
    return array if array.ndim == 3 else np.repeat(array[..., None], N, axis=-1)
