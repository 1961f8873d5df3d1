"""Answers of an instance that are malformed, ambiguous or more than was asked for. Arguments: `serve PORT`, which gives them; or `ask HOST:PORT`, which asks a
gateway for each and then, on the same connection if it stays, for a sound one.

What a case may come to is said with it; and whatever it is, the next request has its own answer and none that an instance sent before it was asked. Prints
a line for each case that fails and a summary; exits with 1 if one failed.
"""

import socket
import sys
import threading
import time

# Longest wait for an answer, in seconds.
PATIENCE = 10
FALSE = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfalse"
# It may be passed on with this body, or be refused: 502, or an end without the whole.
CASES = []


def case(name, answer, *bodies, method="GET", refused=True, later=b""):
    CASES.append((name, method, answer, later, bodies, refused))


def ok(*lines, body=b""):
    return "\r\n".join(["HTTP/1.1 200 OK", *lines, "", ""]).encode("latin-1") + body


CL, TE = "Content-Length: ", "Transfer-Encoding: "
CHUNKED = b"3\r\nabc\r\n0\r\n\r\n"
case("a usual one", ok(CL + "3", body=b"abc"), b"abc", refused=False)
case("in chunks", ok(TE + "chunked", body=CHUNKED), b"abc", refused=False)
case("to the end of the connection", ok("Connection: close", body=b"abc"), b"abc", refused=False)
case("two lengths that differ", ok(CL + "3", CL + "4", body=b"abcd"))
case("two lengths that are the same", ok(CL + "3", CL + "3", body=b"abc"), b"abc")
case("a list of lengths that differ", ok(CL + "3, 4", body=b"abcd"))
for text in ("+3", "-3", "3a", "0x3", "3 3", "", "3.0", "99999999999999999999"):
    case(f"a length of {text!r}", ok(CL + text, body=b"abc"))
case("length and coding", ok(CL + "1", TE + "chunked", body=CHUNKED), b"abc")
case("coding and length", ok(TE + "chunked", CL + "1", body=CHUNKED), b"abc")
for text in ("xchunked", "chunked, identity", "identity, chunked, identity", '"chunked"', "chunked;q=1"):
    case(f"a coding of {text!r}", ok(TE + text, "Connection: close", body=CHUNKED))
for text in (b"g\r\nabc\r\n0\r\n\r\n", b"3\r\nabcd\r\n0\r\n\r\n", b"-3\r\nabc\r\n0\r\n\r\n", b"0x3\r\nabc\r\n0\r\n\r\n", b"3\nabc\n0\n\n", b"3\r\nabc", b"3\r\nabc\r\n", b"3\r\nabc\r\n0\r\n", b"fffffffffffffffff\r\nabc"):
    case(f"chunks of {text!r}", ok(TE + "chunked", body=text))
case("less than its length", ok(CL + "9", body=b"abc"))
case("an answer behind it", ok(CL + "3", body=b"abc") + FALSE, b"abc")
case("an answer a while behind it", ok(CL + "3", body=b"abc"), b"abc", later=FALSE)
case("bytes behind it", ok(CL + "3", body=b"abc") + b"garbage", b"abc")
case("an answer behind chunks", ok(TE + "chunked", body=CHUNKED) + FALSE, b"abc")
case("a body after HEAD", ok(CL + str(len(FALSE)), body=FALSE), b"", method="HEAD")
case("a body of chunks after HEAD", ok(TE + "chunked", body=CHUNKED + FALSE), b"", method="HEAD")
for status in ("204 No Content", "304 Not Modified"):
    case(f"a body of {status[:3]}", f"HTTP/1.1 {status}\r\nContent-Length: {len(FALSE)}\r\n\r\n".encode() + FALSE, b"")
