"""Cases of HTTP/1.1 and HTTP/2 that curl makes, and of bytes that curl does not. Arguments: HOST:PORT of the server that tells what it was given
(origin.py), HOST:PORT of nginx with the file `big`, a copy of that file, and curl's arguments for reaching both over TLS.

Prints `case NAME ok` or `case NAME: what is wrong`, and exits with 1 if one failed.
"""

import hashlib
import json
import re
import socket
import subprocess
import sys
import traceback

origin, files, big = sys.argv[1:4]
content = open(big, "rb").read()
KNOWN = "--http2-prior-knowledge"
# curl 7.88 cannot make a second request on a connection of prior knowledge, whatever the server is (mended in curl 8.0). So what takes several requests
# goes over TLS.
AGREED = [*sys.argv[4:], "--http2"]
# By what curl is told and where the servers then are.
BOTH = (([], f"http://{origin}", f"http://{files}"), (AGREED, "https://origin.mesh", "https://files.mesh"))


def same(found, expected):
    if found != expected:
        raise AssertionError(f"got {str(found)[:300]}, want {str(expected)[:300]}")


def curl(*arguments, data=None):
    done = subprocess.run(["curl", "-sS", "-m", "20", *arguments], input=data, capture_output=True)
    if done.returncode:
        raise AssertionError(f"curl {' '.join(arguments)}: {done.stderr.decode()}")
    return done.stdout


def told(*arguments, path="/echo", data=None):
    """What the server was given."""
    return json.loads(curl(*arguments, f"http://{origin}{path}", data=data))


def arrived(found, body):
    same((found["length"], found["sha256"]), (len(body), hashlib.sha256(body).hexdigest()))


class Raw:
    """A connection on which the case writes bytes of its own."""

    def __init__(self, address=origin):
        host, port = address.split(":")
        self.socket = socket.create_connection((host, int(port)), 20)
        self.file = self.socket.makefile("rb")

    def send(self, text):
        self.socket.sendall(text.replace("\n", "\r\n").encode())
        return self

    def head(self):
        lines = []
        while (line := self.file.readline()) not in (b"\r\n", b""):
            lines.append(line.decode().strip())
        return lines

    def answer(self):
        """Returns status line, header fields in lower case, body."""
        lines = self.head()
        fields = dict(line.lower().split(": ", 1) for line in lines[1:])
        return lines[0], fields, self.file.read(int(fields.get("content-length", 0)))


def ranges(*version):
    for text, expected in (("0-99", content[:100]), ("1000-", content[1000:]), ("-5", content[-5:])):
        same(curl(*version, "-r", text, f"http://{files}/big"), expected)
    several = curl(*version, "-r", "0-4,10-14", f"http://{files}/big")
    assert content[:5] in several and content[10:15] in several
    same(curl(*version, "-r", "99999999-", "-o", "/dev/null", "-w", "%{http_code}", f"http://{files}/big"), b"416")


def uploads(*version):
    arrived(told(*version, "-T", big), content)
    chunked = told(*version, "-T", "-", data=content)
    arrived(chunked, content)
    arrived(told(*version, "-d", ""), b"")
    arrived(told(*version, "-d", "a=1"), b"a=1")


