"""Decoding cost: cached versus recomputed state, and scaling with the number of agents for every mixer.

First table: MAT's decoder with cached state against one that recomputes the sequence for every agent. Both run in this
process, on one core, with the same weights, and must choose the same actions; timings alternate, and the best of
several is kept to reduce noise.

Second table: the time of a joint decision and the bytes of decoding state per team, for 4 to 1024 agents and every
mixer, with the exponent of n fitted to the times from 64 agents on. Figure: benchmarks/results/decode.png.

    python benchmarks/decode.py [--repeats 5]
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from rllib_seqmarl.mixers import MIXERS
from rllib_seqmarl.mixers.attention import Attention
from rllib_seqmarl.networks.decoding import fast_decoder
from rllib_seqmarl.networks.decoding.blocks import CompositeStep
from rllib_seqmarl.networks.decoding.step import CompiledStep
from rllib_seqmarl.policies import ActionSpec, NetworkConfig, SequencePolicy

ENVS, OBS_DIM, ACTIONS, EMBED_DIM = 32, 64, 16, 64
TARGETS = {8: 5.0, 64: 22.0, 128: 45.0}  # team size -> least speed-up
SIZES = [2**i for i in range(2, 11)]
FIGURE = Path(__file__).parent / "results" / "decode.png"


def make_network(mixer: str = "attention") -> SequencePolicy:
    """Create a network with perturbed weights; with initial weights, all actions are nearly equally probable."""
    torch.manual_seed(0)
    action = ActionSpec("discrete", (ACTIONS,))
    network = SequencePolicy(
        NetworkConfig(OBS_DIM, action, embed_dim=EMBED_DIM, encoder_mixer=mixer, decoder_mixer=mixer)
    )
    if mixer == "attention":
        for parameter in network.parameters():
            parameter.data += 0.2 * torch.randn_like(parameter)
    return network


def unfolded(network: SequencePolicy) -> SequencePolicy:
    """Return a copy of a network with separate keys and values, as in standard attention."""
    network = copy.deepcopy(network)
    for module in network.modules():
        if isinstance(module, Attention):
            module.is_folded = False
    return network


@torch.no_grad()
def act_by_recomputing(network: SequencePolicy, obs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Compute ``network.act`` like the published code, which decodes the whole team for each agent."""
    head = network.head
    encoder_output, values = network.encoder(obs)
    actions = torch.zeros(obs.shape[:2], dtype=torch.int64)
    log_probs = torch.zeros(obs.shape[:2])
    for t in range(obs.shape[1]):
        features, _ = network.decoder(head.shifted(actions), encoder_output)  # (B, n, d)
        logits = head.policy(features[:, t])  # (B, width)
        policy = torch.distributions.Categorical(logits=logits)
        actions[:, t] = policy.probs.argmax(-1)
        log_probs[:, t] = policy.log_prob(actions[:, t])
    return actions, log_probs, values


def seconds(function: Callable[[], object], calls: int) -> float:
    """Return the CPU seconds of one call."""
    start = time.process_time()
    for _ in range(calls):
        function()
    return (time.process_time() - start) / calls


