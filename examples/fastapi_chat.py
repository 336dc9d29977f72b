"""A chat service with memory and a cache, with a scripted model: docs/tutorial.md builds it.

pip install 'lix-cache[embedded]' fastapi uvicorn
uvicorn fastapi_chat:app
"""

import re
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from lix_cache import (
    CacheConfig,
    HashingEmbedder,
    HybridConversationCache,
    RedisUnavailable,
    SemanticCache,
    SemanticSettings,
    ensure_redis,
)

settings = CacheConfig.from_env("LIX_CACHE").replace(redis_key_prefix="example-chat")  # this application's
server = ensure_redis(settings)  # your Redis, or a private one
config = server.config(settings)
answers = SemanticCache(
    HashingEmbedder(),  # compares words only; OnnxEmbedder("all-MiniLM-L6-v2") for meaning
    config,
    context={"model": "scripted-1"},  # what else an answer depends on
    settings=SemanticSettings(audit_rate=0),  # by default some hits are checked instead of served
)


@asynccontextmanager
async def lifespan(app):
    yield
    server.stop()  # a private server ends with the last process that uses it


app = FastAPI(lifespan=lifespan)


@app.exception_handler(RedisUnavailable)
def try_again(request, error):
    return JSONResponse({"error": "no memory just now, try again"}, status_code=503)


class Turn(BaseModel):
    text: str


@answers.cached(query_param="messages", ttl_seconds=3600)
def ask_model(messages):
    """A scripted model; put your own in its place."""
    print("  (the model is asked)")
    asked = messages[-1]["content"].lower()
    said = " ".join(one["content"] for one in messages)
    names = re.findall(r"my name is (\w+)", said, re.IGNORECASE)
    if "what is my name" in asked:
        return f"Your name is {names[-1]}." if names else "You have not told me your name."
    if "billing" in asked:
        return "The billing page is in Settings."
    return f"You said: {messages[-1]['content']}"


def plain(messages):
    return [{"role": one["role"], "content": one["content"]} for one in messages]


@app.post("/chat/{user}")
def chat(user: str, turn: Turn):
    memory = HybridConversationCache(user, config)  # cheap: made for each request
    question = {"role": "user", "content": turn.text}
    answer = ask_model([*plain(memory.get_context()), question])
    memory.add_messages([question, {"role": "assistant", "content": answer}])
    return {"answer": answer}


@app.get("/chat/{user}")
def history(user: str):
    return plain(HybridConversationCache(user, config).get_full())


@app.delete("/chat/{user}")
def forget(user: str):
    return {"deleted": HybridConversationCache(user, config).delete_session()}


@app.get("/health")
def health():
    return {
        "sessions": HybridConversationCache("health", config).health_check()["status"],
        "cache": answers.health_check()["status"],
        "hits": answers.get_stats()["hits_by_reason"],  # of this process, since its start
    }