class Cases:
    def a_range_is_given(self):
        ranges()

    def a_range_is_given_over_http_2(self):
        ranges(KNOWN)

    def uploads_arrive_whole(self):
        uploads()
        assert told("-T", "-", data=content)["chunks"] > 0

    def uploads_arrive_whole_over_http_2(self):
        uploads(KNOWN)

    def a_head_has_a_length_and_no_body(self):
        for version, _, at in BOTH:
            url = f"{at}/big"
            both = curl(*version, "-I", url, url, "-w", "%{num_connects}\n").decode()
            same(re.findall(r"(?im)^content-length: (\d+)", both), [str(len(content))] * 2)
            same([line for line in both.splitlines() if line in ("0", "1")], ["1", "0"])

    def statuses_without_a_body(self):
        for version, at, _ in BOTH:
            for path, status in (("/nothing", b"204"), ("/unchanged", b"304")):
                seen = curl(*version, f"{at}{path}", f"{at}/echo", "-o", "/dev/null", "-o", "/dev/null", "-w", "%{http_code} %{num_connects} ")
                same(seen, status + b" 1 200 0 ")

    def expect_is_answered_before_the_body_is_sent(self):
        command = ["curl", "-sSv", "-m", "20", "-H", "Expect: 100-continue", "--expect100-timeout", "15", "-T", big, "-w", "\n%{time_total}", f"http://{origin}/echo"]
        seen = subprocess.run(command, capture_output=True)
        found, time = seen.stdout.decode().rsplit("\n", 1)
        arrived(json.loads(found), content)
        assert "< HTTP/1.1 100" in seen.stderr.decode(), seen.stderr.decode()
        assert float(time) < 5, f"it took {time} s"

    def a_body_that_is_refused_stays_with_the_client(self):
        status = curl("-H", "Expect: 100-continue", "--expect100-timeout", "15", "-T", big, "-o", "/dev/null", "-w", "%{http_code} %{size_upload}", f"http://{origin}/late-refusal")
        same(status, b"413 0")

    def trailers_of_an_answer_arrive(self):
        raw = curl("--raw", "-H", "TE: trailers", "-H", "Connection: TE", f"http://{origin}/trailers")
        same(raw.lower().endswith(b"0\r\nx-sum: 11\r\nx-other: yes\r\n\r\n"), True)
        same(curl(f"http://{origin}/trailers"), b"onetwothree")
        both = curl("-i", KNOWN, "-H", "TE: trailers", f"http://{origin}/trailers")
        assert both.lower().endswith(b"onetwothreex-sum: 11\r\nx-other: yes\r\n"), both

    def trailers_of_a_request_arrive(self):
        raw = Raw().send("POST /echo HTTP/1.1\nHost: a\nTransfer-Encoding: chunked\nTrailer: X-Sum\n\n3\none\n4;x=y\nmore\n0\nX-Sum: 7\n\n")
        status, _, body = raw.answer()
        found = json.loads(body)
        arrived(found, b"onemore")
        same([line.lower() for line in found["trailers"]], ["x-sum: 7"])

    def pipelined_requests_are_answered_in_order(self):
        raw = Raw()
        count = 50
        text = ""
        for number in range(count):
            text += f"GET /echo?{number} HTTP/1.1\nHost: a\n\n"
            text += f"POST /echo?post{number} HTTP/1.1\nHost: a\nContent-Length: 3\n\nabc"
        raw.send(text)
        for number in range(count):
            same(json.loads(raw.answer()[2])["path"], f"/echo?{number}")
            posted = json.loads(raw.answer()[2])
            same((posted["path"], posted["length"]), (f"/echo?post{number}", 3))

    def connections_are_kept(self):
        for version, at, _ in BOTH:
            urls = [f"{at}/echo"] * 5
            same(curl(*version, *urls, *["-o", "/dev/null"] * 5, "-w", "%{num_connects}"), b"10000")
            found = [json.loads(line)["connection"] for line in curl(*version, *urls, "-w", "\n").splitlines()]
            same(len(set(found)), 1)

    def an_old_client_is_answered_and_closed(self):
        raw = Raw().send("GET /trailers HTTP/1.0\n\n")
        lines = raw.head()
        same(lines[0].split()[1], "200")
        assert not any(line.lower().startswith("transfer-encoding") for line in lines), lines
        same(raw.file.read(), b"onetwothree")
        same(curl("-0", f"http://{origin}/close"), b"to the end")
        kept = Raw().send("GET /echo HTTP/1.0\nConnection: keep-alive\n\n")
        _, fields, _ = kept.answer()
        same(fields.get("connection"), "keep-alive")
        same(kept.send("GET /echo HTTP/1.0\n\n").answer()[0].split()[1], "200")
        same(kept.file.read(), b"")

    def a_body_that_ends_with_its_connection_arrives(self):
        same(curl(f"http://{origin}/close"), b"to the end")
        same(curl(KNOWN, f"http://{origin}/close"), b"to the end")

    def early_hints_come_before_the_answer(self):
        shown = curl("-i", f"http://{origin}/hints")
        assert re.match(rb"HTTP/1.1 103 .*\r\n(?is:link: </a.css>; rel=preload\r\n\r\nHTTP/1.1 200 .*after the hints)$", shown), shown
        assert curl(KNOWN, f"http://{origin}/hints").endswith(b"after the hints")

    def a_connection_changes_to_another_protocol(self):
        raw = Raw().send("GET /upgrade HTTP/1.1\nHost: a\nConnection: upgrade\nUpgrade: capitals\n\n")
        same(raw.head()[0].split()[1], "101")
        for word in ("one", "two"):
            raw.socket.sendall(word.encode() + b"\n")
            same(raw.file.readline(), word.upper().encode() + b"\n")

    def an_upgrade_that_is_not_taken_is_a_usual_request(self):
        raw = Raw().send("GET /echo HTTP/1.1\nHost: a\nConnection: upgrade\nUpgrade: capitals\n\n")
        same(raw.answer()[0].split()[1], "200")
        same(raw.send("GET /echo HTTP/1.1\nHost: a\n\n").answer()[0].split()[1], "200")

    def a_target_with_a_name_replaces_host(self):
        raw = Raw().send("GET http://other.example:99/echo?x HTTP/1.1\nHost: a\n\n")
        found = json.loads(raw.answer()[2])
        same(found["path"], "/echo?x")
        same([line for line in found["headers"] if line.startswith("host:")], ["host: other.example:99"])

    def what_ends_with_the_connection_goes_no_further(self):
        found = told("-H", "Connection: X-Mine, keep-alive", "-H", "X-Mine: 1", "-H", "Keep-Alive: 5", "-H", "Proxy-Authorization: x", "-H", "TE: gzip", "-H", "X-Other: 2")
        names = {line.split(":")[0] for line in found["headers"]}
        same(names & {"x-mine", "keep-alive", "proxy-authorization", "te", "x-other"}, {"x-other"})

    def nothing_is_said_in_the_gateways_name(self):
        for version in ((), (KNOWN,)):
            lies = ["X-Forwarded-Client-Cert: URI=lie", "X_Forwarded_Client_Cert: URI=lie", "X-Forwarded_For: lie", "X_Forwarded_Host: lie"]
            found = told(*version, *[part for lie in lies for part in ("-H", lie)])
            same([line for line in found["headers"] if "lie" in line], [])

    def methods_arrive(self):
        for method in ("GET", "DELETE", "OPTIONS", "PATCH", "PROPFIND"):
            for version in ((), (KNOWN,)):
                same(told(*version, "-X", method)["method"], method)
        same(told("-X", "OPTIONS", "--request-target", "*")["path"], "*")

    def fields_arrive_as_they_were_sent(self):
        for version in ((), (KNOWN,)):
            found = told(*version, "-H", "X-Many: 1", "-H", "X-Many: 2", "-H", "X-Empty;", "-H", "X-Bytes: \u00e4\u00f6", "-H", "Cookie: a=1; b=2", "-H", "X-Long: " + "v" * 30000)
            lines = found["headers"]
            same([line for line in lines if line.startswith("x-many")], ["x-many: 1", "x-many: 2"])
            same([line for line in lines if line.startswith(("x-empty", "cookie"))], ["x-empty: ", "cookie: a=1; b=2"])
            assert "x-long: " + "v" * 30000 in lines
            assert any(line.encode("latin-1") == "x-bytes: \u00e4\u00f6".encode() for line in lines if line.startswith("x-bytes")), lines

    def many_at_once_share_a_connection_of_http_2(self):
        done = curl(*AGREED, "--parallel", "--parallel-max", "60", "-w", "%{http_code} %{num_connects}\n", "-o", "/dev/null", "https://origin.mesh/echo?[1-60]").decode().split("\n")[:-1]
        same([line.split()[0] for line in done], ["200"] * 60)
        assert sum(int(line.split()[1]) for line in done) < 10, done

    def http_2_is_agreed_on_over_tls(self):
        for version, number in (("--http2", b"2"), ("--http1.1", b"1.1")):
            same(curl(*AGREED, version, "-o", "/dev/null", "-w", "%{http_code} %{http_version}", "https://origin.mesh/echo"), b"200 " + number)
        arrived(json.loads(curl(*AGREED, "-T", big, "https://origin.mesh/echo")), content)


status = 0
for name in [name for name in vars(Cases) if not name.startswith("_")]:
    try:
        getattr(Cases(), name)()
        print(f"case {name} ok")
    except Exception as error:
        status = 1
        said = str(error) if isinstance(error, AssertionError) else traceback.format_exc()
        print(f"case {name}: {said}")
sys.exit(status)
