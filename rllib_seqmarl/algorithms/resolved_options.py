"""Options that RLlib reads as what follows from the user's choice, while the config keeps the choice itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def resolved_option(resolve: Callable[[Any, Any], Any]) -> property:
    """Makes an option whose value is worked out from the one that was set, each time it is read.

    The value that was set stays in the instance's `__dict__` under the option's name, where RLlib copies, compares and
    serializes it. So no check and no build has to replace it, and other options may change afterwards.

    Args:
        resolve: A method that takes the value that was set; its name is the option's.
    """
    name = resolve.__name__

    def get(config: Any) -> Any:
        return resolve(config, vars(config)[name])

    def set_(config: Any, value: Any) -> None:
        vars(config)[name] = value

    return property(get, set_, doc=resolve.__doc__)
