"""Coding agents as they come from npm and PyPI: a second identical run makes no generation call upstream."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from lix_cache import CacheConfig
from lix_cache.gateway.volatile import RULES
from tests.support.clients import AGENTS, agent_command
from tests.support.provider import Provider, RunningGateway

TASK = "Where is the billing page?"
#: They take half a minute to start.
_LONG = ("opencode", "aider")


def run(name: str, url: str, home: Path) -> str:
    """Give an agent a task in a repository of one file, and return what it said."""
    project = home / "project"
    project.mkdir(parents=True, exist_ok=True)
    (project / "a.py").write_text("print(1)\n")
    command, env = agent_command(name, url, home, TASK)
    if not (project / ".git").exists():
        subprocess.run(["git", "init", "-q"], cwd=project, env=env, check=True)
    done = subprocess.run(
        command, cwd=project, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def generations(provider: Provider) -> list[str]:
    return [call.path for call in provider.calls if call.method == "POST"]


@pytest.mark.slow
@pytest.mark.promise("right-answer")
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.exhaustive] if name in _LONG else []) for name in AGENTS],
)
def test_a_second_identical_run_makes_no_call_upstream(
    name: str, provider: Provider, redis_config: CacheConfig, tmp_path: Path
) -> None:
    with RunningGateway(provider, redis_config) as gateway:
        first = run(name, gateway.url, tmp_path)
        assert "Scripted answer" in first
        asked = generations(provider)
        assert asked, "it asks the gateway, and nobody else"
        gateway.forget()
        second = run(name, gateway.url, tmp_path)
        assert generations(provider) == asked
        assert "Scripted answer" in second


@pytest.mark.slow
@pytest.mark.promise("right-answer")
@pytest.mark.parametrize("name", ["claude", "codex"])
def test_with_all_rules_neither_does_a_run_elsewhere(
    name: str, provider: Provider, redis_config: CacheConfig, tmp_path: Path
) -> None:
    """Another user's home and another folder: all that differs is what the rules name."""
    with RunningGateway(provider, redis_config, volatile=tuple(RULES)) as gateway:
        run(name, gateway.url, tmp_path / "one")
        asked = generations(provider)
        run(name, gateway.url, tmp_path / "two")
        assert generations(provider) == asked
