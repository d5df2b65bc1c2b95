"""The recurrences behind the mixers, each with several backends: plain torch, numba on CPUs, fused CUDA libraries.

All of them run on whole sequences or on windows of them, and share these keywords:

- ``initial_state``: the state before the first token; zeros if None.
- ``resets`` (batch, length) bool: the state is zero before these tokens.
- ``return_last_state``: whether to return the state after the last token as well. It is in float32 or wider where it
  holds sums.
- ``backend``: "auto" for the fastest that can run, or a name from ``OPERATION.available(device)``.

They raise a ValueError if shapes do not match, or if the backend is unknown or cannot run here.
"""
