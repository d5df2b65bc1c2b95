"""Adapt RLlib's env-to-module connectors to joint observations, or reject them with advice.

RLlib's connectors are written for the observations of one agent. A joint observation is a Dict of arrays over agents,
of which only "observations" and "state" are features: the alive mask and the action mask must not change.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from ray.rllib.connectors.common.flatten_observations import FlattenObservations
from ray.rllib.connectors.common.frame_stacking import FrameStacking
from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.connectors.env_to_module import MeanStdFilter, PrevActionsPrevRewards
from ray.rllib.utils.annotations import override
from ray.rllib.utils.filter import MeanStdFilter as RunningFilter

from rllib_seqmarl.envs.layout import ALIVE, OBSERVATIONS, STATE, JointObservationSpace, TeamLayout

_USE_PREPROCESSOR = "derive a connector from SingleAgentObservationPreprocessor that adds them to 'observations'"
_UNSUPPORTED: dict[type[ConnectorV2], str] = {
    FlattenObservations: "each agent's observation is already a flat row of 'observations'. Remove it",
    FrameStacking: f"it stacks the images of one agent. Stack frames in the environment, or {_USE_PREPROCESSOR}",
    PrevActionsPrevRewards: f"it expects the actions of one agent. Instead, {_USE_PREPROCESSOR}",
}


def adapt_connectors(connectors: Any) -> Any:
    """Replace RLlib's connectors by their team versions in a user's connector or list of connectors.

    Raises:
        ValueError: A connector cannot work on joint observations.
    """
    if isinstance(connectors, list | tuple):
        return [adapt_connectors(connector) for connector in connectors]
    if isinstance(connectors, MeanStdFilter) and not isinstance(connectors, TeamMeanStdFilter):
        if type(connectors) is MeanStdFilter:
            return TeamMeanStdFilter.like(connectors)
        raise ValueError(f"env_to_module_connector: derive {type(connectors).__name__} from TeamMeanStdFilter.")
    check_connector("env_to_module_connector", connectors)
    return connectors


def check_connector(option: str, connector: Any) -> None:
    """Raise ValueError if the connector given by a config's `option` cannot work on joint observations."""
    for unsupported, reason in _UNSUPPORTED.items():
        if isinstance(connector, unsupported):
            raise ValueError(
                f"{option}={type(connector).__name__} does not work on joint observations: {reason} "
                f"(see docs/connectors.md)."
            )


class TeamMeanStdFilter(MeanStdFilter):
    """`MeanStdFilter` for joint observations; the algorithm substitutes it for RLlib's.

    There are separate running statistics for each agent's features, updated while it is alive, and for the global
    state. Agent ids, masks, and the rows of dead agents are left unchanged.
    """

    @classmethod
    def like(cls, connector: MeanStdFilter) -> TeamMeanStdFilter:
        """Create a filter with the settings of RLlib's `connector`."""
        return cls(
            de_mean_to_zero=connector.de_mean_to_zero,
            de_std_to_one=connector.de_std_to_one,
            clip_by_value=connector.clip_by_value,
            update_stats=connector._update_stats,
        )

    @override(MeanStdFilter)
    def recompute_output_observation_space(
        self, input_observation_space: gym.Space, input_action_space: gym.Space
    ) -> gym.Space:
        layout = _get_layout(input_observation_space)
        if layout.image_shape:
            raise ValueError("env_to_module_connector=MeanStdFilter: images are scaled by the network. Remove it.")
        bound = np.inf if self.clip_by_value is None else max(self.clip_by_value, 1.0)  # agent ids are one-hot
        parts = dict(input_observation_space.spaces)  # type: ignore[attr-defined]
        for key in (OBSERVATIONS, STATE):
            if key in parts:
                parts[key] = gym.spaces.Box(-bound, bound, parts[key].shape, np.float32)
        return JointObservationSpace(parts, layout)

    @override(MeanStdFilter)
    def __call__(self, *, batch: dict[str, Any], episodes: list[Any], **kwargs: Any) -> dict[str, Any]:
        if self._filters is None:
            self._init_new_filters()
        for episode in self.single_agent_episode_iterator(episodes):
            episode.set_observations(at_indices=-1, new_data=self._filter(episode.get_observations(-1)))
            episode.observation_space = self.observation_space
        return batch

    def _filter(self, observation: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Filter a joint observation."""
        features = observation[OBSERVATIONS].copy()  # (n, obs_dim)
        size = self._num_features
        for row in np.flatnonzero(observation[ALIVE]).tolist():
            features[row, :size] = self._filters[row](features[row, :size], update=self._update_stats)
        filtered = {**observation, OBSERVATIONS: features}
        if STATE in observation:
            filtered[STATE] = self._filters[STATE](observation[STATE], update=self._update_stats)
        return filtered

    @override(MeanStdFilter)
    def merge_states(self, states: list[dict[str, Any]]) -> dict[str, Any]:
        for key in states[0]:  # RLlib's version requires all filters to have the same size
            super().merge_states([{key: state[key]} for state in states])
        return self.get_state()

    @property
    def _num_features(self) -> int:
        return max(_get_layout(self.input_observation_space).obs_sizes)

    @override(MeanStdFilter)
    def _init_new_filters(self) -> None:
        layout = _get_layout(self.input_observation_space)
        sizes: dict[Any, int] = dict.fromkeys(range(layout.n_agents), self._num_features)
        if layout.state_dim:
            sizes[STATE] = layout.state_dim
        self._filters = {
            key: RunningFilter(
                np.array([size]), demean=self.de_mean_to_zero, destd=self.de_std_to_one, clip=self.clip_by_value
            )
            for key, size in sizes.items()
        }


def _get_layout(space: gym.Space) -> TeamLayout:
    layout = getattr(space, "layout", None)
    if layout is None:
        raise ValueError(
            "env_to_module_connector=MeanStdFilter works on the environment's original observations. Put it before "
            "connectors that change the observation space."
        )
    return layout
