#!/usr/bin/env python3
"""Clients and servers of the checks with two gateways (tests/namespaces/two-gateways).

    two-gateways.py serve ADDRESS NAME
        Answers each line with NAME and the line; to `drip` with a line every 50 ms until the client is gone.
    two-gateways.py connect STOP [--every MS] [--try MS] [--longest MS] [--served] HOST:PORT=NAME...
        Opens connections at a steady rate, in turn to each service, until the file STOP is there; then says how they went. Each looks its
        name up with the system's resolver. With --try, one that has no answer after so long, or is refused, is begun anew, as curl does
        with --connect-timeout and --retry. Exits with 1 if one was not served, waited longer than --longest, or, with --served, if a single
        try failed.
    two-gateways.py rate HOST:PORT=NAME PER_SECOND
        Opens so many connections a second, for 5 s and then for 10 s in which it counts those that were served, and says their number.
    two-gateways.py names COUNT NAME
        Says how long the system's resolver takes for NAME, COUNT times.
    two-gateways.py hold HOST:PORT talk|silent|drip SPEAK SECONDS [--keepalive]
        Holds one connection open, and says what becomes of it. `talk` exchanges lines all the time, `drip` only reads, `silent` says
        nothing until the file SPEAK is there. Ends when the connection does, or SECONDS after SPEAK is there.
"""

import argparse
import os
import queue
import socket
import sys
import threading
import time

# Longest time that a client tries, and pause after a refusal, in seconds.
PATIENCE = 5.0
AFTER_REFUSAL = 0.02
DRIP = 0.05


def split(address):
    host, port = address.rsplit(":", 1)
    return host, int(port)


def line_of(stream):
    """Reads a line, without buffering what follows it."""
    line = b""
    while not line.endswith(b"\n"):
        more = stream.recv(4096)
        if not more:
            raise ConnectionError("closed")
        line += more
    return line


def answer(stream, name):
    try:
        while True:
            line = line_of(stream)
            if line == b"drip\n":
                while True:
                    stream.sendall(b"drip\n")
                    time.sleep(DRIP)
            stream.sendall(name.encode() + b" " + line)
    except OSError:
        stream.close()


def serve(arguments):
    server = socket.create_server(split(arguments.address), backlog=512)
    while True:
        stream, _ = server.accept()
        threading.Thread(target=answer, args=(stream, arguments.name), daemon=True).start()


def exchange(service, patience):
    """Looks up, connects, says one line and reads the answer; raises an OSError unless it is the service's."""
    address, name = service.rsplit("=", 1)
    host, port = split(address)
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    family, kind, protocol, _, target = found[0]
    with socket.socket(family, kind, protocol) as stream:
        stream.settimeout(patience)
        stream.connect(target)
        stream.sendall(b"hello\n")
        got = line_of(stream)
    if got != f"{name} hello\n".encode():
        raise OSError(f"{service} answered {got!r}")


class Attempt:
    """One connection, of as many tries as it takes."""

    def __init__(self, service, try_seconds):
        self.service = service
        self.try_seconds = try_seconds
        self.begun = time.monotonic()
        self.waited = None
        self.failures = []

    def once(self):
        patience = self.try_seconds or PATIENCE
        outcome = queue.SimpleQueue()

        def run():
            try:
                exchange(self.service, patience)
                outcome.put(None)
            except OSError as error:
                outcome.put(type(error).__name__ if not isinstance(error, socket.gaierror) else "no address")

        threading.Thread(target=run, daemon=True).start()
        try:
            return outcome.get(timeout=patience)
        except queue.Empty:
            return "no answer"

    def run(self):
        while time.monotonic() - self.begun < PATIENCE:
            failure = self.once()
            if failure is None:
                self.waited = time.monotonic() - self.begun
                return
            self.failures.append(failure)
            if not self.try_seconds:
                return
            if failure != "no answer":
                time.sleep(AFTER_REFUSAL)


def connect(arguments):
    attempts, threads, begun_well = [], [], False
    begun = time.monotonic()
    while not os.path.exists(arguments.stop):
        attempt = Attempt(arguments.services[len(attempts) % len(arguments.services)], arguments.try_ms / 1000)
        attempts.append(attempt)
        threads.append(threading.Thread(target=attempt.run, daemon=True))
        threads[-1].start()
        if not begun_well and attempts[0].waited is not None:
            begun_well = True
            print("connections are being served", flush=True)
        # An open loop: a stall shows as waiting, not as fewer connections.
        time.sleep(max(0.0, begun + len(attempts) * arguments.every / 1000 - time.monotonic()))
    for thread in threads:
        thread.join()
    served = [attempt for attempt in attempts if attempt.waited is not None]
    tries = {}
    for failure in (failure for attempt in attempts for failure in attempt.failures):
        tries[failure] = tries.get(failure, 0) + 1
    longest = max((attempt.waited for attempt in served), default=0.0)
    slow = sum(attempt.waited > 0.1 for attempt in served)
    failed = len(attempts) - len(served)
    print(
        f"measured: {arguments.title}: {len(attempts)} connections, longest wait {longest * 1000:.0f} ms ({slow} over 100 ms), "
        f"{failed} not served, tries that failed: {tries or 'none'}"
    )
    broken = failed > arguments.lost or longest * 1000 > arguments.longest or (arguments.served and tries)
    sys.exit(1 if broken or not served else 0)


