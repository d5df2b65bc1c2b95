"""MAM, Multi-Agent Mamba (Daniel et al., arXiv 2410.19382)."""

from dataclasses import asdict
from typing import Any

from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.utils.annotations import override

from rllib_seqmarl.algorithms.joint_ppo import JointPPO
from rllib_seqmarl.algorithms.joint_ppo_config import JointPPOConfig
from rllib_seqmarl.mixers.mamba import MambaOptions


class MAMConfig(JointPPOConfig):
    """Config of Multi-Agent Mamba: MAT's blocks with selective scans in place of attention.

    The defaults are those of the paper's appendix (20 million steps per task on SMAX, RWARE and LBF): 64 environments x
    128 steps, 2 minibatches, lambda 0.9, entropy coefficient 0.01, one block, embed_dim 128. For options that the paper
    tuned over a set, the middle of the set; learning rate and epochs are those of MAT on the same simulators.

    ```python
    from rllib_seqmarl import MAMConfig

    config = (
        MAMConfig()
        .environment("mpe/simple_spread", env_config={"N": 3})
        .training(train_batch_size_per_learner=800, minibatch_size=None)
        .network(embed_dim=64, d_state=16)
    )
    algo = config.build_algo()
    algo.train()
    ```
    """

    more_options = MambaOptions

    def __init__(self, algo_class: type[Algorithm] | None = None) -> None:
        super().__init__(algo_class)
        self.encoder_mixer = "mamba"
        self.decoder_mixer = "mamba"
        self.embed_dim = 128
        self.num_envs_per_env_runner = 64
        self.train_batch_size_per_learner = 8192  # 64 environments x 128 steps
        self.minibatch_size = 4096
        self.lr = 5e-4
        self.num_epochs = 5
        self.lambda_ = 0.9
        self.clip_param = 0.1  # searched: 0.05, 0.1, 0.2
        self.grad_clip = 5.0  # searched: 0.5, 5, 10
        self.entropy_coeff = 0.01

    @property
    @override(JointPPOConfig)
    def _network_options(self) -> dict[str, Any]:
        options = super()._network_options
        mamba = {key: options.pop(key) for key in asdict(MambaOptions())}
        chosen = {key: value for key, value in mamba.items() if value != getattr(MambaOptions(), key)}
        if twice := chosen.keys() & self.mixer_options.keys():
            raise ValueError(
                f"{', '.join(sorted(twice))} is set twice, by name and in mixer_options; remove one of them."
            )
        if "mamba" in (self.encoder_mixer, self.decoder_mixer):
            options["mixer_options"] = {**mamba, **self.mixer_options}
        elif chosen:
            settings = ", ".join(f"{key}={value!r}" for key, value in chosen.items())
            raise ValueError(
                f"{settings} has no effect: neither encoder_mixer={self.encoder_mixer!r} nor "
                f"decoder_mixer={self.decoder_mixer!r} is mamba. Remove it."
            )
        return options


class MAM(JointPPO, config=MAMConfig):
    """Multi-Agent Mamba."""
