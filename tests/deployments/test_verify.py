"""What `millrace verify` finds right, finds wrong, and says that it did not check."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from rich.console import Console

from deployments.verify import Check, checks_of, verify
from localnet.computechain import ComputeChainLocalnet
from millrace.errors import Permanent, Transient
from millrace.limits import Limits, Usage
from millrace.receipt import Execution, JobOutcome, Receipt
from millrace.receipt_log import ReceiptLog
from millrace.settings import ComputeChainSettings, IpfsSettings, Settings
from protocols.computechain.block import Block
from protocols.computechain.keystore import Keystore
from protocols.computechain.rpc import ComputeChainRpc
from protocols.ipfs.content import open_content
from stages.execute.matmul.challenge import Challenge
from stages.execute.matmul.numpy_device import solve_on_cpu
from stages.submit.answer import answer_of, draft_answer
from stages.submit.computechain_opening import open_network
from stages.upload.documents import publish_text


class Solved:
    """One challenge, solved and settled on a local chain."""

    def __init__(self, net: ComputeChainLocalnet, folder: Path) -> None:
        self.net = net
        self.folder = folder
        self.settings = Settings(
            data_dir=folder / "data",
            ipfs=IpfsSettings(gateways=()),
            computechain=ComputeChainSettings(
                rpc_urls=(net.url,), chain_id=net.chain_id, key_name="worker", keystore=folder / "keys", confirmations=1
            ),
        )
        self.receipt: Receipt
        self.bundle = ""
        self.block: Block

    async def settle(self) -> None:
        self.net.chain.fund(Keystore(self.folder / "keys").add("worker").address, 10**18)
        async with (
            open_network(self.settings) as network,
            open_content(self.settings.ipfs, self.folder / "data") as ipfs,
        ):
            (job,) = await network.pending()
            challenge = Challenge(block_hash=job.block_hash, worker_address=job.worker_address, n=48)
            solution = solve_on_cpu(challenge, 8)
            self.bundle = solution.bundle_json(job.key)
            uploaded = await publish_text(self.bundle, "bundle", content=ipfs)
            submission = await network.prepare(job, answer_of(solution, uploaded), 0)
            await network.send(submission)
            height = self.net.chain.make_block()
            settlement = await network.settlement(job, submission)
        self.receipt = draft_answer(job, solution, uploaded, {}, "").model_copy(
            update={
                "inclusion": settlement.inclusion,
                "height": height,
                "transaction_id": settlement.transaction_id,
                "settled_at": datetime(2026, 11, 25, tzinfo=UTC),
            }
        )
        ReceiptLog(self.folder / "data" / "receipts").append(self.receipt)
        async with ComputeChainRpc((self.net.url,)) as rpc:
            block = await rpc.block(height)
        assert block is not None
        self.block = block

    def checks(
        self, receipt: Receipt | None = None, bundle: str | None = None, block: Block | None = None
    ) -> list[str]:
        found = checks_of(receipt or self.receipt, bundle or self.bundle, block or self.block)
        return [check.verdict for check in found]

    async def told(self, what: str, settings: Settings | None = None) -> tuple[int, str]:
        screen = io.StringIO()
        code = await verify(what, settings or self.settings, Console(file=screen, width=400))
        return code, screen.getvalue()


@pytest.fixture
def net() -> Iterator[ComputeChainLocalnet]:
    with ComputeChainLocalnet(block_seconds=3600) as net:
        net.chain.freeze()
        net.chain.make_block(3)
        yield net


@pytest.fixture
async def solved(net: ComputeChainLocalnet, tmp_path: Path) -> Solved:
    solved = Solved(net, tmp_path)
    await solved.settle()
    return solved


async def test_a_good_receipt_holds_in_everything_it_claims(solved: Solved) -> None:
    code, told = await solved.told(solved.receipt.job_key)
    assert code == 0
    assert [line.split("  ")[0] for line in told.splitlines()] == ["holds"] * 3
    assert solved.receipt.transaction_id in told
    assert "rows" in told


async def test_without_a_node_and_without_the_bundle_it_says_what_it_did_not_check(
    solved: Solved, tmp_path: Path
) -> None:
    """An answer that nobody checked must not look like one that is right."""
    elsewhere = solved.settings.model_copy(
        update={"computechain": ComputeChainSettings(), "data_dir": tmp_path / "elsewhere"}
    )
    ReceiptLog(tmp_path / "elsewhere" / "receipts").append(solved.receipt)
    code, told = await solved.told(solved.receipt.job_key, elsewhere)
    assert code == 0
    assert [line.split("  ")[0] for line in told.splitlines()] == ["not checked", "holds", "not checked"]


async def test_a_bundle_with_a_changed_row_is_wrong(solved: Solved) -> None:
    changed = json.loads(solved.bundle)
    row = changed["rows"][0]["row"]
    changed["rows"][0]["row"] = ("A" if row[0] != "A" else "B") + row[1:]
    assert solved.checks(bundle=json.dumps(changed)) == ["wrong", "holds", "holds"]


async def test_what_other_cards_compute_otherwise_is_not_called_wrong(solved: Solved) -> None:
    assert solved.receipt.solved is not None
    sample = solved.receipt.solved.model_copy(update={"algorithm": "matmul-f64-cupy"})
    assert solved.checks(solved.receipt.model_copy(update={"solved": sample})) == ["not checked", "holds", "holds"]


async def test_a_receipt_with_another_root_is_wrong_twice(solved: Solved) -> None:
    assert solved.receipt.solved is not None
    other = solved.receipt.solved.model_copy(update={"root": "0" * 64})
    receipt = solved.receipt.model_copy(update={"solved": other})
    assert solved.checks(receipt) == ["wrong", "wrong", "holds"]


async def test_a_receipt_in_anothers_name_is_wrong(solved: Solved) -> None:
    receipt = solved.receipt.model_copy(update={"worker": "cpc1somebodyelse"})
    assert solved.checks(receipt) == ["wrong", "wrong", "holds"]


async def test_a_block_that_was_taken_back_is_noticed(solved: Solved) -> None:
    solved.net.chain.rollback(1)
    solved.net.chain.make_block()
    code, told = await solved.told(solved.receipt.job_key)
    assert code == 1
    assert [line.split("  ")[0] for line in told.splitlines()] == ["holds", "holds", "wrong"]


async def test_a_receipt_without_a_proof_does_not_pass(solved: Solved) -> None:
    receipt = solved.receipt.model_copy(update={"inclusion": None})
    assert solved.checks(receipt) == ["holds", "wrong", "wrong"]


async def test_a_node_that_cannot_be_asked_is_no_verdict(solved: Solved) -> None:
    found = checks_of(solved.receipt, solved.bundle, Transient("no answer"))
    assert found[2] == Check("not checked", found[2].claim, "no answer")


async def test_a_bundle_from_anybody_is_checked_from_its_file(solved: Solved, tmp_path: Path) -> None:
    file = tmp_path / "bundle.json"
    file.write_text(solved.bundle)
    code, told = await solved.told(str(file))
    assert code == 0
    assert [line.split("  ")[0] for line in told.splitlines()] == ["holds", "not checked"]
    file.write_text(solved.bundle.replace('"index":', '"index":1', 1))
    assert (await solved.told(str(file)))[0] == 1


@pytest.mark.parametrize("content", ["", "{}", "not JSON", "\x00\x1b[2J", "[" * 100_000])
async def test_a_file_that_is_no_bundle_is_refused(solved: Solved, tmp_path: Path, content: str) -> None:
    file = tmp_path / "bundle.json"
    file.write_text(content)
    with pytest.raises(Permanent, match="no proof bundle"):
        await solved.told(str(file))


async def test_a_receipt_of_a_program_says_why_it_cannot_be_checked(solved: Solved) -> None:
    execution = Execution(
        backend="test", status="ok", returncode=0, source="Qm", source_sha256="", limits=Limits(), usage=Usage()
    )
    receipt = Receipt(
        job_key="cloudmesh/test/job",
        network="cloudmesh",
        outcome=JobOutcome.settled,
        execution=execution,
        settled_at=datetime(2026, 11, 25, tzinfo=UTC),
    )
    ReceiptLog(solved.settings.data_dir / "receipts").append(receipt)
    with pytest.raises(Permanent, match="no proof"):
        await solved.told("cloudmesh/test/job")
    with pytest.raises(Permanent, match="there is no receipt"):
        await solved.told("computechain/test/nothing")
