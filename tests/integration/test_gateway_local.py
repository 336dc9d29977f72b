"""A local model behind the gateway, with an engine whose replies show whose state they were made of."""

from __future__ import annotations

import gc
import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lix_cache import CacheConfig
from lix_cache.errors import ConfigError, EngineError
from lix_cache.gateway.checking import checked
from lix_cache.gateway.local import upstream as local_upstream
from lix_cache.gateway.local.settings import LocalSettings
from lix_cache.gateway.settings import GatewaySettings, TenantSettings, UpstreamSettings, read_settings
from lix_cache.gateway.tenants import digest_of_key
from lix_cache.kv.engine import Made
from lix_cache.kv.local_model import LocalModel
from lix_cache.kv.store import KvStore
from tests.support.kv import open_files
from tests.support.kv_engine import ToyEngine
from tests.support.provider import RunningGateway
from tests.support.redis_server import wait_until
from tests.support.wire import CHAT, MESSAGE, ask, chat_body, half_read, post

ADMIN = "an-admin-key-of-the-tests"
ADMIN_HEADERS = {"authorization": f"Bearer {ADMIN}"}


class Toy(ToyEngine):
    """Waits for a gate before each token, and notes what it makes."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.gate = threading.Event()
        self.gate.set()
        self.made = 0
        self.at_once = 0
        self.most_at_once = 0

    def generate(self, live: Any, ids: Any, options: Any) -> Iterator[Made]:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            for made in super().generate(live, ids, options):
                while not self.gate.wait(0.01) and not options.is_halted:
                    pass
                if options.is_halted:
                    return
                self.made += 1
                yield made
        finally:
            self.at_once -= 1


class Lab:
    """Gateways with toys for models: the target ``toy:N`` is the model with weights N."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.toys: list[Toy] = []
        self.options: dict[str, Any] = {}
        monkeypatch.setattr(local_upstream, "load_model", self.load)
        monkeypatch.setattr("lix_cache.gateway.local.overview.check_target", lambda *_: "toy")

    def load(self, target: str, settings: LocalSettings) -> LocalModel:
        kind, _, weights = target.partition(":")
        if kind != "toy":
            raise EngineError("no toy")
        self.toys.append(Toy(weights=int(weights), **self.options))
        return LocalModel(self.toys[-1], KvStore(self.folder, budget_bytes=settings.budget_bytes))

    @property
    def toy(self) -> Toy:
        return self.toys[-1]

    def gateway(self, config: CacheConfig | None = None, **settings: Any) -> RunningGateway:
        settings.setdefault("upstreams", (UpstreamSettings("local", "local:toy:1"),))
        local = LocalSettings(folder=str(self.folder), **settings.pop("local", {}))
        gateway = RunningGateway("", config, local=local, **settings)
        model = gateway.core.local["local"]
        wait_until(lambda: model.state not in ("unloaded", "loading"), 20, "the model")
        return gateway


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    return Lab(tmp_path / "kv", monkeypatch)


def said(turns: int = 1, **more: Any) -> dict[str, Any]:
    roles = ("user", "assistant")
    messages = [{"role": "system", "content": "You are a toy. " * 10}]
    messages += [{"role": roles[n % 2], "content": f"turn {n}"} for n in range(turns)]
    return {"model": "toy", "messages": messages, "temperature": 0, "max_tokens": 400, **more}


# -- answers --------------------------------------------------------------------------------------


@pytest.mark.promise("right-answer")
def test_cached_tokens_are_those_that_the_engine_did_not_compute(lab: Lab) -> None:
    with lab.gateway() as gateway:
        for number, turns in enumerate((1, 3, 5)):
            before = lab.toy.evaluated
            reply = post(gateway.url, said(turns), x_session_id="s")
            usage = reply.json["usage"]
            # All that it made but the last token went through it as well.
            computed = lab.toy.evaluated - before - (usage["completion_tokens"] - 1)
            cached = usage["prompt_tokens_details"]["cached_tokens"]
            assert usage["prompt_tokens"] - cached == computed
            assert bool(cached) is bool(number)
            assert reply.headers["x-lix-kv"].startswith(f"cached={cached}/{usage['prompt_tokens']}; ")


@pytest.mark.promise("right-answer")
def test_the_cache_stands_before_the_model(lab: Lab) -> None:
    with lab.gateway() as gateway:
        first = post(gateway.url, said())
        made = lab.toy.made
        again = post(gateway.url, said())
        stream = post(gateway.url, said(stream=True))
    assert (first.state, again.state, stream.state) == ("miss", "hit-l1-exact", "hit-l1-exact")
    assert first.text == again.text == stream.text
    assert lab.toy.made == made
    assert "x-lix-kv" not in again.headers


def test_a_session_resumes_after_a_restart(lab: Lab) -> None:
    with lab.gateway() as gateway:
        first = post(gateway.url, said(3), x_session_id="s", x_lix_cache_mode="off")
    with lab.gateway() as gateway:
        again = post(gateway.url, said(3), x_session_id="s", x_lix_cache_mode="off")
        metrics = ask(gateway.url, "GET", "/metrics").body.decode()
    assert again.text == first.text
    assert "source=disk" in again.headers["x-lix-kv"]
    usage = again.json["usage"]
    assert usage["prompt_tokens_details"]["cached_tokens"] == usage["prompt_tokens"] - 1
    assert 'lix_cache_kv_hits_disk_total{upstream="local"} 1' in metrics
    assert f'lix_cache_kv_restored_tokens_total{{upstream="local"}} {usage["prompt_tokens"] - 1}' in metrics
    assert "lix_cache_kv_stored_sessions 1" in metrics


