"""A stand-in for the admin API of a gateway: federations that are large, ill, empty, or named by somebody with bad intentions. The files of the
dashboard are the real ones, passed on with the headers that a gateway gives them."""

import http.server
import json
import math
import queue
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

from federation import Server

HOSTILE = ["<img src=x onerror=\"window.hurt=1\">", "\"><script>window.hurt=1</script>", "javascript:window.hurt=1", "'-window.hurt-'", "{{7*7}}${window.hurt=1}", "\u202egnp.exe\u202c", "&lt;b&gt;&amp;", "]]><svg/onload=window.hurt=1>"]

# An answer of so many bytes is given again for so many seconds.
LARGE = 1_000_000
LARGE_LASTS = 20


def moment(seconds_ago=0):
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - seconds_ago))


class Federation:
    """What the zones of a federation would tell."""

    def __init__(self, zones, services, hostile=False):
        self.zones = zones
        self.services = services
        self.own = zones[0] if zones else "east"
        self.hostile = hostile
        # Zone by zone, where not everything is well.
        self.states = {}
        self.away = {}
        # Why a zone of `away` says nothing, if that is not that nobody is reached; and of a service the minutes ago in which every request failed.
        self.because = None
        self.outages = {}
        self.events_list = []
        self.shift_list = []
        self.begun = time.time() - 4 * 3600

    def word(self, index, plain):
        return HOSTILE[index % len(HOSTILE)] if self.hostile else plain

    def envelope(self, kind, zone, items):
        return {"version": 1, "kind": kind, "zone": zone, "generation": 41, "items": items}

    def rtt(self, a, b):
        first, second = sorted((self.zones.index(a), self.zones.index(b)))
        return round(11.4 + 17.3 * (second - first) + 3.1 * first, 1)

    def state(self, observer, subject):
        return self.states.get((observer, subject)) or self.states.get(("*", subject)) or "up"

    def zone_items(self, observer):
        items = []
        for index, name in enumerate(self.zones):
            own = name == observer
            state = "own" if own else self.state(observer, name)
            region = ["us", "us", "eu", "eu", "asia"][index % 5]
            item = {"name": name, "own": own, "state": state if state in ("own", "stalled", "down", "draining") else "up", "tags": {"region": self.word(index, region)}, "gateways": [[f"gw.{name}.acme.internal:7800"]] if index != 4 else [], "links": []}
            if state == "drained":
                item["drain"] = {}
            if not own:
                down = state in ("down", "revoked")
                item["links"] = [{
                    "gateway": self.word(index, "gw1"), "state": item["state"] if state != "revoked" else "down", "tunnels": 0 if down else 2, "unanswered": 0, "registry": "own", "rtt_ms": None if down else self.rtt(observer, name),
                    "age": {"suspect": "suspect", "down": "suspect"}.get(state, "fresh"), "heard_seconds_ago": 47.0 if down or state == "suspect" else 0.4, "sync_session": not down, "exports": len(self.services), "topology": "a9cb0b2f9e", "same_topology": True,
                    "topology_generation": 41, "sync_sent_bytes": 100, "sync_received_bytes": 100, "refusals": [],
                }]
                if down:
                    item["state"] = "down"
                    item["last_word"] = {"reason": self.word(index, "revoked" if state == "revoked" else "timeout"), "seconds_ago": 3.0}
            items.append(item)
        return items

    def tunnel_items(self, observer):
        up = time.time() - self.begun
        items = []
        for index, name in enumerate(self.zones):
            if name == observer or self.state(observer, name) in ("down", "revoked"):
                continue
            for thread in range(2):
                rate = 90_000 / (1 + abs(self.zones.index(observer) - index)) * (2 - thread)
                items.append({
                    "zone": name, "gateway": self.word(index, "gw1"), "state": "up", "dialled": self.zones.index(observer) < index, "thread": thread, "remote": f"10.{index}.0.1:7800", "up_seconds": up - 60 * index, "rtt_ms": self.rtt(observer, name) + thread * 0.3,
                    "streams": 3 + index, "key_exchange": "X25519MLKEM768", "post_quantum": True, "cipher": "TLS13_AES_128_GCM_SHA256", "congestion_window_bytes": 120_000, "mtu_bytes": 1452, "sent_packets": int(up * 300), "lost_packets": int(up * 300 * (0.021 if self.state(observer, name) == "suspect" else 0.0001)),
                    "sent_bytes": int(up * rate), "received_bytes": int(up * rate * 0.7),
                })
        return items

    def places(self, index):
        """Zones that serve a service, with instances, healthy ones and tags."""
        number = 1 + index % 3
        return [(self.zones[(index + step) % len(self.zones)], 2 + (index + step) % 3) for step in range(min(number, len(self.zones)))]

    def service_items(self, observer):
        items = []
        for index, name in enumerate(self.services):
            places = self.places(index)
            local = [number for zone, number in places if zone == observer]
            ill = index == 3
            shift = next((one for one in self.shift_list if one["service"] == name), None)
            items.append({
                "name": name, "port": 8080 + index % 7, "protocol": ["http", "grpc", "tcp"][index % 3], "vips": ["127.128.34.229"], "local": {"instances": sum(local), "healthy": max(0, sum(local) - (1 if ill and local else 0))},
                "zones": [{"zone": zone, "instances": number, "healthy": number - (1 if ill else 0), "age": "suspect" if self.state(observer, zone) in ("down", "suspect") else "fresh", "link": "down" if self.state(observer, zone) == "down" else "up", "usable": self.state(observer, zone) != "down"} for zone, number in places if zone != observer],
                "split": [{"tags": {"version": self.word(index, "v1")}, "weight": 95}, {"tags": {"version": "v2"}, "weight": 5}] if index % 2 == 0 else [], "shift": f"shift: {shift['percent']} % to {{version=v2}} (step {shift['step']} of {len(shift['steps'])}), {shift['state']}" if shift else None,
                "failover": [{"zone": "self", "tags": {}}, {"zone": None, "tags": {"region": "self"}}, {"zone": None, "tags": {}}], "export_to": None, "run_in": None, "allow": [self.word(index, "web"), "batch@east"] if index % 4 == 1 else None, "deny": [],
                "callers": self.word(index, "web, batch@east" if index % 4 == 1 else "everyone"), "health": "http /healthz every 2s", "early": False, "routes": [self.word(index, "canary: any request with x-canary: 1 -> all to {version=v2}")] if index % 2 == 0 else [],
                "ejected": [{"part": "instance", "zone": places[0][0], "instance": self.word(index, "10.1.0.12:8080"), "tags": {}, "seconds_ago": 4.0, "back_in_seconds": 26.0, "reason": self.word(index, "5 failures in a row (5 no answer in time)"), "times": 1}] if ill else [],
            })
        return items

    def export_items(self):
        return [{"service": name, "zone": zone, "gateway": None if zone == self.own else "gw1", "tags": {"version": "v1"}, "instances": number, "healthy": number, "weight": number, "capacity_per_second": 110 * number if index % 3 != 2 else None, "age": "fresh", "link": "up"} for index, name in enumerate(self.services) for zone, number in self.places(index)]

    def minutes(self, observer, since):
        now = int(time.time() // 60) * 60
        listed = []
        seat = self.zones.index(observer)
        for back in range(1, since // 60 + 1):
            # A minute's time is its end.
            at = now - 60 * (back - 1)
            parts = []
            for index, name in enumerate(self.services[:200]):
                wave = 1 + 0.55 * math.sin((60 - back) / (7 + index % 5) + index + seat) + 0.2 * math.sin(back * 1.7 + index)
                begun = max(0, int(wave * (2400 / (1 + index % 6)) / (1 + seat)))
                failed = begun if back in self.outages.get(name, ()) else int(begun * (0.07 if index == 3 and back < 9 else 0.0004))
                places = self.places(index)
                cut = index == 0 and 14 < back < 22
                to = [{"zone": zone, "tags": {"version": self.word(index, "v1")}, "count": int(begun * (0 if cut and place == 0 else 0.92 / len(places)))} for place, (zone, _) in enumerate(places)]
                to.append({"zone": places[0][0], "tags": {"version": "v2"}, "count": int(begun * 0.08)})
                base = 2.1 + index % 4 + (18 * seat if cut else 0)
                parts.append({"service": name, "begun": begun, "ok": begun - failed, "failed": failed, "shed": 0, "setup_milliseconds": {"p50": round(base, 1), "p95": round(base * 3.2, 1), "p99": round(base * (11 if index == 3 else 6.4), 1)}, "to": to})
            listed.append({"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at)), "services": parts, "tunnels": []})
        return listed

    def check_items(self, observer):
        items = [{"group": "tunnels", "name": zone, "status": "ok", "message": "2 up", "hint": None} for zone in self.zones if zone != observer and self.state(observer, zone) != "down"]
        for index, zone in enumerate(self.zones):
            if zone != observer and self.state(observer, zone) == "down":
                items.append({"group": "tunnels", "name": zone, "status": "warn", "message": self.word(index, "no tunnel: nobody was reached: timeout"), "hint": self.word(index + 1, "is its gateway up, and does a firewall let UDP pass?")})
        if len(self.services) > 3:
            items.append({"group": "services", "name": f"{self.services[3]} ejected", "status": "warn", "message": "ejected: instance 10.1.0.12:8080 of zone west: 5 failures in a row, 4s ago, back in 26s", "hint": "what is ejected is asked after the others: look at its log"})
        return items

    def topology_item(self):
        return {"generation": 41, "fingerprint": "a9cb0b2f9e", "source": "applied", "applied_by": self.word(0, "east/gw1"), "applied_at": moment(5400), "trust_domain": self.word(1, "acme.internal"), "dns_domain": self.word(2, "mesh"), "dns_ttl_seconds": 5, "zones": self.zones, "services": self.services}

    def generations(self):
        listed = []
        for back in range(5):
            text = TEXT.replace("weight: 5 ", f"weight: {5 * (5 - back)} ").replace("{extra}", "  audit:\n    port: 9000\n    protocol: grpc\n" if back < 2 else "")
            listed.append({"generation": 41 - back, "fingerprint": f"{0xa9cb0b2f9e - back * 7919:010x}", "standing": "in force" if back == 0 else "former", "applied_by": self.word(back, "east/gw1"), "applied_at": moment(5400 + back * 9000), "follows": 40 - back, "text": text + self.word(back, "")})
        return listed

    def explanation(self, query):
        service = query.get("service", [""])[0]
        if service not in self.services:
            return 404, {"error": f"the topology has no service `{service}`", "hint": "`causeway get services` lists them"}
        places = self.places(self.services.index(service))
        steps = [{"filter": "routes", "subject": self.word(0, "canary"), "verdict": "passed_over", "reason": self.word(1, "header x-canary is absent")}, {"filter": "split", "subject": "{version=v1} weight 95", "verdict": "taken", "reason": "picked by weight"}, {"filter": "split", "subject": "{version=v2} weight 5", "verdict": "in_reserve", "reason": "if nobody serves the arm that was picked"}]
        steps += [{"filter": "places for {version=v1}", "subject": f"gateway {zone}/gw1", "verdict": "taken" if not place else "in_reserve", "reason": f"tier {place + 1}"} for place, (zone, _) in enumerate(places)]
        item = {"target": service, "from": self.own, "steps": steps, "candidates": [{"zone": zone, "gateway": "gw1", "tags": {"version": "v1"}} for zone, _ in places], "outcome": self.word(2, "tier 1, own zone first"), "callers": {"verdict": "everyone", "reason": self.word(3, "without `allow`, permissions.default allows it")}, "policies": ["timeout: 2s", "retry: 2 more on reset; of GET; at most 20%"], "open_connections": "requests are routed one by one"}
        return 200, self.envelope("explanation", self.own, [item])

    def answers_of(self, path, query, zone):
        since = {"3m": 180, "4m": 240, "5m": 300}.get(query.get("since", [""])[0], 3600)
        if path == "/v1/zones":
            return self.envelope("zones", zone, self.zone_items(zone))
        if path == "/v1/tunnels":
            return self.envelope("tunnels", zone, self.tunnel_items(zone))
        if path == "/v1/services":
            return self.envelope("services", zone, self.service_items(zone))
        if path == "/v1/checks":
            return self.envelope("checks", zone, self.check_items(zone))
        if path == "/v1/shifts":
            return self.envelope("shifts", zone, self.shift_list)
        if path == "/v1/exports":
            return self.envelope("exports", zone, self.export_items())
        if path == "/v1/figures":
            return {"minutes": self.minutes(zone, since)}
        if path == "/v1/events":
            return {"events": [event for event in self.events_list if event["zone"] == zone], "first": 1, "last": len(self.events_list), "kept_for_seconds": 86400}
        if path == "/v1/topology":
            return self.envelope("topology", zone, [self.topology_item()] if self.zones else [])
        if path == "/v1/topology/history":
            return self.envelope("generations", zone, self.generations() if self.services else [])
        return None

    def answer(self, path, query):
        if path == "/v1/explain":
            return self.explanation(query)
        if path == "/v1/topology/diff":
            return 200, self.envelope("changes", self.own, [{"applied": False, "same": False, "generation": 41, "fingerprint": "a9cb0b2f9e", "changes": [{"kind": "changed", "subject": self.word(0, "service orders: split"), "before": self.word(1, "{version=v1} 95, {version=v2} 25"), "after": "{version=v1} 95, {version=v2} 20", "line": ""}], "warnings": ""}])
        if self.answers_of(path, query, self.own) is None:
            return 404, {"error": f"there is nothing at {path}"}
        if query.get("all") != ["true"]:
            return 200, self.answers_of(path, query, self.own)
        listed = []
        for zone in self.zones or [self.own]:
            if zone in self.away:
                entry = {"zone": zone, "state": self.away[zone], "asked": moment(), "because": self.because or self.word(4, "no tunnel leads there: nobody was reached")}
                if path == "/v1/zones" and self.away[zone] != "refused":
                    entry["last"] = {"time": moment(95), "answer": self.answers_of(path, query, zone)}
            else:
                entry = {"zone": zone, "state": "answered", "asked": moment(), "answer": self.answers_of(path, query, zone)}
            listed.append(entry)
        return 200, {"zones": listed}

    def happens(self, kind, zone, ago=0, **more):
        event = {"id": len(self.events_list) + 1, "time": moment(ago), "zone": zone, "gateway": "gw1", "kind": kind, "service": None, "peer": None, "subject": None, "text": "", "because": None, "count": 1, **more}
        self.events_list.append(event)
        return event


TEXT = """version: 1
trust_domain: acme.internal
zones:
  east: { gateways: [gw.east.acme.internal:7800] }
  west: { gateways: [gw.west.acme.internal:7800] }
services:
  orders:
    port: 8080
    protocol: http
    split:
      - { tags: { version: v1 }, weight: 95 }
      - { tags: { version: v2 }, weight: 5 }
{extra}  web:
    port: 8080
    protocol: http
"""


def story():
    """Five zones of which one drains and one is away, with a day behind them."""
    made = Federation(["east", "west", "north", "south", "plant"], ["orders", "sensors", "payments", "inventory", "search", "web", "audit", "ledger", "recommendations", "sessions", "thumbnails", "mail"])
    made.states = {("*", "plant"): "down", ("*", "south"): "drained", ("east", "north"): "suspect"}
    made.away = {"plant": "away"}
    made.shift_list = [
        {"service": "orders", "to": {"version": "v2"}, "steps": [5, 25, 50, 100], "every": "5m", "abort_if": ["success<99%", "p99>300ms"], "min_requests": 100, "state": "running", "step": 2, "percent": 25, "begun": moment(420), "since": moment(120), "due": moment(-180), "driver": "east/gw1", "driver_gone": False, "taken_back": False, "from": [{"tags": {"version": "v1"}, "weight": 1}], "requests": 18423, "against": [12, 81], "gateways": [{"gateway": "east/gw1", "requests": 12011, "against": [8, 60], "taken_back": False}, {"gateway": "west/gw1", "requests": 6412, "against": [4, 21], "taken_back": False}]},
        {"service": "search", "to": {"version": "v7"}, "steps": [10, 50, 100], "every": "10m", "abort_if": ["success<99.5%"], "min_requests": 100, "state": "aborted", "step": 2, "percent": 50, "because": "success of {version=v7} was 97.1 % of 4,210 requests, and has to be 99.5 %", "begun": moment(9000), "since": moment(7600), "driver": "west/gw1", "driver_gone": False, "taken_back": False, "from": [{"tags": {"version": "v6"}, "weight": 1}], "requests": 0, "against": [], "gateways": []},
    ]
    tell = made.happens
    tell("topology_applied", "east", 5400, text="generation 41 is in force", because="applied at east/gw1: 2 changes")
    tell("shift_aborted", "west", 7600, service="search", text="search goes back to version=v6", because="success of {version=v7} was 97.1 % of 4,210 requests, and has to be 99.5 %")
    tell("certificate_renewed", "east", 3300, text="the certificate of east/gw1 lives until tomorrow 02:10", because="half of its life was over")
    tell("zone_drained", "south", 2500, subject="south", text="south is emptied", because="`causeway drain south` at east/gw1")
    tell("failover_begun", "west", 1300, service="orders", text="orders goes to west (tier 3) instead of east", because="east has no healthy instance of {version=v1}", explained=["places for {version=v1}: own zone east: passed over: none of 2 is healthy", "places for {version=v1}: gateway west/gw1: taken: tier 3"])
    tell("failover_ended", "west", 870, service="orders", text="orders is back in east", because="2 of 2 instances are healthy again")
    tell("shift_begun", "east", 420, service="orders", text="orders moves to version=v2 in 4 steps", because="`causeway shift orders` by token ci")
    tell("shift_step", "east", 120, service="orders", text="step 2 of 4: 25 % to version=v2", because="the gate held: 18 of 9,120 requests were against it")
    tell("tunnel_down", "east", 47, peer="plant/gw1", text="the tunnel with plant/gw1 is gone", because="nothing was heard for 3 s, and the gateway answers no dial")
    tell("tunnel_down", "west", 46, peer="plant/gw1", text="the tunnel with plant/gw1 is gone", because="nothing was heard for 3 s, and the gateway answers no dial")
    tell("zone_suspect", "north", 42, subject="plant", text="plant is suspect", because="it was last heard 5 s ago")
    return made


class FakeGateway:
    """Serves a federation over HTTP; `files` is the address of a gateway that serves the dashboard."""

    def __init__(self, federation, files, port=0, token=None):
        self.federation = federation
        self.files = files
        self.token = token
        self.listeners = []
        self.requests = []
        self.broken = False
        self.known = {}
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_GET(self):
                outer.serve(self)

            def do_POST(self):
                self.rfile.read(int(self.headers.get("content-length") or 0))
                outer.serve(self)

        self.server = Server(("127.0.0.1", port), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.tell(None)
        self.server.shutdown()
        self.server.server_close()

    def tell(self, event):
        """Sends an event to all that listen; None ends the streams."""
        for listener in self.listeners:
            listener.put(event)

    def serve(self, handler):
        path, _, query = handler.path.partition("?")
        self.requests.append((handler.command, handler.path, dict(handler.headers)))
        if path == "/" or path.startswith("/dashboard/"):
            return self.pass_on(handler)
        if self.broken:
            return self.send(handler, 503, {"error": "the request took too long"})
        if self.token and handler.headers.get("authorization") != f"Bearer {self.token}":
            known = handler.headers.get("authorization") is not None
            return self.send(handler, 401, {"error": "this token is not known here" if known else "no credentials", "hint": "`causeway admin-token issue` makes one"})
        if path == "/v1/events/stream":
            return self.stream(handler)
        status, body = self.written(handler.path, path, query)
        return self.send(handler, status, body)

    def written(self, whole, path, query):
        """The answer as bytes; of a large federation not made anew each time."""
        at, status, body = self.known.get(whole, (0, 0, b""))
        if len(body) < LARGE or time.monotonic() - at > LARGE_LASTS:
            status, answer = self.federation.answer(path, urllib.parse.parse_qs(query))
            body = json.dumps(answer).encode()
            self.known[whole] = (time.monotonic(), status, body)
        return status, body

    def pass_on(self, handler):
        try:
            answer = urllib.request.urlopen(self.files + handler.path, timeout=10)
        except urllib.error.HTTPError as error:
            answer = error
        body = answer.read()
        handler.send_response(answer.status)
        for name, value in answer.headers.items():
            if name.lower() not in ("date", "connection", "transfer-encoding", "content-length"):
                handler.send_header(name, value)
        handler.send_header("content-length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    def send(self, handler, status, answer):
        body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        handler.send_response(status)
        handler.send_header("content-type", "application/json")
        handler.send_header("content-length", str(len(body)))
        handler.end_headers()
        try:
            handler.wfile.write(body)
        except OSError:
            pass

    def stream(self, handler):
        listener = queue.Queue()
        self.listeners.append(listener)
        handler.send_response(200)
        handler.send_header("content-type", "text/event-stream")
        handler.send_header("connection", "close")
        handler.end_headers()
        handler.close_connection = True
        try:
            while True:
                event = listener.get()
                if event is None:
                    return
                handler.wfile.write(f"id: {event['id']}\nevent: {event['kind']}\ndata: {json.dumps(event)}\n\n".encode())
                handler.wfile.flush()
        except OSError:
            pass
        finally:
            self.listeners.remove(listener)
