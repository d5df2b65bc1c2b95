"""Observations of MaMuJoCo's agents, read from MuJoCo's data in one operation.

The package walks the graph of joints for every agent at every step, which takes longer than the physics. Yet where an
entry of an observation comes from never changes, nor the bounds it is clipped to. So the package's own functions are
asked once, on data whose every number is different, and the answers say which entries to take.
"""

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

Look = Callable[[Any], np.ndarray]  # what one agent sees of MuJoCo's data

_FIELDS = ("qpos", "qvel", "qfrc_actuator", "cinert", "cvel", "cfrc_ext", "xpos")
_BEYOND_ALL_BOUNDS = 1e9


def fuse(looks: Sequence[Look], data: Any) -> Callable[[], list[np.ndarray]]:
    """All agents' looks at `data` as one function, which gives float32 arrays.

    Where every entry is an entry of `data`, perhaps clipped, that is one look-up. Where something is computed (only
    Reacher's sines, cosines and distance), the looks are called as they are.

    Args:
        looks: One per agent.
        data: An MjData, read whenever the function is called.
    """
    fields = [getattr(data, name) for name in _FIELDS]
    # Small enough to be clipped nowhere, and so irregular that nothing computed of them is one of them.
    marks = np.random.default_rng(0).uniform(0.1, 0.5, sum(field.size for field in fields))

    def seen(numbers: np.ndarray) -> list[np.ndarray]:
        marked = _marked(data, fields, numbers)
        return [look(marked) for look in looks]

    origin = {mark: place for place, mark in enumerate(marks.tolist())}
    views = seen(marks)
    places = [origin.get(mark) for mark in np.concatenate(views).tolist()]
    if None in places:
        return lambda: [look(data).astype(np.float32) for look in looks]

    take = np.array(places, np.intp)
    bounds = []
    for far in (-_BEYOND_ALL_BOUNDS * marks, _BEYOND_ALL_BOUNDS * marks):
        entries = np.concatenate(seen(far))
        bounds.append(np.where(entries == far[take], np.copysign(np.inf, far[take]), entries))
    low, high = bounds
    is_clipped = bool(np.isfinite(bounds).any())

    # Only the fields in use are read, as flat views.
    starts = np.cumsum([0, *(field.size for field in fields)])
    field_of = np.searchsorted(starts, take, side="right") - 1
    used = np.unique(field_of)
    sources = [fields[field].reshape(-1) for field in used]
    new_starts = np.cumsum([0, *(source.size for source in sources)])
    take += new_starts[np.searchsorted(used, field_of)] - starts[field_of]
    ends = np.cumsum([len(view) for view in views]).tolist()
    slices = [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]

    def look_at_once() -> list[np.ndarray]:
        entries = np.concatenate(sources)[take]
        if is_clipped:
            entries = entries.clip(low, high)
        table = entries.astype(np.float32)
        return [table[part] for part in slices]

    return look_at_once


def _marked(data: Any, fields: Sequence[np.ndarray], numbers: np.ndarray) -> SimpleNamespace:
    """Something shaped as `data` that holds `numbers`."""
    parts = np.split(numbers, np.cumsum([field.size for field in fields])[:-1])
    marked = {name: part.reshape(field.shape) for name, field, part in zip(_FIELDS, fields, parts, strict=True)}
    body = lambda name: SimpleNamespace(xpos=marked["xpos"][data.body(name).id])  # noqa: E731
    return SimpleNamespace(**marked, body=body)
