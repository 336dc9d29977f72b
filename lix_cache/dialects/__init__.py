"""What providers' prompts and responses mean to a cache."""
