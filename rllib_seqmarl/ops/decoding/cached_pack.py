"""Packed weights, cached while the caller guarantees that weights do not change, as during a rollout.

Otherwise they are packed for every joint decision, since in-place changes of parameters cannot be detected.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

_thread = threading.local()


@contextmanager
def cached_packs() -> Iterator[dict[Any, Any]]:
    """Cache this thread's packed layers within the block. If weights change, clear the yielded dictionary."""
    before = getattr(_thread, "packed", None)
    _thread.packed = {}
    try:
        yield _thread.packed
    finally:
        _thread.packed = before


def cached_pack(pack: Callable[..., Any]) -> Callable[..., Any]:
    """Cache ``pack(*layers)`` per tuple of layers within `cached_packs`; the result must not be modified."""

    @wraps(pack)
    def pack_cached(*layers: Any) -> Any:
        packed = getattr(_thread, "packed", None)
        if packed is None:
            return pack(*layers)
        key = pack, *map(id, layers)
        if key not in packed:
            packed[key] = pack(*layers), layers  # keep the layers alive, so that their ids are not reused
        return packed[key][0]

    return pack_cached
