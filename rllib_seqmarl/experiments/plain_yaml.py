"""A strict YAML parser: plain data of bounded size, without values that YAML 1.1 and 1.2 read differently."""

import json
import math
import re
from collections.abc import Hashable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import yaml

from rllib_seqmarl.experiments.errors import ExperimentError

MAX_CHARACTERS = 200_000
MAX_VALUES = 10_000  # as written; ten times as many with aliases expanded
MAX_DEPTH = 50

_TAG = "tag:yaml.org,2002:"
_PLAIN_TAGS = {_TAG + name for name in ("map", "seq", "str", "int", "float", "bool", "null", "merge")}
# Unquoted, YAML 1.1 reads these as booleans, octal or sexagesimal numbers; YAML 1.2 does not.
_AMBIGUOUS = [
    (re.compile(r"(?i)yes|no|on|off"), "write true or false, or put it in quotes"),
    (re.compile(r"[-+]?0[0-9_]+"), "write it without the leading zero, or put it in quotes"),
    (re.compile(r"[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?"), "put it in quotes"),
]
_INT64 = 2**63


def _error_at(message: str, node: yaml.Node) -> yaml.constructor.ConstructorError:
    return yaml.constructor.ConstructorError(None, None, message, node.start_mark)


class _Loader(yaml.SafeLoader):
    """A safe YAML 1.1 loader that reads `1e-5` as a number and dates as text, and requires unique text keys."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._nodes = self._depth = 0

    def compose_node(self, parent: Any, index: Any) -> yaml.Node | None:
        self._nodes += 1
        self._depth += 1
        if self._nodes > MAX_VALUES or self._depth > MAX_DEPTH:
            found = f"more than {MAX_VALUES:,} values" if self._nodes > MAX_VALUES else f"more than {MAX_DEPTH} levels"
            raise yaml.MarkedYAMLError(None, None, f"{found}: too much for an experiment", self.peek_event().start_mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def size(self, node: yaml.Node, sizes: dict[int, int]) -> int:
        """Return the number of values under a node, counting each alias as a copy; memoised in `sizes`, by `id(node)`.

        Rejects trees that aliases make too large or infinite, and nodes that are not plain data.
        """
        if id(node) in sizes:
            if not sizes[id(node)]:
                raise _error_at("an alias refers to a node that contains it", node)
            return sizes[id(node)]
        sizes[id(node)] = 0
        children: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            self._check_keys(node)
            children = [child for pair in node.value for child in pair]
        elif isinstance(node, yaml.SequenceNode):
            children = node.value
        elif isinstance(node, yaml.ScalarNode) and node.style is None:
            for pattern, remedy in _AMBIGUOUS:
                if pattern.fullmatch(node.value):
                    raise _error_at(
                        f"'{node.value}' means different things in different versions of YAML: {remedy}", node
                    )
        if node.tag not in _PLAIN_TAGS:
            tag = node.tag.replace(_TAG, "!!")
            raise _error_at(f"could not determine a constructor for the tag '{tag}': only plain data can be read", node)
        size = 1 + sum(self.size(child, sizes) for child in children)
        if size > 10 * MAX_VALUES:
            raise _error_at(f"more than {10 * MAX_VALUES:,} values, counting each alias as a copy", node)
        sizes[id(node)] = size
        return size

    def _check_keys(self, mapping: yaml.MappingNode) -> None:
        keys: dict[str, yaml.Node] = {}
        for key, _ in mapping.value:
            if key.tag == _TAG + "merge":
                continue
            if key.tag != _TAG + "str":
                written = key.value if isinstance(key, yaml.ScalarNode) else "a list or mapping"
                raise _error_at(f"keys must be text: put {written or 'the key'} in quotes", key)
            if key.value in keys:
                first = keys[key.value].start_mark.line + 1
                raise _error_at(f"duplicate key '{key.value}' (first in line {first})", key)
            keys[key.value] = key

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            value = super().construct_object(node, deep=deep)
        except (ValueError, KeyError, IndexError, OverflowError):
            raise _error_at(f"'{str(node.value)[:40]}' is not a valid value of its tag or type", node) from None
        if isinstance(value, int) and not -_INT64 <= value < _INT64:
            raise _error_at("a whole number exceeds 64 bits", node)
        if isinstance(value, float) and math.isinf(value) and "inf" not in node.value.lower():
            raise _error_at(f"{node.value} is too large for a number", node)
        if isinstance(value, float) and math.isnan(value):
            raise _error_at("not a number", node)
        return value


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != _TAG + "timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$"), list("-+.0123456789")
)


@dataclass(frozen=True)
class Document:
    """The value of a YAML text, and the source location of each part of it.

    Attributes:
        source: The name of the text in messages: a file name or a command-line option.
        value: The parsed value.
        root: The node tree; None for an empty text.
        numbered: Whether messages contain line numbers; False for one-line options.
    """

    source: str
    value: Any
    root: yaml.Node | None
    numbered: bool = True

    def where(self, *path: Hashable) -> str:
        """Return `file.yaml:LINE` of the node at `path` (keys and indices) or of its nearest existing ancestor."""
        if not self.numbered or self.root is None:
            return self.source
        line, node = self.root.start_mark.line, self.root
        for key in path:
            children: list[tuple[int, yaml.Node]] = []
            if isinstance(node, yaml.MappingNode):
                children = [(k.start_mark.line, v) for k, v in node.value if str(k.value) == str(key)]
            elif isinstance(node, yaml.SequenceNode) and isinstance(key, int):
                children = [(entry.start_mark.line, entry) for entry in node.value[key : key + 1]]
            if not children:
                break
            line, node = children[-1]  # of equal keys, the last one counts
        return f"{self.source}:{line + 1}"


def _without_json_tabs(text: str) -> str:
    """Replace tabs, which JSON allows between values and YAML does not, if the text is JSON."""
    if "\t" in text and len(text) <= MAX_CHARACTERS:
        with suppress(ValueError, RecursionError):
            json.loads(text)  # refuses tabs inside of strings, so that all of them are between values
            return text.replace("\t", " ")
    return text


def parse_yaml(text: str, source: str, numbered: bool = True) -> Document:
    """Parse a YAML (or JSON) text into plain data.

    Values that YAML 1.1 and 1.2 read differently (`010`, `1:30`, `yes`) are rejected; dates are text.

    Raises:
        ExperimentError: The text is not valid YAML, is not plain data, or is too large.
    """
    text = _without_json_tabs(text)
    if len(text) > MAX_CHARACTERS:
        raise ExperimentError(f"{source}: too long for an experiment: more than {MAX_CHARACTERS:,} characters.")
    try:
        loader, value = _Loader(text), None
        root = loader.get_single_node()
        if root is not None:
            loader.size(root, {})
            value = loader.construct_document(root)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{source}:{mark.line + 1}" if numbered and mark is not None else source
        problem = error.problem or error.context
        if str(error.context).startswith("expected a single document"):
            problem = "a second YAML document starts here: remove the line '---', so that there is one mapping"
        raise ExperimentError(f"{place}: {' '.join(str(problem).split())}") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ExperimentError(f"{source}: not valid YAML: {' '.join(str(error).split())}") from None
    return Document(source, value, root, numbered)
