"""Tests of layouts with images: if all have one size, the arrays contain their pixels."""

from __future__ import annotations

import json

import numpy as np
import pytest
from gymnasium import spaces
from toy_envs import ToyTeam

from rllib_seqmarl.envs.errors import JointEnvError, LayoutError
from rllib_seqmarl.envs.joint_env import JointEnv
from rllib_seqmarl.envs.layout import TeamLayout

CHOICE = spaces.Discrete(2)


def image_space(*shape: int, dtype: type = np.uint8) -> spaces.Box:
    return spaces.Box(0, 255, shape, dtype)


def layout(*observation_spaces: spaces.Space, **options: object) -> TeamLayout:
    n = len(observation_spaces)
    return TeamLayout(tuple("abcd"[:n]), observation_spaces, (CHOICE,) * n, **options)


def test_rows_contain_pixels_and_ids() -> None:
    team = layout(image_space(16, 20, 3), image_space(16, 20, 3), state_dim=2)
    assert team.image_shape == (16, 20, 3)
    image = np.random.default_rng(0).integers(256, size=(20, 16, 3), dtype=np.uint8).transpose(1, 0, 2)
    arrays = team.observe({"b": image}, state=[0.5, -1.0])
    assert arrays in team.observation_space
    assert arrays["observations"].dtype == np.uint8
    np.testing.assert_array_equal(arrays["observations"][1, :-2].reshape(16, 20, 3), image)
    np.testing.assert_array_equal(arrays["observations"][:, -2:], np.eye(2))
    assert not arrays["observations"][0, :-2].any() and arrays["alive"].tolist() == [0, 1]
    assert arrays["state"].dtype == np.float32 and arrays["state"].tolist() == [0.5, -1.0]
    assert team.blank(3)["observations"].dtype == np.uint8


def test_image_with_action_mask() -> None:
    space = spaces.Dict(observation=image_space(16, 16, 1), action_mask=spaces.MultiBinary(2))
    team = layout(space)
    assert team.image_shape == (16, 16, 1)
    mask = np.array([1, 0], np.int8)
    arrays = team.observe({"a": {"observation": np.full((16, 16, 1), 7, np.uint8), "action_mask": mask}})
    assert (arrays["observations"][0, :-1] == 7).all() and arrays["action_mask"].tolist() == [[1, 0]]


@pytest.mark.parametrize(
    "observation_spaces",
    [
        (image_space(16, 20, 3), image_space(20, 16, 3)),  # two sizes
        (image_space(16, 16, 1), spaces.Box(0, 1, (256,), np.float32)),  # one agent only
        (image_space(7, 7, 3),),  # a grid
        (image_space(16, 15, 3),),
        (image_space(16, 16),),  # no channels
        (image_space(16, 16, 3, dtype=np.float32),),
    ],
)
def test_anything_else_is_flattened_to_float32(observation_spaces: tuple[spaces.Space, ...]) -> None:
    team = layout(*observation_spaces)
    assert team.image_shape is None
    arrays = team.observe({agent: space.sample() for agent, space in zip("ab", observation_spaces, strict=False)})
    assert arrays["observations"].dtype == np.float32 == team.observation_space["observations"].dtype


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((16, 20, 3), np.float32),
        np.zeros((16, 20, 3), np.int64),
        np.zeros((20, 16, 3), np.uint8),
        np.zeros(960, np.uint8),
    ],
)
def test_arrays_that_do_not_fit_the_image_space_are_rejected(image: np.ndarray) -> None:
    """Values from 0 to 1 would all become 0, and transposed images would go unnoticed."""
    with pytest.raises(LayoutError, match=r"agent 'a': its observation .* its space of uint8 \(16, 20, 3\)"):
        layout(image_space(16, 20, 3)).observe({"a": image})


def test_layout_json_round_trip() -> None:
    team = layout(image_space(64, 64, 2), image_space(64, 64, 2))
    text = json.dumps(team.to_dict())
    assert TeamLayout.from_dict(json.loads(text)) == team and len(text) < 1000


@pytest.mark.parametrize("has_mask", [False, True])
@pytest.mark.parametrize("shape", [(3, 16, 20), (1, 16, 16), (4, 64, 64), (2, 64, 64), (12, 64, 64)])
def test_channels_first_images_are_rejected(shape: tuple[int, ...], has_mask: bool) -> None:
    team = ToyTeam([CHOICE])
    image, mask = image_space(*shape), spaces.MultiBinary(2)
    team.seen["a"] = spaces.Dict(observation=image, action_mask=mask) if has_mask else image
    with pytest.raises(JointEnvError, match=r"toy_team: agent 'a' observes images .* channels first. .*np.moveaxis"):
        JointEnv(team)
    layout(image_space(*shape))  # exported policies trained on such rows still load
