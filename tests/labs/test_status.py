"""Container states folded into a PodStatus."""

from __future__ import annotations

from typing import Any

import pytest

from podnet.lab.containers import Live, State, Terminated, Waiting
from podnet.lab.status import (
    ContainerReport,
    PodReport,
    conditions,
    container_status,
    index,
    phase,
    pod_status,
    rfc3339,
    state,
    unix,
)
from tests.labs.values import container, pod

HOST = ("192.168.77.11", "fd77::11")
NOW = 1_800_000_000.0
WAITING = Waiting("ContainerCreating")
LIVE = Live(NOW - 10)
DONE = Terminated(0, NOW - 10, NOW - 5)
BROKEN = Terminated(3, NOW - 10, NOW - 5)


def report_of(of: State, **fields: Any) -> ContainerReport:
    ready = isinstance(of, Live)
    return ContainerReport("main", "image", "podnet://x", of, **({"ready": ready, "started": ready} | fields))


def reported(*states: State, inits: tuple[State, ...] = (), **fields: Any) -> PodReport:
    done = [isinstance(each, Terminated) and each.code == 0 for each in inits]
    return PodReport(
        host_ips=HOST,
        ips=fields.pop("ips", ("10.244.1.2",)),
        since=NOW - 20,
        inits=tuple(report_of(each, ready=ready) for each, ready in zip(inits, done, strict=True)),
        mains=tuple(report_of(each) for each in states),
        **fields,
    )


# -- phase


@pytest.mark.parametrize(
    ("policy", "report", "expected"),
    [
        ("Always", reported(WAITING), "Pending"),
        ("Always", reported(LIVE), "Running"),
        ("Always", reported(LIVE, WAITING), "Pending"),
        ("Always", reported(LIVE, BROKEN), "Running"),
        ("Always", reported(DONE), "Running"),
        ("Always", reported(BROKEN), "Running"),
        ("OnFailure", reported(BROKEN), "Running"),
        ("OnFailure", reported(DONE, over=True), "Succeeded"),
        ("Never", reported(BROKEN, over=True), "Failed"),
        ("Never", reported(DONE, BROKEN, over=True), "Failed"),
        ("Never", reported(DONE, DONE, over=True), "Succeeded"),
        ("Never", reported(DONE, LIVE), "Running"),
        ("Always", reported(BROKEN, over=True), "Failed"),
        ("Always", reported(WAITING, inits=(LIVE,)), "Pending"),
        ("Always", reported(WAITING, inits=(DONE, WAITING)), "Pending"),
        ("Always", reported(LIVE, inits=(DONE,)), "Running"),
        ("Always", reported(WAITING, inits=(BROKEN,)), "Pending"),
        ("Never", reported(WAITING, inits=(BROKEN,)), "Failed"),
        ("Always", reported(WAITING, over=True), "Pending"),
    ],
)
def test_phase(policy: str, report: PodReport, expected: str) -> None:
    assert phase(pod(restartPolicy=policy), report) == expected


def test_a_container_that_waits_for_its_restart_has_begun() -> None:
    crashing = ContainerReport("main", "image", "id", Waiting("CrashLoopBackOff"), last=BROKEN, restarts=1)
    assert phase(pod(), PodReport(HOST, ("10.1.1.1",), NOW, mains=(crashing,))) == "Running"


# -- conditions


def statuses(report: PodReport, at: str) -> dict[str, str]:
    return {condition["type"]: condition["status"] for condition in conditions(report, at, NOW, {})}


@pytest.mark.parametrize(
    ("report", "at", "expected"),
    [
        (reported(WAITING, ips=()), "Pending", "False True False False"),
        (reported(WAITING), "Pending", "True True False False"),
        (reported(WAITING, inits=(LIVE,)), "Pending", "True False False False"),
        (reported(LIVE, inits=(DONE,)), "Running", "True True True True"),
        (reported(LIVE), "Running", "True True True True"),
        (reported(LIVE, BROKEN), "Running", "True True False False"),
        (reported(DONE, over=True), "Succeeded", "True True False False"),
        (reported(BROKEN, over=True), "Failed", "True True False False"),
    ],
)
def test_conditions(report: PodReport, at: str, expected: str) -> None:
    found = statuses(report, at)
    assert list(found) == ["PodReadyToStartContainers", "Initialized", "ContainersReady", "Ready"]
    assert " ".join(found.values()) == expected


