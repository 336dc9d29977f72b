"""Feed damaged, random and hostile bytes to every decoder, for as long as you like.

    python scripts/fuzz.py --examples 1000000

Each input must end in a result or in the error that is documented for it, within bounded
memory. The inputs follow from ``--seed`` alone, so a failure can be had again; the input that
failed is also written to a file. What the targets and the seeds are is used by
``tests/property/test_archive.py`` as well.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import resource
import struct
import sys
import time
import traceback
import tracemalloc
import zlib
from binascii import crc_hqx
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from lix_cache import CodecError, ConversationArchive, HuffmanCodec, InvalidMessage
from lix_cache.archive import decoding, encoding, header, legacy
from lix_cache.archive import index as index_flow
from lix_cache.archive.codecs import packer
from lix_cache.archive.doubts import Doubts
from lix_cache.archive.names import file_stem
from lix_cache.archive.reading import parse_contents
from lix_cache.archive.verify import verify_bytes
from lix_cache.errors import ArchiveCorrupt
from lix_cache.huffman_codec import _backend
from lix_cache.huffman_codec._native import decode_prefix_v1
from lix_cache.huffman_codec._numbers import read_varint
from lix_cache.huffman_codec._registry import shipped_dictionary
from lix_cache.huffman_codec._v2 import SHORT_CHECK_UPTO
from lix_cache.messages.message import Message, decode_json
from lix_cache.messages.packing import pack_hot, unpack_hot
from lix_cache.messages.turn import MessageId, Turn, from_turn, to_turn
from lix_cache.storage.files import Files, Tail
from lix_cache.storage.locks import FileLock

__all__ = ["LARGEST", "MEMORY_LIMIT", "TARGETS", "Target", "mutated"]

#: Inputs are cut to this many bytes.
LARGEST = 8 * 1024
#: No input of that size may make a decoder take more than this. A byte of a frame can stand for
#: 255 (LZ4), and a turn of three bytes for some 700 bytes of Python objects; what this finds is
#: memory taken because a length said so.
MEMORY_LIMIT = 64 * 1024 * 1024

SESSION = "a session/1"
ID = MessageId(1_700_000_000_000, 3)


# -- what is valid, to begin with ----------------------------------------------------------


def _messages() -> list[Message]:
    return [
        {"role": "user", "content": "What is the weather in Tokyo?", "timestamp": 1.7e9, "metadata": {}},
        {"role": "assistant", "content": "Sunny, 25 °C. " * 8, "timestamp": 1.7e9 + 1, "metadata": {"n": 1}},
        {"role": "tool", "content": [{"type": "text", "text": "天気"}], "timestamp": 5, "metadata": {}},
        {"role": "critic", "content": {"calls": [{"id": "1", "arguments": "{}"}]}, "name": "x"},
        {"content": "", "embedding": [0.25, -1.5, 3.0]},
        {"role": "user", "content": "a lone \ud800", "embedding": [0.1, 1e300], "metadata": None},
        {},
    ]


def _turns(first: int, *, step: int = 7, nonces: bool = False) -> list[Turn]:
    return [
        to_turn(message, MessageId(ID.ms + first + step * i, i % 3), b"nonce%d" % i if nonces else None)
        for i, message in enumerate(_messages())
    ]


@cache
def streams() -> list[bytes]:
    """HCv1 streams, and HCv2 streams of every mode."""
    plain = [HuffmanCodec.encode(text, format=1) for text in raw_texts()]
    return [*plain, *(HuffmanCodec.encode(text, level=2) for text in raw_texts())]


@cache
def old_streams() -> list[bytes]:
    """HCv1 streams alone."""
    return [HuffmanCodec.encode(text, format=1) for text in raw_texts()]


@cache
def raw_texts() -> list[bytes]:
    """What codecs are given: few symbols and many, text, repetitions."""
    deep = b"".join(bytes([i]) * n for i, n in enumerate((1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233)))
    said_twice = (
        b"What is the weather in Tokyo? \xe5\xa4\xa9\xe6\xb0\x97 The weather in Tokyo is fine, what about it?"
    )
    return [b"", b"a", b"ab" * 40, b"the quick brown fox " * 9, bytes(range(256)), deep, said_twice]


@cache
def payloads() -> list[bytes]:
    """What the kernels decode: which of it (a byte), the declared length (two bytes), the bytes."""
    kernel, table = _backend.PURE, shipped_dictionary(0)
    found = []
    for text in raw_texts():
        bodies = (
            kernel.encode_v1(text),
            kernel.encode_bytecode(text, 1 << 40) or b"",
            kernel.encode_phrases(table, text)[0],
            kernel.encode_copies(table, text),
        )
        found += [
            bytes((number,)) + len(text).to_bytes(2, "little") + body for number, body in enumerate(bodies)
        ]
    return found


@cache
def archives() -> list[bytes]:
    """Version 2 files: several frames, every codec, marks, frames out of order, vectors, nonces."""
    found = []
    for name in ("stored", "huffman", "hcv1", "lz4", "zstd", "deflate"):
        codec = packer(name)
        parts = [header.encode_header(header.FileHeader(1.7e9, SESSION))]
        index = index_flow.EMPTY
        for batch in (_turns(0), _turns(500, nonces=True), _turns(100, step=0)[:2], _turns(900)[:1]):
            at = sum(map(len, parts))
            doubts = Doubts(dict.fromkeys((b"nonce1", b"nonce2"), ID), at, index.contested_at)
            frame = encoding.encode_frames(
                batch, index, ID.ms, codec, doubts=doubts if name == "lz4" else None
            )
            index = _index(frame)
            parts.append(frame)
            if len(parts) == 3:
                parts.append(encoding.encode_mark(index, ID.ms + 1, index.newest))
                index = _index(parts[-1])
        found.append(b"".join(parts))
    return found


def _index(frame: bytes) -> index_flow.FrameIndex:
    found = index_flow.index_at_end(frame, len(frame))
    if found is None:
        raise RuntimeError("the encoder wrote a frame without an index entry")
    return found.index


@cache
def bodies() -> list[bytes]:
    """One byte for the length of the index entry, the index entry, the body: a frame without its CRCs."""
    found = []
    for data in archives():
        for frame in decoding.scan(data).frames:
            size = data[frame.end - 13]
            index = data[frame.end - 13 - size : frame.end - 13]
            found.append(bytes((size,)) + index + data[frame.offset + 8 : frame.end - 13 - size])
    return found


@cache
def texts() -> list[bytes]:
    """What version 1 files hold: JSON arrays of turns."""
    plain = json.dumps([message for message in _messages() if "embedding" not in message])
    return [
        json.dumps(_messages(), separators=(",", ":")).encode(),
        plain.encode("utf-8", "surrogatepass"),
        b'[{"timestamp":NaN,"embedding":[1e999]},{"timestamp":-Infinity},5,"x",[[]],{"embedding":[1,2]}]',
        b"[]",
    ]


@cache
def old_archives() -> list[bytes]:
    """Version 1 files."""
    return [
        struct.pack("<4sddI", legacy.MAGIC, 1.7e9, 1.7e9 + 5, text.count(b"},{") + 1)
        + HuffmanCodec.encode(text, format=1)
        for text in texts()
    ]


@cache
def hot_messages() -> list[bytes]:
    """What Redis holds."""
    turns = (*_turns(0), *_turns(0, nonces=True))
    return [pack_hot(turn, coded=coded) for turn in turns for coded in (False, True)]


# -- what each decoder must do with anything -----------------------------------------------


@dataclass(frozen=True)
class Target:
    """A decoder under test.

    Attributes:
        run: raises nothing but ``allowed``; an AssertionError is a result that makes no sense.
        seeds: valid inputs.
        allowed: the errors that are documented.
    """

    run: Callable[[bytes], object]
    seeds: Callable[[], list[bytes]]
    allowed: tuple[type[Exception], ...]

    def __call__(self, data: bytes) -> str:
        """Run it; return ``result`` or the name of the documented error."""
        try:
            self.run(data)
        except self.allowed as error:
            return type(error).__name__
        return "result"


def _check(condition: bool, what: str) -> None:
    if not condition:
        raise AssertionError(what)


def _decode(data: bytes) -> None:
    most = 512 if data[:1] > b"\x7f" else 8
    _check(len(HuffmanCodec.decode(data)) <= most * len(data), "more bytes than its bits can hold")


def _resealed(data: bytes) -> None:
    # Damage behind a check that agrees: what the check keeps from the modes otherwise.
    if not data or not data[0] & 0x80:
        return
    size, _ = read_varint(data, 1)
    number = shipped_dictionary(0).number if data[0] & 3 >= 2 else b""
    if size <= SHORT_CHECK_UPTO:
        _decode(data[:-2] + crc_hqx(number + data[:-2], 0xFFFF).to_bytes(2, "little"))
    else:
        _decode(data[:-4] + zlib.crc32(number + data[:-4]).to_bytes(4, "little"))


def _outcome(kernel: _backend.Kernel, data: bytes) -> bytes | str:
    which, size, body = data[0] % 4, int.from_bytes(data[1:3], "little"), data[3:]
    try:
        if which == 0:
            return kernel.decode_v1(body)
        if which == 1:
            return kernel.decode_bytecode(body, size)
        return (kernel.decode_phrases, kernel.decode_copies)[which - 2](shipped_dictionary(0), body, size)
    except CodecError as error:
        return str(error)


def _kernels_decode(data: bytes) -> None:
    native = _backend.native_kernel()
    if data and native:
        _check(_outcome(native, data) == _outcome(_backend.PURE, data), "the kernels do not decode the same")


def _kernels_encode(data: bytes) -> None:
    native, pure, table = _backend.native_kernel(), _backend.PURE, shipped_dictionary(0)
    copies = pure.encode_copies(table, data)
    _check(pure.decode_copies(table, copies, len(data)) == data, "copies do not come back")
    if native:
        _check(native.encode_v1(data) == pure.encode_v1(data), "HCv1 is not the same")
        coded = pure.encode_bytecode(data, 1 << 40)
        _check(native.encode_bytecode(data, 1 << 40) == coded, "the byte code is not the same")
        _check(native.encode_phrases(table, data) == pure.encode_phrases(table, data), "phrases differ")
        _check(native.encode_copies(table, data) == copies, "copies differ")
        _check(native.count_repeats(data) == pure.count_repeats(data), "repeats differ")


def _prefix(data: bytes) -> None:
    decoded, wanted, problem = decode_prefix_v1(data)
    _check(len(decoded) <= wanted, "more than it declares")
    try:
        whole = HuffmanCodec.decode(data)
    except CodecError:
        return
    _check(not problem and decoded == whole, "the two decoders do not agree")


def _scan(data: bytes) -> None:
    found = decoding.scan(data)
    position = found.header.length if found.header else 0
    pieces = sorted([*((f.offset, f.end) for f in found.frames), *found.damage])
    for start, end in pieces:
        _check(start == position < end, "a scan leaves no gap and no overlap")
        position = end
    _check(position == len(data), "a scan sees everything")
    for frame in found.frames:
        try:
            turns = decoding.decode_frame(data[frame.offset : frame.end], frame)
        except ArchiveCorrupt:
            continue
        _check(len(turns) == frame.index.count, "a frame has as many turns as it says")


def seal(index: bytes, body: bytes) -> bytes:
    """Make a frame of any body and any index entry, with the right lengths and CRCs."""
    front = index_flow.SYNC + struct.pack("<I", 21 + len(body) + len(index)) + body
    middle = index + struct.pack("<BI", len(index), zlib.crc32(front))
    return front + middle + struct.pack("<I", zlib.crc32(middle)) + front[4:8]


def _sealed(data: bytes) -> None:
    size = min(data[0] if data else 0, len(data) - 1) if data else 0
    sealed = seal(data[1 : 1 + size], data[1 + size :])
    frame = decoding.frame_at(sealed, 0)
    if frame is None:
        # The index entry made no sense; then the frame is damage, whatever else is right.
        raise ArchiveCorrupt("no frame")
    turns = decoding.decode_frame(sealed, frame)
    for turn in turns:
        from_turn(turn)
        _check(max(turn.id) < 1 << 64, "an id of more than 64 bits")


def _legacy(data: bytes) -> None:
    found = legacy.parse_legacy(data)
    ids = [turn.id for turn in found.turns]
    _check(ids == sorted(set(ids)), "ids that rise")
    _check(0 <= found.created_at < 1e11 and 0 <= found.updated_at < 1e11, "times that can be")
    # What was read can be written.
    if found.turns:
        encoding.encode_frames(found.turns, index_flow.EMPTY, int(found.updated_at * 1000), packer("stored"))


def _legacy_text(data: bytes) -> None:
    head = struct.pack("<4sddI", legacy.MAGIC, 1.7e9, 1.7e9, 1)
    _legacy(head + HuffmanCodec.encode(data, format=1))


def _verify(data: bytes) -> None:
    report = verify_bytes(data, SESSION)
    try:
        found = parse_contents(data, "name")
    except ArchiveCorrupt:
        _check(not report.is_intact, "verify finds what reading finds")
        raise
    ids = [turn.id for turn in found.turns]
    _check(ids == sorted(set(ids)) or not report.is_intact, "each turn once, in order")
    _check(not found.damaged or not report.is_intact, "verify finds what reading finds")


def _hot(data: bytes) -> None:
    turn = unpack_hot(data, ID)
    try:
        again = pack_hot(turn)
    except InvalidMessage:
        return  # NaN can be read as JSON and is never written
    _check(pack_hot(unpack_hot(again, ID)) == again, "what was read can be written")


def _json(data: bytes) -> None:
    decode_json(data)


NEXT: Message = {"role": "user", "content": "the next turn", "timestamp": 1.8e9, "metadata": {}}


def _file(data: bytes) -> None:
    """Whatever is in a session's file: the next append keeps all that could be read before it."""
    files = MemoryFiles()
    files.contents[f"/folder/{file_stem(SESSION)}.huff"] = data
    archive = ConversationArchive("/folder", files=files)
    before: list[Message] | None
    try:
        before = archive.load_all(SESSION)
    except ArchiveCorrupt:
        before = []
    if before is None:
        # A version 1 file under an encoded name is another session's, and is left alone.
        _check(data[:4] == legacy.MAGIC, "a file that is there is a session")
        return
    archive.append_turn(SESSION, NEXT)
    _check(_same(archive.load_all(SESSION), [*before, NEXT]), "an append keeps what was there")
    _check(_same(archive.load_recent(SESSION, 1), [NEXT]), "the last turn is the last")
    kept = b"".join(files.contents.values())
    _check(len(kept) >= len(data), "damage is set aside, not thrown away")


