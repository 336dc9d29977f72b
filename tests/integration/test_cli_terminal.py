"""What the command line writes commands no terminal, fits every encoding, and outlives its reader."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest

from lix_cache import CacheConfig, HybridConversationCache
from lix_cache.cli.jsonl import to_line
from lix_cache.cli.output import visible

ROOT = Path(__file__).resolve().parents[2]
#: All of Unicode's controls, format characters and separators; the surrogates are no text.
UNSEEN = "".join(
    c for c in map(chr, range(sys.maxunicode + 1)) if unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp")
)
BIDI = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
EVIL = f"\x1b]0;pwned\x07\x1b[2J\x9b31m{BIDI}\r\nFAKE LINE\x08\x7f\u2028\u2029\xad\ufeff\U000e0041"
#: What no command may send to a terminal.
FORBIDDEN = set(EVIL) - set(" -~\r\n") - {c for c in EVIL if c.isascii() and c.isprintable()}


def environment(config: CacheConfig, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LIX_CACHE_")}
    return {
        **kept,
        "PYTHONPATH": str(ROOT),
        "LIX_CACHE_REDIS_HOST": config.redis_host,
        "LIX_CACHE_REDIS_PORT": str(config.redis_port),
        "LIX_CACHE_REDIS_KEY_PREFIX": config.redis_key_prefix,
        "LIX_CACHE_ARCHIVE_DIR": config.archive_dir,
        "TERM": "xterm-256color",
        "COLUMNS": "100",
        **more,
    }


COMMAND = (sys.executable, "-m", "lix_cache.cli")


def on_a_terminal(config: CacheConfig, *arguments: str) -> tuple[int, str]:
    """Run a command whose stdout and stderr are one terminal; return its code and what was shown."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [*COMMAND, *arguments],
        env=environment(config),
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
    ) as running:
        os.close(theirs)
        shown = b""
        while True:
            try:
                part = os.read(ours, 65536)
            except OSError:  # the other end is closed
                break
            if not part:
                break
            shown += part
        code = running.wait(60)
    os.close(ours)
    # What is left after the colours and the bars that we make ourselves.
    text = re.sub(r"\x1b\[[0-9;]*m|\x1b\[\?25[lh]|\x1b\[\d*[AK]|\x1b\[2K", "", shown.decode())
    return code, re.sub(r"\r\n|\r(?=\S)|^\r|\r$", "\n", text)


@pytest.fixture
def evil(redis_config: CacheConfig, tmp_path: Path) -> tuple[CacheConfig, str, Path]:
    """A store with hostile ids, roles, contents, metadata, files and folder."""
    config = redis_config.replace(archive_dir=str(tmp_path / f"archive{EVIL.replace('/', '')}"))
    session_id = f"sess{EVIL}"
    memory = HybridConversationCache(session_id, config)
    memory.add_message(f"ro{EVIL}", f"text {EVIL}", {f"k{EVIL}": EVIL})
    memory.add_message("user", [{"type": "text", "text": EVIL}])
    memory.flush_to_disk()
    memory.add_message("user", f"hot {EVIL}")
    (Path(config.archive_dir) / "evil\x1b[2J\u202ename.huff").write_bytes(b"CAv2garbage")
    (Path(config.archive_dir) / "x%1B%5B2J.huff").write_bytes(b"CAv2garbage" * 5)
    lines = tmp_path / "lines.jsonl"
    lines.write_text(
        json.dumps({"session_id": session_id, "title": EVIL, "messages": [{"role": "u", "content": EVIL}]})
        + "\n"
    )
    return config, session_id, lines


