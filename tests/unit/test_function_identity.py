"""What a function is known by: its own code, and what it holds."""

from __future__ import annotations

import collections
import dataclasses
import functools
import pathlib
import re
import sys
import types
from collections.abc import Callable
from typing import Any

import pytest

from lix_cache.semantic import functions
from lix_cache.semantic.content import content
from lix_cache.semantic.functions import Known
from lix_cache.semantic.uses import uses_of
from tests.support.forks import Child, Report


def function_form(function: Any) -> str:
    return Known(function).now()


def ask(prompt: str) -> str:
    return prompt


def tell(prompt: str) -> str:
    return prompt


def with_model(model: str) -> Callable[[Any], Any]:
    def put_before(function: Any) -> Any:
        @functools.wraps(function)
        def inner(*args: Any, **kwargs: Any) -> Any:
            return model + function(*args, **kwargs)

        return inner

    return put_before


def with_default(model: str) -> Callable[[Any], Any]:
    def put_before(function: Any) -> Any:
        @functools.wraps(function)
        def inner(*args: Any, _model: str = model, **kwargs: Any) -> Any:
            return _model + function(*args, **kwargs)

        return inner

    return put_before


def renamed(model: str) -> Any:
    def other(prompt: str) -> str:
        return model + prompt

    other.__module__, other.__qualname__, other.__name__ = ask.__module__, "ask", "ask"
    return other


@pytest.mark.promise("right-answer")
@pytest.mark.parametrize(
    ("one", "other"),
    [
        (with_model("small")(ask), with_model("large")(ask)),
        (with_model("small")(ask), ask),
        (with_model("a")(with_model("small")(ask)), with_model("a")(with_model("large")(ask))),
        (with_model("a")(with_model("b")(ask)), with_model("b")(with_model("a")(ask))),
        (with_default("small")(ask), with_default("large")(ask)),
        (with_model("a")(with_default("small")(ask)), with_model("a")(with_default("large")(ask))),
        (with_model("small")(lambda prompt: prompt + "a"), with_model("small")(lambda prompt: prompt + "b")),
        (renamed("small"), renamed("large")),
        (renamed("small"), ask),
        (with_model("small")(ask), with_model("small")(tell)),
    ],
)
def test_a_decorated_function_is_not_known_by_the_name_of_what_it_wraps(one: Any, other: Any) -> None:
    assert function_form(one) != function_form(other)


def test_a_function_has_one_form_however_often_it_is_made() -> None:
    assert function_form(with_model("small")(ask)) == function_form(with_model("small")(ask))
    assert function_form(renamed("small")) == function_form(renamed("small"))
    assert function_form(ask) == f"{__name__}.ask"


# -- what code reads and writes ------------------------------------------------------------

KEY = LOW = 1
TABLE: dict[Any, Any] = {}

#: Statements, and what they write: of them all, the table below says what counts as written. The same on
#: every Python version; what is not in here counts as read.
WRITES = [
    ("TABLE[k] = q", "TABLE"),
    ("TABLE['x'] = q", "TABLE"),
    ("TABLE[KEY] = q", "TABLE"),
    ("TABLE[k] += 1", "TABLE"),
    ("TABLE['x'] += MODEL", "TABLE"),
    ("TABLE[k] -= MODEL", "TABLE"),
    ("del TABLE[k]", "TABLE"),
    ("TABLE.append(q)", "TABLE"),
    ("TABLE.update(x=MODEL)", "TABLE"),
    ("TABLE.update(**k)", "TABLE"),
    ("d[k] = TABLE[k] = MODEL", "TABLE"),
    ("if q: TABLE[k] = MODEL", "TABLE"),
    ("def inner(k): TABLE[k] = MODEL", "TABLE"),
    ("def inner(k): d[k] = MODEL", ""),
    ("d[k] = MODEL", ""),
    ("d['x'] = MODEL", ""),
    ("d[KEY] = MODEL", ""),
    ("d[k] += MODEL", ""),
    ("x = MODEL; d[k] = x", ""),
    ("x = y = MODEL; d[x] = y", ""),
    ("d[k], d[q] = MODEL, KEY", ""),
    ("d.a[k] = MODEL", ""),
    ("d[k] = ask(MODEL)", ""),
    ("d[k] = MODEL or KEY", ""),
    ("d[k] = MODEL if q else KEY", ""),
    ("d[MODEL if q else KEY] = k", ""),
    ("d[MODEL or k] = q", ""),
    ("for d[k] in MODEL: pass", ""),
    ("with MODEL as d[k]: pass", ""),
    ("d[k:q] = MODEL", ""),
    ("d[k] = [x for x in MODEL]", ""),
    ("del d[k]; MODEL", ""),
    ("MODEL[k].append(q)", ""),
    ("MODEL.a.append(q)", ""),
    ("MODEL.append = q", ""),
    ("q.append(MODEL)", ""),
    ("x = MODEL.pop()", ""),
    ("x = MODEL.setdefault('model', 'small')", ""),
    ("x = 0 < LOW < MODEL", ""),
    ("class A:\n  MODEL = []\n  MODEL.append(1)", ""),
]


