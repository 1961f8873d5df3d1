"""Contenders in turn, several rounds, on one link; prints what `make bench` is for. Runs in namespaces of its own (see `run`)."""

import os
import pathlib
import platform
import subprocess
import sys
import time

import contenders
import measure
import network
import table

ROUNDS = int(os.environ.get("ROUNDS", "5"))
SECONDS = int(os.environ.get("SECONDS_EACH", "4"))
CHOSEN = os.environ.get("CONTENDERS", " ".join(contenders.ALL)).split()


class Bench:
    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        self.near, self.far = network.make(self.folder)
        self._certify()

    def _certify(self):
        """One CA for every contender, so that all of them check the same kind of certificate."""
        causeway, pki = os.environ["CAUSEWAY"], self.folder / "pki"
        subprocess.run([causeway, "ca", "init", pki / "ca", "--trust-domain", "bench.internal"], check=True, stdout=subprocess.DEVNULL)
        for zone in ("near", "far"):
            arguments = ["--ca", pki / "ca", "--zone", zone, "--gateway", "gw1", "--out", pki / zone]
            subprocess.run([causeway, "ca", "issue", *arguments], check=True, stdout=subprocess.DEVNULL)
            both = "".join((pki / zone / file).read_text() for file in ("cert.pem", "key.pem"))
            (pki / zone / "both.pem").write_text(both)

    def log(self, contender, zone):
        return self.folder / f"{contender}-{zone.name}.log"

    def round(self, name):
        contender = contenders.ALL[name]()
        processes = []
        try:
            processes = contender.start(self)
            url = "http://{}:{}/1k".format(*contender.http)
            network.wait_until(f"{name} serves", lambda: self.near.answers(url))
            return measure.everything(contender, processes, self.near, SECONDS)
        except Exception:
            for zone in (self.near, self.far):
                if self.log(name, zone).exists():
                    print(f"---- {name}, {zone.name}:", self.log(name, zone).read_text()[-3000:], sep="\n", file=sys.stderr)
            raise
        finally:
            for process in processes:
                process.kill()
                process.wait()


def machine(zone):
    model = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "?")
    control = zone.run("cat", "/proc/sys/net/ipv4/tcp_congestion_control").strip()
    buffers = pathlib.Path("/proc/sys/net/core/rmem_max")
    limit = buffers.read_text().strip() if buffers.exists() else "?"
    return (
        f"{os.cpu_count()} cores, {model}; Linux {platform.release()}; MTU {network.MTU}; TCP {control}, "
        f"tunnels {os.environ.get('CAUSEWAY_BENCH_ARGUMENTS') or 'as by default'}; largest socket buffer {limit} bytes; {time.strftime('%Y-%m-%d')}"
    )


def main():
    bench = Bench(sys.argv[1])
    results = {name: [] for name in CHOSEN}
    for number in range(ROUNDS):
        for name in CHOSEN:
            figures = bench.round(name)
            results[name].append(figures)
            told = ", ".join(f"{k} {v:.2f}" if isinstance(v, float) else f"{k} FAILED ({v})" for k, v in figures.items())
            print(f"round {number + 1} {name}: {told}", file=sys.stderr, flush=True)
    print(f"\nMedians of {ROUNDS} rounds of {SECONDS} s for each figure, contenders in turn (smallest-largest).")
    print(machine(bench.near), "\n")
    print(table.medians(results))
    if "causeway" in results and len(results) > 1:
        print("\n" + table.ratios(results, "causeway"))
    return 1 if any(isinstance(v, Exception) for rounds in results.values() for r in rounds for v in r.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