COMMANDS: dict[str, Callable[[str, Path], list[str]]] = {
    "sessions": lambda sid, file: ["sessions"],
    "show": lambda sid, file: ["show", sid],
    "show --json": lambda sid, file: ["show", sid, "--json"],
    "stats": lambda sid, file: ["stats"],
    "verify": lambda sid, file: ["verify"],
    "verify one": lambda sid, file: ["verify", sid],
    "export": lambda sid, file: ["export"],
    "export one": lambda sid, file: ["export", "--session", sid],
    "export to": lambda sid, file: ["export", "-o", f"{file}.{EVIL}"],
    "doctor": lambda sid, file: ["doctor"],
    "offload": lambda sid, file: ["offload", "--all"],
    "compact": lambda sid, file: ["compact", "--session", sid],
    "import twice": lambda sid, file: ["import", str(file)],
    "import nothing": lambda sid, file: ["import", f"/nope/{EVIL}"],
    "show nobody": lambda sid, file: ["show", f"nobody{EVIL}"],
    "demo": lambda sid, file: ["--embedded", "demo", "--input", str(file)],
    "codec show": lambda sid, file: ["codec", "show", f"{file}{EVIL}"],
    "codec train": lambda sid, file: ["codec", "train", str(file), "-o", f"{file}{EVIL}"],
    "eval": lambda sid, file: ["eval", "--set", f"{file}{EVIL}", "--model", "lexical"],
    "calibrate": lambda sid, file: ["calibrate", "--log", f"{file}{EVIL}", "--model", "lexical"],
    "no such option": lambda sid, file: [f"--{EVIL}"],
    "no such command": lambda sid, file: [f"run{EVIL}"],
    "no such number": lambda sid, file: ["show", sid, "--recent", f"5{EVIL}"],
    "a traceback": lambda sid, file: ["--traceback", "import", f"/nope/{EVIL}"],
    "an address": lambda sid, file: ["--redis-url", f"redis://:x@127.0.0.1:1/{EVIL}", "sessions"],
    "a prefix": lambda sid, file: ["--prefix", f"p{EVIL}", "sessions"],
}


@pytest.mark.promise("isolation")
@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", COMMANDS)
def test_no_command_sends_a_terminal_what_it_would_obey(
    name: str, evil: tuple[CacheConfig, str, Path]
) -> None:
    config, session_id, file = evil
    _, shown = on_a_terminal(config, *COMMANDS[name](session_id, file))
    assert shown
    assert set(shown) & FORBIDDEN == set()
    assert not re.search(r"^FAKE LINE", shown, re.MULTILINE)


@pytest.mark.promise("isolation")
def test_what_is_not_seen_is_escaped_and_what_shapes_letters_is_kept() -> None:
    kept = {c for c in UNSEEN if visible(c, lines=True) == c}
    assert kept >= set("\n\t\u200c\u200d")
    # Of the rest only signs that are printed, such as those before an Arabic number.
    assert all(
        "SIGN" in n or "MARK" in n or "END OF AYAH" in n
        for n in map(unicodedata.name, kept - set("\n\t\u200c\u200d"))
    )
    assert not kept & set(BIDI)
    assert {c for c in UNSEEN if visible(c) == c} == set()


def test_a_line_of_an_export_is_the_same_value_and_harmless_on_a_terminal() -> None:
    value = {"session_id": EVIL, "messages": [UNSEEN, "\ud800 lone", "日本語 👩\u200d💻 a\xa0b", "\\u202e"]}
    line = to_line(value)
    assert json.loads(line) == value
    text = line.decode()
    assert set(text.removesuffix("\n")) & (FORBIDDEN | {"\n", "\r", "\u202e"}) == set()
    assert "日本語 👩\u200d💻 a\xa0b" in text


@pytest.mark.sampled(5)
@pytest.mark.parametrize("encoding", ["ascii:strict", "cp1252"])
@pytest.mark.parametrize(
    "arguments",
    [["show", "日本"], ["sessions"], ["stats"], ["doctor"], ["verify", "nö"], ["--help"]],
    ids=" ".join,
)
def test_no_encoding_ends_in_a_traceback(
    redis_config: CacheConfig, encoding: str, arguments: list[str]
) -> None:
    HybridConversationCache("日本", redis_config).add_message("user", "naïve – 日本 👩\u200d💻 \ud800 …")
    ended = subprocess.run(
        [*COMMAND, *arguments],
        env=environment(redis_config, PYTHONIOENCODING=encoding, PYTHONUTF8="0"),
        capture_output=True,
        check=False,
    )
    assert b"Traceback" not in ended.stderr
    # The doctor minds that this server keeps nothing over a restart; of the other there is no file.
    assert ended.returncode == (arguments[0] in ("doctor", "verify")), ended.stderr
    (ended.stdout + ended.stderr).decode(encoding.partition(":")[0])


def test_without_an_encoding_for_them_marks_of_our_own_are_spelt_in_plain_letters(
    redis_config: CacheConfig,
) -> None:
    Path(redis_config.archive_dir).mkdir(parents=True, exist_ok=True)
    ended = subprocess.run(
        [*COMMAND, "verify"],
        env=environment(redis_config, PYTHONIOENCODING="ascii"),
        capture_output=True,
        check=True,
    )
    assert ended.stdout.startswith(b"ok 0 files")


