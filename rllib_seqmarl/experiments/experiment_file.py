"""Experiment files: RLlib's classic YAML, read safely, where every mistake is told with its line."""

from __future__ import annotations

import re
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from rllib_seqmarl.experiments.errors import ExperimentError
from rllib_seqmarl.experiments.experiment import Experiment, parse_experiment


class _Loader(yaml.SafeLoader):
    """Safe YAML 1.1, except that a key may not stand twice in a mapping and that `1e-5` is a number."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._checked: set[yaml.MappingNode] = set()

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        # Flattening puts merged keys (`<<`) before the mapping's own, so doubles are looked for before, once.
        if node not in self._checked:
            self._checked.add(node)
            seen: dict[str, yaml.Node] = {}
            for key, _ in node.value:
                if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                    first = seen[key.value].start_mark.line + 1
                    raise yaml.constructor.ConstructorError(
                        None, None, f"key '{key.value}' stands twice (first in line {first})", key.start_mark
                    )
                if isinstance(key.value, str):
                    seen[key.value] = key
        super().flatten_mapping(node)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$"),
    list("-+.0123456789"),
)


@dataclass(frozen=True)
class Document:
    """A YAML text's value, and where each part of it was written.

    Attributes:
        source: What to call the text in messages: a file's name, or a command-line option.
        value: Its value.
        root: The node tree it was made from; None for an empty text.
        numbered: Whether messages give lines (not so for a one-line option).
    """

    source: str
    value: Any
    root: yaml.Node | None
    numbered: bool = True

    def where(self, *path: Hashable) -> str:
        """`file.yaml:LINE` of what stands at `path` (keys and indices), or of the nearest thing around it."""
        if not self.numbered or self.root is None:
            return self.source
        line, node = self.root.start_mark.line, self.root
        for key in path:
            step = _child(node, key)
            if step is None:
                break
            line, node = step
        return f"{self.source}:{line + 1}"


def _child(node: yaml.Node, key: Hashable) -> tuple[int, yaml.Node] | None:
    """The line and the node of one entry of a mapping (the last such key, which is in force) or sequence."""
    if isinstance(node, yaml.MappingNode):
        found = [(k.start_mark.line, v) for k, v in node.value if str(k.value) == str(key)]
        return found[-1] if found else None
    if isinstance(node, yaml.SequenceNode) and isinstance(key, int) and key < len(node.value):
        return node.value[key].start_mark.line, node.value[key]
    return None


def parse_yaml(text: str, source: str, numbered: bool = True) -> Document:
    """Reads one YAML (or JSON) text, without ever constructing anything but plain data.

    Raises:
        ExperimentError: the text is not valid YAML, asks for a Python object, or holds a key twice.
    """
    loader = _Loader(text)
    try:
        root = loader.get_single_node()
        value = loader.construct_document(root) if root is not None else None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{source}:{mark.line + 1}" if numbered and mark is not None else source
        raise ExperimentError(f"{place}: {error.problem or error.context}") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise ExperimentError(f"{source}: this is not valid YAML: {error}") from None
    finally:
        loader.dispose()
    return Document(source, value, root, numbered)


def read_document(path: str | Path) -> Document:
    """Reads an experiment file as far as the names of its experiments; what they are is not looked at.

    Raises:
        ExperimentError: the file is missing, is not valid YAML, or holds no mapping.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ExperimentError(
            f"{path}: there is no such file. `rllib list` shows the tuned experiments that come with the package."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ExperimentError(f"{path}: cannot be read as text: {error}") from None
    document = parse_yaml(text, str(path))
    if not isinstance(document.value, dict) or not document.value:
        raise ExperimentError(
            f"{document.where()}: an experiment file maps names to experiments, "
            "such as `my-run: {run: MAT, env: mpe/simple_spread, stop: {env_steps: 400000}}`."
        )
    return document


def load_experiments(path: str | Path, only: str | None = None) -> list[Experiment]:
    """Reads an experiment file: `name: {run, env, stop, config, ...}`, as many as it holds, in its order.

    Everything that can be checked without running is checked, with each algorithm's own config class. Experiments that
    differ little can share the rest by YAML's anchors and merge keys:

    ```yaml
    easy: &task
      run: MAT
      env: smax/3m
      config: {lr: 5.0e-4, num_epochs: 5}
    hard: {<<: *task, env: smax/6h_vs_8z}
    ```

    Args:
        path: A YAML file. See `experiments.experiment` for the keys of an experiment.
        only: The name of the one to read; None for all.

    Returns:
        The experiments.

    Raises:
        ExperimentError: anything is wrong; the message begins with the file and the line.
    """
    document = read_document(path)
    return [
        parse_experiment(str(name), spec, lambda *path, name=name: document.where(name, *path))
        for name, spec in document.value.items()
        if only in (None, name)
    ]
