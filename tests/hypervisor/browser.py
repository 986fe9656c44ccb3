"""A real browser for tests: chromium without a window, spoken to over its DevTools pipe.

The protocol is JSON objects that end in NUL, on the descriptors 3 and 4 of the browser
(``--remote-debugging-pipe``); so there is no port to be found and none to be found by others.
"""

import contextlib
import itertools
import json
import os
import select
import subprocess
import time

from tests.needs import need

PATIENCE = 60
"""Seconds that any single answer may take."""


class Browser:
    """One browser with one tab, of the width and height given in CSS pixels."""

    def __init__(self, profile, width=1400, height=1000):
        chromium = need("chromium")
        to_browser, self._out = os.pipe()
        self._in, from_browser = os.pipe()
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run"]
        options += [f"--window-size={width},{height}", f"--user-data-dir={profile}"]
        options += ["--disable-dev-shm-usage", "--remote-debugging-pipe", "about:blank"]
        # The shell puts the pipes where the browser looks for them.
        script = f'exec "$@" 3<&{to_browser} 4>&{from_browser}'
        self._process = subprocess.Popen(
            ["bash", "-c", script, "bash", chromium, *options],
            pass_fds=(to_browser, from_browser),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(to_browser)
        os.close(from_browser)
        self._numbers = itertools.count(1)
        self._buffer = b""
        self._session = None
        self.requests = []
        """Addresses that pages asked for."""
        self.errors = []
        """What scripts threw and nobody caught."""
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        attached = self._call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network"):
            self._call(f"{domain}.enable")

    def close(self):
        """End the browser, politely first."""
        with contextlib.suppress(OSError, EOFError, TimeoutError):
            self._session = None
            self._call("Browser.close")
        os.close(self._out)
        os.close(self._in)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    # -- the protocol ----------------------------------------------------------------------

    def _call(self, method, **parameters):
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + PATIENCE
        while True:
            answer = self._read(end)
            if answer.get("id") == number:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]
            self._note(answer)

    def _read(self, end):
        while b"\0" not in self._buffer:
            if not select.select([self._in], [], [], max(0, end - time.monotonic()))[0]:
                raise TimeoutError("the browser does not answer")
            data = os.read(self._in, 1 << 20)
            if not data:
                raise EOFError("the browser has gone")
            self._buffer += data
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def _note(self, message):
        parameters = message.get("params", {})
        if message.get("method") == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])
        elif message.get("method") == "Runtime.exceptionThrown":
            self.errors.append(parameters["exceptionDetails"])

    # -- what a person does ----------------------------------------------------------------

    def open(self, path, fragment=""):
        """Show a page of ``cowbird report`` and wait until it is there."""
        self._call("Page.navigate", url="about:blank")
        self._call("Page.navigate", url=f"file://{path}{fragment}")
        self.wait("document.body?.dataset.ready === 'true' || document.body?.dataset.failed")

    def run(self, expression):
        """The value of a JavaScript expression; a promise is waited for."""
        result = self._call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def wait(self, expression):
        """Wait until an expression is true; the page looks again with every picture it draws."""
        self.run(
            f"""new Promise((done) => {{
                const look = () => ({expression}) ? done(true) : setTimeout(look, 5);
                look();
            }})"""
        )

    def settle(self):
        """Wait until what was asked for is drawn."""
        self.run("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def text(self, selector):
        """What an element shows."""
        return self.run(f"document.querySelector({selector!r}).innerText")

    def click(self, x, y):
        """Press and release the left button at a place of the window, in CSS pixels."""
        for kind in ("mousePressed", "mouseReleased"):
            self._call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)
        self.settle()

    def click_on(self, selector):
        """Click the middle of an element, once it is where it will stay."""
        element = f"document.querySelector({selector!r})"
        self.run(f'{element}.scrollIntoView({{ block: "center" }})')
        before = None
        end = time.monotonic() + PATIENCE
        while True:  # a list that was scrolled is drawn anew, at its leisure
            self.settle()
            box = self.run(
                f"""(() => {{ const box = {element}.getBoundingClientRect();
                    return [box.left + box.width / 2, box.top + box.height / 2]; }})()"""
            )
            if box == before:
                break
            assert time.monotonic() < end, f"{selector} does not come to rest"
            before = box
        self.click(*box)

    def press(self, key, selector=None):
        """A key for the element with the focus, or for ``selector``."""
        if selector is not None:
            self.run(f"document.querySelector({selector!r}).focus()")
        codes = {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}
        codes |= {"End": 35, "Home": 36, "Enter": 13}
        for kind in ("rawKeyDown", "keyUp"):
            self._call(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                code=key,
                windowsVirtualKeyCode=codes[key],
            )
        self.settle()
