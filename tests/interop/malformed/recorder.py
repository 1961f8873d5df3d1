"""Server behind the gateway, haproxy or nginx that records every byte it is given, and how it understands them. Arguments: the port, on loopback, and a unix
socket.

Who connects to the unix socket is sent what was recorded since, once no connection is open any more, as JSON: for each connection its bytes and the
requests that came whole: method, target, Host, length of the body.
"""

import json
import os
import re
import socket
import sys
import threading
import time

# Longest wait for connections to end, in seconds.
PATIENCE = 5
lock = threading.Lock()
connections = []
is_open = 0


class Parser:
    """Reads requests strictly, as RFC 9112 has them; what is none ends the connection."""

    def __init__(self):
        self.buffer = b""
        self.requests = []
        self.fault = None

    def feed(self, more):
        """Returns how many requests have come to their end."""
        self.buffer += more
        before = len(self.requests)
        try:
            while self.request():
                pass
        except ValueError as fault:
            self.fault = str(fault)
        return len(self.requests) - before

    def request(self):
        end = self.buffer.find(b"\r\n\r\n")
        if end < 0:
            return False
        lines = self.buffer[:end].decode("latin-1").split("\r\n")
        line = re.fullmatch(r"([!-~]+) ([!-~\x80-\xff]+) HTTP/1\.[01]", lines[0])
        if not line:
            raise ValueError(f"request line {lines[0]!r}")
        fields = []
        for field in lines[1:]:
            name, colon, value = field.partition(":")
            if not colon or not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name) or re.search(r"[\0\r\n]", value):
                raise ValueError(f"field {field!r}")
            fields.append((name.lower(), value.strip(" \t")))
        body = self.body(fields, end + 4)
        if body is None:
            return False
        length, end = body
        hosts = [value for name, value in fields if name == "host"]
        self.requests.append({"method": line[1], "target": line[2], "host": ",".join(hosts), "length": length})
        self.buffer = self.buffer[end:]
        return True

    def body(self, fields, start):
        lengths = [value for name, value in fields if name == "content-length"]
        codings = [value.lower() for name, value in fields if name == "transfer-encoding"]
        if len(lengths) > 1 or codings not in ([], ["chunked"]) or (lengths and codings):
            raise ValueError(f"lengths {lengths}, codings {codings}")
        if not codings:
            if lengths and not re.fullmatch("[0-9]+", lengths[0]):
                raise ValueError(f"length {lengths[0]!r}")
            length = int(lengths[0]) if lengths else 0
            return (length, start + length) if len(self.buffer) >= start + length else None
        length = 0
        while True:
            end = self.buffer.find(b"\r\n", start)
            if end < 0:
                return None
            size = self.buffer[start:end].split(b";")[0]
            if not re.fullmatch(rb"[0-9A-Fa-f]+", size):
                raise ValueError(f"chunk {size!r}")
            size = int(size, 16)
            if size == 0:
                break
            start = end + 2 + size
            if len(self.buffer) < start + 2:
                return None
            if self.buffer[start : start + 2] != b"\r\n":
                raise ValueError("the end of a chunk")
            start, length = start + 2, length + size
        # Trailers, to an empty line.
        start = end + 2
        while (end := self.buffer.find(b"\r\n", start)) > start:
            start = end + 2
        return (length, end + 2) if end == start else None


def serve(client):
    global is_open
    parser, raw = Parser(), bytearray()
    with lock:
        connections.append((parser, raw))
    client.settimeout(60)
    try:
        while parser.fault is None and (more := client.recv(65536)):
            raw += more
            whole = parser.feed(more)
            # Who keeps connections to instances for later would have the teller wait. What comes behind is read all the same, to the end.
            client.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n" * whole)
    except OSError:
        pass
    client.close()
    with lock:
        is_open -= 1


def tell(control):
    end = time.monotonic() + PATIENCE
    while is_open and time.monotonic() < end:
        time.sleep(0.005)
    with lock:
        told = [{"raw": raw.hex(), "requests": parser.requests, "fault": parser.fault} for parser, raw in connections]
        connections.clear()
    control.sendall(json.dumps(told).encode())
    control.close()


def listen_for_tellers(path):
    if os.path.exists(path):
        os.unlink(path)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    while True:
        tell(listener.accept()[0])


threading.Thread(target=listen_for_tellers, args=(sys.argv[2],), daemon=True).start()
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=256)
while True:
    accepted, _ = listener.accept()
    with lock:
        is_open += 1
    threading.Thread(target=serve, args=(accepted,), daemon=True).start()
