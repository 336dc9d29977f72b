"""The KV store against a model of it, and its files against any bytes."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lix_cache.errors import CodecError
from lix_cache.kv.block_file import NotThisState, decode, described, encode
from lix_cache.kv.eviction import Kept, victims
from lix_cache.kv.identity import as_ids, chain_of
from lix_cache.kv.manifest import decode_manifest
from lix_cache.kv.store import KvStore
from tests.support.kv import FINGERPRINT, loaded_tokens, pieces_of, save_tokens, state_of, tokens

IDS = tokens(40)
PIECE = pieces_of(IDS)[0]
FILE = encode(PIECE.about, IDS, state_of(IDS))


@pytest.mark.promise("bad-bytes")
@given(st.binary(max_size=9000))
def test_any_bytes_end_in_an_error_of_ours(data: bytes) -> None:
    for read in (lambda: decode(memoryview(data), PIECE.about, IDS), lambda: described(memoryview(data))):
        with pytest.raises(NotThisState):
            read()
    with pytest.raises(CodecError):
        decode_manifest(data)


@pytest.mark.promise("bad-bytes")
@given(st.integers(0, len(FILE) - 1), st.binary(min_size=1, max_size=40))
def test_a_file_with_other_bytes_in_it_is_not_used(place: int, data: bytes) -> None:
    bad = FILE[:place] + data + FILE[place + len(data) :]
    if bad == FILE:
        return
    with pytest.raises(NotThisState):
        decode(memoryview(bad), PIECE.about, IDS)


@given(st.lists(st.integers(0, 3), max_size=1200), st.lists(st.integers(0, 3), max_size=1200))
def test_chains_agree_as_far_as_the_tokens_do(one: list[int], two: list[int]) -> None:
    common = 0
    while common < min(len(one), len(two)) and one[common] == two[common]:
        common += 1
    first, second = chain_of(FINGERPRINT, "", as_ids(one)), chain_of(FINGERPRINT, "", as_ids(two))
    assert len(first) == len(one) // 256 + 1
    shared = common // 256
    assert first[: shared + 1] == second[: shared + 1]
    assert not set(first[shared + 1 :]) & set(second[shared + 1 :])


@given(
    st.lists(st.tuples(st.integers(-1, 30), st.integers(0, 5), st.booleans()), max_size=30),
    st.integers(0, 30),
)
def test_what_eviction_leaves_lacks_nothing_it_needs(files: list[tuple[int, int, bool]], count: int) -> None:
    kept: dict[tuple[str, str], Kept] = {}
    for number, (parent, used, pinned) in enumerate(files):
        needs = str(parent) if 0 <= parent < number else ""
        kept["f", str(number)] = Kept(1, used, needs, {"t"}, pinned)
    going = list(victims(dict(kept), set()))
    for key in going[:count]:
        assert not kept[key].pinned
        del kept[key]
    names = {name for _, name in kept}
    assert all(not one.needs or one.needs in names for one in kept.values())
    assert len(going) == len(set(going))


ACTION = st.tuples(st.sampled_from(["save", "purge", "reopen"]), st.integers(0, 3), st.integers(1, 700))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(ACTION, max_size=8))
def test_a_store_with_room_holds_what_was_saved_and_not_purged(actions: list[Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = KvStore(folder)
        held: dict[str, Any] = {}
        for what, number, count in actions:
            session, tenant = f"s{number}", f"t{number % 2}"
            if what == "save":
                ids = as_ids([*tokens(256, number % 2), *tokens(count, number)])
                save_tokens(store, session, ids, tenant)
                held[session] = (ids, tenant)
            elif what == "purge":
                store.purge(tenant, session)
                held.pop(session, None)
            else:
                store = KvStore(folder)
        for ids, tenant in held.values():
            assert sum(loaded_tokens(store, ids, tenant)) == len(ids)
        owners = {tenant for _, tenant in held.values()}
        assert {tenant for tenant, size in store.catalogue().tenants.items() if size} == owners
        for tenant in ("t0", "t1"):
            store.purge(tenant)
        assert not list(Path(folder).rglob("*.safetensors"))
