"""Causeway on both sides: clients connect to virtual addresses, everything crosses in QUIC tunnels."""

import json
import os

from network import FAR, HTTP_PORT, IPERF_PORT, wait_until

THREADS = 2
ADMIN = "127.0.0.1:7810"
TOPOLOGY = f"""
version: 1
trust_domain: bench.internal
zones:
  near:
    gateways: []
  far:
    gateways: ["{FAR}:7800"]
    instances:
      - {{ service: bulk, address: "127.0.0.1:{IPERF_PORT}" }}
      - {{ service: web, address: "127.0.0.1:{HTTP_PORT}" }}
      - {{ service: api, address: "127.0.0.1:{HTTP_PORT}" }}
services:
  bulk: {{ port: {IPERF_PORT}, protocol: tcp }}
  web: {{ port: {HTTP_PORT}, protocol: tcp }}
  api: {{ port: {HTTP_PORT}, protocol: http }}
"""


class Causeway:
    NAME = "causeway"

    def start(self, bench):
        file = bench.folder / "causeway.yaml"
        file.write_text(TOPOLOGY)
        started = []
        for zone in (bench.far, bench.near):
            data = bench.folder / f"data-{zone.name}"
            arguments = ["gateway", "--zone", zone.name, "--topology", file, "--data", data, "--threads", THREADS]
            arguments += ["--identity", bench.folder / "pki" / zone.name, "--listen", "0.0.0.0:7800", "--admin", ADMIN]
            arguments += ["--dns", "127.0.0.1:7853"]
            # Options of this program alone, to measure one of them: CAUSEWAY_BENCH_ARGUMENTS="--congestion bbr".
            arguments += os.environ.get("CAUSEWAY_BENCH_ARGUMENTS", "").split()
            started.append(zone.start(bench.log(self.NAME, zone), os.environ["CAUSEWAY"], *arguments))
        wait_until("far exports its services to near", lambda: self._exported(bench) == {"bulk", "web", "api"})
        addresses = {item["name"]: item["vips"][0] for item in self._read(bench, "services")}
        self.bulk = (addresses["bulk"], IPERF_PORT)
        self.http = (addresses["web"], HTTP_PORT)
        self.each_request = (addresses["api"], HTTP_PORT)
        return started

    @staticmethod
    def _read(bench, what):
        text = bench.near.run("curl", "-sf", "-m", "1", f"http://{ADMIN}/v1/{what}", check=False)
        return json.loads(text)["items"] if text else []

    def _exported(self, bench):
        exports = self._read(bench, "exports")
        return {e["service"] for e in exports if e["zone"] == "far" and e["healthy"] and e["link"] == "up"}
