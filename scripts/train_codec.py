"""Train a dictionary for HuffmanCodec.

Without files: the dictionary that ships, from the evaluation data that NOTICE names. With
files: a dictionary of your own. The same input gives the same bytes.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from _codec_data import ROOT, data_folder, read_conversation, read_vocabulary, training_texts

from lix_cache.huffman_codec.training import MAX_PHRASES, train_dictionary

SHIPPED_ID = "lix-1"
SHIPPED = ROOT / "lix_cache" / "huffman_codec" / "tables" / f"{SHIPPED_ID}.lixt"


def read_texts(path: Path) -> list[bytes]:
    """Return the messages of a JSONL file of conversations, or the paragraphs of a text."""
    raw = path.read_bytes()
    if path.suffix != ".jsonl":
        return [part for part in raw.split(b"\n\n") if part.strip()]
    return [
        content.encode()
        for line in raw.decode("utf-8").splitlines()
        if line.strip()
        for _, content in read_conversation(json.loads(line))
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "files", nargs="*", type=Path, help="conversations (.jsonl) or plain text; each is a set"
    )
    parser.add_argument(
        "--output", type=Path, help="the dictionary's file; by default that of the shipped one"
    )
    parser.add_argument("--id", default="", help="the dictionary's name, by default that of its file")
    parser.add_argument("--size", type=int, default=MAX_PHRASES, help="the most phrases")
    parser.add_argument("--shared", help="the folder with the evaluation data")
    arguments = parser.parse_args()
    if arguments.files and not arguments.output:
        parser.error("--output is needed with files")
    output: Path = arguments.output or SHIPPED
    if arguments.files:
        texts = {str(path): read_texts(path) for path in arguments.files}
    else:
        texts = training_texts(data_folder(arguments.shared))
    for name, group in texts.items():
        print(f"{name}: {len(group)} texts, {sum(map(len, group)):,} bytes", file=sys.stderr)
    table = train_dictionary(
        texts,
        id=arguments.id or output.stem,
        size=arguments.size,
        vocabulary=read_vocabulary(),
        progress=lambda what, share: print(f"\r{what}: {share:4.0%}  ", end="", file=sys.stderr, flush=True),
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_bytes(table)
    print(f"\n{output}: {len(table):,} bytes", file=sys.stderr)


if __name__ == "__main__":
    main()
