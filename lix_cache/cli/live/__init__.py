"""What ``lix-cache top`` shows: gathered, and drawn."""
