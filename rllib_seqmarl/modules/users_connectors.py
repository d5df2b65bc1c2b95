"""RLlib's env-to-module connectors in a team's pipeline: adapted to joint observations, or refused with the remedy.

RLlib's connectors are written for the observations of one agent. A joint observation is a Dict of arrays over agents,
of which only "observations" and "state" are features: the alive mask and the action mask must stay as they are.
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

_A_PREPROCESSOR = "derive a connector from SingleAgentObservationPreprocessor that adds them to 'observations'"
_REFUSED: dict[type[ConnectorV2], str] = {
    FlattenObservations: "each agent's observation is a flat row of 'observations' already. Remove it",
    FrameStacking: f"it stacks the images of one agent. Stack frames in the environment, or {_A_PREPROCESSOR}",
    PrevActionsPrevRewards: f"it expects the actions of one agent. Instead, {_A_PREPROCESSOR}",
}


def for_teams(pieces: Any) -> Any:
    """A user's connector or list of connectors, with RLlib's own replaced by those for teams.

    Raises:
        ValueError: A connector cannot work on joint observations.
    """
    if isinstance(pieces, list | tuple):
        return [for_teams(piece) for piece in pieces]
    if isinstance(pieces, MeanStdFilter) and not isinstance(pieces, TeamMeanStdFilter):
        if type(pieces) is MeanStdFilter:
            return TeamMeanStdFilter.like(pieces)
        raise ValueError(f"env_to_module_connector: derive {type(pieces).__name__} from TeamMeanStdFilter.")
    for refused, reason in _REFUSED.items():
        if isinstance(pieces, refused):
            raise ValueError(
                f"env_to_module_connector={type(pieces).__name__} does not work on joint observations: {reason} (see "
                f"docs/connectors.md)."
            )
    return pieces


class TeamMeanStdFilter(MeanStdFilter):
    """RLlib's `MeanStdFilter` for joint observations; the algorithm replaces RLlib's own by it.

    Every agent has running statistics of its features while it is alive; the global state has its own. Agent ids,
    masks, and the rows of dead agents stay as they are.
    """

    @classmethod
    def like(cls, piece: MeanStdFilter) -> TeamMeanStdFilter:
        """A filter with the settings of RLlib's."""
        return cls(
            de_mean_to_zero=piece.de_mean_to_zero,
            de_std_to_one=piece.de_std_to_one,
            clip_by_value=piece.clip_by_value,
            update_stats=piece._update_stats,
        )

    @override(MeanStdFilter)
    def recompute_output_observation_space(
        self, input_observation_space: gym.Space, input_action_space: gym.Space
    ) -> gym.Space:
        layout = _layout_of(input_observation_space)
        if layout.image_shape:
            raise ValueError("env_to_module_connector=MeanStdFilter: images are scaled by the network. Remove it.")
        bound = np.inf if self.clip_by_value is None else max(self.clip_by_value, 1.0)  # ids are 0 and 1
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

    def _filter(self, seen: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """A joint observation, filtered."""
        table = seen[OBSERVATIONS].copy()  # (n, obs_dim)
        size = self._num_features
        for row in np.flatnonzero(seen[ALIVE]).tolist():
            table[row, :size] = self._filters[row](table[row, :size], update=self._update_stats)
        filtered = {**seen, OBSERVATIONS: table}
        if STATE in seen:
            filtered[STATE] = self._filters[STATE](seen[STATE], update=self._update_stats)
        return filtered

    @override(MeanStdFilter)
    def merge_states(self, states: list[dict[str, Any]]) -> dict[str, Any]:
        for key in states[0]:  # RLlib's own wants filters of one size
            super().merge_states([{key: state[key]} for state in states])
        return self.get_state()

    @property
    def _num_features(self) -> int:
        return max(_layout_of(self.input_observation_space).obs_sizes)

    @override(MeanStdFilter)
    def _init_new_filters(self) -> None:
        layout = _layout_of(self.input_observation_space)
        sizes: dict[Any, int] = dict.fromkeys(range(layout.n_agents), self._num_features)
        if layout.state_dim:
            sizes[STATE] = layout.state_dim
        self._filters = {
            key: RunningFilter(
                np.array([size]), demean=self.de_mean_to_zero, destd=self.de_std_to_one, clip=self.clip_by_value
            )
            for key, size in sizes.items()
        }


def _layout_of(space: gym.Space) -> TeamLayout:
    layout = getattr(space, "layout", None)
    if layout is None:
        raise ValueError(
            "env_to_module_connector=MeanStdFilter works on the environment's own observations. Put it before "
            "connectors that change the observation space."
        )
    return layout
