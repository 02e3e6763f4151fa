"""Git as a child that knows nothing of this machine: no configuration but ours, no credentials, no hooks, no prompt."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from millrace.errors import Declined, DeclineReason, JobFault, MillraceError, Transient
from stages.fetch.repository.limits import GitLimits, GitRules

_OLDEST = (2, 37)  # the first that can be told which IP address to use
_OUTPUT_BYTES = 4 * 1024 * 1024
_QUOTED = 200
_MOST_CPU_SECONDS = 600
# With the signal ignored, a write beyond the limit fails with a message.
_LIMITED = 'trap "" XFSZ; ulimit -c 0; ulimit -t "$1"; ulimit -f "$2"; ulimit -v "$3" 2>/dev/null; shift 3; exec "$@"'

_CONFIG = """\
[core]
\trepositoryformatversion = 0
\tbare = true
\thooksPath = /dev/null
\tattributesFile = /dev/null
\taskPass =
\tfsmonitor = false
\tbigFileThreshold = 1m
[credential]
\thelper =
[transfer]
\tfsckObjects = true
\tunpackLimit = 1
\tbundleURI = false
\tadvertiseSID = false
[fetch]
\tfsckObjects = true
\tunpackLimit = 1
\turiProtocols =
\trecurseSubmodules = false
\twriteCommitGraph = false
[submodule]
\trecurse = false
[gc]
\tauto = 0
[maintenance]
\tauto = false
[pack]
\tthreads = 1
[protocol]
\tallow = never
\tversion = 2
[protocol "{scheme}"]
\tallow = always
[http]
\tfollowRedirects = false
\tsslVerify = true
\tproxy =
\temptyAuth = false
\tdelegation = none
\tlowSpeedLimit = 1
\tlowSpeedTime = 30
\tcurloptResolve = {pinned}
{ca_file}[remote "origin"]
\turl = {url}
"""


class Git:
    """One bare repository in `folder`, which is made, and the ways to run Git on it.

    Arguments: `url` and `pinned` are checked already (see `address`).
    """

    def __init__(self, folder: Path, url: str, pinned: str, rules: GitRules, limits: GitLimits) -> None:
        self.folder = folder
        self._limits = limits
        self._url = url
        self._scheme = url.partition(":")[0]
        found = shutil.which("git")
        if found is None:
            raise Declined("Git is not installed", reason=DeclineReason.unsupported, hint="apt-get install git")
        self._program = found
        for part in ("objects", "refs", "home"):
            (folder / part).mkdir(parents=True)
        (folder / "HEAD").write_text("ref: refs/heads/none\n")
        ca_file = f'\tsslCAInfo = "{rules.ca_file}"\n' if rules.ca_file else ""
        config = _CONFIG.format(scheme=self._scheme, pinned=pinned, url=url, ca_file=ca_file)
        (folder / "config").write_text(config)

    async def check_version(self) -> None:
        """Raise Declined (unsupported) if this Git is too old to be told which address to use."""
        said = (await self.run("version")).decode("utf-8", "replace")
        found = re.search(r"(\d+)\.(\d+)", said)
        if found is None or (int(found[1]), int(found[2])) < _OLDEST:
            needed = ".".join(map(str, _OLDEST))
            raise Declined(f"{said.strip()!r} is too old", reason=DeclineReason.unsupported, hint=f"install {needed}")

    async def run(self, *arguments: str) -> bytes:
        """What Git prints. Raises what its failure means: see `failure`; Declined (too_big) if it prints too much."""
        async with self.started(*arguments) as process:
            assert process.stdin
            assert process.stdout
            assert process.stderr
            process.stdin.close()
            output, errors, _ = await asyncio.gather(_read(process.stdout), _read(process.stderr), process.wait())
        if process.returncode:
            # The address is a stranger's word: it takes no part in telling failures apart.
            raise failure(process.returncode, errors.decode("utf-8", "replace").replace(self._url, "the address"))
        return output

    @asynccontextmanager
    async def started(self, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
        """Git with pipes to it; it and whatever it started are dead at the end of the block, however that comes."""
        bounds = (
            str(_MOST_CPU_SECONDS),
            str(self._limits.received_bytes // 512 + 1),
            str(self._limits.memory_bytes // 1024),
        )
        process = await asyncio.create_subprocess_exec(
            *("/bin/sh", "-c", _LIMITED, "sh", *bounds, self._program, *arguments),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=self.folder,
            env=self._environment(),
            umask=0o077,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            # Also when the leader has ended: what it started is in its group.
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            await asyncio.shield(process.wait())
            # Else the loop closes the pipes when it is collected, and that may be after it was closed.
            process._transport.close()  # type: ignore[attr-defined]

    def pack_bytes(self) -> int:
        """The bytes of the packs that came."""
        return sum(pack.stat().st_size for pack in self.folder.glob("objects/pack/*.pack"))

    def _environment(self) -> dict[str, str]:
        """Nothing of the worker's own."""
        return {
            "PATH": f"{Path(self._program).parent}:/usr/bin:/bin",
            "HOME": str(self.folder / "home"),  # empty: no .netrc, no .gitconfig
            "XDG_CONFIG_HOME": str(self.folder / "home"),
            "LC_ALL": "C",
            "GIT_DIR": str(self.folder),
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_SYSTEM": "/dev/null",
            "GIT_CONFIG_GLOBAL": "/dev/null",
            "GIT_ATTR_NOSYSTEM": "1",
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_ALLOW_PROTOCOL": self._scheme,
            "GIT_PROTOCOL_FROM_USER": "0",
            "GIT_NO_LAZY_FETCH": "1",
            "GIT_NO_REPLACE_OBJECTS": "1",
        }


