"""The figures, for one contender that runs: bulk transfer, its cost, keep-alive requests and new connections; and the last two once more
where each request is looked at by itself (HTTP), by those who can."""

import json
import os
import pathlib
import re

FLOWS = (1, 4, 16)
# The transfer whose processor time is counted.
COST_FLOWS = 4
KEEP_ALIVE_CONNECTIONS = 32
NEW_CONNECTION_WORKERS = 16
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
UNITS = {"us": 1.0, "ms": 1e3, "s": 1e6}


def cpu_seconds(processes):
    """Processor time of these processes and their children so far."""
    return sum(_own_cpu_seconds(pid) for process in processes for pid in _family(process.pid))


def _family(pid):
    children = pathlib.Path(f"/proc/{pid}/task/{pid}/children")
    own = [pid]
    for child in children.read_text().split() if children.exists() else []:
        own += _family(int(child))
    return own


def _own_cpu_seconds(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND


def resident_megabytes(process):
    total = 0
    for pid in _family(process.pid):
        match = re.search(r"VmRSS:\s+(\d+) kB", pathlib.Path(f"/proc/{pid}/status").read_text())
        total += int(match.group(1)) if match else 0
    return total / 1024


def transfer(near, where, flows, seconds):
    """Gigabits a second and bytes that arrived."""
    arguments = ("iperf3", "-J", "-c", where[0], "-p", where[1], "-t", seconds, "-P", flows)
    result = json.loads(near.run(*arguments, timeout=seconds + 60))["end"]["sum_received"]
    return result["bits_per_second"] / 1e9, result["bytes"]


def requests(near, where, seconds):
    """Keep-alive requests a second, and their median and 99th percentile in microseconds."""
    url = f"http://{where[0]}:{where[1]}/1k"
    text = near.run("wrk", "-t1", f"-c{KEEP_ALIVE_CONNECTIONS}", f"-d{seconds}s", "--latency", url, timeout=seconds + 60)
    if errors := re.search(r"Socket errors:.*|Non-2xx.*", text):
        raise RuntimeError(errors.group(0))
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", text).group(1))
    percentiles = [re.search(rf"^\s+{p}%\s+([\d.]+)(us|ms|s)\s*$", text, re.M).groups() for p in (50, 99)]
    return rate, *(float(value) * UNITS[unit] for value, unit in percentiles)


def new_connections(near, where, seconds):
    """Requests a second with a connection of its own for each."""
    url = f"http://{where[0]}:{where[1]}/1k"
    arguments = ("hey", "-disable-keepalive", "-c", NEW_CONNECTION_WORKERS, "-z", f"{seconds}s", url)
    text = near.run(*arguments, timeout=seconds + 60)
    if "Error distribution" in text:
        raise RuntimeError(text.split("Error distribution:")[1].strip().splitlines()[0])
    return float(re.search(r"Requests/sec:\s+([\d.]+)", text).group(1))


def everything(contender, processes, near, seconds):
    """One round: figure by name. A figure that cannot be had is an exception, by name too."""
    figures = {}

    def attempt(names, measure):
        try:
            values = measure()
            figures.update(zip(names, values if isinstance(values, tuple) else (values,)))
        except Exception as problem:  # A contender that fails one figure still has the others.
            figures.update((name, problem) for name in names)

    def cost():
        before = cpu_seconds(processes)
        speed, size = transfer(near, contender.bulk, COST_FLOWS, seconds)
        spent = cpu_seconds(processes) - before
        return (speed, spent / (size / 1e9)) if processes else (speed,)

    for flows in FLOWS:
        name = f"Gbit/s, {flows} flow{'s' if flows > 1 else ''}"
        if flows == COST_FLOWS:
            attempt((name, "CPU s/GB"), cost)
        else:
            attempt((name,), lambda flows=flows: transfer(near, contender.bulk, flows, seconds)[0])
    attempt(("requests/s", "p50 us", "p99 us"), lambda: requests(near, contender.http, seconds))
    attempt(("new conn/s",), lambda: new_connections(near, contender.http, seconds))
    if contender.each_request:
        names = ("HTTP requests/s", "HTTP p50 us", "HTTP p99 us")
        attempt(names, lambda: requests(near, contender.each_request, seconds))
        attempt(("HTTP new conn/s",), lambda: new_connections(near, contender.each_request, seconds))
    if processes:
        attempt(("MB far",), lambda: resident_megabytes(processes[0]))
        attempt(("MB near",), lambda: resident_megabytes(processes[1]))
    return figures
