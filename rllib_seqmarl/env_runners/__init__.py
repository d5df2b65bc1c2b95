"""Env runners: RLlib's loop with clear errors of environments, and a loop that writes arrays."""
