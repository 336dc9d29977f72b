#!/usr/bin/env python3
"""What the package this one replaces does with the same work, and what its paper's figures measure.

    python scripts/against_original.py --json original.json

Counts, bytes and shares alone: nothing here is a time. The original is lix-open-cache 0.1.0 from PyPI, whose
defaults (prefix, port) ours keeps. In 2.1.6 its codec, archive and semantic cache are the same files, byte
for byte. Needs the evaluation data and the model (LIX_CACHE_SHARED, or ../shared).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import redis
from _bench_report import Report
from _bench_support import OldPackage, Server, find_old_package, load_texts
from _run_facts import RunFacts, write_json
from generated_answers import Data

import lix_cache.huffman_codec
from lix_cache import (
    ConversationArchive,
    HuffmanCodec,
    HybridConversationCache,
    SemanticCache,
    SemanticCacheRedis,
    SemanticSettings,
)
from lix_cache.evaluation.binomial import clopper_pearson
from lix_cache.matching.reasons import Reason

#: What a demonstration of a codec is easily made of: one exchange, over and over.
SYNTHETIC = "User: What is the weather in Tokyo today? Assistant: The weather in Tokyo is sunny today. " * 100
MESSAGES = 40
#: The original's default threshold and entries for each URL, and others that answer more.
DEFAULT = (0.90, 50)
OPERATING_POINTS = (DEFAULT, (0.90, 10_000), (0.85, 10_000), (0.80, 10_000))
URL = "https://bank.example/help"


class RoundTrips:
    """Counts what clients of redis-py send: a command, or a pipeline as a whole, is one trip."""

    def __init__(self) -> None:
        self.count = 0

    def of(self, action: Callable[[], object]) -> int:
        before = self.count
        action()
        return self.count - before

    @contextmanager
    def counting(self) -> Iterator[RoundTrips]:
        kind: Any = redis.connection.AbstractConnection
        plain = kind.send_packed_command

        def counted(connection: Any, *given: Any, **named: Any) -> Any:
            self.count += 1
            return plain(connection, *given, **named)

        kind.send_packed_command = counted
        try:
            yield self
        finally:
            kind.send_packed_command = plain


class Keyspace:
    """What the server itself calls hits: keys that a command found."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._before = self._now()

    def _now(self) -> Counter[str]:
        stats: Any = self._client.info("stats")
        return Counter({name: int(stats[name]) for name in ("keyspace_hits", "keyspace_misses")})

    def ratio(self) -> float:
        """Return hits among all looks at keys since the beginning."""
        now = self._now()
        now.subtract(self._before)
        return now["keyspace_hits"] / max(1, now.total())


def hit_ratios(old: OldPackage, server: Server, folder: str) -> dict[str, Any]:
    """Play one stream of questions through both caches: answers given, wrong ones, and keyspace hits."""
    data = Data()
    records = data.records("answers_banking/answers.jsonl")
    random.Random(0).shuffle(records)
    vectors = data.embed([record["text"] for record in records])
    found: dict[str, Any] = {"questions": len(records)}
    ours = SemanticCache(
        data.embedder,
        server.config("tcp", archive_dir=folder),
        context={"stream": 0},
        settings=SemanticSettings(ttl_seconds=3600, audit_rate=0),
    )
    intents = {record["reply"]: record["intent"] for record in records}

    def theirs(threshold: float, entries: int) -> Callable[[str, Any, str], str | None]:
        cache = old.module.SemanticCacheRedis(
            f"stream-{threshold}-{entries}",
            old.config(folder),
            ttl_seconds=3600,
            similarity_threshold=threshold,
            max_items_per_url=entries,
        )

        def ask(_text: str, vector: Any, reply: str) -> str | None:
            answer = cache.get(URL, vector)
            if answer is None:
                cache.set(URL, vector, {"text": reply})
            return None if answer is None else str(answer["text"])

        return ask

    def ask_ours(text: str, _vector: Any, reply: str) -> str | None:
        result = ours.lookup(text)
        if not result:
            ours.store(text, reply)
            ours.settle()
        return str(result.response) if result else None

    def played(ask: Callable[[str, Any, str], str | None]) -> dict[str, Any]:
        keys = Keyspace(server.admin)
        answers = [
            (ask(record["text"], vector, record["reply"]), record["intent"])
            for record, vector in zip(records, vectors, strict=True)
        ]
        hits = sum(answer is not None for answer, _ in answers)
        wrong = sum(answer is not None and intents[answer] != intent for answer, intent in answers)
        low, high = clopper_pearson(wrong, hits) if hits else (0.0, 1.0)
        return {
            "hits": hits,
            "wrong": wrong,
            "answered": hits / len(records),
            "false_hit_rate": wrong / max(1, hits),
            "low": low,
            "high": high,
            "keyspace_hits": keys.ratio(),
        }

    points = [
        {"threshold": threshold, "entries": entries, **played(theirs(threshold, entries))}
        for threshold, entries in OPERATING_POINTS
    ]
    found["original"], found["original_points"] = points[0], points[1:]
    found["lix_cache"] = played(ask_ours)
    found["chat"] = _chat(old, server, folder)
    return found


