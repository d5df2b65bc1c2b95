"""Checkpoints are complete: acting and training continue exactly in another process."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoint_probe import config, probe
from ray.rllib.core.columns import Columns

from rllib_seqmarl import JointPolicy, make_joint_env
from rllib_seqmarl.policies.export import ExportError

pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.fixture(scope="module")
def checkpoint(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    algo = config().build_algo()
    for _ in range(3):
        algo.train()
    path = tmp_path_factory.mktemp("checkpoint")
    algo.save_to_path(str(path))
    np.savez(path / "expected.npz", **probe(algo))
    algo.stop()
    return path


def test_a_new_process_continues_exactly(checkpoint: Path, tmp_path: Path) -> None:
    script = Path(__file__).with_name("checkpoint_probe.py")
    subprocess.run([sys.executable, script, checkpoint, tmp_path / "found.npz"], check=True, timeout=120)
    with np.load(checkpoint / "expected.npz") as expected, np.load(tmp_path / "found.npz") as found:
        assert set(found.files) == set(expected.files)
        assert int(expected["steps"]) >= 120 and int(expected["iteration"]) == 3
        assert 1e-4 < float(expected["lr"]) < 1e-3 and 0.0 < float(expected["entropy_coeff"]) < 0.1
        for key in expected.files:
            # Matrix products may differ in the last bit between processes; everything else is bitwise equal.
            tolerance = 1e-6 if key.startswith(("module/network", "optimizer")) else 0.0
            np.testing.assert_allclose(found[key], expected[key], rtol=0, atol=tolerance, err_msg=key)


def test_a_policy_from_a_checkpoint_acts_like_the_module(checkpoint: Path) -> None:
    from ray.rllib.algorithms.algorithm import Algorithm

    policy = JointPolicy.from_checkpoint(checkpoint)
    algo = Algorithm.from_checkpoint(str(checkpoint))
    module = algo.get_module()
    joint_env = make_joint_env(policy.deployment["env"], policy.deployment["env_config"])
    for seed in range(20):
        joint_observation, _ = joint_env.reset(seed=seed)
        observations, _ = joint_env.env.reset(seed=seed)
        batch = {key: torch.from_numpy(value)[None] for key, value in joint_observation.items()}
        out = module.forward_inference({Columns.OBS: batch})
        actions = policy.act(observations)
        assert list(actions.values()) == out[Columns.ACTIONS][0].tolist()
        values = policy.values(observations)
        np.testing.assert_allclose(list(values.values()), out[Columns.VF_PREDS][0], rtol=1e-5)
    algo.stop()


def test_a_policy_acts_where_ray_is_not_installed(checkpoint: Path) -> None:
    script = textwrap.dedent(
        f"""
        import json, sys

        class NoRay:
            def find_spec(self, name, path=None, target=None):
                if name.split(".")[0] == "ray":
                    raise ModuleNotFoundError("No module named 'ray'", name="ray")

        sys.meta_path.insert(0, NoRay())
        import importlib.util
        real = importlib.util.find_spec
        importlib.util.find_spec = lambda name, *a: None if name == "ray" else real(name, *a)
        import pickle
        def unless_numba(function):
            # numba caches its compiled code as pickles.
            def guarded(*args, **kwargs):
                if not sys._getframe(1).f_globals["__name__"].startswith("numba."):
                    raise AssertionError("something was unpickled")
                return function(*args, **kwargs)
            return guarded
        pickle.load, pickle.loads, pickle.Unpickler = map(unless_numba, (pickle.load, pickle.loads, pickle.Unpickler))

        from rllib_seqmarl import JointPolicy, make_joint_env
        policy = JointPolicy.from_checkpoint({str(checkpoint)!r})
        env = make_joint_env(policy.deployment["env"], policy.deployment["env_config"]).env
        observations, _ = env.reset(seed=0)
        print(json.dumps(policy.act(observations), default=int))
        assert "ray" not in sys.modules
        """
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    policy = JointPolicy.from_checkpoint(checkpoint)
    env = make_joint_env(policy.deployment["env"], policy.deployment["env_config"]).env
    assert json.loads(run.stdout) == policy.act(env.reset(seed=0)[0])


def test_saving_and_loading_preserves_actions(checkpoint: Path, tmp_path: Path) -> None:
    policy = JointPolicy.from_checkpoint(checkpoint)
    policy.save(tmp_path / "team")
    loaded = JointPolicy.load(tmp_path / "team")
    env = make_joint_env(policy.deployment["env"], policy.deployment["env_config"]).env
    observations, _ = env.reset(seed=3)
    assert loaded.act(observations) == policy.act(observations)
    torch.manual_seed(0)
    explored = [policy.act(observations, explore=True) for _ in range(20)]
    torch.manual_seed(0)
    assert explored == [loaded.act(observations, explore=True) for _ in range(20)]
    assert len({tuple(actions.values()) for actions in explored}) > 1


def test_damaged_and_foreign_files_are_named(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="holds no policy of this package"):
        JointPolicy.from_checkpoint(tmp_path)
    JointPolicy.from_checkpoint(checkpoint).save(tmp_path / "team")
    weights, description = tmp_path / "team.safetensors", tmp_path / "team.json"

    content = weights.read_bytes()
    weights.write_bytes(content[: len(content) // 2])
    with pytest.raises(ExportError, match="team.safetensors is damaged or truncated"):
        JointPolicy.load(tmp_path / "team")
    weights.unlink()
    with pytest.raises(ExportError, match="team.safetensors is missing"):
        JointPolicy.load(tmp_path / "team")

    description.write_text('{"format_version": 99}')
    with pytest.raises(ExportError, match="has format version 99.*reads versions 1, 2"):
        JointPolicy.load(tmp_path / "team")
    description.write_text("{")
    with pytest.raises(ExportError, match="team.json is damaged"):
        JointPolicy.load(tmp_path / "team")


def test_env_options_that_cannot_be_serialized_do_not_prevent_checkpoints(tmp_path: Path) -> None:
    from rllib_seqmarl.envs.suites.coordination import DistinctChoice
    from rllib_seqmarl.experiments.errors import ExperimentError
    from rllib_seqmarl.experiments.evaluation import policy_env

    def create(*, when_made: object, **options: int) -> DistinctChoice:
        return DistinctChoice(**options)

    algo = config().environment(create, env_config={"when_made": lambda: None}).build_algo()
    algo.save_to_path(str(tmp_path))
    algo.stop()
    policy = JointPolicy.from_checkpoint(tmp_path)
    assert policy.deployment["env_config"] == {"n_agents": 3, "max_cycles": 5}
    assert len(policy.act(DistinctChoice(n_agents=3).reset(seed=0)[0])) == 3
    with pytest.raises(ExperimentError, match="env_config had 'when_made'"):
        policy_env(policy)
