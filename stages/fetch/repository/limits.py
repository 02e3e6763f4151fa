"""What a repository may be, and where it may come from."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from millrace.limits import MIB


class GitLimits(BaseModel):
    """Upper bounds for one fetch: what is larger is Declined, what takes longer is Transient."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    received_bytes: int = Field(default=64 * MIB, gt=0, description="Of the pack that the host sends")
    tree_bytes: int = Field(default=128 * MIB, gt=0, description="Of all files of the tree together, unpacked")
    entries: int = Field(default=20_000, gt=0, description="Files, links and directories of the tree")
    memory_bytes: int = Field(default=1024 * MIB, gt=0, description="Address space of each of Git's processes")
    wall_seconds: float = Field(default=120.0, gt=0, description="From the first look-up of the host to the archive")


class GitRules(BaseModel):
    """Which repositories may be fetched at all."""

    model_config = ConfigDict(frozen=True)

    hosts: tuple[str, ...] = Field(default=("github.com",), description="Host names, exactly; nothing below them")
    allow_private: bool = Field(
        default=False, description="Plain http, any port and private addresses too: for a stand-in on this machine"
    )
    allow_incomplete: bool = Field(
        default=False,
        description="Leave submodules as empty directories and LFS files as their pointers, as a plain clone does, "
        "where a tree with either is declined otherwise",
    )
    ca_file: str = Field(default="", description="PEM file of the authorities to believe; empty: the system's")
