"""Named rules for what coding agents write into their prompts and change from run to run. Pure.

None is on by default: with a rule switched on, two requests that differ in nothing but what it matches
share an answer. They touch the key alone, never what is forwarded. A rule looks at system prompts and at
the user's turns before the first answer, and replaces what it matches by a fixed mark; what is around it
stays as it is. Each has samples, which tests hold it to, and texts that it must not touch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from lix_cache._spelling import did_you_mean
from lix_cache.errors import ConfigError

# ruff: noqa: E501 - samples and patterns are rows of a table

__all__ = ["RULES", "Rule", "normaliser"]

_MONTHS = r"(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]*"
_DATE = rf"(?:\d{{4}}[-/]\d{{1,2}}[-/]\d{{1,2}}|\d{{1,2}}/\d{{1,2}}/\d{{4}}|(?:[A-Z][a-z]{{2,8}},? )?{_MONTHS} \d{{1,2}},? \d{{4}})"
_HOME = r"(?:/|~|[A-Za-z]:\\)[^\n`]{0,500}"
_PATH = r"(?:/|~|[A-Za-z]:\\)[^\n<>]{0,500}"


@dataclass(frozen=True)
class Rule:
    """One volatile part.

    Attributes:
        name: how a configuration switches it on.
        pattern: what it matches; the groups ``a`` and ``b`` stay.
        samples: pairs of texts that it makes equal.
        untouched: texts near to them that it leaves as they are.
    """

    name: str
    pattern: re.Pattern[str]
    samples: tuple[tuple[str, str], ...]
    untouched: tuple[str, ...]

    def __call__(self, text: str) -> str:
        """Return the text with the part replaced."""
        return self.pattern.sub(rf"\g<a><{self.name}>\g<b>", text)


def _rule(
    name: str, pattern: str, samples: tuple[tuple[str, str], ...], untouched: tuple[str, ...], flags: int = 0
) -> Rule:
    return Rule(name, re.compile(pattern, re.MULTILINE | flags), samples, untouched)


#: All rules by name.
RULES = {
    rule.name: rule
    for rule in (
        _rule(
            "date",
            rf"(?P<a>^[ \t]*(?:[-*] )?(?:Today's date(?: is|:)|Current date(?: is|:)|The current date is) ){_DATE}(?P<b>\.?[ \t]*$)",
            (
                ("# currentDate\nToday's date is 2026-07-01.", "# currentDate\nToday's date is 2026-07-02."),
                ("  Today's date: Fri Nov 21 2026\n</env>", "  Today's date: Sat Nov 22 2026\n</env>"),
                ("Current date: 2026-01-02", "Current date: 2026-11-12"),
            ),
            (
                "Is 2026-07-01 a Friday?",
                "Today's date is 2026-07-01, and the deadline is 2026-08-01.",
                "The release date: 2026-07-01",
            ),
        ),
        _rule(
            "current-date-tag",
            rf"(?P<a><current_date>){_DATE}(?P<b></current_date>)",
            (("<current_date>2026-07-01</current_date>", "<current_date>2026-07-02</current_date>"),),
            ("<due_date>2026-07-01</due_date>", "<current_date>soon, 2026-07-01</current_date>"),
        ),
        _rule(
            "cwd",
            rf"(?P<a>^[ \t]*(?:[-*] )?(?:Primary working directory|Working directory|Current working directory|Workspace root folder|cwd): ){_PATH}(?P<b>$)",
            (
                (
                    "<env>\nWorking directory: /tmp/a1\nPlatform: linux",
                    "<env>\nWorking directory: /tmp/b\nPlatform: linux",
                ),
                (" - Primary working directory: /home/u/x", " - Primary working directory: /home/u/y"),
                ("  Workspace root folder: /tmp/a", "  Workspace root folder: /tmp/b"),
            ),
            (
                "Output directory: /tmp/a1",
                "Delete the working directory: /tmp/a1",
                "Working directory: unknown",
            ),
        ),
        _rule(
            "cwd-tag",
            rf"(?P<a><(?P<tag>cwd|root)>){_PATH}(?P<b></(?P=tag)>)",
            (
                ("<cwd>/tmp/a</cwd>", "<cwd>/tmp/b</cwd>"),
                ("<workspace_roots><root>/tmp/a</root>", "<workspace_roots><root>/tmp/b</root>"),
            ),
            ("<path>/tmp/a</path>", "<root>2</root>", "<cwd>/tmp/a</root>"),
        ),
        _rule(
            "agent-home",
            rf"(?P<a>^(?:You have a persistent, file-based memory system at |- `r\d{{1,2}}` = )`){_HOME}(?P<b>`)",
            (
                (
                    "You have a persistent, file-based memory system at `/home/a/.claude/projects/-x/memory/`. It exists.",
                    "You have a persistent, file-based memory system at `/home/b/.claude/projects/-y/memory/`. It exists.",
                ),
                ("- `r0` = `/home/a/.codex/skills/.system`", "- `r0` = `/home/b/.codex/skills/.system`"),
            ),
            ("- `r0` = `12`", "Read `/home/a/.codex/skills/.system`", "- `root` = `/home/a`"),
        ),
        _rule(
            "git-status",
            r"(?P<a>^(?:gitStatus: )?This is the git status at the start of the conversation\.[^\n]*\n)"
            # A line can be read in one way alone, and some end is always there: else a long text is tried for ever.
            r"(?:(?!^</|^# |^<system-reminder>)[^\n]*(?:\n|\Z))+?(?P<b>(?=^</|^# |^<system-reminder>)|\Z)",
            (
                (
                    "gitStatus: This is the git status at the start of the conversation. Note.\nCurrent branch: a\n\nM x.py\n",
                    "gitStatus: This is the git status at the start of the conversation. Note.\nCurrent branch: b\n",
                ),
                (
                    "This is the git status at the start of the conversation. N\nStatus:\n(clean)\n# Next\nDo it.",
                    "This is the git status at the start of the conversation. N\nStatus:\n M a\n# Next\nDo it.",
                ),
            ),
            ("Current branch: a\nStatus:\n(clean)", "What is the git status at the start of the day?"),
        ),
        _rule(
            "directory-listing",
            r"(?P<a><(?P<tag>directoryStructure|files|working_directory_listing)>)[^<]{0,100000}(?P<b></(?P=tag)>)",
            (("<files>\n  a.py\n  b.py\n</files>", "<files>\n  c.py\n</files>"),),
            ("<file>a.py</file>", "<files>a.py"),
        ),
        _rule(
            "token-budget",
            r"(?P<a><system_warning>Token usage: |<budget:token_budget>|<total_tokens>)[\d,]{1,12}(?:/[\d,]{1,12}; [\d,]{1,12} remaining| tokens left)?(?P<b></)",
            (
                (
                    "<system_warning>Token usage: 1200/200000; 198800 remaining</system_warning>",
                    "<system_warning>Token usage: 5/200000; 199995 remaining</system_warning>",
                ),
                (
                    "<budget:token_budget>200000</budget:token_budget>",
                    "<budget:token_budget>1</budget:token_budget>",
                ),
                (
                    "<total_tokens>15000000 tokens left</total_tokens>",
                    "<total_tokens>14978081 tokens left</total_tokens>",
                ),
            ),
            ("Token usage: 1200/200000; 198800 remaining", "<budget>200000</budget>"),
        ),
        _rule(
            "session-id",
            r"(?P<a>^[ \t]*(?:[-*] )?(?:Session ID|session_id|Conversation ID|Request ID|Nonce): )[0-9A-Za-z_-]{6,80}(?P<b>[ \t]*$)",
            (("Session ID: 01HX-abc-1", "Session ID: 01HX-abc-2"), ("Nonce: 8f3a11c0", "Nonce: 99aa11c0")),
            ("The Session ID: is missing", "User ID: 01HX-abc-1", "Session ID: 1 or 2"),
        ),
    )
}


def normaliser(names: Iterable[str]) -> Callable[[str, dict[str, Any]], dict[str, Any]] | None:
    """Return what maps protocol and body to a body without the parts that rules of these names match.

    Raises:
        ConfigError: there is no rule of a name.
    """
    chosen = []
    for name in names:
        if name not in RULES:
            raise ConfigError(
                f"there is no rule {name[:60]!r} for volatile parts{did_you_mean(name, list(RULES))}; "
                f"there are {', '.join(RULES)}"
            )
        chosen.append(RULES[name])
    if not chosen:
        return None

    def clean(text: str) -> str:
        for rule in chosen:
            text = rule(text)
        return text

    return lambda protocol, body: _over_opening(protocol, body, clean)


def _over_opening(protocol: str, body: dict[str, Any], clean: Callable[[str], str]) -> dict[str, Any]:
    found = dict(body)
    for name in ("system", "instructions"):
        if name in found:
            found[name] = _texts(found[name], clean)
    turns = "input" if protocol == "responses" else "messages"
    if isinstance(found.get(turns), list):
        found[turns] = list(_opened(found[turns], clean))
    return found


def _opened(messages: list[Any], clean: Callable[[str], str]) -> Iterable[Any]:
    is_opening = True
    for message in messages:
        role = message.get("role") if isinstance(message, dict) else None
        is_opening = is_opening and role in ("user", "system", "developer")
        if role in ("system", "developer") or (is_opening and role == "user"):
            yield (
                {**message, "content": _texts(message.get("content"), clean)}
                if "content" in message
                else message
            )
        else:
            yield message


def _texts(content: Any, clean: Callable[[str], str]) -> Any:
    if isinstance(content, str):
        return clean(content)
    if not isinstance(content, list):
        return content
    return [
        {**block, "text": clean(block["text"])}
        if isinstance(block, dict)
        and block.get("type") in ("text", "input_text")
        and isinstance(block.get("text"), str)
        else block
        for block in content
    ]