def _crafted(data: bytes) -> None:
    """Whatever frame a file was given: what is acknowledged after it can be read back."""
    size = min(data[0] if data else 0, len(data) - 1) if data else 0
    files = MemoryFiles()
    path = f"/folder/{file_stem(SESSION)}.huff"
    archive = ConversationArchive("/folder", files=files)
    archive.append_turn(SESSION, {"content": "first"})
    files.contents[path] += seal(data[1 : 1 + size], data[1 + size :])
    expected = archive.load_all(SESSION) or []
    for number in range(3):
        mine: Message = {"content": f"after {number}"}
        archive.append_turn(SESSION, mine)
        expected.append(mine)
        found = archive.load_all(SESSION) or []
        _check(_same(sorted(map(repr, found)), sorted(map(repr, expected))), "an append can be read back")
    context = archive.store.recent(SESSION, 1 << 31, in_context=True)
    texts = [turn.body.get("content") for turn in context]
    _check(texts.count("after 2") == 1, "the newest message is in the context")


def _same(found: object, wanted: object) -> bool:
    # By their text, because NaN is not equal to itself.
    return found == wanted or repr(found) == repr(wanted)


class _NoLock(FileLock):
    def __init__(self) -> None:
        pass

    def __enter__(self) -> _NoLock:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def release(self) -> None:
        pass


