"""The nearest known name, for messages about unknown ones."""

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`" Did you mean 'x' or 'y'?"` with the known names nearest to `name`; empty where none is near."""
    near = difflib.get_close_matches(str(name), [str(option) for option in known], n=3, cutoff=0.6)
    return f" Did you mean {' or '.join(repr(option) for option in near)}?" if near else ""
