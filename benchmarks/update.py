"""CPU time of one learner update (forward, loss, backward, clipping, Adam step) on one core.

First table: MAT at batch 800. The reference, with alternating timings, is a network of the same sizes that consists of
torch's `nn.TransformerEncoder` and `nn.TransformerDecoder`, with the same loss and optimiser. The published MAT code
took 80, 155 and 310 ms of CPU time for 8, 16 and 32 agents on the machine of these benchmarks.

Second table: every mixer against MAT, at batch 800 up to 32 agents and with fewer teams beyond, so that the number of
agents in a batch stays constant; and the number of agents from which each mixer is cheaper than MAT.

    python benchmarks/update.py [--repeats 15] [--agents 3 8 16 32]
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from rllib_seqmarl.learners.joint_ppo_loss import joint_ppo_loss
from rllib_seqmarl.mixers import MIXERS
from rllib_seqmarl.policies import ActionSpec, Evaluation, NetworkConfig, SequencePolicy
from rllib_seqmarl.policies.base import TeamObs

BATCH, OBS_DIM, ACTIONS, EMBED_DIM = 800, 64, 16, 64
PUBLISHED_MS = {8: 80, 16: 155, 32: 310}
SIZES = [8, 32, 64, 128, 256, 512, 1024]

Evaluate = Callable[[TeamObs, Tensor], Evaluation]


class TorchTransformer(nn.Module):
    """The reference: a network of the same sizes from torch's own layers."""

    def __init__(self) -> None:
        super().__init__()
        sizes = {"nhead": 1, "dim_feedforward": EMBED_DIM, "dropout": 0.0, "activation": "gelu", "batch_first": True}
        self.obs = nn.Sequential(nn.LayerNorm(OBS_DIM), nn.Linear(OBS_DIM, EMBED_DIM), nn.GELU())
        self.encoder = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(EMBED_DIM, **sizes), 1, enable_nested_tensor=False
        )
        self.action = nn.Sequential(nn.Linear(ACTIONS + 1, EMBED_DIM, bias=False), nn.GELU())
        self.decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(EMBED_DIM, **sizes), 1)
        self.value, self.policy = (
            nn.Sequential(
                nn.Linear(EMBED_DIM, EMBED_DIM), nn.GELU(), nn.LayerNorm(EMBED_DIM), nn.Linear(EMBED_DIM, width)
            )
            for width in (1, ACTIONS)
        )

    def evaluate(self, obs: TeamObs, actions: Tensor) -> Evaluation:
        batch_size, n = actions.shape
        causal = nn.Transformer.generate_square_subsequent_mask(n)
        encoder_output = self.encoder(self.obs(obs["observations"]))  # (B, n, d)
        tokens = torch.zeros(batch_size, n, ACTIONS + 1)
        tokens[:, 0, 0] = 1.0
        tokens[:, 1:, 1:] = nn.functional.one_hot(actions[:, :-1], ACTIONS).float()
        features = self.decoder(
            self.action(tokens), encoder_output, tgt_mask=causal, memory_mask=causal, tgt_is_causal=True
        )
        policy = torch.distributions.Categorical(logits=self.policy(features))
        return Evaluation(policy.log_prob(actions), policy.entropy(), self.value(encoder_output).squeeze(-1), {})


def make_update(network: nn.Module, evaluate: Evaluate, n: int, batch: int = BATCH) -> Callable[[], None]:
    """Return a function that performs one full update of `network` on synthetic experience."""
    generator = torch.Generator().manual_seed(0)
    obs = {"observations": torch.randn(batch, n, OBS_DIM, generator=generator)}
    actions = torch.randint(ACTIONS, (batch, n), generator=generator)
    advantages, returns, old_values = torch.randn(3, batch, n, generator=generator)
    weights = torch.full((batch, n), 1.0 / (batch * n))
    with torch.no_grad():
        old_log_probs = evaluate(obs, actions).log_probs
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-6, eps=1e-5, fused=True)

    def update() -> None:
        log_probs, entropy, values, _ = evaluate(obs, actions)
        loss = joint_ppo_loss(
            log_probs=log_probs,
            old_log_probs=old_log_probs,
            advantages=advantages,
            entropy=entropy,
            values=values,
            old_values=old_values,
            value_targets=returns,
            weights=weights,
            clip_param=0.2,
            vf_clip_param=0.2,
            huber_delta=10.0,
            vf_loss_coeff=1.0,
            entropy_coeff=0.01,
        )
        optimizer.zero_grad(set_to_none=True)
        loss["total"].backward()
        nn.utils.clip_grad_norm_(network.parameters(), 10.0)
        optimizer.step()

    return update


