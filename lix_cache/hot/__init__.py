"""The hot tier: everything that knows about Redis."""
