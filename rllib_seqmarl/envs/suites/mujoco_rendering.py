"""OpenGL setup for rendering with MuJoCo, including on machines without a display."""

import os
import sys
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def select_gl_backend() -> None:
    """Default to EGL where there is no display, unless MUJOCO_GL is set. MuJoCo reads it when it is imported."""
    if sys.platform == "linux" and not {"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys():
        os.environ.setdefault("MUJOCO_GL", "egl")


def try_to_render(render: Callable[[], T]) -> T:
    """Return the result of `render`, with a helpful error if there is no OpenGL.

    Raises:
        ValueError: MuJoCo finds no OpenGL; the message explains how to fix it.
    """
    try:
        return render()
    except Exception as error:  # the type depends on the OpenGL backend
        raise ValueError(
            f"render_mode='rgb_array': MuJoCo finds no OpenGL to render with ({type(error).__name__}: {error}). "
            "Without a display, set the environment variable MUJOCO_GL to egl (Debian: libegl1 and libgl1-mesa-dri, "
            "or a GPU driver) or to osmesa (libosmesa6) before Python starts."
        ) from error
