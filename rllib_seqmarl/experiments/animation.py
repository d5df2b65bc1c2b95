"""Animations of episodes, with a caption below each frame."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_LONGER_SIDE = 300  # approximate size in pixels to which smaller pictures are enlarged
_MIN_WIDTH = 300  # pixels, so that captions are readable
_FONT_SIZE, _LINE, _MARGIN = 13, 18, 6
_MAX_AGENTS = 24  # listed in a caption


@dataclass(frozen=True)
class Frame:
    """One step of an episode.

    Attributes:
        picture: The environment's rendering, uint8 (height, width, 3).
        headline: The episode, the step, and the reward and return so far.
        agents: One short text per agent: its id and action.
    """

    picture: np.ndarray
    headline: str = ""
    agents: tuple[str, ...] = ()


def write_gif(frames: Sequence[Frame], path: Path, fps: float = 10.0) -> None:
    """Write an endlessly looping animation that shows its last frame for a second.

    Args:
        frames: At least one frame; all pictures have the same size. Small pictures are enlarged.
        path: The file to write.
        fps: Frames per second.
    """
    height, width = frames[0].picture.shape[:2]
    enlarge = max(1, _LONGER_SIDE // max(height, width))
    layout = _CaptionLayout(frames, max(_MIN_WIDTH, enlarge * width))
    images = [layout.captioned(frame, enlarge) for frame in frames]
    durations = [round(1000 / fps)] * (len(images) - 1) + [1000]
    path.parent.mkdir(parents=True, exist_ok=True)
    images[0].save(path, save_all=True, append_images=images[1:], duration=durations, loop=0, optimize=True)


class _CaptionLayout:
    """The caption layout of all frames: the headline, then the agents in as many columns as fit."""

    def __init__(self, frames: Sequence[Frame], width: int) -> None:
        self.font = ImageFont.load_default(_FONT_SIZE)
        self.width = width
        texts = {text for frame in frames for text in self._agents(frame)}
        widest = max(map(self.font.getlength, texts), default=1.0) + 2 * _MARGIN
        self.columns = max(1, int((width - _MARGIN) // widest))
        headlines = max(len(self._wrap(frame.headline)) for frame in frames)
        agents = max(len(self._agents(frame)) for frame in frames)
        lines = headlines + -(-agents // self.columns)
        self.headlines = headlines
        self.height = lines * _LINE + 2 * _MARGIN if frames[0].headline or agents else 0

    def captioned(self, frame: Frame, enlarge: int) -> Image.Image:
        picture = Image.fromarray(np.kron(frame.picture, np.ones((enlarge, enlarge, 1), np.uint8)))
        image = Image.new("RGB", (self.width, picture.height + self.height), "white")
        image.paste(picture, ((self.width - picture.width) // 2, 0))
        draw, top = ImageDraw.Draw(image), picture.height + _MARGIN
        for line, text in enumerate(self._wrap(frame.headline)):
            draw.text((_MARGIN, top + line * _LINE), text, "black", self.font)
        top += self.headlines * _LINE
        for number, text in enumerate(self._agents(frame)):
            row, column = divmod(number, self.columns)
            left = _MARGIN + column * (self.width - _MARGIN) // self.columns
            draw.text((left, top + row * _LINE), text, "#555555", self.font)
        return image

    def _agents(self, frame: Frame) -> list[str]:
        more = len(frame.agents) - _MAX_AGENTS
        return list(frame.agents) if more <= 0 else [*frame.agents[:_MAX_AGENTS], f"and {more} more"]

    def _wrap(self, headline: str) -> list[str]:
        """Wrap the headline between its parts."""
        lines: list[str] = []
        for part in filter(None, headline.split(" | ")):
            longer = f"{lines[-1]} | {part}" if lines else part
            if lines and self.font.getlength(longer) <= self.width - 2 * _MARGIN:
                lines[-1] = longer
            else:
                lines.append(part)
        return lines
