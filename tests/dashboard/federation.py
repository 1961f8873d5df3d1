"""A real federation on loopback: three zones with a gateway each, instances, and clients that send requests."""

import http.server
import json
import os
import random
import signal
import ssl
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request

from browser import Failed, free_port, until

ZONES = ["east", "north", "west"]
# Service: zones with an instance each.
SERVICES = {"orders": ["east", "west"], "sensors": ["west"], "web": ["north", "east"]}


class Instance(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        body = b"here\n"
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_):
        """Whoever leaves before the answer is no fault of the server's."""


class Zone:
    def __init__(self, name, folder, extra=()):
        self.name = name
        self.folder = folder
        self.extra = list(extra)
        self.admin = free_port()
        self.listen = free_port()
        self.dns = free_port()
        self.registry = free_port()
        self.more = []
        self.process = None
        self.address = f"http://127.0.0.1:{self.admin}"

    def start(self, program, topology):
        log = open(os.path.join(self.folder, f"{self.name}.log"), "ab")
        self.process = subprocess.Popen(
            [program, "gateway", "--zone", self.name, "--initial-topology", topology, "--identity", f"{self.folder}/{self.name}-identity", "--data", f"{self.folder}/{self.name}-data", "--listen", f"127.0.0.1:{self.listen}", "--admin", ",".join([f"127.0.0.1:{self.admin}", *self.more]), "--dns", f"127.0.0.1:{self.dns}",
             "--registry", f"127.0.0.1:{self.registry}", "--threads", "1", *self.extra],
            stdout=log, stderr=log, stdin=subprocess.DEVNULL,
        )
        log.close()

    def kill(self):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        if self.process:
            self.process.wait()

    def ask(self, path):
        with urllib.request.urlopen(self.address + path, timeout=10) as answer:
            return json.load(answer)

    def items(self, path):
        return self.ask(path)["items"]

    def state_of(self, zone):
        return next(item["state"] for item in self.items("/v1/zones") if item["name"] == zone)


class RealFederation:
    """Made anew in a folder of its own; leaving it ends every process that it began."""

    def __init__(self, program):
        self.program = program
        self.folder = tempfile.mkdtemp(prefix="causeway-dashboard.")
        self.tokens = f"{self.folder}/tokens.json"
        self.open = free_port()
        # east also listens where others reach it, over TLS for those with a token; north takes everything from everybody.
        self.zones = {name: Zone(name, self.folder) for name in ZONES}
        self.servers = []
        self.stop = threading.Event()
        self.sent = 0

    def __enter__(self):
        self.make()
        return self

    def __exit__(self, *_):
        self.stop.set()
        for zone in self.zones.values():
            zone.kill()
        for server in self.servers:
            server.shutdown()

    def command(self, *arguments):
        done = subprocess.run([self.program, *arguments], capture_output=True, text=True, timeout=60)
        if done.returncode:
            raise Failed(f"causeway {' '.join(arguments)}: {done.stderr}")
        return done.stdout.strip()

    def make(self):
        self.command("ca", "init", "--trust-domain", "acme.internal", f"{self.folder}/ca")
        for zone in ZONES:
            self.command("ca", "issue", "--ca", f"{self.folder}/ca", "--zone", zone, "--gateway", "gw1", "--out", f"{self.folder}/{zone}-identity")
        self.token = self.command("admin-token", "issue", "--file", self.tokens, "--name", "reader", "--scope", "read")
        self.zones["east"].extra = ["--admin-tokens", self.tokens]
        self.zones["east"].more = [f"0.0.0.0:{self.open}"]
        self.zones["north"].extra = ["--admin-insecure"]
        self.topology = f"{self.folder}/topology.yaml"
        with open(self.topology, "w", encoding="utf-8") as file:
            file.write(self.topology_text())
        for zone in self.zones.values():
            zone.start(self.program, self.topology)
        for zone in self.zones.values():
            until(f"{zone.name} is ready", lambda zone=zone: self.is_ready(zone), 60)

    def is_ready(self, zone):
        if zone.process.poll() is not None:
            with open(os.path.join(self.folder, f"{zone.name}.log"), encoding="utf-8", errors="replace") as log:
                raise SystemExit(f"FAIL {zone.name} has ended: {log.read()[-2000:]}")
        return urllib.request.urlopen(zone.address + "/readyz", timeout=5).status == 200

    def topology_text(self):
        block = random.randrange(70, 120)
        lines = ["version: 1", "trust_domain: acme.internal", "zones:"]
        for index, zone in enumerate(ZONES):
            lines += [f"  {zone}:", f"    gateways: [127.0.0.1:{self.zones[zone].listen}]", f"    tags: {{ region: {'us' if zone != 'north' else 'eu'} }}", f"    vips: {{ loopback: 127.{block}.{index * 32}.0/19 }}", "    instances:"]
            for service, places in SERVICES.items():
                if zone in places:
                    version = "v2" if zone == "west" else "v1"
                    lines.append(f"      - {{ service: {service}, address: 127.0.0.1:{self.serve()}, tags: {{ version: {version} }} }}")
        lines.append("services:")
        for index, service in enumerate(SERVICES):
            lines += [f"  {service}:", f"    port: {18080 + index}", "    protocol: http", "    health: { http: /, every: 1s }", "    failover: [{ zone: self }, {}]"]
        return "\n".join(lines) + "\n"

    def serve(self):
        server = Server(("127.0.0.1", 0), Instance)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.servers.append(server)
        return server.server_port

    def request(self, zone, service):
        view = next(item for item in self.zones[zone].items("/v1/services") if item["name"] == service)
        with urllib.request.urlopen(f"http://{view['vips'][0]}:{view['port']}/", timeout=5) as answer:
            return answer.read() == b"here\n"

    def send_traffic(self):
        """Requests to every service from east, a few a second, until the end."""
        views = {item["name"]: item for item in self.zones["east"].items("/v1/services")}

        def send():
            while not self.stop.is_set():
                for name, view in views.items():
                    try:
                        urllib.request.urlopen(f"http://{view['vips'][0]}:{view['port']}/", timeout=3).read()
                        self.sent += 1
                    except OSError:
                        pass
                time.sleep(0.05)

        threading.Thread(target=send, daemon=True).start()


def over_tls(port, path, token=None):
    """Status and body of a request to an address whose certificate names no host."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    request = urllib.request.Request(f"https://127.0.0.1:{port}{path}", headers={"authorization": f"Bearer {token}"} if token else {})
    try:
        with urllib.request.urlopen(request, timeout=10, context=context) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()
