"""The filters of getProgramAccounts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from localnet.solana.accounts import StoredAccount
from localnet.solana.rpc_error import invalid
from localnet.solana.wire import bytes_of, count_of

MOST_FILTERS = 4
MOST_COMPARED_BYTES = 128

Matches = Callable[[StoredAccount], bool]


def parse_filters(filters: Any) -> Matches:
    """One test for all the filters of a request.

    Raises RpcError -32602 for more than four of them, an unknown one, or more than 128 bytes to compare.
    """
    if filters is None:
        return lambda account: True
    if not isinstance(filters, list) or not all(isinstance(each, dict) for each in filters):
        raise invalid("Invalid params: filters must be a list of objects.")
    if len(filters) > MOST_FILTERS:
        raise invalid(f"Too many filters provided; max {MOST_FILTERS}")
    tests = [_parse(each) for each in filters]
    return lambda account: all(test(account) for test in tests)


def _parse(each: dict[str, Any]) -> Matches:
    if "dataSize" in each:
        size = count_of(each["dataSize"])
        return lambda account: len(account.content) == size
    if "memcmp" in each:
        return _parse_comparison(each["memcmp"])
    raise invalid(f"Invalid params: unknown filter {', '.join(each) or 'without a name'}.")


def _parse_comparison(comparison: Any) -> Matches:
    if not isinstance(comparison, dict):
        raise invalid("Invalid params: memcmp must be an object.")
    offset = count_of(comparison.get("offset"))
    wanted: Any = comparison.get("bytes")
    encoding = comparison.get("encoding") or "base58"
    expected = bytes(wanted) if _is_byte_list(wanted) else bytes_of(wanted, encoding)
    if len(expected) > MOST_COMPARED_BYTES:
        raise invalid(f"Invalid param: memcmp bytes exceed {MOST_COMPARED_BYTES}")
    end = offset + len(expected)
    return lambda account: account.content[offset:end] == expected


def _is_byte_list(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, int) and 0 <= each < 256 for each in value)
