"""Objectives: what a learner minimises, as functions of its columns and the module's outputs.

The learner around an objective prepares the columns and applies the gradients, and knows no loss. An objective is a
sum over the given rows with weights from the columns, so a batch can be differentiated slice by slice.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any

import gymnasium as gym
import torch
import tree
from ray.rllib.core.columns import Columns
from ray.rllib.evaluation.postprocessing import Postprocessing
from torch import Tensor

from rllib_seqmarl.learners.advantages import AGENT_EARNS
from rllib_seqmarl.learners.joint_ppo_loss import joint_ppo_loss
from rllib_seqmarl.modules.joint_sequence_module import RESETS

# Columns with the weight of each agent-step in the policy loss and in the value loss, and an optional factor of the
# policy loss, all (b, n).
LOSS_WEIGHTS, VALUE_LOSS_WEIGHTS, FACTOR = "loss_weights", "value_loss_weights", "factor"

Objective = Callable[[dict[str, Any], dict[str, Tensor], Any], dict[str, Tensor]]
"""Maps columns, the outputs of `forward_train` and settings to scalars, each a weighted sum over the rows.

"total" is minimised, all other terms are logged; names of terms of the value loss begin with "vf_". The columns are
OBS, ACTIONS, ACTION_LOGP, ADVANTAGES, VALUE_TARGETS and VF_PREDS in the value normaliser's units, AGENT_EARNS, the
weights LOSS_WEIGHTS and VALUE_LOSS_WEIGHTS, whose sums over the minibatch are 1 (or the number of learners), and FACTOR
if agents are updated one after another. `settings` has the config's options as attributes, `entropy_coeff` at its
current value.
"""


def joint_ppo(columns: dict[str, Any], outputs: dict[str, Tensor], settings: Any) -> dict[str, Tensor]:
    """PPO's clipped objective per agent (arXiv 2205.14953, eq. 4 and 5), see `joint_ppo_loss`."""
    return joint_ppo_loss(
        log_probs=outputs[Columns.ACTION_LOGP],
        old_log_probs=columns[Columns.ACTION_LOGP],
        advantages=columns[Postprocessing.ADVANTAGES],
        entropy=outputs["entropy"],
        values=outputs[Columns.VF_PREDS],
        old_values=columns[Columns.VF_PREDS],
        value_targets=columns[Postprocessing.VALUE_TARGETS],
        weights=columns[LOSS_WEIGHTS],
        value_weights=columns[VALUE_LOSS_WEIGHTS],
        factor=columns.get(FACTOR),
        clip_param=settings.clip_param,
        vf_clip_param=settings.clip_param if settings.vf_clip_param is None else settings.vf_clip_param,
        huber_delta=settings.huber_delta,
        vf_loss_coeff=settings.vf_loss_coeff,
        entropy_coeff=settings.entropy_coeff,
    )


def decouple(columns: Any, log_probs: Tensor, values: Tensor) -> None:
    """Clip around the current policy instead of the one that acted; changes the columns in place.

    If the policy that acted is one update old, the current one may already be at the clipping boundary, where many
    samples have no gradient. The decoupled objective (Hilton et al. 2021, arXiv 2110.00641) clips around the current
    policy, and corrects for the policy that acted by an importance weight.

    Args:
        columns: A batch, whose ACTION_LOGP, ADVANTAGES and VF_PREDS are changed.
        log_probs: Log-probabilities of the actions under the current policy, (B, n), or (B, n, k) for actions of k
            dimensions.
        values: Predictions of the current critic, (B, n), in the value normaliser's units.
    """
    advantages = columns[Postprocessing.ADVANTAGES]  # (B, n)
    log_ratio = (log_probs - columns[Columns.ACTION_LOGP]).reshape(*advantages.shape, -1).sum(-1)  # (B, n)
    columns[Postprocessing.ADVANTAGES] = advantages * log_ratio.exp()
    columns[Columns.ACTION_LOGP], columns[Columns.VF_PREDS] = log_probs, values


def find_objective(objective: Objective | str | None) -> Objective:
    """Return the objective of a config's `objective`: a function, "module:function", or None for `joint_ppo`.

    Raises:
        ValueError: There is no such function.
    """
    if objective is None:
        return joint_ppo
    if isinstance(objective, str):
        module, _, name = objective.partition(":")
        try:
            objective = getattr(import_module(module), name)
        except Exception as error:
            raise ValueError(
                f"objective={objective!r} cannot be imported ({error}). Write 'module:function', such as "
                f"'my_losses:objective'."
            ) from error
    if not callable(objective):
        raise ValueError(f"objective={objective!r} is not a function, or the name of one as 'module:function'.")
    return objective


