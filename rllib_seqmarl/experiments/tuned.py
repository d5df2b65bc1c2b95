"""The tuned experiment files that come with the package."""

from __future__ import annotations

from pathlib import Path

import rllib_seqmarl


def tuned_configs() -> dict[str, Path]:
    """All tuned experiment files: "algorithm/suite-task" -> its path.

    They lie in the package; in a checkout, that is a link to the folder beside it.
    """
    folder = Path(rllib_seqmarl.__file__).parent / "tuned_configs"
    return {file.relative_to(folder).with_suffix("").as_posix(): file for file in sorted(folder.glob("*/*.yaml"))}
