"""MuJoCo draws with OpenGL, also where there is no screen: which one it shall take, and what to do if there is none."""

import os
import sys
from collections.abc import Callable
from typing import TypeVar

Drawing = TypeVar("Drawing")


def prepare_drawing() -> None:
    """Lets EGL draw where there is no screen, unless MUJOCO_GL says otherwise. MuJoCo reads it when it is imported."""
    if sys.platform == "linux" and not {"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys():
        os.environ.setdefault("MUJOCO_GL", "egl")


def try_to_draw(draw: Callable[[], Drawing]) -> Drawing:
    """The result of `draw`, with a hint if there is no OpenGL.

    Raises:
        ValueError: MuJoCo finds no OpenGL; says what to do.
    """
    try:
        return draw()
    except Exception as error:  # of whatever kind the OpenGL that was tried raises
        raise ValueError(
            f"render_mode='rgb_array': MuJoCo finds no OpenGL to draw with ({type(error).__name__}: {error}). Where "
            "there is no screen, set the environment variable MUJOCO_GL to egl (Debian: libegl1 and libgl1-mesa-dri, "
            "or a GPU's driver) or to osmesa (libosmesa6) before Python starts."
        ) from error
