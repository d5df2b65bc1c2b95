"""A battlefield seen from above, for the simulators of battles."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

PIXELS = 512  # the longer side of a picture


class Unit(NamedTuple):
    """A unit that lives.

    Attributes:
        x, y: Where it is, in units of the map; y points up.
        radius: In units of the map.
        health: The share that is left, from 0 to 1.
        is_ally: Whether it is of the team.
        kind: A short name of its type, or none.
    """

    x: float
    y: float
    radius: float
    health: float
    is_ally: bool
    kind: str = ""


def draw_battle(width: float, height: float, units: Iterable[Unit]) -> np.ndarray:
    """Units on a map of this size: the team in blue, its enemies in red, their health in green; uint8 (h, w, 3)."""
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
