"""What all requests of a process share: settings, tiers, providers, counts."""

from __future__ import annotations

import asyncio
import copy
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any

from lix_cache._log import logger
from lix_cache.clock import SYSTEM_CLOCK, Clock
from lix_cache.config import CacheConfig
from lix_cache.errors import ConfigError
from lix_cache.gateway.access_log import AccessLog
from lix_cache.gateway.accounts import Recipient
from lix_cache.gateway.answer import Answer, Usage
from lix_cache.gateway.asgi import Scope
from lix_cache.gateway.by_meaning import ByMeaning, Place
from lix_cache.gateway.deletions import Dropped
from lix_cache.gateway.eligibility import Question, question_of
from lix_cache.gateway.encoding_thread import EncodingThread
from lix_cache.gateway.headers import Control, forwarded
from lix_cache.gateway.hydration import Snapshot
from lix_cache.gateway.keeping import Keeping
from lix_cache.gateway.limits import Limits
from lix_cache.gateway.metrics import Metrics
from lix_cache.gateway.plain_json import dump
from lix_cache.gateway.prepared import Prepared, Preparer
from lix_cache.gateway.protocols import Protocol
from lix_cache.gateway.references import check_references
from lix_cache.gateway.relay import Flight, opened_flight
from lix_cache.gateway.request import answering_headers, answering_query, parse, stripped
from lix_cache.gateway.settings import FIXED, GatewaySettings
from lix_cache.gateway.tenants import Tenant, TenantBook, presented
from lix_cache.gateway.tiers import NOTHING_FOUND, Entry, Looked, Memory, RedisTier
from lix_cache.gateway.timeline import Timeline
from lix_cache.gateway.traces import Traces
from lix_cache.gateway.undone import Undone
from lix_cache.gateway.upstream import Route, Routes
from lix_cache.gateway.volatile import normaliser
from lix_cache.gateway.warming import Warming

if TYPE_CHECKING:
    from lix_cache.embedders.protocol import Embedder
    from lix_cache.gateway.local.agents import Agents
    from lix_cache.gateway.local.overview import Overview
    from lix_cache.gateway.sessions import Sessions
    from lix_cache.verifiers.protocol import Verifier

__all__ = ["Core"]

#: So long the start waits for what is read beside the requests: most of it is there by then.
_BEGUN_SECONDS = 2.0
#: So long the end waits for what was deleted to be known in Redis, and in the snapshot's place.
_LAST_SECONDS = 5.0


