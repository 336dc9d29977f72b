"""Conversations on disk, without Redis: written, searched, checked, compacted and exported.

python examples/offline_archive.py
"""

import json
import tempfile

from lix_cache import ConversationArchive

with tempfile.TemporaryDirectory() as folder:
    archive = ConversationArchive(folder)
    for number in range(50):
        archive.append_turns(
            "support-1",
            [
                {"role": "user", "content": f"Question {number}: where is parcel {1000 + number}?"},
                {"role": "assistant", "content": f"Parcel {1000 + number} is on its way."},
            ],
        )
    turns = archive.load_all("support-1")
    text = sum(len(turn["content"].encode()) for turn in turns)
    before = archive.get_metadata("support-1")
    archive.compact(["support-1"], idle_seconds=0)  # small frames into one: the same messages in fewer bytes
    after = archive.get_metadata("support-1")

    print(f"{len(turns)} messages, {text} bytes of text")
    print(f"on disk {before['size_bytes']} bytes, compacted {after['size_bytes']}")
    print("the last:", archive.load_recent("support-1", 1)[0]["content"])
    [found] = archive.search_by_text("support-1", "parcel 1007", top_k=1)
    print("found:   ", found["content"])
    assert archive.verify("support-1").is_intact
    assert archive.load_all("support-1") == turns
    print("as JSON: ", json.dumps(turns[0]))
