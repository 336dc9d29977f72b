"""Debian's Chromium without a window, for tests of the gateway's page."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

__all__ = ["Browser", "browser_of", "chromium"]

_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-proxy-server",
    "--force-color-profile=srgb",
    "--hide-scrollbars",
)


class Browser:
    """A tab, with what the tests ask of it.

    Attributes:
        driver: Selenium's.
    """

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def look(self, width: int, height: int = 900, *, dark: bool = False, still: bool = True) -> None:
        """Have a size and a scheme."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        features = [
            {"name": "prefers-color-scheme", "value": "dark" if dark else "light"},
            {"name": "prefers-reduced-motion", "value": "reduce" if still else "no-preference"},
        ]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def ask(self, script: str, *arguments: Any) -> Any:
        """Run a script's body in the page."""
        return self.driver.execute_script(script, *arguments)

    def text(self) -> str:
        """What is to be read on the page."""
        return str(self.ask("return document.body.innerText"))

    def until(self, script: str, seconds: float = 20) -> Any:
        """Wait until an expression is true in the page."""
        from selenium.webdriver.support.ui import WebDriverWait

        return WebDriverWait(self.driver, seconds, 0.05).until(lambda _: self.ask(f"return {script}"), script)

    def until_text(self, text: str, seconds: float = 20) -> None:
        """Wait until a text is to be read."""
        from selenium.webdriver.support.ui import WebDriverWait

        WebDriverWait(self.driver, seconds, 0.05).until(
            lambda _: text.lower() in self.text().lower(), f"{text!r} in {self.text()[:2000]!r}"
        )

    def press(self, *keys: str) -> None:
        """Press keys, wherever the focus is."""
        from selenium.webdriver.common.action_chains import ActionChains

        chain = ActionChains(self.driver)
        for key in keys:
            chain.send_keys(key)
        chain.perform()

    def tab_to(self, script: str, *, back: bool = False) -> None:
        """Press Tab, or Shift and Tab, until an expression is true of ``at``, the focused element."""
        from selenium.webdriver.common.action_chains import ActionChains
        from selenium.webdriver.common.keys import Keys

        for _ in range(60):
            chain = ActionChains(self.driver)
            if back:
                chain.key_down(Keys.SHIFT).send_keys(Keys.TAB).key_up(Keys.SHIFT).perform()
            else:
                chain.send_keys(Keys.TAB).perform()
            if self.ask(f"const at = document.activeElement; return Boolean({script})"):
                return
        raise AssertionError(f"the keyboard does not get there: {script}")

    def troubles(self) -> list[str]:
        """Return what the console was told since the last time: errors and refusals of the policy."""
        return [
            entry["message"]
            for entry in self.driver.get_log("browser")
            if entry["level"] in ("SEVERE", "WARNING")
        ]

    def picture(self, path: str) -> None:
        """Write what is to be seen, all of its length."""
        height = self.ask("return document.documentElement.scrollHeight")
        width = self.ask("return window.innerWidth")
        self.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False},
        )
        self.driver.save_screenshot(path)


def chromium() -> tuple[str, str]:
    """Return the browser and its driver; skip the test where there is none."""
    pytest.importorskip("selenium", reason="selenium is not installed")
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver") or shutil.which("/usr/lib/chromium/chromedriver")
    if browser is None or driver is None:
        pytest.skip("no chromium or no chromedriver here (Debian: apt-get install chromium chromium-driver)")
    return browser, driver


@contextlib.contextmanager
def browser_of(folder: str) -> Iterator[Browser]:
    """Start a browser that knows nothing yet.

    Args:
        folder: where it may keep what it knows.
    """
    program, driver_program = chromium()
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in (*_FLAGS, f"--user-data-dir={folder}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(driver_program))
    try:
        yield Browser(driver)
    finally:
        driver.quit()
