"""What `LocalModel.generate` is given is refused by name with a typed error, before anything is made."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from lix_cache.errors import InvalidInput
from lix_cache.kv.identity import as_ids
from lix_cache.kv.local_model import LocalModel
from tests.support.kv_engine import ToyEngine

SAID = [{"role": "user", "content": "A latte."}]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"temperature": math.nan}, "temperature"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": "1"}, "temperature"),
        ({"top_p": -1}, "top_p"),
        ({"top_p": math.nan}, "top_p"),
        ({"top_p": 2}, "top_p"),
        ({"seed": 1 << 70}, "seed"),
        ({"seed": 1.5}, "seed"),
        ({"session": 7}, "session"),
        ({"session": b"x"}, "session"),
        ({"session": ""}, "session"),
        ({"session": "\ud800"}, "session"),
        ({"tenant": None}, "tenant"),
        ({"tenant": "\ud800"}, "tenant"),
        ({"stop": [5]}, "stop"),
        ({"stop": "a text"}, "stop"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1 << 31}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"tools": [5]}, "tools"),
        ({"tools": [{"name": "\ud800"}]}, "tools"),
        ({"prompt": "A latte"}, "messages"),
        ({"prompt": None}, "messages"),
        ({"prompt": [*SAID, 5]}, "messages"),
        ({"prompt": [5, *SAID]}, "messages"),
        ({"prompt": [{"role": "user", "content": "\ud800"}]}, "messages"),
        ({"prompt": [{"role": "user", "content": object()}]}, "messages"),
        ({"prompt": [5.9, 6.2]}, "integers"),
        ({"prompt": [True, False]}, "integers"),
        ({"prompt": [5, True]}, "integers"),
        ({"prompt": np.array([5.0, 6.0])}, "integers"),
    ],
)
def test_an_argument_that_makes_no_sense_is_named(arguments: dict[str, Any], named: str) -> None:
    model = LocalModel(ToyEngine())
    with pytest.raises(InvalidInput, match=named):
        model.generate(**{"prompt": SAID, **arguments})
    assert model.generate(SAID, max_tokens=2).all()
    model.close()


@pytest.mark.parametrize("temperature", [1e-320, 1e-10, 0])
def test_a_temperature_near_to_0_is_greedy(temperature: float, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, seen = ToyEngine(), []
    generate = engine.generate

    def look(live: Any, ids: Any, options: Any) -> Any:
        seen.append(options.temperature)
        return generate(live, ids, options)

    monkeypatch.setattr(engine, "generate", look)
    model = LocalModel(engine)
    model.generate(SAID, temperature=temperature, max_tokens=2).all()
    assert seen == [0.0]
    model.close()


def test_token_ids_of_any_integer_type_are_taken() -> None:
    model = LocalModel(ToyEngine())
    replies = [
        model.generate(ids, max_tokens=3).all()
        for ids in ([5, 6], (5, 6), np.array([5, 6]), [np.uint32(5), np.int64(6)])
    ]
    assert len(set(replies)) == 1
    assert as_ids([]).size == 0
    model.close()
