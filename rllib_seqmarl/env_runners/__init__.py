"""Who steps the environments: RLlib's loop with an environment's own errors told, and a loop that writes arrays."""
