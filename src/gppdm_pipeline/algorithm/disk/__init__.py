"""How states, checkpoints and shards lie on disk. Knows no training."""
