"""How much faster decoding with cached state is than decoding that recomputes the sequence for every agent.

Both decoders run in this process, on one core, with the same weights, and must choose the same actions;
timings alternate and the best of several is kept, so that a busy machine harms neither side.

    python benchmarks/decode.py [--repeats 5]
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from rllib_seqmarl.mixers.attention import Attention
from rllib_seqmarl.networks import ActionSpec, JointPolicyNetwork, NetworkConfig

ENVS, OBS_DIM, ACTIONS, EMBED_DIM = 32, 64, 16, 64
TARGETS = {8: 3.5, 64: 14.0, 128: 30.0}  # team size -> least speed-up


def unfolded(network: JointPolicyNetwork) -> JointPolicyNetwork:
    """The same network with separate keys and values, as attention is usually written."""
    network = copy.deepcopy(network)
    for module in network.modules():
        if isinstance(module, Attention):
            module.is_folded = False
    return network


@torch.no_grad()
def act_by_recomputing(network: JointPolicyNetwork, obs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What ``network.act`` returns, decoded as by the published code: for each agent over the whole team."""
    head = network.head
    rep, values = network.encoder(obs)
    actions = torch.zeros(obs.shape[:2], dtype=torch.int64)
    log_probs = torch.zeros(obs.shape[:2])
    for t in range(obs.shape[1]):
        logits = head.policy(network.decoder(head.shifted(actions), rep))[:, t]  # (B, width)
        policy = torch.distributions.Categorical(logits=logits)
        actions[:, t] = policy.probs.argmax(-1)
        log_probs[:, t] = policy.log_prob(actions[:, t])
    return actions, log_probs, values


def seconds(function: Callable[[], object], calls: int) -> float:
    """CPU seconds of one call."""
    start = time.process_time()
    for _ in range(calls):
        function()
    return (time.process_time() - start) / calls


def main() -> None:
    """Print a line per team size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="timings per decoder, of which the best is kept")
    repeats = parser.parse_args().repeats

    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = JointPolicyNetwork(NetworkConfig(OBS_DIM, ActionSpec("discrete", (ACTIONS,)), embed_dim=EMBED_DIM))
    for parameter in network.parameters():  # initial weights leave all actions nearly equal
        parameter.data += 0.2 * torch.randn_like(parameter)

    print(f"{ENVS} envs, obs {OBS_DIM}, {ACTIONS} actions, d {EMBED_DIM}, one core")
    print(f"{'agents':>6} {'recomputed':>12} {'cached':>10} {'ratio':>7} {'target':>7}")
    for n, target in TARGETS.items():
        obs = torch.randn(ENVS, n, OBS_DIM)
        recomputed, cached = partial(act_by_recomputing, unfolded(network), obs), partial(network.act, obs)
        assert torch.equal(recomputed()[0], cached()[0]), "the two decoders chose different actions"
        pairs = [(seconds(recomputed, max(1, 40 // n)), seconds(cached, max(2, 160 // n))) for _ in range(repeats)]
        slow, fast = (min(times) * 1e3 for times in zip(*pairs, strict=True))
        print(f"{n:>6} {slow:>9.1f} ms {fast:>7.2f} ms {slow / fast:>6.1f}x {target:>6.1f}x")


if __name__ == "__main__":
    main()
