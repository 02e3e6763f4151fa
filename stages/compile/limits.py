"""What one container of the builder image may use."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from millrace.limits import MIB, Limits


class BuildLimits(BaseModel):
    """Upper bounds; each is enforced by the kernel, or by the worker that reads what the container writes."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    wall_seconds: float = Field(default=300.0, gt=0, description="Wall-clock time before the build is killed")
    memory_bytes: int = Field(
        default=2048 * MIB, gt=0, description="Memory of all its processes together, and of the files they write"
    )
    cpus: float = Field(default=2.0, gt=0, description="CPU bandwidth, in cores")
    processes: int = Field(default=256, gt=0, description="Processes and threads alive at once")
    open_files: int = Field(default=1024, gt=0, description="File descriptors of one process")
    scratch_bytes: int = Field(
        default=1024 * MIB, gt=0, description="Sources, dependencies and all that is built from them; in memory"
    )
    artifact_bytes: int = Field(default=8 * MIB, gt=0, description="Largest module that is taken")
    log_bytes: int = Field(default=MIB, gt=0, description="Longest log; a build that writes more is killed")

    def of_container(self) -> Limits:
        """The part of them that every container of ours has."""
        return Limits(
            wall_seconds=self.wall_seconds,
            cpus=self.cpus,
            memory_bytes=self.memory_bytes,
            processes=self.processes,
            open_files=self.open_files,
            scratch_bytes=self.scratch_bytes,
            output_bytes=self.log_bytes,
        )