def left_early(config: CacheConfig, *arguments: str) -> tuple[int, bytes]:
    """Run a command whose reader takes ten bytes and leaves; return its code and its errors."""
    with subprocess.Popen(
        [*COMMAND, *arguments], env=environment(config), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdout.read(10)
        running.stdout.close()
        errors = running.stderr.read()
        return running.wait(60), errors


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    "arguments", [["show", "long"], ["show", "long", "--json"], ["export"]], ids=" ".join
)
def test_a_reader_that_leaves_early_is_no_failure(redis_config: CacheConfig, arguments: list[str]) -> None:
    memory = HybridConversationCache("long", redis_config)
    # More than any pipe holds.
    for _ in range(2):
        memory.add_message("user", "line\n" * 20_000)
    code, errors = left_early(redis_config, *arguments)
    assert code == 0, errors
    assert b"Traceback" not in errors
    assert b"Exception" not in errors


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    "arguments", [["sessions"], ["stats", "--json"], ["--help"], ["--version"]], ids=" ".join
)
def test_a_reader_that_is_gone_before_the_first_byte_is_no_failure(
    redis_config: CacheConfig, arguments: list[str]
) -> None:
    HybridConversationCache("s", redis_config).add_message("user", "hello")
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as closed:
        ended = subprocess.run(
            [*COMMAND, *arguments],
            env=environment(redis_config),
            stdout=closed,
            stderr=subprocess.PIPE,
            check=False,
        )
    assert (ended.returncode, ended.stderr) == (0, b"")


def test_damage_that_was_found_stays_found_when_the_reader_leaves(redis_config: CacheConfig) -> None:
    HybridConversationCache("a", redis_config).add_message("user", "x")
    Path(redis_config.archive_dir).mkdir(parents=True, exist_ok=True)
    for number in range(3000):
        (Path(redis_config.archive_dir) / f"{number}{'n' * 150}.huff").write_bytes(b"CAv2garbage")
    code, errors = left_early(redis_config, "verify")
    assert (code, errors) == (1, b"")


def test_a_stdout_that_is_full_or_closed_is_said_without_a_traceback(redis_config: CacheConfig) -> None:
    Path(redis_config.archive_dir).mkdir()
    with open("/dev/full", "wb") as full:
        ended = subprocess.run(
            [*COMMAND, "sessions", "--json"],
            env=environment(redis_config),
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
        )
    assert ended.returncode == 1
    assert ended.stderr == b"error: No space left on device\n"
    closed = subprocess.run(
        ["sh", "-c", f"exec '{sys.executable}' -m lix_cache.cli stats --json >&-"],
        env=environment(redis_config), stderr=subprocess.PIPE, check=False,
    )  # fmt: skip
    assert (closed.returncode, closed.stderr) == (0, b"")


@pytest.mark.parametrize(
    ("variables", "offered"),
    [
        (
            {"_LIX_CACHE_COMPLETE": "complete_bash", "COMP_WORDS": "lix-cache se", "COMP_CWORD": "1"},
            "sessions",
        ),
        (
            {"_LIX_CACHE_COMPLETE": "complete_bash", "COMP_WORDS": "lix-cache codec t", "COMP_CWORD": "2"},
            "train",
        ),
        ({"_LIX_CACHE_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": "lix-cache exp"}, "export"),
        (
            {
                "_LIX_CACHE_COMPLETE": "complete_fish",
                "_TYPER_COMPLETE_ARGS": "lix-cache show --re",
                "_TYPER_COMPLETE_FISH_ACTION": "get-args",
            },
            "--recent",
        ),
    ],
    ids=["bash", "bash, a group", "zsh", "fish"],
)
def test_the_shells_complete_commands_and_options(
    redis_config: CacheConfig, variables: dict[str, str], offered: str
) -> None:
    ended = subprocess.run(
        COMMAND, env=environment(redis_config, **variables), capture_output=True, text=True, check=True
    )
    assert offered in ended.stdout
    assert ended.stderr == ""


def test_the_completion_script_is_shown_for_those_who_install_it_themselves(
    redis_config: CacheConfig,
) -> None:
    ended = subprocess.run(
        [*COMMAND, "--show-completion", "bash"],
        # A test that no shell is an ancestor of asks for bash, whatever typer would find.
        env=environment(redis_config, _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1"),
        capture_output=True,
        text=True,
        check=True,
    )
    assert "lix-cache" in ended.stdout
    assert "_LIX_CACHE_COMPLETE" in ended.stdout
