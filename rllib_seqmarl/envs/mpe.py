"""Cooperative tasks of the multi-agent particle environments (Lowe et al. 2017), from the package mpe2.

`env_config` is passed on as keyword arguments: N (simple_spread), max_cycles, local_ratio,
continuous_actions, render_mode, ... Episodes are truncated after `max_cycles` steps and never terminate by
default.
"""

import importlib
import inspect
from typing import Any

from rllib_seqmarl.suggestions import did_you_mean


def make_mpe(module: str, **options: Any) -> Any:
    """The ParallelEnv of one mpe2 module, such as "simple_spread_v3".

    Raises:
        ValueError: an option the task does not have; names the nearest it has.
    """
    task = importlib.import_module(f"mpe2.{module}")
    known = [name for name in inspect.signature(task.raw_env.__init__).parameters if name != "self"]
    for option in options:
        if option not in known:
            raise ValueError(
                f"mpe2.{module} has no option {option!r}.{did_you_mean(option, known)} "
                f"It has: {', '.join(known)}."
            )
    return task.parallel_env(**options)
