"""Replies, rates, misses and the memory tier, without a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from lix_cache.kv.engine import Halt, Live, Made
from lix_cache.kv.engines.text_of import TextOf
from lix_cache.kv.identity import as_ids
from lix_cache.kv.manifest import Part
from lix_cache.kv.memory import Entry, MemoryTier
from lix_cache.kv.miss import miss_between
from lix_cache.kv.rates import Rates
from lix_cache.kv.reply import Reply, Usage

#: A token that ends a reply.
ENDS = [Made((999,), is_end=True)]


def reply_of(text: str, stop: Sequence[str] = (), *, end: bool = False) -> tuple[Reply, list[Reply]]:
    """Return a reply that is made a byte at a time, and where it says that it is over."""
    over: list[Reply] = []
    read = TextOf(lambda ids: bytes(ids).decode("utf-8", "replace"))
    made = [Made((one,), read.feed(one)) for one in text.encode()]
    return Reply("s", Usage(1, 0, 0), None, iter([*made, *ENDS] if end else made), stop, over.append), over


@pytest.mark.parametrize("text", ["", "plain", "é ü 漢字 🎉", "a\n\nb"])
@pytest.mark.parametrize("stop", [(), ("never",), ("zzz", "")])
def test_pieces_are_the_text_and_no_piece_is_half_a_character(text: str, stop: tuple[str, ...]) -> None:
    reply, over = reply_of(text, stop, end=True)
    pieces = list(reply)
    assert "".join(pieces) == reply.text == text
    assert not any("\ufffd" in piece for piece in pieces)
    assert (reply.finish_reason, over) == ("stop", [reply])


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        ("one two three", ["two"], "one "),
        ("one two three", ["three", "two"], "one "),
        ("aaab", ["aab"], "a"),
        ("ab", ["ab"], ""),
        ("one tw", ["two"], "one tw"),
        ("漢字!", ["字"], "漢"),
    ],
)
def test_no_piece_holds_a_beginning_of_a_stop_text(text: str, stop: list[str], expected: str) -> None:
    reply, over = reply_of(text, stop)
    assert "".join(reply) == expected == reply.text
    assert len(over) == 1


def test_a_reply_ends_once_however_it_ends() -> None:
    reply, over = reply_of("text")
    next(reply)
    reply.close()
    reply.close()
    assert list(reply) == []
    del reply
    assert len(over) == 1

    def broken() -> Iterator[Made]:
        yield Made((65,), "A")
        raise ValueError("of the engine")

    failed = Reply("s", Usage(1, 0, 0), None, broken(), (), over.append)
    assert next(failed) == "A"
    with pytest.raises(ValueError, match="engine"):
        next(failed)
    assert len(over) == 2


def test_loading_is_chosen_while_it_is_faster_and_tried_again_now_and_then() -> None:
    rates = Rates()
    assert rates.should_load(1000, 1000)
    rates.loaded(1000, 0.1)
    assert rates.should_load(1000, 1000)
    rates.prefilled(1000, 1.0)
    assert rates.should_load(1000, 1000)
    assert not rates.should_load(1000, 50)  # the others are in memory, and would be loaded again
    for _ in range(50):
        rates.loaded(1000, 10.0)
    tries = [rates.should_load(1000, 1000) for _ in range(32)]
    assert tries.count(True) == 2
    for _ in range(50):
        rates.loaded(1000, 0.01)
    assert all(rates.should_load(1000, 1000) for _ in range(5))
    before = rates.load
    rates.loaded(1, 100.0)
    assert rates.load == before


PARTS = [Part(10, "system"), Part(20, "message 2 (user)")]


@pytest.mark.parametrize(
    ("changed", "part", "number"),
    [
        (0, "system", 1),
        (9, "system", 10),
        (10, "message 2 (user)", 1),
        (22, "what follows message 2 (user)", 3),
    ],
)
def test_a_miss_names_the_message_and_the_token_in_it(changed: int, part: str, number: int) -> None:
    ids = list(range(30))
    known = [*ids[:changed], 99, *ids[changed + 1 :]]
    miss = miss_between(as_ids(ids), as_ids(known), PARTS)
    assert miss is not None
    assert (miss.part, miss.token_in_part, miss.token) == (part, number, changed + 1)


def test_what_goes_on_is_no_miss() -> None:
    assert miss_between(as_ids(range(30)), as_ids(range(20)), PARTS) is None
    nothing = miss_between(as_ids(range(30)), as_ids([]), PARTS)
    assert nothing is not None
    assert "nothing is known" in str(nothing)


def test_the_memory_tier_lets_the_least_recently_used_go() -> None:
    tier = MemoryTier(budget_bytes=100, most=3)
    entries = [Entry("t", f"s{number}", Live([1], 30), used=number) for number in range(3)]
    for entry in entries:
        tier.put(entry)

    def gone(busy: tuple[Entry, ...] = (), **needs: Any) -> list[Entry]:
        went = []
        for entry in tier.surplus(**needs):
            if entry not in busy:
                tier.remove(entry)
                went.append(entry)
        for entry in went:
            tier.put(entry)
        return went

    assert gone() == []
    assert gone(room=1) == [entries[0]]
    assert gone((entries[0],), room=1) == [entries[1]], "one that is being computed stays, and another goes"
    entries[2].live.size = 80
    assert gone(keep=entries[2]) == entries[:2]
    entries[0].used = 9
    assert [one.session for one in tier.all()] == ["s1", "s2", "s0"]
    tier.remove(entries[1])
    assert tier.get("t", "s1") is None
    assert tier.size == 110
    other = Entry("t", "s0", Live())
    tier.remove(other)
    assert tier.get("t", "s0") is entries[0]


def test_a_halt_is_heard_once_and_at_once_if_it_was_set() -> None:
    halt, heard = Halt(), []
    with halt.heard_by(lambda: heard.append(1)):
        pass
    halt.set()
    assert heard == [], "what is over hears nothing"
    with halt.heard_by(lambda: heard.append(2)):
        assert heard == [2]
    again = Halt()
    with again.heard_by(lambda: heard.append(3)):
        again.set()
        again.set()
    assert heard == [2, 3]


def test_the_prompts_usage_is_known_with_the_first_token() -> None:
    computed = 9
    reply = Reply(
        "s",
        Usage(10, 3, 0, "disk"),
        None,
        iter([Made((97,), "a"), Made((98,), "b")]),
        ["b"],
        lambda _: None,
        lambda: computed,
        [1, 2],
    )
    assert next(reply) == "a"
    assert reply.usage.cached_tokens == 1, "as the engine counted, not as it was hoped"
    computed = 0
    reply.all()
    assert (reply.usage.cached_tokens, reply.stopped_by, reply.finish_reason) == (1, "b", "stop")
    assert list(reply.prompt) == [1, 2]


def test_a_source_is_told_only_of_tokens_that_were_not_computed() -> None:
    made = iter([Made((97,), "a"), *ENDS])
    reply = Reply("s", Usage(10, 3, 0, "memory"), None, made, (), lambda _: None, lambda: 10)
    reply.all()
    assert (reply.usage.cached_tokens, reply.usage.source) == (0, "none")


def test_tokens_whose_numbers_are_not_known_count() -> None:
    made = iter([Made((1, 2), "a"), Made((), "", unnamed=2)])
    reply = Reply("s", Usage(1, 0, 0), None, made, (), lambda _: None)
    reply.all()
    assert (reply.ids, reply.count, reply.finish_reason) == ([1, 2], 4, "length")


def test_the_text_of_tokens_is_read_once() -> None:
    read = 0

    def detokenize(ids: Sequence[int]) -> str:
        nonlocal read
        read += len(ids)
        return bytes(ids).decode("utf-8", "replace")

    data = ("a plain text, é ü 漢字 🎉; " * 200).encode()
    text = TextOf(detokenize)
    assert "".join(text.feed(one) for one in data).encode() == data
    assert read < 20 * len(data)
    # Bytes that are no character are let out, and do not hold back what follows.
    text = TextOf(detokenize)
    said = "".join(text.feed(one) for one in b"\xff" * 40 + b"after")
    assert said == "\ufffd" * 40 + "after"


def lossy(ids: Sequence[int]) -> str:
    return bytes(ids).decode("utf-8", "replace")


def by_the_byte(ids: Sequence[int]) -> str:
    """As tokenizers with a token for each byte do: of bytes that are no text together, each is none."""
    try:
        return bytes(ids).decode()
    except UnicodeDecodeError:
        return "\ufffd" * len(ids)


@pytest.mark.promise("right-answer")
@pytest.mark.parametrize("detokenize", [lossy, by_the_byte])
@pytest.mark.parametrize("text", ["ab", "é", "漢字", "🎉", "x🎉漢é", "a\ufffdb", "\ufffd"])
def test_a_character_is_told_whole_wherever_its_tokens_are_cut(
    detokenize: Callable[[Sequence[int]], str], text: str
) -> None:
    read, data = TextOf(detokenize), text.encode()
    pieces = [read.feed(one) for one in data]
    assert "".join(pieces) + read.end() == text, "whole, and what is U+FFFD itself is not lost at the end"
    assert read.end() == ""
    for cut in range(len(data)):
        read = TextOf(detokenize)
        said = "".join(read.feed(one) for one in data[:cut])
        assert text.startswith(said), "nothing is told of half a character as long as more may come"
        assert said + read.end() == lossy(data[:cut]) or detokenize is by_the_byte


@pytest.mark.promise("right-answer")
def test_a_token_that_ends_in_half_a_character_tells_what_comes_before_it() -> None:
    tokens = ["aé漢".encode()[:-2], "漢".encode()[1:2], "漢".encode()[2:] + b"!"]
    read = TextOf(lambda ids: b"".join(tokens[one] for one in ids).decode("utf-8", "replace"))
    assert [read.feed(0), read.feed(1), read.feed(2)] == ["aé", "", "漢!"]
    read.feed(0)
    assert read.end() == "\ufffd"


@pytest.mark.promise("right-answer")
@pytest.mark.parametrize("junk", range(1, 20))
def test_a_character_behind_bytes_that_are_none_is_told_whole(junk: int) -> None:
    data = b"a" + b"\xff" * junk + "🎉漢 after".encode()
    read = TextOf(lossy)
    said = [read.feed(one) for one in data]
    assert "".join(said) == "a" + "\ufffd" * junk + "🎉漢 after"
    read = TextOf(lossy)
    assert "".join(map(read.feed, data[: junk + 3])) + read.end() == lossy(data[: junk + 3])


def test_a_space_before_the_first_word_is_taken_off_once() -> None:
    # As some tokenizers do with the first token that they are given.
    words = [" one", " two", "", " three"]
    text = TextOf(lambda ids: "".join(words[one] for one in ids).removeprefix(" "))
    assert "".join(text.feed(one) for one in range(4)) == "one two three"
