"""Cheap TLS contexts where no TLS is spoken.

Each flow run makes eight HTTP clients of Prefect's, each with a TLS context that reads every certificate authority
there is: a tenth of a second of CPU time, a third of what the flow run costs, for nothing if the server's address
begins with `http://`. Prefect reads the authorities from the file that a setting names, and ours holds one: of nobody,
for the certificate has ended and its key was never stored. Should something speak TLS after all, it fails.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

AUTHORITIES = "PREFECT_API_SSL_CERT_FILE"
_ADDRESS = "PREFECT_API_URL"
_NOBODY = Path(__file__).with_name("nobody.pem")


def authorities(address: str, environment: Mapping[str, str]) -> dict[str, str]:
    """What to add to `environment` for processes that speak with the Prefect server at `address`."""
    if not _is_plain(address) or environment.get(AUTHORITIES):
        return {}
    return {AUTHORITIES: str(_NOBODY)}


def without_ours(environment: Mapping[str, str | None]) -> dict[str, str | None]:
    """`environment`, without our file if it names a server that is spoken to in TLS."""
    ours = environment.get(AUTHORITIES) == str(_NOBODY) and not _is_plain(environment.get(_ADDRESS) or "")
    return {name: value for name, value in environment.items() if not (ours and name == AUTHORITIES)}


def _is_plain(address: str) -> bool:
    return address.lower().startswith("http://")
