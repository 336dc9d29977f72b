"""A dictionary for the codec, trained on your own texts, and what it gains on texts that it has not seen.

python examples/codec_training.py
"""

import random
import tempfile
from pathlib import Path

from lix_cache import Dictionary, HuffmanCodec, train_dictionary

random.seed(7)
NAMES = ["parcel", "invoice", "refund", "delivery slot", "return label", "gift card"]
STATES = ["is on its way", "was sent this morning", "waits for your signature", "has been cancelled"]


def message():
    return (
        f"Thank you for writing to Nordwind Outfitters. Your {random.choice(NAMES)} "
        f"NW-{random.randrange(100000):05} {random.choice(STATES)}. Is there anything else?"
    )


texts = [message().encode() for _ in range(400)]
held_out = [message().encode() for _ in range(100)]

with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "nordwind.lixt"
    path.write_bytes(train_dictionary(texts, id="nordwind-1"))
    print("dictionary:", path.stat().st_size, "bytes, id", Dictionary.load(path).id)

    plain = sum(map(len, held_out))
    shipped = sum(len(HuffmanCodec.encode(one)) for one in held_out)
    own = [HuffmanCodec.encode(one, dictionary=path) for one in held_out]
    print(f"{plain} bytes of text: {shipped} with the shipped dictionary, {sum(map(len, own))} with your own")
    assert sum(map(len, own)) < shipped < plain
    assert [HuffmanCodec.decode(one, dictionary=path) for one in own] == held_out
