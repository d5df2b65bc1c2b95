"""Experiments: files that describe them, sweeps, progress, evaluation, and pictures."""