@pytest.mark.parametrize(
    ("report", "at", "reason", "message"),
    [
        (reported(WAITING), "Pending", "ContainersNotReady", "containers with unready status: [main]"),
        (reported(DONE, over=True), "Succeeded", "PodCompleted", None),
        (reported(BROKEN, over=True), "Failed", "PodFailed", None),
        (reported(LIVE), "Running", None, None),
    ],
)
def test_the_reason_of_ready(report: PodReport, at: str, reason: str | None, message: str | None) -> None:
    ready = index(conditions(report, at, NOW, {}))["Ready"]
    assert (ready["reason"], ready["message"]) == (reason, message)


def test_trouble_with_the_sandbox_is_told() -> None:
    found = index(conditions(reported(WAITING, ips=(), trouble="no address left"), "Pending", NOW, {}))
    assert found["PodReadyToStartContainers"]["message"] == "no address left"


def test_incomplete_init_containers_are_named() -> None:
    found = index(conditions(reported(WAITING, inits=(LIVE,)), "Pending", NOW, {}))
    assert found["Initialized"]["message"] == "containers with incomplete status: [main]"


def test_a_transition_time_stays_until_the_status_changes() -> None:
    before = index(conditions(reported(LIVE), "Running", NOW, {}))
    same = index(conditions(reported(LIVE), "Running", NOW + 60, before))
    other = index(conditions(reported(WAITING), "Pending", NOW + 60, before))
    assert same == before
    assert other["Ready"]["lastTransitionTime"] == rfc3339(NOW + 60)
    assert other["Initialized"]["lastTransitionTime"] == rfc3339(NOW)


# -- containers


@pytest.mark.parametrize(
    ("of", "expected"),
    [
        (Waiting("CrashLoopBackOff", "wait"), {"waiting": {"reason": "CrashLoopBackOff", "message": "wait"}}),
        (Waiting("ContainerCreating"), {"waiting": {"reason": "ContainerCreating"}}),
        (Live(0.0), {"running": {"startedAt": "1970-01-01T00:00:00Z"}}),
    ],
)
def test_states(of: State, expected: dict[str, Any]) -> None:
    assert state(of, "id") == expected


@pytest.mark.parametrize(
    ("ended", "reason"),
    [
        (Terminated(0, 0.0, 1.0), "Completed"),
        (Terminated(137, 0.0, 1.0), "Error"),
        (Terminated(128, 0.0, 1.0, "exec: no such file"), "StartError"),
    ],
)
def test_terminated(ended: Terminated, reason: str) -> None:
    found = state(ended, "id")["terminated"]
    assert found["exitCode"] == ended.code
    assert found["reason"] == reason
    assert found["finishedAt"] == "1970-01-01T00:00:01Z"
    assert found.get("message", "") == ended.message


def test_a_container_status() -> None:
    found = container_status(report_of(LIVE, last=BROKEN, restarts=4))
    assert found["name"] == "main"
    assert found["restartCount"] == 4
    assert found["ready"] is True
    assert found["started"] is True
    assert found["containerID"] == "podnet://x"
    assert found["lastState"]["terminated"]["exitCode"] == 3


def test_a_container_that_never_ran_has_no_id() -> None:
    assert container_status(report_of(WAITING))["containerID"] == ""
    assert container_status(report_of(WAITING))["lastState"] == {}


# -- the whole


def test_a_pod_status() -> None:
    found = pod_status(pod(container()), reported(LIVE), NOW, {})
    assert found["phase"] == "Running"
    assert found["hostIP"] == "192.168.77.11"
    assert found["hostIPs"] == [{"ip": "192.168.77.11"}, {"ip": "fd77::11"}]
    assert found["podIP"] == "10.244.1.2"
    assert found["podIPs"] == [{"ip": "10.244.1.2"}]
    assert found["startTime"] == rfc3339(NOW - 20)
    assert "initContainerStatuses" not in found


def test_before_there_are_addresses_none_are_told() -> None:
    found = pod_status(pod(), reported(WAITING, ips=()), NOW, {})
    assert "podIP" not in found
    assert "podIPs" not in found


def test_init_containers_have_their_own_list() -> None:
    found = pod_status(pod(), reported(LIVE, inits=(DONE,)), NOW, {})
    assert [each["ready"] for each in found["initContainerStatuses"]] == [True]


@pytest.mark.parametrize("seconds", [0.0, NOW, NOW + 0.9])
def test_times_go_there_and_back(seconds: float) -> None:
    assert unix(rfc3339(seconds)) == int(seconds)


def test_unix_reads_nanoseconds_and_refuses_nonsense() -> None:
    assert unix("1970-01-01T00:00:01.500000000Z") == 1.5
    with pytest.raises(ValueError):
        unix("yesterday")
