"""One list of system calls, told to bubblewrap and to Docker."""

from __future__ import annotations

import errno
import json

from stages.execute.sandbox.seccomp import ALLOWED, NEW_NAMESPACES, RULES, SOCKET_FAMILIES, docker_profile


def entries(name: str, **how: bool) -> list[dict[str, object]]:
    return [entry for entry in json.loads(docker_profile(**how))["syscalls"] if name in entry["names"]]


def test_docker_gets_the_same_list_and_refuses_the_rest() -> None:
    profile = json.loads(docker_profile())
    assert (profile["defaultAction"], profile["defaultErrnoRet"]) == ("SCMP_ACT_ERRNO", errno.EPERM)
    assert len(profile["syscalls"]) == len(RULES)
    assert profile["syscalls"][0] == {"names": list(ALLOWED), "action": "SCMP_ACT_ALLOW"}


def test_sockets_are_allowed_by_family_and_clone_without_namespaces() -> None:
    families = [entry["args"] for entry in entries("socket")]
    assert families == [
        [{"index": 0, "value": family, "valueTwo": 0, "op": "SCMP_CMP_EQ"}] for family in SOCKET_FAMILIES
    ]
    (clone,) = entries("clone")
    assert clone["args"] == [{"index": 0, "value": NEW_NAMESPACES, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]


def test_a_runtime_that_knows_one_error_only_gets_permissions_instead_of_the_others() -> None:
    assert entries("clone3") == [{"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": errno.ENOSYS}]
    assert entries("clone3", own_errors=False) == [{"names": ["clone3"], "action": "SCMP_ACT_ALLOW"}]


def test_calls_that_reach_past_the_namespaces_are_on_no_list() -> None:
    named = {name for rule in RULES for name in rule.names}
    assert not named & {"ptrace", "io_uring_setup", "bpf", "keyctl", "unshare", "setns", "mount", "perf_event_open"}
