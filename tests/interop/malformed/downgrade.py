"""Sends requests of HTTP/2 through the gateway to recorder.py, which is given HTTP/1.1. Arguments: HOST:PORT of the service, the recorder's unix socket.

Each is refused, or is exactly the one request that it was meant as to a strict reader: no other may hide in its fields or in its body. Prints a line for each
case that fails and a summary; exits with 1 if one failed.
"""

import json
import socket
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent.parent / "http2"))
from wire import DATA, END_HEADERS, END_STREAM, HEADERS, PADDED, Wire, frame

address, control = sys.argv[1:3]
HIDDEN = b"GET /smuggled HTTP/1.1\r\nHost: s\r\n\r\n"
CHUNKS = b"0\r\n\r\n" + HIDDEN
LINES = "1\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: s\r\n\r\n"
# Name, what differs from a usual request, its body, and whether it may pass.
CASES = []


def case(name, *, passes, body=b"", method="GET", path="/a", name_of="a", added=(), write=None, **pseudo):
    fields = {":method": method, ":scheme": "http", ":path": path, ":authority": name_of, **{":" + key: value for key, value in pseudo.items()}}
    head = [(key, value) for key, value in fields.items() if value is not None] + list(added)
    CASES.append((name, head, body, write, (method, path, name_of, len(body)) if passes else None))


post = {"method": "POST"}
case("a usual one", passes=True)
case("a body", passes=True, body=b"test", **post)
case("a body of GET", passes=True, body=HIDDEN)
case("a body of HEAD", passes=True, body=HIDDEN, method="HEAD")
case("a body that looks like chunks", passes=True, body=CHUNKS, **post)
case("a body that looks like a request", passes=True, body=HIDDEN, **post)
case("a body with its length", passes=True, body=HIDDEN, added=[("content-length", str(len(HIDDEN)))], **post)
case("a length of 0", passes=True, added=[("content-length", "0")], **post)
for text in ("3", "0", "99", "+4", "-4", "0x4", "4,4", "4, 4", " 4", "4 ", "4\t", "", "4;", "4.0", "18446744073709551620"):
    case(f"a body of 4 and a length of {text!r}", passes=False, body=b"test", added=[("content-length", text)], **post)
case("a length with leading zeros", passes=True, body=b"test", added=[("content-length", "0004")], **post)
case("two lengths that differ", passes=False, body=b"test", added=[("content-length", "4"), ("content-length", "0")], **post)
case("two lengths that are the same", passes=True, body=b"test", added=[("content-length", "4"), ("content-length", "4")], **post)
for name, value in (("transfer-encoding", "chunked"), ("transfer-encoding", "identity"), ("connection", "close"), ("connection", "content-length"), ("upgrade", "x"), ("keep-alive", "1"), ("te", "chunked")):
    case(f"{name} of {value}", passes=False, body=CHUNKS, added=[(name, value)], **post)
case("transfer_encoding", passes=True, body=CHUNKS, added=[("transfer_encoding", "chunked")], **post)
case("content_length", passes=True, body=b"test", added=[("content_length", "1")], **post)
for name in ("Transfer-Encoding", "transfer-encoding ", " transfer-encoding", "transfer-encoding:", "x: 1\r\ntransfer-encoding", "x\r\n", "x\n", "x\0", "x y", "x:y", "x\ty", "x(", ""):
    case(f"a field named {name!r}", passes=False, body=CHUNKS, added=[(name, "chunked")], **post)
for value in (LINES, "1\r2", "1\n2", "1\0", "1\x0b\r\n 2", "1\r\n 2", "\r\n", "\n", "1\x012", "1\x7f", " 1", "1 ", "\t1"):
    case(f"a value of {value!r}", passes=False, added=[("x-a", value)])
for value in ("1\t2", "\u00e4", "", "v" * 9000):
    case(f"a value of {value[:10]!r}", passes=True, added=[("x-a", value)])
for path in ("/a b", "/a\r\nX: y", "/a HTTP/1.1\r\nHost: b\r\n\r\nGET /smuggled", "/a\tb", "/a\0", "/a\x7f", "", "a", "http://b/c", "//b\r\n", "/\u00e4", "*", "?a", "/a HTTP/1.1"):
    case(f"a path of {path!r}", passes=False, path=path)
