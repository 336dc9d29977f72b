"""Clients of others in environments of their own, as `make clients` installs them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.closing import Closing

__all__ = ["AGENTS", "Client", "agent_command"]

_ROOT = Path(__file__).parents[2]
_SCRIPTS = _ROOT / "tests" / "clients"
_MODULES = _SCRIPTS / "node_modules"
_INSTALL = "run `make clients`"


def _python(name: str) -> str:
    if name == "sdk":  # the SDKs are in the environment of the tests
        return sys.executable
    python = _ROOT / ".venv-clients" / "bin" / "python"
    if not python.exists():
        pytest.skip(f"no .venv-clients: {_INSTALL}")
    return str(python)


def _node() -> str:
    node = shutil.which("node")
    if node is None:
        pytest.skip("no node here")
    if not (_MODULES / "openai").exists():
        pytest.skip(f"no tests/clients/node_modules: {_INSTALL}")
    return node


class Client(Closing):
    """A script of tests/clients, which makes one call for each line that it gets.

    Args:
        name: of the script, such as ``langchain``.
    """

    def __init__(self, name: str) -> None:
        command = [_node(), f"{name}_client.mjs"] if name == "node" else [_python(name), f"{name}_client.py"]
        # Nothing but this machine is to be reached: what calls home fails at once.
        self._process = subprocess.Popen(
            command, cwd=_SCRIPTS, env=offline(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.cases: list[str] = self._read()

    def _read(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the client's script has ended; its error is above"
        return json.loads(line)

    def ask(self, case: str, url: str, question: str) -> Any:
        """Return what the client made of the answer: ``ok``, or ``error`` and ``status``."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"case": case, "url": url, "question": question}) + "\n")
        self._process.stdin.flush()
        return self._read()

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()


def offline(**more: str) -> dict[str, str]:
    """Return an environment in which no other machine can be reached, and no key of a developer is known."""
    nowhere = "http://127.0.0.1:9"
    return {
        "PATH": os.environ["PATH"],
        "HOME": os.environ.get("HOME", "/"),
        "TERM": "dumb",
        "NO_COLOR": "1",
        "HTTP_PROXY": nowhere,
        "HTTPS_PROXY": nowhere,
        "NO_PROXY": "127.0.0.1,localhost",
        "PYTHONWARNINGS": "ignore",
        **more,
    }


# -- coding agents ---------------------------------------------------------------------------

AGENTS = ("claude", "codex", "opencode", "aider")
_CODEX = """
model = "gpt-5-codex"
model_provider = "gateway"
[model_providers.gateway]
name = "gateway"
base_url = "{url}/v1"
env_key = "OPENAI_API_KEY"
wire_api = "responses"
"""


def agent_command(name: str, url: str, home: Path, task: str) -> tuple[list[str], dict[str, str]]:
    """Return how an agent is started for one task, with the gateway as its provider, and its environment."""
    program = _ROOT / ".venv-aider" / "bin" / "aider" if name == "aider" else _MODULES / ".bin" / name
    if not program.exists():
        pytest.skip(f"no {name}: {_INSTALL}")
    env = offline(HOME=str(home), OPENAI_API_KEY="sk-1", ANTHROPIC_API_KEY="sk-ant-1")
    if name == "claude":
        env |= {"ANTHROPIC_BASE_URL": url, "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1"}
        return [str(program), "-p", task, "--output-format", "json", "--model", "claude-sonnet-4-5"], env
    if name == "codex":
        (home / ".codex").mkdir(exist_ok=True)
        (home / ".codex" / "config.toml").write_text(_CODEX.format(url=url))
        return [str(program), "exec", "--skip-git-repo-check", "--json", task], env
    if name == "opencode":
        options = {"baseURL": f"{url}/v1", "apiKey": "sk-1"}
        provider = {"npm": "@ai-sdk/openai-compatible", "options": options, "models": {"m-1": {}}}
        config = {"provider": {"gateway": provider}, "model": "gateway/m-1", "small_model": "gateway/m-1"}
        env |= {"OPENCODE_CONFIG_CONTENT": json.dumps({**config, "autoupdate": False, "share": "disabled"})}
        return [str(program), "run", "--format", "json", task], env
    flags = "--yes-always --no-check-update --no-show-model-warnings --analytics-disable --no-gitignore"
    more = [*flags.split(), "--no-auto-commits", "--no-show-release-notes", "--map-tokens", "0"]
    return [str(program), "--model", "openai/m-1", "--message", task, *more], {
        **env,
        "OPENAI_API_BASE": f"{url}/v1",
    }
