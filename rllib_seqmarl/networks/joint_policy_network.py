"""The joint policy network of a team, used by MAT, MAM and MARWKV, which differ only in their mixers.

pi(a_1..a_n | o_1..o_n) is the product over agents of pi(a_t | encoder(o_1..o_n), a_1..a_{t-1}) (Wen et al.
2022, arXiv 2205.14953, section 4), so a team acts agent by agent but is trained in one parallel pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from rllib_seqmarl.networks.action_heads import ActionHead, CategoricalHead, GaussianHead
from rllib_seqmarl.networks.config import NetworkConfig
from rllib_seqmarl.networks.decisions import decide
from rllib_seqmarl.networks.decoder import Decoder
from rllib_seqmarl.networks.decoding import KeptDecoders, fast_decoder
from rllib_seqmarl.networks.encoder import Encoder
from rllib_seqmarl.ops.backends import is_exporting


class JointPolicyNetwork(nn.Module):
    """Chooses actions for a team, evaluates actions, and estimates values.

    Arguments shared by the methods (B teams of n agents; n may vary between calls):
        obs: Observations (B, n, obs_dim); of any dtype if they begin with images.
        actions: (B, n, *action_shape), int64 choices or real numbers.
        action_mask: (B, n, width), bool or 0/1: the legal choices, or the action dimensions that an agent
            really has. None: everything is legal.
        alive: (B, n), bool or 0/1. A dead agent keeps its place in the sequence with action 0,
            log-probability 0 and entropy 0. None: all agents are alive.
    Log-probabilities and entropies are (B, n) for discrete actions (summed over the choices of an agent) and
    (B, n, dim), one per action dimension, for continuous ones. Values are (B, n).
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        head = CategoricalHead if config.action.kind == "discrete" else GaussianHead
        self.head: ActionHead = head(config.action, config.embed_dim)
        self._kept_decoders: KeptDecoders | None = None

    @contextmanager
    def fixed_weights(self) -> Iterator[None]:
        """Weights do not change inside, so they are packed for decoding only once; enter again if they did."""
        self._kept_decoders = {}
        try:
            yield
        finally:
            self._kept_decoders = None

    def act(
        self,
        obs: Tensor,
        action_mask: Tensor | None = None,
        alive: Tensor | None = None,
        deterministic: bool = True,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Choose each agent's action in turn, conditioned on its predecessors' actions.

        Returns:
            Actions, their log-probabilities and values, without gradients; use :meth:`evaluate` for gradients.
        """
        # Inference mode is 10% faster, but torch.compile's own backend and exports do not support it.
        is_traced = torch.compiler.is_compiling() or is_exporting()
        with torch.no_grad() if is_traced else torch.inference_mode():
            actions, log_probs, values = self._decode(obs, action_mask, alive, deterministic)
        return actions.clone(), log_probs.clone(), values.clone()  # copies are ordinary tensors

    def _decode(
        self, obs: Tensor, action_mask: Tensor | None, alive: Tensor | None, deterministic: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        encoder_output, values = self._encode(obs)
        batch_size, n, _ = encoder_output.shape
        head, shape = self.head, (*encoder_output.shape[:2], self.config.action.width)
        action_mask = head.effective_mask(action_mask, alive)
        noise = None if deterministic else head.noise(shape, action_mask)  # (B, n, width), like action_mask
        fast = fast_decoder(self.decoder, head, self.config.backend, self._kept_decoders)
        scores, actions = (fast or partial(decide, self.decoder, head))(encoder_output, action_mask, noise)
        return actions, head.log_probs(scores, actions, action_mask), values

    def evaluate(
        self, obs: Tensor, actions: Tensor, action_mask: Tensor | None = None, alive: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities of ``actions``, entropies of the policy and values, in one parallel pass."""
        encoder_output, values = self._encode(obs)
        head = self.head
        action_mask = head.effective_mask(action_mask, alive)
        # Not cleaned before decoding: successors were conditioned on the given actions of dead agents as well.
        features, _ = self.decoder(head.shifted(actions), encoder_output)  # (B, n, d)
        scores = head.scores(head.policy(features), action_mask)  # (B, n, width)
        actions = head.clean(actions, alive, action_mask)
        return head.log_probs(scores, actions, action_mask), head.entropy(scores, action_mask), values

    def values(self, obs: Tensor) -> Tensor:
        """Values (B, n) only, without running the decoder."""
        return self._encode(obs)[1]

    def _encode(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        if obs.dim() != 3 or obs.shape[-1] != self.config.obs_dim:
            raise ValueError(f"obs must have shape (batch, agents, {self.config.obs_dim}), not {tuple(obs.shape)}")
        return self.encoder(obs)
