"""The gateway's page in Chromium: by keyboard, at two widths, in light and dark, with hostile contents."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lix_cache import CacheConfig, HashingEmbedder
from lix_cache.gateway.prices import PriceSettings
from lix_cache.gateway.tenants import digest_of_key
from tests.support.browser import Browser, browser_of, chromium
from tests.support.provider import Provider, RunningGateway
from tests.support.redis_server import RedisServer
from tests.support.wire import chat_body, post

pytestmark = pytest.mark.slow

KEY = "admin-key-0123456789abcdef"
HOSTILE = "<script>window.taken=1</script><img src=x onerror='window.taken=2'>"
VIEWS = ("overview", "explain", "sessions", "sessions/local/talk", "tenants")
HERE = Path(__file__).parent

#: Text whose contrast with what is behind it is less than WCAG's AA asks for.
CONTRAST = """
const light = (rgb) => {
  const parts = rgb.map((one) => one / 255)
    .map((one) => (one <= 0.03928 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4));
  return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
};
const numbers = (color) => color.match(/[\\d.]+/g).map(Number);
const behind = (node) => {
  for (let at = node; at; at = at.parentElement) {
    const found = numbers(getComputedStyle(at).backgroundColor);
    if (found.length < 4 || found[3] === 1) return found.slice(0, 3);
  }
  return [255, 255, 255];
};
const poor = [];
for (const node of document.querySelectorAll('body *')) {
  const says = [...node.childNodes].some((one) => one.nodeType === 3 && one.textContent.trim());
  if (!says || !node.getClientRects().length || node.matches('option, :disabled')) continue;
  const style = getComputedStyle(node);
  const ink = node instanceof SVGElement ? style.fill : style.color;
  const [a, b] = [light(numbers(ink)), light(behind(node))];
  const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  if (ratio < 4.5) poor.push(`${ratio.toFixed(2)} ${node.outerHTML.slice(0, 120)}`);
}
return poor;
"""
#: What is cut off at the right.
OUTSIDE = """
const hidden = '.unseen, thead, .segments';
return [...document.querySelectorAll('main *')]
  .filter((one) => one.getClientRects().length && !one.closest(hidden))
  .filter((one) => one.getBoundingClientRect().right > innerWidth + 1)
  .map((one) => one.outerHTML.slice(0, 200));
"""
#: Controls that say no name, pictures without one, and headings that are left out.
NAMELESS = """
const found = [];
const named = (node) => node.getAttribute('aria-label') || node.textContent.trim()
  || (node.labels && [...node.labels].some((one) => one.textContent.trim()))
  || (node.getAttribute('aria-labelledby') || '').split(' ')
    .some((id) => id && document.getElementById(id)?.textContent.trim());
