"""The machine of the soak: server, workers, and the fronts of the nodes, each a process that can be killed."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import psutil

from deployments.processes import Processes
from deployments.stack import POOLS, launch_server, start_worker
from flows.lease import Holder, holder_of

_JOBS_AT_ONCE = 3
SERVER = "prefect-server"


class Machine:
    """Everything but the chains.

    Arguments: `environment` is the workers', `server_environment` the Prefect server's; `fronts` has, by the name of
    the network, the ports of its node and of the stand-in behind it.
    """

    def __init__(
        self,
        processes: Processes,
        data_dir: Path,
        environment: Mapping[str, str],
        server_environment: Mapping[str, str],
        fronts: Mapping[str, tuple[int, int]],
    ) -> None:
        self.processes = processes
        self.data_dir = data_dir
        self.fronts = dict(fronts)
        self.ended_by_themselves: Counter[str] = Counter()
        """How often each has ended that was not killed; nobody wants that."""
        self._environment = dict(environment)
        self._server_environment = dict(server_environment)
        self.killed: set[int] = set()
        """The processes of flow runs that were killed: a worker that starts is one, for it reconciles."""
        self._pids: dict[str, int] = {}
        self._due: dict[str, float] = {}
        """When what was killed is to be started again, by name, on the monotonic clock."""

    @property
    def port(self) -> int:
        """The Prefect server's."""
        return int(self._environment["PREFECT_API_URL"].rpartition(":")[2].partition("/")[0])

    @property
    def workers(self) -> list[str]:
        """The names of the workers' processes."""
        return ["worker" if pool == "cpu" else f"worker-{pool}" for pool in POOLS]

    def start(self, name: str) -> None:
        """Start the server, a worker, or the front of a network's node; waits for nothing."""
        if name == SERVER:
            launch_server(self.processes, self._server_environment, self.port)
        elif name in self.fronts:
            port, behind = self.fronts[name]
            command = [sys.executable, "-m", "localnet.front", "--port", str(port), "--to", str(behind)]
            self.processes.start(name, command, self._environment)
        else:
            pool = name.partition("-")[2] or "cpu"
            start_worker(self.processes, self._environment, _JOBS_AT_ONCE, pool)
        self._pids[name] = self.processes.process(name).pid

    def age_seconds(self, name: str) -> float:
        """For how long its process has been running; 0 if it does not."""
        try:
            process = self.processes.process(name)
            return 0.0 if process.status() == psutil.STATUS_ZOMBIE else time.time() - process.create_time()
        except (KeyError, psutil.NoSuchProcess):
            return 0.0

    def kill(self, name: str, *, family: bool, back_after_seconds: float) -> None:
        """SIGKILL, also for all below it if its `family` is to go; it is started again after so long."""
        first = self.processes.process(name)
        below = first.children(recursive=True) if family else []
        for process in [first, *below]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.processes.stop(name)
        self._due[name] = time.monotonic() + back_after_seconds

    def tend(self) -> None:
        """Start again what is due, and what has ended by itself, as an operator's supervisor does."""
        for name in [SERVER, *self.workers, *self.fronts]:
            if self._due.get(name, 0.0) > time.monotonic():
                continue
            if self.processes.has_ended(name):
                if name not in self._due:
                    self.ended_by_themselves[name] += self._pids.get(name) not in self.killed
                    self.processes.stop(name)
                self._due.pop(name, None)
                self.start(name)
            else:
                self._due.pop(name, None)

    def flow_processes(self) -> list[psutil.Process]:
        """The living processes of flow runs, by their leases, oldest first: jobs, watches and reconciliations."""
        found = []
        for path in sorted((self.data_dir / "leases").glob("*.lease")):
            if holder_of(path.parent, path.stem) is Holder.alive:
                with contextlib.suppress(OSError, ValueError, KeyError, TypeError, psutil.NoSuchProcess):
                    process = psutil.Process(json.loads(path.read_text())["pid"])
                    if str(self.data_dir) in process.environ().get("MILLRACE_DATA_DIR", ""):
                        found.append(process)
        return sorted(found, key=lambda process: (process.create_time(), process.pid))
