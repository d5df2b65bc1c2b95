"""Users' mixers, heads and policies in other processes: a config carries them along, wherever it is pickled."""

from __future__ import annotations

from typing import Any

from ray import cloudpickle

from rllib_seqmarl.registration import REGISTRIES


class UserParts:
    """Carries all parts that users have registered; a process that cannot import one fails only if it is used."""

    def __reduce__(self) -> tuple[Any, ...]:
        parts = {
            kind: {name: cloudpickle.dumps(part) for name, part in registry.of_users.items()}
            for kind, registry in REGISTRIES.items()
        }
        return _register, (parts,)

    def __deepcopy__(self, memo: Any) -> UserParts:
        return self


USER_PARTS = UserParts()


def _register(parts: dict[str, dict[str, bytes]]) -> UserParts:
    for kind, entries in parts.items():
        registry = REGISTRIES[kind]
        for name in entries.keys() - registry.keys():
            try:
                registry[name] = cloudpickle.loads(entries[name])
            except Exception as error:
                registry.errors[name] = f"{type(error).__name__}: {error}"
    return USER_PARTS