const all = 'a, button, input, select, textarea, summary, section, [role=img], nav';
for (const node of document.querySelectorAll(all)) {
  if (node.getClientRects().length && !named(node)) found.push(node.outerHTML.slice(0, 120));
}
for (const node of document.querySelectorAll('img:not([alt])')) found.push(node.outerHTML);
if (document.querySelectorAll('h1').length !== 1) found.push('h1');
const ids = [...document.querySelectorAll('[id]')].map((one) => one.id);
if (new Set(ids).size !== ids.length) found.push('an id twice');
return found;
"""


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    chromium()
    with Provider() as running:
        yield running


@pytest.fixture(scope="module")
def settings_of(
    redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], CacheConfig]:
    def make(name: str) -> CacheConfig:
        folder = tmp_path_factory.mktemp(name)
        return redis_server.config(
            redis_key_prefix=f"page-{folder.name}", archive_dir=folder, evictor_enabled=False
        )

    return make


@pytest.fixture(scope="module")
def gateway(provider: Provider, settings_of: Callable[[str], CacheConfig]) -> Iterator[RunningGateway]:
    with RunningGateway(
        provider,
        settings_of("busy"),
        embedder=HashingEmbedder(),
        admin_key=digest_of_key(KEY),
        sessions=True,
        prices=(PriceSettings(("m-*",), prompt=3.0, completion=15.0),),
    ) as running:
        running.core.is_demo = True
        for text in ("How do I reset my password?", "How do I turn on the lights in the kitchen?", HOSTILE):
            for _ in range(2):
                post(running.url, chat_body(text))
                running.settle()
        for number in range(3):
            post(running.url, chat_body(f"{HOSTILE} {number}"), x_session_id="talk")
            running.settle()
        post(running.url, chat_body("hello"), x_session_id=HOSTILE.replace("/", ""))
        running.settle()
        yield running


@pytest.fixture(scope="module")
def shared_browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser_of(str(tmp_path_factory.mktemp("browser"))) as running:
        yield running


@pytest.fixture
def browser(shared_browser: Browser) -> Iterator[Browser]:
    shared_browser.look(1440)
    shared_browser.driver.get("about:blank")
    shared_browser.troubles()
    yield shared_browser
    assert shared_browser.troubles() == []


def enter(browser: Browser, gateway: RunningGateway, key: str = KEY) -> None:
    browser.driver.get(gateway.url + "/ui")
    browser.ask("sessionStorage.clear()")
    browser.driver.get("about:blank")
    browser.driver.get(gateway.url + "/ui")
    browser.until("document.activeElement.id === 'key'")
    browser.press(key, "\ue007")


def go(browser: Browser, gateway: RunningGateway, view: str) -> None:
    browser.ask("location.hash = arguments[0]", f"#/{view}")
    ready = {
        "overview": "document.querySelector('.reasons td') && document.querySelector('.drawing svg')",
        "explain": "document.querySelector('#place')",
        "sessions": "document.querySelector('.sessions a') && document.querySelector('.pick')",
        "sessions/local/talk": "document.querySelectorAll('.message').length === 6",
        "tenants": "document.querySelector('td')",
    }
    browser.until(f"Boolean({ready[view]}) && location.hash === '#/{view}'")
    if view == "explain":
        browser.ask(
            "document.querySelector('#question').value = arguments[0];"
            "document.querySelector('form.ask').requestSubmit()",
            "How do I turn off the lights in the kitchen?",
        )
        browser.until("document.querySelector('.verdict')")
        browser.ask("document.querySelector('details.card').open = true")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
def test_each_view_fits_and_can_be_read(
    browser: Browser, gateway: RunningGateway, width: int, dark: bool
) -> None:
    browser.look(width, dark=dark)
    enter(browser, gateway)
    axe = _axe()
    for view in VIEWS:
        go(browser, gateway, view)
        if view == "overview":
            browser.ask("document.querySelectorAll('details').forEach((one) => { one.open = true })")
        assert browser.ask("return document.documentElement.scrollWidth <= window.innerWidth"), view
        assert browser.ask(OUTSIDE) == [], view
        assert browser.ask(CONTRAST) == [], view
        assert browser.ask(NAMELESS) == [], view
        back = re.findall(r"\d+", browser.ask("return getComputedStyle(document.body).backgroundColor"))
        assert (int(back[0]) < 128) == dark
        if axe:
            browser.ask(axe)
            found = browser.driver.execute_async_script(
                "const done = arguments[arguments.length - 1];"
                "axe.run(document).then((found) => done(found.violations), (error) => done([String(error)]))"
            )
            assert found == [], (view, json.dumps(found)[:3000])


def _axe() -> str:
    """Return axe-core, where the gate or its user has it: LIX_CACHE_AXE names its file."""
    path = os.environ.get("LIX_CACHE_AXE", "")
    return Path(path).read_text("utf-8") if path else ""


def test_all_of_it_goes_by_keyboard_alone(browser: Browser, gateway: RunningGateway) -> None:
    from selenium.webdriver.common.keys import Keys

    enter(browser, gateway)
    browser.until("document.querySelector('.drawing svg')")
    browser.ask("document.activeElement.blur()")
    browser.tab_to("at.className === 'skip'")
    browser.press(Keys.ENTER)
    assert browser.ask("return document.activeElement.id") == "main"
    browser.tab_to("at.name === 'range' && at.checked")
    browser.press(Keys.ARROW_RIGHT)
    browser.until("document.activeElement.value === '60' && document.activeElement.checked")
    browser.until("document.querySelectorAll('.chart tbody tr').length === 120")
    browser.tab_to("at.tagName === 'SUMMARY'")
    assert browser.ask("return getComputedStyle(document.activeElement).outlineStyle") == "solid", "seen"
    browser.press(Keys.ENTER)
    browser.until("document.activeElement.parentNode.open")
    browser.until("document.activeElement.tagName === 'SUMMARY'", 10)

    browser.tab_to("at.textContent === 'Explain'", back=True)
    browser.press(Keys.ENTER)
    browser.until(
        "document.activeElement.tagName === 'H1' && document.activeElement.textContent === 'Explain'"
    )
    assert browser.ask("return document.title").startswith("Explain")
    browser.until("document.querySelector('#question')")
    browser.tab_to("at.id === 'question'")
    browser.press("how do I reset my password please", Keys.ENTER)
    browser.until_text("Would be answered from the cache")
    browser.tab_to("at.tagName === 'SUMMARY'")
    browser.press(Keys.ENTER)
    browser.tab_to("at.type === 'submit'")
    browser.press(Keys.ENTER)
    browser.until_text("In this process")

    browser.tab_to("at.textContent === 'Sessions'", back=True)
    browser.press(Keys.ENTER)
    browser.until("document.querySelector('.sessions a')")
    browser.tab_to("at.matches('.sessions a') && at.textContent.startsWith('talk')")
    browser.press(Keys.ENTER)
    browser.until("document.activeElement.tagName === 'H2' && document.activeElement.textContent === 'talk'")

    browser.tab_to("at.textContent === 'Lock'", back=True)
    browser.press(Keys.ENTER)
    browser.until("document.activeElement.id === 'key'")
    assert browser.ask("return sessionStorage.length") == 0


def test_a_long_session_is_read_page_by_page(browser: Browser, gateway: RunningGateway) -> None:
    from lix_cache import CacheCoordinator, SessionKey

    # The gateway's own evictor is not to move it meanwhile.
    config = gateway.core.config.replace(evictor_enabled=False, redis_socket_timeout=10)
    session = CacheCoordinator(SessionKey("local", "long"), config)
    session.add_messages_to_context([{"role": "user", "content": f"said {i}"} for i in range(60)])
    enter(browser, gateway)
    browser.ask("location.hash = '#/sessions/local/long'")
    browser.until("document.querySelectorAll('.message').length === 50")
    browser.tab_to("at.textContent === 'Older messages'")
    browser.press("\ue007")
    browser.until("document.querySelectorAll('.message').length === 60")
    said = browser.ask(
        "return [...document.querySelectorAll('.message .text')].map((one) => one.textContent)"
    )
    assert said == [f"said {i}" for i in range(60)]
    assert browser.ask("return document.activeElement.tagName") == "H2", (
        "the button has gone, the focus has not"
    )


@pytest.mark.promise("no-leak")
def test_the_key_stays_in_the_tab(browser: Browser, gateway: RunningGateway) -> None:
    enter(browser, gateway, "not the key")
    browser.until_text("That is not the admin key.")
    assert browser.ask("return sessionStorage.length") == 0
    assert browser.ask("return document.activeElement.id") == "key"
    assert all("401" in trouble for trouble in browser.troubles()), "Chromium tells of each such answer"
    browser.press(KEY, "\ue007")
    browser.until_text("Answered from the cache")
    kept = "return [location.href, document.cookie, JSON.stringify(localStorage), document.body.innerHTML, "
    kept += "...performance.getEntries().map((one) => one.name)].join(' ')"
    assert KEY not in browser.ask(kept)


@pytest.mark.promise("no-leak")
def test_what_users_wrote_is_text_and_nothing_else(browser: Browser, gateway: RunningGateway) -> None:
    enter(browser, gateway)
    go(browser, gateway, "sessions")
    assert HOSTILE.replace("/", "") in browser.text()
    go(browser, gateway, "sessions/local/talk")
    assert f"{HOSTILE} 0" in browser.text()
    go(browser, gateway, "explain")
    browser.ask("document.querySelector('#question').value = arguments[0]", HOSTILE + " again")
    browser.ask("document.querySelector('form.ask').requestSubmit()")
    browser.until(
        "[...document.querySelectorAll('.words')].some((one) => one.textContent.includes('<script>'))"
    )
    browser.ask("location.hash = '#/sessions/local/' + encodeURIComponent(arguments[0])", HOSTILE)
    browser.until_text("That did not work")
    assert browser.ask(
        "return [window.taken ?? null, document.querySelectorAll('main img, main script').length]"
    ) == [
        None,
        0,
    ]
    # Were there a hole, the policy would close it.
    taken = (
        "try { document.querySelector('main').innerHTML = 'x'; return 'taken' } catch (e) { return e.name }"
    )
    assert browser.ask(taken) == "TypeError"
    assert all(re.search("TrustedHTML|40[04]", trouble) for trouble in browser.troubles())


def test_the_tour_of_the_demo_shows_each_kind_of_answer(
    browser: Browser, provider: Provider, settings_of: Callable[[str], CacheConfig]
) -> None:
    with RunningGateway(
        provider, settings_of("tour"), embedder=HashingEmbedder(), admin_key=digest_of_key(KEY), sessions=True
    ) as gateway:
        gateway.core.is_demo = True
        enter(browser, gateway)
        browser.until_text("No request in the last 15 min")
        browser.until("document.querySelector('.try button')")
        browser.ask("document.querySelector('.try button').click()")
        browser.until("document.querySelectorAll('.steps li').length === 7")
        said = browser.ask(
            "return [...document.querySelectorAll('.steps .badge')].map((one) => one.textContent)"
        )
        assert [*said[:2], *said[3:5]] == ["Miss", "Exact hit", "Miss", "Miss"]
        # One in a hundred is asked anew, to measure how many hits are wrong.
        assert said[2] == "Semantic hit" or "asked anew" in browser.text()
        browser.until("document.querySelector('.reasons tbody tr')")
        browser.until_text("A guard found")


def test_where_there_is_nothing_the_page_says_what_to_do(browser: Browser, provider: Provider) -> None:
    with RunningGateway(provider, None, admin_key=digest_of_key(KEY)) as gateway:
        enter(browser, gateway)
        browser.until_text("No request in the last 15 min")
        assert f'base_url="{gateway.url}/v1"' in browser.text()
        assert "Without Redis, each worker counts for itself" in browser.text()
        for view, text in (
            ("explain", "exact requests only"),
            ("sessions", "not switched on"),
            ("tenants", "local"),
        ):
            browser.ask("location.hash = arguments[0]", f"#/{view}")
            browser.until_text(text)


def test_a_gateway_that_is_gone_leaves_the_numbers_and_says_so(browser: Browser, provider: Provider) -> None:
    with RunningGateway(provider, None, admin_key=digest_of_key(KEY)) as gateway:
        post(gateway.url, chat_body())
        enter(browser, gateway)
        browser.until_text("1 request")
    browser.until_text("trying again")
    assert "Answered from the cache" in browser.text()
    browser.ask("location.hash = '#/tenants'")
    browser.until_text("The gateway does not answer")
    browser.until("[...document.querySelectorAll('button')].some((one) => one.textContent === 'Try again')")
    browser.driver.get_log("browser")


def test_nothing_moves_where_less_motion_is_asked_for(browser: Browser, gateway: RunningGateway) -> None:
    longest = """
    const seconds = (style) => parseFloat(style.transitionDuration) + parseFloat(style.animationDuration);
    return Math.max(...[...document.querySelectorAll('*')].map((one) => seconds(getComputedStyle(one))));
    """
    enter(browser, gateway)
    browser.until_text("Answered from the cache")
    assert browser.ask(longest) == 0
    browser.look(1440, still=False)
    assert 0 < browser.ask(longest) <= 0.2