def _chat(old: OldPackage, server: Server, folder: str) -> dict[str, float]:
    """Read the context after each message of a chat: no answer comes from a cache here."""
    keys = Keyspace(server.admin)
    with old.stepping_clock():
        window = old.module.HybridConversationCache("chat", old.config(folder))
        for number in range(MESSAGES):
            window.add_message("user", f"message {number}")
            window.get_context()
    return {"answered": 0.0, "keyspace_hits": keys.ratio()}


def compression(old: OldPackage) -> dict[str, Any]:
    """Return what is left of texts, as a share of their bytes: a synthetic one, and real messages."""
    texts = [content.encode() for _, content in load_texts(None).messages[:2000]]
    found: dict[str, Any] = {"messages": len(texts), "mean_bytes": sum(map(len, texts)) / len(texts)}
    tables = Path(lix_cache.huffman_codec.__file__).parent / "tables"
    found["dictionary_bytes"] = (tables / "lix-1.lixt").stat().st_size
    codecs: dict[str, Callable[[bytes], bytes]] = {
        "original": old.module.HuffmanCodec.encode,
        "lix_cache": HuffmanCodec.encode,
    }
    for name, encode in codecs.items():
        sizes = [len(encode(text)) for text in texts]
        found[name] = {
            "synthetic": len(encode(SYNTHETIC.encode())) / len(SYNTHETIC),
            "messages": sum(sizes) / sum(map(len, texts)),
            "grown": sum(size > len(text) for size, text in zip(sizes, texts, strict=True)) / len(texts),
        }
    return found


def _survivors(cache: Any) -> int:
    return len({message["content"] for message in cache.get_full()})


def faults(old: OldPackage, server: Server, folder: str) -> dict[str, Any]:
    """Do to both what goes wrong in operation, and count what is left."""
    config = server.config("tcp", "-faults", archive_dir=f"{folder}/new", evictor_enabled=False)
    caches = {
        "original": old.module.HybridConversationCache("burst", old.config(f"{folder}/old")),
        "lix_cache": HybridConversationCache("burst", config),
    }
    found: dict[str, Any] = {"messages": MESSAGES}
    for name, cache in caches.items():
        for number in range(MESSAGES):
            cache.add_message("user", f"message {number}")
        stats = cache.get_stats()
        found[name] = {
            "burst_survivors": _survivors(cache),
            "hot_before_flush": stats["hot_messages"],
            "on_disk_before_flush": stats["disk_turns"],
        }
        cache.flush_to_disk()
        stats = cache.get_stats()
        found[name] |= {"hot_after_flush": stats["hot_messages"], "on_disk_after_flush": stats["disk_turns"]}
    for name, kind in (("original", old.module.ConversationArchive), ("lix_cache", ConversationArchive)):
        place = Path(folder, f"cut-{name}")
        archive = kind(str(place))
        found[name]["left_of_torn_file"] = _torn(archive, place)
        found[name]["escapes"] = _escapes(archive, Path(folder))
    return found


