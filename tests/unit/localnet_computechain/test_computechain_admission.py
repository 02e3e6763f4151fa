"""What the node rejects at the door, in its order and its words, and what it lets in that it should not."""

from __future__ import annotations

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256K1, EllipticCurvePublicKey
from node_client import GAS, NodeClient, hash_of, payment, result_of, signed

from localnet.computechain import ComputeChainLocalnet
from protocols.computechain.keys import ComputeKey, address_of

EVERYTHING_WRONG = {
    "tx_type": "MINT",
    "gas_price": 0,
    "gas_limit": 0,
    "fee": 0,
    "amount": 2 * 10**18,
    "nonce": -1,
    "pub_key": "",
    "signature": "",
}


def test_the_public_vector_has_its_hash_and_its_signature_is_accepted(
    net: ComputeChainLocalnet, node: NodeClient, worker: ComputeKey
) -> None:
    """Pins the preimage: any other order of its fields gives another hash."""
    assert worker.address == "cpc10xcqpzrky6eff2g52qdye53xkk9jxkvr2hadde"
    for nonce in range(3):
        node.send(signed(worker, nonce))
    vector = signed(worker, 3)
    assert vector["signature"] == (
        "14b8338d770abfaf37e174f66fabe0c9ecf87a6a7b77c0dd793731316d7ccf9e"
        "6176f854df6e4c23df0d953ff07e77b31f0fea69788791cd17227fb3611d9085"
    )
    assert node.send(vector) == "ca039cb20a84c96275856153338c2ec6eaa315cb3d6c06eac02edc5894bf480d"


def test_the_rules_are_applied_in_the_nodes_order(
    net: ComputeChainLocalnet, node: NodeClient, worker: ComputeKey, rival: ComputeKey
) -> None:
    """A transaction with every fault hears of the first one only; each repair brings up the next."""
    document = {**signed(worker), **EVERYTHING_WRONG}

    def repaired(**fields: object) -> str:
        document.update(fields)
        return node.rejected(document)

    def signed_anew(**fields: object) -> dict[str, object]:
        document.update(fields)
        document["signature"] = worker.sign(bytes.fromhex(hash_of(document)))
        return document

    assert repaired() == "gas_price 0 < min 1000"
    assert repaired(gas_price=1_000) == "unknown_tx_type"
    assert repaired(tx_type="TRANSFER") == "gas_limit 0 < base_gas 21000"
    assert repaired(tx_type="SUBMIT_RESULT") == "gas_limit 0 < base_gas 80000"
    assert repaired(gas_limit=79_999) == "gas_limit 79999 < base_gas 80000"
    assert repaired(gas_limit=GAS) == "fee 0 < needed_fee 80000000"
    net.chain.mempool.most = 0
    assert repaired(fee=GAS * 1_000) == "mempool_full"
    net.chain.mempool.most, net.chain.mempool.most_per_sender = 1, 0
    assert repaired() == "sender_limit_exceeded"
    net.chain.mempool.most_per_sender = 1
    assert repaired() == "missing_sig_or_key"
    assert repaired(pub_key=rival.public_key) == "missing_sig_or_key"
    assert repaired(signature="00" * 64) == "pub_key_mismatch"
    assert repaired(pub_key=worker.public_key) == "invalid_signature"
    assert node.rejected(signed_anew(tx_type="TRANSFER", amount=0)) == "transfer_amount_zero"
    assert node.rejected(signed_anew(amount=2 * 10**18)) == "insufficient_balance"
    assert node.rejected(signed_anew(amount=1)) == "nonce_too_low"
    node.send(signed_anew(nonce=0))


def test_a_transaction_in_the_pool_is_known_before_anything_else_is_looked_at(
    node: NodeClient, worker: ComputeKey
) -> None:
    """The signature is not in the hash: another one over the same fields is the same transaction."""
    document = signed(worker)
    node.send(document)
    assert node.rejected(document) == "already_in_pool"
    assert node.rejected({**document, "signature": ""}) == "already_in_pool"


@pytest.mark.parametrize(("network", "minimum"), [("devnet", 1_000), ("testnet", 5_000), ("mainnet", 1_000_000_000)])
def test_each_network_has_its_own_lowest_gas_price(network: str, minimum: int) -> None:
    key = ComputeKey(b"\x03" * 32)
    with ComputeChainLocalnet(network) as net, httpx.Client() as http:
        net.chain.freeze()
        node = NodeClient(net.url, http)
        net.chain.fund(key.address, 10**18)
        assert node.rejected(signed(key, gas_price=minimum - 1)) == f"gas_price {minimum - 1} < min {minimum}"
        node.send(signed(key, gas_price=minimum))


def test_the_public_command_lines_transaction_is_taken(node: NodeClient, worker: ComputeKey) -> None:
    """The network's own CLI offers more gas and a higher fee than needed."""
    node.send(signed(worker, gas_limit=100_000, fee=10**8))


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ({"pub_key": "03zz"}, "invalid_key_format: "),
        ({"pub_key": "02" + "11" * 32}, "pub_key_mismatch"),
        ({"signature": "zz" * 64}, "crypto_error: "),
        ({"signature": "ab" * 63}, "invalid_signature"),
        ({"signature": "ab" * 65}, "invalid_signature"),
        ({"signature": "00" * 64}, "invalid_signature"),
        ({"fee": GAS * 1_000 + 1}, "invalid_signature"),
    ],
)
def test_a_key_or_signature_that_is_none_is_named(
    node: NodeClient, worker: ComputeKey, broken: dict[str, object], reason: str
) -> None:
    assert node.rejected({**signed(worker), **broken}).startswith(reason)


