"""Top-down rendering of battlefields, for the battle simulators."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

PIXELS = 512  # longer side of an image


class Unit(NamedTuple):
    """A living unit.

    Attributes:
        x, y: Position in map units; y points up.
        radius: Radius in map units.
        health: Remaining fraction of its health, from 0 to 1.
        is_ally: Whether it belongs to the team.
        kind: Short name of its type, or an empty string.
    """

    x: float
    y: float
    radius: float
    health: float
    is_ally: bool
    kind: str = ""


def draw_battle(width: float, height: float, units: Iterable[Unit]) -> np.ndarray:
    """Draw units on a map: the team in blue, its enemies in red, their health in green; uint8 (h, w, 3)."""
    from PIL import Image, ImageDraw

    scale = PIXELS / max(width, height)
    picture = Image.new("RGB", (round(width * scale), round(height * scale)), "white")
    pen = ImageDraw.Draw(picture)
    for unit in units:
        x, y, radius = unit.x * scale, (height - unit.y) * scale, unit.radius * scale
        color = "royalblue" if unit.is_ally else "firebrick"
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=color)
        if unit.kind:
            pen.text((x, y), unit.kind, fill="white", anchor="mm")
        end = x + (2 * unit.health - 1) * radius
        pen.line((x - radius, y - radius - 3, end, y - radius - 3), "green", width=2)
    return np.asarray(picture)