def made(statement: str, *, closed: bool) -> types.FunctionType:
    lines = "\n    ".join(["def function(q, k, d):", *statement.replace("; ", "\n").split("\n"), "return q"])
    names = "MODEL = TABLE = KEY = LOW = None"
    if closed:
        inner = lines.replace("\n", "\n    ")
        lines = f"def outer():\n    {names}\n    {inner}\n    return function\nfunction = outer()"
    scope: dict[str, Any] = {}
    exec(compile(lines, "made", "exec", dont_inherit=True), scope)
    function: types.FunctionType = scope["function"]
    return function


@pytest.mark.promise("right-answer")
@pytest.mark.parametrize("closed", [False, True])
@pytest.mark.parametrize(("statement", "written"), WRITES)
def test_only_what_is_shown_to_be_written_counts_as_written(
    statement: str, written: str, closed: bool
) -> None:
    uses = uses_of(made(statement, closed=closed).__code__)
    sign = "&" if closed else ""
    assert uses.changed == ({sign + written} if written else set())
    assert not uses.rebound
    if not closed:
        assert {name for name in ("MODEL", "KEY", "LOW") if name in statement.split("class")[0]} <= uses.read


def test_a_new_value_for_a_name_is_told_from_one_inside_it() -> None:
    def make() -> Any:
        count = 0

        def add(prompt: str) -> int:
            global ADDED
            nonlocal count
            count += 1
            ADDED = prompt  # type: ignore[name-defined]
            return count

        return add

    uses = uses_of(make().__code__)
    assert (uses.rebound, uses.changed) == ({"ADDED", "&count"}, set())


@pytest.mark.promise("right-answer")
def test_a_variable_of_code_further_down_is_not_taken_for_one_of_its_name() -> None:
    model = "small"

    def ask(prompt: str) -> Any:
        def own() -> Any:
            model = 0

            def add() -> None:
                nonlocal model
                model += 1

            return add, model

        return own, model

    assert not uses_of(ask.__code__).rebound


# -- what it holds as it changes -----------------------------------------------------------


def in_module(text: str) -> tuple[types.ModuleType, Known]:
    """Return a module with a function ``ask`` in it, and what that is known by."""
    module = types.ModuleType("application")
    exec(compile(text, "application", "exec", dont_inherit=True), vars(module))
    return module, Known(module.ask)


@pytest.mark.promise("right-answer")
@pytest.mark.parametrize(
    "use",
    [
        "d = {}; d[q] = MODEL; return d",
        "d = {}; k = 1; d[k] = MODEL; return d",
        "STATE['calls'] += 1; return STATE['model']",
        "STATE[q] = 1; return STATE.get('model')",
        "CALLS.append(q); return MODEL",
        "settings.update(); return settings.MODEL",
        "settings.clear(q); return settings.MODEL",
        "Settings.update(); return data.MODEL",
        "data.update(); return data.MODEL",
        "return STATE.setdefault('model', 'x')",
        "global settings; settings = settings; return settings.MODEL",
        "application.settings.clear(q); return application.settings.MODEL",
        "q.choose('x'); return MODEL",
    ],
)
def test_what_is_global_and_read_counts_whatever_else_is_done_with_it(use: str) -> None:
    lines = use.split("; ")
    body = "\n    ".join(lines)
    module, known = in_module(
        "import dataclasses, types\n"
        "MODEL = 'small'\nSTATE = {'model': 'small', 'calls': 0}\nCALLS = []\n"
        "settings = types.ModuleType('settings')\nsettings.MODEL = 'small'\n"
        "application = types.ModuleType('application')\napplication.settings = settings\n"
        "def choose(model):\n    global MODEL\n    MODEL = model\n"
        "class Settings: update = staticmethod(lambda: None)\n"
        "@dataclasses.dataclass\nclass Data:\n    MODEL: str = 'small'\n    def update(self): pass\n"
        f"data = Data()\ndef ask(q):\n    {body}\n"
    )
    before = known.now()
    assert known.now() == before
    module.MODEL = module.STATE["model"] = module.settings.MODEL = module.data.MODEL = "large"
    assert known.now() != before


