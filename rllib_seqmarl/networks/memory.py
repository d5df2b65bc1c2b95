"""The memory of agents: a causal mixer along time, with a state per team and agent."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from rllib_seqmarl.mixers import CausalMixer, MixerShape, PostNormMixers, PreNormMixers
from rllib_seqmarl.mixers.along_time import TimeMixers
from rllib_seqmarl.mixers.base import State
from rllib_seqmarl.mixers.check import check_users_mixer
from rllib_seqmarl.networks.blocks import PreNormBlock, Residual
from rllib_seqmarl.networks.memory_config import MemoryConfig


class Memory(nn.Module):
    """Mixes each agent's features with those of its earlier steps.

    Args:
        config: Selects the mixer.
        width: The number of features d.
        n_own: The number of agents if each has its own weights; None if they share them.
    """

    def __init__(self, config: MemoryConfig, width: int, n_own: int | None = None) -> None:
        super().__init__()
        shape = config.memory_shape(width)
        if not isinstance(config.memory_mixers, TimeMixers):
            check_users_mixer(str(config.memory), shape)
        self.mixers = nn.ModuleList(_block(config, shape) for _ in range(n_own or 1))

    def initial_state(self, batch_size: int, n_agents: int) -> State:
        """Zeros, a tree of tensors (B, n, ...)."""
        return _split(self.mixers[0].initial_state(batch_size * n_agents), n_agents)  # type: ignore[operator]

    def forward(
        self, x: Tensor, state: State = None, resets: Tensor | None = None, agent: int | None = None
    ) -> tuple[Tensor, State]:
        """Map a window (B, T, n, d), or one step (B, n, d) with a state, to the same shape.

        Args:
            x: The features.
            state: The state before the first step, a tree of (B, n, ...); None for zeros, and to return no state.
            resets: (B, T) bool, the steps before which the state is zeroed.
            agent: If `x` and `state` are of one agent only (n = 1), its index.
        """
        n, mixers = x.shape[-2], list(self.mixers)
        if len(mixers) > 1 and agent is not None:
            mixers = mixers[agent : agent + 1]
        if len(mixers) > 1:
            parts = [
                _run(mixer, x[..., i, :], _map(lambda leaf, i=i: leaf[:, i], state), resets)
                for i, mixer in enumerate(mixers)
            ]
            y = torch.stack([part for part, _ in parts], dim=-2)
            return y, _map(lambda *leaves: torch.stack(leaves, dim=1), *(part_state for _, part_state in parts))
        tokens = x if x.dim() == 3 else x.transpose(1, 2)  # (B, n, [T,] d)
        resets = None if resets is None else resets.repeat_interleave(n, 0)
        y, state = _run(mixers[0], tokens.flatten(0, 1), _map(lambda leaf: leaf.flatten(0, 1), state), resets)
        y = y.unflatten(0, (-1, n))
        return y if x.dim() == 3 else y.transpose(1, 2), _split(state, n)


def _block(config: MemoryConfig, shape: MixerShape) -> CausalMixer:
    mixers = config.memory_mixers
    if isinstance(mixers, PreNormMixers):
        return PreNormBlock(mixers, shape)
    if isinstance(mixers, PostNormMixers):
        return Residual(mixers.decoder(shape), shape.embed_dim)
    return mixers.mixer(shape)


def _run(mixer: nn.Module, x: Tensor, state: State, resets: Tensor | None) -> tuple[Tensor, State]:
    """Run a window (B, T, d), or a step (B, d)."""
    if x.dim() == 2:
        return mixer.step(x, state)  # type: ignore[operator]
    return mixer(x, None, state, resets)


def _split(state: State, n_agents: int) -> State:
    """Split the first axis of every tensor: (B * n, ...) to (B, n, ...)."""
    return _map(lambda leaf: leaf.unflatten(0, (-1, n_agents)), state)


def _map(function: Callable[..., Tensor], *states: State) -> State:
    """Apply a function to the tensors of states of equal structure; None if the states are."""
    return None if states[0] is None else tree_map(function, *states)
