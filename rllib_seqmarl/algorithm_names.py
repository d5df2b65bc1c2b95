"""The names of all algorithms, readable without importing Ray or torch."""

ALGORITHM_NAMES = {
    "MAT": "The Multi-Agent Transformer.",
    "MAM": "Multi-Agent Mamba.",
    "MARWKV": "Multi-Agent RWKV.",
    "Sable": "Retention over time and agents.",
    "MAPPO": "Multi-agent PPO with a centralised critic.",
    "IPPO": "Independent PPO.",
    "HAPPO": "Heterogeneous-agent PPO, which updates one agent after another.",
    "MATDec": "The Multi-Agent Transformer with decentralised actors.",
}
"""The package's algorithms, each with a one-line description."""

RLLIB_ALGORITHM_NAMES = ("APPO", "BC", "CQL", "DQN", "DreamerV3", "IMPALA", "IQL", "MARWIL", "PPO", "SAC")
"""RLlib's algorithms."""
