"""RLlib's env-to-module connectors work on joint observations, or are rejected with advice."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from ray.rllib.connectors.env_to_module import FlattenObservations, MeanStdFilter, PrevActionsPrevRewards
from ray.rllib.connectors.env_to_module.frame_stacking import FrameStackingEnvToModule
from ray.rllib.connectors.env_to_module.observation_preprocessor import SingleAgentObservationPreprocessor
from ray.rllib.connectors.learner.frame_stacking import FrameStackingLearner
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.env.single_agent_episode import SingleAgentEpisode

from rllib_seqmarl import MATConfig
from rllib_seqmarl.env_runners.rollout_env_runner import RolloutEnvRunner
from rllib_seqmarl.envs.layout import TeamLayout
from rllib_seqmarl.modules.users_connectors import TeamMeanStdFilter, adapt_connectors

LAYOUT = TeamLayout(
    agents=("a", "b", "c"),
    observation_spaces=(spaces.Box(-99, 99, (2,)), spaces.Box(-99, 99, (2,)), spaces.Box(-99, 99, (1,))),
    action_spaces=(spaces.Discrete(2), spaces.Discrete(3), spaces.Discrete(2)),
    info_masks=True,
    state_dim=2,
)


def team_filter(layout: TeamLayout = LAYOUT) -> MeanStdFilter:
    """Create RLlib's filter as adapted for a team's pipeline."""
    connector = adapt_connectors([MeanStdFilter()])[0]
    connector.input_action_space, connector.input_observation_space = layout.action_space, layout.observation_space
    return connector


def apply_filter(
    connector: MeanStdFilter, features: np.ndarray, state: np.ndarray, **parts: Any
) -> dict[str, np.ndarray]:
    """Filter a joint observation with features (3, 2); check that everything else is unchanged."""
    observation = LAYOUT.blank() | parts
    observation["observations"][:, :2] = features
    observation["state"] = state
    original = {key: array.copy() for key, array in observation.items()}
    episode = SingleAgentEpisode(observations=[observation], observation_space=LAYOUT.observation_space)
    connector(rl_module=None, batch={}, episodes=[episode])
    filtered = episode.get_observations(-1)
    for key in ("alive", "action_mask"):
        np.testing.assert_array_equal(filtered[key], original[key])
    np.testing.assert_array_equal(filtered["observations"][:, 2:], np.eye(3))
    assert connector.observation_space.contains(filtered)
    return filtered


def test_only_features_and_state_are_normalised() -> None:
    connector = team_filter()
    rng = np.random.default_rng(0)
    inputs = rng.normal(5.0, 3.0, (300, 3, 2)).astype(np.float32)
    inputs[:, 2, 1] = 0.0  # the third agent's padding
    states = rng.normal(-4.0, 0.1, (300, 2)).astype(np.float32)
    filtered = [apply_filter(connector, *pair) for pair in zip(inputs, states, strict=True)][100:]
    features = np.stack([observation["observations"][:, :2] for observation in filtered])
    assert np.abs(features.mean(axis=0)).max() < 0.3
    assert np.abs(features.std(axis=0)[[0, 0, 1, 1, 2], [0, 1, 0, 1, 0]] - 1.0).max() < 0.3
    assert not features[:, 2, 1].any()
    assert np.abs(np.stack([observation["state"] for observation in filtered]).std(axis=0) - 1.0).max() < 0.3


def test_dead_agents_stay_zero_and_do_not_update_statistics() -> None:
    connector = team_filter()
    features = np.full((3, 2), 7.0, np.float32)
    features[1] = 0.0
    for _ in range(3):
        filtered = apply_filter(connector, features, np.zeros(2, np.float32), alive=np.array([1, 0, 1], np.int8))
    assert not filtered["observations"][1, :2].any()
    assert [connector._filters[row].running_stats.n for row in range(3)] == [3, 0, 3]


def test_statistics_of_several_runners_are_merged_and_restored() -> None:
    connectors = [team_filter() for _ in range(3)]
    for value, connector in enumerate(connectors[:2]):
        for _ in range(2):
            apply_filter(connector, np.full((3, 2), 2.0 * value, np.float32), np.zeros(2, np.float32))
    merged = connectors[2].merge_states([connector.get_state() for connector in connectors[:2]])
    connectors[0].set_state(merged)
    for key in (0, 1, 2, "state"):
        assert connectors[0]._filters[key].running_stats.n == 4
    np.testing.assert_allclose(connectors[0]._filters[0].running_stats.mean, 1.0)


@pytest.mark.parametrize(
    ("connector", "advice"),
    [
        (PrevActionsPrevRewards(), "PrevActionsPrevRewards.*SingleAgentObservationPreprocessor"),
        (FrameStackingEnvToModule(num_frames=4), "FrameStacking.*Stack frames in the environment"),
        (FlattenObservations(), "FlattenObservations.*Remove it"),
        ([MeanStdFilter(), FlattenObservations()], "FlattenObservations.*Remove it"),
        (type("OwnFilter", (MeanStdFilter,), {})(), "derive OwnFilter from TeamMeanStdFilter"),
    ],
)
def test_unsupported_rllib_connectors_are_rejected(connector: Any, advice: str) -> None:
    with pytest.raises(ValueError, match=f"env_to_module_connector.*{advice}"):
        adapt_connectors(connector)


def test_frame_stacking_in_the_learner_is_rejected() -> None:
    config = MATConfig().environment("coordination/distinct_choice").network(embed_dim=8)
    config.learners(learner_connector=lambda *_: FrameStackingLearner(num_frames=4))
    with pytest.raises(ValueError, match="learner_connector=FrameStacking .*Stack frames in the environment"):
        config.build_learner(spaces={DEFAULT_MODULE_ID: (LAYOUT.observation_space, LAYOUT.action_space)})


def test_images_are_not_filtered() -> None:
    image = spaces.Box(0, 255, (64, 64, 3), np.uint8)
    layout = TeamLayout(agents=("a",), observation_spaces=(image,), action_spaces=(spaces.Discrete(2),))
    with pytest.raises(ValueError, match="images are scaled by the network"):
        team_filter(layout)


class PreviousActions(SingleAgentObservationPreprocessor):
    """The example in docs/connectors.md."""

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


def test_a_runner_combines_a_filter_and_a_users_preprocessor() -> None:
    config = MATConfig().environment("coordination/distinct_choice", env_config={"n_agents": 3, "max_cycles": 5})
    config.env_runners(
        num_envs_per_env_runner=2, env_to_module_connector=lambda *_: [MeanStdFilter(), PreviousActions()]
    )
    config.network(embed_dim=16).debugging(seed=0).validate()
    runner = RolloutEnvRunner(config=config, worker_index=0, num_workers=0)
    assert list(map(type, runner._env_to_module.connectors[:2])) == [TeamMeanStdFilter, PreviousActions]
    for _ in range(2):
        for episode in runner.sample(num_timesteps=14):
            previous = episode.get_observations()["observations"][1:, :, -3:].argmax(axis=-1)  # (T, n)
            np.testing.assert_array_equal(previous, episode.get_actions())
