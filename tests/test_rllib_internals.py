"""The private parts of Ray that the package uses exist in the installed version, and are all listed."""

from __future__ import annotations

import ast
import inspect
import re
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from rllib_internals import RLLIB_INTERNALS, Internal

import rllib_seqmarl

ROOT = Path(rllib_seqmarl.__file__).parent
FOLDERS = ("algorithms", "env_runners", "experiments", "learners", "modules", "rollouts")
NOT_RAYS = {"_exit", "_foreach_add_", "_foreach_mul_", "_foreach_norm", "_get_default_store", "_private", "_replace"}
ALL = [(owner, internal) for owner, internals in RLLIB_INTERNALS.items() for internal in internals]


def load(owner: str) -> Any:
    module, _, name = owner.partition(":")
    return getattr(import_module(module), name) if name else import_module(module)


@pytest.mark.parametrize(("owner", "internal"), ALL, ids=[f"{owner}.{internal.name}" for owner, internal in ALL])
def test_the_installed_ray_has_it(owner: str, internal: Internal) -> None:
    value = load(owner)
    if not hasattr(value, internal.name):
        sources = [inspect.getsource(cls) for cls in value.__mro__ if cls.__module__.startswith("ray.")]
        attribute = internal.name.removeprefix("_Trial")
        assert any(re.search(rf"self\.{attribute}\b.*=", source) for source in sources), "it is never assigned"
    if internal.parameters:
        parameters = inspect.signature(getattr(value, internal.name)).parameters
        takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        assert takes_all or set(internal.parameters) <= set(parameters)


def names_in(file: Path) -> tuple[set[str], set[str]]:
    """Return the private names that a file uses or overrides, and those that it defines."""
    used, defined = set(), set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute):
            (defined if isinstance(node.ctx, ast.Store) else used).add(node.attr)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            overrides = any(ast.unparse(decorator).startswith("override(") for decorator in node.decorator_list)
            (used if overrides else defined).add(node.name)
        elif isinstance(node, ast.AnnAssign | ast.Assign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            defined |= {target.id for target in targets if isinstance(target, ast.Name)}
    return used, defined


def test_all_private_names_that_the_package_does_not_define_are_listed() -> None:
    files = [file for folder in FOLDERS for file in (ROOT / folder).rglob("*.py")] + list(ROOT.glob("*.py"))
    names = [names_in(file) for file in files]
    used, defined = (set().union(*sets) for sets in zip(*names, strict=True))
    private = {name for name in used - defined if name.startswith("_") and not name.endswith("__")}
    assert private - NOT_RAYS <= {internal.name for _, internal in ALL}


def test_all_imports_of_private_modules_are_listed() -> None:
    modules = {owner.partition(":")[0] for owner in RLLIB_INTERNALS}
    for file in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and re.match(r"ray\.(.*\.)?_", f"{node.module}."):
                owners = {node.module, *(f"{node.module}.{name.name}" for name in node.names)}
                assert owners & modules, f"{file}: {node.module}"
