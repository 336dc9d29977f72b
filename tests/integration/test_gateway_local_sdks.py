"""The official SDKs against trained local models in two engines, and a gateway that is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from lix_cache.gateway.local.settings import LocalSettings, ServerSettings
from lix_cache.gateway.settings import UpstreamSettings
from lix_cache.gateway.tenants import digest_of_key
from tests.support.kv_models import SYSTEM, conversation, model_folder
from tests.support.provider import RunningGateway
from tests.support.redis_server import free_port, wait_until
from tests.support.wire import ask, post

pytestmark = pytest.mark.shared
anthropic = pytest.importorskip("anthropic")
openai = pytest.importorskip("openai")
pydantic = pytest.importorskip("pydantic")

ADMIN = "an-admin-key-of-the-tests"
USER = [{"role": "user", "content": "Hi, I would like to order a latte please."}]
SCHEMA = {
    "type": "object",
    "properties": {
        "drink": {"type": "string"},
        "size": {"enum": ["small", "medium", "large"]},
        "shots": {"type": "integer", "minimum": 1, "maximum": 4},
    },
    "required": ["drink", "size", "shots"],
}
OPTIONS = {"folder": "", "dtype": "float32", "threads": 1, "slots": 2}


def target(shared_dir: Path, engine: str) -> str:
    folder = model_folder(shared_dir)
    if engine == "llama.cpp":
        pytest.importorskip("xllamacpp")
        return str(folder / "coffee-3m.gguf")
    pytest.importorskip("torch")
    pytest.importorskip("transformers").utils.logging.disable_progress_bar()
    return str(folder)


@pytest.fixture(scope="module", params=["transformers", "llama.cpp"])
def gateway(
    request: pytest.FixtureRequest, shared_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningGateway]:
    upstream = UpstreamSettings("local", f"local:{target(shared_dir, request.param)}")
    local = LocalSettings(**{**OPTIONS, "folder": str(tmp_path_factory.mktemp("kv"))})
    with RunningGateway(
        "", None, upstreams=(upstream,), local=local, admin_key=digest_of_key(ADMIN)
    ) as running:
        wait_until(lambda: running.core.local["local"].state == "ok", 60, "the model")
        yield running


@pytest.fixture
def client(gateway: RunningGateway) -> Iterator[Any]:
    with openai.OpenAI(api_key="x", base_url=f"{gateway.url}/v1", max_retries=0, timeout=120) as made:
        yield made


@pytest.fixture
def claude(gateway: RunningGateway) -> Iterator[Any]:
    with anthropic.Anthropic(api_key="x", base_url=gateway.url, max_retries=0, timeout=120) as made:
        yield made


def talk(count: int) -> list[dict[str, Any]]:
    return conversation(count, SYSTEM)


def test_chat_completions(client: Any) -> None:
    told = {"model": "coffee", "messages": [{"role": "system", "content": SYSTEM}, *USER], "temperature": 0}
    fresh = {"x-lix-cache-mode": "off"}
    whole = client.chat.completions.create(**told, max_tokens=30, extra_headers=fresh)
    text = whole.choices[0].message.content
    assert text
    assert whole.choices[0].finish_reason in ("stop", "length")
    stream = client.chat.completions.create(
        **told, max_tokens=30, extra_headers=fresh, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert "".join(one.choices[0].delta.content or "" for one in chunks if one.choices) == text
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert chunks[-1].usage.prompt_tokens == whole.usage.prompt_tokens
    stopped = client.chat.completions.create(**told, max_tokens=30, stop=[text[4:7]], extra_headers=fresh)
    assert stopped.choices[0].message.content == text[: text.index(text[4:7])]
    assert stopped.choices[0].finish_reason == "stop"


def test_chat_completions_with_tools(client: Any) -> None:
    tool = {
        "type": "function",
        "function": {"name": "order", "description": "Order it.", "parameters": SCHEMA},
    }
    told = {"model": "coffee", "messages": [*USER], "tools": [tool], "temperature": 0, "max_tokens": 300}
    made = client.chat.completions.create(**told, tool_choice="required").choices[0]
    assert made.finish_reason == "tool_calls"
    (call,) = made.message.tool_calls
    arguments = json.loads(call.function.arguments)
    assert (call.function.name, set(arguments)) == ("order", {"drink", "size", "shots"})
    assert arguments["size"] in ("small", "medium", "large")
    assert 1 <= arguments["shots"] <= 4
    chunks = client.chat.completions.create(
        **told, tool_choice={"type": "function", "function": {"name": "order"}}, stream=True
    )
    deltas = [one.choices[0].delta.tool_calls[0] for one in chunks if one.choices[0].delta.tool_calls]
    assert deltas[0].function.name == "order"
    assert set(json.loads("".join(one.function.arguments or "" for one in deltas))) == set(arguments)
    # The next turn of an agent: its call and the result.
    turn = [
        {"role": "assistant", "content": None, "tool_calls": [call.model_dump()]},
        {"role": "tool", "tool_call_id": call.id, "content": "ordered"},
    ]
    after = client.chat.completions.create(**{**told, "messages": [*USER, *turn]}, tool_choice="none")
    assert not after.choices[0].message.tool_calls
    assert after.choices[0].message.content is not None


def test_messages(claude: Any) -> None:
    told = {"model": "coffee", "max_tokens": 30, "system": SYSTEM, "messages": USER}
    greedy = {"temperature": 0}
    fresh = {"x-lix-cache-mode": "off"}
    whole = claude.messages.create(**told, extra_body=greedy, extra_headers=fresh)
    with claude.messages.stream(**told, extra_body=greedy, extra_headers=fresh) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert whole.content[0].text == text == final.content[0].text
    assert final.stop_reason == whole.stop_reason
    assert final.usage.output_tokens == whole.usage.output_tokens
    total = whole.usage.input_tokens + whole.usage.cache_read_input_tokens
    assert final.usage.input_tokens + final.usage.cache_read_input_tokens == total
    counted = claude.messages.count_tokens(model="coffee", system=SYSTEM, messages=USER)
    assert counted.input_tokens == total
    tool = {"name": "order", "input_schema": SCHEMA}
    with claude.messages.stream(
        model="coffee", max_tokens=300, messages=USER, tools=[tool], tool_choice={"type": "any"}
    ) as stream:
        called = stream.get_final_message()
    assert called.stop_reason == "tool_use"
    assert (called.content[0].name, set(called.content[0].input)) == ("order", {"drink", "size", "shots"})


def test_responses(client: Any) -> None:
    told = {"model": "coffee", "instructions": SYSTEM, "input": USER[0]["content"], "temperature": 0}
    fresh = {"x-lix-cache-mode": "off"}
    whole = client.responses.create(**told, extra_headers=fresh)
    assert (whole.status, bool(whole.output_text)) == ("completed", True)
    with client.responses.stream(**told, extra_headers=fresh) as stream:
        assert stream.until_done().get_final_response().output_text == whole.output_text
    tool = {"type": "function", "name": "order", "parameters": SCHEMA, "strict": False}
    called = client.responses.create(**told, tools=[tool], tool_choice="required")
    assert called.output[0].type == "function_call"
    assert set(json.loads(called.output[0].arguments)) == {"drink", "size", "shots"}


@pytest.mark.promise("right-answer")
def test_what_the_model_cannot_do_is_an_error_of_the_sdk(client: Any, claude: Any) -> None:
    chat = partial(client.chat.completions.create, model="coffee", messages=USER, max_tokens=9)
    message = partial(claude.messages.create, model="coffee", messages=USER, max_tokens=9)
    response = partial(client.responses.create, model="coffee", input="a latte", max_output_tokens=9)
    begun = [*USER, {"role": "assistant", "content": "Okay, a small"}]
    function = {"name": "order", "parameters": SCHEMA}
    order = pydantic.create_model("Order", drink=(str, ...))
    cases: list[tuple[str, Any]] = [
        (
            "response_format",
            partial(client.chat.completions.parse, model="coffee", messages=USER, response_format=order),
        ),
        ("text.format", partial(client.responses.parse, model="coffee", input="x", text_format=order)),
        (
            "output_config.format",
            partial(claude.messages.parse, model="coffee", messages=USER, max_tokens=9, output_format=order),
        ),
        ("function_call", partial(chat, functions=[function], function_call={"name": "order"})),
        ("top_k", partial(chat, extra_body={"top_k": 1})),
        ("top_k", partial(message, extra_body={"top_k": 1})),
        ("container", partial(message, container="c")),
        ("include", partial(response, include=["message.output_text.logprobs"])),
        ("store", partial(response, store=True)),
        ("begun", partial(chat, messages=begun)),
        ("begun", partial(message, messages=begun)),
    ]
    for named, call in cases:
        with pytest.raises((openai.BadRequestError, anthropic.BadRequestError), match=named):
            call()


def test_what_the_sdks_say_beside_it_passes(client: Any, claude: Any) -> None:
    chat = client.chat.completions.create(
        model="coffee",
        messages=USER,
        max_tokens=9,
        user="u",
        metadata={"a": "b"},
        store=False,
        parallel_tool_calls=False,
        reasoning_effort="low",
        service_tier="auto",
        n=1,
        logprobs=False,
        extra_body={"top_k": 0, "min_p": 0.0},
    )
    assert chat.choices[0].message.content
    message = claude.beta.messages.create(
        model="coffee",
        messages=USER,
        max_tokens=2000,
        thinking={"type": "enabled", "budget_tokens": 1024},
        metadata={"user_id": "u"},
        context_management={"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        betas=["context-management-2025-06-27"],
    )
    assert message.stop_reason in ("end_turn", "max_tokens")
    response = client.responses.create(
        model="coffee",
        input="a latte",
        max_output_tokens=9,
        store=False,
        include=["reasoning.encrypted_content"],
        reasoning={"summary": "auto"},
        prompt_cache_key="k",
        parallel_tool_calls=False,
    )
    assert response.output_text
    assert response.parallel_tool_calls is False


@pytest.mark.promise("right-answer")
def test_a_session_goes_on_in_each_protocol_and_cached_tokens_are_true(client: Any, claude: Any) -> None:
    fresh = {"x-lix-cache-mode": "off", "x-session-id": "three shapes"}
    first = client.chat.completions.create(
        model="coffee", messages=talk(5), temperature=0, max_tokens=8, extra_headers=fresh
    )
    # Of another session at most its system prompt.
    assert first.usage.prompt_tokens_details.cached_tokens < first.usage.prompt_tokens // 2
    system, *turns = talk(5)
    second = claude.messages.create(
        model="coffee",
        system=system["content"],
        messages=turns,
        max_tokens=8,
        extra_body={"temperature": 0},
        extra_headers=fresh,
    )
    total = first.usage.prompt_tokens
    assert (second.usage.cache_read_input_tokens, second.usage.input_tokens) == (total - 1, 1)
    third = client.responses.create(
        model="coffee", input=talk(5), temperature=0, max_output_tokens=8, extra_headers=fresh
    )
    assert third.usage.input_tokens_details.cached_tokens == total - 1
    assert second.content[0].text == first.choices[0].message.content == third.output_text


@pytest.mark.promise("right-answer")
def test_a_model_of_the_same_geometry_takes_its_place(
    gateway: RunningGateway, shared_dir: Path, tmp_path: Path
) -> None:
    local = gateway.core.local["local"]
    before = local.target
    if not Path(before).is_dir():
        pytest.skip("there is one GGUF file")
    body = {"model": "coffee", "messages": talk(5), "temperature": 0, "max_tokens": 12}
    session = {"x_session_id": "swap", "x_lix_cache_mode": "off"}
    first = post(gateway.url, body, **session)
    admin = {"authorization": f"Bearer {ADMIN}"}

    def swap(to: str) -> Any:
        return ask(gateway.url, "POST", "/admin/models", json.dumps({"model": to}).encode(), admin)

    # The second model's folder has no tokenizer of its own, so it cannot be loaded as it is.
    bare = model_folder(shared_dir, "coffee-3m-b")
    assert swap(str(bare)).status == 400
    assert post(gateway.url, body, **session).text == first.text
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).symlink_to(Path(before) / name)
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).symlink_to(bare / name)
    assert swap(str(tmp_path)).status == 200
    other = post(gateway.url, body, **session)
    assert other.json["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    assert other.text != first.text
    assert swap(before).status == 200
    again = post(gateway.url, body, **session)
    assert again.text == first.text
    assert "source=disk" in again.headers["x-lix-kv"]


@contextmanager
def served(model: str, folder: Path, **settings: Any) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """Run ``lix-cache serve --local`` as a user does."""
    port = free_port()
    clean = {name: value for name, value in os.environ.items() if not name.startswith("LIX_CACHE")}
    local = {**OPTIONS, "folder": "", **settings}
    env = {
        **clean,
        "LIX_CACHE_KV_DIR": str(folder),
        "LIX_CACHE_GATEWAY_LOCAL": json.dumps(local),
        "LIX_CACHE_GATEWAY_REDIS": "no",
    }
    command = [sys.executable, "-m", "lix_cache.cli", "serve", "--local", model, "--port", str(port)]
    process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    url = f"http://127.0.0.1:{port}"

    def is_ready() -> bool:
        assert process.poll() is None, process.stderr and process.stderr.read()
        try:
            return ask(url, "GET", "/ready").status == 200
        except OSError:
            return False

    try:
        wait_until(is_ready, 120, "the gateway")
        yield process, url
    finally:
        process.terminate()
        process.communicate(timeout=60)


@pytest.mark.slow
@pytest.mark.promise("right-answer")
@pytest.mark.parametrize("engine", [pytest.param("transformers", marks=pytest.mark.exhaustive), "llama.cpp"])
def test_the_same_reply_after_a_kill_and_a_restart(engine: str, shared_dir: Path, tmp_path: Path) -> None:
    model = target(shared_dir, engine)
    body = {"model": "coffee", "messages": talk(9), "temperature": 0, "max_tokens": 16}
    with served(model, tmp_path / "kv", idle_seconds=0.1) as (process, url):
        first = post(url, body, x_session_id="s")
        wait_until(lambda: any((tmp_path / "kv").rglob("sessions/*.json")), 60, "the session on disk")
        process.send_signal(signal.SIGKILL)
        process.wait(60)
    with served(model, tmp_path / "kv") as (_, url):
        again = post(url, body, x_session_id="s")
    assert again.text == first.text
    usage = again.json["usage"]
    assert usage["prompt_tokens_details"]["cached_tokens"] == usage["prompt_tokens"] - 1
    assert "source=disk" in again.headers["x-lix-kv"]
    assert first.json["usage"]["prompt_tokens_details"]["cached_tokens"] == 0


def test_a_llama_server_at_a_url_is_a_local_model_too(
    shared_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lix_cache.kv.engines.llama_cpp import LlamaServerEngine

    engine = LlamaServerEngine.load(target(shared_dir, "llama.cpp"), context_tokens=1024, slots=2, threads=1)
    server = engine._http.url
    monkeypatch.setenv("KEY_OF_THE_SERVER", engine._http.key)
    theirs = ServerSettings(server, engine._slots.path, "coffee-3m 1", "KEY_OF_THE_SERVER")
    local = LocalSettings(folder=str(tmp_path), servers=(theirs,))
    upstreams = (UpstreamSettings("server", f"local:{server}"),)
    replies = []
    for _ in range(2):
        with RunningGateway("", None, environ=os.environ, upstreams=upstreams, local=local) as gateway:
            body = {"model": "coffee", "messages": talk(5), "temperature": 0, "max_tokens": 10}
            replies.append(post(gateway.url, body, x_session_id="s", x_lix_cache_mode="off"))
    assert replies[0].text == replies[1].text
    assert "source=disk" in replies[1].headers["x-lix-kv"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--local", "no/such/model"], "there is no local model"),
        (["--local", "http://127.0.0.1:1"], "local.servers"),
        (["--local", "README.md", "--workers", "2"], "one process"),
    ],
)
def test_wrong_use_is_said(arguments: list[str], said: str) -> None:
    pytest.importorskip("xllamacpp")
    command = [sys.executable, "-m", "lix_cache.cli", "serve", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert said in " ".join(done.stderr.split())
