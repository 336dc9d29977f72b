"""The replay: what a chat application does all day, with recorded answers instead of a model's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from lix_cache import (
    ArchiveError,
    CacheConfig,
    CacheCoordinator,
    InvalidInput,
    StoreAdmin,
    create_redis_client,
)
from lix_cache.cli.conversations import Conversation, Message
from lix_cache.cli.demo.check import Verdict, compare
from lix_cache.cli.demo.measure import Latencies, Totals
from lix_cache.cli.demo.stage import EMBEDDER

__all__ = ["Replay", "Watcher"]

#: Answers about a page, or to an opening question, depend on no history: all
#: conversations share them, under a session id of their own.
_SHARED = "shared answers"
_NO_PAGE = "no page"
_PING_EVERY = 4


class Watcher(Protocol):
    """Who looks on."""

    def say(self, what: str) -> None:
        """Something new begins."""
        ...

    def added(self, count: int = 1) -> None:
        """Messages were added, and the totals has changed."""
        ...


class Replay:
    """Replays conversations, all of them visit by visit, with all sessions idle in between.

    Args:
        conversations: what to replay.
        config: the store; it must be empty.
        watcher: who is told.

    Attributes:
        totals: what happened so far.
        latencies: how long it took.
    """

    def __init__(self, conversations: Sequence[Conversation], config: CacheConfig, watcher: Watcher) -> None:
        self.totals = Totals(
            conversations=len(conversations),
            raw_bytes=sum(m.size for conversation in conversations for m in conversation.messages),
        )
        self.latencies = Latencies()
        self._config = config
        self._watcher = watcher
        self._visits = [(conversation, conversation.by_visit()) for conversation in conversations]
        self._sent: dict[str, list[Message]] = {conversation.id: [] for conversation in conversations}
        self._late_spills = 0
        self._admin = StoreAdmin(config)
        self._shared = CacheCoordinator(_SHARED, config)
        self._ping = create_redis_client(db=config.session_redis_db, config=config).ping
        self._evictor = self._shared.context_window.hybrid.evictor

    def run(self) -> Verdict:
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
                    self._watcher.say(conversation.title)
                    self._visit(conversation, visits[visit], is_return=visit > 0)
            self._measure()
        self._watcher.say("reading everything back")
        verdict = Verdict()
        for conversation, _ in self._visits:
            window = CacheCoordinator(conversation.id, self._config).context_window
            compare(verdict, conversation.title, conversation.messages, window.get_full_history())
        self._all_idle()
        self.stop()
        self._count_spills(self._shared.context_window.get_stats()["evictor"])
        self.totals.disk_bytes = self._admin.stats().archive_bytes
        self.totals.disk_raw_bytes = self.totals.raw_bytes
        return verdict

    def stop(self) -> None:
        """End the evictor; the store is not touched after this."""
        self._evictor.stop()
        self._evictor.join()

    # -- one visit -----------------------------------------------------------------------

    def _visit(self, conversation: Conversation, messages: list[Message], *, is_return: bool) -> None:
        # A new object each time, as a new process would make one.
        coordinator = CacheCoordinator(conversation.id, self._config)
        self.totals.visits += 1
        if is_return:
            self._timed("get_context, cold", coordinator.get_context_messages)
        for position, message in enumerate(messages):
            self._add(coordinator, conversation, message)
            if message.role == "user":
                self._timed("get_context", coordinator.get_context_messages)
                self._use_caches(coordinator, conversation, message, messages[position + 1 :])
            if self.totals.messages % _PING_EVERY == 0:
                self._timed("PING", self._ping)
            self._watcher.added()
        stats = coordinator.context_window.get_stats()
        self.totals.rehydrations += stats["counters"].get("rehydrations", 0)
        # Where the evictor is late, an add has done its work.
        self._late_spills += stats["counters"].get("spilled_messages", 0)
        self._count_spills(stats["evictor"])

    def _count_spills(self, evictor: dict[str, Any]) -> None:
        self.totals.spilled_messages = self._late_spills + evictor.get("spilled_messages", 0)

    def _add(self, coordinator: CacheCoordinator, conversation: Conversation, message: Message) -> None:
        try:
            self._timed(
                "add",
                lambda: coordinator.add_message_to_context(
                    message.role, message.content, metadata=message.metadata or None
                ),
            )
        except InvalidInput as error:
            raise InvalidInput(f"{conversation.where}: {error}") from None
        self._sent[conversation.id].append(message)
        self.totals.messages += 1

    def _use_caches(
        self,
        coordinator: CacheCoordinator,
        conversation: Conversation,
        question: Message,
        rest: Sequence[Message],
    ) -> None:
        if question.url is not None:
            self.totals.url_lookups += 1
            if self._timed("URL get", lambda: coordinator.get_url_embedding(str(question.url))) is None:
                coordinator.cache_url_embedding(question.url, EMBEDDER.embed([question.url])[0])
            else:
                self.totals.url_reused += 1
        answer = _recorded_answer(rest)
        if answer is not None and isinstance(question.content, str):
            is_opening = all(m.role != "user" for m in self._sent[conversation.id][:-1])
            # Any other question means what it means because of what was said before.
            if question.url is not None or is_opening:
                self._ask(question.url or _NO_PAGE, question.content, answer)

    def _ask(self, url: str, question: str, recorded: str) -> None:
        vector = EMBEDDER.embed([question])[0]
        self.totals.lookups += 1
        found = self._timed("semantic get", lambda: self._shared.get_semantic_response(url, vector))
        if found is None:
            # Here an application calls its model.
            self._shared.cache_semantic_response(url, vector, {"answer": recorded})
            return
        self.totals.hits += 1
        self.totals.other_answers += found["answer"] != recorded

    def _timed(self, name: str, call: Any) -> Any:
        return self.latencies.timed(name, call)

    # -- between the visits --------------------------------------------------------------

    def _all_idle(self) -> None:
        self._watcher.say("all sessions are idle: moving sessions to disk")
        moved = self._admin.offload(0)
        for session_id, why in moved.failed.items():
            raise ArchiveError(f"session {session_id!r} could not be moved to disk: {why}")
        self.totals.offloaded_sessions += moved.sessions
        self.totals.offloaded_messages += moved.messages

    def _measure(self) -> None:
        """Measure while hot."""
        totals = self.totals
        totals.hot_sessions = totals.hot_messages = totals.cold_messages = 0
        for info in self._admin.sessions():
            sent = self._sent[info.session_id]
            totals.cold_messages += info.cold_messages
            if info.hot_messages:
                totals.hot_sessions += 1
                totals.hot_messages += info.hot_messages
                # A window holds the newest.
                totals.redis_raw_bytes += sum(m.size for m in sent[-info.hot_messages :])
                totals.redis_bytes += info.redis_bytes


def _recorded_answer(rest: Sequence[Message]) -> str | None:
    """Return what the assistant said last before the user spoke again."""
    answer = None
    for message in rest:
        if message.role == "user":
            break
        if message.role == "assistant" and isinstance(message.content, str) and message.content:
            answer = message.content
    return answer
