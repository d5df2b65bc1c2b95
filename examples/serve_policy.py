"""Serve a trained team over HTTP with Ray Serve.

A request is a JSON object {agent: observation}, the response {agent: action}. The replica reads only the policy's
safetensors and JSON files: it restores no algorithm, starts no environment and unpickles nothing. Without `--policy`, a
small team is trained first. Needs `pip install "ray[serve]"`.

    python examples/serve_policy.py --policy results/.../checkpoint_000009 --wait
    curl -d '{"agent_0": [0.0, 1.0], "agent_1": [1.0, 0.0]}' http://127.0.0.1:8000/
"""

from __future__ import annotations

import argparse
import signal
import tempfile
from typing import Any

import numpy as np

from rllib_seqmarl import JointPolicy, MATConfig, make_joint_env


class Team:
    """Serves actions for JSON observations of teams whose agents observe arrays."""

    def __init__(self, path: str) -> None:
        self.policy = JointPolicy.from_checkpoint(path)
        # Keys of JSON objects are strings, but agent names may also be integers or tuples.
        self.agents = {str(agent): agent for agent in self.policy.layout.agents}

    async def __call__(self, request: Any) -> Any:
        from starlette.responses import JSONResponse

        try:
            return JSONResponse(self.act(await request.json()))
        except ValueError as error:  # not JSON, or a LayoutError that names the agent
            return JSONResponse({"error": str(error)}, status_code=400)

    def act(self, request: Any) -> dict[str, Any]:
        if not isinstance(request, dict):
            raise ValueError(f"send an object {{agent: observation}}, not a {type(request).__name__}")
        observations = {self.agents.get(name, name): np.asarray(obs, np.float32) for name, obs in request.items()}
        return {str(agent): np.asarray(action).tolist() for agent, action in self.policy.act(observations).items()}


def train(path: str) -> None:
    algo = (
        MATConfig()
        .environment("coordination/distinct_choice", env_config={"n_agents": 3})
        .training(train_batch_size_per_learner=320)
        .network(embed_dim=16)
        .build_algo()
    )
    algo.train()
    algo.save_to_path(path)
    algo.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", help="a checkpoint or an exported policy")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--wait", action="store_true", help="serve until interrupted")
    options = parser.parse_args()

    import ray
    import requests
    from ray import serve

    with tempfile.TemporaryDirectory() as folder:
        path = options.policy or folder
        if options.policy is None:
            train(path)
        serve.start(http_options={"host": "127.0.0.1", "port": options.port})
        serve.run(serve.deployment(Team).bind(path))

        deployment = JointPolicy.from_checkpoint(path).deployment
        observations, _ = make_joint_env(deployment["env"], deployment["env_config"]).env.reset(seed=0)
        url = f"http://127.0.0.1:{options.port}/"
        body = {str(agent): np.asarray(obs).tolist() for agent, obs in observations.items()}
        response = requests.post(url, json=body, timeout=30)
        response.raise_for_status()
        print("actions:", response.json())
        rejected = requests.post(url, json={"stranger": [0.0]}, timeout=30)
        print("rejected:", rejected.status_code, rejected.json()["error"])
        if options.wait:
            signal.pause()
        serve.shutdown()
        ray.shutdown()


if __name__ == "__main__":
    main()
