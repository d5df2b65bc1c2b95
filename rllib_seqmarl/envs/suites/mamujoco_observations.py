"""Observations of MaMuJoCo's agents, read from MuJoCo's data in one operation.

The package walks the graph of joints for every agent at every step, which takes longer than the physics. But the source
and the clipping bounds of each observation entry never change. So the package's own functions are called once, on probe
data whose values are all different, and their results identify the entries to read.
"""

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

ObservationFn = Callable[[Any], np.ndarray]  # one agent's observation, from MuJoCo's data

_FIELDS = ("qpos", "qvel", "qfrc_actuator", "cinert", "cvel", "cfrc_ext", "xpos")
_BEYOND_ALL_BOUNDS = 1e9


def fuse_observations(observation_fns: Sequence[ObservationFn], data: Any) -> Callable[[], list[np.ndarray]]:
    """Fuse all agents' observation functions into one, which returns float32 arrays.

    If every entry is an entry of `data`, possibly clipped, the fused function is a single indexing operation. If some
    entries are computed (only Reacher's sines, cosines and distance), it calls the original functions.

    Args:
        observation_fns: One per agent.
        data: An MjData, read at each call of the fused function.
    """
    fields = [getattr(data, name) for name in _FIELDS]
    # Small enough not to be clipped, and random so that no computed value equals one of them.
    probes = np.random.default_rng(0).uniform(0.1, 0.5, sum(field.size for field in fields))

    def observe_values(values: np.ndarray) -> list[np.ndarray]:
        probe_data = _make_probe_data(data, fields, values)
        return [observe(probe_data) for observe in observation_fns]

    index_of = {probe: index for index, probe in enumerate(probes.tolist())}
    observations = observe_values(probes)
    indices = [index_of.get(probe) for probe in np.concatenate(observations).tolist()]
    if None in indices:
        return lambda: [observe(data).astype(np.float32) for observe in observation_fns]

    take = np.array(indices, np.intp)
    bounds = []
    for extremes in (-_BEYOND_ALL_BOUNDS * probes, _BEYOND_ALL_BOUNDS * probes):
        entries = np.concatenate(observe_values(extremes))
        bounds.append(np.where(entries == extremes[take], np.copysign(np.inf, extremes[take]), entries))
    low, high = bounds
    is_clipped = bool(np.isfinite(bounds).any())

    # Restrict reading to the fields in use, as flat views.
    starts = np.cumsum([0, *(field.size for field in fields)])
    field_of = np.searchsorted(starts, take, side="right") - 1
    used = np.unique(field_of)
    sources = [fields[field].reshape(-1) for field in used]
    new_starts = np.cumsum([0, *(source.size for source in sources)])
    take += new_starts[np.searchsorted(used, field_of)] - starts[field_of]
    ends = np.cumsum([len(observation) for observation in observations]).tolist()
    slices = [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]

    def read_observations() -> list[np.ndarray]:
        entries = np.concatenate(sources)[take]
        if is_clipped:
            entries = entries.clip(low, high)
        flat = entries.astype(np.float32)
        return [flat[part] for part in slices]

    return read_observations


def _make_probe_data(data: Any, fields: Sequence[np.ndarray], values: np.ndarray) -> SimpleNamespace:
    """Return an object with the structure of `data` that contains `values`."""
    parts = np.split(values, np.cumsum([field.size for field in fields])[:-1])
    arrays = {name: part.reshape(field.shape) for name, field, part in zip(_FIELDS, fields, parts, strict=True)}
    body = lambda name: SimpleNamespace(xpos=arrays["xpos"][data.body(name).id])  # noqa: E731
    return SimpleNamespace(**arrays, body=body)
