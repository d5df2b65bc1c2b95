"""Cooperative multi-agent reinforcement learning as sequence modelling, on Ray RLlib.

Importing the package registers its algorithms and environments with RLlib and Tune, by name. Without Ray, the networks
and trained policies still work.
"""

import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rllib_seqmarl.version import __version__ as __version__


def _is_command() -> bool:
    """Whether this process is the `rllib` command and has not imported Ray yet.

    Ray and torch take seconds to import, and `rllib --help` needs neither; each subcommand imports what it uses.
    """
    is_script = Path(sys.argv[0]).stem == "rllib" if sys.argv else False
    return (is_script or "rllib_seqmarl.cli" in sys.orig_argv) and "ray" not in sys.modules


if TYPE_CHECKING or not _is_command():
    from rllib_seqmarl.api import *  # noqa: F403
    from rllib_seqmarl.api import __all__ as __all__
else:

    def __getattr__(name: str) -> Any:
        if name.startswith("__") and name != "__all__":
            raise AttributeError(name)
        return getattr(import_module("rllib_seqmarl.api"), name)