def cpu_ms(update: Callable[[], None]) -> float:
    start = time.process_time()
    update()
    return 1e3 * (time.process_time() - start)


def make_network(mixer: str = "attention") -> SequencePolicy:
    torch.manual_seed(0)
    action = ActionSpec("discrete", (ACTIONS,))
    return SequencePolicy(NetworkConfig(OBS_DIM, action, embed_dim=EMBED_DIM, encoder_mixer=mixer, decoder_mixer=mixer))


def compare_with_torch(agents: list[int], repeats: int) -> None:
    """Print the first table."""
    network, reference = make_network(), TorchTransformer()
    print(f"batch {BATCH}, obs {OBS_DIM}, {ACTIONS} actions, d {EMBED_DIM}, one core; CPU time of an update")
    print(f"{'agents':>6} {'torch layers':>13} {'MAT':>9} {'ratio':>7} {'published':>10}")
    for n in agents:
        ours = make_update(network, network.evaluate, n)
        theirs = make_update(reference, reference.evaluate, n)
        pairs = [(cpu_ms(theirs), cpu_ms(ours)) for _ in range(repeats + 2)][2:]
        their_ms, our_ms = (statistics.median(times) for times in zip(*pairs, strict=True))
        published = f"{PUBLISHED_MS[n]} ms" if n in PUBLISHED_MS else "-"
        print(f"{n:>6} {their_ms:>10.1f} ms {our_ms:>6.1f} ms {their_ms / our_ms:>6.2f}x {published:>10}")


def compare_mixers(repeats: int) -> None:
    """Print the second table."""
    networks = {name: make_network(name) for name in MIXERS}
    print("\nevery mixer in encoder and decoder: ms, and ratio to attention")
    print(f"{'agents':>6} {'batch':>6}" + "".join(f"{name:>17}" for name in networks))
    ratios: dict[str, list[float]] = {name: [] for name in networks}
    for n in SIZES:
        batch = min(BATCH, BATCH * 32 // n)
        updates = {name: make_update(net, net.evaluate, n, batch) for name, net in networks.items()}
        rounds = [{name: cpu_ms(update) for name, update in updates.items()} for _ in range(repeats // 2 + 3)][2:]
        medians = {name: statistics.median(times[name] for times in rounds) for name in networks}
        for name, ms in medians.items():
            ratios[name].append(ms / medians["attention"])
        cells = "".join(f"{ms:9.1f} {ms / medians['attention']:6.2f}x" for ms in medians.values())
        print(f"{n:>6} {batch:>6}{cells}")
    for name, row in ratios.items():
        if name != "attention":
            print(f"{name} is cheaper than attention {crossing(row)}")


def crossing(ratios: list[float]) -> str:
    """Describe from which team size ratios stay below one, with power-law interpolation between measured sizes."""
    above = [i for i, ratio in enumerate(ratios) if ratio >= 1.0]
    if not above:
        return f"from {SIZES[0]} agents at most"
    last = above[-1]
    if last == len(SIZES) - 1:
        return f"nowhere up to {SIZES[-1]} agents"
    high, low = math.log(ratios[last]), math.log(ratios[last + 1])
    return f"from about {SIZES[last] * (SIZES[last + 1] / SIZES[last]) ** (high / (high - low)):.0f} agents"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15, help="alternating updates of each (the median counts)")
    parser.add_argument("--agents", type=int, nargs="+", default=[3, 8, 16, 32])
    args = parser.parse_args()
    torch.set_num_threads(1)
    compare_with_torch(args.agents, args.repeats)
    compare_mixers(args.repeats)


if __name__ == "__main__":
    main()