@pytest.mark.promise("isolation")
def test_a_session_is_its_tenants(lab: Lab) -> None:
    keys = {"ann": "a" * 20, "bob": "b" * 20}
    tenants = tuple(TenantSettings(name, (digest_of_key(key),)) for name, key in keys.items())
    with lab.gateway(tenants=tenants, admin_key=digest_of_key(ADMIN)) as gateway:
        cached = []
        for name in ("ann", "bob", "ann"):
            reply = post(gateway.url, said(1), x_session_id="s", x_lix_cache_mode="off", x_lix_key=keys[name])
            cached.append(reply.json["usage"]["prompt_tokens_details"]["cached_tokens"])
            told = reply.headers["x-lix-kv"]
        assert cached[:2] == [0, 0], "nothing of ann's for bob"
        assert cached[2] > 0
        assert "differs" not in told
        created = ask(gateway.url, "POST", "/v1/agents", b"{}", {"x-lix-key": keys["ann"]}).json["id"]
        for method, path in (("GET", ""), ("GET", "/stats"), ("DELETE", ""), ("POST", "/generate")):
            body = b'{"prompt":"x"}' if method == "POST" else None
            found = ask(gateway.url, method, f"/v1/agents/{created}{path}", body, {"x-lix-key": keys["bob"]})
            assert found.status == 404
        listed = ask(gateway.url, "GET", "/v1/agents", None, {"x-lix-key": keys["bob"]})
        assert listed.json == {"agents": []}
        assert ask(gateway.url, "GET", "/v1/agents").status == 401
        assert ask(gateway.url, "GET", "/metrics").status == 401


@pytest.mark.promise("no-leak")
def test_a_miss_is_told_in_a_header_without_contents(lab: Lab) -> None:
    with lab.gateway() as gateway:
        post(gateway.url, said(3), x_session_id="s")
        body = said(3)
        body["messages"][0]["content"] = "You are a toy. It is Monday, secretly."
        reply = post(gateway.url, body, x_session_id="s")
    assert 'differs="token ' in reply.headers["x-lix-kv"]
    assert 'of system"' in reply.headers["x-lix-kv"]
    assert "Monday" not in reply.headers["x-lix-kv"]


def test_stop_texts_end_an_answer(lab: Lab) -> None:
    with lab.gateway() as gateway:
        whole = post(gateway.url, said(max_tokens=15, seed=1)).text
        stop = whole[5:7]
        at = whole.index(stop)
        chat = post(gateway.url, said(max_tokens=15, stop=[stop]))
        assert (chat.text, chat.json["choices"][0]["finish_reason"]) == (whole[:at], "stop")
        body = said(max_tokens=15, stop_sequences=[stop])
        system = body["messages"].pop(0)["content"]
        message = post(gateway.url, {**body, "system": system}, MESSAGE).json
        assert (message["stop_reason"], message["stop_sequence"]) == ("stop_sequence", stop)
        assert message["content"][0]["text"] == whole[:at]
        assert post(gateway.url, said(max_tokens=3)).json["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize("path", [CHAT, MESSAGE, "/v1/responses"])
def test_a_tool_that_must_be_called_is(lab: Lab, path: str) -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}}
    tool: dict[str, Any] = {"type": "function", "name": "weather", "parameters": schema}
    choice: Any = "required"
    if path == CHAT:
        tool = {"type": "function", "function": {"name": "weather", "parameters": schema}}
    elif path == MESSAGE:
        tool, choice = {"name": "weather", "input_schema": schema}, {"type": "tool", "name": "weather"}
    turn = (
        {"input": "Weather?"}
        if path.endswith("responses")
        else {"messages": [{"role": "user", "content": "W?"}]}
    )
    with lab.gateway() as gateway:
        body = {"model": "toy", **turn, "tools": [tool], "tool_choice": choice, "max_tokens": 200}
        if path.endswith("responses"):
            body["max_output_tokens"] = body.pop("max_tokens")
        told = post(gateway.url, body, path).json
        assert post(gateway.url, {**body, "stream": True}, path).state == "hit-l1-exact"
    if path == CHAT:
        call = told["choices"][0]["message"]["tool_calls"][0]["function"]
        assert told["choices"][0]["finish_reason"] == "tool_calls"
        name, arguments = call["name"], json.loads(call["arguments"])
    elif path == MESSAGE:
        block = told["content"][0]
        assert (block["type"], told["stop_reason"]) == ("tool_use", "tool_use")
        name, arguments = block["name"], block["input"]
    else:
        name, arguments = told["output"][0]["name"], json.loads(told["output"][0]["arguments"])
    assert name == "weather"
    assert isinstance(arguments["city"], str)


