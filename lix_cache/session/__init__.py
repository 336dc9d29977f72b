"""Session memory: the hybrid of hot (Redis) and cold (disk)."""
