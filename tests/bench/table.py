"""Tables of medians with their spread, and of ratios to the best contender."""

import statistics

# Figures of which less is better.
LESS = {"CPU s/GB", "p50 us", "p99 us", "HTTP p50 us", "HTTP p99 us", "MB far", "MB near"}


def _number(value):
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"


def _values(rounds, name):
    return [r[name] for r in rounds if isinstance(r.get(name), float)]


def names(results):
    """Figures in the order in which they were first measured."""
    return list(dict.fromkeys(name for rounds in results.values() for r in rounds for name in r))


def medians(results):
    lines = []
    for contender, rounds in results.items():
        cells = []
        for name in names(results):
            values = _values(rounds, name)
            failed = any(isinstance(r.get(name), Exception) for r in rounds)
            text = f"{_number(statistics.median(values))} ({_number(min(values))}-{_number(max(values))})" if values else "-"
            cells.append(text + (" FAILED" if failed else ""))
        lines.append([contender, *cells])
    return _table(["contender", *names(results)], lines)


def ratios(results, of, reference="direct"):
    """The medians of contender `of`, each as a share of the best of the others (over 1 is better)."""
    lines = []
    for name in names(results):
        others = {c: _values(r, name) for c, r in results.items() if c not in (of, reference)}
        others = {c: statistics.median(v) for c, v in others.items() if v}
        own = _values(results.get(of, []), name)
        if not others or not own:
            continue
        best = (min if name in LESS else max)(others, key=others.get)
        ratio = statistics.median(own) / others[best]
        lines.append([name, best, f"{1 / ratio if name in LESS else ratio:.2f}"])
    return _table(["figure", "best of the others", f"{of} relative to it (over 1 is better)"], lines)


def _table(head, lines):
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)