class MemoryFiles(Files):
    """Files that are nowhere but in memory: a thousand times faster than a disk, for this purpose."""

    def __init__(self) -> None:
        self.contents: dict[str, bytes] = {}

    def make_folder(self, path: str) -> None:
        pass

    def sync_folder(self, path: str) -> None:
        pass

    def read(self, path: str) -> bytes | None:
        return self.contents.get(path)

    def read_at(self, path: str, offset: int, count: int) -> bytes | None:
        data = self.contents.get(path)
        return None if data is None else data[offset : offset + count]

    def read_tail(self, path: str, count: int) -> Tail | None:
        data = self.contents.get(path)
        return None if data is None else Tail(len(data), data[max(0, len(data) - count) :])

    def append(self, path: str, offset: int, data: bytes) -> None:
        _check(len(self.contents[path]) == offset, "an append is at the end")
        self.contents[path] += data

    def write_synced(self, path: str, data: bytes) -> None:
        self.contents[path] = data

    def truncate(self, path: str, size: int) -> None:
        self.contents[path] = self.contents[path][:size]

    def rename(self, source: str, target: str) -> None:
        self.contents[target] = self.contents.pop(source)

    def remove(self, path: str) -> bool:
        return self.contents.pop(path, None) is not None

    def exists(self, path: str) -> bool:
        return path in self.contents

    def names(self, folder: str, start: str = "", *, folders: bool = False) -> Iterator[str]:  # noqa: ARG002
        begin = f"{folder}/{start}"
        return iter([path[len(folder) + 1 :] for path in self.contents if path.startswith(begin)])

    def try_lock(self, path: str) -> FileLock | None:  # noqa: ARG002 - there is no other process
        return _NoLock()


