"""Prints what Rotel has received.

  traces.py LOG spans TRACE     the spans of a trace, the outermost first: the zone, the kind, the name, and whose child it is
  traces.py LOG metrics ZONE    each value of a zone's metrics: its name, its kind, and its labels
  traces.py LOG records ZONE    each record of a zone's log: its severity, its words, its trace and its span

LOG: what `rotel start --debug-log-verbosity detailed` writes with `--debug-log` for traces, metrics and logs
"""

import re
import sys


def received(lines: list[str]) -> tuple[list[dict], list[dict], list[dict]]:
    spans, metrics, records = [], [], []
    zone, part, one = "", "", {}
    for line in lines:
        if re.match(r"Resource(Spans|Metrics|Log)\b.* #", line):
            zone, part = "", "resource"
        elif found := re.match(r" +-> causeway\.zone: Str\((.*)\)", line):
            # Spans have an attribute of that name too.
            zone = found[1] if part == "resource" else zone
        elif re.match(r"Scope", line):
            part = "scope"
        elif found := re.match(r"(Span|LogRecord|Metric) #", line):
            part = found[1]
            one = {"zone": zone, "labels": []}
            if part != "Metric":
                {"Span": spans, "LogRecord": records}[part].append(one)
        elif part == "Metric" and (re.match(r"(Number|Histogram)DataPoints #", line)):
            # Each value begins with what its metric says.
            one = {**one, "labels": []}
            metrics.append(one)
        elif part == "Metric" and (found := re.match(r" +-> (Name|DataType|IsMonotonic): (.*)", line)):
            one[found[1].lower()] = found[2].strip()
        elif part == "Metric" and (found := re.match(r" +-> (\w+): Str\((.*)\)", line)):
            one["labels"].append(f"{found[1]}={found[2]}")
        elif part == "LogRecord" and (found := re.match(r"(SeverityText|Body): (.*)", line)):
            one[found[1].lower()] = found[2].removeprefix("Str(").removesuffix(")")
        elif part in ("Span", "LogRecord") and (
            found := re.match(r" +(Trace ID|Parent ID|ID|Span ID|Name|Kind) *: (.*)", line)
        ):
            one[found[1].lower()] = found[2].strip()
    return spans, metrics, records


def told_spans(spans: list[dict], trace: str) -> list[str]:
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


def told_metrics(metrics: list[dict], zone: str) -> list[str]:
    lines = set()
    for metric in metrics:
        if metric["zone"] == zone and "datatype" in metric:
            kind = metric["datatype"] + (" monotonic" if metric.get("ismonotonic") == "true" else "")
            lines.add(f"{metric['name']} {kind} {' '.join(metric['labels'])}".strip())
    return sorted(lines)


def told_records(records: list[dict], zone: str) -> list[str]:
    records = [record for record in records if record["zone"] == zone]
    return [
        f"{record['severitytext']} {record['body']} trace={record.get('trace id', '')} span={record.get('span id', '')}"
        for record in records
    ]


log, what, which = sys.argv[1:]
with open(log, errors="replace") as file:
    spans, metrics, records = received(file.read().splitlines())
told = {"spans": (told_spans, spans), "metrics": (told_metrics, metrics), "records": (told_records, records)}
tell, of = told[what]
print(*tell(of, which), sep="\n", end="")
