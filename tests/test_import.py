"""The package imports without optional dependencies, and the command imports only what it uses."""

from __future__ import annotations

import subprocess
import sys
from textwrap import dedent

import pytest

from rllib_seqmarl.cli import main


def run_python(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", dedent(script), *arguments], capture_output=True, text=True, timeout=120
    )


def test_optional_packages_may_be_missing() -> None:
    script = """
        import sys

        for name in ("mpe2", "optuna", "matplotlib", "msgpack_numpy", "mamba_ssm"):
            sys.modules[name] = None  # makes its import fail

        import rllib_seqmarl.cli
        from rllib_seqmarl import MATConfig

        MATConfig().environment("coordination/distinct_choice").validate()
    """
    run = run_python(script)
    assert run.returncode == 0, run.stderr


QUICK = [["--help"], ["--version"], ["list"], ["list", "lbf"], *([name, "--help"] for name in main.commands)]


def test_help_and_list_import_neither_ray_nor_torch() -> None:
    script = f"""
        import sys

        sys.argv = ["/somewhere/bin/rllib"]
        from rllib_seqmarl.cli import main

        for command in {QUICK!r}:
            main(command, standalone_mode=False)
        heavy = {{"ray", "torch", "numba", "jax", "matplotlib", "pandas", "optuna"}}
        assert not heavy & set(sys.modules), heavy & set(sys.modules)
    """
    run = run_python(script)
    assert run.returncode == 0, run.stderr
    assert "mat/mpe-" in run.stdout


def test_the_module_starts_as_fast_as_the_script() -> None:
    command = [sys.executable, "-X", "importtime", "-m", "rllib_seqmarl.cli", "--version"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120)
    imported = {line.rpartition("|")[2].strip() for line in run.stderr.splitlines()}
    assert "rllib_seqmarl.version" in imported and not {"ray", "torch", "gymnasium"} & imported


@pytest.mark.parametrize("first", ["", "import ray.rllib"])
def test_importing_the_package_registers_its_names(first: str) -> None:
    script = f"""
        {first}
        import rllib_seqmarl
        from ray.tune.registry import ENV_CREATOR, TRAINABLE_CLASS, _global_registry

        assert _global_registry.contains(TRAINABLE_CLASS, "MAM")
        assert _global_registry.contains(ENV_CREATOR, "lbf/8x8-2p-2f-coop")
        assert rllib_seqmarl.MAM is _global_registry.get(TRAINABLE_CLASS, "MAM")
    """
    run = run_python(script)
    assert run.returncode == 0, run.stderr


def test_user_modules_can_import_public_names_inside_the_command() -> None:
    script = """
        import sys

        sys.argv = ["rllib"]
        import rllib_seqmarl.cli

        assert "torch" not in sys.modules
        from rllib_seqmarl import *
        from rllib_seqmarl import JointPolicy

        assert MARWKVConfig and rllib_seqmarl.JointPolicy is JointPolicy
        assert not hasattr(rllib_seqmarl, "MATT")
    """
    run = run_python(script)
    assert run.returncode == 0, run.stderr
