"""Stand-ins for the IPFS services that a worker talks to, over their real wire protocols."""

from localnet.ipfs.faults import Faults
from localnet.ipfs.network import IpfsLocalnet

__all__ = ["Faults", "IpfsLocalnet"]
