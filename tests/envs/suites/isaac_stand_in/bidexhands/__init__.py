"""Stand-in for Bi-DexHands: a task with two counters, with the same functions, buffers and multi-agent form.

As in the original, a step first resets the copies marked in `reset_buf`, then advances all copies, and marks those that
are done.
"""

import isaacgym  # noqa: F401