def check_objective(objective: Objective, columns: dict[str, Any], outputs: dict[str, Tensor], settings: Any) -> None:
    """Check a user's objective on a batch of at least two rows.

    Args:
        objective: The function.
        columns: A batch's columns, such as `fake_batch` makes.
        outputs: The module's outputs for it, with gradients.
        settings: What the objective reads its options from.

    Raises:
        ValueError: It does not return a dict of scalar tensors with a differentiable "total", or the terms of two parts
            of a batch do not sum to those of the whole.
    """
    name = f"objective={getattr(objective, '__name__', objective)!r}"

    def compute(rows: slice) -> dict[str, Tensor]:
        part, part_outputs = tree.map_structure(lambda column: column[rows], (columns, outputs))
        try:
            terms = objective(part, part_outputs, settings)
        except KeyError as error:
            raise ValueError(
                f"{name} reads {error}, which is neither a column ({', '.join(sorted(columns))}) nor an output of the "
                f"module ({', '.join(sorted(outputs))})."
            ) from error
        if not isinstance(terms, dict) or "total" not in terms:
            raise ValueError(f"{name} returns {type(terms).__name__}; return a dict of scalar tensors with 'total'.")
        for key, term in terms.items():
            if not isinstance(term, Tensor) or term.dim() > 0:
                shape = f"a tensor {tuple(term.shape)}" if isinstance(term, Tensor) else type(term).__name__
                raise ValueError(f"{name}: {key!r} is {shape}, not a scalar tensor. Sum it over rows and agents.")
        return terms

    whole = compute(slice(None))
    if not whole["total"].requires_grad:
        raise ValueError(
            f"{name}: 'total' does not depend on the module's outputs, so it has no gradient. Compute it from "
            f"outputs['{Columns.ACTION_LOGP}'] or outputs['{Columns.VF_PREDS}'], without detaching them."
        )
    if unfit := [key for key, term in whole.items() if not term.isfinite()]:
        raise ValueError(
            f"{name}: {unfit[0]!r} is {whole[unfit[0]].item()} for finite columns. Check divisions and logs."
        )
    middle = len(columns[LOSS_WEIGHTS]) // 2
    first, second = compute(slice(middle)), compute(slice(middle, None))
    if not whole.keys() == first.keys() == second.keys():
        raise ValueError(
            f"{name} returns different terms for different batches: "
            f"{sorted((set(whole) ^ set(first)) | (set(whole) ^ set(second)))}."
        )
    for key, term in whole.items():
        parts = first[key].detach() + second[key].detach()
        if not torch.allclose(parts, term.detach(), rtol=1e-3, atol=1e-4):
            raise ValueError(
                f"{name}: {key!r} is {term.item():.4g} for a batch, but {parts.item():.4g} is the sum over its halves, "
                f"so gradients of slices would not sum to the batch's. Do not average over rows: multiply by "
                f"columns['{LOSS_WEIGHTS}'] or columns['{VALUE_LOSS_WEIGHTS}'], and sum."
            )


def fake_batch(module: Any, settings: Any, rows: int = 4) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Make columns of the module's shapes, (rows, n, ...) or, with memory, (rows, 1, n, ...), and its outputs."""
    spaces: gym.spaces.Dict = module.observation_space
    device = next(module.parameters()).device
    obs = {
        key: torch.full((rows, *space.shape), float(key in ("alive", "action_mask")), device=device)
        for key, space in spaces.spaces.items()
        if space.shape is not None
    }
    batch: dict[str, Any] = {Columns.OBS: obs}
    with torch.random.fork_rng(), torch.no_grad():
        acted = module.forward_exploration(batch, t=0)
        values = acted[Columns.VF_PREDS]  # (rows, n)
        advantages, targets = torch.randn((2, *values.shape)).to(device)
    weights = torch.full_like(values, 1.0 / values.numel())
    columns = {
        **batch,
        **acted,
        Postprocessing.ADVANTAGES: advantages,
        Postprocessing.VALUE_TARGETS: targets,
        AGENT_EARNS: torch.ones_like(values, dtype=torch.bool),
        LOSS_WEIGHTS: weights,
        VALUE_LOSS_WEIGHTS: weights,
        **({FACTOR: torch.ones_like(values)} if settings.update_order == "sequential" else {}),
    }
    if module.max_seq_len:  # windows of one step
        columns = {key: tree.map_structure(lambda x: x.unsqueeze(1), column) for key, column in columns.items()}
        columns[Columns.STATE_IN] = module.policy.initial_state(rows)
        columns[RESETS] = torch.zeros(rows, 1, dtype=torch.bool, device=device)
    return columns, module.forward_train(columns)
