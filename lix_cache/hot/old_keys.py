"""The session keys of lix-open-cache 0.1.0: names, commands, and what their answers mean. Sends nothing.

``P:session_order:SESSION`` is a list of numbers, the newest at its head, and
``P:session_context:SESSION:NUMBER`` the JSON of one message. A number is the message's Unix
milliseconds modulo 2**31, so of two messages of one millisecond only the second has survived,
and its number stands in the list twice. All keys have a time to live of their own, 24 hours by default.

None of them has a hash tag: the old package knew no clusters. There a script may not take them beside
keys of ours, and says so; nor may it where the user may not use them. Both are taken for there being none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from lix_cache.hot.keys import Keys, escape_pattern
from lix_cache.hot.scripts import Command, Script, ScriptCall
from lix_cache.messages.session_key import plain_of, stored_plain

__all__ = ["OLD", "OUT_OF_REACH", "OldMessage", "OldSessions", "old_list_key"]

#: Keys that one step of a scan looks at: some 0.3 ms of the server's time.
_SCAN_COUNT = 1000

#: What a script answers instead of doing its work, where the old package has left messages.
OLD = b"OLD"

#: What a server answers that cannot be asked for keys of the old package: a cluster, which has them in
#: other slots than ours or on other servers; one whose user may not use them.
OUT_OF_REACH = frozenset({"CROSSSLOT", "MOVED", "NOPERM"})


@dataclass(frozen=True)
class OldMessage:
    """One entry of an old session's list.

    Attributes:
        number: as the list has it.
        data: the message; None where it has expired, or it stood in the list before.
    """

    number: bytes
    data: bytes | None


def old_list_key(prefix: str, session_id: str) -> str:
    """Return the key of a session's list; "" where it has a namespace: the old package knew none."""
    text = plain_of(session_id)
    # Whatever text stood here, the old package may have a session of that id.
    return "" if text is None else _list_key(prefix, text)


def _list_key(prefix: str, text: str) -> str:
    return f"{prefix}:session_order:{text}"


def _sha1(data: bytes) -> str:
    # Not for secrecy: it is the one digest that Lua in Redis has.
    return hashlib.sha1(data, usedforsecurity=False).hexdigest()


_READ = Script("old/read")
_TRIM = Script("old/trim")


@dataclass(frozen=True)
class OldSessions:
    """Commands on the sessions that the old package left under a prefix.

    Attributes:
        prefix: ``redis_key_prefix``.
    """

    prefix: str

    @property
    def lists(self) -> str:
        """What the key of every session's list begins with."""
        return _list_key(self.prefix, "")

    @staticmethod
    def knows(session_id: str) -> bool:
        """Whether the old package may have a session of this id; it knew no namespaces."""
        return plain_of(session_id) is not None

    def list_key(self, session_id: str) -> str:
        # A key that is never there stands for none.
        return old_list_key(self.prefix, session_id) or Keys(self.prefix).probe()

    def message_key(self, session_id: str, number: bytes) -> bytes:
        return self._message_start(session_id).encode() + number

    def _message_start(self, session_id: str) -> str:
        return f"{self.prefix}:session_context:{plain_of(session_id) or ''}:"

    def scan(self, cursor: int) -> Command:
        """Look for lists of sessions among some keys. Answers the next cursor, 0 at the end, and keys."""
        return ("SCAN", cursor, "MATCH", escape_pattern(self.lists) + "*", "COUNT", _SCAN_COUNT)

    def session_ids(self, keys: Sequence[bytes]) -> list[str]:
        """Return the sessions of such keys, each once; those that cannot be an id of ours are left out."""
        names = {key[len(self.lists.encode()) :].decode("utf-8", "replace"): key for key in keys}
        return [
            stored_plain(name) for name, key in names.items() if name and (self.lists + name).encode() == key
        ]

    def life_left(self, session_id: str) -> Command:
        """Ask how many milliseconds a session's list will live; negative if without an end, or not there."""
        return ("PTTL", self.list_key(session_id))

    def without_list(self, command: Command) -> ScriptCall | None:
        """Return a command as it is where the old list is not looked for; None if it does not look."""
        if isinstance(command, ScriptCall) and len(command.keys) > 1:
            last = command.keys[-1]
            if isinstance(last, bytes) and last.startswith(self.lists.encode()):
                return ScriptCall(command.script, command.keys[:-1], command.args)
        return None

    def numbers(self, session_id: str, limit: int, passed: int = 0) -> Command:
        """List the numbers of the oldest messages, the oldest last; but for so many of them."""
        return ("LRANGE", self.list_key(session_id), -limit - passed, -1 - passed)

    def read(self, session_id: str, numbers: Sequence[bytes]) -> Command:
        """Read the messages of these numbers, or the first of them."""
        return ScriptCall(_READ, tuple(self.message_key(session_id, number) for number in numbers), ())

    @staticmethod
    def messages(numbers: Sequence[bytes], reply: Sequence[bytes]) -> list[OldMessage]:
        """Return those that were read, each number's message once."""
        seen: set[bytes] = set()
        found = []
        for number, data in zip(numbers, reply, strict=False):
            found.append(OldMessage(number, None if number in seen else data or None))
            seen.add(number)
        return found

    def length(self, session_id: str) -> Command:
        """Count the messages that are left."""
        return ("LLEN", self.list_key(session_id))

    def trim(self, session_id: str, messages: Sequence[OldMessage]) -> Command:
        """Forget messages that were read: those with ``data`` are kept elsewhere now."""
        keys: list[bytes | str] = [self.list_key(session_id)]
        args: list[bytes | str] = []
        for message in messages:
            keys.append(self.message_key(session_id, message.number))
            args += (message.number, "" if message.data is None else _sha1(message.data))
        return ScriptCall(_TRIM, tuple(keys), tuple(args))
