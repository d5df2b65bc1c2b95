"""The learner connector that turns RLlib's episodes into the joint learner's columns."""

from typing import Any

import numpy as np
import torch
import tree
from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.rllib.utils.annotations import override

from rllib_seqmarl.learners.rollout_columns import rollout_columns
from rllib_seqmarl.rollouts.packing import pack_episodes


class JointGAE(ConnectorV2):
    """Pack the processed batch into a rollout, and compute the train batch from it with `rollout_columns`.

    It is the last connector of the learner pipeline and replaces RLlib's `GeneralAdvantageEstimation`. Like that one
    it relies on `AddOneTsToEpisodesAndTruncate`, which appends a row to every episode chunk (its last observation), so
    that other connectors also process the last observation. The values of all other rows were predicted while sampling,
    so the network runs only on the added rows, one per chunk.
    """

    def __init__(self, *spaces: Any, settings: Any, device: Any = None, **kwargs: Any) -> None:
        """Initialise the connector with the algorithm's config, see `rollout_columns`, and the learner's device."""
        super().__init__(*spaces, **kwargs)
        self.settings = settings
        self.device = device

    @override(ConnectorV2)
    def __call__(self, *, rl_module: Any, batch: dict[str, Any], episodes: list[Any], **kwargs: Any) -> dict[str, Any]:
        columns = batch[DEFAULT_MODULE_ID]
        module = rl_module[DEFAULT_MODULE_ID].unwrapped()
        if module.is_stateful() and all(Columns.STATE_OUT in episode.extra_model_outputs for episode in episodes):
            columns[Columns.STATE_IN] = self._states_before(episodes, module)
        last = (~columns[Columns.LOSS_MASK]).nonzero().squeeze(-1)  # (chunks,), the added rows
        inputs = {key: columns[key] for key in (Columns.OBS, Columns.STATE_IN) if key in columns}
        with torch.no_grad():
            columns[Columns.VF_PREDS][last] = module.compute_values(tree.map_structure(lambda x: x[last], inputs))
        columns = {key: column for key, column in columns.items() if key != Columns.INFOS}
        arrays = tree.map_structure(lambda x: x.cpu().numpy(), columns)
        rollout = pack_episodes(arrays, episodes, module.max_seq_len)
        batch[DEFAULT_MODULE_ID] = rollout_columns([rollout], module, self.settings, self.device)
        return batch

    def _states_before(self, episodes: list[SingleAgentEpisode], module: Any) -> Any:
        """Return the states before all rows, a tree of (rows, ...): the one before a row is STATE_OUT of the last."""
        initial = tree.map_structure(np.asarray, module.get_initial_state())
        parts = []
        for episode in episodes:
            first = initial
            if episode.t_started:
                first = episode.get_extra_model_outputs(Columns.STATE_OUT, -1, neg_index_as_lookback=True)
            others = episode.get_extra_model_outputs(Columns.STATE_OUT)  # (length, ...)
            parts.append(tree.map_structure(lambda x, y: np.concatenate([np.asarray(x)[None], y[:-1]]), first, others))
        return tree.map_structure(lambda *x: torch.from_numpy(np.concatenate(x)).to(self.device), *parts)
