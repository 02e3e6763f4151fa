"""What a job may use, and what it did use."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

MIB = 1024 * 1024


class Limits(BaseModel):
    """Upper bounds for one execution; each is enforced by the kernel or the engine."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    wall_seconds: float = Field(default=60.0, gt=0, description="Wall-clock time before the job is killed")
    cpus: float = Field(default=1.0, gt=0, description="CPU bandwidth, in cores")
    memory_bytes: int = Field(default=512 * MIB, gt=0, description="Memory of all the job's processes together")
    processes: int = Field(default=64, gt=0, description="Processes and threads alive at once")
    open_files: int = Field(default=128, gt=0, description="File descriptors of one process")
    scratch_bytes: int = Field(default=64 * MIB, gt=0, description="Size of the private /tmp, also of its largest file")
    output_bytes: int = Field(default=MIB, gt=0, description="Bytes kept of stdout and of stderr, each")


class Usage(BaseModel):
    """What one execution used. A field is None where the machine could not measure it."""

    model_config = ConfigDict(frozen=True)

    wall_seconds: float = 0.0
    cpu_seconds: float | None = None
    peak_memory_bytes: int | None = None
    stdout_bytes: int = 0
    stderr_bytes: int = 0
