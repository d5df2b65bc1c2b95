"""Importing the package needs no package that only some of its parts use."""

from __future__ import annotations

import subprocess
import sys
from textwrap import dedent


def test_optional_packages_may_be_missing() -> None:
    script = """
        import sys

        for name in ("mpe2", "optuna", "matplotlib", "msgpack_numpy", "mamba_ssm"):
            sys.modules[name] = None  # an import of it fails

        import rllib_seqmarl.cli
        from rllib_seqmarl import MATConfig

        MATConfig().environment("coordination/distinct_choice").validate()
    """
    run = subprocess.run([sys.executable, "-c", dedent(script)], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
