"""A benchmark suite: which tasks it has, how they are made, and what has to be installed for it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rllib_seqmarl.envs.batched_simulator import BatchedSimulator


def _no_other(task: str) -> bool:
    return False


@dataclass(frozen=True)
class Suite:
    """The contents of one adapter file.

    Attributes:
        name: What stands before the slash in `suite/task`.
        tasks: Task -> one sentence. These are listed by `rllib list`.
        make: `make(task, **options)` makes one environment: a ParallelEnv or MultiAgentEnv. Its keyword parameters are
            the options that `env_config` may hold; others are refused by its signature before it is called.
        make_batch: `make_batch(task, num_envs, **options)` for simulators that step many teams at once; the same
            options.
        requires: Importable packages it needs beyond the core dependencies.
        extra: The extra of this package that installs them.
        external: The program outside of this Python that runs it, so that its installation cannot be checked from here.
        install: What to do where no extra can install it all (a game's binary); empty otherwise.
        knows: Whether a task exists that `tasks` does not list.
        other_tasks: In words, which tasks `knows` accepts, such as "{tiny,small}-{1..19}ag"; empty if none.
    """

    name: str
    tasks: Mapping[str, str]
    make: Callable[..., Any]
    make_batch: Callable[..., BatchedSimulator] | None = None
    requires: tuple[str, ...] = ()
    extra: str = ""
    external: str = ""
    install: str = ""
    knows: Callable[[str], bool] = _no_other
    other_tasks: str = ""
