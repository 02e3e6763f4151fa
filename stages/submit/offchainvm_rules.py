"""Which OffchainVM requests the operator wants to have served."""

from __future__ import annotations

from dataclasses import dataclass

from millrace.errors import Declined, DeclineReason
from millrace.settings import NearSettings
from protocols.near.contract import ExecutionRequest


@dataclass(frozen=True)
class Rules:
    """`senders` empty: everybody's; the others are the most that a request may ask for."""

    senders: frozenset[str]
    most_instructions: int
    most_memory_mb: int
    most_seconds: int
    balance_floor_yocto: int

    @classmethod
    def of(cls, near: NearSettings) -> Rules:
        """The rules that the settings name."""
        return cls(
            frozenset(near.senders),
            near.most_instructions,
            near.most_memory_mb,
            near.most_seconds,
            near.balance_floor_yocto,
        )

    def ensure_wanted(self, request: ExecutionRequest, *, handed_out: bool = False) -> None:
        """Return if the request may be served; Declined with the rule if not.

        `handed_out` by a coordinator, it may be one that is compiled and not executed.
        """
        if self.senders and request.sender_id not in self.senders:
            raise Declined(
                f"requests of {request.sender_id} are not served here",
                reason=DeclineReason.not_allowed,
                hint="MILLRACE_NEAR__SENDERS names whose are",
            )
        if request.secrets_ref is not None:
            raise Declined(
                "the request needs secrets, which only a keystore of the network's own has",
                reason=DeclineReason.unsupported,
                hint="nothing to do",
            )
        if request.compile_only and not handed_out:
            raise Declined(
                "the request is to be compiled and not executed: that is for a coordinator's compilers",
                reason=DeclineReason.unsupported,
                hint="nothing to do",
            )
        limits = request.resource_limits
        asked = {
            "instructions": (limits.max_instructions, self.most_instructions, "MOST_INSTRUCTIONS"),
            "MiB of memory": (limits.max_memory_mb, self.most_memory_mb, "MOST_MEMORY_MB"),
            "seconds": (limits.max_execution_seconds, self.most_seconds, "MOST_SECONDS"),
        }
        for what, (wanted, most, setting) in asked.items():
            if not 1 <= wanted <= most:
                raise Declined(
                    f"the request asks for {wanted} {what}; between 1 and {most} are given here",
                    reason=DeclineReason.too_big,
                    hint=f"MILLRACE_NEAR__{setting} is the most",
                )
