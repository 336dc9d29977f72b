"""Measure the phrase code's size beside other codecs, on text it was not trained on.

Every set that the shipped dictionary is trained on is evaluated with a dictionary of its own, trained
on all the others; the remaining sets are evaluated with a dictionary that no evaluated set had a
part in. zstd's dictionary is trained on the same texts. Prints tables; --json names the JSON.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import math
import os
import statistics
import subprocess
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import brotli
import lz4.block
import zstandard
from _codec_data import ROOT, SETS, TRAINED, TextSet, data_folder, messages, read_vocabulary
from _codec_data import training_texts as texts_to_train_on
from _codec_frames import frames, measure_frames
from _run_facts import RunFacts, write_json

import lix_cache.huffman_codec.training as training_module
from lix_cache.huffman_codec import HuffmanCodec, _backend
from lix_cache.huffman_codec._backend import Kernel
from lix_cache.huffman_codec._dictionary import Dictionary
from lix_cache.huffman_codec._registry import default_dictionary
from lix_cache.huffman_codec._v2 import dictionary_number, encode_v2
from lix_cache.huffman_codec.training import train_dictionary

RESULTS = ROOT / "bench-results"
DOCS = ROOT / "docs" / "codec.md"
#: What stands behind it is written by --write-docs.
MARK = "<!-- measured -->\n"
DICTIONARY_BYTES = 110_000
SMALL = 500
SPEED_TEXT = "oasst"
#: What the dictionary number in a stream's head costs when it is not one that ships.
NUMBER_BYTES = 4
HELD_OUT = "HCv2, left out"
SHIPPED_NAME = "HCv2, shipped"
LEVEL_2 = "level 2, left out"
LEVEL_2_SHIPPED = "level 2, shipped"
#: In place of the two above where the texts are frames: all bytes of the frame in an archive.
ARCHIVE = "archive, left out"
ARCHIVE_SHIPPED = "archive, shipped"
NOT_COMPARED = ("raw", "order-0 entropy", SHIPPED_NAME, LEVEL_2_SHIPPED, ARCHIVE_SHIPPED)
FRAMES = "10-turn frames"

Size = Callable[[bytes], float]


@dataclass(frozen=True)
class Sample:
    """The texts of one set that are measured: single messages, small ones, and frames."""

    one: TextSet
    kinds: dict[str, list[bytes]]


def entropy(data: bytes) -> float:
    """Return the order-0 entropy in bytes: what no byte code can beat, without its table."""
    total = len(data)
    return sum(count * math.log2(total / count) for count in Counter(data).values()) / 8


def load(one: TextSet, folder: Path) -> Sample:
    every = messages(one, folder)
    small = [text for text in every if len(text) <= SMALL]
    kinds = {"messages": every, f"messages of at most {SMALL} bytes": small}
    # Queries and pairs are no conversations.
    if one.files[0].startswith(("conv_", "memory_")):
        turns = (turns for _, turns in frames(one, folder))
        kinds[FRAMES] = [json.dumps(ten, ensure_ascii=False).encode() for ten in turns]
    return Sample(one, {kind: texts for kind, texts in kinds.items() if texts})


def dictionaries(one: TextSet, folder: Path, vocabulary: list[bytes]) -> tuple[Path | None, bytes]:
    """Return dictionaries of ours and of zstd that do not know a set; both are kept for the next run.

    A set that the shipped dictionary was not trained on is measured with that one: None. For the others
    ours is trained on all training sets but those of their origin, which takes minutes for each.
    """
    is_known = any(trained.origin == one.origin for trained in TRAINED)
    texts = texts_to_train_on(folder, one.origin if is_known else "")
    digest = hashlib.blake2b(digest_size=8)
    package = Path(training_module.__file__).parent
    for source in sorted([*package.glob("_train*.py"), package / "training.py"]):
        digest.update(source.read_bytes())
    for part in (*vocabulary, *(text for name in sorted(texts) for text in texts[name])):
        digest.update(len(part).to_bytes(4, "little") + part)
    cache = RESULTS / "codec-tables"
    cache.mkdir(parents=True, exist_ok=True)
    path = cache / f"{digest.hexdigest()}.lixt"
    zstd_path = path.with_suffix(".zstd-dictionary")
    if is_known and not path.exists():
        print(f"training without {one.origin} ...", file=sys.stderr, flush=True)
        path.write_bytes(train_dictionary(texts, id="left-out", vocabulary=vocabulary))
    if not zstd_path.exists():
        samples: list[bytes | bytearray | memoryview] = [
            text for name in sorted(texts) for text in texts[name]
        ]
        zstd_path.write_bytes(zstandard.train_dictionary(DICTIONARY_BYTES, samples, level=19).as_bytes())
    return path if is_known else None, zstd_path.read_bytes()


def as_shipped(data: bytes, table: Dictionary, level: int) -> bytes:
    """Return a stream as long as it would be if the dictionary shipped."""
    stream = encode_v2(data, table, level=level)
    return stream[:-NUMBER_BYTES] if dictionary_number(stream) else stream


def stream_size(table: Dictionary, level: int) -> Size:
    return lambda data: len(as_shipped(data, table, level))


def codecs(table: Dictionary, dictionary: bytes, *, ours: bool) -> dict[str, Size]:
    """Return what is compared.

    Our sizes are of everything; those of zstd's dictionary and lz4 lack the raw length.
    """
    zstd3 = zstandard.ZstdCompressor(level=3)
    zstd19 = zstandard.ZstdCompressor(
        level=19,
        dict_data=zstandard.ZstdCompressionDict(dictionary),
        write_dict_id=False,
    )
    compared: dict[str, Size] = {
        "raw": len,
        "order-0 entropy": entropy,
        "zlib 6": lambda data: len(zlib.compress(data, 6)),
        "zstd 3": lambda data: len(zstd3.compress(data)),
        "zstd 19 + dictionary": lambda data: len(zstd19.compress(data)),
        "brotli 11": lambda data: len(brotli.compress(data, quality=11)),
        "lz4": lambda data: len(lz4.block.compress(data, store_size=False)),
        "HCv1": lambda data: len(HuffmanCodec.encode(data, format=1)),
    }
    if not ours:
        return compared
    shipped = default_dictionary()
    assert shipped is not None
    return {
        **compared,
        HELD_OUT: stream_size(table, level=1),
        LEVEL_2: stream_size(table, level=2),
        SHIPPED_NAME: stream_size(shipped, level=1),
        LEVEL_2_SHIPPED: stream_size(shipped, level=2),
    }


def measure(sample: Sample, folder: Path, vocabulary: list[bytes]) -> dict[str, Any]:
    path, dictionary = dictionaries(sample.one, folder, vocabulary)
    table = default_dictionary() if path is None else Dictionary.load(path)
    assert table is not None
    found: dict[str, Any] = {}
    for kind, texts in sample.kinds.items():
        compared = codecs(table, dictionary, ours=kind != FRAMES)
        sizes = {name: round(sum(map(size, texts))) for name, size in compared.items()}
        if kind == FRAMES:
            for name, used in ((ARCHIVE, path), (ARCHIVE_SHIPPED, None)):
                sizes[name] = measure_frames(sample.one, folder, used)["archive"]
        found[kind] = {"texts": len(texts), "bytes": sizes}
    return found


# -- speed ---------------------------------------------------------------------------------


def rate(work: Callable[[], object], size: int, seconds: float = 0.4) -> float:
    """Return the median MB/s of several runs, by this thread's time on a processor.

    Time that others have the processor for does not count; what they do to its caches does.
    """
    begin = time.perf_counter()
    work()
    # Asking for the time takes half a microsecond.
    calls = max(1, round(50e-6 / (time.perf_counter() - begin)))
    taken: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(taken) < 5:
        begin = time.thread_time()
        for _ in range(calls):
            work()
        taken.append((time.thread_time() - begin) / calls)
    return size / statistics.median(taken) / 1e6


@contextmanager
def kernel_in_use(kernel: Kernel) -> Iterator[None]:
    before = _backend.kernel
    _backend.kernel = kernel
    try:
        yield
    finally:
        _backend.kernel = before


FIRST_USE = """
import time
from lix_cache.huffman_codec import HuffmanCodec, _backend
begin = time.process_time()
HuffmanCodec.encode(b"The first message of a process.")
print(_backend.kernel.name, 1e3 * (time.process_time() - begin))
"""


def first_use() -> dict[str, float]:
    """Return what the first message of a process takes, in ms by kernel: the dictionary is loaded for it."""
    found: dict[str, float] = {}
    for pure in ("0", "1"):
        environment = {**os.environ, "LIX_CACHE_PURE": pure, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", FIRST_USE]
        runs = [
            subprocess.run(
                command, env=environment, capture_output=True, text=True, check=True
            ).stdout.split()
            for _ in range(11)
        ]
        found[runs[0][0]] = round(statistics.median(float(ms) for _, ms in runs), 1)
    return found


def only_huffman(data: bytes) -> bytes:
    """Return what zlib makes of the data without looking for repetitions."""
    coder = zlib.compressobj(6, zlib.DEFLATED, -15, 8, zlib.Z_HUFFMAN_ONLY)
    return coder.compress(data) + coder.flush()


def speeds(text: bytes) -> dict[str, Any]:
    """Return MB/s of both directions for texts of three sizes."""
    table = default_dictionary()
    kernel = _backend.kernel
    found: dict[str, Any] = {"kernel": kernel.name}
    for size in (200, 10_000, 100_000):
        data = text[:size]
        rows: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
            "zlib Z_HUFFMAN_ONLY": (
                partial(only_huffman, data),
                partial(zlib.decompress, only_huffman(data), -15),
            ),
            "HCv1": (
                partial(kernel.encode_v1, data),
                partial(kernel.decode_v1, kernel.encode_v1(data)),
            ),
        }
        coded = kernel.encode_bytecode(data, 1 << 30)
        if coded is not None:
            rows["byte code"] = (
                partial(kernel.encode_bytecode, data, 1 << 30),
                partial(kernel.decode_bytecode, coded, len(data)),
            )
        if table is not None:
            bits, _ = kernel.encode_phrases(table, data)
            rows["phrases"] = (
                partial(kernel.encode_phrases, table, data),
                partial(kernel.decode_phrases, table, bits, len(data)),
            )
            for name, level in (("HCv2", 1), ("HCv2 level 2", 2)):
                whole = HuffmanCodec.encode(data, level=level)
                rows[name] = (
                    partial(HuffmanCodec.encode, data, level=level),
                    partial(HuffmanCodec.decode, whole),
                )
        found[str(size)] = {
            name: {"encode MB/s": round(rate(encode, size), 2), "decode MB/s": round(rate(decode, size), 2)}
            for name, (encode, decode) in rows.items()
        }
    return found


# -- report --------------------------------------------------------------------------------


def three_digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def print_speed(speed: list[dict[str, Any]], first: dict[str, float]) -> None:
    print(f"\nMB/s (encode / decode) of text of {SPEED_TEXT}, by the time a processor worked on it:\n")
    print("| kernel | bytes | " + " | ".join(speed[0]["200"]) + " |")
    print("|---|---:|" + "---:|" * len(speed[0]["200"]))
    for run in speed:
        for size, rows in run.items():
            if size == "kernel":
                continue
            cells = [" / ".join(three_digits(value) for value in row.values()) for row in rows.values()]
            print(f"| {run['kernel']} | {int(size):,} | " + " | ".join(cells) + " |")
    print("\nFirst message of a process: " + ", ".join(f"{ms} ms ({name})" for name, ms in first.items()))


def print_sizes(results: dict[str, Any], kind: str) -> None:
    rows = {name: result[kind] for name, result in results.items() if kind in result}
    if not rows:
        return
    names = [name for name in next(iter(rows.values()))["bytes"] if name != "raw"]
    print(f"\n{kind}, share of the raw bytes:\n")
    print("| set | texts | mean bytes | " + " | ".join(names) + " |")
    print("|---|" + "---:|" * (len(names) + 2))
    total: Counter[str] = Counter()
    for name, row in rows.items():
        total.update(row["bytes"])
        print_row(name, row["texts"], row["bytes"], names)
    print_row("all", sum(row["texts"] for row in rows.values()), total, names)


def print_row(name: str, count: int, sizes: dict[str, int], names: Sequence[str]) -> None:
    best = min((key for key in names if key not in NOT_COMPARED), key=lambda key: sizes[key])
    cells = [f"{sizes[key] / sizes['raw']:.3f}" for key in names]
    marked = [f"**{cell}**" if key == best else cell for key, cell in zip(names, cells, strict=True)]
    print(f"| {name} | {count} | {sizes['raw'] / count:.0f} | " + " | ".join(marked) + " |")


def losses(results: dict[str, Any], kind: str) -> list[str]:
    """Return where another codec is as small as ours was with a dictionary that did not know the set."""
    ours = ARCHIVE if kind == FRAMES else HELD_OUT
    others = ("order-0 entropy", "zlib 6", "zstd 3", "zstd 19 + dictionary", "brotli 11", "lz4")
    return [
        f"{kind}, {name}: {other} {sizes[other]:,} bytes, ours {sizes[ours]:,}"
        for name, result in results.items()
        if kind in result
        for sizes in [result[kind]["bytes"]]
        for other in others
        if sizes[other] <= sizes[ours]
    ]


def print_document(document: dict[str, Any], kinds: Sequence[str]) -> None:
    for kind in kinds:
        print_sizes(document["sizes"], kind)
    print("\nNot smaller than all others, with the dictionary that was not trained on the set:\n")
    print("\n".join(f"- {line}" for line in document["not_smallest"]) or "- nowhere")
    if "speed" in document:
        print_speed(document["speed"], document["first_use_ms"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--shared", help="the folder with the evaluation data; default: LIX_CACHE_SHARED, ../shared"
    )
    parser.add_argument("--sets", nargs="*", help="measure these sets only")
    parser.add_argument("--json", type=Path, default=RESULTS / "codec.json", help="the JSON document")
    parser.add_argument("--write-docs", action="store_true", help="put the tables into docs/codec.md")
    parser.add_argument("--no-speed", action="store_true", help="sizes only")
    arguments = parser.parse_args()
    facts = RunFacts("zstandard", "brotli", "lz4")
    folder = data_folder(arguments.shared)
    vocabulary = read_vocabulary()
    chosen = [one for one in SETS if not arguments.sets or one.name in arguments.sets]
    print(f"text: {folder}, each message once; kernel: {_backend.kernel.name}")
    results: dict[str, Any] = {}
    sample = None
    for one in chosen:
        print(f"measuring {one.name} ...", file=sys.stderr, flush=True)
        sample = load(one, folder)
        results[one.name] = measure(sample, folder, vocabulary)
    kinds = list(dict.fromkeys(kind for result in results.values() for kind in result))
    document: dict[str, Any] = {
        "sizes": results,
        "not_smallest": [line for kind in kinds for line in losses(results, kind)],
        "text": {one.name: {"licence": one.licence, "trained": one.trained} for one in chosen},
    }
    if not arguments.no_speed:
        text = b"\n".join(messages(next(one for one in SETS if one.name == SPEED_TEXT), folder))
        document["speed"] = [speeds(text)]
        with kernel_in_use(_backend.PURE):
            document["speed"].append(speeds(text))
        document["first_use_ms"] = first_use()
    tables = io.StringIO()
    with redirect_stdout(tables):
        print_document(document, kinds)
    print(tables.getvalue())
    if arguments.write_docs:
        page = DOCS.read_text(encoding="utf-8").partition(MARK)[0]
        DOCS.write_text(page + MARK + tables.getvalue(), encoding="utf-8")
    write_json(arguments.json, facts, document)


if __name__ == "__main__":
    main()