TARGETS: dict[str, Target] = {
    "codec": Target(_decode, streams, (CodecError,)),
    "codec-sealed": Target(_resealed, streams, (CodecError,)),
    "kernels-decode": Target(_kernels_decode, payloads, ()),
    "kernels-encode": Target(_kernels_encode, raw_texts, ()),
    "prefix": Target(_prefix, old_streams, ()),
    "scan": Target(_scan, archives, (ArchiveCorrupt,)),
    "frame": Target(_sealed, bodies, (ArchiveCorrupt,)),
    "verify": Target(_verify, lambda: [*archives(), *old_archives()], (ArchiveCorrupt,)),
    "file": Target(_file, archives, (ArchiveCorrupt,)),
    "file-sealed": Target(_crafted, bodies, (ArchiveCorrupt,)),
    "legacy": Target(_legacy, old_archives, (ArchiveCorrupt,)),
    "legacy-text": Target(_legacy_text, texts, (ArchiveCorrupt,)),
    "hot": Target(_hot, hot_messages, (InvalidMessage,)),
    "json": Target(_json, texts, (ValueError,)),
}


# -- damage --------------------------------------------------------------------------------

_NUMBERS = [0, 1, 2, 127, 128, 255, 256, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1]
_PIECES = [
    b"\xff" * 9 + b"\x01",
    b"\x80" * 12,
    index_flow.SYNC,
    header.MAGIC,
    legacy.MAGIC,
    b"HCv1",
    b"[" * 300,
    b"NaN",
]