def test_a_high_s_is_accepted(node: NodeClient, worker: ComputeKey) -> None:
    order = 0xFFFFFFFF_FFFFFFFF_FFFFFFFF_FFFFFFFE_BAAEDCE6_AF48A03B_BFD25E8C_D0364141
    document = signed(worker)
    r, s = document["signature"][:64], int(document["signature"][64:], 16)
    node.send({**document, "signature": f"{r}{order - s:064x}"})


def test_an_uncompressed_key_is_a_key_with_an_address_of_its_own(net: ComputeChainLocalnet, node: NodeClient) -> None:
    key = ComputeKey(b"\x01" * 32)
    number = EllipticCurvePublicKey.from_encoded_point(SECP256K1(), bytes.fromhex(key.public_key)).public_numbers()
    uncompressed = f"04{number.x:064x}{number.y:064x}"
    address = address_of(uncompressed)
    assert address != key.address
    net.chain.fund(address, 10**18)
    node.send(signed(key, from_address=address, pub_key=uncompressed, payload=result_of(address)))
    assert node.rejected(signed(key, pub_key=uncompressed)) == "pub_key_mismatch"


def test_the_balance_must_cover_the_fee_offered_and_not_only_the_cost(
    net: ComputeChainLocalnet, node: NodeClient
) -> None:
    poor = ComputeKey(b"\x04" * 32)
    net.chain.fund(poor.address, GAS * 1_000)
    assert node.rejected(signed(poor, fee=GAS * 1_000 + 1)) == "insufficient_balance"
    assert node.rejected(signed(poor, amount=1)) == "insufficient_balance"
    node.send(signed(poor))


def test_the_balance_is_the_confirmed_one_whatever_waits_in_the_pool(
    net: ComputeChainLocalnet, node: NodeClient
) -> None:
    """Two of which only one can be paid are both taken; the block drops the second."""
    poor = ComputeKey(b"\x04" * 32)
    net.chain.fund(poor.address, GAS * 1_000)
    node.send(signed(poor, 0))
    node.send(signed(poor, 1))
    net.chain.make_block()
    assert (node.nonce(poor.address), node.balance(poor.address)) == (1, 0)


def test_another_prefix_is_another_account_of_the_same_key(net: ComputeChainLocalnet, node: NodeClient) -> None:
    """The node takes the prefix from the address itself."""
    key = ComputeKey(b"\x01" * 32)
    validator = "cpcvalcons10xcqpzrky6eff2g52qdye53xkk9jxkvrqc9056"
    net.chain.fund(validator, 10**18)
    node.send(signed(key, from_address=validator, payload=result_of(validator)))
    net.chain.make_block()
    assert (node.nonce(validator), node.nonce(key.address)) == (1, 0)


def test_numeric_strings_count_as_numbers_and_unknown_fields_as_nothing(node: NodeClient, worker: ComputeKey) -> None:
    document = signed(worker)
    spelled = {name: str(document[name]) for name in ("amount", "fee", "nonce", "gas_price", "gas_limit")}
    node.send({**document, **spelled, "timestamp": 1_750_000_000, "chain_id": "cpc-mainnet-1"})


def test_only_what_has_no_default_is_required(node: NodeClient, worker: ComputeKey) -> None:
    """The shortest body that is a transaction is rejected by a rule, not by the schema."""
    shortest = {"tx_type": "TRANSFER", "from_address": worker.address, "amount": 1, "nonce": 0}
    assert node.post(shortest).json()["error"] == "gas_price 0 < min 1000"


@pytest.mark.parametrize("missing", ["tx_type", "from_address", "amount", "nonce"])
def test_a_missing_field_is_a_schema_error(node: NodeClient, worker: ComputeKey, missing: str) -> None:
    document = signed(worker)
    del document[missing]
    answer = node.post(document)
    assert answer.status_code == 422
    (problem,) = answer.json()["detail"]
    assert (problem["type"], problem["loc"], problem["msg"]) == ("missing", ["body", missing], "Field required")


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"nonce": 1.5}, "int_from_float"),
        ({"nonce": None}, "int_type"),
        ({"amount": "one"}, "int_parsing"),
        ({"payload": None}, "dict_type"),
        ({"payload": []}, "dict_type"),
        ({"signature": None}, "string_type"),
    ],
)
def test_a_field_of_the_wrong_kind_is_a_schema_error(
    node: NodeClient, worker: ComputeKey, fields: dict[str, object], kind: str
) -> None:
    answer = node.post({**signed(worker), **fields})
    assert (answer.status_code, answer.json()["detail"][0]["type"]) == (422, kind)
    assert answer.json()["detail"][0]["loc"] == ["body", *fields]


def test_a_body_that_is_no_json_is_a_schema_error_as_well(node: NodeClient) -> None:
    for body in (b"", b"{", b"{'a': 1}"):
        answer = node.http.post(f"{node.url}/tx/send", content=body)
        assert (answer.status_code, answer.json()["detail"][0]["type"]) == (422, "json_invalid")
    assert node.post([]).status_code == 422


def test_what_makes_the_node_itself_stumble_is_a_400_with_text(node: NodeClient, worker: ComputeKey) -> None:
    """Too deep a document, and text that UTF-8 cannot spell."""
    deep = node.http.post(f"{node.url}/tx/send", content=b'{"payload":' + b"[" * 100_000)
    halved = node.post({**signed(worker), "from_address": "\ud800"})
    for answer in (deep, halved):
        assert answer.status_code == 400
        assert isinstance(answer.json()["detail"], str)


def test_a_payment_of_nothing_is_no_transfer(node: NodeClient, worker: ComputeKey, rival: ComputeKey) -> None:
    assert node.rejected(payment(worker, rival.address, 0)) == "transfer_amount_zero"
    assert node.rejected(payment(worker, rival.address, -5)) == "transfer_amount_zero"
    node.send(signed(worker, amount=0))
