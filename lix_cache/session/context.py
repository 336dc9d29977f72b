"""What the next model call should see of a session, step by step. See flow.py."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from lix_cache.archive import search
from lix_cache.checks import check_count
from lix_cache.effects import DiskCall, Flow
from lix_cache.errors import ConfigError
from lix_cache.hot.window import EVERYTHING
from lix_cache.messages.message import Message, message_text
from lix_cache.messages.turn import Turn, from_turn
from lix_cache.session import read as read_flow
from lix_cache.session.base import Session, beside
from lix_cache.session.budget import Budget

if TYPE_CHECKING:
    from lix_cache.vectors import VectorLike

__all__ = ["format_context", "get_context", "smart_context"]

_LINE_CHARACTERS = 200


def get_context(session: Session, budget: Budget) -> Flow[list[Message]]:
    """Return the newest messages, within the window and the budget, oldest first."""
    turns = yield from read_flow.get_context(session)
    return _messages((yield from _within(session, budget, turns, session.window)))


def _within(session: Session, budget: Budget, turns: list[Turn], count: int) -> Flow[list[Turn]]:
    """Return what the budget keeps of the newest ``count`` turns."""
    kept = budget.kept([turn.body for turn in turns], count)
    if len(kept) == len(turns):
        return turns
    if kept or count == 0:
        return [turns[i] for i in kept]
    # Nothing but results whose call is further back: one call with more results than the
    # window has room for. It is looked for; and where there is none, what was found is better than
    # a context that looks empty.
    hot = yield from read_flow.get_context(session, EVERYTHING)
    whole = yield from _further_back(session, hot, EVERYTHING)
    kept = budget.kept([turn.body for turn in whole], count)
    return [whole[i] for i in kept] or turns[-count:]


def _further_back(session: Session, hot: list[Turn], count: int) -> Flow[list[Turn]]:
    """Return what Redis gave together with the newest ``count`` turns on disk, cleared ones left out."""
    read = partial(session.store.cold.recent, session.id, count, in_context=True)
    both: list[Turn] = yield DiskCall(lambda: beside(session, read(), hot), waits=True)
    return both


def smart_context(
    session: Session,
    budget: Budget,
    query: str,
    embedding: VectorLike | None,
    recent_count: int,
    relevant_count: int,
) -> Flow[dict[str, list[Message]]]:
    """Return the newest messages, and of all others those that the query is about.

    All that Redis holds of the session is read, so that what has left the window and is not on
    disk yet is looked through too: one round trip, unless it is more than a page. Redis first,
    then the disk, as in ``flow.get_full``.
    """
    search.check_query(query)
    recent_count, relevant_count = (
        check_count("recent_k", recent_count),
        check_count("disk_k", relevant_count),
    )
    if recent_count < 0:
        raise ConfigError(f"recent_k must not be negative, got {recent_count}")
    hot = yield from read_flow.get_context(session, EVERYTHING)
    newest = hot[-session.window :]
    if recent_count > session.window:
        newest = yield from _further_back(session, hot, recent_count)
    recent = yield from _within(session, budget, newest, recent_count)
    look = partial(_relevant, session, hot, recent, query, embedding, relevant_count)
    # A thread's work: it reads the archive and compares every message of it.
    relevant: list[Turn] = yield DiskCall(look, waits=True)
    return {"recent": _messages(recent), "relevant": _messages(relevant)}


def _relevant(
    session: Session,
    hot: list[Turn],
    recent: list[Turn],
    query: str,
    embedding: VectorLike | None,
    count: int,
) -> list[Turn]:
    """Search all but the recent ones: by vector where there are vectors, else by words."""
    # By their nonces too: of a message that reached Redis twice the history has the other copy.
    shown = {turn.id for turn in recent}
    nonces = {turn.nonce for turn in recent if turn.nonce is not None}
    history = beside(session, session.store.cold.turns(session.id), hot)
    older = [turn for turn in history if turn.id not in shown and turn.nonce not in nonces]
    if embedding is not None and any(turn.vector is not None for turn in older):
        found = search.by_vector(older, embedding, count)
        dim = found[0].vector.dim if found and found[0].vector is not None else 0
        # Another model's vectors tell nothing here, and their messages must not go missing for that.
        others = [turn for turn in older if turn.vector is not None and turn.vector.dim != dim]
        return [*found, *search.by_text(others, query, count - len(found))]
    return search.by_text(older, query, count)


def _messages(turns: list[Turn]) -> list[Message]:
    return [turn.body if turn.vector is None else from_turn(turn) for turn in turns]


def format_context(messages: list[Message], max_lines: int) -> str:
    """Return the last messages as ``Role: text`` lines of at most 200 characters of text.

    Like the context itself they do not begin with a tool result without its call.

    Raises:
        ConfigError: ``max_lines`` is no whole number.
    """
    max_lines = check_count("max_lines", max_lines)
    texts = [message_text(message) for message in messages]
    start, lines = len(messages), 0
    while start and (lines < max_lines or not texts[start - 1]):
        start -= 1
        lines += bool(texts[start])
    kept = Budget().kept(messages, len(messages) - start) or range(start, len(messages))
    shown = [
        f"{str(messages[i].get('role', 'unknown')).capitalize()}: {texts[i][:_LINE_CHARACTERS]}"
        for i in kept
        if texts[i]
    ]
    return "\n".join(shown[-max_lines:] if max_lines > 0 else [])
