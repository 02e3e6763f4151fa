"""Why crates could not be fetched, told from how the container ended, what cargo said and what the proxy refused."""

from __future__ import annotations

import re
from itertools import pairwise

from millrace.errors import Declined, DeclineReason, MillraceError, Transient
from millrace.text import printable
from stages.compile.container import Ended, Ending
from stages.compile.dependencies.rules import VendorLimits
from stages.compile.docker import plain_log
from stages.compile.toml import RepositoryFault

_QUOTED = 300
_WAY = 70
"""The exit code of the container's script for a fault of ours."""

_NETWORK = re.compile(
    r"spurious network error|failed to get successful HTTP response .*got (?:429|5\d\d)"
    r"|\[\d{1,2}\] [A-Z]"  # libcurl's own errors, by number
)
_LOCK = re.compile(
    r"lock file .* needs to be updated but --locked was passed|lock file version"
    r"|checksum for `[^`]+` (?:was not|changed)"
)
_CHECKSUM = re.compile(r"failed to verify the checksum of `([^`\n]+)`")


def judge(ended: Ended, refused: list[str], limits: VendorLimits) -> None:
    """Return if the container did what it was for. Raises what `vendor` raises."""
    if ended.ending is not Ending.ok:
        raise _error(ended, plain_log(ended.log), refused, limits)


def _error(ended: Ended, log: str, refused: list[str], limits: VendorLimits) -> MillraceError:
    if ended.ending is Ending.oom:
        return _too_big(f"the crates need more than {limits.memory_bytes} bytes of memory to be fetched")
    if ended.ending is Ending.output_limit:
        return _too_big(f"the {ended.too_long} of the container that fetches crates is longer than the limit")
    if over := next((note for note in refused if note.startswith("more than")), None):
        return _too_big(f"the crates could not be fetched: {over}")
    if ended.ending is Ending.timeout:
        return Transient(
            f"the crates did not come within {limits.wall_seconds:g} s", hint="a slow registry, or very many crates"
        )
    if ended.ending is Ending.killed or ended.exit_code == _WAY:
        return Transient("the container that fetches crates broke down", hint="its log says more")
    return _said(log, refused)


def _said(log: str, refused: list[str]) -> MillraceError:
    """By cargo, which ended with an exit code of its own."""
    if "No space left on device" in log:
        return _too_big("the crates need more scratch space than there is")
    if found := _CHECKSUM.search(log):
        return RepositoryFault(
            f"the crate {printable(found[1], 100)} is not what the lock or the index says: its checksum is another",
            hint="a lock that was tampered with, or a broken registry",
            log=log,
        )
    if _LOCK.search(log):
        return RepositoryFault(
            "Cargo.lock does not fit Cargo.toml", hint="`cargo update --workspace` writes it anew: commit that", log=log
        )
    if elsewhere := next((note for note in refused if "not a host" in note or "not a public" in note), None):
        return Declined(
            f"a dependency could not be fetched: {elsewhere}",
            reason=DeclineReason.not_allowed,
            hint="only crates of the registry are fetched; see RegistryRules",
        )
    if _NETWORK.search(log):
        return Transient(f"the registry does not answer as it should: {_why(log)}", hint="tried again later")
    return RepositoryFault(f"cargo finds no way to get the dependencies: {_why(log)}", log=log)


def _why(log: str) -> str:
    """What cargo gives as the reason: the innermost of the causes, or else its error."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error")]
    causes = [cause for word, cause in pairwise(lines) if word == "Caused by:"]
    return printable((causes or errors or lines or ["it says nothing"])[-1], _QUOTED)


def _too_big(what: str) -> Declined:
    return Declined(what, reason=DeclineReason.too_big, hint="the limits are settings; see VendorLimits")
