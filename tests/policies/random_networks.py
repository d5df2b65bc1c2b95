"""Random networks and joint observations of every kind, for property tests."""

from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor

from rllib_seqmarl.mixers import MIXERS
from rllib_seqmarl.networks.config import AGENT_ORDERS
from rllib_seqmarl.policies import ActionSpec, NetworkConfig, SequencePolicy

ACTIONS = st.one_of(
    st.builds(
        lambda nvec: ActionSpec("discrete", nvec=tuple(nvec)),
        st.lists(st.integers(1, 6), min_size=1, max_size=3),
    ),
    st.builds(lambda dim: ActionSpec("continuous", dim=dim), st.integers(1, 4)),
)


def randomized(network: SequencePolicy) -> SequencePolicy:
    """Set weights far from their small initial values, so that every output depends on every input."""
    for parameter in network.parameters():
        parameter.data += 0.5 * torch.randn_like(parameter) / parameter.shape[-1] ** 0.5
    return network


def random_mask(spec: ActionSpec, *shape: int) -> Tensor:
    """A random action mask (*shape, width) with at least one legal option per choice."""
    parts = []
    for size in spec.nvec or (spec.dim,):
        part = torch.rand(*shape, size) < 0.5
        if spec.kind == "discrete":
            part.scatter_(-1, torch.randint(size, (*shape, 1)), True)
        parts.append(part)
    return torch.cat(parts, dim=-1)


def team_obs(observations: Tensor, action_mask: Tensor | None = None, alive: Tensor | None = None) -> dict[str, Tensor]:
    """A joint observation; (B, n, o), (B, n, width), (B, n)."""
    arrays = {"observations": observations, "action_mask": action_mask, "alive": alive}
    return {key: array for key, array in arrays.items() if array is not None}


@dataclass
class Case:
    network: SequencePolicy
    obs: dict[str, Tensor]

    @property
    def teams(self) -> tuple[int, int]:
        """Numbers of teams and agents (B, n)."""
        return self.obs["observations"].shape[:2]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """A network in float64 and joint observations for it."""
    torch.manual_seed(draw(st.integers(0, 2**31)))
    n_head = draw(st.sampled_from([1, 2, 3]))
    batch_size, n = draw(st.integers(1, 4)), draw(st.integers(1, 12))
    encoder_mixer, decoder_mixer = (draw(st.sampled_from(sorted(MIXERS))) for _ in range(2))
    # The norm of retention splits each head into n_head groups.
    size = draw(st.integers(2, 5)) * (n_head if "retention" in (encoder_mixer, decoder_mixer) else 1)
    config = NetworkConfig(
        obs_dim=draw(st.integers(1, 7)),
        action=draw(ACTIONS),
        n_agents=n,
        state_dim=draw(st.sampled_from([0, 3])),
        n_block=draw(st.integers(1, 3)),
        n_head=n_head,
        embed_dim=n_head * size,
        encoder_mixer=encoder_mixer,
        decoder_mixer=decoder_mixer,
        agent_order=draw(st.sampled_from(AGENT_ORDERS)),
    )
    mask = random_mask(config.action, batch_size, n) if draw(st.booleans()) else None
    alive = torch.rand(batch_size, n) < 0.7 if draw(st.booleans()) else None
    obs = team_obs(torch.randn(batch_size, n, config.obs_dim, dtype=torch.float64), mask, alive)
    if config.state_dim:
        obs["state"] = torch.randn(batch_size, config.state_dim, dtype=torch.float64)
    return Case(randomized(SequencePolicy(config).double()), obs)