@pytest.mark.promise("right-answer")
def test_a_list_that_takes_the_place_of_the_one_that_is_written_counts() -> None:
    module, known = in_module("CALLS = []\ndef ask(q):\n    CALLS.append(q)\n    return CALLS\n")
    before = known.now()
    module.CALLS.append("x")
    assert known.now() == before
    module.CALLS = ["large"]
    assert known.now() != before

    def make() -> Any:
        calls = ["small"]

        def ask(prompt: str) -> Any:
            calls.append(prompt)
            return calls

        def swap(other: list[str]) -> None:
            nonlocal calls
            calls = other

        return ask, swap

    ask, swap = make()
    known = Known(ask)
    before = known.now()
    ask("x")
    assert known.now() == before
    swap(["large"])
    assert known.now() != before


@pytest.mark.promise("right-answer")
def test_data_of_a_module_that_is_closed_over_counts() -> None:
    settings: Any = types.ModuleType("settings")
    settings.MODEL = "small"
    known = Known(lambda prompt: settings.MODEL)
    before = known.now()
    settings.MODEL = "large"
    assert known.now() != before


def counting(model: str) -> Any:
    count = 0

    def ask(prompt: str) -> str:
        nonlocal count
        count += 1
        return f"{model} {prompt}"

    return ask


def replaceable() -> tuple[Any, Callable[[Any], None]]:
    helper = counting("0")

    def ask(prompt: str) -> Any:
        return helper(prompt)

    def swap(other: Any) -> None:
        nonlocal helper
        helper = other

    return ask, swap


@pytest.mark.promise("right-answer")
def test_what_takes_the_place_of_a_closure_does_not_inherit_its_form() -> None:
    ask, swap = replaceable()
    known = Known(ask)
    forms = {known.now()}
    for number in range(1, 200):
        swap(None)
        swap(counting(str(number)))
        forms.add(known.now())
        assert len(forms) == number + 1
    assert len(known._kept) <= functions._MANY_KEPT


@pytest.mark.promise("right-answer")
def test_a_forked_child_shares_no_answer_about_objects_that_may_differ_there() -> None:
    class Slots:
        __slots__ = ("model",)

    for thing in (Slots(), types.SimpleNamespace(model=object())):
        written = [thing]

        def ask(prompt: str, thing: Any = thing, written: Any = written) -> Any:
            return thing.model, written

        def closing(held: Any = thing, kept: Any = written) -> Any:
            def inner(prompt: str) -> Any:
                kept.append(prompt)
                return held

            return inner

        def keeping(kept: Any = written) -> Any:
            def inner(prompt: str) -> Any:
                kept.append(prompt)
                return prompt

            return inner

        for known in (Known(closing()), Known(keeping())):
            before = known.now()
            assert known.now() == before

            def child(report: Report, known: Known = known, before: str = before) -> None:
                report("s", known.now() == before)
                report("a", known.now() == known.now())

            with Child(child) as process:
                assert process.wait() == 0
                assert process.records() == [("s", 0), ("a", 1)]


