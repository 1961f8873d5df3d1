"""Compares two reports of the Autobahn suite. Arguments: index.json of the run without a gateway, and of the one through two gateways.

Prints how both went, and every case that a gateway between changes; exits with 1 if there is one.
"""

import collections
import json
import sys

direct, through = (next(iter(json.load(open(path)).values())) for path in sys.argv[1:3])
for name, report in (("without a gateway", direct), ("through two gateways", through)):
    counts = collections.Counter(case["behavior"] for case in report.values())
    print(f"{name}: {len(report)} cases, " + ", ".join(f"{count} {word}" for word, count in sorted(counts.items())))


def found(report, case, key):
    """NON-STRICT is as good as OK: which of the two it is follows from whether the server sends before or after it has read what is wrong."""
    word = report.get(case, {}).get(key)
    return "OK" if word == "NON-STRICT" else word


changed = [
    f"case {case}: {found(direct, case, key)} without a gateway, {found(through, case, key)} through two"
    for case in sorted({*direct, *through})
    for key in ("behavior", "behaviorClose", "remoteCloseCode")
    if found(direct, case, key) != found(through, case, key)
]
print("\n".join(changed) or "no case is changed")
sys.exit(1 if changed or not direct else 0)
