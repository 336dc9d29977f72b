"""What an operator is told of a cluster and of Sentinel: doctor, stats, health checks, the command line."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lix_cache import CacheConfig, HybridConversationCache, RedisCommandError, RedisUnavailable, StoreAdmin
from lix_cache.cli.app import app
from tests.integration.test_cli import Result
from tests.support.redis_cluster import RedisCluster, RedisSentinel

pytestmark = pytest.mark.slow


def checked(config: CacheConfig) -> dict[str, tuple[str, str, str]]:
    return {one.name: (one.status, one.found, one.advice) for one in StoreAdmin(config).doctor()}


def cli(config: CacheConfig, *arguments: str) -> Result:
    os.makedirs(config.archive_dir, exist_ok=True)
    options = [f"--redis-url={config.redis_url}", f"--prefix={config.redis_key_prefix}"]
    done = CliRunner().invoke(app, [*options, f"--archive-dir={config.archive_dir}", *arguments])
    assert "Traceback" not in done.stderr
    return Result(done.exit_code, done.stdout, done.stderr)


@pytest.mark.parametrize("buckets", [None, 1, 64])
def test_a_healthy_cluster_passes_the_doctor(redis_config: CacheConfig, buckets: int | None) -> None:
    config = redis_config.replace(redis_buckets=buckets) if buckets else redis_config
    found = checked(config)
    assert [name for name, (status, *_) in found.items() if status == "fail"] == []
    assert found["permissions"][0] == "ok"
    # And so does one that is used.
    session = HybridConversationCache("s", config)
    first = session.add_messages([{"role": "user", "content": "x"}], keys=["k"])
    assert session.add_messages([{"role": "user", "content": "x"}], keys=["k"]).ids == first.ids
    assert checked(config)["permissions"][0] == "ok"


def test_the_rights_that_the_doctor_advises_are_enough_on_a_cluster(
    cluster: RedisCluster, tmp_path: Path
) -> None:
    config = cluster.config(
        archive_dir=tmp_path, redis_key_prefix="acl", redis_username="bob", redis_password="pw"
    )
    rights = ["on", ">pw", "~acl:*", "+@all", "-@dangerous", "+info", "+cluster|slots", "+cluster|nodes"]
    try:
        for server in cluster.servers:
            server.ask("ACL", "SETUSER", "bob", *rights, "-hset")
        status, found, advice = checked(config)["permissions"]
        assert (status, "refused: " in found, " ".join(rights[2:]) in advice) == ("fail", True, True)
        for server in cluster.servers:
            server.ask("ACL", "SETUSER", "bob", *rights, "+hset")
        assert checked(config)["permissions"][0] != "fail"
    finally:
        for server in cluster.servers:
            server.ask("ACL", "DELUSER", "bob")


def test_the_doctor_warns_of_full_coverage_and_of_masters_without_a_replica(
    cluster: RedisCluster, tmp_path: Path
) -> None:
    config = cluster.config(archive_dir=tmp_path, redis_key_prefix="cov")
    found = checked(config)
    assert found["full coverage"][0] == "warn"
    assert "cluster-require-full-coverage no" in found["full coverage"][2]
    status, text, _ = found["replicas"]
    assert status == "warn"
    assert all(server.address in text for server in cluster.servers)
    try:
        for server in cluster.servers:
            server.ask("CONFIG", "SET", "cluster-require-full-coverage", "no")
        assert checked(config)["full coverage"][0] == "ok"
    finally:
        for server in cluster.servers:
            server.ask("CONFIG", "SET", "cluster-require-full-coverage", "yes")


def test_of_a_cluster_with_a_node_away_is_said_how_many_are_and_nothing_that_fits_one_server(
    tmp_path: Path,
) -> None:
    with RedisCluster(3, replicas=1, node_timeout_ms=120_000) as nodes:
        config = nodes.config(archive_dir=tmp_path, evictor_enabled=False)
        found = checked(config)
        assert found["replicas"][:2] == ("ok", "each of the 3 masters has one")
        session = HybridConversationCache("s", config)
        session.add_message("user", "x")
        nodes.servers[0].kill()
        health = session.health_check()
        assert health["status"] == "degraded"
        status, text, advice = checked(config)["server"]
        assert (status, "replica" in advice) == ("fail", True)
        for told in (health["redis"], text):
            assert "1 of 3 masters do not serve" in told
            assert "one node of a cluster" in told
            assert "ensure_redis" not in told
        for command in ("stats", "top --once"):
            done = cli(config, *command.split())
            assert done.code == 1
            assert "one node of a cluster" in done.err
            assert "--embedded" not in done.err


def test_the_address_of_one_node_is_an_error_that_names_the_scheme_of_clusters(
    cluster: RedisCluster, tmp_path: Path
) -> None:
    for db in (0, 2):
        config = CacheConfig(
            redis_url=f"redis://{cluster.servers[0].address}",
            archive_dir=str(tmp_path),
            session_redis_db=db,
            evictor_enabled=False,
        )
        for name in ("a", "b", "c"):
            try:
                HybridConversationCache(name, config).add_message("user", "x")
            except RedisCommandError as error:
                assert "redis+cluster://" in str(error)  # noqa: PT017 - some names are on that node
                break
        else:
            pytest.fail("no session of another node")


def test_a_service_that_the_sentinels_do_not_know_is_an_error_that_says_where_its_name_stands(
    sentinel: RedisSentinel, tmp_path: Path
) -> None:
    url = sentinel.url.rpartition("/")[0] + "/mymaster"
    config = CacheConfig(
        redis_url=url, archive_dir=str(tmp_path), on_redis_error="raise", evictor_enabled=False
    )
    with pytest.raises(RedisUnavailable, match="redis\\+sentinel://host:port/service"):
        HybridConversationCache("s", config).add_message("user", "x")
    done = cli(config, "stats")
    assert (done.code, "--embedded" in done.err) == (1, False)


def test_totals_of_a_cluster_say_of_how_many_masters(redis_server: Any, redis_config: CacheConfig) -> None:
    masters = 3 if isinstance(redis_server, RedisCluster) else 1
    assert StoreAdmin(redis_config).stats().masters == masters
    assert ("3 masters together" in cli(redis_config, "stats").out) is (masters == 3)
    assert cli(redis_config, "stats", "--json").json["masters"] == masters
