"""Export of a network's greedy policy to ONNX, for inference without this package and without torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from rllib_seqmarl.networks.joint_policy_network import JointPolicyNetwork


class GreedyActor(nn.Module):
    """Maps joint observations to joint actions in plain torch, compatible with `torch.export`.

    Args:
        network: The policy network.
        inputs: Names of the arguments of `forward`, in order: "observations", "alive", and "action_mask" and "state"
            if the team has them.
        bounds: For continuous actions `scale`, `offset`, `low` and `high`, each (n, dim): an action is
            clip(scale * output + offset, low, high). None to return outputs as they are.
    """

    def __init__(self, network: JointPolicyNetwork, inputs: Sequence[str], bounds: Sequence[Tensor] | None) -> None:
        super().__init__()
        self.network = network
        self.inputs = tuple(inputs)
        self.bounds = bounds

    def forward(self, *arrays: Tensor) -> Tensor:
        """Return actions (B, n, ...) for one array (B, n, ...) per name in `inputs`; the state is (B, state_dim)."""
        named = dict(zip(self.inputs, arrays, strict=True))
        obs = named["observations"]  # (B, n, obs_dim)
        if "state" in named:
            state = named["state"].unsqueeze(1).expand(-1, obs.shape[1], -1)  # (B, n, state_dim)
            obs = torch.cat([obs, state], dim=-1)
        actions = self.network.act(obs, named.get("action_mask"), named["alive"], deterministic=True)[0]
        if self.bounds is None:
            return actions
        scale, offset, low, high = self.bounds
        return (actions * scale + offset).clamp(low, high)


def write_onnx(path: Path, actor: GreedyActor, example: Sequence[Tensor]) -> None:
    """Write `actor` to an ONNX file for arrays of the dtypes of `example` and any number of teams.

    Args:
        path: The file; missing directories are created.
        actor: The actor to export.
        example: An array for each of the actor's inputs, of two teams or more: torch.export treats an axis of length
            one as a constant.

    Raises:
        ImportError: The packages that write ONNX files are missing.
    """
    try:
        import onnxscript  # noqa: F401, torch.onnx needs it
    except ImportError:
        raise ImportError("ONNX export requires onnx and onnxscript: pip install onnx onnxscript") from None
    teams = torch.export.Dim("teams", min=1)
    # Exported here, because torch.onnx.export would fix the number of teams if it cannot keep it dynamic.
    program = torch.export.export(
        actor.eval(), tuple(example), dynamic_shapes=(tuple({0: teams} for _ in example),), strict=False
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.onnx.export(
        program,
        f=path,
        input_names=list(actor.inputs),
        output_names=["actions"],
        dynamo=True,
        external_data=False,
        verbose=False,
    )