def mutated(rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    """Return an input: mostly a valid one with some damage, sometimes noise."""
    if rng.random() < 0.05:
        return rng.randbytes(rng.choice((rng.randrange(8), rng.randrange(64), rng.randrange(LARGEST))))
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        _damage(rng, data, seeds)
    return bytes(data[:LARGEST])


def _damage(rng: random.Random, data: bytearray, seeds: Sequence[bytes]) -> None:
    at = rng.randrange(len(data) + 1)
    span = at + rng.choice((1, 2, 4, 8, rng.randrange(1, len(data) + 2)))
    kind = rng.randrange(8)
    if kind <= 1 and at < len(data):
        data[at] ^= 1 << rng.randrange(8)
    elif kind == 2 and at < len(data):
        data[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
    elif kind == 3:
        del data[at:span]
    elif kind == 4:
        data[at:at] = data[at:span]
    elif kind == 5:
        width = rng.choice((1, 2, 4, 8))
        data[at : at + width] = (rng.choice(_NUMBERS) % 256**width).to_bytes(width, "little")
    elif kind == 6:
        other = rng.choice(seeds)
        cut = rng.randrange(len(other) + 1)
        data[at:span] = other[cut : cut + span - at]
    else:
        data[at:at] = rng.choice(_PIECES)


# -- the long run --------------------------------------------------------------------------


@dataclass
class Totals:
    """What became of the inputs of one target."""

    outcomes: Counter[str]
    failures: list[str]
    peak: int = 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; return 1 if anything failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--examples", type=int, default=100_000, help="inputs in all (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after so long")
    parser.add_argument("--seed", type=int, default=1, help="where the inputs come from (default: 1)")
    parser.add_argument(
        "--target", action="append", choices=sorted(TARGETS), help="only this one; repeatable"
    )
    parser.add_argument("--memory-every", type=int, default=50, help="measure memory at each n-th input")
    parser.add_argument("--save-to", default="fuzz-failures", help="folder for inputs that failed")
    options = parser.parse_args(arguments)
    names = options.target or list(TARGETS)
    totals = {name: Totals(Counter(), []) for name in names}
    began = time.monotonic()
    for name, done in _progress(names, options.examples // len(names), began + options.seconds):
        rng = random.Random(f"{options.seed}/{name}/{done}")
        for number in range(done, done + _BATCH):
            if number >= options.examples // len(names):
                break
            watched = options.memory_every > 0 and number % options.memory_every == 0
            _one(name, mutated(rng, TARGETS[name].seeds()), totals[name], watched, Path(options.save_to))
    return _summary(totals, options.seed, time.monotonic() - began)


_BATCH = 500


def _one(name: str, data: bytes, totals: Totals, watched: bool, folder: Path) -> None:
    if watched:
        tracemalloc.start()
    try:
        totals.outcomes[TARGETS[name](data)] += 1
        if watched:
            totals.peak = max(totals.peak, tracemalloc.get_traced_memory()[1])
            _check(totals.peak < MEMORY_LIMIT, f"{totals.peak} bytes of memory for {len(data)} of input")
    except Exception as error:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{name}-{hashlib.sha256(data).hexdigest()[:12]}.bin"
        path.write_bytes(data)
        totals.outcomes["FAILED"] += 1
        kind = f"{type(error).__name__}: {str(error)[:80]}"
        if not any(kind in failure for failure in totals.failures):
            traceback.print_exc()
            totals.failures.append(f"{path}: {kind}")
    finally:
        if watched:
            tracemalloc.stop()


def _progress(names: list[str], each: int, deadline: float) -> Iterator[tuple[str, int]]:
    """Yield (target, how many are done), a batch of each target in turn, and show how far it is."""
    batches = [(name, done) for done in range(0, each, _BATCH) for name in names]
    try:
        from rich.progress import track
    except ImportError:
        for i, batch in enumerate(batches):
            if i % max(1, len(batches) // 20) == 0:
                print(f"{100 * i // len(batches)} %", file=sys.stderr)
            yield batch
            if time.monotonic() > deadline:
                return
        return
    from rich.console import Console

    for batch in track(batches, description="fuzzing", console=Console(stderr=True)):
        yield batch
        if time.monotonic() > deadline:
            return


def _summary(totals: dict[str, Totals], seed: int, seconds: float) -> int:
    total = sum(sum(one.outcomes.values()) for one in totals.values())
    print(f"{total} inputs in {seconds:.0f} s, seed {seed}")
    for name, one in totals.items():
        outcomes = ", ".join(f"{kind} {count}" for kind, count in sorted(one.outcomes.items()))
        print(f"  {name:12} {outcomes}; at most {one.peak / 1e6:.1f} MB traced")
    print(f"largest size of the process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")
    failures = [failure for one in totals.values() for failure in one.failures]
    for failure in failures:
        print(f"FAILED {failure}")
    print("failed" if failures else "every input ended in a result or in its documented error")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
