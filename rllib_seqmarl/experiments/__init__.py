"""Experiments: experiment files, sweeps, progress, evaluation, and figures."""

from rllib_seqmarl.experiments.errors import ExperimentError
from rllib_seqmarl.experiments.tuned import tuned_configs

__all__ = ["ExperimentError", "tuned_configs"]
