"""The joint PPO update, per-agent GAE, and their mathematics on plain tensors."""
