"""An HTTP server in front of model providers, which answers from the cache where it may."""
