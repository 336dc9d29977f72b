"""What a call of a cached function asks: the question, and everything that must match exactly. Pure.

The whole of what the function receives is the key, unless a parameter is named as one that the
answer does not depend on. Only the question itself may also be found by meaning, and only where
it is a short text of one line; in anything longer (a document with an instruction, code, a
transcript) a small part decides, which vectors do not see.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lix_cache.checks import check_flag, check_number, check_seconds, check_text, kind_of
from lix_cache.compute import Failed, settled
from lix_cache.dialects.prompts import has_turns
from lix_cache.errors import ConfigError, InvalidContext, InvalidInput
from lix_cache.hot.entries import tag_words
from lix_cache.semantic.core import query_text
from lix_cache.semantic.functions import Known
from lix_cache.semantic.policy import CachePolicy
from lix_cache.semantic.scope import canonical, frozen
from lix_cache.values.identity import digest_of, take

__all__ = ["Asker", "Question", "Rules"]

#: The longest question that is also looked for by its meaning: what small embedders read.
_LONGEST_MEANING = 500
_IGNORED = object()
#: Types whose values stand in the context themselves, so that ``invalidate`` can name them.
_PLAIN = (type(None), bool, int, float, str, bytes)


@dataclass(frozen=True)
class Rules:
    """How a function's calls are cached; see :meth:`Decorating.cached`."""

    query_param: str = "prompt"
    ignore: Sequence[str] = ()
    identify: Mapping[str, Callable[[Any], Any]] = field(default_factory=dict)
    name: str | None = None
    static_context: Mapping[str, Any] = field(default_factory=dict)
    ttl_seconds: float | None = None
    stale_while_revalidate: float = 0.0
    tags: Sequence[str] = ()
    lock_seconds: float = 30.0
    run_on_error: bool = True

    def __post_init__(self) -> None:
        check_text("query_param", self.query_param)
        if self.name is not None:
            check_text("name", self.name)
        if isinstance(self.ignore, str) or not _are_names(self.ignore):
            raise ConfigError("ignore must be a list of names of parameters")
        is_mapping = isinstance(self.identify, Mapping)
        if not is_mapping or not _are_names(self.identify) or not all(map(callable, self.identify.values())):
            raise ConfigError("identify must map names of parameters to functions")
        if self.query_param in self.ignore:
            raise ConfigError(
                f"the question ({self.query_param!r}) cannot be ignored; {_question_advice(self.query_param)}"
            )
        # A copy: what the caller does with the mapping later changes no key.
        object.__setattr__(self, "static_context", frozen(self.static_context))
        if any(
            isinstance(key, str) and key.startswith(("argument.", "cached.")) for key in self.static_context
        ):
            raise ConfigError("keys of static_context must not begin with 'argument.' or 'cached.'")
        tag_words(self.tags)
        object.__setattr__(self, "tags", tuple(self.tags))
        check_seconds("lock_seconds", self.lock_seconds)
        if self.ttl_seconds is not None:
            check_seconds("ttl_seconds", self.ttl_seconds)
        check_number("stale_while_revalidate", self.stale_while_revalidate, 0, 1e11)
        check_flag("run_on_error", self.run_on_error)


def _question_advice(name: str) -> str:
    return (
        "pass a text, or messages as dictionaries, such as [m.model_dump() for m in messages]; or let "
        f"identify={{{name!r}: function}} return these for what the function receives"
    )


def _are_names(names: Any) -> bool:
    try:
        return all(isinstance(name, str) for name in names)
    except TypeError:
        return False


@dataclass(frozen=True)
class Question:
    """One call, as the cache sees it.

    Attributes:
        text: the question.
        context: what must match exactly, beside the cache's own.
        key: what makes calls equal.
        arguments: positional ones and those by name, to run the function with: copies of
            everything that is part of the key and could be changed meanwhile.
        is_unchanged: whether the arguments that could not be copied are what they were.
    """

    text: str
    context: Mapping[str, Any]
    key: tuple[str, bytes]
    arguments: tuple[tuple[Any, ...], dict[str, Any]]
    is_unchanged: Callable[[], bool]


