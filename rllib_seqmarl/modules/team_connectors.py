"""Connectors between a joint environment and its module that move whole batches.

RLlib's default pipelines split a batch into one item per environment and reassemble it, with five connectors in each
direction, so that any agent can be mapped to any module. A joint environment is one agent with one module: these two
connectors do the same in one step, in a fraction of the time. They replace the defaults if the user adds no connectors.
"""

import copy
from typing import Any

import gymnasium as gym
import numpy as np
import torch
import tree
from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.connectors.module_to_env import NormalizeAndClipActions
from ray.rllib.core.columns import Columns
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.rllib.utils.annotations import override

from rllib_seqmarl.envs.joint_actions import fit_to_bounds


class TeamToModule(ConnectorV2):
    """Stack the latest joint observations into tensors, (B, ...), on the module's device.

    If the module is stateful, observations get a time axis, (B, 1, ...), and the episodes' states are STATE_IN.
    """

    def __init__(self, *spaces: Any, device: Any = None, **kwargs: Any) -> None:
        super().__init__(*spaces, **kwargs)
        self._device = device

    @override(ConnectorV2)
    def __call__(
        self,
        *,
        batch: dict[str, Any],
        obs: list[dict[str, np.ndarray]],
        rl_module: Any = None,
        episodes: Any = (),
        **kwargs: Any,
    ) -> dict[str, Any]:
        batch[Columns.OBS] = self._stack(obs)
        if rl_module is not None and rl_module.is_stateful():
            batch[Columns.OBS] = {key: x.unsqueeze(1) for key, x in batch[Columns.OBS].items()}
            initial = tree.map_structure(np.asarray, rl_module.get_initial_state())
            batch[Columns.STATE_IN] = self._stack([_latest_state(episode, initial) for episode in episodes])
        return batch

    def _stack(self, items: list[Any]) -> Any:
        return tree.map_structure(lambda *arrays: torch.from_numpy(np.stack(arrays)).to(self._device), *items)


def _latest_state(episode: SingleAgentEpisode, initial: Any) -> Any:
    """The state before the episode's next step."""
    if episode.t == 0 or Columns.STATE_OUT not in episode.extra_model_outputs:
        return initial
    return episode.get_extra_model_outputs(Columns.STATE_OUT, -1)


class ModuleToTeam(ConnectorV2):
    """Convert the module's outputs to arrays, (B, ...), and fit continuous actions to their bounds.

    The time axis of a stateful module's outputs is removed, and STATE_OUT becomes a list of B trees.
    """

    def __init__(self, *spaces: Any, normalize_actions: bool, clip_actions: bool, **kwargs: Any) -> None:
        super().__init__(*spaces, **kwargs)
        self.normalize_actions = normalize_actions
        self.clip_actions = clip_actions

    @override(ConnectorV2)
    def __call__(self, *, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        states = batch.pop(Columns.STATE_OUT, None)
        arrays: dict[str, Any] = {key: value.cpu().numpy() for key, value in batch.items()}
        if states is not None:
            arrays = {key: value[:, 0] for key, value in arrays.items()}
            states = tree.map_structure(lambda x: x.cpu().numpy(), states)
            teams = range(len(arrays[Columns.ACTIONS]))
            arrays[Columns.STATE_OUT] = [tree.map_structure(lambda x, i=i: x[i], states) for i in teams]
        # Episodes store the module's actions; the environment gets actions within its bounds.
        actions = arrays[Columns.ACTIONS]
        for_env = self.fit(actions)
        return arrays if for_env is actions else {**arrays, Columns.ACTIONS_FOR_ENV: for_env}

    def fit(self, actions: np.ndarray) -> np.ndarray:
        """Convert the module's actions (B, n, ...) to the environment's action space."""
        space = self.input_action_space
        if not isinstance(space, gym.spaces.Box):
            return actions
        return fit_to_bounds(actions, space.low, space.high, normalize=self.normalize_actions, clip=self.clip_actions)


class FitActionsToBounds(NormalizeAndClipActions):
    """Per-dimension replacement of RLlib's NormalizeAndClipActions in pipelines with user connectors.

    RLlib's connector scales all dimensions of a team or, if a single one is unbounded, none of them.
    """

    @override(ConnectorV2)
    def __call__(self, *, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        space, options = self.input_action_space, {"normalize": self.normalize_actions, "clip": self.clip_actions}
        if isinstance(space, gym.spaces.Box) and any(options.values()):
            batch[Columns.ACTIONS_FOR_ENV] = copy.deepcopy(batch[Columns.ACTIONS])
            self.foreach_batch_item_change_in_place(
                batch=batch,
                column=Columns.ACTIONS_FOR_ENV,
                func=lambda action, *ids: fit_to_bounds(action, space.low, space.high, **options),
            )
        return batch