@pytest.mark.promise("no-stall")
@pytest.mark.parametrize(
    "large",
    [
        "{i: str(i) for i in range(9000)}",
        "[[i] * 100 for i in range(100)]",
        "'x' * 10_000_000",
        "{'a': {'b': list(range(9000))}}",
    ],
)
@pytest.mark.parametrize("where", ["global", "closed over", "in a module"])
def test_a_look_reads_a_few_hundred_values_at_most(
    large: str, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[int] = []

    def counted(value: Any) -> str | None:
        reads.append(size(value))
        return content(value)

    def size(value: Any) -> int:
        if isinstance(value, dict):
            return sum(size(key) + size(item) for key, item in value.items())
        return sum(map(size, value)) if isinstance(value, (list, tuple, set)) else len(str(value)) // 4096 + 1

    monkeypatch.setattr(functions, "content", counted)
    holder = {
        "global": "def ask(q): return LARGE",
        "closed over": "def make(large=LARGE):\n    def ask(q): return large\n    return ask\nask = make()",
        "in a module": "import types\nm = types.ModuleType('m')\nm.LARGE = LARGE\ndef ask(q): return m.LARGE",
    }[where]
    module, known = in_module(f"LARGE = {large}\n{holder}\n")
    before = known.now()
    assert known.now() == before
    assert sum(reads) < 1000
    module.LARGE = None
    if where == "global":
        assert known.now() != before


@pytest.mark.promise("no-stall")
def test_many_values_of_a_few_hundred_are_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[int] = []
    monkeypatch.setattr(functions, "content", lambda value: reads.append(1) or content(value))
    text = "".join(f"G{i} = list(range(250))\n" for i in range(100))
    _, known = in_module(f"{text}def ask(q): return [{', '.join(f'G{i}' for i in range(100))}]\n")
    reads.clear()
    known.now()
    assert len(reads) < 20
    _, known = in_module("F = [lambda q, i=i: i for i in range(5000)]\ndef make(f):\n"
                         "    def ask(q): return f\n    return ask\nask = make(F)\n")  # fmt: skip
    assert known.now() == known.now()


def test_data_that_leads_back_to_itself_has_a_form() -> None:
    @dataclasses.dataclass
    class Node:
        other: Any = None

    node = Node()
    node.other = Node(node)
    known = Known(lambda prompt: node)
    assert known.now() == known.now()


def test_a_function_that_closes_over_itself_has_a_form() -> None:
    def make(model: str) -> Any:
        def again(prompt: str) -> Any:
            return again(prompt) if prompt else model

        return again

    assert function_form(make("small")) == function_form(make("small"))
    assert function_form(make("small")) != function_form(make("large"))


@dataclasses.dataclass
class Part:
    model: str


@dataclasses.dataclass
class Whole:
    parts: list[Any]


HELD: Any = None
elsewhere = types.ModuleType("elsewhere")


def reads_held(prompt: str) -> str:
    return f"{prompt} {HELD}"


def reads_elsewhere(prompt: str) -> str:
    return f"{prompt} {elsewhere.held}"


HOLDERS: dict[str, Callable[[str], Any]] = {
    "a list of data": lambda model: [Part(model)],
    "a dict of data": lambda model: {"a": Part(model)},
    "data in data": lambda model: Whole([Part(model), object]),
    "an ordered dict": lambda model: collections.OrderedDict(model=model),
    "a dict with defaults": lambda model: collections.defaultdict(str, model=model),
    "a partial": lambda model: functools.partial(ask, model),
    "a path": pathlib.PurePosixPath,
    "a pattern": re.compile,
    "a function in a dict": lambda model: {"a": renamed(model)},
}


@pytest.mark.parametrize("kind", HOLDERS)
@pytest.mark.parametrize("where", ["here", "elsewhere"])
def test_global_data_counts_by_what_it_holds(monkeypatch: pytest.MonkeyPatch, kind: str, where: str) -> None:
    function = reads_held if where == "here" else reads_elsewhere

    def put(model: str) -> None:
        held = HOLDERS[kind](model)
        monkeypatch.setitem(globals(), "HELD", held)
        monkeypatch.setattr(elsewhere, "held", held, raising=False)

    put("small")
    known = Known(function)
    small = known.now()
    put("small")
    assert known.now() == small
    put("large")
    assert known.now() != small


def test_a_client_that_another_takes_the_place_of_counts_in_another_module_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Client:
        pass

    monkeypatch.setattr(elsewhere, "held", Client(), raising=False)
    known = Known(reads_elsewhere)
    before = known.now()
    assert known.now() == before
    monkeypatch.setattr(elsewhere, "held", Client())
    assert known.now() != before


def test_a_large_list_that_was_replaced_is_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    first = list(range(5000))
    monkeypatch.setitem(globals(), "HELD", first)
    known = Known(reads_held)
    before = known.now()
    assert known.now() == before
    counted = sys.getrefcount(first)
    monkeypatch.setitem(globals(), "HELD", list(range(5000)))
    assert known.now() != before
    assert sys.getrefcount(first) < counted
