"""The container file, as far as it can be tried without an engine: its paths, commands and health check."""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.provider import Provider
from tests.support.redis_server import free_port, wait_until
from tests.support.wire import ask, chat_body, post

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
STEPS = [line.split(maxsplit=1) for line in TEXT.splitlines() if line and not line.startswith("#")]


def said(word: str) -> list[str]:
    return [rest for step, rest in STEPS if step == word]


def copied() -> list[str]:
    found = []
    for line in said("COPY"):
        if "--from" not in line:
            found += line.split()[:-1]
    return found


def test_its_paths_exist_and_are_let_through() -> None:
    ignored = (ROOT / ".dockerignore").read_text().split()
    for path in copied():
        assert (ROOT / path).exists(), path
        assert f"!{path.removeprefix('./')}" in ignored
    for path in (ROOT / "lix_cache").rglob("*"):
        if path.suffix in (".so", ".pyc"):
            assert any(fnmatch.fnmatch(str(path.relative_to(ROOT)), rule) for rule in ignored)
    assert all("../" not in line for line in said("COPY"))


def test_it_runs_as_nobody_in_particular_and_has_no_secret() -> None:
    users = said("USER")
    assert users
    assert all(user.isdecimal() and int(user) > 0 for user in users)
    assert f"--uid {users[-1]} " in TEXT
    assert max(i for i, (step, _) in enumerate(STEPS) if step == "RUN") < [step for step, _ in STEPS].index(
        "USER"
    )
    assert not re.search(r"(?i)(api_?key|password|secret|token)\s*=", TEXT)
    extras = set(re.findall(r'"\.\[(.*)\]"', TEXT)[0].split(","))
    known = re.findall(r"^([\w-]+) = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert extras <= set(known)
    command = json.loads(said("ENTRYPOINT")[0]) + json.loads(said("CMD")[0])
    assert command[:2] == ["lix-cache", "serve"]


@pytest.mark.slow
def test_its_commands_work_in_a_fresh_environment(tmp_path: Path) -> None:
    """All but those of the system's packages."""
    context, target = tmp_path / "context", tmp_path / "env"
    context.mkdir()
    for path in copied():
        source = ROOT / path
        if source.is_dir():
            shutil.copytree(source, context / path, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
        else:
            shutil.copy(source, context / path)
    for command in said("RUN"):
        if "/opt/lix-cache" not in command:
            continue
        words = shlex.split(command.replace("/opt/lix-cache", str(target)).replace("--no-cache-dir ", ""))
        words[0] = words[0] if words[0].startswith("/") else sys.executable
        done = subprocess.run(words, cwd=context, capture_output=True, text=True, timeout=280, check=False)
        if "Could not find a version" in done.stderr or "Failed to establish" in done.stderr:
            pytest.skip("no package index can be reached")
        assert done.returncode == 0, done.stderr
    entry, rest = json.loads(said("ENTRYPOINT")[0]), json.loads(said("CMD")[0])
    port = free_port()
    with Provider() as provider:
        settings = tmp_path / "gateway.yaml"
        settings.write_text(f"redis: false\nupstreams: [{{name: a, url: '{provider.url}'}}]\n")
        places = {"/etc/lix-cache/gateway.yaml": str(settings), "8640": str(port)}
        command = [str(target / "bin" / entry[0]), *entry[1:], *(places.get(word, word) for word in rest)]
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("LIX_", "PYTHON"))}
        process = subprocess.Popen(command, cwd=tmp_path, env=clean, stderr=subprocess.PIPE)
        health = json.loads(said("HEALTHCHECK")[0].partition(" CMD ")[2].strip())
        health = [str(target / "bin" / health[0]), *(word.replace("8640", str(port)) for word in health[1:])]

        def is_healthy() -> bool:
            assert process.poll() is None, process.stderr and process.stderr.read()
            return subprocess.run(health, capture_output=True, check=False, timeout=20).returncode == 0

        try:
            wait_until(is_healthy, 60, "the health check")
            url = f"http://127.0.0.1:{port}"
            assert post(url, chat_body()).state == "miss"
            assert post(url, chat_body()).state == "hit-l1-exact"
            assert ask(url, "GET", "/ready").status == 200
        finally:
            process.terminate()
            process.communicate(timeout=60)
        assert subprocess.run(health, capture_output=True, check=False, timeout=20).returncode != 0
