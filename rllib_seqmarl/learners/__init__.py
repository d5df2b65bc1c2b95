"""How parameters change: the joint PPO update, per-agent GAE, and their pure-tensor mathematics."""
