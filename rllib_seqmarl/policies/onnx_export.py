"""Export of a greedy policy to ONNX, for inference without this package and without torch."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from rllib_seqmarl.policies.base import Policy


class GreedyActor(nn.Module):
    """Maps joint observations to joint actions in plain torch, compatible with `torch.export`.

    Args:
        policy: The policy.
        inputs: Names of the first arguments of `forward`, in order: "observations", "alive", and "action_mask" and
            "state" if the team has them.
        bounds: For continuous actions `scale`, `offset`, `low` and `high`, each (n, dim): an action is
            clip(scale * output + offset, low, high). None to return outputs as they are.

    Attributes:
        inputs: Names of the arguments of `forward`. If the policy carries a state from step to step, its tensors follow
            the observation's as "memory_0", "memory_1", ...
        outputs: Names of the results: "actions", and the next step's "next_memory_0", ...
    """

    def __init__(self, policy: Policy, inputs: Sequence[str], bounds: Sequence[Tensor] | None) -> None:
        super().__init__()
        self.policy = policy
        self.bounds = bounds
        leaves, self._tree = pytree.tree_flatten(policy.initial_state(1))
        self._n_inputs = len(inputs)
        self.inputs = *inputs, *(f"memory_{i}" for i in range(len(leaves)))
        self.outputs = "actions", *(f"next_memory_{i}" for i in range(len(leaves)))

    def forward(self, *arrays: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return actions (B, n, ...), and the next state if there is one, for an array per name in `inputs`."""
        obs = dict(zip(self.inputs, arrays[: self._n_inputs], strict=False))
        state = pytree.tree_unflatten(arrays[self._n_inputs :], self._tree)
        decision = self.policy.act(obs, state, deterministic=True)
        actions = decision.actions
        if self.bounds is not None:
            scale, offset, low, high = self.bounds
            actions = (actions * scale + offset).clamp(low, high)
        return (actions, *pytree.tree_leaves(decision.state)) if self.outputs[1:] else actions


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
        output_names=list(actor.outputs),
        dynamo=True,
        external_data=False,
        verbose=False,
    )
