"""examples/kubernetes: valid by the API's own schemas, and true to the server's options, routes and times."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

FOLDER = Path(__file__).parents[2] / "examples" / "kubernetes"
FILES = sorted(FOLDER.glob("*.yaml"))
RESOURCES: dict[str, dict[str, Any]] = {
    resource["kind"]: resource for path in FILES for resource in yaml.safe_load_all(path.read_text(encoding="utf-8"))
}
#: the oldest that still has fixes, and the newest known
VERSIONS = ("1.34", kubernetes_validate.latest_version())


@pytest.fixture(scope="module")
def pod() -> dict[str, Any]:
    return dict(RESOURCES["Deployment"]["spec"]["template"]["spec"])


@pytest.fixture(scope="module")
def container(pod: dict[str, Any]) -> dict[str, Any]:
    (container,) = pod["containers"]
    return dict(container)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("kind", RESOURCES)
def test_the_api_takes_it(kind: str, version: str) -> None:
    kubernetes_validate.validate(RESOURCES[kind], version, strict=True)


def test_the_schemas_refuse_something() -> None:
    wrong = {**RESOURCES["Service"], "spec": {**RESOURCES["Service"]["spec"], "port": 80}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSIONS[-1], strict=True)


def test_its_options_are_the_servers(
    container: dict[str, Any], pod: dict[str, Any], check_arguments: Callable[..., dict[str, Any]]
) -> None:
    given = check_arguments(container["args"])
    mounts = {mount["mountPath"] for mount in container["volumeMounts"] if mount["readOnly"]}
    assert str(Path(given["api_keys"]).parent) in mounts and "/bundle" in mounts
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}


def test_a_pod_has_time_to_drain(
    container: dict[str, Any], pod: dict[str, Any], check_arguments: Callable[..., dict[str, Any]]
) -> None:
    drain_s = float(check_arguments(container["args"])["drain_timeout"])
    pre_stop_s = float(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["terminationGracePeriodSeconds"] >= pre_stop_s + drain_s + 5


@pytest.mark.parametrize("probe", ["startupProbe", "readinessProbe", "livenessProbe"])
def test_probes_ask_for_what_is_there(container: dict[str, Any], served_paths: set[str], probe: str) -> None:
    asked = container[probe]["httpGet"]
    assert asked["path"] in served_paths and asked["port"] in {port["name"] for port in container["ports"]}


def test_ready_and_alive_are_two_questions(container: dict[str, Any]) -> None:
    assert container["readinessProbe"]["httpGet"]["path"] == "/ready"
    assert container["livenessProbe"]["httpGet"]["path"] == container["startupProbe"]["httpGet"]["path"] == "/health"


def test_the_pod_may_do_nothing_but_serve(container: dict[str, Any], pod: dict[str, Any]) -> None:
    assert pod["securityContext"]["runAsNonRoot"] and not pod["automountServiceAccountToken"]
    own = container["securityContext"]
    assert own["readOnlyRootFilesystem"] and not own["allowPrivilegeEscalation"] and own["capabilities"]["drop"] == ["ALL"]
    assert (
        container["resources"]["requests"] == container["resources"]["limits"]
        and container["resources"]["limits"]["cpu"].isdigit()
    )


def test_everything_is_about_the_same_pods(pod: dict[str, Any], container: dict[str, Any]) -> None:
    labels = RESOURCES["Deployment"]["spec"]["template"]["metadata"]["labels"]
    for kind, selector in (
        ("Deployment", RESOURCES["Deployment"]["spec"]["selector"]["matchLabels"]),
        ("Service", RESOURCES["Service"]["spec"]["selector"]),
        ("PodDisruptionBudget", RESOURCES["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"]),
    ):
        assert selector == labels, kind
    assert RESOURCES["PodDisruptionBudget"]["spec"]["minAvailable"] < RESOURCES["Deployment"]["spec"]["replicas"]
    assert RESOURCES["Service"]["spec"]["ports"][0]["targetPort"] in {port["name"] for port in container["ports"]}
    (user,) = {pod["securityContext"]["runAsUser"], pod["securityContext"]["fsGroup"]}
    assert f"USER {user}:" in (FOLDER.parent / "container" / "Dockerfile").read_text(encoding="utf-8")
