"""Headless Chromium, driven over its own pipe (Chrome DevTools Protocol): no driver, no package, no port.

    with Browser() as browser:
        page = browser.open(path)
        page.click("#clips-table tbody tr")
        assert page.text("#clip-title") == "sub01/EP02"

``page.problems`` lists console errors and exceptions, ``page.requests`` what left the page: everything but the file
itself and data: URIs.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

CANDIDATES = ("chromium", "chromium-browser", "google-chrome", "chrome")
PATIENCE = 120.0  # s for one answer: the machine may be very busy
KEYS = {"Enter": 13, "Escape": 27, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}


def find_chromium() -> str | None:
    """The browser's path: $MEPIPE_CHROMIUM, else the first of the usual names; None where there is none."""
    given = os.environ.get("MEPIPE_CHROMIUM")
    return given or next((path for name in CANDIDATES if (path := shutil.which(name))), None)


class Browser:
    """One Chromium with a profile of its own, ended with the ``with`` block."""

    def __init__(self, profile: Path) -> None:
        self.profile = profile
        self._number = 0
        self._waiting: list[dict[str, Any]] = []
        self._buffer = b""

    def __enter__(self) -> Browser:
        executable = find_chromium()
        assert executable, "no Chromium"
        to_read, self._write = os.pipe()
        self._read, to_write = os.pipe()
        os.set_inheritable(to_read, True)
        os.set_inheritable(to_write, True)
        # Chromium reads commands from descriptor 3 and answers on 4; a shell puts ours there
        flags = [
            "--headless=new", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
            "--no-first-run", "--disable-extensions", "--disable-background-networking", "--disable-dev-shm-usage",
            "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={self.profile}", "about:blank",
        ]  # fmt: skip
        script = f'exec "$0" "$@" 3<&{to_read} 4>&{to_write}'
        self._log = (self.profile.parent / "chromium.log").open("wb")
        self._process = subprocess.Popen(
            ["/bin/bash", "-c", script, executable, *flags],
            pass_fds=(to_read, to_write), stdout=self._log, stderr=self._log,
        )  # fmt: skip
        os.close(to_read)
        os.close(to_write)
        return self

    def __exit__(self, *exc: object) -> None:
        self.send("Browser.close")
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._write)
        os.close(self._read)
        self._log.close()

    def send(self, method: str, session: str | None = None, **params: Any) -> int:
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if session:
            message["sessionId"] = session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        return self._number

    def call(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """Send and wait for the answer; events that come meanwhile are kept for ``events``."""
        number = self.send(method, session, **params)
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            for message in self._incoming(end):
                if message.get("id") == number:
                    assert "error" not in message, (method, message["error"])
                    return message["result"]
                self._waiting.append(message)
        raise TimeoutError(f"{method}: no answer in {PATIENCE:g} s")

    def events(self, session: str) -> list[dict[str, Any]]:
        """What was told of ``session`` since the last time; that of others waits for them."""
        self.call("Browser.getVersion")  # everything sent before this answer is here by then
        told = [m for m in self._waiting if m.get("sessionId") == session]
        self._waiting = [m for m in self._waiting if m.get("sessionId") != session]
        return [m for m in told if "method" in m]

    def _incoming(self, end: float) -> list[dict[str, Any]]:
        import select

        ready, _, _ = select.select([self._read], [], [], max(0.0, end - time.monotonic()))
        if not ready:
            return []
        data = os.read(self._read, 1 << 20)
        if not data:
            raise EOFError("Chromium has ended")
        *whole, self._buffer = (self._buffer + data).split(b"\0")
        return [json.loads(m) for m in whole]

    def open(self, path: Path, *, width: int = 1280, height: int = 900, dark: bool = False, hash: str = "") -> Page:
        """A new tab with the file at ``path``, loaded."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Page(self, session, target)
        for domain in ("Page", "Runtime", "Network", "Log"):
            page.call(f"{domain}.enable")
        page.call("Performance.enable", timeDomain="threadTicks")
        page.size(width, height)
        page.media(dark=dark)
        page.go(path.resolve().as_uri() + hash)
        return page


class Page:
    """One tab."""

    def __init__(self, browser: Browser, session: str, target: str) -> None:
        self.browser, self.session, self.target = browser, session, target
        self.url = ""
        self.problems: list[str] = []
        self.requests: list[str] = []

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        return self.browser.call(method, self.session, **params)

    def go(self, url: str) -> None:
        self.url = url
        self.call("Page.navigate", url=url)
        self.until("document.readyState === 'complete'")

    def look(self) -> None:
        """Take notice of what the browser told: problems and requests."""
        for event in self.browser.events(self.session):
            params = event["params"]
            if event["method"] == "Runtime.exceptionThrown":
                self.problems.append(str(params["exceptionDetails"]))
            elif event["method"] == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
                self.problems.append(str(params["args"]))
            elif event["method"] == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
                self.problems.append(params["entry"]["text"])
            elif event["method"] == "Network.requestWillBeSent":
                url = params["request"]["url"]
                if not url.startswith("data:") and url.split("#")[0] != self.url.split("#")[0]:
                    self.requests.append(url)

    def js(self, expression: str) -> Any:
        """The value of ``expression``. An exception in it is an AssertionError."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def work(self) -> float:
        """CPU seconds that the page's main thread has worked so far; other processes do not count."""
        metrics = self.call("Performance.getMetrics")["metrics"]
        return next(m["value"] for m in metrics if m["name"] == "TaskDuration")

    def until(self, expression: str) -> None:
        """Wait until ``expression`` is true."""
        end = time.monotonic() + PATIENCE
        while not self.js(f"Boolean({expression})"):
            assert time.monotonic() < end, f"never true: {expression}"
            time.sleep(0.03)

    def all(self, selector: str, what: str = "textContent") -> list[Any]:
        """A property of every element of ``selector``."""
        return self.js(f"[...document.querySelectorAll({json.dumps(selector)})].map((e) => e.{what})")

    def text(self, selector: str) -> str:
        return self.js(f"document.querySelector({json.dumps(selector)}).textContent.trim()")

    def visible(self, selector: str) -> int:
        """How many elements of ``selector`` take up room."""
        return self.js(f"[...document.querySelectorAll({json.dumps(selector)})].filter((e) => e.offsetParent).length")

    def click(self, selector: str, nth: int = 0) -> None:
        """A real click in the middle of the ``nth`` visible element of ``selector``."""
        x, y = self.js(
            f"(() => {{ const e = [...document.querySelectorAll({json.dumps(selector)})]"
            f".filter((e) => e.getClientRects().length)[{nth}]; e.scrollIntoView({{block: 'center'}});"
            "const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def press(self, key: str) -> None:
        """A real key press: a name such as Enter or ArrowDown, or one character."""
        about: dict[str, Any] = {"key": key}
        if key in KEYS:
            about |= {"code": key, "windowsVirtualKeyCode": KEYS[key]}
            about |= {"text": "\r"} if key == "Enter" else {}
        else:
            about |= {"text": key}
        self.call("Input.dispatchKeyEvent", type="keyDown", **about)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key)

    def type(self, text: str) -> None:
        self.call("Input.insertText", text=text)

    def choose(self, selector: str, value: str) -> None:
        """Set a control's value as a user's choice does."""
        self.js(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)}); e.value = {json.dumps(value)};"
            "if (e.value !== " + json.dumps(value) + ") throw new Error('no such choice');"
            "e.dispatchEvent(new Event('input', {bubbles: true})); })()"
        )

    def size(self, width: int, height: int) -> None:
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def media(self, *, dark: bool = False, print: bool = False) -> None:
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", media="print" if print else "", features=scheme)

    def screenshot(self, path: Path, *, whole: bool = False) -> Path:
        """A PNG of the window, or of the whole page."""
        data = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"]
        path.write_bytes(base64.b64decode(data))
        return path

    def pdf(self, path: Path) -> Path:
        """What printing gives, A4."""
        path.write_bytes(base64.b64decode(self.call("Page.printToPDF", printBackground=True, paperWidth=8.27,
                                                    paperHeight=11.69)["data"]))  # fmt: skip
        return path

    def cut_off(self) -> list[str]:
        """The tables of which A4 would lose a part on the right: less Chromium's margins it is 718 px wide."""
        self.size(718, 1000)
        wide = "(e) => e.getClientRects().length && e.scrollWidth > e.clientWidth + 1"
        return self.js(f"[...document.querySelectorAll('.table')].filter({wide}).map((e) => e.textContent.trim())")

    def close(self) -> None:
        self.browser.call("Target.closeTarget", targetId=self.target)
