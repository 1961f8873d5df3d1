"""Sends every request of requests.txt through the gateway, to haproxy and to nginx, behind each of which recorder.py says what it was given. Argument:
the folder of the recorders' sockets.

Nothing may pass the gateway that the others understand differently: in the number of requests, their method, path, host or the length of their body. What they refuse
they do not understand; where the gateway passes it all the same, the list says so. What the gateway wrote to the instance is also given to haproxy and nginx.

Prints a line for each case that fails and a summary; exits with 1 if one failed. With `--write` it writes into the list what the gateway answered.
"""

import json
import re
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

folder = sys.argv[1]
LIST = Path(__file__).parent / "requests.txt"
# Sent behind each: whoever reads more, or less, than the request does not see it as what it is.
MARKER = b"GET /marker HTTP/1.1\r\nHost: marker\r\nConnection: close\r\n\r\n"
LANES = 4
# Longest wait for an answer, in seconds, and where none need come.
PATIENCE = 10
SHORT = 1
# The gateway by the mesh name of each lane; haproxy and nginx by port.
ADDRESSES = {
    "gateway": [(f"recorder-{lane}.mesh", 6110) for lane in range(LANES)],
    "haproxy": [("127.0.0.1", 6120 + lane) for lane in range(LANES)],
    "nginx": [("127.0.0.1", 6130 + lane) for lane in range(LANES)],
}


def decoded(text):
    text = re.sub(r"\{(.|\\x..)\*(\d+)\}", lambda found: found[1] * int(found[2]), text)
    return text.encode("ascii").decode("unicode_escape").encode("latin-1")


def read_list():
    entries = []
    for line in LIST.read_text().splitlines():
        if line and not line.startswith("#"):
            answers, name, text = line.split(" | ", 2)
            entries.append((answers, name, text))
    return entries


def send(address, data, wanted=None, patience=PATIENCE):
    """Returns the statuses of the answers to the last, or of as many as are wanted."""
    found = b""
    with socket.create_connection(address, PATIENCE) as connection:
        connection.settimeout(patience)
        try:
            connection.sendall(data)
            while more := connection.recv(65536):
                found += more
                statuses, is_last = answers_in(found)
                if is_last or len(statuses) == wanted:
                    break
        except OSError:
            pass
    return answers_in(found)[0]


def answers_in(found):
    """Returns the statuses of answers, interim ones left out, and whether the last of them is whole and says that it is the last."""
    statuses, is_last = [], False
    while (end := found.find(b"\r\n\r\n")) >= 0 and found.startswith(b"HTTP/1."):
        head = found[:end].lower()
        status = int(head[9:12])
        length = re.search(rb"\r\ncontent-length: (\d+)", head)
        found = found[end + 4 + int(length[1] if length else 0) :]
        if status >= 200:
            statuses.append(status)
            is_last = b"\r\nconnection: close" in head and bool(length)
    return statuses, is_last


def told(target, lane):
    with socket.socket(socket.AF_UNIX) as control:
        control.settimeout(PATIENCE)
        control.connect(f"{folder}/{target}-{lane}.sock")
        parts = []
        while part := control.recv(65536):
            parts.append(part)
    return json.loads(b"".join(parts))


def request(found):
    """What has to be understood alike. A name in the target replaces Host (RFC 9112, 3.2.2). nginx tells names in lower case, without a port or a
    dot at their end, and all are compared so."""
    target, host = found["target"], found["host"]
    absolute = re.fullmatch(r"(?i)https?://([^/?]*)(.*)", target)
    if absolute:
        host, target = absolute[1], absolute[2]
    target = target if target.startswith(("/", "*")) else "/" + target
    return (found["method"], target, re.sub(r"\.?(:\d*)?$", "", host.lower()), found["length"])


def understood(target, lane, data, patience):
    answers = send(ADDRESSES[target][lane], data, patience=patience)
    records = told(target, lane)
    requests = [request(one) for record in records for one in record["requests"]]
    faults = [record["fault"] for record in records if record["fault"]]
    raw = b"".join(bytes.fromhex(record["raw"]) for record in records if record["requests"])
    return {"answers": answers, "requests": requests, "faults": faults, "raw": raw}


def is_alike(one, other):
    """Tells whether two requests are the same. A client of HTTP/1.0 need not name a host, and the gateway then names one."""
    return one == other or (not one[2] and (one[0], one[1], one[3]) == (other[0], other[1], other[3]))


def are_alike(some, others):
    return len(some) == len(others) and all(map(is_alike, some, others))


def is_refused(seen, passed):
    """They understand the same as far as they do, and then say that they do not."""
    count = len(seen["requests"])
    return count < len(passed) and are_alike(seen["requests"], passed[:count]) and any(answer >= 400 for answer in seen["answers"])


def is_stricter(gateway, seen):
    """The same of the gateway, which refuses what they understand."""
    passed = gateway["requests"]
    return are_alike(seen["requests"][: len(passed)], passed) and any(answer >= 400 for answer in gateway["answers"])


def compare(entry, lane):
    expected, _, text = entry
    data = decoded(text) + MARKER
    gateway = understood("gateway", lane, data, SHORT if "waits" in expected else PATIENCE)
    passed = gateway["requests"]
    problems, refusing = [], []
    if gateway["faults"]:
        problems.append(f"an instance was given what it cannot read: {gateway['faults']}")
    # What does not pass may be understood in any way.
    for other in ("haproxy", "nginx") if passed else ():
        seen = understood(other, lane, data, SHORT)
        if is_refused(seen, passed):
            refusing.append(other)
            continue
        if not are_alike(seen["requests"], passed) and not is_stricter(gateway, seen):
            problems.append(f"{other} understands {seen['requests']} and answers {seen['answers']}, the instance behind the gateway was given {passed}")
        send(ADDRESSES[other][lane], gateway["raw"], wanted=len(passed))
        again = [request(one) for record in told(other, lane) for one in record["requests"]]
        if not are_alike(again, passed):
            problems.append(f"of what the gateway wrote {other} understands {again} and a strict reader {passed}")
    answers = " ".join(map(str, gateway["answers"])) or "waits"
    answers += "".join(f" -{other}" for other in refusing)
    if answers != expected:
        problems.append(f"the list says `{expected}`, and it is `{answers}`")
    return answers, bool(passed), problems


def main():
    entries = read_list()
    results = [None] * len(entries)

    def run(lane):
        for at in range(lane, len(entries), LANES):
            results[at] = compare(entries[at], lane)

    with ThreadPoolExecutor(LANES) as lanes:
        list(lanes.map(run, range(LANES)))
    failed = refused = passing = 0
    for (_, name, text), (_, passes, problems) in zip(entries, results):
        passing += passes
        refused += not passes
        failed += bool(problems)
        for problem in problems:
            print(f"case {name}: {problem} ({text[:120]})")
    if "--write" in sys.argv:
        head = [line for line in LIST.read_text().splitlines() if line.startswith("#")]
        lines = [f"{answers} | {name} | {text}" for (_, name, text), (answers, *_) in zip(entries, results)]
        LIST.write_text("\n".join(head + lines) + "\n")
    stricter = sum("-" in answers for answers, *_ in results)
    print(f"{len(entries)} requests: {refused} refused whole, {passing} pass, of which haproxy or nginx refuse {stricter}; {failed} failed")
    return 1 if failed else 0


sys.exit(main())
