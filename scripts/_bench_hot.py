"""What storing hot messages as code words costs and saves: one setting beside the other."""

from __future__ import annotations

import gc
import itertools

from _bench_report import Figure, paired, progress
from _bench_storage import fill_idle, text_bytes
from _bench_support import Bench

from lix_cache import HybridConversationCache
from lix_cache.huffman_codec import _backend

SETTINGS = ("stored", "huffman")
SECTION = "Hot codec"


def hot_codec(bench: Bench) -> None:
    """Time add and get_context with hot_codec="huffman" in units of "stored", and weigh both."""
    if _backend.kernel.name != "c":
        bench.report.note('hot_codec="huffman" does nothing without the C extension: not measured.')
        return
    _time(bench)
    _weigh(bench)


def _time(bench: Bench) -> None:
    progress(f"{SECTION}: add and get_context")
    plain, coded = (
        HybridConversationCache("s", bench.quiet_config(f"hot-{name}").replace(hot_codec=name))
        for name in SETTINGS
    )
    messages = itertools.cycle(bench.texts.messages)
    for role, content in itertools.islice(messages, 40):
        plain.add_message(role, content)
        coded.add_message(role, content)
    # Each of a pair adds the same message, and each setting has its own list of them.
    for_plain, for_coded = itertools.tee(messages)
    size = bench.size
    gc.collect()
    found = paired(
        lambda: plain.add_message(*next(for_plain)),
        lambda: coded.add_message(*next(for_coded)),
        size.rounds,
        size.samples,
    )
    bench.report.add_paired(SECTION, "add", "huffman", found, 1.1, unit="x stored")
    found = paired(plain.get_context, coded.get_context, size.rounds, size.samples)
    bench.report.add_paired(SECTION, "get_context, 20 messages", "huffman", found, 1.1, unit="x stored")


def _weigh(bench: Bench) -> None:
    sessions = bench.size.sessions
    text = text_bytes(bench.texts, sessions)
    for name in SETTINGS:
        progress(f"{SECTION}: {sessions:,} sessions, {name}")
        before = bench.server.used_memory()
        fill_idle(bench, bench.quiet_config(f"weighed-{name}").replace(hot_codec=name))
        used = bench.server.used_memory() - before
        detail = {"bytes": used, "text_bytes": text, "sessions": sessions}
        bench.report.add(Figure(SECTION, "in Redis", name, used / text, "x the text", detail=detail))
