"""The classes of lix-open-cache that lix_cache keeps: the semantic cache by URL, and the URL embeddings."""