class Core(Keeping):
    """All that requests share.

    Args:
        settings: of the gateway.
        config: of the library: where Redis is.
        embedder: for answers by meaning; None for exact ones alone.
        verifier: asked last.
        log: the access log.
        clock: time.
    """

    def __init__(
        self,
        settings: GatewaySettings,
        config: CacheConfig | None = None,
        *,
        embedder: Embedder | None = None,
        verifier: Verifier | None = None,
        log: AccessLog | None = None,
        clock: Clock = SYSTEM_CLOCK,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        # A request waits for Redis no longer than the gateway's own setting says.
        seconds = settings.redis_seconds
        self._library = (config or CacheConfig()).replace(
            redis_socket_timeout=seconds, redis_socket_connect_timeout=seconds
        )
        self.config = self._library.replace(on_cache_error="miss")
        self.log = AccessLog(is_on=settings.access_log) if log is None else log
        self.metrics = Metrics()
        self.memory = Memory(settings.memory_bytes)
        self.dropped = Dropped()
        self.undone = Undone()
        self.telling: Counter[str] = Counter()
        self.redis = RedisTier(self.config, clock) if settings.redis else None
        self.clock = clock = clock if self.redis is None else self.redis.clock
        self.limits = Limits(self.redis, clock)
        # What was spent while Redis was away is told when it is back, also by a worker that spends no more.
        self.timeline = Timeline(self.redis, clock, more=(self.limits.tell,))
        #: Whether the provider is the scripted one: the page may ask it, which costs nothing.
        self.is_demo = False
        self.embedder = embedder
        self.verifier = verifier
        self.flights: dict[bytes, Flight] = {}
        self.snapshot = Snapshot(settings.snapshot, self.redis, clock)
        self.warming = Warming(embedder, verifier)
        #: Those before this one that still serve, perhaps by connections that were handed on to it.
        self._older: list[Core] = []
        #: What goes on as long as the process does.
        self._lasting: set[asyncio.Task[None]] = set()
        self._beginning: list[asyncio.Task[None]] = []
        self._tasks: set[asyncio.Task[Any]] = set()
        self._env = os.environ if environ is None else environ
        check_references(settings, self._env, is_start=True)
        self.apply(settings)
        #: By the names of their upstreams.
        self.local: dict[str, Any] = {
            route.name: route.upstream for route in self.routes.routes if route.settings.is_local
        }
        self.agents: Agents | None = None
        self.overview: Overview | None = None
        if self.local:
            from lix_cache.gateway.local.agents import Agents
            from lix_cache.gateway.local.overview import Overview

            self.agents = Agents(self)
            self.overview = Overview(self.local, settings.local)
        self._hear_of_models()

    def apply(self, settings: GatewaySettings) -> None:
        """Make all that follows from the settings alone."""
        clock, env = self.clock, self._env
        check_references(settings, env)
        self.settings = settings
        #: Requests that this object serves; a reload makes another one for the next.
        self.users = 0
        self.traces = Traces() if settings.traces else None
        self.tenants = TenantBook(settings, clock, env)
        self.routes = Routes(settings, clock, env)
        self.meaning: ByMeaning | None = None
        if self.embedder is not None and settings.redis:
            self.meaning = ByMeaning(
                self.embedder,
                self.config,
                clock,
                seconds=settings.embedder_seconds,
                threshold=settings.threshold,
                verifier=self.verifier,
                verifier_threshold=settings.verifier_threshold,
            )
        self.normalise = normaliser(settings.volatile)
        self.encoding = EncodingThread(settings.encoders) if settings.encoders else None
        rules = (
            settings.volatile if self.encoding is None else (*settings.volatile, self.encoding.part_of_key)
        )
        self.preparer = Preparer(self.provider, self.normalise, rules)
        self.sessions: Sessions | None = None
        has_sessions = settings.sessions or any(one.sessions for one in settings.tenants)
        if self.redis is not None and has_sessions:
            from lix_cache.gateway.sessions import Sessions

            self.sessions = Sessions(self._library, self.redis, clock, self.undone)

    def _hear_of_models(self) -> None:
        for model in self.local.values():
            model.changed = self.preparer.forget
        if self.agents is not None:
            self.agents.core = self

    def reloaded(self, settings: GatewaySettings) -> Core:
        """Return another core with these settings, which shares all that was found out and counted.

        Requests that run go on with this one; :meth:`retire` it then.

        Raises:
            ConfigError: the settings make no sense, or differ in what only a new start can change.
        """
        fixed = [name for name in FIXED if getattr(settings, name) != getattr(self.settings, name)]
        if fixed:
            raise ConfigError(f"{', '.join(fixed)} cannot change while the gateway runs: restart it")
        if settings.local_models != self.settings.local_models:
            raise ConfigError("models of this machine are changed by /admin/models, or by a restart")
        if not settings.upstreams:
            raise ConfigError("the gateway needs a provider: upstreams in the settings file")
        found = copy.copy(self)
        found.apply(settings)
        found._older = [one for one in (*self._older, self) if one.users]  # noqa: SLF001 - it is one of us
        found.tenants.take_over(self.tenants)
        found.routes.take_over(self.routes)
        if found.sessions is not None and self.sessions is not None:
            found.sessions = self.sessions  # which knows the turns that are being answered
        found._hear_of_models()  # noqa: SLF001 - it is one of us
        kept = ("embedder_seconds", "threshold", "verifier_threshold")
        if all(getattr(settings, name) == getattr(self.settings, name) for name in kept):
            found.meaning = self.meaning  # with the vectors that it holds
        return found

    async def retire(self) -> None:
        """Close what the next core does not use, once no request of this one or of those before runs."""
        while self.users or any(one.users for one in self._older):  # noqa: ASYNC110 - requests should not pay for an event that a reload alone needs
            await asyncio.sleep(0.1)
        self._older.clear()
        await self.routes.close()

    def provider(self, tenant: str, model: Any) -> tuple[str, str]:
        """Return who answers for a model, and a digest of the gateway's own account there."""
        first = self.routes.first(model)
        if first is None:
            return "", ""
        return first.name, self.account_at(first, tenant, first.upstream.identity)

    def account_at(self, route: Route, tenant: str, identity: str) -> str:
        """Return a digest of what answers depend on there: the gateway's own account, or the local model."""
        own = self._own_key(route, self.tenants.tenants.get(tenant))
        parts = ["own", own, identity] if identity else ["own", own]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32] if own or identity else ""

    @property
    def lends(self) -> bool:
        """Whether it answers requests without a key of theirs: with its own, or by a model of its own."""
        return any(route.api_key or route.settings.is_local for route in self.routes.routes)

    @staticmethod
    def _own_key(route: Route, tenant: Tenant | None) -> str:
        return (tenant.provider_keys.get(route.name, "") if tenant is not None else "") or route.api_key

    def outgoing_headers(
        self, scope: Scope, headers: Mapping[str, str], route: Route, tenant: Tenant, *, first: Route | None
    ) -> list[tuple[str, str]] | None:
        """Return a request's headers as a provider gets them: with its key, never with the gateway's.

        Args:
            scope, headers: of the request.
            route, tenant: the provider, and who asks.
            first: whom the client's credentials are for; None: the answer is passed on as it comes encoded.

        Returns:
            None if this provider is not to be asked, for it would get no key, or that of another one.
        """
        recipient = Recipient(
            own=self._own_key(route, tenant),
            key="" if tenant.is_local else presented(headers),
            is_apart="x-lix-key" in headers,
            takes_clients=first is None or route is first or route.settings.client_keys,
            is_local=route.settings.is_local,
            is_anthropic="anthropic-version" in headers or scope["path"].startswith("/v1/messages"),
        )
        pairs = forwarded(scope["headers"], decodes=first is not None)
        return recipient.gets(pairs, self.tenants.knows)

    async def encoded(self, protocol: Protocol, data: bytes) -> bytes:
        """Return a body with its records in fewer tokens, where a setting says so."""
        if self.encoding is None:
            return data
        found = await self.encoding.of_request(protocol.name, parse(data).value)
        self.metrics.encoded_tokens += found.saved_tokens
        return dump(found.request) if found.texts else data

    def asks_meaning(self, control: Control) -> bool:
        """Whether a request may be answered by meaning, if its question may."""
        is_on = control.mode == "semantic" or (self.settings.semantic and control.mode != "exact")
        return self.meaning is not None and is_on and self.warming.is_over

    def in_memory(self, asked: Prepared, control: Control) -> Entry | None:
        """Return what this process holds for exactly this request, if that is new enough."""
        if control.no_cache:
            return None
        return self.memory.get(asked.key, self.clock.time(), control.max_age, control.min_fresh)

    async def look_up(
        self, tenant: str, asked: Prepared, control: Control, suits: Callable[[Answer], bool]
    ) -> Looked:
        """Look for an answer to exactly this request, the nearest tier first; nothing is changed.

        What Redis holds is the last word, also if it does not suit: no answer by meaning is asked for then.
        """
        entry = self.in_memory(asked, control)
        if entry is not None and suits(entry.answer):
            return Looked(entry, "memory", is_suited=True)
        if self.redis is None or control.no_cache:
            return NOTHING_FOUND
        began = self.clock.time()  # before the read: what is forgotten from here on may be what it brings
        entry = await self.redis.get(tenant, asked.key, is_kept=asked.is_kept)
        if entry is None or not self.serves(entry, began, control):
            return NOTHING_FOUND
        return Looked(entry, "redis", is_suited=suits(entry.answer))

    def place_of(
        self,
        tenant: str,
        protocol: str,
        control: Control,
        headers: Mapping[str, str],
        asked: Prepared,
        body: dict[str, Any],
        query: str,
    ) -> Place | str:
        """Return where a request's question belongs: all that must match exactly. A word if it has none."""
        value = stripped(protocol, body)
        question = question_of(protocol, self.normalise(protocol, value) if self.normalise else value)
        if not isinstance(question, Question):
            return question
        context = {
            "namespace": control.namespace,
            "protocol": protocol,
            "provider": self.provider(tenant, asked.model)[0],
            "account": asked.account,
            "model": asked.model,
            "headers": "\n".join((*answering_headers(headers), answering_query(query))),
            "body": question.scope,
        }
        return Place(tenant, context, question)

    def new_flight(self, key: bytes | None, tenant: Tenant, *, largest: int = 0) -> Flight:
        """Return a flight; with a key, equal requests find it until it ends.

        Args:
            key: of what is asked for.
            tenant: who asks.
            largest: bytes that are held; 0 for those of the largest answer that is stored.
        """
        largest, goes_on = largest or self.settings.largest_answer_bytes, self.settings.finish_abandoned
        return opened_flight(self.flights, key, largest, goes_on=goes_on, tenant=tenant.name)

    def spent(self, tenant: Tenant, usage: Usage, model: str, *, is_told: bool = True) -> None:
        """Count what a call of the provider cost; what is only estimated counts for the budget alone."""
        prompt, answer, cached = usage
        if self.limits.spent(tenant, prompt + answer):
            self.spawn(self.limits.tell())
        if not is_told:
            return
        self.metrics.tokens(tenant.name, (prompt, answer), are_saved=False)
        self.metrics.cached[tenant.name] += cached
        self.timeline.counted(tenant.name, model, (prompt, answer), are_saved=False)

    def start(self, *, reads_snapshot: bool = True) -> None:
        """Begin what goes on beside the requests.

        At once: of what began later, the core that a reload puts in the place of this one would not know.
        """
        loop = asyncio.get_running_loop()
        self.timeline.start()
        for model in self.local.values():
            model.start()
        self._beginning = [loop.create_task(self.warming.warm_up(self.settings))]
        if self.redis is not None:
            # Before anything is in memory, or on its way: the first look forgets all of that.
            self._beginning.append(loop.create_task(self.catch_up(self.redis)))
            self._lasting.add(loop.create_task(self.follow_purges(self.redis)))
            self._lasting.add(loop.create_task(self.follow_undone()))
        if self.sessions is not None:
            self._lasting.add(loop.create_task(self._warn_of(self.sessions)))
        if reads_snapshot:
            self._beginning.append(loop.create_task(self.snapshot.read(self.tenants)))
        self._lasting.update(self._beginning)

    async def _warn_of(self, sessions: Sessions) -> None:
        trouble = await sessions.trouble()
        if trouble:
            logger.error("no turn of a session is kept: {}", trouble)

    async def begun(self) -> None:
        """Wait for models and snapshot, but not for long: the process must answer, and heed signals."""
        await asyncio.wait(self._beginning, timeout=_BEGUN_SECONDS)

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Do something in the background."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)  # the loop itself holds its tasks only weakly
        task.add_done_callback(self._tasks.discard)
        return task

    async def settle(self, seconds: float = 10.0) -> None:
        """Wait until what goes on in the background is done."""
        while self._tasks:
            done, _ = await asyncio.wait(set(self._tasks), timeout=seconds)
            if not done:
                return

    async def close(self) -> None:
        """Write the snapshot, if the one in its place was read, and let go of all connections."""
        for task in self._lasting:
            task.cancel()
        self.snapshot.end()
        await self.settle()
        await self.timeline.close()
        await self.undone.finish(_LAST_SECONDS)
        # Of several workers none does, for others may still serve: their parent does when all have ended.
        if self.settings.workers == 1:
            await self.snapshot.save_at_end()
        # Behind it: what is undone may be in that one too.
        await self.settle(_LAST_SECONDS)
        undone = self.undone.tenants("deletion") | self.undone.tenants("purge")
        await self.snapshot.mark_at_end(undone, _LAST_SECONDS)
        await self.routes.close()
        if self.encoding is not None:
            self.encoding.close()
        if self.redis is not None:
            self.redis.close()
        await asyncio.to_thread(self.log.close)
