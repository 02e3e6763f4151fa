"""A job: what a network wants computed, found on that network's chain."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, computed_field

from millrace.errors import Permanent


class Job(BaseModel):
    """One job of one network; the subclass of each network adds where its source and input are.

    `network` names the network and discriminates between the subclasses, `chain_id` tells the
    network's chains apart (mainnet, devnet, a local one), `job_id` is the chain's own name for the job.
    A job holds no secret and prints well.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    _kinds: ClassVar[dict[str, type[Job]]] = {}

    network: str
    chain_id: str
    job_id: str

    @computed_field  # type: ignore[prop-decorator]
    @property
    def key(self) -> str:
        """`<network>/<chain id>/<job id>`: the same string for every worker that sees the job."""
        return f"{self.network}/{self.chain_id}/{self.job_id}"

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        network = cls.model_fields["network"].default
        if isinstance(network, str):
            Job._kinds[network] = cls

    @classmethod
    def parse(cls, fields: dict[str, Any]) -> Job:
        """The job of the right subclass for `fields["network"]`.

        Raises Permanent if no loaded network has that name.
        """
        network = fields.get("network")
        kind = cls._kinds.get(network) if isinstance(network, str) else None
        if kind is None:
            raise Permanent(f"no network is called {network!r}", hint=f"known here: {', '.join(sorted(cls._kinds))}")
        return kind.model_validate({name: value for name, value in fields.items() if name != "key"})
