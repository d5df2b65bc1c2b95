"""Benchmark suites, one module each. To add a suite, write its module and list it below."""

from rllib_seqmarl.envs.suite import Suite
from rllib_seqmarl.envs.suites import (
    butterfly,
    coordination,
    dexhands,
    dexhands_isaac,
    jumanji,
    lbf,
    mamujoco,
    mpe,
    multitask,
    rware,
    sisl,
    smac,
    smacv2,
    smax,
    vmas,
)

_ALL = [mpe.SUITE, sisl.SUITE, butterfly.SUITE, rware.SUITE, lbf.SUITE, *jumanji.SUITES, smax.SUITE, smac.SUITE]
_ALL += [smacv2.SUITE, vmas.SUITE, mamujoco.SUITE, dexhands.SUITE, dexhands_isaac.SUITE, coordination.SUITE]
SUITES: dict[str, Suite] = {suite.name: suite for suite in (*_ALL, multitask.SUITE)}
