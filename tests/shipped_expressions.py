"""Every expression of the alert rules and the dashboards that the package has."""

import json
import re

from ruamel.yaml import YAML

from ai_how.dashboard.metrics_files import DASHBOARDS, RULES

_CONDITION = re.compile(r"\s(?:==|!=|<=|>=|<|>)\s+[0-9.e+]+(?![\w(])")
_SEVERITY = re.compile(r"\{severity=\"\w+\"\}")
_ABSENT = re.compile(r"absent\(([^()]*)\)")


def read_rules() -> list[dict]:
    rules = YAML(typ="safe").load(RULES.read_text())
    return [rule for group in rules["groups"] for rule in group["rules"]]


def read_dashboards() -> list[dict]:
    return [json.loads(one.read_text()) for one in DASHBOARDS]


def without_conditions(expression: str) -> str:
    """What an alert compares: it has a value also when nothing is wrong.

    Findings, of which there may be none, are taken of any severity.
    """
    return _SEVERITY.sub("", _ABSENT.sub(r"\1", _CONDITION.sub("", expression)))


def of_rules() -> dict[str, str]:
    return {rule["alert"]: rule["expr"] for rule in read_rules()}


def of_dashboards(*, cluster: str, interval: str = "1m") -> dict[str, str]:
    """By dashboard, panel and letter; of variables with several values, all are chosen."""
    values = {
        "$cluster": cluster,
        "$node": ".+",
        "$partition": ".+",
        "$__rate_interval": interval,
    }
    found = {}
    for board in read_dashboards():
        for panel in board["panels"]:
            for target in panel.get("targets", ()):
                expression = target["expr"]
                for name, value in values.items():
                    expression = expression.replace(name, value)
                found[f"{board['uid']}: {panel['title']} {target['refId']}"] = expression
    return found


def variables() -> list[tuple[str, str]]:
    """The selector and the label of each variable that is asked of Prometheus."""
    asked = [
        one["query"]["query"]
        for board in read_dashboards()
        for one in board["templating"]["list"]
        if one["type"] == "query"
    ]
    return [re.fullmatch(r"label_values\((.+), (\w+)\)", one).groups() for one in asked]
