"""Rollouts, which env runners send to learners: arrays over time, environments and agents."""

from rllib_seqmarl.rollouts.rollout import Rollout

__all__ = ["Rollout"]
