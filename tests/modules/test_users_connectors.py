"""RLlib's env-to-module connectors work on joint observations, or are refused with what to use."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from ray.rllib.connectors.env_to_module import FlattenObservations, MeanStdFilter, PrevActionsPrevRewards
from ray.rllib.connectors.env_to_module.frame_stacking import FrameStackingEnvToModule
from ray.rllib.connectors.env_to_module.observation_preprocessor import SingleAgentObservationPreprocessor
from ray.rllib.env.single_agent_episode import SingleAgentEpisode

from rllib_seqmarl import MATConfig
from rllib_seqmarl.env_runners.rollout_env_runner import RolloutEnvRunner
from rllib_seqmarl.envs.layout import TeamLayout
from rllib_seqmarl.modules.users_connectors import TeamMeanStdFilter, for_teams

LAYOUT = TeamLayout(
    agents=("a", "b", "c"),
    observation_spaces=(spaces.Box(-99, 99, (2,)), spaces.Box(-99, 99, (2,)), spaces.Box(-99, 99, (1,))),
    action_spaces=(spaces.Discrete(2), spaces.Discrete(3), spaces.Discrete(2)),
    info_masks=True,
    state_dim=2,
)


def team_filter(layout: TeamLayout = LAYOUT) -> MeanStdFilter:
    """RLlib's filter as a team's pipeline takes it in."""
    piece = for_teams([MeanStdFilter()])[0]
    piece.input_action_space, piece.input_observation_space = layout.action_space, layout.observation_space
    return piece


def filtered(piece: MeanStdFilter, table: np.ndarray, state: np.ndarray, **parts: Any) -> dict[str, np.ndarray]:
    """A joint observation with features `table` (3, 2), after the filter."""
    seen = LAYOUT.blank() | parts
    seen["observations"][:, :2] = table
    seen["state"] = state
    kept = {key: array.copy() for key, array in seen.items()}
    episode = SingleAgentEpisode(observations=[seen], observation_space=LAYOUT.observation_space)
    piece(rl_module=None, batch={}, episodes=[episode])
    found = episode.get_observations(-1)
    for key in ("alive", "action_mask"):
        np.testing.assert_array_equal(found[key], kept[key])
    np.testing.assert_array_equal(found["observations"][:, 2:], np.eye(3))
    assert piece.observation_space.contains(found)
    return found


def test_features_and_state_are_normalised_and_nothing_else() -> None:
    piece = team_filter()
    rng = np.random.default_rng(0)
    tables = rng.normal(5.0, 3.0, (300, 3, 2)).astype(np.float32)
    tables[:, 2, 1] = 0.0  # the third agent's padding
    states = rng.normal(-4.0, 0.1, (300, 2)).astype(np.float32)
    found = [filtered(piece, table, state) for table, state in zip(tables, states, strict=True)][100:]
    features = np.stack([seen["observations"][:, :2] for seen in found])
    assert np.abs(features.mean(axis=0)).max() < 0.3
    assert np.abs(features.std(axis=0)[[0, 0, 1, 1, 2], [0, 1, 0, 1, 0]] - 1.0).max() < 0.3
    assert not features[:, 2, 1].any()
    assert np.abs(np.stack([seen["state"] for seen in found]).std(axis=0) - 1.0).max() < 0.3


def test_the_dead_stay_zero_and_do_not_count() -> None:
    piece = team_filter()
    table = np.full((3, 2), 7.0, np.float32)
    table[1] = 0.0
    for _ in range(3):
        found = filtered(piece, table, np.zeros(2, np.float32), alive=np.array([1, 0, 1], np.int8))
    assert not found["observations"][1, :2].any()
    assert [piece._filters[row].running_stats.n for row in range(3)] == [3, 0, 3]


def test_statistics_of_several_runners_are_merged_and_restored() -> None:
    pieces = [team_filter() for _ in range(3)]
    for value, piece in enumerate(pieces[:2]):
        for _ in range(2):
            filtered(piece, np.full((3, 2), 2.0 * value, np.float32), np.zeros(2, np.float32))
    merged = pieces[2].merge_states([piece.get_state() for piece in pieces[:2]])
    pieces[0].set_state(merged)
    for key in (0, 1, 2, "state"):
        assert pieces[0]._filters[key].running_stats.n == 4
    np.testing.assert_allclose(pieces[0]._filters[0].running_stats.mean, 1.0)


@pytest.mark.parametrize(
    ("piece", "remedy"),
    [
        (PrevActionsPrevRewards(), "PrevActionsPrevRewards.*SingleAgentObservationPreprocessor"),
        (FrameStackingEnvToModule(num_frames=4), "FrameStacking.*Stack frames in the environment"),
        (FlattenObservations(), "FlattenObservations.*Remove it"),
        ([MeanStdFilter(), FlattenObservations()], "FlattenObservations.*Remove it"),
        (type("OwnFilter", (MeanStdFilter,), {})(), "derive OwnFilter from TeamMeanStdFilter"),
    ],
)
def test_other_connectors_of_rllib_are_refused(piece: Any, remedy: str) -> None:
    with pytest.raises(ValueError, match=f"env_to_module_connector.*{remedy}"):
        for_teams(piece)


def test_images_are_not_filtered() -> None:
    image = spaces.Box(0, 255, (64, 64, 3), np.uint8)
    layout = TeamLayout(agents=("a",), observation_spaces=(image,), action_spaces=(spaces.Discrete(2),))
    with pytest.raises(ValueError, match="images are scaled by the network"):
        team_filter(layout)


class PreviousActions(SingleAgentObservationPreprocessor):
    """The example of docs/connectors.md."""

    def recompute_output_observation_space(self, space: Any, action_space: Any) -> gym.Space:
        n, size = space["observations"].shape
        self.choices = int(action_space.nvec.max())
        wider = spaces.Box(-np.inf, np.inf, (n, size + self.choices), np.float32)
        return spaces.Dict({**space.spaces, "observations": wider})

    def preprocess(self, observation: Any, episode: SingleAgentEpisode) -> Any:
        table = observation["observations"]  # (n, size)
        previous = np.zeros((len(table), self.choices), np.float32)
        if episode.t > 0:
            previous[np.arange(len(table)), episode.get_actions(-1)] = 1.0
        return {**observation, "observations": np.concatenate([table, previous], axis=1)}


def test_a_filter_and_a_users_preprocessor_in_a_runner() -> None:
    config = MATConfig().environment("coordination/distinct_choice", env_config={"n_agents": 3, "max_cycles": 5})
    config.env_runners(
        num_envs_per_env_runner=2, env_to_module_connector=lambda *_: [MeanStdFilter(), PreviousActions()]
    )
    config.network(embed_dim=16).debugging(seed=0).validate()
    runner = RolloutEnvRunner(config=config, worker_index=0, num_workers=0)
    assert [type(piece) for piece in runner._env_to_module.connectors[:2]] == [TeamMeanStdFilter, PreviousActions]
    for _ in range(2):
        for episode in runner.sample(num_timesteps=14):
            previous = episode.get_observations()["observations"][1:, :, -3:].argmax(axis=-1)  # (T, n)
            np.testing.assert_array_equal(previous, episode.get_actions())
