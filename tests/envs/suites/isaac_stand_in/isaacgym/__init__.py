"""Stand-in for Isaac Gym, which refuses to be imported after torch."""

import sys

if "torch" in sys.modules:
    raise ImportError("PyTorch was imported before isaacgym modules.")