@pytest.mark.parametrize("path", [CHAT, MESSAGE])
def test_a_call_that_must_be_made_heeds_limits_and_stop_texts_and_is_counted_once(
    lab: Lab, path: str
) -> None:
    names = ("city", "country", "street")
    schema = {"type": "object", "properties": {name: {"type": "string"} for name in names}}
    tool: dict[str, Any] = {"name": "weather", "input_schema": schema}
    choice: Any = {"type": "tool", "name": "weather"}
    if path == CHAT:
        tool = {"type": "function", "function": {"name": "weather", "parameters": schema}}
        choice = "required"
    turn = {"messages": [{"role": "user", "content": "W?"}], "tools": [tool], "tool_choice": choice}

    def ended(told: Any) -> tuple[str, str | None, int, bool]:
        if path == MESSAGE:
            made = told["usage"]["output_tokens"]
            return told["stop_reason"], told["stop_sequence"], made, bool(told["content"])
        choice = told["choices"][0]
        called = "tool_calls" in choice["message"]
        return choice["finish_reason"], None, told["usage"]["completion_tokens"], called

    def asked(gateway: Any, **more: Any) -> tuple[str, str | None, int, bool]:
        body = {"model": "toy", "temperature": 0, **turn, "max_tokens": 1000, **more}
        return ended(post(gateway.url, body, path, x_lix_cache_mode="off").json)

    with lab.gateway() as gateway:
        reason, _, made, called = asked(gateway)
        assert (reason, called) == ("tool_calls" if path == CHAT else "tool_use", True)
        toy, counters = lab.toys[0], gateway.core.local["local"].model.counters
        # One token for the prompt's state, and the values.
        assert toy.made == counters["completion_tokens"] == made + 1
        assert counters["calls"] == counters["hits_none"] + counters["hits_memory"] == 1
        assert counters["prompt_tokens"] < 1000
        limit = "length" if path == CHAT else "max_tokens"
        for most in (1, 5, made - 1):
            assert asked(gateway, max_tokens=most) == (limit, None, most, False)
        stop = {"stop" if path == CHAT else "stop_sequences": [*"aeiou"]}
        reason, stopped, made, called = asked(gateway, **stop)
        assert (reason, called) == ("stop" if path == CHAT else "stop_sequence", False)
        assert stopped in (None, *"aeiou")
        assert made < 96


def test_other_paths(lab: Lab) -> None:
    with lab.gateway() as gateway:
        listed = ask(gateway.url, "GET", "/v1/models").json["data"]
        assert [one["id"] for one in listed] == ["toy:1"]
        body = {"messages": [{"role": "user", "content": "abc"}]}
        counted = post(gateway.url, body, "/v1/messages/count_tokens").json
        assert counted == {"input_tokens": len("<user>abc\n<assistant>") + 1}
        tools = {**body, "tools": [{"name": "f", "input_schema": {}}]}
        assert (
            post(gateway.url, tools, "/v1/messages/count_tokens").json["input_tokens"]
            > counted["input_tokens"]
        )
        assert ask(gateway.url, "GET", "/v1/responses/resp_1").status == 404
        embeddings = post(gateway.url, {"model": "m", "input": "x"}, "/v1/embeddings")
        assert embeddings.status == 404


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (said(n=2), {}, 400),
        (said(messages=[{"role": "user", "content": "x" * 5000}]), {}, 400),
        (said(), {"x_session_id": "x" * 201}, 400),
    ],
)
def test_what_cannot_be_answered_is_an_error_of_the_protocol(
    lab: Lab, body: Any, headers: dict[str, str], status: int
) -> None:
    with lab.gateway() as gateway:
        for stream in (False, True):
            reply = post(gateway.url, {**body, "stream": stream}, **headers)
            assert reply.status == status
            assert reply.json["error"]["message"]
        assert post(gateway.url, said()).status == 200


# -- nothing blocks, and who leaves is not waited for ---------------------------------------------


@pytest.mark.promise("no-stall")
def test_the_loop_serves_while_the_model_computes(lab: Lab) -> None:
    with lab.gateway() as gateway:
        assert post(gateway.url, said()).status == 200
        lab.toy.gate.clear()
        thread = threading.Thread(target=post, args=(gateway.url, said(3)))
        thread.start()
        wait_until(lambda: lab.toy.at_once == 1, 20, "the generation")
        assert ask(gateway.url, "GET", "/healthz").status == 200
        assert post(gateway.url, said()).state == "hit-l1-exact"
        lab.toy.gate.set()
        thread.join(60)


@pytest.mark.promise("no-stall")
@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_ends_the_generation(lab: Lab, stream: bool) -> None:
    with lab.gateway() as gateway:
        post(gateway.url, said())
        toy = lab.toy
        made = toy.made
        toy.gate.clear()
        half_read(
            gateway.port, said(3, stream=stream), when=lambda: wait_until(lambda: toy.at_once, 20, "it")
        )
        wait_until(lambda: not toy.at_once, 20, "its end")
        assert toy.made == made
        toy.gate.set()
        assert post(gateway.url, said(3)).status == 200, "the model serves on"


