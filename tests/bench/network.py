"""Two zones as two network namespaces joined by one veth of MTU 1500, and the servers that all contenders lead to."""

import os
import pathlib
import subprocess
import time

NEAR, FAR = "10.90.0.1", "10.90.0.2"
# Servers in the far zone: on its loopback for gateways, on the link for clients without a gateway.
IPERF_PORT, HTTP_PORT = 5201, 8080
MTU = 1500
# Of TCP, for every contender; by default whatever this machine uses.
TCP_CONGESTION = os.environ.get("TCP_CONGESTION")
PATIENCE_SECONDS = 20


class Zone:
    """A network namespace, held by a sleeping process."""

    def __init__(self, name):
        self.name = name
        self.holder = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])
        wait_until(f"zone {name} has a network of its own", self._apart)
        self.run("ip", "link", "set", "lo", "up")

    def _apart(self):
        return os.readlink(f"/proc/{self.holder.pid}/ns/net") != os.readlink("/proc/self/ns/net")

    def command(self, *arguments):
        return ["nsenter", f"--net=/proc/{self.holder.pid}/ns/net", "--", *map(str, arguments)]

    def run(self, *arguments, check=True, timeout=120):
        done = subprocess.run(self.command(*arguments), capture_output=True, text=True, timeout=timeout)
        if check and done.returncode != 0:
            raise RuntimeError(f"{' '.join(map(str, arguments))}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def start(self, log, *arguments):
        with open(log, "ab") as out:
            return subprocess.Popen(self.command(*arguments), stdin=subprocess.DEVNULL, stdout=out, stderr=out)

    def answers(self, url):
        return self.run("curl", "-sf", "-m", "1", "-o", "/dev/null", "-w", "%{http_code}", url, check=False) == "200"

    def listens(self, port):
        return f":{port} " in self.run("ss", "-Hltn", check=False)


def wait_until(what, condition):
    end = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {PATIENCE_SECONDS} s in vain until {what}")
        time.sleep(0.02)


def make(folder: pathlib.Path):
    """Returns the near zone, with the clients, and the far zone, with the servers running."""
    near, far = Zone("near"), Zone("far")
    subprocess.run(["ip", "link", "add", "near", "type", "veth", "peer", "name", "far"], check=True)
    for zone, address in ((near, NEAR), (far, FAR)):
        subprocess.run(["ip", "link", "set", zone.name, "mtu", str(MTU), "netns", str(zone.holder.pid)], check=True)
        zone.run("ip", "addr", "add", f"{address}/24", "dev", zone.name)
        zone.run("ip", "link", "set", zone.name, "up")
        # Room for large windows, for every contender alike; some kernels do not allow it in here.
        zone.run("sysctl", "-qw", "net.ipv4.tcp_rmem=4096 131072 67108864", check=False)
        if TCP_CONGESTION:
            zone.run("sysctl", "-qw", f"net.ipv4.tcp_congestion_control={TCP_CONGESTION}")
        zone.run("sysctl", "-qw", "net.ipv4.tcp_wmem=4096 65536 67108864", check=False)
    serve(folder, far)
    return near, far


def serve(folder, far):
    (folder / "www").mkdir()
    (folder / "www/1k").write_text("x" * 1024)
    listen = "".join(f"listen {ip}:{HTTP_PORT}; " for ip in ("127.0.0.1", FAR))
    temporary = "".join(f"{kind}_temp_path {folder}/tmp; " for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    (folder / "nginx.conf").write_text(
        f"user root root; daemon off; master_process off; pid {folder}/nginx.pid; error_log {folder}/nginx.log;\n"
        "events { worker_connections 8192; }\n"
        f"http {{ access_log off; keepalive_requests 1000000000; {temporary}\n"
        f"  server {{ {listen} root {folder}/www; }} }}\n"
    )
    far.start(folder / "servers.log", "nginx", "-e", folder / "nginx.log", "-c", folder / "nginx.conf")
    for ip in ("127.0.0.1", FAR):
        far.start(folder / "servers.log", "iperf3", "-s", "-p", IPERF_PORT, "--bind", ip)
    wait_until("nginx serves", lambda: far.answers(f"http://127.0.0.1:{HTTP_PORT}/1k"))
    wait_until("iperf3 serves", lambda: far.listens(IPERF_PORT))
