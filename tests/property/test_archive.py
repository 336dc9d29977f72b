"""An archive is a list that survives everything: arbitrary turns, arbitrary orders, arbitrary bytes."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from lix_cache import ConversationArchive
from lix_cache.archive import decoding, encoding
from lix_cache.archive import index as index_flow
from lix_cache.archive.codecs import packer
from lix_cache.archive.identity import AGAIN
from lix_cache.messages.message import Message, decode_json, encode_json
from lix_cache.messages.packing import pack_hot, unpack_hot
from lix_cache.messages.turn import LARGEST_MS, MessageId, Turn, from_turn, to_turn
from scripts.fuzz import LARGEST, MEMORY_LIMIT, TARGETS, mutated
from tests.support.twins import ManualClock

pytestmark = pytest.mark.promise("no-loss")

EXAMPLES = int(os.environ.get("LIX_CACHE_FUZZ_EXAMPLES", "150"))
several = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])

# -- arbitrary turns -----------------------------------------------------------------------

texts = st.text(st.characters(), max_size=60)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
embeddings = st.lists(
    st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=8
) | st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=8)
usual = st.fixed_dictionaries(
    {
        "role": st.sampled_from(["user", "assistant", "system", "tool", "critic", ""]) | texts,
        "content": texts | values,
        "timestamp": st.floats(0, 2e9) | scalars,
        "metadata": st.just({}) | st.dictionaries(texts, values, max_size=3) | scalars,
    },
    optional={"embedding": embeddings, "name": values},
)
messages = usual | st.dictionaries(texts, values, max_size=5)
ids = st.builds(MessageId, st.integers(0, LARGEST_MS), st.integers(0, 2**64 - 1))


def same(found: Any, expected: Any) -> bool:
    """Equal, and of the same types all the way down: 1, 1.0 and True are three things."""
    if isinstance(expected, dict):
        return (
            isinstance(found, dict)
            and found.keys() == expected.keys()
            and all(same(found[key], value) for key, value in expected.items())
        )
    if isinstance(expected, list):
        return isinstance(found, list) and len(found) == len(expected) and all(map(same, found, expected))
    return type(found) is type(expected) and repr(found) == repr(expected)


def as_stored(message: Message) -> Message:
    """Embeddings come back as floats, as JSON would carry them."""
    turn = to_turn(message, MessageId(1, 0))
    return from_turn(turn)


@several
@given(messages)
def test_a_message_comes_back_from_its_bytes_in_redis(message: Message) -> None:
    for nonce in (None, b"nonce!"):
        turn = to_turn(message, MessageId(1_700_000_000_123, 5), nonce)
        for coded in (False, True):
            back = unpack_hot(pack_hot(turn, coded=coded), turn.id)
            assert same(from_turn(back), as_stored(message))
            assert (back.vector, back.nonce) == (turn.vector, nonce)


@several
@given(values)
def test_any_json_comes_back(value: Any) -> None:
    assert same(decode_json(encode_json(value)), value)
    # And is JSON, to every other reader of it too.
    text = encode_json(value).decode("utf-8", "surrogatepass")
    assert same(json.loads(text), value)


@several
@given(
    st.dictionaries(
        ids, st.tuples(messages, st.none() | st.binary(min_size=6, max_size=6)), min_size=1, max_size=8
    ),
    st.sampled_from(["stored", "huffman", "hcv1", "lz4", "zstd", "deflate"]),
    ids,
)
def test_any_turns_come_back_from_a_frame(
    content: dict[MessageId, tuple[Message, bytes | None]], codec: str, earlier: MessageId
) -> None:
    turns = [to_turn(message, i, nonce) for i, (message, nonce) in sorted(content.items())]
    before = index_flow.FrameIndex(total=3, earlier=earlier)
    data = encoding.encode_frames(turns, before, 1_700_000_000_000, packer(codec))
    frame = decoding.frame_at(data, 0)
    assert frame is not None
    assert index_flow.index_at_end(data[-index_flow.TAIL_BYTES :], len(data)) == frame
    index = frame.index
    assert (index.count, index.total, index.first, index.last) == (
        len(turns),
        3 + len(turns),
        turns[0].id,
        turns[-1].id,
    )
    assert index.in_order == (turns[0].id > earlier)
    assert index.newest == (max(earlier, turns[-1].id) if not index.in_order else turns[-1].id)
    back = decoding.decode_frame(data, frame)
    assert [(t.id, t.nonce, t.vector) for t in back] == [(t.id, t.nonce, t.vector) for t in turns]
    for found, turn in zip(back, turns, strict=True):
        assert same(found.body, turn.body)


# -- an archive is a list ------------------------------------------------------------------


class ListOfTurns(RuleBasedStateMachine):
    """The public surface, over a plain list: any operations, in any order, with any clock."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.mkdtemp(prefix="lix-archive-")
        self.clock = ManualClock()
        self.model: dict[str, list[Message]] = {}
        self.codec = "huffman"
        self.archive = self.opened()

    def opened(self) -> ConversationArchive:
        return ConversationArchive(self.folder, 30, codec=self.codec, clock=self.clock)

    sessions = st.sampled_from(["s", "S", "a/b", "x" * 300])

    @rule(codec=st.sampled_from(["stored", "huffman", "hcv1", "lz4", "zstd", "deflate"]))
    def reopen(self, codec: str) -> None:
        self.codec = codec
        self.archive = self.opened()

    @rule(session=sessions, message=messages)
    def append(self, session: str, message: Message) -> None:
        assert self.archive.append_turn(session, message)
        self.model.setdefault(session, []).append(as_stored(message))

    @rule(session=sessions, batch=st.lists(messages, min_size=1, max_size=5))
    def append_turns(self, session: str, batch: list[Message]) -> None:
        assert self.archive.append_turns(session, batch)
        self.model.setdefault(session, []).extend(map(as_stored, batch))

    @rule(session=sessions, n=st.integers(-1, 12))
    def load_recent(self, session: str, n: int) -> None:
        expected = self.model.get(session, [])[-n:] if n > 0 else []
        assert same(self.archive.load_recent(session, n), expected)

    @rule(session=sessions)
    def delete(self, session: str) -> None:
        assert self.archive.delete_session(session) == (self.model.pop(session, None) is not None)

    @rule(seconds=st.floats(-1e6, 1e6))
    def set_clock(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule(session=sessions, garbage=st.binary(min_size=1, max_size=40))
    def tear(self, session: str, garbage: bytes) -> None:
        """What a crash in the middle of an append leaves behind, which nothing is lost by."""
        if session in self.model:
            from lix_cache.archive.names import file_stem

            with open(Path(self.folder, f"{file_stem(session)}.huff"), "ab") as file:
                file.write(garbage)

    @invariant()
    def everything_is_there_once_and_in_order(self) -> None:
        for session in ("s", "S", "a/b", "x" * 300):
            assert same(self.archive.load_all(session), self.model.get(session)) or (
                self.archive.load_all(session) is None and session not in self.model
            )
            assert self.archive.session_exists(session) == (session in self.model)
        counts = {meta["session_id"]: meta["num_turns"] for meta in self.archive.list_sessions()}
        assert counts == {session: len(turns) for session, turns in self.model.items()}

    def teardown(self) -> None:
        shutil.rmtree(self.folder)


class TurnsWithIds(RuleBasedStateMachine):
    """What the hybrid store does: turns under ids of their own, late, again, cleared and contested."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.mkdtemp(prefix="lix-archive-")
        self.clock = ManualClock()
        self.model: dict[MessageId, Message] = {}
        self.nonces: dict[bytes, MessageId] = {}
        self.cleared = MessageId(0, 0)
        self.serial = 0
        self.store = ConversationArchive(self.folder, clock=self.clock).store

    @initialize()
    def reopen(self) -> None:
        self.store = ConversationArchive(self.folder, clock=self.clock).store

    def body(self) -> Message:
        self.serial += 1
        return {"role": "user", "content": f"turn {self.serial}", "metadata": {}}

    @rule(
        ages=st.lists(st.integers(0, 400_000), max_size=6, unique=True),
        seq=st.integers(0, 3),
        overlap=st.integers(0, 4),
    )
    def spill(self, ages: list[int], seq: int, overlap: int) -> None:
        """Some of these messages are there; those are left out, and stay as they are."""
        now = int(self.clock.now * 1000)
        ids = {MessageId(now - age, seq) for age in ages} - self.model.keys()
        crowded = {i.ms for i in self.model if i.seq >= AGAIN}
        new = [to_turn(self.body(), i) for i in ids if i.ms not in crowded]
        known = sorted(self.model)[len(self.model) - overlap :]
        turns = [*new, *(to_turn(self.model[i], i) for i in known)]
        with self.store.lock("s"):
            assert self.store.append_locked("s", turns) == len(new)
        self.model.update((turn.id, turn.body) for turn in new)

    @precondition(lambda self: self.model)
    @rule(data=st.data(), with_nonce=st.booleans())
    def another_under_an_id_that_is_taken(self, data: st.DataObject, with_nonce: bool) -> None:
        """A server that took over gives an id anew: both messages stay, the later one behind."""
        taken = data.draw(st.sampled_from(sorted(self.model)))
        body = self.body()
        turn = Turn(taken, body, None, b"x%05d" % self.serial if with_nonce else None)
        with self.store.lock("s"):
            assert self.store.append_locked("s", [turn]) == 1
            assert self.store.append_locked("s", [turn]) == 0
            (one,) = [t for t in self.store.turns("s", locked=True) if t.body == body]
        assert one.id.ms == taken.ms
        assert one.id.seq >= AGAIN
        self.model[one.id] = body

    @rule()
    def append_with_a_local_id(self) -> None:
        turn = to_turn(self.body(), MessageId(0, 0))
        with self.store.lock("s"):
            (numbered,) = self.store.number_locked("s", [turn])
            assert self.store.append_locked("s", [numbered]) == 1
        assert numbered.id > max(self.model, default=MessageId(0, 0))
        self.model[numbered.id] = turn.body

    @rule(again=st.booleans())
    def outage_and_its_copy(self, again: bool) -> None:
        """A message kept here because Redis did not answer; its copy may be spilled later."""
        nonce = b"%06d" % self.serial
        turn = to_turn(self.body(), MessageId(0, 0), nonce)
        copy = Turn(MessageId(int(self.clock.now * 1000), self.serial), turn.body, None, nonce)
        with self.store.lock("s"):
            self.store.append_outage_locked("s", [turn], contested=True)
            (kept,) = [t for t in self.store.turns("s", locked=True) if t.nonce == nonce]
            self.model[kept.id] = turn.body
            if again:
                self.clock.advance(1)
                assert self.store.append_locked("s", [copy]) == 0
        assert self.store.pending_sessions() == ["s"]

    @rule()
    def copy_before_the_outage(self) -> None:
        """The other order: what was spilled a moment ago is not kept again under another id."""
        nonce = b"%06d" % self.serial
        copy = to_turn(self.body(), MessageId(int(self.clock.now * 1000), self.serial + 10), nonce)
        if copy.id in self.model or any(i.ms == copy.id.ms and i.seq >= AGAIN for i in self.model):
            return
        with self.store.lock("s"):
            assert self.store.append_locked("s", [copy]) == 1
            self.model[copy.id] = copy.body
            late = Turn(MessageId(copy.id.ms, 2**46 + self.serial), copy.body, None, nonce)
            assert self.store.append_locked("s", [late], contested=True) == 0

    @precondition(lambda self: self.model)
    @rule()
    def clear(self) -> None:
        with self.store.lock("s"):
            self.store.clear_locked("s")
        self.cleared = max(self.cleared, *self.model)

    @rule(seconds=st.floats(-100, 300))
    def set_clock(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule(count=st.integers(1, 30))
    def recent(self, count: int) -> None:
        ordered = sorted(self.model)
        assert [t.id for t in self.store.recent("s", count)] == ordered[-count:]
        context = [i for i in ordered if i > self.cleared][-count:]
        assert [t.id for t in self.store.recent("s", count, in_context=True)] == context

    @invariant()
    def everything_is_there_once_and_in_order(self) -> None:
        turns = self.store.turns("s")
        assert [(turn.id, turn.body) for turn in turns] == sorted(self.model.items())
        index = self.store.last_index("s")
        assert index.total == len(self.model)
        assert index.newest == max(self.model, default=MessageId(0, 0))
        assert index.cleared == self.cleared
        report = ConversationArchive(self.folder).verify("s")
        assert report is None or report.is_intact, report

    def teardown(self) -> None:
        shutil.rmtree(self.folder)


machine_settings = settings(
    max_examples=max(10, EXAMPLES // 5),
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
TestListOfTurns = ListOfTurns.TestCase
TestListOfTurns.settings = machine_settings
TestTurnsWithIds = TurnsWithIds.TestCase
TestTurnsWithIds.settings = machine_settings


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here is about durability."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)


# -- arbitrary bytes -----------------------------------------------------------------------


@st.composite
def damaged(draw: st.DrawFn, name: str) -> bytes:
    """Noise, or something valid with changes that hypothesis can shrink."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=400))
    data = bytearray(draw(st.sampled_from(TARGETS[name].seeds())))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        span = at + draw(st.sampled_from([0, 1, 2, 4, 8, 40]))
        data[at:span] = draw(st.binary(max_size=8))
    return bytes(data)


@pytest.mark.parametrize("name", TARGETS)
def test_a_decoder_ends_in_a_result_or_in_its_documented_error(name: str) -> None:
    @several
    @given(damaged(name))
    def run(data: bytes) -> None:
        TARGETS[name](data)

    run()


@pytest.mark.parametrize("name", TARGETS)
def test_a_decoder_reads_what_is_valid(name: str) -> None:
    outcomes = [TARGETS[name](seed) for seed in TARGETS[name].seeds()]
    assert "result" in outcomes
    if name != "json":  # whose seeds hold text that is no UTF-8 as well
        assert outcomes.count("result") >= len(outcomes) - 1


@pytest.mark.parametrize("name", TARGETS)
def test_a_decoder_takes_bounded_memory(name: str) -> None:
    rng = random.Random(name)
    inputs = [mutated(rng, TARGETS[name].seeds()) for _ in range(max(60, EXAMPLES // 4))]
    assert max(map(len, inputs)) <= LARGEST
    for data in inputs:
        tracemalloc.start()
        TARGETS[name](data)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < MEMORY_LIMIT // 8, (peak, data)


def test_the_long_run_counts_what_it_did_and_comes_out_the_same_twice(tmp_path: Path) -> None:
    examples = str(40 * len(TARGETS))

    def run(*options: str) -> subprocess.CompletedProcess[str]:
        script = Path(__file__).resolve().parents[2] / "scripts" / "fuzz.py"
        command = [sys.executable, str(script), "--examples", examples, "--save-to", str(tmp_path), *options]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def counts(done: subprocess.CompletedProcess[str]) -> list[str]:
        return [line.split(";")[0] for line in done.stdout.splitlines() if line.startswith("  ")]

    first, second, other = run(), run(), run("--seed", "2")
    assert first.returncode == 0, first.stdout + first.stderr
    assert "every input ended in a result or in its documented error" in first.stdout
    assert first.stdout.startswith(f"{examples} inputs in ")
    assert counts(first) == counts(second) != counts(other)
    assert len(counts(first)) == len(TARGETS)
    assert list(tmp_path.iterdir()) == []


def test_the_long_run_reports_and_keeps_what_failed(tmp_path: Path) -> None:
    program = """
import sys
from scripts import fuzz

def broken(data):
    if len(data) > 20:
        raise KeyError("this decoder is broken")

fuzz.TARGETS["hot"] = fuzz.Target(broken, fuzz.hot_messages, ())
sys.exit(fuzz.main(["--target", "hot", "--examples", "100", "--save-to", sys.argv[1]]))
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "FAILED" in done.stdout
    assert "this decoder is broken" in done.stdout
    assert "Traceback" in done.stderr
    assert all(len(path.read_bytes()) > 20 for path in tmp_path.glob("hot-*.bin"))
    assert list(tmp_path.glob("hot-*.bin"))
