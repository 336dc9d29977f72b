#!/usr/bin/env python3
"""What one very long session costs, and what a folder of very many.

Each step runs in a process of its own, so that the memory it took is its own.

    scripts/bench_archive.py --messages 1000000 --sessions 200000
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from _run_facts import RunFacts, write_json

from lix_cache import ConversationArchive
from lix_cache.archive import decoding, encoding
from lix_cache.archive import header as header_flow
from lix_cache.messages.turn import MessageId

#: Messages in a frame of the long session before it is compacted: what a busy daemon moves at once.
BATCH = 100
#: Different frames of it.
TEMPLATES = 100


def texts(start: int, count: int) -> list[dict[str, Any]]:
    """Return messages that differ as talk does in length, and are quick to make."""
    return [
        {
            "role": "user" if number % 2 else "assistant",
            "content": f"message {number}: " + "some words about it, " * (number % 7),
            "timestamp": 1_700_000_000.0 + number,
            "metadata": {},
        }
        for number in range(start, start + count)
    ]


def fill(folder: str, messages: int) -> int:
    """Make a long session from a few frames, each many times under ids of its own."""
    archive = ConversationArchive(folder)
    for start in range(0, TEMPLATES * BATCH, BATCH):
        archive.append_turns("long", texts(start, BATCH))
    path = Path(folder) / "long.huff"
    whole = path.read_bytes()
    templates = decoding.scan(whole).frames
    index = templates[-1].index
    with open(path, "ab") as file:
        for number in range(messages // BATCH - TEMPLATES):
            template = templates[number % TEMPLATES]
            first = MessageId(index.last.ms + 1, template.index.first.seq)
            step = template.index.last.ms - template.index.first.ms
            index = replace(
                template.index,
                total=index.total + BATCH,
                updated_ms=first.ms,
                first=first,
                last=MessageId(first.ms + step, template.index.last.seq),
            )
            frame = whole[template.offset : template.end]
            body = frame[8 : len(frame) - 13 - frame[-13]]
            file.write(encoding._seal(body, index))
    return path.stat().st_size


def make_sessions(folder: str, sessions: int) -> int:
    """Make small sessions by writing their files: the library syncs each, which is not the question."""
    ConversationArchive(folder).append_turns("0", texts(0, 4))
    whole = (Path(folder) / "0.huff").read_bytes()
    header = header_flow.parse_header(whole)
    for number in range(1, sessions):
        own = header_flow.encode_header(header_flow.FileHeader(header.created_at, str(number)))
        (Path(folder) / f"{number}.huff").write_bytes(own + whole[header.length :])
    return sessions


def of_one_session(archive: ConversationArchive) -> dict[str, Callable[[], Any]]:
    return {
        "append one": lambda: archive.append_turn("long", {"role": "user", "content": "one more"}),
        "the last 20": lambda: len(archive.load_recent("long", 20)),
        "metadata": lambda: archive.get_metadata("long"),
        "load all": lambda: len(archive.load_all("long") or []),
        "search by text": lambda: len(archive.search_by_text("long", "words about 4711")),
        "verify": lambda: archive.verify("long"),
        "compact": lambda: archive.compact(["long"], idle_seconds=0),
    }


def of_many_sessions(archive: ConversationArchive) -> dict[str, Callable[[], Any]]:
    return {
        "append to one": lambda: archive.append_turn("77", {"role": "user", "content": "one more"}),
        "load one": lambda: len(archive.load_all("77") or []),
        "delete one": lambda: archive.delete_session("78"),
        "list all": lambda: len(archive.list_sessions()),
        "clean up, nothing expired": archive.cleanup_expired,
        "verify all": lambda: sum(1 for _ in archive.verify_all()),
    }


def measured(call: Callable[[], Any]) -> tuple[float, float]:
    """Return the processor seconds that a call took, and the most MB that its process had."""
    receiver, sender = multiprocessing.Pipe(duplex=False)

    def work() -> None:
        start = time.process_time()
        call()
        took = time.process_time() - start
        sender.send((took, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    found: tuple[float, float] = receiver.recv()
    process.join()
    return found


def report(title: str, steps: dict[str, Callable[[], Any]]) -> dict[str, dict[str, float]]:
    found = {}
    print(f"\n{title}\n\n| step | processor seconds | MB at most |\n|---|---|---|")
    for name, call in steps.items():
        seconds, size = measured(call)
        found[name] = {"cpu_ms": 1e3 * seconds, "megabytes": size}
        print(f"| {name} | {seconds:.4f} | {size:.0f} |", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--sessions", type=int, default=200_000)
    parser.add_argument("--folder", help="where to work; a temporary folder by default")
    parser.add_argument("--json", metavar="FILE", help="write the figures here")
    given = parser.parse_args()
    facts = RunFacts()
    found: dict[str, Any] = {"messages": given.messages, "sessions": given.sessions}
    folder = tempfile.mkdtemp(prefix="lix-bench-", dir=given.folder)
    try:
        one, many = os.path.join(folder, "one"), os.path.join(folder, "many")
        size = fill(one, given.messages)
        print(f"{given.messages:,} messages in frames of {BATCH}: {size / 1e6:.1f} MB", flush=True)
        # The codec's table is read once in a process: not part of any step.
        ConversationArchive(one).load_recent("long", 1)
        found["file_bytes"] = size
        found["one"] = report(
            f"A session of {given.messages:,} messages", of_one_session(ConversationArchive(one))
        )
        make_sessions(many, given.sessions)
        found["many"] = report(
            f"A folder of {given.sessions:,} sessions", of_many_sessions(ConversationArchive(many))
        )
    finally:
        shutil.rmtree(folder)
    if given.json:
        write_json(given.json, facts, found)


if __name__ == "__main__":
    main()
