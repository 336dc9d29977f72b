"""The semantic query cache and the URL embeddings."""
