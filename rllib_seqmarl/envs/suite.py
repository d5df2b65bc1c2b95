"""The definition of a benchmark suite: its tasks, their creation, and its requirements."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rllib_seqmarl.envs.batched_simulator import BatchedSimulator


@dataclass(frozen=True)
class Suite:
    """The contents of one adapter file.

    Attributes:
        name: The part of `suite/task` before the slash.
        tasks: Task -> one-sentence summary, as listed by `rllib list`.
        make: `make(task, **options)` makes one environment: a ParallelEnv or MultiAgentEnv. Its keyword parameters are
            the options allowed in `env_config`; others are rejected before it is called.
        make_batch: `make_batch(task, num_envs, **options)`, with the same options, for batched simulators.
        requires: Modules that must be importable, beyond the core dependencies.
        extra: The extra of this package that installs them.
        external: The program outside this Python that runs the suite, if its installation cannot be checked from here.
        install: Instructions for anything that no extra can install (such as a game's binary); empty otherwise.
        knows: Returns whether an unlisted task exists.
        other_tasks: A pattern of the tasks that `knows` accepts, such as "{tiny,small}-{1..19}ag"; empty if none.
    """

    name: str
    tasks: Mapping[str, str]
    make: Callable[..., Any]
    make_batch: Callable[..., BatchedSimulator] | None = None
    requires: tuple[str, ...] = ()
    extra: str = ""
    external: str = ""
    install: str = ""
    knows: Callable[[str], bool] = lambda task: False
    other_tasks: str = ""


def listed_tasks(suite: str) -> dict[str, str]:
    """The tasks of a suite with a long list of them, and their summaries, from `tasks.json`."""
    return json.loads(Path(__file__).with_name("tasks.json").read_text())[suite]