def compare_with_recomputing(repeats: int) -> None:
    """Print the first table."""
    network = make_network()
    print(f"MAT, {ENVS} envs, obs {OBS_DIM}, {ACTIONS} actions, d {EMBED_DIM}, one core")
    print(f"{'agents':>6} {'recomputed':>12} {'cached':>10} {'ratio':>7} {'target':>7}")
    for n, target in TARGETS.items():
        obs = torch.randn(ENVS, n, OBS_DIM)
        recomputed = partial(act_by_recomputing, unfolded(network), obs)
        cached = partial(network.act, {"observations": obs})
        assert torch.equal(recomputed()[0], cached()[0]), "the two decoders chose different actions"
        pairs = [(seconds(recomputed, max(1, 40 // n)), seconds(cached, max(2, 160 // n))) for _ in range(repeats)]
        slow, fast = (min(times) * 1e3 for times in zip(*pairs, strict=True))
        print(f"{n:>6} {slow:>9.1f} ms {fast:>7.2f} ms {slow / fast:>6.1f}x {target:>6.1f}x")


def array_bytes(value: Any) -> int:
    """Return the bytes of all arrays in a compiled step and its parts."""
    match value:
        case np.ndarray():
            return value.nbytes
        case list() | tuple():
            return sum(array_bytes(part) for part in value)
        case CompiledStep():
            return sum(map(array_bytes, vars(value).values()))
        case CompositeStep():
            return array_bytes(list(value.parts))
    return 0


@torch.inference_mode()
def state_bytes(network: SequencePolicy, n: int) -> int:
    """Return the bytes of decoding state per team of n agents: those of two teams minus those of one."""

    def started(teams: int) -> int:
        decoder = fast_decoder(network.decoder, network.head, "numba")
        assert decoder is not None
        decoder.decoder.start(teams, n)
        return array_bytes(decoder.decoder)

    return started(2) - started(1)


def compare_mixers(repeats: int) -> None:
    """Print the second table and draw the figure."""
    networks = {name: make_network(name) for name in MIXERS}
    times: dict[str, list[float]] = {name: [] for name in networks}
    for n in SIZES:
        obs = {"observations": torch.randn(ENVS, n, OBS_DIM)}
        runs: dict[str, list[float]] = {name: [] for name in networks}
        for repeat in range(repeats + 1):
            for name, network in networks.items():
                elapsed = seconds(partial(network.act, obs), max(1, 64 // n))
                if repeat:  # the first run is a warm-up
                    runs[name].append(elapsed * 1e3)
        for name, measured in runs.items():
            times[name].append(min(measured))
    sizes = {name: [state_bytes(network, n) for n in SIZES] for name, network in networks.items()}

    print(f"\n{ENVS} teams, d {EMBED_DIM}, one core: ms of a joint decision, and bytes of state per team")
    print(f"{'agents':>9}" + "".join(f"{n:>9}" for n in SIZES) + f"{'exponent':>10} {'1024/256':>9}")
    for name, row in times.items():
        tail = [(n, value) for n, value in zip(SIZES, row, strict=True) if n >= 64]
        exponent = np.polyfit(*np.log(np.array(tail)).T, 1)[0]
        ratio = row[SIZES.index(1024)] / row[SIZES.index(256)]
        print(f"{name:>9}" + "".join(f"{value:9.2f}" for value in row) + f"{exponent:10.2f} {ratio:8.2f}x")
    for name, row in sizes.items():
        print(f"{name:>9}" + "".join(f"{value:9,}" for value in row))
    for name, row in times.items():
        if name != "attention":
            print(f"attention decides faster than {name} {crossing(times['attention'], row)}")
    plot(times, sizes)


def crossing(attention: list[float], other: list[float]) -> str:
    """Describe up to which team size attention is faster, with power-law interpolation between measured sizes."""
    ahead = [a < b for a, b in zip(attention, other, strict=True)]
    if not any(ahead):
        return "nowhere"
    last = max(i for i, is_ahead in enumerate(ahead) if is_ahead)
    if last == len(SIZES) - 1:
        return f"up to {SIZES[-1]} agents at least"
    gaps = [math.log(a / b) for a, b in zip(attention[last : last + 2], other[last : last + 2], strict=True)]
    return f"up to about {SIZES[last] * 2 ** (gaps[0] / (gaps[0] - gaps[1])):.0f} agents"


def plot(times: dict[str, list[float]], sizes: dict[str, list[int]]) -> None:
    """Draw times and sizes over the number of agents, on logarithmic axes."""
    figure = Figure(figsize=(10.0, 4.2), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    panels = (("a joint decision, 32 teams, one core (ms)", times), ("decoding state per team (bytes)", sizes))
    for column, (title, rows) in enumerate(panels):
        axes = figure.add_subplot(1, 2, column + 1)
        for name, row in rows.items():
            axes.plot(SIZES, row, marker="o", markersize=3.5, linewidth=1.6, label=name)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(SIZES, [str(n) for n in SIZES])
        axes.set_title(title, loc="left", fontsize=11)
        axes.set_xlabel("agents")
        axes.grid(color="#e6e6e6", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=9)
    figure.savefig(FIGURE)


def main() -> None:
    """Print both tables and draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="timings per contestant (the best is kept)")
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    compare_with_recomputing(repeats)
    compare_mixers(repeats)


if __name__ == "__main__":
    main()
