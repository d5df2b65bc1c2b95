"""Tables of named parts, to which users add their own."""

from dataclasses import is_dataclass
from functools import partial
from types import FunctionType
from typing import Any, TypeVar

from rllib_seqmarl.suggestions import did_you_mean

Entry = TypeVar("Entry")


class Registry(dict[str, Entry]):
    """The parts of one kind by name.

    Args:
        kind: What the entries are.
        built_in: This package's own entries.
    """

    def __init__(self, kind: str, built_in: dict[str, Entry]) -> None:
        super().__init__(built_in)
        self.kind = kind
        self._built_in = frozenset(built_in)
        self.errors: dict[str, str] = {}  # why entries of another process could not be added here
        REGISTRIES[kind] = self

    def add(self, name: str, entry: Entry) -> None:
        """Add an entry, or replace it by the same classes defined again, as when rerunning a notebook cell.

        Raises:
            ValueError: The name is taken by another entry, or is not a non-empty string.
        """
        if not isinstance(name, str) or not name:
            raise ValueError(
                f"register_{self.kind}: name={name!r} is not a valid name; pass a string such as 'my-{self.kind}'."
            )
        is_built_in = name in self._built_in
        if name in self and (is_built_in or _definition(entry) != _definition(self[name])):
            taken = f"a built-in {self.kind}" if is_built_in else "already registered with other classes"
            raise ValueError(f"register_{self.kind}: the name {name!r} is {taken}; choose another name.")
        self[name] = entry

    def find(self, key: str, name: str) -> Entry:
        """Return the entry that the option `key` names.

        Raises:
            ValueError: There is none.
        """
        if not isinstance(name, str):
            raise ValueError(f"{key}={name!r} is not a name.")
        if name in self.errors and name not in self:
            raise ValueError(f"{key} {name!r} is in a module that this process cannot load: {self.errors[name]}")
        if name not in self:
            raise ValueError(
                f"unknown {key} {name!r}.{did_you_mean(str(name), self)} Known {self.kind.replace('y', 'ie')}s: "
                f"{', '.join(sorted(self))}. If it is your own, import the module that calls "
                f"rllib_seqmarl.register_{self.kind}({str(name)!r}, ...) first."
            )
        return self[name]

    def name_of(self, entry: Entry) -> str:
        """Return the name of an entry; one that was defined again since keeps its name.

        Raises:
            ValueError: It is not registered.
        """
        for name, known in self.items():
            if _definition(known) == _definition(entry):
                return name
        raise ValueError(f"{entry!r} has no name. Call rllib_seqmarl.register_{self.kind}(name, ...) with it first.")

    @property
    def of_users(self) -> dict[str, Entry]:
        """The entries that users have added."""
        return {name: entry for name, entry in self.items() if name not in self._built_in}

    def modules_of(self, *names: str) -> set[str]:
        """The modules outside this package that define these entries."""
        entries = [entry for name, entry in self.of_users.items() if name in names]
        parts = [part for entry in entries for part in (entry, *vars(entry).values())]
        parts = [part.func if isinstance(part, partial) else part for part in parts]
        modules = {part.__module__ for part in parts if isinstance(part, type | FunctionType)}
        return {module for module in modules if not module.startswith("rllib_seqmarl.")}


REGISTRIES: dict[str, Registry[Any]] = {}


def _definition(entry: Any) -> Any:
    """What stays equal when an entry is defined again or sent to another process: names, and contents of lambdas."""
    match entry:
        case FunctionType(__name__="<lambda>"):
            code, cells = entry.__code__, [cell.cell_contents for cell in entry.__closure__ or ()]
            return entry.__module__, code.co_code, code.co_names, code.co_consts, entry.__defaults__, _definition(cells)
        case type() | FunctionType():
            return entry.__module__, entry.__qualname__
        case partial():
            return _definition(entry.func), _definition(entry.args), _definition(entry.keywords)
        case list() | tuple():
            return [_definition(value) for value in entry]
        case dict():
            return {key: _definition(value) for key, value in entry.items()}
    return _definition(vars(entry)) if is_dataclass(entry) or callable(entry) else entry
