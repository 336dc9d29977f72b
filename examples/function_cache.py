"""A function that asks a model, cached: equal and similar questions cost one call.

python examples/function_cache.py
"""

from lix_cache import (
    CacheConfig,
    CachePolicy,
    HashingEmbedder,
    Prices,
    SemanticCache,
    SemanticSettings,
    ensure_redis,
)

settings = CacheConfig.from_env("LIX_CACHE")
config = ensure_redis(settings).config(settings)  # your Redis, or a private one
cache = SemanticCache(
    HashingEmbedder(),  # compares words only; OnnxEmbedder("all-MiniLM-L6-v2") for meaning
    config,
    context={"example": "function cache"},
    policy=CachePolicy(time_sensitive_seconds=30),  # answers about "now" live for half a minute
    settings=SemanticSettings(audit_rate=0, prices=Prices(prompt=0.15, completion=0.60)),
)
cache.invalidate(context={})  # an earlier run may have been stopped


@cache.cached(ignore=["trace_id"], ttl_seconds=3600)
def ask(prompt, model="small", trace_id=None):
    print(f"  (the {model} model is asked)")
    return f"The {model} model says: it is in the settings."


for prompt, more in (
    ("Where is the billing page?", {}),
    ("where is the billing page please", {}),
    ("Where is the billing page?", {"trace_id": 7}),
    ("Where is the billing page?", {"model": "large"}),
    ("How do I change my password?", {}),
):
    print(prompt, more or "", "->", ask(prompt, **more))

stats = cache.get_stats()
print("hits:", stats["hits_by_reason"], "misses:", stats["misses_by_reason"])
print("saved:", stats["saved"])
assert sum(stats["hits_by_reason"].values()) >= 2
cache.invalidate(context={})
