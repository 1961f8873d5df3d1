"""The dashboard in a real browser. Each check is a function; what it finds wrong it raises, in words.

  python3 checks.py PROGRAM [NAME…]        PICTURES=FOLDER also writes the pictures of the documents
"""

import http.server
import json
import os
import shutil
import struct
import sys
import threading
import time
import traceback
import urllib.error
import urllib.request
import zlib

from browser import Browser, Failed, free_port, until
from fake import HOSTILE, FakeGateway, Federation, story
from federation import RealFederation, Server, over_tls

WIDTHS = [(1280, 900), (390, 844)]
VIEWS = ["zones", "services", "timeline", "explain", "topology", "shifts"]
# A change is to be seen so soon after the admin API tells of it, in seconds.
SHOWN_WITHIN = 2.0
# A letter in the filter is to be seen so soon with 1,000 services, in seconds, on a machine that does other things too.
FILTERED_WITHIN = 1.0
# Largest picture for the documents, in bytes.
MOST_PICTURE = 150_000
# Ways of the API that a gateway may not have yet: the page says so in words.
MAY_BE_ABSENT = ("/v1/events", "/v1/figures", "/v1/topology/history")

CHECKS = []


def check(function):
    CHECKS.append(function)
    return function


def same(what, got, want):
    if got != want:
        raise Failed(f"{what}\n  got  {got}\n  want {want}")


def holds(what, truth):
    if not truth:
        raise Failed(what)


def show(browser, base, view, ready):
    """Opens a view: as a page of its own, or from another view of the same page."""
    if browser.run("return location.origin") == base:
        browser.run("location.hash = arguments[0]", f"#{view}")
    else:
        browser.open(f"{base}/#{view}")
    name = view.split("?")[0] if view.split("?")[0] in VIEWS else "zones"
    until(f"{view} is drawn", lambda: browser.count(f'#head nav a[href="#{name}"][aria-current]') and browser.count(ready))


def no_faults(browser, *allowed):
    faults = [fault for fault in browser.faults() if not any(part in fault for part in (*MAY_BE_ABSENT, *allowed))]
    same("the console is silent", faults, [])


