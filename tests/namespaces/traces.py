"""Prints the spans of a trace that Rotel has received, the outermost first: the zone, the kind, the name, and whose child it is.

  traces.py LOG TRACE      LOG: what `rotel start --debug-log traces --debug-log-verbosity detailed` writes
"""

import re
import sys


def received(lines: list[str]) -> list[dict]:
    spans, zone = [], ""
    for line in lines:
        if found := re.match(r" +-> causeway\.zone: Str\((.*)\)", line):
            # First come the resource's attributes.
            if not spans or spans[-1].get("name"):
                zone = found[1]
        elif re.match(r"Resource SchemaURL", line):
            zone = ""
        elif re.match(r"Span #", line):
            spans.append({"zone": zone})
        elif found := re.match(r" +(Trace ID|Parent ID|ID|Name|Kind) *: (.*)", line):
            spans[-1][found[1].lower()] = found[2].strip()
    return spans


def told(spans: list[dict], trace: str) -> list[str]:
    spans = [span for span in spans if span.get("trace id") == trace]
    by_id = {span["id"]: span for span in spans}
    kind = lambda span: span["kind"].removeprefix("SPAN_KIND_").lower()
    depth = lambda span: 1 + depth(by_id[span["parent id"]]) if span["parent id"] in by_id else 0
    lines = []
    for span in sorted(spans, key=depth):
        parent = by_id.get(span["parent id"])
        of = f"{kind(parent)} {parent['name']}" if parent else span["parent id"] or "nothing"
        lines.append(f"{span['zone']} {kind(span)} {span['name']} < {of}")
    return lines


log, trace = sys.argv[1:]
with open(log, errors="replace") as file:
    print(*told(received(file.read().splitlines()), trace), sep="\n", end="")
