"""Packed weights, cached while the caller guarantees that weights do not change, as during a rollout.

Otherwise they are packed for every joint decision, since in-place changes of parameters cannot be noticed.
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
    """In the block this thread packs each layer once. If weights change after all, what is yielded is to be cleared."""
    before = getattr(_thread, "packed", None)
    _thread.packed = {}
    try:
        yield _thread.packed
    finally:
        _thread.packed = before


def cached_pack(pack: Callable[..., Any]) -> Callable[..., Any]:
    """``pack(*layers)``, whose result must not be written to, is called once for the same layers in `cached_packs`."""

    @wraps(pack)
    def pack_or_find(*layers: Any) -> Any:
        packed = getattr(_thread, "packed", None)
        if packed is None:
            return pack(*layers)
        key = pack, *map(id, layers)
        if key not in packed:
            packed[key] = pack(*layers), layers  # the layers as well, so that nothing else gets their ids
        return packed[key][0]

    return pack_or_find