def fits(browser, view):
    """Nothing is wider than the page."""
    wide = browser.run("return [document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    holds(f"{view} is {wide[0]} wide on a page of {wide[1]}", wide[0] <= wide[1])


def milliseconds(value):
    """As the page writes it."""
    if value >= 9.95:
        return f"{int(value + 0.5)} ms"
    return f"{value:.1f}".removesuffix(".0") + " ms" if value >= 0.095 else f"{value:.2f}".rstrip("0").rstrip(".") + " ms"


# ---- with a real federation


@check
def every_view_shows_what_the_admin_api_says(world):
    east = world.real.zones["east"]
    for width, height in WIDTHS:
        browser = world.browser(width, height)
        zones_are_drawn(browser, east)
        services_are_drawn(browser, east, width)
        topology_is_drawn(browser, east)
        explanation_is_drawn(browser, east)
        for view, subject in (("timeline", "events"), ("shifts", "shift")):
            show(browser, east.address, view, f"main .note, main .events, main .shift")
            text = " ".join(browser.texts("main"))
            holds(f"{view} says something of {subject}: {text[:200]}", subject in text or browser.count(".events li, .shift"))
            fits(browser, view)
        no_faults(browser)


def zones_are_drawn(browser, east):
    show(browser, east.address, "zones", ".matrix td[data-says]")
    told = {item["name"]: item for item in east.items("/v1/zones")}
    want = {name: "own" if item["own"] else "up" for name, item in told.items()}
    until("the map has each zone, up", lambda: dict(browser.attributes(".map .zone", "data-zone", "data-state")) == want)
    lines = {tuple(sorted(line.split())) for (line,) in browser.attributes(".map .lines line", "data-line")}
    holds(f"the map has a line from east to each: {lines}", {("east", "north"), ("east", "west")} <= lines)

    # What the page has been told last, to the letter: round trips are others a moment later.
    browser.run("""
        const plain = window.fetch;
        window.fetch = async (path, how) => {
          const answer = await plain(path, how);
          if (path === '/v1/zones') window.answered = await answer.clone().json();
          return answer;
        };
    """)
    until("the page asks again", lambda: browser.run("return window.answered"))

    def round_trips():
        cells = {of: (state, float(rtt)) for says, of, state, rtt in browser.attributes(".matrix td[data-says]", "data-says", "data-of", "data-state", "data-rtt") if says == "east"}
        now = {item["name"]: ("up", item["links"][0]["rtt_ms"]) for item in browser.run("return window.answered")["items"] if not item["own"]}
        shown = browser.texts('.matrix td[data-says="east"] .figure')
        return cells == now and shown == [milliseconds(now[name][1]) for name in sorted(now)]

    until("the matrix has the round trips that the admin API tells", round_trips)
    browser.click('.map .zone[data-zone="west"]')
    until("west is told of", lambda: browser.count(".inspector"))
    same("its name", browser.texts(".inspector h2"), ["west"])
    held = {item["name"]: item["state"] for item in browser.run("return window.answered")["items"]}
    same("which is what the admin API says", held, {item["name"]: item["state"] for item in east.items("/v1/zones")})
    holds("its ways in are told", str(told["west"]["gateways"][0][0]) in browser.texts(".inspector")[0])
    # Escape closes it.
    browser.press("\ue00c")
    until("it is closed", lambda: not browser.count(".inspector"))
    fits(browser, "zones")


def services_are_drawn(browser, east, width):
    show(browser, east.address, "services", "tr[data-service]")
    told = {item["name"]: item for item in east.items("/v1/services")}

    def rows():
        drawn = {}
        for (name,) in browser.attributes("tr[data-service]", "data-service"):
            chips = browser.texts(f'tr[data-service="{name}"] .chip')
            drawn[name] = sorted(" ".join(chip.split()) for chip in chips)
        want = {}
        for name, item in told.items():
            places = [("east", item["local"]["healthy"], item["local"]["instances"]), *((place["zone"], place["healthy"], place["instances"]) for place in item["zones"])]
            want[name] = sorted(f"{zone} {healthy}" if healthy == number else f"{zone} {healthy}/{number}" for zone, healthy, number in places if number)
        return drawn == want or (_ for _ in ()).throw(Failed(f"{drawn} is not {want}"))

    until("each service is shown where it is served", rows)
    head = browser.run("const box = document.querySelector('table.services thead').getBoundingClientRect(); return [box.width, box.height]")
    holds(f"the head of the table is {head} at {width}", (head[0] > 100) == (width > 819))
    browser.type("input[type=search]", "sens")
    until("the filter leaves one", lambda: browser.attributes("tr[data-service]", "data-service") == [["sensors"]])
    browser.click('tr[data-service="sensors"] a')
    until("it is told of", lambda: browser.texts(".inspector h2") == ["sensors"])
    holds("who may call it is told", told["sensors"]["callers"] in browser.texts(".inspector")[0])
    fits(browser, "services")


def topology_is_drawn(browser, east):
    show(browser, east.address, "topology?all=1", ".findings li")
    item = east.items("/v1/topology")[0]
    text = browser.texts("main")[0]
    for told in (item["fingerprint"], item["trust_domain"]):
        holds(f"{told} is shown", told in text)

    def findings():
        drawn = sorted(status for (status,) in browser.attributes(".findings li", "data-status"))
        checks = east.ask("/v1/checks?all=true")
        listed = [check for zone in checks["zones"] for check in zone["answer"]["items"]] if "zones" in checks else checks["items"]
        unlike = {json.dumps([check["group"], check["name"], check["status"], check["message"]]): check["status"] for check in listed}
        return drawn == sorted(unlike.values())

    until("the findings are those of the admin API", findings)
    fits(browser, "topology")


def explanation_is_drawn(browser, east):
    show(browser, east.address, "explain", "input[name=service]")
    browser.type("input[name=service]", "sensors")
    browser.click("button[type=submit]")
    until("it is explained", lambda: browser.count(".outcome"))
    item = east.items("/v1/explain?service=sensors")[0]
    same("where it goes", browser.attributes(".outcome", "data-outcome"), [[item["candidates"][0]["zone"]]])
    same("each step", [verdict for (verdict,) in browser.attributes("[data-verdict]", "data-verdict")], [step["verdict"] for step in item["steps"]])
    holds("its reason", item["outcome"].replace("`", "") in browser.texts(".outcome")[0])
    browser.run("location.hash = '#explain?service=nothing'")
    until("what there is not is said", lambda: browser.count(".answer .note.bad"))
    fits(browser, "explain")
    browser.faults()


@check
def a_killed_gateway_is_seen_within_two_seconds(world):
    real = world.real
    east, west = real.zones["east"], real.zones["west"]
    browser = world.browser(1280, 900)
    show(browser, east.address, "zones", '.map .zone[data-zone="west"][data-state="up"]')
    browser.run("window.before = document.querySelector('.map')")
    begun = time.monotonic()
    west.kill()
    told = seen = None
    state = lambda: browser.attributes('.map .zone[data-zone="west"]', "data-state")[0][0]
    while seen is None:
        told = told or (time.monotonic() if east.state_of("west") != "up" else None)
        seen = time.monotonic() if state() != "up" else None
        holds(f"west is still up on the page {time.monotonic() - begun:.1f} s after it was killed; the API said otherwise {told and told - begun} s after", time.monotonic() - begun < 10)
        time.sleep(0.02)
    told = told or seen
    print(f"measured: killed, told by the admin API after {told - begun:.2f} s, on the page after {seen - begun:.2f} s")
    holds(f"it took {seen - told:.2f} s from the API to the page", seen - told <= SHOWN_WITHIN)
    until("west is away", lambda: state() == "down", 60)
    holds("it was shown without a reload", browser.run("return window.before === document.querySelector('.map')"))
    until("it is told of in words", lambda: any("west" in text for text in browser.texts(".attention b, [role=status]")))
    until("the line is told to be down", lambda: ["east west", "down"] in browser.attributes(".map .lines line", "data-line", "data-state"))
    world.picture(browser, "zones.png")
    browser.run("location.hash = '#services'")
    until("what it alone served has no home", lambda: [text.strip() for text in browser.texts('tr[data-service="sensors"] .st')] == ["not served"])
    west.start(real.program, real.topology)
    browser.run("location.hash = '#zones'")
    until("west is back", lambda: browser.count('.map .zone[data-zone="west"][data-state="up"]'), 60)
    until("so the API says", lambda: east.state_of("west") == "up")
    no_faults(browser)


@check
def a_gateway_that_ends_is_said_to_be_stale_and_comes_back(world):
    north = world.real.zones["north"]
    browser = world.browser(1280, 900)
    show(browser, north.address, "zones", ".map .zone")
    north.kill()
    until("the page says that it is old", lambda: browser.attributes(".live", "data-status") == [["bad"]])
    holds("what was known is still there", browser.count(".map .zone") == 3 and browser.count(".stale[role=alert]") == 1)
    north.start(world.real.program, world.real.topology)
    until("it is live again", lambda: browser.attributes(".live", "data-status") == [["good"]] and not browser.count(".stale"), 60)


@check
def the_page_is_open_and_what_it_shows_is_not(world):
    port = world.real.open
    for path, status in (("/", 200), ("/dashboard/app.js", 200), ("/dashboard/nothing.js", 401), ("/v1/zones", 401), ("/v1/events/stream", 401)):
        same(f"{path} without a token", over_tls(port, path)[0], status)
    same("with one", over_tls(port, "/v1/zones", world.real.token)[0], 200)
    for width, height in WIDTHS:
        browser = world.browser(width, height)
        show(browser, f"https://127.0.0.1:{port}", "zones", "input[name=token]")
        same("nothing else is shown", browser.count(".map, table"), 0)
        enter_token(browser, "wrong")
        until("it is said to be wrong", lambda: browser.count(".token .note.bad"))
        same("still nothing", browser.count(".map, table"), 0)
        enter_token(browser, world.real.token)
        until("it opens", lambda: browser.count(".map .zone") == 3)
        kept = browser.run("return JSON.stringify([document.cookie, Object.keys(localStorage), Object.keys(sessionStorage), location.href, document.documentElement.outerHTML])")
        holds("the token is nowhere but in memory", world.real.token not in kept and not browser.run("return document.cookie"))
        browser.click(".status button")
        until("it is forgotten, and what was shown with it", lambda: browser.count("input[name=token]") and not browser.count(".map, table"))
        no_faults(browser, "401")


def enter_token(browser, token):
    browser.type("input[name=token]", token)
    browser.click("button[type=submit]")


@check
def a_page_of_another_origin_reads_and_does_nothing(world):
    """It tries all that a page can: with and without CORS, as script, picture, frame and form, and under its own name for this host (DNS rebinding)."""
    # north lets everybody do everything, so that nothing else stands in the way.
    north = world.real.zones["north"]
    before = [north.items(path) for path in ("/v1/instances", "/v1/topology")]
    harm = json.dumps([{"service": "orders", "id": "evil", "address": "127.0.0.1:1"}])
    own = urllib.request.Request(f"{north.address}/v1/instances", data=harm.encode(), method="POST")
    with urllib.request.urlopen(own, timeout=10) as answer:
        same("a program of this host may do it", answer.status, 200)
    urllib.request.urlopen(urllib.request.Request(f"{north.address}/v1/instances/orders/evil", method="DELETE"), timeout=10).read()
    same("and it is gone again", [item["id"] for item in north.items("/v1/instances") if item["id"] == "evil"], [])
    page = EVIL.replace("TARGET", north.address).replace("HARM", json.dumps(harm))
    with ForeignPage(page) as foreign:
        rules = "--host-resolver-rules=MAP evil.example 127.0.0.1"
        with Browser(arguments=[rules]) as browser:
            for address in (foreign.address, foreign.address.replace("127.0.0.1", "localhost"), foreign.address.replace("127.0.0.1", "evil.example")):
                browser.open(address)
                until(f"the page at {address} has tried all", lambda: browser.run("return window.tried === window.wanted"))
                same(f"what {address} has read", browser.run("return window.read"), [])
            # The name of the page itself leads to the gateway now.
            for path in ("/", "/v1/zones", "/dashboard/app.js"):
                browser.open(f"http://evil.example:{north.admin}{path}")
                text = browser.texts("body")[0]
                holds(f"{path} under another name is refused: {text[:200]}", "is not this gateway" in text)
                told = browser.later("const done = arguments[arguments.length - 1]; fetch('/v1/zones').then((answer) => done(answer.status), () => done(0))")
                holds(f"fetch under another name: {told}", told in (0, 421))
                told = browser.later("const done = arguments[arguments.length - 1]; fetch('/v1/instances', { method: 'POST', body: arguments[0] }).then((answer) => done(answer.status), () => done(0))", harm)
                holds(f"posting under another name: {told}", told in (0, 421))
            # Somebody who follows a link from elsewhere comes to the dashboard.
            browser.open(foreign.address)
            browser.run("document.querySelector('a').click()")
            until("a link to the dashboard opens it", lambda: browser.run("return location.host") == f"127.0.0.1:{north.admin}" and browser.count(".map .zone") == 3)
    same("nothing has changed", [[drop(item) for item in north.items(path)] for path in ("/v1/instances", "/v1/topology")], [[drop(item) for item in items] for items in before])


def drop(item):
    """What of an item does not change by itself."""
    return {name: item[name] for name in ("service", "id", "address", "fingerprint", "generation") if name in item}


EVIL = """<!doctype html><a href="TARGET/">here</a><body><script>
window.read = []; window.tried = 0; window.wanted = 13;
const done = () => { window.tried += 1; };
const read = (what) => { window.read.push(what); };
for (const [path, how] of [['/v1/zones', {}], ['/v1/zones', { mode: 'no-cors' }], ['/', {}], ['/v1/instances', { method: 'POST', body: HARM }], ['/v1/instances', { method: 'POST', body: HARM, mode: 'no-cors' }], ['/v1/shifts/orders/abort', { method: 'POST', mode: 'no-cors' }]])
  fetch('TARGET' + path, how).then((answer) => answer.text().then((text) => { if (answer.status || text) read(path + ' ' + answer.status); }, () => {}), () => {}).finally(done);
fetch('TARGET/v1/instances/orders/evil', { method: 'PUT', body: '{"address":"127.0.0.1:1"}', headers: { 'content-type': 'application/json' } }).then((answer) => read('put ' + answer.status), () => {}).finally(done);
for (const path of ['/v1/zones', '/dashboard/format.js']) { const script = document.createElement('script'); script.onload = () => { read('script ' + path); done(); }; script.onerror = done; script.src = 'TARGET' + path; document.body.append(script); }
const picture = new Image(); picture.onload = () => { read('picture'); done(); }; picture.onerror = done; picture.src = 'TARGET/dashboard/icon.svg';
const style = document.createElement('link'); style.rel = 'stylesheet'; style.onload = () => { read('style'); done(); }; style.onerror = done; style.href = 'TARGET/dashboard/style.css'; document.head.append(style);
const frame = document.createElement('iframe'); frame.onload = () => { try { if (frame.contentDocument && frame.contentDocument.body.textContent.includes('Causeway')) read('frame'); } catch { } done(); }; frame.src = 'TARGET/'; document.body.append(frame);
const sink = document.createElement('iframe'); sink.name = 'sink'; document.body.append(sink);
const form = document.createElement('form'); form.method = 'post'; form.action = 'TARGET/v1/instances'; form.enctype = 'text/plain'; form.target = 'sink';
const field = document.createElement('input'); field.name = HARM.slice(0, -2) + ',"tags":{"a":"'; field.value = '"}}]'; form.append(field); document.body.append(form); form.submit(); setTimeout(done, 300);
</script>"""


class ForeignPage:
    """Another site: one page on an address of its own."""

    def __init__(self, page):
        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def do_GET(self):
                self.send_response(200)
                self.send_header("content-type", "text/html")
                self.end_headers()
                self.wfile.write(page.encode())

        self.server = Server(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}/"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


# ---- with a stand-in for the API, and the real files


@check
def every_state_is_told_without_colour(world):
    with FakeGateway(story(), world.files) as fake:
        for width, height in WIDTHS:
            browser = world.browser(width, height)
            show(browser, fake.address, "zones", ".matrix td[data-says]")
            want = {"east": "own", "west": "up", "north": "suspect", "south": "drained", "plant": "down"}
            until("each zone is drawn as what it is", lambda: dict(browser.attributes(".map .zone", "data-zone", "data-state")) == want)
            shapes = browser.run("return Object.fromEntries([...document.querySelectorAll('.map .zone')].map((zone) => [zone.dataset.state, [...zone.querySelector('.sign').children].map((part) => part.localName + (part.getAttribute('d') || '')).join()]))")
            same("each state has a shape of its own", len(set(shapes.values())), len(want))
            for words in (["plant", "away"], ["north", "suspect"], ["south", "drained"]):
                holds(f"{words} is told in words", any(all(word in text for word in words) for text in browser.texts(".attention li")))
            until("each says of each", lambda: browser.count(".matrix td[data-says]") == 20)
            silent = browser.texts(".matrix tr.old th")
            holds(f"the last word of who is away is shown as such: {silent}", len(silent) == 1 and "last word" in silent[0])
            named(browser)
            for view in VIEWS:
                show(browser, fake.address, view, "main .view")
                named(browser)
                fits(browser, view)
            no_faults(browser)
    figures_are_drawn(world)


def named(browser):
    """Whatever can be reached by keyboard has a name for those who hear it."""
    nodes = browser.devtools("Accessibility.getFullAXTree", {})["nodes"]
    wants = ("button", "link", "textbox", "searchbox", "combobox", "checkbox", "img")
    bare = [node["role"]["value"] for node in nodes if not node.get("ignored") and node.get("role", {}).get("value") in wants and not node.get("name", {}).get("value")]
    same("every control and picture has a name", bare, [])


def figures_are_drawn(world):
    made = story()
    with FakeGateway(made, world.files) as fake:
        browser = world.browser(1280, 900)
        show(browser, fake.address, "services", "tr[data-service=orders] .sparkline")
        minutes = {zone: made.minutes(zone, 3600) for zone in made.zones if zone not in made.away}
        parts = [part for listed in minutes.values() for minute in listed for part in minute["services"] if part["service"] == "orders"]
        begun = sum(part["begun"] for part in parts)
        label = browser.attributes("tr[data-service=orders] .sparkline", "aria-label")[0][0]
        holds(f"{label} is near {begun} requests", abs(int("".join(c for c in label.split(" requests")[0] if c.isdigit())) - begun) < begun * 0.05)
        last = [part for listed in minutes.values() for part in listed[0]["services"] if part["service"] == "orders"]
        slow = max(last, key=lambda part: part["setup_milliseconds"]["p99"])["setup_milliseconds"]
        cells = dict(zip(("rate", "ok", "p50", "p95", "p99"), browser.texts("tr[data-service=orders] td.n")))
        for name in ("p50", "p95", "p99"):
            same(name, cells[name], milliseconds(slow[name]))
        ok = sum(part["ok"] for part in parts) / begun
        same("success", cells["ok"], f"{int(ok * 10000) / 100:.2f} %")
        world.picture(browser, "services.png")
        browser.click("tr[data-service=orders] a")
        until("what was declared stands beside what was seen", lambda: any("version=v1" in text and "95 %" in text for text in browser.texts(".inspector tr")))
        holds("its shift is told", any("25 %" in text for text in browser.texts(".inspector .callout")))
        browser.run("location.hash = '#shifts'")
        until("its steps are drawn", lambda: browser.texts('[data-shift=orders] .shiftsteps [aria-current]') == ["25 %"])
        holds("the gate is told", all(text in browser.texts("[data-shift=orders]")[0] for text in ("success<99%", "p99>300ms", "12", "81")))
        browser.run("location.hash = '#topology'")
        until("the history is drawn", lambda: browser.count(".history li") == 5)
        browser.click(".history .more")
        until("the lines that differ are drawn", lambda: browser.count(".difference .added") and browser.count(".difference .removed"))
        until("and the changes in words", lambda: any("service orders: split" in text for text in browser.texts(".changes li")))
        no_faults(browser)


@check
def events_are_shown_as_they_happen(world):
    made = story()
    with FakeGateway(made, world.files) as fake:
        browser = world.browser(1280, 900)
        show(browser, fake.address, "timeline", ".events > li")
        told = len(made.events_list)
        until("every event is there", lambda: browser.count(".events > li") == told)
        until("the stream is open", lambda: browser.texts(".live") == [" Live"])
        begun = time.monotonic()
        fake.tell(made.happens("tunnel_up", "east", peer="plant/gw1", text="the tunnel with plant/gw1 is up", because="it answers again"))
        until("it is on top", lambda: "it answers again" in browser.texts(".events > li")[0])
        took = time.monotonic() - begun
        print(f"measured: an event is on the page after {took:.2f} s")
        holds(f"it took {took:.2f} s", took <= SHOWN_WITHIN)
        browser.run("location.hash = '#timeline?kind=failover_begun'")
        until("the filter leaves one", lambda: browser.attributes(".events > li", "data-kind") == [["failover_begun"]])
        holds("with what was decided then", "none of 2 is healthy" in browser.texts(".events details")[0])
        browser.click(".events .more")
        until("which leads to what is decided now", lambda: browser.count(".outcome, .answer .note"))
        same("for the same service", browser.run("return document.querySelector('input[name=service]').value"), "orders")
        # A stream that ends is opened again.
        fake.tell(None)
        until("it is open again", lambda: len(fake.listeners) == 1 and browser.texts(".live") == [" Live"])
        fake.broken = True
        until("failures are told", lambda: browser.attributes(".live", "data-status") == [["bad"]])
        asked = len(fake.requests)
        time.sleep(3)
        holds(f"and it is asked less often: {len(fake.requests) - asked} times in 3 s", len(fake.requests) - asked <= 8)
        fake.broken = False
        until("it is well again", lambda: browser.attributes(".live", "data-status") == [["good"]], 40)


@check
def what_is_not_known_is_said(world):
    """With a token that the other zones do not know, nothing looks as if all had been asked."""
    made = Federation(["east", "north", "west"], ["orders", "sensors"])
    made.away = {"north": "refused", "west": "refused"}
    made.because = "the bearer token is not known"
    with FakeGateway(made, world.files) as fake:
        for width, height in WIDTHS:
            browser = world.browser(width, height)
            show(browser, fake.address, "zones", ".matrix td[data-says]")
            until("the refusal is a thing to look at", lambda: any("north and west" in text and made.because in text for text in browser.texts(".attention li")))
            same("nobody says that all is well", [text for text in browser.texts(".attention") if "Every zone" in text], [])
            for label in ("Zones up", "Pairs with a tunnel", "Findings"):
                told = [text for text in browser.texts(".tile") if text.startswith(label)]
                holds(f"whose word that is: {told}", len(told) == 1 and "says east alone" in told[0])
            same("no word on the map is cut", [text for text in browser.texts(".map .zone text") if "…" in text], [])
            fits(browser, "zones")
            show(browser, fake.address, "services", "tr[data-service]")
            until("whose traffic is missing", lambda: any("Without north and west" in text for text in browser.texts(".foot")))
            no_faults(browser)
        made.away = {}
        browser.run("location.hash = '#zones'")
        until("with everybody's word nothing is left to look at", lambda: any("Nothing. Every zone is up and every check passes" in text for text in browser.texts(".attention")), 40)


@check
def a_service_is_shown_as_it_is_now(world):
    """Not as it was in the last hour: an outage at once, and its end as soon."""
    made = Federation(["east", "north", "west"], ["orders", "sensors", "web"])
    # Over for two minutes; another one is not.
    made.outages = {"orders": range(3, 12), "web": range(1, 5)}
    with FakeGateway(made, world.files) as fake:
        browser = world.browser(1280, 900)
        show(browser, fake.address, "services", "tr[data-service=orders] .sparkline")
        state = lambda name: [text.strip() for text in browser.texts(f"tr[data-service={name}] .st")]
        until("the hour is there", lambda: state("web") == ["failing"])
        same("what failed and no longer does", state("orders"), ["served"])
        heads = browser.texts("table.services thead th")
        holds(f"the hour's figures are named as such: {heads}", "Success, last hour" in heads)
        ends = [time.strftime("%H:%M", time.localtime(time.time() // 60 * 60 - back)) for back in (0, 60)]
        holds(f"up to when they are is told: {ends}", any(f"until {end}" in text for end in ends for text in browser.texts(".foot")))
        until("the stream is open", lambda: len(fake.listeners) == 1)
        begun = time.monotonic()
        for zone in ("east", "north"):
            fake.tell(made.happens("home_lost", zone, service="orders", text="no zone can serve orders", because="none of 2 instances is healthy"))
        until("that two zones cannot have it is shown", lambda: state("orders") == ["cut off in part"])
        fake.tell(made.happens("home_lost", "west", service="orders", text="no zone can serve orders"))
        until("and that none can", lambda: state("orders") == ["not served"])
        took = time.monotonic() - begun
        print(f"measured: an outage is on the page after {took:.2f} s")
        holds(f"it took {took:.2f} s", took <= 2 * SHOWN_WITHIN)
        browser.run("location.hash = '#zones'")
        until("it is a thing to look at", lambda: any("Nobody can serve orders from east, north and west" in text and "since" in text for text in browser.texts(".attention li")))
        browser.run("location.hash = '#timeline'")
        until("three zones saw one thing", lambda: any("(seen by 3 zones)" in text for text in browser.texts(".events > li")))
        for zone in made.zones:
            fake.tell(made.happens("home_found", zone, service="orders", text="orders is served again, by tier 1 (east)"))
        browser.run("location.hash = '#services'")
        until("its end is shown as soon", lambda: state("orders") == ["served"])
        # The minute in which it failed is told only now.
        hour = lambda: browser.attributes("tr[data-service=orders] .sparkline", "aria-label")
        before = hour()
        made.outages["orders"] = range(1, 12)
        until("its figures are there", lambda: hour() != before, 40)
        same("what was before it was found is no word on how it is", state("orders"), ["served"])
        # What a process said that is no more holds no longer.
        fake.tell(made.happens("home_lost", "east", ago=-1, service="orders", text="no zone can serve orders"))
        until("one zone lost it", lambda: state("orders") == ["cut off in part"])
        fake.tell(made.happens("gateway_started", "east", ago=-2, text="east/gw1 started"))
        until("and began anew", lambda: state("orders") == ["served"])
        no_faults(browser)


@check
def a_page_that_nobody_looks_at_asks_for_nothing(world):
    with FakeGateway(story(), world.files) as fake:
        browser = world.browser(1280, 900)
        show(browser, fake.address, "zones", ".map .zone")
        until("the stream is open", lambda: len(fake.listeners) == 1)
        browser.run("Object.defineProperty(document, 'hidden', { value: true, configurable: true }); document.dispatchEvent(new Event('visibilitychange'))")
        fake.tell(None)
        # What was under way is answered.
        time.sleep(0.5)
        asked = len(fake.requests)
        time.sleep(3)
        same("requests of a hidden page within 3 s", len(fake.requests) - asked, 0)
        browser.run("delete document.hidden; document.dispatchEvent(new Event('visibilitychange'))")
        until("it asks when somebody looks", lambda: len(fake.requests) > asked and len(fake.listeners) == 1)


@check
def nothing_yet_is_said_in_words(world):
    with FakeGateway(Federation(["east"], []), world.files) as fake:
        for width, height in WIDTHS:
            browser = world.browser(width, height)
            for view, words in (("zones", "There is one zone"), ("services", "No services yet"), ("timeline", "Nothing has happened yet"), ("explain", "Name a service"), ("topology", "Nothing was applied yet"), ("shifts", "No service is under a shift")):
                show(browser, fake.address, view, "main .view")
                until(f"{view} says `{words}`", lambda: words in browser.texts("main")[0])
                fits(browser, view)
            no_faults(browser)


@check
def names_are_never_markup(world):
    made = Federation(HOSTILE[:5], HOSTILE, hostile=True)
    made.shift_list = [{"service": HOSTILE[0], "to": {HOSTILE[1]: HOSTILE[2]}, "steps": [5, 100], "every": HOSTILE[3], "abort_if": [HOSTILE[0]], "min_requests": 1, "state": "running", "step": 1, "percent": 5, "because": HOSTILE[1], "begun": "2026-01-01T00:00:00Z", "since": HOSTILE[2], "due": HOSTILE[3], "driver": HOSTILE[0], "driver_gone": True, "taken_back": True, "from": [{"tags": {HOSTILE[0]: HOSTILE[1]}, "weight": 1}], "requests": 3, "against": [1], "gateways": [{"gateway": name, "requests": 1, "against": [0], "taken_back": True} for name in HOSTILE[:2]]}]
    made.states = {("*", HOSTILE[2]): "down", ("*", HOSTILE[3]): "revoked"}
    made.away = {HOSTILE[2]: "away"}
    for index, name in enumerate(HOSTILE):
        made.happens(name, HOSTILE[index % 5], service=name, peer=name, subject=name, text=name, because=name, explained=[name])
    written = [name.replace("\u202e", "\ufffd").replace("\u202c", "\ufffd") for name in HOSTILE]
    views = [*VIEWS, f"zones?zone={quoted(HOSTILE[0])}", f"zones?zone={quoted(HOSTILE[2])}&to={quoted(HOSTILE[0])}", f"services?service={quoted(HOSTILE[0])}", f"explain?service={quoted(HOSTILE[0])}&header={quoted(HOSTILE[1])}", f"topology?all=1&from={quoted('40.' + fingerprint(1))}&to={quoted('41.' + fingerprint(0))}", f"{quoted(HOSTILE[0])}?{quoted(HOSTILE[0])}"]
    with FakeGateway(made, world.files) as fake:
        for width, height in WIDTHS:
            browser = world.browser(width, height)
            seen = set()
            for view in views:
                show(browser, fake.address, view, "main .view")
                until(f"{view} shows hostile names", lambda: view == "explain" or any(name in browser.texts("main")[0] for name in written[:2]))
                state = browser.run("return { hurt: window.hurt ?? null, scripts: document.scripts.length, pictures: document.images.length, frames: frames.length, handlers: [...document.querySelectorAll('*')].filter((node) => [...node.attributes].some((one) => /^on/i.test(one.name))).length, links: [...document.querySelectorAll('a, use, link')].map((node) => node.getAttribute('href') ?? '').filter((href) => !/^(#|\\/dashboard\\/)/.test(href)), strange: [...document.querySelectorAll('b:not([data-x]) > img, onload, script:not([src])')].length }")
                same(f"{view} has nothing of them but text", state, {"hurt": None, "scripts": 1, "pictures": 0, "frames": 0, "handlers": 0, "links": [], "strange": 0})
                text = browser.texts("main")[0]
                seen |= {name for name in written if name in text}
                fits(browser, view)
            same("every name is shown as it is", seen, set(written))
            no_faults(browser)


def quoted(text):
    return urllib.request.quote(text, safe="")


def fingerprint(back):
    return f"{0xa9cb0b2f9e - back * 7919:010x}"


@check
def a_hundred_zones_and_a_thousand_services_are_drawn_without_lag(world):
    made = Federation([f"zone-{number:03}" for number in range(100)], [f"service-{number:04}" for number in range(1000)])
    made.states = {("*", "zone-007"): "down", ("*", "zone-020"): "drained"}
    made.away = {"zone-007": "away"}
    with FakeGateway(made, world.files) as fake:
        for width, height in WIDTHS:
            browser = world.browser(width, height)
            show(browser, fake.address, "zones", ".map .zone")
            until("every zone is on the map", lambda: browser.count(".map .zone") == 100, 40)
            until("each says of each", lambda: browser.count(".matrix td[data-says]") == 100 * 99, 40)
            same("who is away", browser.attributes('.map .zone[data-state="down"]', "data-zone"), [["zone-007"]])
            fits(browser, "zones")
            show(browser, fake.address, "services", "tr[data-service]")
            until("the table knows of all", lambda: browser.attributes("table.services", "data-rows") == [["1000"]], 40)
            holds("and draws those that can be seen", browser.count("tr[data-service]") < 60)
            browser.run("window.scrollTo(0, document.documentElement.scrollHeight)")
            until("the last one is there to be scrolled to", lambda: browser.count('tr[data-service="service-0999"]'))
            browser.run("window.scrollTo(0, 0)")
            took = browser.later(FILTER)
            print(f"measured: 1,000 services are filtered in {took:.0f} ms at {width} px")
            holds(f"filtering took {took:.0f} ms", took <= FILTERED_WITHIN * 1000)
            same("what it leaves", browser.attributes("tr[data-service]", "data-service"), [["service-0777"]])
            fits(browser, "services")


FILTER = """
const done = arguments[arguments.length - 1];
const field = document.querySelector('input[type=search]');
const begun = performance.now();
new MutationObserver((_, observer) => {
  if (document.querySelectorAll('tr[data-service]').length !== 1) return;
  observer.disconnect();
  done(performance.now() - begun);
}).observe(document.getElementById('main'), { subtree: true, childList: true });
field.value = 'service-0777';
field.dispatchEvent(new Event('input', { bubbles: true }));
"""


@check
def a_keyboard_is_enough(world):
    with FakeGateway(story(), world.files) as fake:
        browser = world.browser(1280, 900)
        show(browser, fake.address, "zones", ".map .zone")
        tab, enter, escape = "\ue004", "\ue007", "\ue00c"
        browser.run("document.activeElement.blur(); window.focus(); document.body.tabIndex = -1; document.body.focus()")
        visited = []
        while len(visited) < 40 and (not visited or visited[-1] != "west"):
            browser.press(tab)
            visited.append(browser.run("const at = document.activeElement; return at.getAttribute('data-zone') || at.textContent.trim()"))
        same("first what leads past the head", visited[0], "To the content")
        for name in ("Services", "Timeline", "east", "west"):
            holds(f"{name} is reached by tab: {visited}", any(name == told or told.startswith(name) for told in visited))
        browser.press(enter)
        until("a zone opens by enter", lambda: browser.texts(".inspector h2") == ["west"])
        holds("the focus goes along", browser.run("return document.activeElement.classList.contains('inspector')"))
        browser.press(escape)
        until("and closes by escape", lambda: not browser.count(".inspector"))
        outline = browser.run("const link = document.querySelector('#head nav a'); link.focus(); return getComputedStyle(link).outlineStyle")
        holds(f"what has the focus is seen: {outline}", outline != "none")


class World:
    """What the checks share: a federation, and a browser that each takes in turn."""

    def __init__(self, program, pictures):
        self.real = RealFederation(program)
        self.pictures = pictures
        self.shared = None

    def __enter__(self):
        self.real.__enter__()
        self.files = self.real.zones["east"].address
        self.real.send_traffic()
        return self

    def __exit__(self, *arguments):
        if self.shared:
            self.shared.close()
        self.real.__exit__(*arguments)
        shutil.rmtree(self.real.folder, ignore_errors=True)

    def browser(self, width, height):
        self.shared = self.shared or Browser(width, height)
        self.shared.resize(width, height)
        self.shared.faults()
        return self.shared

    def picture(self, browser, name):
        """Writes a picture for the documents, if it is wanted."""
        if not self.pictures:
            return
        os.makedirs(self.pictures, exist_ok=True)
        path = os.path.join(self.pictures, name)
        browser.run("window.scrollTo(0, 0)")
        browser.resize(1280, 800)
        time.sleep(1)
        browser.picture(path)
        smaller(path)
        browser.resize(1280, 900)
        holds(f"{name} has {os.path.getsize(path)} bytes", os.path.getsize(path) <= MOST_PICTURE)


def smaller(path):
    """Writes a picture anew, without transparency and packed as well as can be; nothing else of it is another."""
    with open(path, "rb") as file:
        data = file.read()
    chunks, at = {}, 8
    while at < len(data):
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        chunks[kind] = chunks.get(kind, b"") + data[at + 8 : at + 8 + length]
        at += 12 + length
    width, height, depth, colour = struct.unpack(">IIBB", chunks[b"IHDR"][:10])
    size = {2: 3, 6: 4}[colour]
    holds("the picture has 8 bits of each colour", depth == 8)
    raw = zlib.decompress(chunks[b"IDAT"])
    line, rows = bytearray(width * size), []
    for row in range(height):
        begin = row * (width * size + 1)
        line = unfiltered(raw[begin], bytearray(raw[begin + 1 : begin + 1 + width * size]), line, size)
        rows.append(b"".join((line[0::size], line[1::size], line[2::size])))
    colours = sorted({pixel for row in rows for pixel in zip(row[:width], row[width : 2 * width], row[2 * width :])})
    pixels = [zip(row[:width], row[width : 2 * width], row[2 * width :]) for row in rows]
    if len(colours) <= 256:
        number = {pixel: index for index, pixel in enumerate(colours)}
        body = b"".join(b"\0" + bytes(number[pixel] for pixel in row) for row in pixels)
        parts = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)), (b"PLTE", b"".join(bytes(pixel) for pixel in colours))]
    else:
        body = b"".join(b"\0" + bytes(part for pixel in row for part in pixel) for row in pixels)
        parts = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))]
    packer = zlib.compressobj(9, zlib.DEFLATED, 15, 9)
    parts += [(b"IDAT", packer.compress(body) + packer.flush()), (b"IEND", b"")]
    with open(path, "wb") as file:
        file.write(data[:8] + b"".join(struct.pack(">I", len(part)) + kind + part + struct.pack(">I", zlib.crc32(kind + part)) for kind, part in parts))


