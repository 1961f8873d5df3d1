"""HTTP/1.1 server that tells what it was given. Argument: the port, on loopback.

POST and PUT of /echo are answered with what came, as JSON; /trailers with a body in chunks and trailers, /hints after 103, /late-refusal with 413
before the body, /upgrade with 101 and then an echo in capitals, /close with a body that ends with the connection, /slow after half a second,
/never-reads not at all, /seen with the paths that were asked for.
"""

import hashlib
import itertools
import json
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

connections = itertools.count(1)
paths = set()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def setup(self):
        super().setup()
        self.number = next(connections)

    def log_message(self, *arguments):
        pass

    def lines(self):
        while (line := self.rfile.readline().strip()) != b"":
            yield line.decode()

    def body(self):
        """Returns the body, its trailers, and the sizes of its chunks."""
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0))), [], []
        body, sizes = b"", []
        while (size := int(self.rfile.readline().split(b";")[0], 16)) > 0:
            sizes.append(size)
            body += self.rfile.read(size)
            self.rfile.readline()
        return body, list(self.lines()), sizes

    def answer(self, status, body, **fields):
        self.send_response(status)
        for name, value in fields.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def handle_expect_100(self):
        return True if self.path == "/late-refusal" else super().handle_expect_100()

    def told(self):
        body, trailers, sizes = self.body()
        told = {
            "method": self.command,
            "path": self.path,
            "version": self.request_version,
            "headers": [f"{name.lower()}: {value}" for name, value in self.headers.items()],
            "length": len(body),
            "sha256": hashlib.sha256(body).hexdigest(),
            "trailers": trailers,
            "chunks": len(sizes),
            "connection": self.number,
        }
        self.answer(200, json.dumps(told).encode(), Content_Type="application/json")

    def do_GET(self):
        paths.add(self.path)
        act = getattr(self, "at_" + self.path.split("?")[0].strip("/").replace("-", "_"), self.told)
        act()

    do_HEAD = do_POST = do_PUT = do_DELETE = do_OPTIONS = do_PATCH = do_PROPFIND = do_GET

    def at_trailers(self):
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.send_header("Trailer", "X-Sum, X-Other")
        self.end_headers()
        for part in (b"one", b"two", b"three"):
            self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
            self.wfile.flush()
        self.wfile.write(b"0\r\nX-Sum: 11\r\nX-Other: yes\r\n\r\n")

    def at_hints(self):
        self.wfile.write(b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n")
        self.answer(200, b"after the hints")

    def at_late_refusal(self):
        self.close_connection = True
        self.answer(413, b"too much", Connection="close")

    def at_upgrade(self):
        self.wfile.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: capitals\r\n\r\n")
        self.wfile.flush()
        while line := self.rfile.readline():
            self.wfile.write(line.upper())
            self.wfile.flush()
        self.close_connection = True

    def at_close(self):
        self.send_response(200)
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(b"to the end")
        self.close_connection = True

    def at_seen(self):
        self.answer(200, json.dumps(sorted(paths)).encode())

    def at_slow(self):
        time.sleep(0.5)
        self.told()

    def at_never_reads(self):
        time.sleep(10)
        self.close_connection = True

    def at_nothing(self):
        self.body()
        self.send_response(204)
        self.end_headers()

    def at_unchanged(self):
        self.send_response(304)
        self.send_header("ETag", '"one"')
        self.send_header("Content-Length", "1000")
        self.end_headers()


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024

    def handle_error(self, request, client_address):
        # Clients break off on purpose.
        pass


Server(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
