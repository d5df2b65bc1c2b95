"""Stands in for Bi-DexHands: a task of two counters, behind the same functions, buffers and multi-agent form.

As there, a task restarts copies that are marked in `reset_buf` at the beginning of a step, then moves all of them, and
marks those that are over.
"""

import isaacgym  # noqa: F401
