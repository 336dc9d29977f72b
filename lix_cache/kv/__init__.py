"""Persistent state of local models: conversations resume without prefill, after a restart too."""
