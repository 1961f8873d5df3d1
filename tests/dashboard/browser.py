"""Chromium by WebDriver, with nothing but Python's own library: as much of the protocol as the checks of the dashboard need."""

import base64
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

# Whoever waits for something on a page waits so long, in seconds, and looks so often.
PATIENCE = 15
LOOK_EVERY = 0.05
# The key under which WebDriver hands out elements.
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"

ARGUMENTS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage", "--disable-extensions", "--disable-default-apps", "--hide-scrollbars", "--force-color-profile=srgb", "--font-render-hinting=none", "--lang=en",
]


class Failed(Exception):
    """What a check found wrong, or what did not come in time."""


def free_port(address="127.0.0.1"):
    with socket.socket() as sock:
        sock.bind((address, 0))
        return sock.getsockname()[1]


def until(what, look, patience=PATIENCE):
    """Waits until `look` gives something that is true, and gives that."""
    end = time.monotonic() + patience
    last = None
    while True:
        try:
            found = look()
            if found:
                return found
            last = found
        except (Failed, OSError, ValueError) as error:
            last = error
        if time.monotonic() > end:
            raise Failed(f"waited {patience} s until {what}; at last: {last}")
        time.sleep(LOOK_EVERY)


class Browser:
    """One Chromium with a profile of its own, and one page in it."""

    def __init__(self, width=1280, height=900, dark=False, arguments=()):
        self.folder = tempfile.mkdtemp(prefix="causeway-browser.")
        self.port = free_port()
        driver = os.environ.get("CHROMEDRIVER") or shutil.which("chromedriver") or "/usr/bin/chromedriver"
        self.log = open(os.path.join(self.folder, "driver.log"), "wb")
        # A group of its own, so that no browser outlives its driver.
        self.process = subprocess.Popen([driver, f"--port={self.port}"], stdout=self.log, stderr=self.log, start_new_session=True, env={**os.environ, "HOME": self.folder, "LC_ALL": "C.UTF-8", "LANGUAGE": "en"})
        self.session = None
        until("the driver listens", lambda: self.call("GET", "/status")["ready"], 30)
        options = {"args": [*ARGUMENTS, f"--user-data-dir={self.folder}/profile", f"--window-size={width},{height}", *(["--force-dark-mode", "--blink-settings=preferredColorScheme=0"] if dark else []), *arguments]}
        binary = os.environ.get("CHROMIUM") or shutil.which("chromium")
        if binary:
            options["binary"] = binary
        capabilities = {"alwaysMatch": {"browserName": "chrome", "acceptInsecureCerts": True, "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}}
        self.session = self.call("POST", "/session", {"capabilities": capabilities})["sessionId"]
        self.resize(width, height, dark)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        try:
            if self.session:
                self.call("DELETE", f"/session/{self.session}", patience=10)
        except (OSError, Failed, ValueError):
            pass
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()
        self.log.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def call(self, method, path, body=None, patience=60):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data=data, method=method, headers={"content-type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=patience) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            told = json.loads(error.read() or b"{}").get("value", {})
            raise Failed(f"{told.get('error')}: {told.get('message', '').splitlines()[:1]}") from None

    def to(self, method, path, body=None):
        return self.call(method, f"/session/{self.session}{path}", body)

    def devtools(self, command, parameters):
        return self.to("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def resize(self, width, height, dark=False):
        """The page's own width, narrower than a window may be."""
        self.devtools("Emulation.setDeviceMetricsOverride", {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500})
        self.devtools("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]})

    def open(self, address):
        self.to("POST", "/url", {"url": address})

    def run(self, script, *arguments):
        """The value of a script, such as `return document.title`."""
        return self.to("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def later(self, script, *arguments):
        """The value that a script hands to its last argument."""
        return self.to("POST", "/execute/async", {"script": script, "args": list(arguments)})

    def texts(self, selector):
        return self.run("return [...document.querySelectorAll(arguments[0])].map((node) => node.textContent)", selector)

    def attributes(self, selector, *names):
        """A list for each element: its attributes of these names."""
        return self.run("return [...document.querySelectorAll(arguments[0])].map((node) => arguments[1].map((name) => node.getAttribute(name)))", selector, list(names))

    def count(self, selector):
        return self.run("return document.querySelectorAll(arguments[0]).length", selector)

    def find(self, selector):
        return self.to("POST", "/element", {"using": "css selector", "value": selector})[ELEMENT]

    def click(self, selector):
        self.to("POST", f"/element/{self.find(selector)}/click", {})

    def type(self, selector, text):
        self.to("POST", f"/element/{self.find(selector)}/value", {"text": text})

    def press(self, *keys):
        """Keys one after another, to whatever has the focus."""
        actions = [action for key in keys for action in ({"type": "keyDown", "value": key}, {"type": "keyUp", "value": key})]
        self.to("POST", "/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": actions}]})

    def faults(self):
        """What the console has had to say of errors since it was asked last."""
        entries = self.to("POST", "/se/log", {"type": "browser"})
        return [entry["message"] for entry in entries if entry["level"] == "SEVERE"]

    def picture(self, path, whole=False):
        told = self.devtools("Page.captureScreenshot", {"format": "png", "captureBeyondViewport": whole, **({"clip": {**self.size(), "scale": 1}} if whole else {})})
        with open(path, "wb") as file:
            file.write(base64.b64decode(told["data"]))

    def size(self):
        return self.run("return { x: 0, y: 0, width: document.documentElement.clientWidth, height: document.documentElement.scrollHeight }")
