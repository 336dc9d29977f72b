"""The command line where a name is a slip: another prefix, a place without an archive, another namespace."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from lix_cache import CacheConfig, ConversationArchive
from lix_cache.cli.app import app
from tests.integration.test_cli import Cli, cli, fill, no_settings_from_outside, run_cli
from tests.support.redis_server import free_port

__all__ = ["cli", "no_settings_from_outside"]

OF_OTHERS = "no process has used this archive under the prefix"


@pytest.fixture
def slip(redis_config: CacheConfig) -> CacheConfig:
    """The settings of a store that has a cold session and a hot one, under a wrong prefix."""
    fill(redis_config, "cold", 2, cold=True)
    fill(redis_config, "hot", 3)
    return redis_config.replace(redis_key_prefix=f"{redis_config.redis_key_prefix}-slip")


# -- a wrong prefix --------------------------------------------------------------------------------


@pytest.mark.promise("no-loss")
def test_an_export_under_a_wrong_prefix_leaves_an_earlier_backup_as_it_was(
    cli: Cli, slip: CacheConfig, tmp_path: Path
) -> None:
    backup = tmp_path / "backup.jsonl"
    assert cli("export", "-o", str(backup)).code == 0
    whole = backup.read_bytes()
    assert whole.count(b"\n") == 2
    for arguments in ((), ("--session", "cold")):
        said = run_cli(slip, "export", "-o", str(backup), *arguments)
        assert said.code == 1
        assert OF_OTHERS in said.err
        assert "--prefix" in said.err
        assert backup.read_bytes() == whole
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["backup.jsonl"]


@pytest.mark.promise("no-loss")
def test_an_export_under_a_wrong_prefix_is_no_success(cli: Cli, slip: CacheConfig) -> None:
    said = run_cli(slip, "export")
    assert said.code == 1
    assert OF_OTHERS in said.err
    assert '"cold"' in said.out  # what can be saved is
    assert '"hot"' not in said.out
    missing = run_cli(slip, "export", "--session", "hot")
    assert missing.code == 1
    assert OF_OTHERS in missing.err
    right = cli("export")
    assert right.code == 0
    assert OF_OTHERS not in right.err


@pytest.mark.promise("no-loss")
def test_an_offload_under_a_wrong_prefix_is_no_success(cli: Cli, slip: CacheConfig) -> None:
    said = run_cli(slip, "offload", "--all", "--json")
    assert said.code == 1
    assert said.json["sessions"] == 0
    assert OF_OTHERS in said.err
    right = cli("offload", "--all", "--json")
    assert (right.code, right.json["sessions"]) == (0, 1)
    assert OF_OTHERS not in right.err


def test_a_look_under_a_wrong_prefix_says_so_in_json_too_and_where_nothing_is_found(
    cli: Cli, slip: CacheConfig
) -> None:
    looks = (["stats"], ["stats", "--json"], ["sessions", "--json"], ["show", "cold", "--json"])
    for command in looks:
        assert OF_OTHERS in run_cli(slip, *command).err
        assert OF_OTHERS not in cli(*command).err
    assert OF_OTHERS in run_cli(slip, "show", "hot").err
    assert OF_OTHERS in run_cli(slip, "sessions", "--namespace", "nobody").err


# -- a place without an archive --------------------------------------------------------------------

READING = [["verify"], ["verify", "a"], ["compact"], ["restore"], ["restore", "--all"], ["show", "a"]]


@pytest.mark.promise("no-false-empty")
@pytest.mark.parametrize("command", [*READING, ["export"], ["offload", "--all"], ["sessions"], ["stats"]])
def test_a_url_without_an_archive_is_an_error_and_no_empty_archive(
    redis_config: CacheConfig, tmp_path: Path, command: list[str]
) -> None:
    place = tmp_path / "no" / "typo"
    said = run_cli(redis_config, f"--archive-dir=file://{place}", *command)
    assert (said.code, said.out) == (1, "")
    assert f"there is no archive at 'file://{place}'" in said.err
    assert not place.parent.exists()


@pytest.mark.promise("no-false-empty")
def test_nothing_is_copied_from_a_url_without_an_archive(redis_config: CacheConfig, tmp_path: Path) -> None:
    target = tmp_path / "copy"
    said = run_cli(redis_config, "archive", "copy", f"file://{tmp_path}/typo", str(target))
    assert (said.code, said.out) == (2, "")
    assert "there is no archive at SOURCE" in said.err
    assert not target.exists()
    # An empty one that was made is one.
    fill(redis_config, "a", 2, cold=True)
    whole = f"file://{tmp_path}/whole"
    assert run_cli(redis_config, "archive", "copy", redis_config.archive_dir, whole).code == 0
    assert run_cli(redis_config, "archive", "copy", whole, str(target)).code == 0
    assert run_cli(redis_config, f"--archive-dir={whole}", "verify").code == 0


@pytest.mark.promise("no-loss")
def test_adopt_says_which_archive_it_replaces_and_where_that_is_no_move_of_a_store(
    cli: Cli, redis_config: CacheConfig, tmp_path: Path
) -> None:
    fill(redis_config, "a", 2, cold=True)
    old = ConversationArchive(redis_config.archive_dir).store.archive_id()
    new = redis_config.replace(archive_dir=str(tmp_path / "new"))
    said = run_cli(new, "archive", "adopt")
    own = ConversationArchive(new.archive_dir).store.archive_id()
    assert f"{new.archive_dir} (archive {own})" in said.out
    assert f"before: archive {old}" in said.out
    assert "archive copy" in said.err  # the new one is empty
    again = run_cli(new, "archive", "adopt")
    assert "before: this archive" in again.out
    assert again.err == ""
    back = cli("archive", "adopt")
    assert f"before: archive {own}" in back.out
    assert back.err == ""
    slip = run_cli(redis_config.replace(redis_key_prefix="slip"), "archive", "adopt")
    assert "before: none" in slip.out
    assert "--prefix" in slip.err


# -- a server that is not there --------------------------------------------------------------------


def test_the_doctor_speaks_of_the_command_line_and_of_all_sentinels_where_none_answers(
    tmp_path: Path,
) -> None:
    places = [f"127.0.0.1:{free_port()}" for _ in range(2)]
    for url, sign in (
        (f"redis://{places[0]}", "--embedded"),
        (f"redis+sentinel://{','.join(places)}/svc", f"{','.join(places)}/svc"),
    ):
        done = CliRunner().invoke(app, [f"--redis-url={url}", f"--archive-dir={tmp_path}", "doctor"])
        assert done.exit_code == 1
        assert sign in done.stdout
        assert "ensure_redis" not in done.stdout
        assert "other nodes" not in done.stdout
