"""What is not to be cached at all, and for how long the rest: data, no code.

A policy is a frozen set of numbers and texts that can be written as JSON, kept beside an
application's other settings, and read by another process.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from lix_cache.checks import check_flag, check_is, check_seconds, check_text, check_whole, given
from lix_cache.dialects.prompts import Prompt, read_prompt
from lix_cache.dialects.responses import flaw_of
from lix_cache.dialects.streams import flaw_of_stream
from lix_cache.errors import ConfigError
from lix_cache.matching.guards import is_elliptical
from lix_cache.matching.guards.lexicon.time_words import TIME_SUBSTRINGS, TIME_WORDS
from lix_cache.matching.guards.reading import fold, read
from lix_cache.matching.patterns import Patterns
from lix_cache.matching.text import LONGEST, normalise
from lix_cache.values.streamed import Streamed

__all__ = ["CachePolicy", "Refusal"]


#: How an error begins that was returned in the place of an answer; folded.
_ERRORS = ("error:", "exception:", "traceback (most recent call last):")
#: Characters of a response in which its beginning is looked for.
_BEGINNING = 1_000


@dataclass(frozen=True)
class Refusal:
    """Why something is not looked up or not stored.

    Attributes:
        rule: ``too_short``, ``too_long``, ``excluded``, ``follow_up``; of responses also
            ``error``, ``empty``, ``truncated``, ``tool_call``.
        detail: for people.
    """

    rule: str
    detail: str = ""


@dataclass(frozen=True)
class CachePolicy:
    """What may be answered from a cache.

    Attributes:
        min_query_chars: shorter queries are not cached.
        max_query_chars: nor are longer ones; at most 20,000.
        exclude: regular expressions of RE2 (the extra ``patterns``); a query in which one is
            found, whatever its case, is neither looked up nor stored.
        error_patterns: the same for the beginning of responses that are text: an
            application's own error messages, beside "Error:", "Exception:" and Python's
            tracebacks, which are known.
        time_sensitive_seconds: longest time to live of the answer to a query about now ("today",
            "latest"), in seconds.
        time_words: more words (or, with spaces in them, phrases) that make a query one about
            now, besides those built in for the languages of the guards.
        builtin_time_words: whether those are used.
        follow_ups: whether to cache queries that mean nothing alone ("yes please") where
            the context does not say what was said before (``conversation``).
        whole_answers_only: never store errors, empty or truncated answers, or calls of tools.
        history: whether all that was said before belongs to the context that
            :meth:`extract_query` makes. If not, the number of turns and what tools answered do, and
            an answer that what one user said before has shaped may be given to another.
        transcripts: whether :meth:`extract_query` takes a text apart that shows several turns
            ("User: … Assistant: …"). If not, it is one question.
        max_stream_bytes: longer streams are passed on and not stored; the sum of their events, as stored.
        max_stream_events: nor are those of more events.
    """

    min_query_chars: int = 1
    max_query_chars: int = 8_000
    exclude: tuple[str, ...] = ()
    error_patterns: tuple[str, ...] = ()
    time_sensitive_seconds: float = 60.0
    time_words: tuple[str, ...] = ()
    builtin_time_words: bool = True
    follow_ups: bool = False
    whole_answers_only: bool = True
    history: bool = True
    transcripts: bool = False
    max_stream_bytes: int = 4 * 1024 * 1024
    max_stream_events: int = 20_000

    def __post_init__(self) -> None:
        check_whole("CachePolicy.min_query_chars", self.min_query_chars, 0, LONGEST)
        least = max(1, self.min_query_chars)
        check_whole("CachePolicy.max_query_chars", self.max_query_chars, least, LONGEST)
        for name in ("exclude", "error_patterns", "time_words"):
            object.__setattr__(self, name, _texts(name, getattr(self, name)))
        for name in ("exclude", "error_patterns"):
            _patterns(getattr(self, name), f"CachePolicy.{name}")
        for name in ("builtin_time_words", "follow_ups", "whole_answers_only", "history", "transcripts"):
            check_flag(f"CachePolicy.{name}", getattr(self, name))
        for name in ("max_stream_bytes", "max_stream_events"):
            check_whole(f"CachePolicy.{name}", getattr(self, name), 1)
        check_seconds("CachePolicy.time_sensitive_seconds", self.time_sensitive_seconds)

    # -- decisions ------------------------------------------------------------------------

    def check_lookup(self, query: str, context: Mapping[str, Any]) -> Refusal | None:
        """Return why a query is not to be answered from a cache, or None."""
        check_text("query", query, may_be_empty=True)
        check_is("context", context, Mapping)
        # Before anything that looks at each character; white space counts, for it takes time too.
        if len(query) > self.max_query_chars:
            return Refusal("too_long", f"{len(query)} of at most {self.max_query_chars} characters")
        size = len(query.strip())
        if size < self.min_query_chars:
            return Refusal("too_short", f"{size} of at least {self.min_query_chars} characters")
        found = _patterns(self.exclude, "CachePolicy.exclude").find(normalise(query))
        if found is not None:
            return Refusal("excluded", f"the pattern {found!r} is found in it")
        if not self.follow_ups and "conversation" not in context and is_elliptical(query):
            return Refusal("follow_up", "it means nothing without what was said before")
        return None

    def check_store(self, query: str, response: Any, context: Mapping[str, Any]) -> Refusal | None:
        """Return why a response is not to be stored, or None."""
        refusal = self.check_lookup(query, context)
        if refusal is not None or not self.whole_answers_only:
            return refusal
        flaw = flaw_of_stream(response) if isinstance(response, Streamed) else flaw_of(response)
        if flaw is not None:
            return Refusal(*flaw)
        text = response.body if isinstance(response, Streamed) else response
        if isinstance(text, str):
            beginning = text[:_BEGINNING]
            if beginning.lstrip().lower().startswith(_ERRORS):
                return Refusal("error", "it begins as an error does")
            found = _patterns(self.error_patterns, "CachePolicy.error_patterns").find(beginning)
            if found is not None:
                return Refusal("error", f"the pattern {found!r} is found in it")
        return None

    def is_time_sensitive(self, query: str) -> bool:
        """Whether the answer is a matter of hours."""
        reading = read(check_text("query", query, may_be_empty=True))
        if self.builtin_time_words:
            if not TIME_WORDS.isdisjoint(reading.counts):
                return True
            if not query.isascii() and any(word in reading.folded for word in TIME_SUBSTRINGS):
                return True
        own = _phrases(self.time_words)
        return own is not None and own.search(reading.folded) is not None

    def ttl_for(self, query: str, default_seconds: float) -> float:
        """Return the time to live of the answer to a query, in seconds."""
        return (
            min(default_seconds, self.time_sensitive_seconds)
            if self.is_time_sensitive(query)
            else default_seconds
        )

    def extract_query(
        self, messages: str | Sequence[Mapping[str, Any]], *, system: Any = None
    ) -> tuple[str, dict[str, Any]]:
        """Return the question in a prompt, and what of the rest belongs into the scope.

        See :mod:`lix_cache.dialects.prompts` for the forms it understands.

        Raises:
            InvalidInput: no text, no messages, or no user turn.
            InvalidContext: a message holds something that cannot be compared exactly.
        """
        prompt: Prompt = read_prompt(
            messages, history=self.history, transcripts=self.transcripts, system=system
        )
        return prompt.query, prompt.context

    # -- as data --------------------------------------------------------------------------

    def to_json(self) -> str:
        """Return the policy as JSON."""
        return json.dumps(dataclasses.asdict(self), ensure_ascii=False, indent=2)

    @classmethod
    def from_json(cls, text: str) -> CachePolicy:
        """Read what :meth:`to_json` wrote. What is left out keeps its default.

        Raises:
            ConfigError: no JSON object, a name that is none of the settings, or a setting that
                is out of range.
        """
        check_text("text", text)
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            values, why = None, str(error)
        else:
            why = "" if isinstance(values, dict) else given(values)
        if why:
            # Raised out here: Python's own error carries the whole text.
            raise ConfigError(f"the text of a policy must be a JSON object: {why}")
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(values.keys() - known)
        if unknown:
            raise ConfigError(f"a policy has no setting {unknown[0]!r}; there are {', '.join(sorted(known))}")
        return cls(**values)


def _texts(name: str, values: object) -> tuple[str, ...]:
    if isinstance(values, str) or not isinstance(values, (list, tuple)):
        raise ConfigError(f"CachePolicy.{name} must be a list of texts, {given(values)}")
    for value in values:
        if not isinstance(value, str) or not value.strip():
            raise ConfigError(f"CachePolicy.{name} must hold texts that are not empty, {given(value)}")
    return tuple(values)


@lru_cache(maxsize=64)
def _patterns(patterns: tuple[str, ...], where: str) -> Patterns:
    return Patterns(patterns, where)


@lru_cache(maxsize=64)
def _phrases(words: tuple[str, ...]) -> re.Pattern[str] | None:
    """Return what finds any of the words; between letters only those of scripts without spaces."""
    if not words:
        return None
    return re.compile(
        "|".join(
            rf"(?<![^\W_]){re.escape(w)}(?![^\W_])" if w.isascii() else re.escape(w) for w in map(fold, words)
        )
    )
