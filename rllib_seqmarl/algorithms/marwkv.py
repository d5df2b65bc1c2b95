"""MARWKV: a joint policy with RWKV recurrences (RWKV-4, Peng et al., arXiv 2305.13048; 5 and 6, arXiv 2404.05892)."""

from dataclasses import dataclass
from typing import Any

from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.utils.annotations import override

from rllib_seqmarl.algorithms.joint_ppo import JointPPO
from rllib_seqmarl.algorithms.joint_ppo_config import JointPPOConfig

VERSIONS = (4, 5, 6)


@dataclass(frozen=True)
class RWKVVersion:
    """The choice among RWKV's versions.

    Attributes:
        version: The RWKV version: 4 (one state per channel), 5 (a matrix state per head) or 6 (data-dependent decay and
            token shift). `encoder_mixer` and `decoder_mixer` override its mixer.
    """

    version: int = 4


class MARWKVConfig(JointPPOConfig):
    """Config of MARWKV: RWKV blocks in the encoder and in the decoder.

    The defaults are the settings of the MARWKV report on SMAC: lr 1e-3, clip_param 0.05, 15 epochs on the whole batch
    of 32 environments x 100 steps, entropy coefficient 0.01, gradients clipped at 10, one block and one head, 64 wide.
    All other defaults are MAT's.

    ```python
    from rllib_seqmarl import MARWKVConfig

    config = (
        MARWKVConfig()
        .environment("mpe/simple_spread", env_config={"N": 3})
        .training(train_batch_size_per_learner=800)
        .network(version=6, n_head=4)
    )
    algo = config.build_algo()
    algo.train()
    ```
    """

    more_options = RWKVVersion

    def __init__(self, algo_class: type[Algorithm] | None = None) -> None:
        super().__init__(algo_class)
        self.encoder_mixer = None  # determined by `version`
        self.decoder_mixer = None
        self.lr = 1e-3
        self.clip_param = 0.05

    @property
    @override(JointPPOConfig)
    def _network_options(self) -> dict[str, Any]:
        options = super()._network_options
        version = options.pop("version")
        if version not in VERSIONS or isinstance(version, float):
            raise ValueError(f"version={version!r} is not a version of RWKV; choose one of {VERSIONS}.")
        mixers = {key: options[key] or f"rwkv{version}" for key in ("encoder_mixer", "decoder_mixer")}
        return {**options, **mixers}


class MARWKV(JointPPO, config=MARWKVConfig):
    """Multi-Agent RWKV."""