def _torn(archive: Any, place: Path) -> int:
    """Write ten turns in two appends, cut three bytes off the file, append one more; return what is left."""
    for start in (0, 5):
        archive.append_turns("cut", [{"role": "user", "content": f"turn {start + i}"} for i in range(5)])
    (path,) = place.glob("*.huff")
    os.truncate(path, path.stat().st_size - 3)
    archive.append_turn("cut", {"role": "user", "content": "the next"})
    return len(archive.load_all("cut") or [])


def _escapes(archive: Any, folder: Path) -> bool:
    """Tell whether a session id leads out of the archive's folder."""
    before = set(folder.glob("*.huff"))
    archive.append_turn("../evil", {"role": "user", "content": "x"})
    return bool(set(folder.glob("*.huff")) - before)


def round_trips(old: OldPackage, server: Server, folder: str) -> dict[str, Any]:
    """Count what is sent for one operation, once connections and scripts are there."""
    config = server.config("tcp", "-trips", archive_dir=f"{folder}/trips", evictor_enabled=False)
    both: dict[str, tuple[Any, Any]] = {
        "original": (
            old.module.HybridConversationCache("s", old.config(f"{folder}/trips-old")),
            old.module.SemanticCacheRedis("s", old.config(folder)),
        ),
        "lix_cache": (HybridConversationCache("s", config), SemanticCacheRedis("s", config)),
    }
    data = Data()
    near, far = data.embed(["how do I reset my password", "the weather in Tokyo"])
    found: dict[str, Any] = {}
    for name, (memory, semantic) in both.items():
        with old.stepping_clock(), RoundTrips().counting() as trips:
            for number in range(20):
                memory.add_message("user", f"message {number}")
                memory.get_context()
            semantic.set(URL, near, {"answer": "in the settings"})
            semantic.get(URL, near)
            found[name] = {
                "get_context": trips.of(memory.get_context),
                "add_message": trips.of(partial(memory.add_message, "user", "one more")),
                "miss": trips.of(partial(semantic.get, URL, far)),
                "hit": trips.of(partial(semantic.get, URL, near)),
                "set": trips.of(partial(semantic.set, URL, far, {"answer": "sunny"})),
            }
    found["by_meaning"] = _by_meaning(data, server, folder)
    return found


def _by_meaning(data: Data, server: Server, folder: str) -> dict[str, int]:
    """Count for the cache that decides by margin and votes, audits off: the drop-in cache has a threshold."""
    cache = SemanticCache(
        data.embedder,
        server.config("tcp", "-meaning", archive_dir=folder),
        settings=SemanticSettings(ttl_seconds=3600, audit_rate=0),
    )

    def store(text: str) -> None:
        cache.store(text, "in the settings")
        cache.settle()

    cache.lookup("connections and scripts")
    with RoundTrips().counting() as trips:
        store("how do I reset my password")
        found = {
            "miss": trips.of(partial(cache.lookup, "the weather in Tokyo")),
            "exact": trips.of(partial(cache.lookup, "how do I reset my password")),
            "hit": trips.of(partial(cache.lookup, "how do I reset my password?")),
            "set": trips.of(partial(store, "is it sunny in Tokyo")),
        }
    if cache.lookup("how do I reset my password?").reason != Reason.SEMANTIC:
        raise SystemExit("the paraphrase was no hit by meaning: its round trips are not those of one")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", metavar="FILE", help="write the figures here")
    arguments = parser.parse_args()
    facts = RunFacts("lix-open-cache", "onnxruntime")
    with tempfile.TemporaryDirectory(prefix="lix-original-") as folder, Server(None) as server:
        old = find_old_package(server, Report())
        if old is None:
            raise SystemExit("lix-open-cache is not installed: pip install lix-open-cache==0.1.0")
        found = {
            "hit_ratios": hit_ratios(old, server, folder),
            "compression": compression(old),
            "faults": faults(old, server, folder),
            "round_trips": round_trips(old, server, folder),
        }
    print(json.dumps(found, indent=1))
    if arguments.json:
        write_json(arguments.json, facts, found)


if __name__ == "__main__":
    main()
