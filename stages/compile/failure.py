"""Why a repository did not become a module, for a program and for a person."""

from __future__ import annotations

from enum import StrEnum

from millrace.errors import JobFault
from millrace.text import printable
from stages.compile.container import Ended, Ending
from stages.compile.limits import BuildLimits


class FailureReason(StrEnum):
    """What the repository's own fault is."""

    no_project = "no_project"  # neither a Rust package nor C, or one of which nothing can come for this target
    compile_error = "compile_error"  # the compiler, or a build script, said no
    missing_dependency = "missing_dependency"  # it wants something that is not there, and there is no network
    no_artifact = "no_artifact"  # it was built, and no module came of it
    several_artifacts = "several_artifacts"
    not_wasm = "not_wasm"  # what came of it is no module of the target's kind
    artifact_too_large = "artifact_too_large"
    log_too_long = "log_too_long"
    out_of_memory = "out_of_memory"
    disk_full = "disk_full"
    timeout = "timeout"
    killed = "killed"  # it ended its own build by a signal


class CompileFailure(JobFault):
    """The repository could not be compiled, and will not be by trying again.

    `log` is what the build wrote, safe to print, as far as it is kept; `seconds` is how long it went on.
    """

    def __init__(
        self, message: str, *, reason: FailureReason, log: str = "", seconds: float = 0.0, hint: str = ""
    ) -> None:
        super().__init__(message, hint=hint)
        self.reason = reason
        self.log = log
        self.seconds = seconds


_UNPACK, _BUILD, _NOTHING, _SEVERAL, _UNABLE, _LARGE = range(70, 76)
"""Exit codes of build.sh."""

_NO_SPACE = "No space left on device"
_OFFLINE = (
    "--offline was specified",
    "you are in the offline mode",
    "you're using offline mode",
    "no matching package",
)
_ENDINGS = {
    Ending.timeout: FailureReason.timeout,
    Ending.oom: FailureReason.out_of_memory,
    Ending.killed: FailureReason.killed,
}
_CODES = {
    _UNPACK: FailureReason.no_project,
    _NOTHING: FailureReason.no_artifact,
    _SEVERAL: FailureReason.several_artifacts,
    _LARGE: FailureReason.artifact_too_large,
    _UNABLE: FailureReason.no_project,
}


def failure(ended: Ended, log: str, limits: BuildLimits) -> CompileFailure:
    """The failure that a container's end, which was not `ok`, means; `log` is its log, safe to print."""
    reason = _reason(ended, log)
    message, hint = _told(reason, ended, log, limits)
    return CompileFailure(message, reason=reason, log=log, seconds=ended.seconds, hint=hint)


def _reason(ended: Ended, log: str) -> FailureReason:
    if ended.ending is Ending.output_limit:
        return FailureReason.artifact_too_large if ended.too_long == "artifact" else FailureReason.log_too_long
    if ended.ending in _ENDINGS:
        return _ENDINGS[ended.ending]
    # These are the words of the build's own tools: they decide what a person reads first, and nothing else.
    if ended.exit_code in (_UNPACK, _BUILD) and _NO_SPACE in log:
        return FailureReason.disk_full
    if ended.exit_code in _CODES:
        return _CODES[ended.exit_code]
    return FailureReason.missing_dependency if any(word in log for word in _OFFLINE) else FailureReason.compile_error


def _told(reason: FailureReason, ended: Ended, log: str, limits: BuildLimits) -> tuple[str, str]:
    """What a person reads about it, and what can be done."""
    quoted = _first_error(log)
    return {
        FailureReason.timeout: (
            f"killed after {limits.wall_seconds:g} s",
            "the operator's limit on the time of a build",
        ),
        FailureReason.out_of_memory: (
            f"a process was killed: the build wanted more than {limits.memory_bytes} bytes of memory",
            "files that it writes count too",
        ),
        FailureReason.disk_full: (
            f"no room: the build wrote more than {limits.scratch_bytes} bytes",
            "sources, dependencies and all that is built from them share it",
        ),
        FailureReason.log_too_long: (f"killed for writing a log of more than {limits.log_bytes} bytes", ""),
        FailureReason.artifact_too_large: (
            f"the module is larger than {limits.artifact_bytes} bytes",
            '`opt-level = "z"` and `strip = true` in [profile.release] make it smaller',
        ),
        FailureReason.killed: (f"ended by signal {(ended.exit_code or 128) - 128}", ""),
        FailureReason.no_artifact: (
            "it was built, and no module came of it",
            '`[lib] crate-type = ["cdylib"]` in Cargo.toml makes a module of a library',
        ),
        FailureReason.missing_dependency: (
            f"something that it needs is not there: {quoted}",
            "a build has no network: dependencies come from crates.io, with a Cargo.lock",
        ),
    }.get(reason, (quoted or f"the build ended with exit code {ended.exit_code}", ""))


def _first_error(log: str) -> str:
    """What the compiler complained of first, or our own script at the end."""
    lines = log.splitlines()
    found = [line for line in lines if line.startswith(("error", "millrace: ")) or ": error: " in line]
    return printable(found[0], 300) if found else printable(lines[-1], 300) if lines else ""
