"""What is compared after a drill on object storage: what was asked for, what is there, and what is stored."""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

from lix_cache import CacheConfig, HybridConversationCache, StoreAdmin
from lix_cache.archive import decoding
from lix_cache.archive.objects import emptying, layout, segment
from lix_cache.archive.objects.leases import Tokens
from lix_cache.archive.objects.tier import ObjectTier

__all__ = ["compared", "hurried"]


def hurried(tier: Any) -> ObjectTier:
    """Let leases end, snapshots come and collections remove within seconds."""
    assert isinstance(tier, ObjectTier)
    tier._tokens = Tokens(2.0)
    tier._grace, tier._every = 20.0, 24
    # Else all segments here are small, and no other reason would empty one.
    emptying.SMALL_BYTES = 400
    return tier


def compared(config: CacheConfig, folder: Path) -> tuple[list[str], Counter[str]]:
    """Compare what all processes noted with what is there and what is stored."""
    wrong: list[str] = []
    seen: Counter[str] = Counter()
    known: set[str] = set()
    there: dict[str, list[str]] = {}
    for path in sorted(folder.glob("writer-*.log")):
        lines = [json.loads(line) for line in path.read_bytes().splitlines()]
        found, moved = histories(config, lines)
        bad, counted, may = wrong_in(lines, found)
        wrong += moved + bad
        seen += counted
        seen["failed calls"] += sum(line[0] == "failed" for line in lines)
        known |= may
        there |= found
    for path in sorted(folder.glob("compactor-*.log")):
        for compacted, failed in map(json.loads, path.read_bytes().splitlines()):
            seen["compacted"] += compacted
            wrong += [f"{session}: {why}" for session, why in failed.items()]
    tier = let_go(config)
    for session, texts in there.items():
        if [turn.body["content"] for turn in tier.turns(session)] != texts:
            wrong.append(f"{session}: another history once it was compacted")
    stored = stored_texts(tier)
    seen["stored"] = len(stored)
    wrong += [f"{one} was deleted and is stored" for one in stored if one not in known]
    checks = list(StoreAdmin(config).verify())
    wrong += [f"{one.session_id}: {one.problems}" for one in checks if not one.is_intact]
    traces = [text for path in folder.glob("*-*.err") if "Traceback" in (text := path.read_text())]
    wrong += [text[-1500:] for text in traces]
    seen["there"] = sum(map(len, there.values()))
    if not seen["compacted"]:
        wrong.append("nothing was compacted")
    return wrong, seen


def histories(config: CacheConfig, lines: list[list[Any]]) -> tuple[dict[str, list[str]], list[str]]:
    """Read the sessions of a writer, and move them to the archive; return also what is wrong with them."""
    found, wrong = {}, []
    for session in sorted({line[1] for line in lines}):
        cache = HybridConversationCache(session, config)
        hurried(cache._store.cold)
        first = [message["content"] for message in cache.get_full()]
        cache.flush_to_disk()
        found[session] = [message["content"] for message in cache.get_full()]
        if first != found[session]:
            wrong.append(f"{session}: another history once it is on disk")
    return found, wrong


def let_go(config: CacheConfig) -> ObjectTier:
    """Let pass what it takes until all that was deleted has left the store, and return that."""
    admin = StoreAdmin(config)
    tier = hurried(admin._store.cold)
    # A lease of one that was killed is seen in the first, and over in the second.
    for _ in range(4):
        admin.compact(0)
        tier.collect()
        time.sleep(tier._grace + 2)
    tier.collect()
    return tier


def wrong_in(lines: list[list[Any]], found: dict[str, list[str]]) -> tuple[list[str], Counter[str], set[str]]:
    """Compare what a writer noted with what is there; return also what may be stored."""
    must: dict[str, list[str]] = {}
    may: dict[str, set[str]] = {}
    seen: Counter[str] = Counter()
    for what, session, *rest in lines:
        there, doubtful = must.setdefault(session, []), may.setdefault(session, set())
        if what == "add?":
            doubtful.add(rest[0])
        elif what == "added":
            there.append(rest[0])
            seen["acknowledged"] += 1
        elif what == "delete?":
            doubtful.update(there)
            there.clear()
        elif what == "deleted":
            doubtful.clear()
            seen["deleted"] += 1
        elif what == "pop?":
            # Until it is said which: any of those that may be last.
            doubtful.update(there[-1:])
            del there[-1:]
        elif what == "popped" and rest[0] is not None:
            popped = rest[0]
            there[:] = [one for one in there if one != popped]
            doubtful.discard(popped)
            seen["popped"] += 1
    wrong = []
    for session, messages in must.items():
        have = found.get(session, [])
        wrong += [f"{session}: {one} is lost" for one in messages if one not in have]
        wrong += [f"{session}: {one} is there twice" for one, n in Counter(have).items() if n > 1]
        known = {*messages, *may[session]}
        wrong += [f"{session}: {one} came back" for one in have if one not in known]
        kept = [one for one in have if one in set(messages)]
        if kept != [one for one in messages if one in set(have)]:
            wrong.append(f"{session}: the order is another")
    return wrong, seen, {one for every in (*must.values(), *may.values()) for one in every}


def stored_texts(tier: ObjectTier) -> list[str]:
    """Return the texts of all frames in all segments, whether anything refers to them or not."""
    texts: list[str] = []
    for shard in tier._all_shards():
        for one in list(tier.bucket.names(layout.log_start(shard.number))):
            data = tier.bucket.get(one.name) or b""
            at = segment.parsed(data, 0, one.name).begin
            while at < len(data):
                frame = decoding.frame_at(data, at)
                if frame is None:
                    raise SystemExit(f"{one.name}: no frame at byte {at}")
                turns = decoding.decode(data[at : at + frame.length], frame).turns
                texts += [turn.body["content"] for turn in turns]
                at += frame.length
    return texts