def hold(arguments):
    stream = socket.create_connection(split(arguments.address), timeout=PATIENCE)
    if arguments.keepalive:
        for option, value in [(socket.TCP_KEEPIDLE, 1), (socket.TCP_KEEPINTVL, 1), (socket.TCP_KEEPCNT, 3)]:
            stream.setsockopt(socket.IPPROTO_TCP, option, value)
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    stream.sendall(b"drip\n" if arguments.mode == "drip" else b"hello\n")
    line_of(stream)
    print(f"open {stream.getsockname()[1]}", flush=True)
    last = time.monotonic()
    deadline = None
    spoken = None
    stream.settimeout(0.05)
    why = "nothing is heard"
    while deadline is None or time.monotonic() < deadline:
        if deadline is None and os.path.exists(arguments.speak):
            deadline = time.monotonic() + arguments.seconds
        try:
            if arguments.mode == "talk" or (arguments.mode == "silent" and deadline and not spoken):
                spoken = time.monotonic()
                stream.sendall(b"more\n")
            if not stream.recv(4096):
                why = "closed"
                break
            last = time.monotonic()
            if arguments.mode == "talk":
                time.sleep(DRIP)
            elif arguments.mode == "silent" and spoken:
                why = "goes on"
                break
        except TimeoutError:
            pass
        except OSError as error:
            why = type(error).__name__
            break
    now = time.monotonic()
    if why == "nothing is heard" and now - last < 4 * DRIP + 0.1:
        why = "goes on"
    since = spoken if arguments.mode == "silent" and spoken else last
    print(f"{why} after {(now - since) * 1000:.0f} ms")


def names(arguments):
    waits = []
    for _ in range(arguments.count):
        begun = time.monotonic()
        try:
            socket.getaddrinfo(arguments.name, None, type=socket.SOCK_STREAM)
            waits.append(f"{time.monotonic() - begun:.2f} s")
        except socket.gaierror:
            waits.append(f"none in {time.monotonic() - begun:.2f} s")
    print(", ".join(waits))


def rate(arguments):
    """Counts what a limit lets through, once the gateways have told each other what they use."""
    served, lock, threads = 0, threading.Lock(), []

    def once(counts):
        nonlocal served
        try:
            exchange(arguments.service, PATIENCE)
        except OSError:
            return
        with lock:
            served += counts

    begun = time.monotonic()
    for number in range(15 * arguments.per_second):
        due = number / arguments.per_second
        time.sleep(max(0.0, begun + due - time.monotonic()))
        threads.append(threading.Thread(target=once, args=(due >= 5,), daemon=True))
        threads[-1].start()
    for thread in threads:
        thread.join()
    print(served)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    serving = commands.add_parser("serve")
    serving.add_argument("address")
    serving.add_argument("name")
    serving.set_defaults(run=serve)
    connecting = commands.add_parser("connect")
    connecting.add_argument("stop")
    connecting.add_argument("services", nargs="+")
    connecting.add_argument("--title", default="connections")
    connecting.add_argument("--every", type=int, default=20)
    connecting.add_argument("--try", type=int, default=0, dest="try_ms")
    connecting.add_argument("--longest", type=int, default=int(PATIENCE * 1000))
    connecting.add_argument("--lost", type=int, default=0)
    connecting.add_argument("--served", action="store_true")
    connecting.set_defaults(run=connect)
    rating = commands.add_parser("rate")
    rating.add_argument("service")
    rating.add_argument("per_second", type=int)
    rating.set_defaults(run=rate)
    naming = commands.add_parser("names")
    naming.add_argument("count", type=int)
    naming.add_argument("name")
    naming.set_defaults(run=names)
    holding = commands.add_parser("hold")
    holding.add_argument("address")
    holding.add_argument("mode", choices=["talk", "silent", "drip"])
    holding.add_argument("speak")
    holding.add_argument("seconds", type=float)
    holding.add_argument("--keepalive", action="store_true")
    holding.set_defaults(run=hold)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