class Asker:
    """Reads the calls of one function.

    Args:
        function: whose calls.
        rules: what counts.
        policy: takes prompts apart.
        own: the cache's own context.

    Raises:
        ConfigError: it is no function, or has no such parameter.
    """

    def __init__(
        self, function: Callable[..., Any], rules: Rules, policy: CachePolicy, own: Mapping[str, Any]
    ) -> None:
        if not inspect.isfunction(function):
            raise ConfigError(
                f"cached() is for functions (def, async def or lambda), got {kind_of(function)}; "
                "what a method, a partial or an object holds besides its arguments would not count"
            )
        self.name = f"{function.__module__}.{function.__qualname__}"
        self._known = None if rules.name else Known(function, rules.ignore, rules.identify)
        self._rules = rules
        self._policy = policy
        self._own = own
        #: Streams are no answers to who wants a whole one, nor the other way round.
        self._streams = inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)
        self._signature = inspect.signature(function)
        parameters = self._signature.parameters
        kinds = {p.kind: p.name for p in parameters.values()}
        held = self._known.held if self._known else ()
        self._catches = kinds.get(inspect.Parameter.VAR_KEYWORD)
        for name in (rules.query_param, *rules.ignore, *rules.identify):
            is_held = name != rules.query_param and name in held
            if name not in parameters and self._catches is None and not is_held:
                what = "query_param" if name == rules.query_param else "ignore or identify"
                raise ConfigError(
                    f"{self.name} has no parameter {name!r}; it has {', '.join(parameters) or 'none'}: "
                    f"name one of them in {what}"
                )

    def question(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Question | None:
        """Read a call; None if it asks nothing that could be cached.

        Raises:
            TypeError: the arguments are not the function's.
            InvalidContext: an argument cannot be compared exactly.
        """
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        forms: dict[str, Any] = {}
        checks: list[tuple[str, Any, bytes]] = []
        for name, value in bound.arguments.items():
            if name == self._catches:
                taken = {word: self._take(word, one, checks, caught=True) for word, one in value.items()}
                bound.arguments[name] = {word: own for word, (own, _) in taken.items()}
                # Kept apart from the declared ones: one name may be both.
                forms.update({f"**{word}": form for word, (_, form) in taken.items()})
            else:
                bound.arguments[name], forms[name] = self._take(name, value, checks)
        query_param = self._rules.query_param
        prompt = forms.pop(
            query_param if query_param in self._signature.parameters else f"**{query_param}", None
        )
        identity = self._identity()
        context: dict[str, Any] = {**self._rules.static_context, "cached.function": identity}
        if self._streams:
            context["cached.stream"] = True
        for name, form in forms.items():
            if form is not _IGNORED:
                context[f"argument.{name}"] = self._item(name, form)
        try:
            text, around = self._policy.extract_query("" if prompt is None else prompt)
            normalised = query_text(text)
        except InvalidContext:
            raise
        except InvalidInput:
            return None
        context.update(self._around(normalised, prompt, around))
        key = normalised, canonical(context, f"a call of {self.name}")
        return Question(
            text, context, key, (bound.args, bound.kwargs), lambda: self._are_same(identity, checks)
        )

    def _around(self, text: str, prompt: Any, around: Mapping[str, Any]) -> dict[str, Any]:
        """Return what of the prompt, beside the question, must match exactly."""
        found = {"cached.prompt": type(prompt).__name__}
        # White space around it that the exact tier keeps counts, and vectors do not see it.
        is_one_line = text == text.strip() and len(text.splitlines()) == 1
        if len(text) > _LONGEST_MEANING or not is_one_line or has_turns(text):
            found["cached.text"] = digest_of(text)
        # The cache's own context may have such an item, and must stay as it is.
        taken = {*self._own, *self._rules.static_context}
        return {**found, **{f"cached.{n}" if n in taken else n: value for n, value in around.items()}}

    def _take(
        self,
        name: str,
        value: Any,
        checks: list[tuple[str, Any, bytes]],
        *,
        caught: bool = False,
    ) -> tuple[Any, Any]:
        """Return an argument as the function is to get it, and as it is compared."""
        rules = self._rules
        if name in rules.ignore or (caught and self._catches in rules.ignore and name != rules.query_param):
            return value, _IGNORED
        where = f"the argument {name!r} of {self.name}"
        identify = rules.identify.get(name)
        try:
            if identify is None:
                own, _ = take(value, where)
                return own, own
            own, form = take(identify(value), where)
        except InvalidContext as error:
            if name == rules.query_param:
                raise InvalidContext(f"{error}. It is the question: {_question_advice(name)}") from None
            raise InvalidContext(
                f"{error}. If the answer does not depend on it, name it in ignore=[{name!r}]; else say what "
                f"identifies it with identify={{{name!r}: function}}"
            ) from None
        checks.append((name, value, form))
        return value, own

    def _item(self, name: str, form: Any) -> Any:
        return form if type(form) in _PLAIN else {"digest": digest_of(form, name)}

    def _identity(self) -> str:
        """Return what the function is known by now: what it reads besides its arguments may change."""
        return self._rules.name or (self.name if self._known is None else self._known.now())

    def _are_same(self, identity: str, checks: list[tuple[str, Any, bytes]]) -> bool:
        """Whether the function, and what the application's functions identified, still are what they were."""
        identify = self._rules.identify

        def compare() -> bool:
            is_same = all(take(identify[n](value), "")[1] == form for n, value, form in checks)
            return is_same and self._identity() == identity

        try:
            return settled(compare)
        except Failed:
            return False
