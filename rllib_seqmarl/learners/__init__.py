"""The joint PPO update and per-agent GAE, with their mathematics on plain tensors."""