def unfiltered(kind, line, above, size):
    """A row of a picture as it was before it was packed (PNG, chapter 9)."""
    for at in range(len(line)):
        left = line[at - size] if at >= size else 0
        corner = above[at - size] if at >= size else 0
        if kind == 1:
            line[at] = (line[at] + left) & 255
        elif kind == 2:
            line[at] = (line[at] + above[at]) & 255
        elif kind == 3:
            line[at] = (line[at] + (left + above[at]) // 2) & 255
        elif kind == 4:
            guess = left + above[at] - corner
            near = min((abs(guess - left), 0, left), (abs(guess - above[at]), 1, above[at]), (abs(guess - corner), 2, corner))
            line[at] = (line[at] + near[2]) & 255
    return line


def main(program, names):
    known = {function.__name__ for function in CHECKS}
    for name in names:
        if name not in known:
            raise SystemExit(f"there is no check {name}; there are {', '.join(sorted(known))}")
    passed = failed = 0
    begun = time.monotonic()
    with World(program, os.environ.get("PICTURES")) as world:
        for function in CHECKS:
            if names and function.__name__ not in names:
                continue
            start = time.monotonic()
            try:
                function(world)
                passed += 1
                print(f"ok {function.__name__} ({time.monotonic() - start:.1f} s)", flush=True)
            except Exception as error:
                failed += 1
                print(f"FAIL {function.__name__} ({time.monotonic() - start:.1f} s)", flush=True)
                told = str(error) if isinstance(error, Failed) else traceback.format_exc()
                print("\n".join(f"     {line}" for line in told.splitlines()), flush=True)
                # The next one begins with another page.
                if world.shared:
                    world.shared.close()
                    world.shared = None
    print(f"measured: the checks of the dashboard took {time.monotonic() - begun:.0f} s")
    print(f"{passed} passed, {failed} failed")
    return 0 if failed == 0 and passed else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
