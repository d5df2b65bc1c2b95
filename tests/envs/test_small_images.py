"""Tests of downscaling by area averaging and of frame stacking."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from rllib_seqmarl.envs.small_images import SmallImages

HEIGHT, WIDTH = 60, 80


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(256, size=(HEIGHT, WIDTH, 3), dtype=np.uint8)


def means(pixels: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Means over blocks; rows and columns must divide height and width."""
    height, width, channels = pixels.shape
    return pixels.reshape(rows, height // rows, columns, width // columns, channels).mean(axis=(1, 3))


def test_color_area_averaging(pixels: np.ndarray) -> None:
    images = SmallImages(HEIGHT, WIDTH, image_size=[20, 16], grayscale=False)
    small = images.shrink(Image.fromarray(pixels), {"a": (0, 0, WIDTH, HEIGHT)})["a"]
    assert small.dtype == np.uint8 and small.shape == (20, 16, 3)
    np.testing.assert_allclose(small, means(pixels, 20, 16), atol=1)


def test_grayscale_conversion(pixels: np.ndarray) -> None:
    images = SmallImages(HEIGHT, WIDTH, image_size=(30, 40))
    gray = pixels @ np.array([0.299, 0.587, 0.114])  # ITU-R 601
    small = images.shrink(Image.fromarray(pixels), {"a": (0, 0, WIDTH, HEIGHT)})["a"]
    np.testing.assert_allclose(small, means(gray[..., None], 30, 40), atol=1.5)


def test_crops_per_agent_with_black_outside(pixels: np.ndarray) -> None:
    images = SmallImages(20, 30, image_size=None, grayscale=False)
    small = images.shrink(Image.fromarray(pixels), {"a": (5, 7, 35, 27), "b": (-10, -5, 20, 15)})
    np.testing.assert_array_equal(small["a"], pixels[7:27, 5:35])
    np.testing.assert_array_equal(small["b"][5:, 10:], pixels[:15, :20])
    assert not small["b"][:5].any() and not small["b"][:, :10].any()


def test_frame_stack_order_and_initial_repetition() -> None:
    images = SmallImages(16, 16, image_size=None, frame_stack=3)
    frame = [np.full((16, 16, 1), i, np.uint8) for i in range(5)]
    assert images.space.shape == (16, 16, 3)
    for latest, expected in ((0, [0, 0, 0]), (1, [0, 0, 1]), (2, [0, 1, 2]), (3, [1, 2, 3])):
        stack = images.stack("a", frame[latest])
        assert stack in images.space and stack[0, 0].tolist() == expected
    assert images.stack("b", frame[4])[0, 0].tolist() == [4, 4, 4]
    images.reset()
    assert images.stack("a", frame[4])[0, 0].tolist() == [4, 4, 4]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 64}, r"image_size=64 is not a size: give \(height, width\), or None"),
        ({"image_size": (60, 15)}, "image_size=15 is out of range: give an integer from 16 to 80"),
        ({"image_size": (61, 64)}, "image_size=61 is out of range: give an integer from 16 to 60"),
        ({"grayscale": 3}, "grayscale=3 is unknown"),
        ({"frame_stack": 0}, "frame_stack=0 is out of range"),
    ],
)
def test_invalid_options_are_rejected(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SmallImages(HEIGHT, WIDTH, **{"image_size": (20, 20), **options})
