"""``lix-cache demo``: real conversations, replayed in front of you."""
