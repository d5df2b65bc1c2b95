"""What sampling gives and learning takes: arrays over time, environments and agents."""

from rllib_seqmarl.rollouts.rollout import Rollout

__all__ = ["Rollout"]
