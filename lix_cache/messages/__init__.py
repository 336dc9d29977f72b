"""A message, its id, and its bytes in the hot tier."""
