"""The tuned experiment files that come with the package."""

from __future__ import annotations

from pathlib import Path

import rllib_seqmarl


def tuned_configs() -> dict[str, Path]:
    """All tuned experiment files: "algorithm/suite-task" -> its path.

    They lie inside the installed package, or beside it in a checkout.
    """
    package = Path(rllib_seqmarl.__file__).parent
    for folder in (package / "tuned_configs", package.parent / "tuned_configs"):
        if folder.is_dir():
            return {
                file.relative_to(folder).with_suffix("").as_posix(): file
                for file in sorted(folder.rglob("*.yaml"))
            }
    return {}
