"""The Lua of the package: files that are read when they are first used, and what all of them keep to."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from lix_cache.hot import answers, flight_scripts, old_keys, scripts
from lix_cache.hot.scripts import PAGE, Script

LUA = Path(scripts.__file__).parent / "lua"
NAMES = sorted(path.relative_to(LUA).with_suffix("").as_posix() for path in LUA.rglob("*.lua"))
SCRIPTS = [
    value
    for module in (answers, flight_scripts, old_keys, scripts)
    for value in vars(module).values()
    if isinstance(value, Script)
]


def test_every_file_is_a_script_or_a_part_of_one() -> None:
    texts = [(LUA / f"{name}.lua").read_text("ascii") for name in NAMES]
    included = {name for text in texts for name in re.findall(r"^--#include (.+)\.lua$", text, re.MULTILINE)}
    assert {script.name for script in SCRIPTS} | included == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.promise("no-stall")
def test_keys_are_given_up_without_freeing_them_at_once(name: str) -> None:
    assert "'DEL'" not in Script(name).source


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_a_script_is_whole_and_sent_without_its_comments(script: Script) -> None:
    assert "return" in script.source
    assert not re.search(r"^\s*--", script.source, re.MULTILINE)
    assert re.fullmatch("[0-9a-f]{40}", script.sha)


def test_a_page_is_as_large_as_its_script_makes_it() -> None:
    assert f"local PAGE = {PAGE}\n" in Script("session/pages").source


def test_no_file_is_read_at_import() -> None:
    code = (
        "import sys, lix_cache\n"
        "sys.addaudithook(lambda name, args: name == 'open' and print(args[0]))\n"
        "import lix_cache.semantic.cache, lix_cache.session.cache, lix_cache.compat.caches\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ".lua" not in ended.stdout