def test_requests_take_turns_and_too_many_are_refused(lab: Lab) -> None:
    with lab.gateway(local={"most_waiting": 1}) as gateway:
        post(gateway.url, said())
        lab.toy.gate.clear()
        replies: list[Any] = []
        threads = []
        model = gateway.core.local["local"]
        for number in (3, 5):
            threads.append(
                threading.Thread(target=lambda n=number: replies.append(post(gateway.url, said(n))))
            )
            threads[-1].start()
            wait_until(lambda n=number: lab.toy.at_once and (n == 3 or model._waiting), 20, "it")
        refused = post(gateway.url, said(7))
        assert (refused.status, refused.headers["retry-after"]) == (503, "3")
        lab.toy.gate.set()
        for thread in threads:
            thread.join(60)
    assert [one.status for one in replies] == [200, 200]
    assert lab.toy.most_at_once == 1


def test_slots_serve_side_by_side(lab: Lab) -> None:
    lab.options = {"exports": "snapshots", "most_live": 3, "serial": False}
    with lab.gateway() as gateway:
        alone = [post(gateway.url, said(n), x_lix_cache_mode="off").text for n in (1, 3, 5, 7)]
        lab.toy.gate.clear()
        replies: dict[int, str] = {}

        def one(number: int) -> None:
            replies[number] = post(gateway.url, said(number), x_lix_cache_mode="off").text

        threads = [threading.Thread(target=one, args=(n,)) for n in (1, 3, 5, 7)]
        for thread in threads:
            thread.start()
        wait_until(lambda: lab.toy.at_once == 3, 20, "three at once")
        lab.toy.gate.set()
        for thread in threads:
            thread.join(60)
    assert [replies[n] for n in (1, 3, 5, 7)] == alone


