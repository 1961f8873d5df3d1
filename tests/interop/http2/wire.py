"""One connection of HTTP/2 on which a case writes frames of its own, sound or not, and how it ends."""

import socket
import struct
import time

import hpack
from hyperframe.frame import Frame

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM = ACK = 0x1
END_HEADERS, PADDED, PRIORITISED = 0x4, 0x8, 0x20
# Error codes (RFC 9113, 7).
CODES = (
    "NO_ERROR PROTOCOL_ERROR INTERNAL_ERROR FLOW_CONTROL_ERROR SETTINGS_TIMEOUT STREAM_CLOSED FRAME_SIZE_ERROR REFUSED_STREAM CANCEL "
    "COMPRESSION_ERROR CONNECT_ERROR ENHANCE_YOUR_CALM INADEQUATE_SECURITY HTTP_1_1_REQUIRED"
).split()
# Longest wait for what a case waits for, in seconds.
PATIENCE = 10
# How long nothing must come to be taken for nothing, in seconds.
SILENCE = 1.0


def code_name(code):
    return CODES[code] if code < len(CODES) else hex(code)


def frame(kind, flags=0, stream=0, payload=b"", length=None):
    length = len(payload) if length is None else length
    return struct.pack(">I", length)[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


class Wire:
    def __init__(self, address, settings=b"", greet=True):
        host, port = address.rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)), PATIENCE)
        self.encoder = hpack.Encoder()
        self.decoder = hpack.Decoder()
        self.buffer = b""
        self.block = b""
        self.heads = {}
        self.bodies = {}
        self.ended = set()
        self.resets = {}
        self.pings = []
        self.acks = 0
        self.goaway = None
        self.is_closed = False
        self.settings = {}
        self.window = 65535
        if greet:
            self.write(PREFACE + frame(SETTINGS, payload=settings))
            self.until(lambda: self.settings)
            self.write(frame(SETTINGS, ACK))

    # --- what is written ---

    def write(self, data):
        try:
            self.socket.sendall(data)
        except OSError:
            # Whoever ends a connection need not read on; its frames are there all the same.
            pass
        return self

    def head(self, fields=None, path="/echo", method="GET", **more):
        """Encodes a head: the usual one, with fields of `more` changed or added, or without those that are None."""
        if fields is None:
            usual = {":method": method, ":scheme": "http", ":path": path, ":authority": "origin.mesh"}
            fields = [(name, value) for name, value in {**usual, **more.pop("changed", {})}.items() if value is not None]
            fields += more.pop("added", [])
        return self.encoder.encode(fields)

    def request(self, stream=1, end=True, **more):
        return self.write(frame(HEADERS, END_HEADERS | (END_STREAM if end else 0), stream, self.head(**more)))

    def data(self, data, stream=1, end=True):
        return self.write(frame(DATA, END_STREAM if end else 0, stream, data))

    # --- what is read ---

    def read(self, seconds):
        """Takes up what has come, and waits for more; returns whether anything did."""
        self.socket.settimeout(max(seconds, 0.001))
        try:
            more = self.socket.recv(65536)
        except (TimeoutError, BlockingIOError):
            return False
        except OSError:
            more = b""
        if not more:
            self.is_closed = True
            return False
        self.buffer += more
        while len(self.buffer) >= 9:
            length = int.from_bytes(self.buffer[:3], "big")
            if len(self.buffer) < 9 + length:
                break
            parsed, _ = Frame.parse_frame_header(memoryview(self.buffer[:9]))
            payload = self.buffer[9 : 9 + length]
            self.buffer = self.buffer[9 + length :]
            parsed.parse_body(memoryview(payload))
            self.take(parsed)
        return True

    def take(self, found):
        kind, stream = found.type, found.stream_id
        if kind == SETTINGS:
            if "ACK" in found.flags:
                self.acks += 1
            else:
                self.settings = {0: 0, **found.settings}
        elif kind in (HEADERS, CONTINUATION):
            self.block += found.data
            if "END_HEADERS" in found.flags:
                fields, self.block = dict(self.decoder.decode(self.block)), b""
                # What comes before the answer does not count, and trailers do not replace it.
                if not fields.get(":status", "").startswith("1"):
                    self.heads.setdefault(stream, fields)
        elif kind == DATA:
            self.bodies[stream] = self.bodies.get(stream, b"") + bytes(found.data)
        elif kind == RST_STREAM:
            self.resets[stream] = found.error_code
        elif kind == PING and "ACK" in found.flags:
            self.pings.append(bytes(found.opaque_data))
        elif kind == GOAWAY:
            self.goaway = found.error_code
        if kind in (HEADERS, DATA) and "END_STREAM" in found.flags:
            self.ended.add(stream)

    def until(self, condition, seconds=PATIENCE):
        end = time.monotonic() + seconds
        while not condition() and not self.is_closed and time.monotonic() < end:
            self.read(end - time.monotonic())
        return bool(condition())

    def outcome(self, stream=1):
        """Says what became of a request: `answer STATUS`, `reset CODE`, `goaway CODE`, `closed` without a word, or `nothing`."""
        is_over = lambda: stream in self.resets or stream in self.ended or self.goaway is not None
        self.until(is_over, PATIENCE if stream in self.heads else 3 * SILENCE)
        if self.goaway is not None and stream not in self.ended:
            return f"goaway {code_name(self.goaway)}"
        if stream in self.ended:
            return f"answer {self.heads[stream][':status']}"
        if stream in self.resets:
            return f"reset {code_name(self.resets[stream])}"
        return "closed" if self.is_closed else "nothing"

    def is_alive(self, stream=101):
        """Tells whether another request on this connection is answered."""
        self.request(stream)
        return self.outcome(stream) == "answer 200"

    def close(self):
        self.socket.close()
