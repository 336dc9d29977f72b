"""Cached responses and their bytes. Never pickle."""