async def _read(stream: asyncio.StreamReader) -> bytes:
    kept = bytearray()
    while chunk := await stream.read(65_536):
        kept += chunk
        if len(kept) > _OUTPUT_BYTES:
            raise Declined(
                "the host of the repository has too much to say",
                reason=DeclineReason.too_big,
                hint="a repository with this many branches and tags is not fetched",
            )
    return bytes(kept)


def failure(code: int, errors: str) -> MillraceError:
    """What Git's exit `code` and what it wrote mean to whoever asked for the repository."""
    # `remote:` begins what the other side wishes to have shown.
    lines = [line for line in errors.splitlines() if line.strip() and not line.startswith("remote:")]
    text = "\n".join(lines)
    said = (next((line for line in lines if line.startswith(("fatal:", "error:"))), "") or f"exit {code}")[:_QUOTED]

    def has(pattern: str) -> bool:
        return re.search(pattern, text) is not None

    if has(r"File too large"):
        return too_big("the host sends more than the limit on received bytes")
    if has(r"[Oo]ut of memory|malloc|mmap failed|signal 24"):
        return too_big("the repository needs more memory or computing than a fetch may use")
    if has(r"returned error: 3\d\d|via redirect"):
        return Declined(
            "the host redirects to another address",
            reason=DeclineReason.not_allowed,
            hint="redirects are not followed: name the repository by its present address",
        )
    if has(r"returned error: (429|5\d\d|408)"):
        return Transient(f"the host does not answer now: {said}", hint="tried again later")
    if has(r"not our ref|couldn't find remote ref|Server does not allow request for unadvertised object"):
        return JobFault("the host does not have this commit", hint="was it pushed, and to this repository?")
    if has(r"could not read Username|Authentication failed|returned error: 4\d\d|repository '.*' not found"):
        return JobFault(f"no public repository is there: {said}", hint="only public repositories are fetched")
    if has(r"fsck|^error: object [0-9a-f]{40}: |index-pack.*corrupt|unknown object type|inflate|pack is corrupted"):
        return JobFault(f"the repository is badly formed: {said}", hint="`git fsck --strict` says what is wrong")
    return Transient(f"the repository could not be fetched: {said}", hint="tried again later")


def too_big(what: str) -> Declined:
    """A repository beyond a limit."""
    return Declined(what, reason=DeclineReason.too_big, hint="the limits are settings; see GitLimits")
