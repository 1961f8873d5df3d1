"""Asks a Prometheus at 127.0.0.1:9090.

  finds EXPRESSION             ends well where it has a result
  show EXPRESSION              prints what it has
  board FILE [TITLE…]          asks for every panel of a board of Grafana; each must show something, those with these titles aside
"""

import json
import sys
import urllib.parse
import urllib.request

# What Grafana puts into expressions.
VARIABLES = {"$__rate_interval": "10s", "$service": ".*", "$job": "causeway"}


def ask(expression: str) -> list:
    query = urllib.parse.urlencode({"query": expression})
    with urllib.request.urlopen(f"http://127.0.0.1:9090/api/v1/query?{query}", timeout=10) as answer:
        return json.load(answer)["data"]["result"]


def is_shown(result: list) -> bool:
    return any(sample["value"][1] not in ("NaN", "+Inf", "-Inf") for sample in result)


def board(file: str, *spared: str) -> None:
    panels = json.load(open(file))["panels"]
    expressions = [(panel["title"], target["expr"]) for panel in panels for target in panel.get("targets", [])]
    problems = []
    for title, expression in expressions:
        for variable, value in VARIABLES.items():
            expression = expression.replace(variable, value)
        try:
            shown = is_shown(ask(expression))
        except urllib.error.HTTPError as error:
            problems.append(f"{title}: {expression}: {error.read().decode()}")
            continue
        if not shown and title not in spared:
            problems.append(f"{title}: nothing to show: {expression}")
    if problems or not expressions:
        raise SystemExit("\n".join(problems or ["the board has no panel"]))


match sys.argv[1:]:
    case ["finds", expression]:
        sys.exit(0 if ask(expression) else 1)
    case ["show", expression]:
        print(*ask(expression), sep="\n")
    case ["board", file, *titles]:
        board(file, *titles)
