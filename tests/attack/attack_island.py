"""The cases that connect to addresses, in a network that has these addresses and nothing else.

Run by its test as a program of its own, in a network namespace without any way out: only there may a job see the
network of its worker. Prints, for each case, what is wrong with it in the whole box and in one without a network
namespace of its own, and the promises that the self-test finds broken in each.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import socket
import struct
from contextlib import ExitStack

import pytest
from attack_backends import BUBBLEWRAP
from attack_corpus import BY_NAME
from attack_weakened import without

from stages.execute.sandbox.bubblewrap import BubblewrapSandbox

NAMES = ("net_tcp", "net_udp_dns", "net_ipv6")
ADDRESSES = ("192.0.2.1", "192.0.2.53", "169.254.169.254")
ADDRESS_6 = "2001:db8::1"
_SET_FLAGS, _SET_ADDRESS, _UP = 0x8914, 0x8916, 1


def bring_up() -> None:
    """Give the loopback interface every address. OSError if we may not, RuntimeError if this is no island."""
    if [name for _, name in socket.if_nameindex()] != ["lo"]:
        raise RuntimeError("this machine's own network is not to be touched: run it in `unshare --net`")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, _SET_FLAGS, struct.pack("16sh22x", b"lo", _UP))
        for number, address in enumerate(ADDRESSES):
            name, packed = f"lo:{number}".encode(), socket.inet_aton(address)
            fcntl.ioctl(control, _SET_ADDRESS, struct.pack("16sHH4s16x", name, socket.AF_INET, 0, packed))
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sIi", socket.inet_pton(socket.AF_INET6, ADDRESS_6), 128, socket.if_nametoindex("lo"))
        fcntl.ioctl(control, _SET_ADDRESS, ctypes.create_string_buffer(request))


def failed_promises(sandbox: BubblewrapSandbox) -> list[str]:
    return [test.name for test in sandbox.self_test() if not test.passed]


def main() -> None:
    bring_up()
    whole = BUBBLEWRAP.open()
    assert isinstance(whole, BubblewrapSandbox)
    with ExitStack() as stack:
        stack.enter_context(socket.create_server(("0.0.0.0", 80)))
        stack.enter_context(socket.create_server((ADDRESS_6, 80), family=socket.AF_INET6))
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        held, passed = {name: BY_NAME[name].broken(whole) for name in NAMES}, failed_promises(whole)
        weak = without("--unshare-net")(patch, whole)
        found: dict[str, object] = {name: [held[name], BY_NAME[name].broken(weak)] for name in NAMES}
        found["(self-test)"] = [passed, failed_promises(weak)]
        print(json.dumps(found))


if __name__ == "__main__":
    main()
