"""Agents as files: within budget and quota, changed by one gateway at a time, and gone with their tenant."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from lix_cache.errors import KvUnavailable
from lix_cache.gateway.errors import Refused
from lix_cache.gateway.local.agent_files import AgentFiles
from lix_cache.gateway.local.settings import LocalSettings
from lix_cache.gateway.local.upstream import refusal_of
from tests.support.kv import loaded_tokens, save_tokens, tokens


def settings(folder: Path, **changes: Any) -> LocalSettings:
    return LocalSettings(folder=str(folder), **changes)


def agent(number: int = 1, **fields: Any) -> dict[str, Any]:
    identity = f"{number:024x}"
    base = {
        "id": identity,
        "name": "",
        "model": "m",
        "system": "",
        "created": 1,
        "messages": [],
        "counts": {},
    }
    return {**base, **fields}


def test_a_turn_is_not_written_over_one_that_another_gateway_kept(tmp_path: Path) -> None:
    one, two = (AgentFiles(settings(tmp_path)) for _ in range(2))
    one.write("ann", agent(), None)
    before = one.version("ann", agent()["id"])
    two.write("ann", agent(name="two"), before)
    with pytest.raises(Refused) as refused:
        one.write("ann", agent(name="one"), before)
    assert refused.value.status == 409
    assert one.read("ann", agent()["id"]) == agent(name="two")
    two.remove("ann", agent()["id"])
    with pytest.raises(Refused):
        one.write("ann", agent(), one.version("ann", "0" * 24) or before)
    assert one.ids("ann") == []


@pytest.mark.promise("isolation")
def test_an_agent_takes_no_room_beyond_its_tenants_quota(tmp_path: Path) -> None:
    files = AgentFiles(settings(tmp_path, quotas={"ann": "50000", "local": "1000"}))
    other = tokens(700)
    save_tokens(files.store, "s", other, "bob")
    with pytest.raises(KvUnavailable, match="quota"):
        files.write("ann", agent(system="x" * 60_000), None)
    # The tenant of a gateway without tenants goes by another name in the store.
    with pytest.raises(KvUnavailable, match="quota"):
        files.write("local", agent(system="x" * 2_000), None)
    assert list(tmp_path.rglob("agents/*/*")) == []
    files.write("ann", agent(system="x" * 40_000), None)
    # What agents take is not there for states.
    assert save_tokens(files.store, "s", tokens(700), "ann").left_out > 0
    assert loaded_tokens(files.store, other, "bob") == [256, 256, 188]


def test_agents_go_with_their_tenant_and_so_does_what_a_kill_left(tmp_path: Path) -> None:
    files = AgentFiles(settings(tmp_path))
    files.write("ann", agent(1), None)
    files.write("bob", agent(2), None)
    (left,) = (path for path in tmp_path.rglob("agents/*/*") if path.stem == agent(1)["id"])
    left.with_name(left.name + ".new").write_bytes(b"half")
    files.store.purge("ann")
    assert files.ids("ann") == []
    assert [path.stem for path in tmp_path.rglob("agents/*/*")] == [agent(2)["id"]]


def test_a_full_quota_is_told_as_such() -> None:
    found = refusal_of(KvUnavailable(errno.ENOSPC, "the tenant's quota is full"))
    assert (found.status, found.code) == (507, "no_room")
    assert "quota" in str(found)
    assert refusal_of(KvUnavailable(errno.EACCES, "permission denied")).status == 500
