"""One file a benchmark suite. A new suite is one such file and its line below."""

from rllib_seqmarl.envs.suite import Suite
from rllib_seqmarl.envs.suites import coordination, mpe

SUITES: dict[str, Suite] = {suite.name: suite for suite in (mpe.SUITE, coordination.SUITE)}