case("100 that nobody asked for", b"HTTP/1.1 100 Continue\r\n\r\n" + ok(CL + "3", body=b"abc"), b"abc")
case("100 with a length and a body", b"HTTP/1.1 100 Continue\r\nContent-Length: %d\r\n\r\n" % len(FALSE) + FALSE, b"false")
case("many interim ones", b"HTTP/1.1 102 Processing\r\n\r\n" * 2000 + ok(CL + "3", body=b"abc"), b"abc")
case("101 that nobody asked for", b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n" + FALSE)
case("a field that is folded", ok("X-A: b", " c", CL + "3", body=b"abc"), b"abc")
case("a length that is folded", ok("X-A: b", " Content-Length: 99", CL + "3", body=b"abc"), b"abc")
case("lines that end with LF", b"HTTP/1.1 200 OK\nContent-Length: 3\n\nabc", b"abc")
case("a bare CR in a value", ok("X-A: b\rContent-Length: 99", CL + "3", body=b"abc"))
case("NUL in a value", ok("X-A: b\0c", CL + "3", body=b"abc"))
case("a blank before the colon", ok("Content-Length : 99", CL + "3", body=b"abc"))
case("a line without a colon", ok("X-A", CL + "3", body=b"abc"))
case("a field without a name", ok(": b", CL + "3", body=b"abc"))
for line in ("HTTP/1.1 99 Low", "HTTP/1.1 1000 High", "HTTP/1.1 abc", "HTTP/2.0 200 OK", "HTTP/1.1  200 OK", "HTTQ/1.1 200 OK", "200 OK", "HTTP/1.1"):
    case(f"a first line of {line!r}", f"{line}\r\nContent-Length: 3\r\n\r\nabc".encode())
case("no head at all", b"abc")
case("nothing at all", b"")
case("a head without an end", b"HTTP/1.1 200 OK\r\nX-A: b\r\n")
case("a head that is too long", ok("X-A: " + "b" * 200_000, CL + "3", body=b"abc"))
case("fields that are too many", ok(*[f"X-{number}: b" for number in range(200)], CL + "3", body=b"abc"))
# Whoever sends less than it says ends the connection.
BREAKS_OFF = ("less than its length", "chunks of", "no head at all", "nothing at all", "a head without an end", "to the end", "a coding of", "a length of")


def serve(client):
    reader = client.makefile("rb")
    try:
        while line := reader.readline():
            while reader.readline() not in (b"\r\n", b""):
                pass
            path = line.split()[1]
            if path == b"/marker":
                client.sendall(ok(CL + "6", body=b"marker"))
                continue
            name, _, answer, later, *_ = CASES[int(path[1:])]
            client.sendall(answer)
            if later:
                time.sleep(0.1)
                client.sendall(later)
            if name.startswith(BREAKS_OFF):
                break
        # The socket lives on in its reader.
        client.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass


class Misframed(Exception):
    """An answer that the gateway should not have passed on as it is."""


def read_answer(reader, method):
    """Returns status and body; the body is None if it was not whole."""
    while True:
        line = reader.readline()
        if not line:
            return None, None
        status, fields = int(line.split()[1]), {}
        while (field := reader.readline()) not in (b"\r\n", b""):
            name, _, value = field.decode("latin-1").partition(":")
            if name.lower() in ("content-length", "transfer-encoding") and {"content-length", "transfer-encoding"} & {*fields}:
                raise Misframed("the answer that the client has is framed twice")
            fields[name.lower()] = value.strip()
        if status >= 200:
            break
    if method == "HEAD" or status in (204, 304):
        return status, b""
    try:
        if fields.get("transfer-encoding") == "chunked":
            body = b""
            while size := int(reader.readline(), 16):
                body += reader.read(size)
                reader.readline()
            reader.readline()
            return status, body
        if "transfer-encoding" in fields:
            raise Misframed(f"the answer that the client has is framed by {fields['transfer-encoding']}")
        if "content-length" in fields:
            length = int(fields["content-length"])
            body = reader.read(length)
            return status, body if len(body) == length else None
        return status, reader.read()
    except (OSError, ValueError):
        return status, None


def ask(address):
    host, port = address.rsplit(":", 1)
    failed = 0
    for at, (name, method, _, later, bodies, may_refuse) in enumerate(CASES):
        connect = lambda: socket.create_connection((host, int(port)), PATIENCE)
        client = connect()
        reader = client.makefile("rb")
        client.sendall(f"{method} /{at} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        problem = None
        try:
            status, body = read_answer(reader, method)
        except OSError:
            status, body = None, None
        except Misframed as misframed:
            status, body, problem = 502, None, str(misframed)
            client.close()
            client = connect()
            reader = client.makefile("rb")
        is_refused = status in (None, 502) or body is None
        if status is None and not name.startswith("chunks of"):
            problem = "the client has no answer at all"
        if not (may_refuse if is_refused else body in bodies):
            problem = f"the client has {status} {body and body[:80]}"
        if later:
            time.sleep(0.3)
        for attempt in range(2):
            try:
                client.sendall(b"GET /marker HTTP/1.1\r\nHost: a\r\n\r\n")
                after = read_answer(reader, "GET")
            except OSError:
                after = (None, None)
            if after[0] is not None:
                break
            # The client's connection has ended with the answer that was not whole.
            client = connect()
            reader = client.makefile("rb")
        if after != (200, b"marker"):
            problem = f"{problem or status}, and then {after}"
        if problem:
            failed += 1
            print(f"case {name}: {problem}")
    print(f"{len(CASES)} answers; {failed} failed")
    return 1 if failed else 0


if sys.argv[1] == "ask":
    sys.exit(ask(sys.argv[2]))
listener = socket.create_server(("127.0.0.1", int(sys.argv[2])), backlog=256)
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
