"""A caching gateway in front of model providers: ``lix-cache serve``. Needs the extra ``gateway``."""