def test_an_engine_that_fails_is_an_answer_and_the_gateway_lives(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    with lab.gateway() as gateway:
        post(gateway.url, said())
        with monkeypatch.context() as broken:
            broken.setattr(Toy, "generate", lambda *_: (_ for _ in ()).throw(RuntimeError("secret")))
            for stream in (False, True):
                reply = post(gateway.url, said(3, stream=stream))
                assert reply.status == 500
                assert b"secret" not in reply.body
        prefill = Toy.prefill

        def fails_later(self: Toy, live: Any, ids: Any, *rest: Any) -> None:
            if len(live.ids) > 300 and len(ids) == 1:
                raise RuntimeError("secret")
            prefill(self, live, ids, *rest)

        with monkeypatch.context() as broken:
            broken.setattr(Toy, "prefill", fails_later)
            reply = post(gateway.url, said(15, stream=True))
            assert not reply.is_whole or b"[DONE]" not in reply.body
        assert post(gateway.url, said(5)).status == 200


@pytest.mark.slow
@pytest.mark.parametrize("count", [60, pytest.param(1000, marks=pytest.mark.exhaustive)])
def test_many_sessions_leave_nothing_behind(lab: Lab, count: int) -> None:
    with lab.gateway(local={"budget_bytes": 3_000 * count}) as gateway:

        def one(number: int) -> None:
            body = said(1, stream=number % 2 == 0)
            body["messages"][-1]["content"] = f"order {number}"
            if number % 3:
                assert post(gateway.url, body, x_session_id=f"s{number}").status == 200
            else:
                half_read(gateway.port, body)

        for number in range(20):
            one(number)
        wait_until(lambda: not gateway.core.metrics.open and not lab.toy.at_once, 20, "the first ones")
        gc.collect()
        files, everything = open_files(lab.folder), len(os.listdir("/proc/self/fd"))
        for number in range(20, count):
            one(number)

        def is_quiet() -> bool:
            names = [thread.name for thread in threading.enumerate()]
            gc.collect()
            return (
                not (gateway.core.metrics.open or gateway.core.flights or lab.toy.at_once)
                and "lix-cache-local" not in names
                and open_files(lab.folder) <= files
                # Sockets too; what other tests hold in this process comes and goes.
                and len(os.listdir("/proc/self/fd")) <= everything + 10
            )

        wait_until(is_quiet, 60, "all that was open to be closed")
        assert lab.toy.live == gateway.core.local["local"].model.stats()["live_sessions"] <= lab.toy.most_live
        # Under the lock: past files that a last save exchanges, a walk would count what never was at once.
        with KvStore(lab.folder, tidy=False)._locked(10.0):
            size = sum(path.stat().st_size for path in lab.folder.rglob("*") if path.is_file())
        assert size <= 3_000 * count
    assert lab.toy.live == 0


# -- another model ------------------------------------------------------------------------------


def swap(gateway: RunningGateway, model: Any, **more: Any) -> Any:
    body = json.dumps({"model": model, **more}).encode()
    return ask(gateway.url, "POST", "/admin/models", body, ADMIN_HEADERS)


def test_counters_go_on_when_the_model_is_exchanged(lab: Lab) -> None:
    def calls(gateway: RunningGateway) -> tuple[int, float]:
        (model,) = ask(gateway.url, "GET", "/admin/models", None, ADMIN_HEADERS).json["models"]
        text = ask(gateway.url, "GET", "/metrics", None, ADMIN_HEADERS).body.decode()
        told = [line for line in text.splitlines() if line.startswith("lix_cache_kv_calls_total{")]
        return model["stats"]["calls"], float(told[0].split()[-1])

    with lab.gateway(admin_key=digest_of_key(ADMIN)) as gateway:
        post(gateway.url, said(3), x_lix_cache_mode="off")
        assert calls(gateway) == (1, 1)
        for count, model in ((2, "toy:2"), (3, "toy:1")):
            assert swap(gateway, model).status == 200
            post(gateway.url, said(3), x_lix_cache_mode="off")
            assert calls(gateway) == (count, count)
        # The old one, loaded again, counts from 0.
        assert swap(gateway, "brick:1").status == 400
        assert calls(gateway) == (3, 3)


def test_a_gateway_without_sessions_says_how_to_have_them(lab: Lab) -> None:
    with lab.gateway(sessions=False) as gateway:
        refused = ask(gateway.url, "DELETE", "/v1/sessions/s", None, {})
        assert refused.status == 404
        assert "--sessions" in refused.body.decode()


@pytest.mark.promise("right-answer")
def test_a_model_is_exchanged_and_no_answer_of_the_old_one_is_served(lab: Lab) -> None:
    with lab.gateway(admin_key=digest_of_key(ADMIN)) as gateway:
        first = post(gateway.url, said(3), x_session_id="s")
        assert post(gateway.url, said(3)).state == "hit-l1-exact"
        old = lab.toy
        done = swap(gateway, "toy:2")
        assert done.status == 200
        (model,) = done.json["models"]
        assert (model["model"], model["state"]) == ("toy:2", "ok")
        assert old.is_closed
        other = post(gateway.url, said(3), x_session_id="s")
        assert (other.state, other.json["usage"]["prompt_tokens_details"]["cached_tokens"]) == ("miss", 0)
        assert other.text != first.text
        assert swap(gateway, "toy:1").status == 200
        again = post(gateway.url, said(3))
        assert (again.state, again.text) == ("hit-l1-exact", first.text), (
            "the same model's answers are good again"
        )
        fresh = post(gateway.url, said(3), x_session_id="s", x_lix_cache_mode="off")
        assert fresh.text == first.text
        assert "source=disk" in fresh.headers["x-lix-kv"]
        listed = ask(gateway.url, "GET", "/admin/models", None, ADMIN_HEADERS).json
        assert listed["models"][0]["stats"]["hits_disk"] == 1
        assert listed["store"]["models"] >= 1


@pytest.mark.promise("right-answer")
def test_an_answer_that_another_model_made_is_not_kept_under_the_first(lab: Lab) -> None:
    with lab.gateway(admin_key=digest_of_key(ADMIN)) as gateway:
        post(gateway.url, said())
        model = gateway.core.local["local"]
        send = model.send

        async def late(request: Any) -> Any:
            await model.swap("toy:2")
            return await send(request)

        model.send = late
        by_other = post(gateway.url, said(3))
        del model.send
        assert by_other.state == "miss"
        assert swap(gateway, "toy:1").status == 200
        again = post(gateway.url, said(3))
        assert again.state == "miss"
        assert again.text != by_other.text


def test_a_model_that_fails_leaves_the_old_one(lab: Lab) -> None:
    with lab.gateway(admin_key=digest_of_key(ADMIN)) as gateway:
        first = post(gateway.url, said(3), x_session_id="s", x_lix_cache_mode="off")
        refused = swap(gateway, "brick:1")
        assert refused.status == 400
        assert "'toy:1' serves on" in refused.json["error"]["message"]
        assert ask(gateway.url, "GET", "/ready").json["models"] == {"local": "ok"}
        again = post(gateway.url, said(3), x_session_id="s", x_lix_cache_mode="off")
        assert again.text == first.text
        assert "source=disk" in again.headers["x-lix-kv"], "it was written before"
        assert swap(gateway, "toy:1", upstream="other").status == 404
        assert swap(gateway, "").status == 400
        assert swap(gateway, 3).status == 400
        assert ask(gateway.url, "GET", "/admin/models").status == 401


def test_a_model_that_cannot_come_back_can_be_replaced(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    with lab.gateway(admin_key=digest_of_key(ADMIN)) as gateway:
        with monkeypatch.context() as broken:
            broken.setattr(Lab, "load", lambda *_: (_ for _ in ()).throw(EngineError("no memory")))
            model = gateway.core.local["local"]
            model._load = lab.load
            model._swappable._load = lambda: lab.load("toy:1", model._settings)
            refused = swap(gateway, "toy:2")
            assert "no model serves" in refused.json["error"]["message"]
            assert ask(gateway.url, "GET", "/ready").status == 503
            assert post(gateway.url, said()).status == 503
            assert agents(gateway, "POST", "", {}).status == 201
            assert (
                ask(gateway.url, "GET", "/admin/models", None, ADMIN_HEADERS).json["models"][0]["state"]
                != "ok"
            )
        model._load = lab.load
        assert swap(gateway, "toy:1").status == 200
        assert post(gateway.url, said()).status == 200


def test_a_check_says_what_is_wrong_with_a_model(lab: Lab) -> None:
    found = {}
    for name in ("toy:1", "brick:1"):
        settings = GatewaySettings(
            upstreams=(UpstreamSettings("local", f"local:{name}"),),
            local=LocalSettings(folder=str(lab.folder)),
            redis=False,
        )
        found[name] = checked(settings, CacheConfig())
    assert found["toy:1"]["parts"]["upstream local"] == "ok"
    assert not found["brick:1"]["ok"]
    assert "EngineError" in found["brick:1"]["parts"]["upstream local"]


def test_an_exchange_waits_for_replies_and_gives_up(lab: Lab) -> None:
    with lab.gateway(admin_key=digest_of_key(ADMIN), local={"drain_seconds": 0.2}) as gateway:
        post(gateway.url, said())
        lab.toy.gate.clear()
        replies: list[Any] = []
        thread = threading.Thread(target=lambda: replies.append(post(gateway.url, said(3))))
        thread.start()
        wait_until(lambda: lab.toy.at_once, 20, "the generation")
        busy = swap(gateway, "toy:2")
        assert busy.status == 409
        lab.toy.gate.set()
        thread.join(60)
        assert replies[0].status == 200
        assert len(lab.toys) == 1


def test_after_an_exchange_that_was_refused_the_next_reply_waits_for_its_place(lab: Lab) -> None:
    lab.options = {"most_live": 1, "serial": False}
    with lab.gateway(admin_key=digest_of_key(ADMIN), local={"drain_seconds": 0.2}) as gateway:
        post(gateway.url, said())
        lab.toy.gate.clear()
        replies: list[Any] = []

        def send(turns: int) -> threading.Thread:
            thread = threading.Thread(target=lambda: replies.append(post(gateway.url, said(turns))))
            thread.start()
            return thread

        first = send(3)
        wait_until(lambda: lab.toy.at_once, 20, "the generation")
        assert swap(gateway, "toy:2").status == 409
        second = send(5)
        local = gateway.core.local["local"]
        wait_until(lambda: local._waiting == 1, 20, "the second reply to wait")
        lab.toy.gate.set()
        for thread in (first, second):
            thread.join(60)
        assert [reply.status for reply in replies] == [200, 200]
        assert lab.toy.at_once == 0


def test_a_model_that_cannot_be_loaded_is_said_and_can_be_replaced(lab: Lab) -> None:
    upstreams = (UpstreamSettings("local", "local:brick:1"),)
    with lab.gateway(upstreams=upstreams, admin_key=digest_of_key(ADMIN)) as gateway:
        reply = post(gateway.url, said())
        assert reply.status == 503
        assert ask(gateway.url, "GET", "/ready").status == 503
        assert ask(gateway.url, "GET", "/v1/models").status == 503
        assert ask(gateway.url, "GET", "/metrics", None, ADMIN_HEADERS).status == 200
        assert swap(gateway, "toy:1").status == 200
        assert ask(gateway.url, "GET", "/ready").status == 200
        assert post(gateway.url, said()).status == 200


def test_without_a_local_model_there_is_none(redis_config: CacheConfig) -> None:
    with RunningGateway("http://127.0.0.1:9", None, admin_key=digest_of_key(ADMIN)) as gateway:
        assert ask(gateway.url, "GET", "/admin/models", None, ADMIN_HEADERS).status == 404
        assert "models" not in ask(gateway.url, "GET", "/ready").json


def test_a_forced_call_that_outgrows_the_context_ends_as_length(lab: Lab) -> None:
    fields = {name: {"type": "string"} for name in ("city", "country", "street", "zip")}
    tool = {"type": "function", "function": {"name": "weather", "parameters": {"properties": fields}}}
    with lab.gateway() as gateway:
        context = gateway.core.local["local"].model.engine.context_tokens
        seen = set()
        for free in (900, 700, 500, 300):
            body = said()
            body["messages"] = [{"role": "user", "content": "w" * (context - free)}]
            body |= {"tools": [tool], "tool_choice": "required"}
            reply = post(gateway.url, body)
            if reply.status == 200:
                choice = reply.json["choices"][0]
                seen.add(choice["finish_reason"])
                assert (choice["finish_reason"] == "tool_calls") == bool(choice["message"].get("tool_calls"))
                assert post(gateway.url, {**body, "stream": True}).is_whole
            else:
                assert reply.status == 400, "refused before anything was begun"
        assert "length" in seen


# -- agents ---------------------------------------------------------------------------------------


def agents(gateway: RunningGateway, method: str, path: str = "", body: Any = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    return ask(gateway.url, method, f"/v1/agents{path}", data)


@pytest.mark.promise("no-loss")
def test_an_agent_goes_on_after_a_restart(lab: Lab) -> None:
    with lab.gateway() as gateway:
        made = agents(gateway, "POST", "", {"name": "Toy", "system": "You are a toy. " * 10})
        assert made.status == 201
        path = "/" + made.json["id"]
        first = agents(
            gateway, "POST", path + "/generate", {"prompt": "Hello", "temperature": 0, "max_tokens": 9}
        )
        assert first.json["usage"]["cached_tokens"] == 0
        assert [one["name"] for one in agents(gateway, "GET").json["agents"]] == ["Toy"]
    with lab.gateway() as gateway:
        again = agents(
            gateway, "POST", path + "/generate", {"prompt": "And?", "temperature": 0, "max_tokens": 9}
        )
        assert again.json["usage"]["cached_tokens"] >= first.json["usage"]["prompt_tokens"]
        shown = agents(gateway, "GET", path).json
        assert [one["content"] for one in shown["messages"]] == [
            "Hello",
            first.json["text"],
            "And?",
            again.json["text"],
        ]
        streamed = agents(
            gateway,
            "POST",
            path + "/generate",
            {"prompt": "More", "temperature": 0, "max_tokens": 9, "stream": True},
        )
        events = [
            json.loads(line[6:]) for line in streamed.body.decode().split("\n") if line.startswith("data: {")
        ]
        assert "x-lix-kv" in streamed.headers
        text = "".join(one.get("text", "") for one in events)
        assert agents(gateway, "GET", path).json["messages"][-1]["content"] == text
        assert events[-1]["usage"]["completion_tokens"] <= 9
        gateway.core.local["local"].model.flush()
        stats = agents(gateway, "GET", path + "/stats").json
        assert (stats["calls"], stats["messages"]) == (3, 6)
        assert stats["stored"][0]["tokens"] > 0
        assert agents(gateway, "DELETE", path).json == {"id": path[1:], "deleted": True}
        assert agents(gateway, "GET", path).status == 404
        assert agents(gateway, "GET").json == {"agents": []}
    assert not list(lab.folder.rglob("*.safetensors")), "its state went with it"
    assert not list(lab.folder.rglob("agents/*/*"))


def test_an_agents_turn_is_kept_when_it_is_complete(lab: Lab) -> None:
    with lab.gateway() as gateway:
        path = "/" + agents(gateway, "POST", "", {}).json["id"]
        lab.toy.gate.clear()
        half_read(
            gateway.port,
            {"prompt": "Hello", "stream": True},
            f"/v1/agents{path}/generate",
            when=lambda: wait_until(lambda: lab.toy.at_once, 20, "it"),
        )
        wait_until(lambda: not lab.toy.at_once, 20, "its end")
        lab.toy.gate.set()
        assert agents(gateway, "GET", path).json["messages"] == []
        assert agents(gateway, "POST", path + "/generate", {"prompt": "Hello"}).status == 200
        assert len(agents(gateway, "GET", path).json["messages"]) == 2


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "", {"name": 3}, 400),
        ("POST", "", {"nmae": "x"}, 400),
        ("POST", "", {"name": "x" * 201}, 400),
        ("POST", "", {"model": "other"}, 400),
        ("DELETE", "", None, 405),
        ("GET", "/..%2f", None, 400),
        ("GET", "/0123", None, 404),
        ("GET", "/" + "0" * 24, None, 404),
        ("DELETE", "/" + "0" * 24, None, 404),
        ("GET", "/" + "0" * 24 + "/generate", None, 405),
        ("GET", "/" + "0" * 24 + "/other", None, 404),
        ("POST", "/" + "0" * 24 + "/generate", {"prompt": ""}, 400),
        ("POST", "/" + "0" * 24 + "/generate", {"prompt": "x", "tools": []}, 400),
        ("POST", "/" + "0" * 24 + "/generate", {"prompt": "x"}, 404),
    ],
)
def test_what_is_no_call_of_an_agent_is_refused(
    lab: Lab, method: str, path: str, body: Any, status: int
) -> None:
    with lab.gateway() as gateway:
        assert agents(gateway, method, path, body).status == status


