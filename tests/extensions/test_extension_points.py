"""Every part can be added from outside of the package: one file, with one line that registers it."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import pytest
from ray.tune.registry import get_trainable_cls

from rllib_seqmarl import JointPolicy, MATConfig
from rllib_seqmarl.algorithms.joint_ppo_config import JointPPOConfig


def reinforce() -> JointPPOConfig:
    return get_trainable_cls("Reinforce").get_default_config()


CASES: dict[str, tuple[str, Callable[[], JointPPOConfig]]] = {
    "mixer": (
        "leaky_average",
        lambda: MATConfig().network(encoder_mixer="leaky-average", decoder_mixer="leaky-average"),
    ),
    "head": ("tempered_head", lambda: MATConfig().network(head="tempered")),
    "policy": ("linear_policy", lambda: JointPPOConfig().network(policy="linear", bias=False)),
    "objective": ("reinforce", lambda: MATConfig().training(objective="reinforce:reinforce")),
    "algorithm": ("reinforce", reinforce),
    "environment": ("parity_game", lambda: MATConfig().environment("parity", env_config={"n_agents": 4})),
}


@pytest.mark.parametrize("part", CASES)
def test_a_part_of_ones_own_trains_and_acts(part: str, tmp_path: Any) -> None:
    module, make = CASES[part]
    import_module(module)
    config = make()
    if config.env is None:
        config.environment("coordination/distinct_choice", env_config={"n_agents": 3})
    config.env_runners(num_envs_per_env_runner=4).debugging(seed=0)
    config.training(train_batch_size_per_learner=32, num_epochs=1, minibatch_size=None)
    algo = config.build_algo()
    result = algo.train()
    assert result["learners"]["default_policy"]["policy_loss"] is not None
    trained = algo.get_module().joint_policy()
    restored = JointPolicy.from_checkpoint(algo.save_to_path(tmp_path / "checkpoint"))
    algo.stop()
    blank = trained.layout.blank(2)
    assert (restored.act_for_many(blank) == trained.act_for_many(blank)).all()
