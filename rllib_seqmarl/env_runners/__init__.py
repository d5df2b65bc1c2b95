"""Env runners: RLlib's loop with clear environment errors, and a loop that writes arrays."""
