"""One error of ours for each trouble of redis-py's: unreachable, refused, unauthorised, misconfigured."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NoReturn

from lix_cache._advice import advice_at
from lix_cache.errors import (
    RedisAuthError,
    RedisCommandError,
    RedisDatabaseError,
    RedisError,
    RedisUnavailable,
)

if TYPE_CHECKING:
    from lix_cache.hot.endpoint import Endpoint

__all__ = ["raise_translated", "reply_code", "translate"]


#: Reply codes that mean "not now": waiting, or another server, may mend them.
_FOR_NOW = frozenset(
    {"LOADING", "READONLY", "OOM", "MISCONF", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "BUSY", "NOREPLICAS"}
)


_OF_CLUSTERS = frozenset({"MOVED", "ASK", "CROSSSLOT"})


_DENIED = frozenset({"WRONGPASS", "NOAUTH", "NOPERM"})


#: redis-py takes the code off the text of the replies it has a class for.
_CODE_OF_CLASS = {
    "BusyLoadingError": "LOADING",
    "ReadOnlyError": "READONLY",
    "OutOfMemoryError": "OOM",
    "MasterDownError": "MASTERDOWN",
    "ClusterDownError": "CLUSTERDOWN",
    "TryAgainError": "TRYAGAIN",
    "ClusterCrossSlotError": "CROSSSLOT",
    "MovedError": "MOVED",
    "AskError": "ASK",
    "NoScriptError": "NOSCRIPT",
    "AuthenticationError": "WRONGPASS",
    "AuthenticationWrongNumberOfArgsError": "WRONGPASS",
    "AuthorizationError": "NOPERM",
    "NoPermissionError": "NOPERM",
}


_A_CODE = re.compile(r"[A-Z]{3,}\Z")


#: Redis 6 wraps what a command inside a script answered: "Error running script (call
#: to f_...): @user_script:1: @user_script: 1: -READONLY You can't write ...".
_CODE_IN_SCRIPT = re.compile(r"\A(?:ERR )?Error running script .*?: -([A-Z]+) ", re.DOTALL)


#: The same for a missing permission, in Redis 6 and in Redis 7, which give no code.
_DENIED_IN_SCRIPT = ("The user executing the script can't", "ACL failure in script")


#: What to do about a server that is away, by what it is a part of.
_AWAY = {
    "cluster": "It is one node of a cluster: the others go on, and its replica, if it has one, takes over",
    "sentinel": "It is the master that the sentinels name: its replica, if it has one, takes over",
    "sentinels": "Is the sentinel running, and is it this address?",
}


def _away(endpoint: Endpoint) -> str:
    """Return what to look at where a server cannot be reached."""
    known = _AWAY.get(endpoint.part_of)
    return known or f"Is the server running, and is it this address? {advice_at(endpoint.path)}"


#: Redis 6 and 7 quote the command in different ways.
_NO_SENTINEL = re.compile(r"unknown command ['`]SENTINEL['`]")


def reply_code(error: BaseException) -> str:
    """Return the code of an error reply, ``READONLY`` for one; "" for anything else."""
    import redis.exceptions as rx

    # The versions of redis-py that keep it: most take it off the text.
    kept: str = getattr(error, "status_code", None) or ""
    code = _CODE_OF_CLASS.get(type(error).__name__)
    if code is not None:
        return kept if kept in _DENIED else code
    if not isinstance(error, rx.ResponseError):
        return ""
    text = str(error)
    inner = _CODE_IN_SCRIPT.match(text)
    if inner:
        return inner.group(1)
    if any(sign in text for sign in _DENIED_IN_SCRIPT):
        return "NOPERM"
    word = text.split(" ", 1)[0]
    # "DB index is out of range" and its like have lost their ERR.
    return kept or (word if _A_CODE.match(word) else "ERR")


def _never_sent(error: BaseException) -> bool:
    """Tell whether the connection was not even opened, so that nothing can have been done."""
    # redis-py has no class for it, and the cause is only on some of its errors.
    text = str(error)
    return (
        text.startswith("Timeout connecting")
        or (text.startswith("Error") and " connecting to " in text)
        or "No connection available" in text
    )


def _other_kind(code: str, text: str, endpoint: Endpoint) -> str:
    """Return what to do about a server of another kind than the address says; "" if it is of that kind."""
    is_of_cluster = code in _OF_CLUSTERS or "not allowed in cluster mode" in text
    if is_of_cluster and "cluster" not in (endpoint.kind, endpoint.part_of):
        return " (a node of a cluster: name it by redis+cluster://, or set redis_cluster=True)"
    if "cluster support disabled" in text:
        return " (a single server: name it by redis:// without redis_cluster)"
    if _NO_SENTINEL.search(text):
        return " (a Redis server and no sentinel: name it by redis://, or name the port of the sentinels)"
    return ""


def translate(error: BaseException, endpoint: Endpoint) -> BaseException:
    """Turn what redis-py raised into the error of ours that says what to do.

    Anything that is not Redis trouble is returned as it is.
    """
    import redis.exceptions as rx

    if isinstance(error, RedisError) or not isinstance(error, (rx.RedisError, OSError)):
        return error
    if type(error) is rx.ConnectionError and isinstance(error.__cause__, rx.RedisError):
        # The async client wraps what a unix socket's server says during the greeting.
        error = error.__cause__
    text = str(error)
    if endpoint.password and endpoint.password in text:
        # Old servers and proxies repeat what they do not understand. The cause of our error
        # is shown as well.
        text = text.replace(endpoint.password, "***")
        error.args = (text,)
    where = endpoint.label
    code = reply_code(error)
    if code not in text:
        text = f"{code} {text}"
    if code in _DENIED:
        who = f"user {endpoint.username!r}" if endpoint.username else "the default user"
        given = "a password was given" if endpoint.password else "no password was given"
        return RedisAuthError(
            f"{where} refused {who} ({given}): {text}. Check redis_password and redis_username",
            code=code,
        )
    if "DB index is out of range" in text or "invalid DB index" in text:
        return RedisDatabaseError(
            f"{where} does not exist: {text}. Raise 'databases' in redis.conf or choose "
            "another number in session_redis_db, semantic_redis_db or url_cache_redis_db",
            code=code,
        )
    if code in _FOR_NOW:
        return RedisUnavailable(f"{where} cannot serve now: {text}", code=code)
    if isinstance(error, rx.ResponseError):
        return RedisCommandError(
            f"{where} refused a command: {text}{_other_kind(code, text, endpoint)}", code=code
        )
    maybe_done = not _never_sent(error)
    if isinstance(error, rx.TimeoutError):
        return RedisUnavailable(
            f"{where} did not answer in time: {text}", maybe_done=maybe_done, timed_out=maybe_done
        )
    if isinstance(error, (rx.ConnectionError, OSError)):
        reason = getattr(error.__cause__ or error.__context__, "strerror", None)
        if reason and reason not in text:
            # Some versions of redis-py leave out what a certificate was refused for.
            text = f"{text} {reason}"
        return RedisUnavailable(
            f"{where} cannot be reached: {text.rstrip('.')}. {_away(endpoint)}",
            maybe_done=maybe_done,
        )
    return RedisCommandError(f"{where}: {type(error).__name__}: {text}")


def raise_translated(error: BaseException, endpoint: Endpoint) -> NoReturn:
    """Raise what :func:`translate` makes of an error that was caught just now."""
    ours = translate(error, endpoint)
    try:
        if ours is error:  # "from" itself would be a chain without an end
            raise error
        raise ours from error
    finally:
        # Both refer to this frame, and through it to the connection: that would be freed at the
        # next round of the garbage collector, whenever that is.
        del ours, error
