"""The replay: what a chat application does all day, with recorded answers instead of a model's."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from lix_cache import ArchiveError, CacheConfig, CacheCoordinator, InvalidInput, StoreAdmin
from lix_cache.cli.conversations import Conversation, Message
from lix_cache.cli.demo.stage import EMBEDDER

__all__ = ["Replay", "Totals"]

T = TypeVar("T")

#: Answers about a page, or to an opening question, depend on no history: all conversations share them,
#: under a session id of their own.
_SHARED = "shared answers"
_NO_PAGE = "no page"


@dataclass
class Totals:
    """What happened in a replay.

    Attributes:
        conversations: how many.
        visits: how often their users came, in all.
        messages: how many were added.
        raw_bytes: UTF-8 of their roles and contents, and of their other fields as JSON.
        hot_messages: messages in Redis at the end of the last visit.
        hot_raw_bytes: UTF-8 of those.
        redis_bytes: memory of their windows.
        cold_messages: messages on disk then; those brought back from there are in both.
        disk_bytes: size of the files, once everything is on disk.
        offloaded_sessions: idle sessions moved to disk.
        rehydrations: cold sessions brought back by their user's return.
        lookups: questions looked up in the semantic cache.
        hits: answers found there.
        url_lookups: URL vectors asked for.
        url_reused: those that were there.
        lost: messages that did not come back.
        doubled: messages that came back and should not, or once too often.
        out_of_order: conversations whose messages all came back, in another order.
        examples: the first troubles, in words.
        seconds: how long each call took, by operation.
    """

    conversations: int = 0
    visits: int = 0
    messages: int = 0
    raw_bytes: int = 0
    hot_messages: int = 0
    hot_raw_bytes: int = 0
    redis_bytes: int = 0
    cold_messages: int = 0
    disk_bytes: int = 0
    offloaded_sessions: int = 0
    rehydrations: int = 0
    lookups: int = 0
    hits: int = 0
    url_lookups: int = 0
    url_reused: int = 0
    lost: int = 0
    doubled: int = 0
    out_of_order: int = 0
    examples: list[str] = field(default_factory=list)
    seconds: dict[str, list[float]] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        return not (self.lost or self.doubled or self.out_of_order)

    def timed(self, name: str, call: Callable[[], T]) -> T:
        """Make a call and note how long it took."""
        began = time.perf_counter()
        result = call()
        self.seconds.setdefault(name, []).append(time.perf_counter() - began)
        return result

    def compare(self, title: str, sent: Sequence[Message], came_back: Sequence[dict[str, Any]]) -> None:
        """Check one conversation: role, content and metadata must be equal to the letter."""
        expected = [_key(m.role, m.content, m.metadata) for m in sent]
        got = [_key(m.get("role"), m.get("content"), m.get("metadata")) for m in came_back]
        if expected == got:
            return
        lost, doubled = Counter(expected) - Counter(got), Counter(got) - Counter(expected)
        self.lost += lost.total()
        self.doubled += doubled.total()
        self.out_of_order += not lost and not doubled
        if len(self.examples) < 3:
            what = f"{lost.total()} lost, {doubled.total()} too many" if lost or doubled else "out of order"
            self.examples.append(f"{title}: {what}")


def _key(role: Any, content: Any, metadata: Any) -> str:
    return json.dumps([role, content, metadata], sort_keys=True)


class Replay:
    """Replays conversations, all of them visit by visit, with all sessions idle in between.

    Args:
        conversations: what to replay.
        config: the store; it must be empty.
        added: called after each message.

    Attributes:
        totals: what happened so far.
    """

    def __init__(
        self, conversations: Sequence[Conversation], config: CacheConfig, added: Callable[[], None]
    ) -> None:
        self.totals = Totals(conversations=len(conversations))
        self._config = config
        self._added = added
        self._visits = [(conversation, conversation.by_visit()) for conversation in conversations]
        self._admin = StoreAdmin(config)
        self._shared = CacheCoordinator(_SHARED, config)

    def run(self) -> None:
        """Replay everything, and compare what comes back with what went in.

        Raises:
            InvalidInput: a message cannot be kept as JSON without changing it.
            RedisError, ArchiveError: trouble with the store.
        """
        rounds = max(len(visits) for _, visits in self._visits)
        for number in range(rounds):
            if number:
                self._all_idle()
            for conversation, visits in self._visits:
                # A user with fewer visits begins later, so that all are there at the end.
                visit = number - rounds + len(visits)
                if visit >= 0:
                    self._visit(conversation, visits[visit], is_return=visit > 0)
        self._measure()
        for conversation, _ in self._visits:
            window = CacheCoordinator(conversation.id, self._config).context_window
            self.totals.compare(conversation.title, conversation.messages, window.get_full_history())
        self._all_idle()
        self.stop()
        self.totals.disk_bytes = self._admin.stats().archive_bytes

    def stop(self) -> None:
        """End the evictor; the store is not touched after this."""
        evictor = self._shared.context_window.hybrid.evictor
        evictor.stop()
        evictor.join()

    def _visit(self, conversation: Conversation, messages: list[Message], *, is_return: bool) -> None:
        # A new object each time, as a new process would make one.
        session = CacheCoordinator(conversation.id, self._config)
        self.totals.visits += 1
        if is_return:
            self.totals.timed("get_context, cold", session.get_context_messages)
        is_opening = not is_return
        for position, message in enumerate(messages):
            try:
                self._add(session, message)
            except InvalidInput as error:
                raise InvalidInput(f"{conversation.where}: {error}") from None
            if message.role == "user":
                self.totals.timed("get_context", session.get_context_messages)
                answer = _recorded_answer(messages[position + 1 :])
                # Any other question means what it means because of what was said before.
                if answer is not None and (message.url or is_opening):
                    self._ask(message, answer)
                is_opening = False
            self._added()
        counters = session.context_window.get_stats()["counters"]
        self.totals.rehydrations += counters.get("rehydrations", 0)

    def _add(self, session: CacheCoordinator, message: Message) -> None:
        self.totals.timed(
            "add",
            lambda: session.add_message_to_context(
                message.role, message.content, metadata=message.metadata or None
            ),
        )
        self.totals.messages += 1
        self.totals.raw_bytes += message.size
        url = message.url
        if message.role == "user" and url is not None:
            self.totals.url_lookups += 1
            if self.totals.timed("URL get", lambda: session.get_url_embedding(url)) is not None:
                self.totals.url_reused += 1
            else:
                session.cache_url_embedding(url, EMBEDDER.embed([url])[0])

    def _ask(self, question: Message, recorded: str) -> None:
        if not isinstance(question.content, str):
            return
        page, vector = question.url or _NO_PAGE, EMBEDDER.embed([question.content])[0]
        self.totals.lookups += 1
        ask = self._shared.get_semantic_response
        if self.totals.timed("semantic get", lambda: ask(page, vector)) is not None:
            self.totals.hits += 1
        else:
            # Here an application calls its model.
            self._shared.cache_semantic_response(page, vector, {"answer": recorded})

    def _all_idle(self) -> None:
        moved = self._admin.offload(0)
        for session_id, why in moved.failed.items():
            raise ArchiveError(f"session {session_id!r} could not be moved to disk: {why}")
        self.totals.offloaded_sessions += moved.sessions

    def _measure(self) -> None:
        sent = {conversation.id: conversation.messages for conversation, _ in self._visits}
        for info in self._admin.sessions():
            self.totals.cold_messages += info.cold_messages
            self.totals.hot_messages += info.hot_messages
            self.totals.redis_bytes += info.redis_bytes
            # A window holds the newest.
            newest = sent[str(info.session_id)][-info.hot_messages :] if info.hot_messages else []
            self.totals.hot_raw_bytes += sum(message.size for message in newest)


def _recorded_answer(rest: Sequence[Message]) -> str | None:
    """Return what the assistant said last before the user spoke again."""
    answer = None
    for message in rest:
        if message.role == "user":
            break
        if message.role == "assistant" and isinstance(message.content, str) and message.content:
            answer = message.content
    return answer
