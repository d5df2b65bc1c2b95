"""Downscaling and frame stacking of images."""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from PIL import Image

from rllib_seqmarl.envs.agent_spaces import SMALLEST_IMAGE
from rllib_seqmarl.envs.options import check_choice, check_number

Rectangle = tuple[int, int, int, int]  # left, top, right, bottom


class SmallImages:
    """Downscales RGB images by area averaging and stacks each agent's latest ones, the newest last.

    At the start of an episode, the first image is repeated.

    Args:
        height: Height of the original images.
        width: Width of the original images.
        image_size: Height and width after downscaling, from 16 to the original size; None to keep the size.
        grayscale: Whether to convert RGB to one channel.
        frame_stack: Number of images per observation, >= 1.

    Raises:
        ValueError: An argument is out of range.
    """

    def __init__(
        self,
        height: int,
        width: int,
        *,
        image_size: Sequence[int] | None = (64, 64),
        grayscale: bool = True,
        frame_stack: int = 2,
    ):
        size = (height, width) if image_size is None else image_size
        if not isinstance(size, Sequence) or len(size) != 2:
            raise ValueError(
                f"image_size={image_size!r} is not a size: give (height, width), or None to keep the size."
            )
        for side, largest in zip(size, (height, width), strict=True):
            check_number("each side of image_size", side, min(SMALLEST_IMAGE, largest), largest)
        check_choice("grayscale", grayscale, (False, True))
        check_number("frame_stack", frame_stack, 1)
        self.height, self.width = size
        self.grayscale = grayscale
        self.frame_stack = frame_stack
        channels = frame_stack if grayscale else 3 * frame_stack
        self.space = spaces.Box(0, 255, (self.height, self.width, channels), np.uint8)
        self._frames: dict[Any, deque[np.ndarray]] = {}

    def reset(self) -> None:
        """Clear the stacks."""
        self._frames = {}

    def shrink(self, image: Image.Image, boxes: Mapping[Any, Rectangle]) -> dict[Any, np.ndarray]:
        """Crop and downscale parts of an RGB image to uint8 (height, width, 1 or 3).

        Args:
            image: The image.
            boxes: Agent -> (left, top, right, bottom), of the original images' size. Areas outside `image` are black.
        """
        if self.grayscale:
            image = image.convert("L")
        size = self.width, self.height
        small = {box: image.crop(box).resize(size, Image.Resampling.BOX) for box in {*boxes.values()}}
        shape = self.height, self.width, 1 if self.grayscale else 3
        return {agent: np.asarray(small[box]).reshape(shape) for agent, box in boxes.items()}

    def stack(self, agent: Any, small: np.ndarray) -> np.ndarray:
        """Append an image to the agent's stack and return the stack, uint8 (height, width, channels)."""
        frames = self._frames.get(agent)
        if frames is None:
            frames = self._frames[agent] = deque([small] * self.frame_stack, self.frame_stack)
        else:
            frames.append(small)
        return np.concatenate(frames, axis=-1)
