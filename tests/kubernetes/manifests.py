#!/usr/bin/env python3
"""Looks at rendered manifests.

    manifests.py judge FILE            fails, in words, at what Kubernetes' schemas let pass and the gateway, or its users, would not
    manifests.py container FILE NAME KEY=VALUE...
                                       arguments and variables of a container of the StatefulSet, as shell arrays ARGUMENTS and VARIABLES;
                                       KEY=VALUE are the variables that come from Secrets and from the pod
"""

import re
import shlex
import sys

import yaml


def documents(path):
    with open(path) as file:
        return [document for document in yaml.safe_load_all(file) if document]


def of_kind(found, kind):
    return [document for document in found if document["kind"] == kind]


def judge_container(container):
    name, security = container["name"], container.get("securityContext", {})
    if not security.get("readOnlyRootFilesystem"):
        yield f"{name}: its root can be written"
    if security.get("allowPrivilegeEscalation") is not False:
        yield f"{name}: it may get privileges"
    if security.get("capabilities", {}).get("drop") != ["ALL"]:
        yield f"{name}: it keeps capabilities"
    if "memory" not in container.get("resources", {}).get("limits", {}):
        yield f"{name}: its memory has no limit"
    for mount in container.get("volumeMounts", []):
        if "subPath" in mount:
            yield f"{name}: {mount['mountPath']} would not follow changes"
    for variable in container.get("env", []):
        if variable["name"] in ("CAUSEWAY_ADMIN", "CAUSEWAY_ADMIN_TOKEN_FILE"):
            yield f"{name}: commands in the container would take {variable['name']} for theirs"


def judge_pod(pod, config_maps):
    if not pod["securityContext"].get("runAsNonRoot") or not pod["securityContext"].get("fsGroup"):
        yield "the pod may be root's, or its group cannot read Secrets"
    if pod.get("enableServiceLinks") is not False or pod.get("automountServiceAccountToken") is not False:
        yield "the pod gets variables of Services, or a token"
    for container in pod.get("initContainers", []) + pod["containers"]:
        yield from judge_container(container)
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    for volume in volumes.values():
        if volume.get("configMap", {"name": None})["name"] not in config_maps | {None}:
            yield f"the ConfigMap of {volume['name']} is not there"
        if volume.get("secret", {"defaultMode": 0o440}).get("defaultMode") != 0o440:
            yield f"the Secret of {volume['name']} is open"


def judge_services(services, pod):
    ports = {(port["name"], port.get("protocol", "TCP")) for container in pod["containers"] for port in container["ports"]}
    for service in services:
        for port in service["spec"]["ports"]:
            if (port["targetPort"], port.get("protocol", "TCP")) not in ports:
                yield f"the pod has no port for {service['metadata']['name']} {port['name']}"


def judge(path):
    found = documents(path)
    config_maps = {document["metadata"]["name"] for document in of_kind(found, "ConfigMap")}
    for document in of_kind(found, "StatefulSet"):
        pod = document["spec"]["template"]["spec"]
        yield from judge_pod(pod, config_maps)
        yield from judge_services(of_kind(found, "Service"), pod)


def container(path, name, given):
    (found,) = of_kind(documents(path), "StatefulSet")
    pod = found["spec"]["template"]["spec"]
    (found,) = (it for it in pod.get("initContainers", []) + pod["containers"] if it["name"] == name)
    variables = {it["name"]: given.get(it["name"], it.get("value")) for it in found["env"]}
    variables = {name: value for name, value in variables.items() if value is not None}

    def expand(text):
        # A name that is not known stays as it is, as in Kubernetes.
        return re.sub(r"\$\(([A-Z_]+)\)", lambda match: variables.get(match[1], match[0]), text)

    print(f"ARGUMENTS=({shlex.join(expand(argument) for argument in found['args'])})")
    print(f"VARIABLES=({shlex.join(f'{key}={value}' for key, value in variables.items())})")


command, file, *rest = sys.argv[1:]
if command == "container":
    container(file, rest[0], dict(pair.split("=", 1) for pair in rest[1:]))
else:
    wrong = list(judge(file))
    print(*wrong, sep="\n", end="\n" if wrong else "")
    sys.exit(1 if wrong else 0)