for path in ("//b/c", "/a?b?c", "/%0d%0aX:%20y", "/a/../b", "/a;b", "/" + "a" * 8000):
    case(f"a path of {path[:20]!r}", passes=True, path=path)
for method in ("GET /smuggled HTTP/1.1\r\nHost: s\r\n\r\nGET", "GET\r\n", "GE T", "GET\t", "", "G\0T", "(GET)", "CONNECT", "get"):
    case(f"a method of {method!r}", passes=False, method=method)
for method in ("M-SEARCH", "PRI", "WHAT"):
    case(f"a method of {method!r}", passes=True, method=method)
for name in ("a\r\nX: y", "a b", "a/b", "me@a", "a,b", "a\\b", "a?b", "a#b", "a:b", "a\0", "[::z]"):
    case(f"an authority of {name!r}", passes=False, name_of=name)
for name in ("a:81", "[::1]", "a.b"):
    case(f"an authority of {name!r}", passes=True, name_of=name)
case("a Host that is another", passes=False, added=[("host", "b")])
case("a Host that is the same", passes=True, added=[("host", "a")])
case("a Host twice", passes=False, authority=None, added=[("host", "a"), ("host", "b")])
case("a Host with a line end", passes=False, authority=None, added=[("host", "a\r\nX: y")])
case("a scheme with a line end", passes=False, scheme="http\r\nX: y")
case("a scheme with a path", passes=False, scheme="http://b/c?")
case("trailers that frame a message", passes=True, body=b"test", added=[("trailer", "content-length, host")], write=[("content-length", "99"), ("host", "b")], **post)
case("trailers that end with the connection", passes=False, body=b"test", added=[("trailer", "transfer-encoding")], write=[("transfer-encoding", "gzip")], **post)
case("trailers with a line end", passes=False, body=b"test", added=[("trailer", "x-sum")], write=[("x-sum", "1\r\n\r\n")], **post)
case("an empty DATA at the end", passes=True, body=b"test", write="empty end", **post)
case("DATA with padding", passes=True, body=b"test", write="padding", **post)


def send(wire, head, body, write):
    block = wire.encoder.encode([(name.encode(), value.encode()) for name, value in head])
    parts = [block[at : at + 2**14] for at in range(0, len(block), 2**14)]
    assert len(parts) == 1
    wire.write(frame(HEADERS, END_HEADERS | (0 if body else END_STREAM), 1, block))
    if write == "padding":
        wire.write(frame(DATA, END_STREAM | PADDED, 1, bytes([len(HIDDEN)]) + body + HIDDEN))
    elif write == "empty end":
        wire.write(frame(DATA, 0, 1, body) + frame(DATA, 0, 1) + frame(DATA, END_STREAM, 1))
    elif write:
        wire.write(frame(DATA, 0, 1, body) + frame(HEADERS, END_HEADERS | END_STREAM, 1, wire.encoder.encode(write)))
    elif body:
        wire.write(frame(DATA, END_STREAM, 1, body))


def recorded():
    with socket.socket(socket.AF_UNIX) as teller:
        teller.connect(control)
        parts = []
        while part := teller.recv(65536):
            parts.append(part)
    return json.loads(b"".join(parts))


def problem_of(head, body, write, expected):
    wire = Wire(address)
    send(wire, head, body, write)
    outcome = wire.outcome()
    if not outcome.startswith("goaway") and not wire.is_closed:
        wire.request(101, path="/marker", changed={":authority": "marker"})
        outcome += f", {wire.outcome(101)}"
    wire.close()
    found = recorded()
    faults = [connection["fault"] for connection in found if connection["fault"]]
    requests = [(one["method"], one["target"], one["host"], one["length"]) for connection in found for one in connection["requests"]]
    requests = [one for one in requests if one != ("GET", "/marker", "marker", 0)]
    if faults or requests != ([expected] if expected else []):
        return f"the instance was given {requests} {faults}, and should have been given {[expected] if expected else 'nothing'}; the client: {outcome}"
    if expected and outcome != "answer 200, answer 200":
        return f"the client: {outcome}"
    return None


failed = 0
for name, *how in CASES:
    problem = problem_of(*how)
    if problem:
        failed += 1
        print(f"case {name}: {problem}")
print(f"{len(CASES)} requests of HTTP/2, {sum(expected is not None for *_, expected in CASES)} may pass; {failed} failed")
sys.exit(1 if failed else 0)
