"""``python -m lix_cache.cli``: the same as ``lix-cache``."""

from lix_cache.cli import main

main()
