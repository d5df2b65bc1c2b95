"""Config options whose effective value is computed on reading, while the config stores the user's value."""

from collections.abc import Callable
from typing import Any


def resolved_option(resolve: Callable[[Any, Any], Any]) -> property:
    """Create a property that computes an option's effective value from the stored one on every read.

    The stored value stays in the instance's `__dict__` under the option's name, where RLlib copies, compares and
    serializes it. Validating and building never replace it, so other options may change afterwards.

    Args:
        resolve: A method that maps the stored value to the effective one; its name is the option's.
    """
    name = resolve.__name__

    def get(config: Any) -> Any:
        return resolve(config, vars(config)[name])

    def set_(config: Any, value: Any) -> None:
        vars(config)[name] = value

    return property(get, set_, doc=resolve.__doc__)
