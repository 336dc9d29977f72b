"""Memory for RAG: what a user said long ago is found again, and put before the next question.

python examples/rag_memory.py
"""

from lix_cache import CacheConfig, HashingEmbedder, HybridConversationCache, ensure_redis

FACTS = [
    "My order number is 4711.",
    "I live in Lisbon, near the river.",
    "The blue jacket was too small.",
    "Please write to my work address.",
]

settings = CacheConfig.from_env("LIX_CACHE").replace(redis_key_prefix="example-rag")
config = ensure_redis(settings).config(settings)  # your Redis, or a private one
embedder = HashingEmbedder()  # compares words only; OnnxEmbedder("all-MiniLM-L6-v2") for meaning
memory = HybridConversationCache("example-rag", config, hot_window_size=4)
memory.delete_session()  # an earlier run may have been stopped

for fact in FACTS:
    [vector] = embedder.embed([fact])
    memory.add_message("user", fact, embedding=vector)
    memory.add_message("assistant", "Noted.")
memory.flush_to_disk()  # as the evictor does when the session is idle; nothing changes for readers

question = "What was my order number?"
[vector] = embedder.embed([question])
found = memory.smart_context(question, query_embedding=vector, recent_k=2, disk_k=1)
print("the newest: ", [one["content"] for one in found["recent"]])
print("remembered:", [one["content"] for one in found["relevant"]])
print(len(memory.get_full()), "messages in all, each once")
assert found["relevant"][0]["content"] == FACTS[0]
memory.delete_session()