def test_agents_are_not_without_number_and_cost_their_tenants_budget(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lix_cache.gateway.local.agents._MOST_AGENTS", 1)
    tenant = TenantSettings("ann", (digest_of_key("a" * 20),), tokens_per_day=5)
    headers = {"x-lix-key": "a" * 20}
    with lab.gateway(tenants=(tenant,)) as gateway:
        made = ask(gateway.url, "POST", "/v1/agents", b"{}", headers).json["id"]
        assert ask(gateway.url, "POST", "/v1/agents", b"{}", headers).status == 409
        path = f"/v1/agents/{made}/generate"
        said = [ask(gateway.url, "POST", path, b'{"prompt":"x"}', headers).status for _ in range(2)]
        assert said == [200, 429]


@pytest.mark.parametrize("way", ["leaves", "fails", "fails streamed"])
def test_half_an_agents_answer_costs_its_tenants_budget(
    lab: Lab, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant = TenantSettings("ann", (digest_of_key("a" * 20),), tokens_per_day=20)
    headers = {"x-lix-key": "a" * 20}
    with lab.gateway(tenants=(tenant,)) as gateway:
        made = ask(gateway.url, "POST", "/v1/agents", b"{}", headers).json["id"]
        path, toy = f"/v1/agents/{made}/generate", lab.toy
        prefill = Toy.prefill

        def fails(self: Toy, live: Any, ids: Any, *rest: Any) -> None:
            if len(ids) == 1 and toy.made >= 3:
                raise RuntimeError
            prefill(self, live, ids, *rest)

        if way == "leaves":
            gate = threading.Event()
            monkeypatch.setattr(toy, "gate", gate)
            monkeypatch.setattr(gate, "wait", lambda seconds: toy.made < 3 or time.sleep(seconds))
            body = {"prompt": "x", "temperature": 0, "max_tokens": 9, "stream": True}
            half_read(gateway.port, body, path, b'"text"', x_lix_key="a" * 20)
            wait_until(lambda: not toy.at_once, 20, "its end")
        else:
            monkeypatch.setattr(Toy, "prefill", fails)
            stream = b',"stream":true' if way.endswith("streamed") else b""
            body = b'{"prompt":"x","temperature":0,"max_tokens":9%b}' % stream
            ask(gateway.url, "POST", path, body, headers)
        # The prompt has fewer tokens than the budget; what was said of the answer is counted by the token.
        spent = gateway.core.tenants.tenants["ann"].spent
        wait_until(lambda: spent(int(time.time() // 86_400)) > 0, 20, "the count")
        prompt = len(toy.tokenize(toy.render([{"role": "user", "content": "x"}]))) + 1
        assert prompt < spent(int(time.time() // 86_400)) <= prompt + 3
        assert ask(gateway.url, "POST", path, b'{"prompt":"x"}', headers).status == 429


def test_an_agent_whose_model_fails_keeps_what_it_had(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    with lab.gateway() as gateway:
        path = "/" + agents(gateway, "POST", "", {}).json["id"]
        prefill = Toy.prefill

        def fails(self: Toy, live: Any, ids: Any, *rest: Any) -> None:
            if len(ids) == 1 and len(live.ids) > 40:
                raise RuntimeError("secret")
            prefill(self, live, ids, *rest)

        monkeypatch.setattr(Toy, "prefill", fails)
        whole = agents(gateway, "POST", path + "/generate", {"prompt": "x" * 30})
        assert whole.status == 500
        assert b"secret" not in whole.body
        half = agents(gateway, "POST", path + "/generate", {"prompt": "x" * 20, "stream": True})
        assert not half.is_whole or b"[DONE]" not in half.body
        assert agents(gateway, "GET", path).json["messages"] == []


@pytest.mark.promise("bad-bytes")
@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"id":"x"}', b"\xff"])
def test_a_damaged_agent_is_none(lab: Lab, data: bytes) -> None:
    with lab.gateway() as gateway:
        path = "/" + agents(gateway, "POST", "", {}).json["id"]
        (file,) = lab.folder.rglob("agents/*/*.json")
        file.write_bytes(data)
        assert agents(gateway, "GET", path).status == 404
        assert agents(gateway, "GET").json == {"agents": []}


@pytest.mark.promise("no-leak")
def test_a_sessions_state_goes_with_the_session(lab: Lab, redis_config: CacheConfig) -> None:
    with lab.gateway(redis_config, sessions=True) as gateway:
        for name in ("s", "other"):
            post(gateway.url, said(1, metadata={"n": name}), x_session_id=name, x_lix_cache_mode="off")
        gateway.settle()
        gateway.core.local["local"].model.flush()
        assert len(list(lab.folder.rglob("sessions/*.json"))) == 2
        assert ask(gateway.url, "DELETE", "/v1/sessions/s").status == 200
        assert len(list(lab.folder.rglob("sessions/*.json"))) == 1
        assert [one.session for one in gateway.core.local["local"].model._memory.all()] == ["other"]


# -- settings ---------------------------------------------------------------------------------------


def test_settings_of_local_models(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(
        "upstreams: [{name: coffee, url: 'local:models/coffee'}]\nlocal: {slots: 2, quotas: {a: '5'}}\n"
    )
    settings = read_settings(str(file), {})
    assert settings.upstreams[0].is_local
    assert (settings.local.slots, settings.local.quota_bytes()) == (2, {"a": 5})
    from_variable = read_settings(None, {"LIX_CACHE_GATEWAY_LOCAL": '{"threads": 3}'})
    assert from_variable.local.threads == 3
    for wrong in ({"slots": 0}, {"engine": "x"}, {"quotas": {"a": "many"}}, {"drain_seconds": 0.0}):
        with pytest.raises(ConfigError):
            GatewaySettings(local=LocalSettings(**wrong))
    with pytest.raises(ConfigError, match="behind local:"):
        UpstreamSettings("x", "local:")


def test_a_second_provider_answers_what_is_not_the_local_models(lab: Lab) -> None:
    from tests.support.provider import Provider

    with Provider() as provider:
        upstreams = (
            UpstreamSettings("local", "local:toy:1", models=("toy*",)),
            UpstreamSettings("far", provider.url),
        )
        with lab.gateway(upstreams=upstreams) as gateway:
            assert "x-lix-kv" in post(gateway.url, said()).headers
            assert post(gateway.url, chat_body()).text.startswith("Scripted")
            assert len(provider.calls) == 1


_NO_TEXT = b'"messages":[{"role":"user","content":"\\ud800"}]'
_LARGE = (
    b'"tools":[{"type":"function","function":{"name":"f","parameters":{"maximum":123456789012345678901}}}]'
)
_NO_NAMES = (
    b'"tool_choice":"required","tools":[{"type":"function","function":{"name":"f",'
    b'"parameters":{"type":"object","required":[{}]}}}]'
)


def test_what_no_model_can_be_asked_is_refused_over_http(lab: Lab) -> None:
    with lab.gateway() as gateway:
        for fields, named in (
            (_NO_TEXT, "messages"),
            (b'"messages":[{"role":"user","content":"x"}],' + _LARGE, "tools"),
            (b'"messages":[{"role":"user","content":"x"}],' + _NO_NAMES, "required"),
        ):
            body = b'{"model":"m",' + fields + b"}"
            refused = ask(gateway.url, "POST", CHAT, body, {"content-type": "application/json"})
            assert refused.status == 400, refused.body
            assert named in refused.body.decode()
        agent = ask(gateway.url, "POST", "/v1/agents", b'{"name":"x","system":"\\ud800"}', {})
        assert agent.status == 400, agent.body
