"""Every instruction and every error of the job program, on the real runtime."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from job_abi import (
    CANCEL,
    CODE_CID,
    COMPLETE,
    INITIALIZE,
    MARK,
    PROGRAM,
    RENT,
    SYSTEM,
    Bench,
    complete,
    custom,
    events,
    initialize,
    job_address,
    on_job,
    text,
)
from solders.instruction import AccountMeta, Instruction
from solders.keypair import Keypair
from solders.pubkey import Pubkey

from localnet.solana.accounts import StoredAccount
from localnet.solana.program import COMPILER_VERSION, PROGRAM_ID, SHARED_OBJECT
from localnet.solana.program.build import build, compiler_version, find_compiler
from localnet.solana.runtime import SYSTEM_PROGRAM
from protocols.solana.job_account import JobStatus, decode_job_account

COMPILER = find_compiler()
BUILDS = ["committed"]
if COMPILER is not None and compiler_version(COMPILER) != COMPILER_VERSION:
    BUILDS.append("rebuilt")  # other bytes than the committed ones: they have to behave the same


@pytest.fixture(scope="module", params=BUILDS)
def shared_object(request: pytest.FixtureRequest) -> bytes:
    if request.param == "committed":
        return SHARED_OBJECT.read_bytes()
    assert COMPILER is not None
    return build(COMPILER)


@pytest.fixture
def bench(shared_object: bytes) -> Bench:
    return Bench(shared_object)


def test_initialize_writes_the_account_that_the_protocol_describes(bench: Bench) -> None:
    bench.runtime.set_time(slot=5, unix_seconds=1_700_000_000)
    job = bench.post("hello")
    account = bench.runtime.account(str(job))
    bump = Pubkey.find_program_address([b"job", bytes(bench.owner.pubkey()), b"hello"], PROGRAM)[1]
    used = bytes.fromhex("4b7c50cba1b4ca50") + bytes(bench.owner.pubkey()) + text("hello") + text(CODE_CID) + text("")
    used += struct.pack("<qqBBQBB", 1_700_000_000, 0, 0, 2, 0, 0, bump)
    assert account == StoredAccount(RENT, PROGRAM_ID, used.ljust(308, b"\0"))


def test_complete_records_result_cost_and_time_and_leaves_the_rest(bench: Bench) -> None:
    job = bench.post("hello")
    before = decode_job_account(job, PROGRAM, bench.content(job), PROGRAM)
    bench.runtime.set_time(slot=9, unix_seconds=1_700_000_060)
    assert bench.run(complete(job, bench.worker.pubkey(), "bafyresult", 7), bench.worker).error is None
    after = decode_job_account(job, PROGRAM, bench.content(job), PROGRAM)
    assert (after.status, after.result_cid, after.cost_lamports) == (JobStatus.completed, "bafyresult", 7)
    assert (after.end_time, after.start_time, after.cost_paid) == (1_700_000_060, before.start_time, False)
    assert (after.owner, after.title, after.code_cid) == (before.owner, before.title, before.code_cid)


def test_anybody_may_complete_any_job(bench: Bench) -> None:
    stranger = bench.funded()
    assert bench.run(complete(bench.post(), stranger.pubkey()), stranger).error is None


def test_each_instruction_emits_its_event(bench: Bench) -> None:
    bench.runtime.set_time(slot=5, unix_seconds=77)
    owner, worker = bench.owner, bench.worker
    job, other = job_address(owner.pubkey(), "hello"), bench.post("other")
    when = struct.pack("<q", 77)
    expected = [
        (initialize(owner.pubkey(), "hello"), owner, "306ea2b1434a9f83", bytes(owner.pubkey()) + text("hello"), job),
        (complete(job, worker.pubkey(), "Qm", 9), worker, "b0cff6735fb30984", text("Qm") + when + _u64(9), job),
        (on_job(job, owner.pubkey(), MARK), owner, "4608ac4b6aaafbea", _u64(9), job),
        (on_job(other, owner.pubkey(), CANCEL), owner, "cb548f8230864abf", when, other),
    ]
    for instruction, signer, discriminator, rest, address in expected:
        execution = bench.run(instruction, signer)
        assert events(execution) == [bytes.fromhex(discriminator) + bytes(address) + rest]


def test_the_bound_of_a_title_is_a_seed_of_32_bytes(bench: Bench) -> None:
    owner = bench.owner.pubkey()
    assert bench.run(initialize(owner, "t" * 32), bench.owner).error is None
    long = initialize(owner, "t" * 33, job=job_address(owner, "t" * 32))
    assert bench.run(long, bench.owner).error == {"InstructionError": [0, "ProgramFailedToComplete"]}


def test_an_empty_title_is_6000(bench: Bench) -> None:
    assert bench.run(initialize(bench.owner.pubkey(), ""), bench.owner).error == custom(6000)


@pytest.mark.parametrize(("length", "number"), [(0, 6001), (1, None), (100, None), (101, 6001)])
def test_the_code_cid_has_1_to_100_bytes(bench: Bench, length: int, number: int | None) -> None:
    execution = bench.run(initialize(bench.owner.pubkey(), "a", "c" * length), bench.owner)
    assert execution.error == (None if number is None else custom(number))


@pytest.mark.parametrize(("length", "number"), [(0, 6001), (1, None), (100, None), (101, 6001)])
def test_the_result_cid_has_1_to_100_bytes(bench: Bench, length: int, number: int | None) -> None:
    execution = bench.run(complete(bench.post(), bench.worker.pubkey(), "r" * length), bench.worker)
    assert execution.error == (None if number is None else custom(number))


def test_title_and_cids_together_have_228_bytes(bench: Bench) -> None:
    job = bench.post("t" * 32, "c" * 100)
    assert bench.run(complete(job, bench.worker.pubkey(), "r" * 97), bench.worker).error == custom(3004)
    assert bench.run(complete(job, bench.worker.pubkey(), "r" * 96), bench.worker).error is None
    assert bench.content(job).count(b"r" * 96) == 1


def test_a_refused_completion_leaves_the_account_as_it_was(bench: Bench) -> None:
    job = bench.post("t" * 32, "c" * 100)
    before = bench.content(job)
    assert bench.run(complete(job, bench.worker.pubkey(), "r" * 100), bench.worker).error == custom(3004)
    assert bench.content(job) == before


def test_a_cost_of_zero_is_6002(bench: Bench) -> None:
    assert bench.run(complete(bench.post(), bench.worker.pubkey(), cost=0), bench.worker).error == custom(6002)


def test_the_highest_cost_is_recorded_whole(bench: Bench) -> None:
    job = bench.post()
    assert bench.run(complete(job, bench.worker.pubkey(), cost=2**64 - 1), bench.worker).error is None
    assert decode_job_account(job, PROGRAM, bench.content(job), PROGRAM).cost_lamports == 2**64 - 1


def test_the_second_completion_is_6003_and_changes_nothing(bench: Bench) -> None:
    job = bench.post()
    bench.run(complete(job, bench.worker.pubkey(), "first"), bench.worker)
    before = bench.content(job)
    assert bench.run(complete(job, bench.owner.pubkey(), "second"), bench.owner).error == custom(6003)
    assert bench.content(job) == before


def test_a_cancelled_job_cannot_be_completed_6004(bench: Bench) -> None:
    job = bench.post()
    assert bench.run(on_job(job, bench.owner.pubkey(), CANCEL), bench.owner).error is None
    assert bench.run(complete(job, bench.worker.pubkey()), bench.worker).error == custom(6004)


def test_cancelling_ends_the_job_once(bench: Bench) -> None:
    bench.runtime.set_time(slot=5, unix_seconds=123)
    job = bench.post()
    assert bench.run(on_job(job, bench.owner.pubkey(), CANCEL), bench.owner).error is None
    account = decode_job_account(job, PROGRAM, bench.content(job), PROGRAM)
    assert (account.status, account.end_time) == (JobStatus.cancelled, 123)
    assert bench.run(on_job(job, bench.owner.pubkey(), CANCEL), bench.owner).error == custom(6005)


def test_a_completed_job_cannot_be_cancelled_6003(bench: Bench) -> None:
    job = bench.post()
    bench.run(complete(job, bench.worker.pubkey()), bench.worker)
    assert bench.run(on_job(job, bench.owner.pubkey(), CANCEL), bench.owner).error == custom(6003)


@pytest.mark.parametrize("state", ["pending", "completed", "cancelled"])
def test_payment_is_a_mark_on_a_job_in_any_state_set_once(bench: Bench, state: str) -> None:
    job, owner = bench.post(), bench.owner
    if state == "completed":
        bench.run(complete(job, bench.worker.pubkey()), bench.worker)
    elif state == "cancelled":
        bench.run(on_job(job, owner.pubkey(), CANCEL), owner)
    lamports = bench.runtime.account(str(bench.worker.pubkey()))
    assert bench.run(on_job(job, owner.pubkey(), MARK), owner).error is None
    assert decode_job_account(job, PROGRAM, bench.content(job), PROGRAM).cost_paid
    assert bench.runtime.account(str(bench.worker.pubkey())) == lamports
    assert bench.run(on_job(job, owner.pubkey(), MARK), owner).error == custom(6007)


@pytest.mark.parametrize("content", [CANCEL, MARK])
def test_only_the_owner_may_cancel_or_mark_6008(bench: Bench, content: bytes) -> None:
    job = bench.post()
    assert bench.run(on_job(job, bench.worker.pubkey(), content), bench.worker).error == custom(6008)


@pytest.mark.parametrize("content", [CANCEL, MARK, COMPLETE + text("r") + struct.pack("<Q", 1)])
def test_the_second_account_has_to_sign_3010(bench: Bench, content: bytes) -> None:
    job, payer = bench.post(), bench.funded()
    instruction = on_job(job, bench.owner.pubkey(), content, signs=False)
    assert bench.run(instruction, payer).error == custom(3010)


def test_the_owner_has_to_sign_a_new_job_3010(bench: Bench) -> None:
    instruction = initialize(bench.owner.pubkey(), "hello")
    unsigned = [instruction.accounts[0], AccountMeta(bench.owner.pubkey(), False, True), instruction.accounts[2]]
    assert bench.run(Instruction(PROGRAM, instruction.data, unsigned), bench.worker).error == custom(3010)


def test_the_third_account_has_to_be_the_system_program_3008(bench: Bench) -> None:
    instruction = initialize(bench.owner.pubkey(), "hello")
    wrong = [*instruction.accounts[:2], AccountMeta(PROGRAM, False, False)]
    assert bench.run(Instruction(PROGRAM, instruction.data, wrong), bench.owner).error == custom(3008)


@pytest.mark.parametrize("content", [CANCEL, MARK, COMPLETE + text("r") + struct.pack("<Q", 1)])
def test_a_read_only_job_account_is_2000(bench: Bench, content: bytes) -> None:
    instruction = on_job(bench.post(), bench.owner.pubkey(), content, writable=False)
    assert bench.run(instruction, bench.owner).error == custom(2000)


def test_a_new_job_at_another_address_is_2006(bench: Bench) -> None:
    elsewhere = job_address(bench.owner.pubkey(), "other")
    instruction = initialize(bench.owner.pubkey(), "hello", job=elsewhere)
    assert bench.run(instruction, bench.owner).error == custom(2006)


def test_a_job_account_at_another_address_than_its_fields_derive_is_2006(bench: Bench) -> None:
    copy = Pubkey.new_unique()
    bench.runtime.set_account(str(copy), StoredAccount(RENT, PROGRAM_ID, bench.content(bench.post())))
    assert bench.run(complete(copy, bench.worker.pubkey()), bench.worker).error == custom(2006)


def test_an_account_that_does_not_exist_is_3012(bench: Bench) -> None:
    nowhere = job_address(bench.owner.pubkey(), "never posted")
    assert bench.run(complete(nowhere, bench.worker.pubkey()), bench.worker).error == custom(3012)


def test_an_account_of_another_program_is_3007(bench: Bench) -> None:
    someone = bench.funded().pubkey()
    assert bench.run(complete(someone, bench.worker.pubkey()), bench.worker).error == custom(3007)


@pytest.mark.parametrize(
    ("content", "number"),
    [
        (b"short", 3001),
        (bytes(308), 3002),
        (bytes.fromhex("4b7c50cba1b4ca50"), 3003),
        (bytes.fromhex("4b7c50cba1b4ca50") + bytes(32) + text("t" * 300), 3003),
        (bytes.fromhex("4b7c50cba1b4ca50") + bytes(32) + b"\xff" * 268, 3003),
        (bytes.fromhex("4b7c50cba1b4ca50") + bytes(32) + text("t") + text("c") + text("") + b"\xff" * 200, 3003),
    ],
)
def test_an_account_of_ours_that_is_no_job_is_refused(bench: Bench, content: bytes, number: int) -> None:
    address = Pubkey.new_unique()
    bench.runtime.set_account(str(address), StoredAccount(10**8, PROGRAM_ID, content))
    assert bench.run(complete(address, bench.worker.pubkey()), bench.worker).error == custom(number)


@pytest.mark.parametrize(
    "content",
    [
        INITIALIZE,
        INITIALIZE + text("a"),
        INITIALIZE + text("a") + text("c"),
        INITIALIZE + text("a") + text("c") + b"\3",
        INITIALIZE + struct.pack("<I", 2**32 - 1) + b"a" * 50,
        INITIALIZE + text(b"\xff") + text("c") + b"\0",
        COMPLETE,
        COMPLETE + text("r") + bytes(7),
        COMPLETE + text(b"\xed\xa0\x80") + bytes(8),
    ],
)
def test_arguments_that_do_not_decode_are_102(bench: Bench, content: bytes) -> None:
    accounts = initialize(bench.owner.pubkey(), "a").accounts
    assert bench.run(Instruction(PROGRAM, content, accounts), bench.owner).error == custom(102)


@pytest.mark.parametrize("content", [b"", b"1234567", b"12345678", bytes(40)])
def test_an_unknown_instruction_is_101(bench: Bench, content: bytes) -> None:
    assert bench.run(Instruction(PROGRAM, content, []), bench.owner).error == custom(101)


@pytest.mark.parametrize(
    "instruction",
    [
        initialize(Keypair().pubkey(), "a").data,
        CANCEL,
        MARK,
        COMPLETE + text("r") + struct.pack("<Q", 1),
    ],
    ids=["initialize", "cancel", "mark", "complete"],
)
def test_too_few_accounts_are_3005(bench: Bench, instruction: bytes) -> None:
    only = [AccountMeta(bench.owner.pubkey(), True, True)]
    assert bench.run(Instruction(PROGRAM, bytes(instruction), only), bench.owner).error == custom(3005)


def test_the_same_title_can_never_be_used_again_by_the_same_owner(bench: Bench) -> None:
    bench.post("hello")
    again = bench.run(initialize(bench.owner.pubkey(), "hello", "another"), bench.owner)
    assert again.error == custom(0), "the system program's AccountAlreadyInUse"
    assert bench.run(initialize(bench.worker.pubkey(), "hello"), bench.worker).error is None


@pytest.mark.parametrize("present", [1, RENT - 1, RENT, RENT + 1])
def test_lamports_sent_to_the_address_beforehand_do_not_stop_the_job(bench: Bench, present: int) -> None:
    """Anybody can compute the address and send something there: it must not block the title."""
    address = job_address(bench.owner.pubkey(), "hello")
    bench.runtime.set_account(str(address), StoredAccount(present, SYSTEM_PROGRAM, b""))
    job = bench.post("hello")
    account = bench.runtime.account(str(job))
    assert account is not None
    assert (account.lamports, account.owner, len(account.content)) == (max(RENT, present), PROGRAM_ID, 308)


def test_the_same_account_twice_is_no_way_around_a_check(bench: Bench) -> None:
    job = bench.post()
    twice = [AccountMeta(job, False, True), AccountMeta(job, False, True)]
    content = COMPLETE + text("r") + struct.pack("<Q", 1)
    assert bench.run(Instruction(PROGRAM, content, twice), bench.owner).error == custom(3010)


def test_more_accounts_than_needed_are_ignored(bench: Bench) -> None:
    job = bench.post()
    extra = [AccountMeta(bench.owner.pubkey(), False, False), AccountMeta(SYSTEM, False, False)] * 3
    instruction = complete(job, bench.worker.pubkey())
    longer = Instruction(PROGRAM, instruction.data, [*instruction.accounts, *extra])
    assert bench.run(longer, bench.worker).error is None


def test_refusals_are_logged_with_name_and_number(bench: Bench) -> None:
    job = bench.post()
    bench.run(complete(job, bench.worker.pubkey()), bench.worker)
    logs = "\n".join(bench.run(complete(job, bench.worker.pubkey(), "again"), bench.worker).logs)
    assert "Error Code: JobAlreadyCompleted. Error Number: 6003. Error Message: Job is already completed." in logs


def test_compute_units_stay_in_the_known_range(bench: Bench) -> None:
    posted = bench.run(initialize(bench.owner.pubkey(), "hello"), bench.owner)
    completed = bench.run(complete(job_address(bench.owner.pubkey(), "hello"), bench.worker.pubkey()), bench.worker)
    assert 3_000 < completed.compute_units < posted.compute_units < 50_000


_SHARED = Bench()


@settings(max_examples=60, deadline=None)
@given(
    raw=st.one_of(
        st.binary(min_size=1, max_size=12),
        st.text(min_size=1, max_size=8).map(lambda t: t.encode(errors="surrogatepass")),
    )
)
def test_a_title_is_accepted_exactly_if_it_is_utf8(raw: bytes) -> None:
    try:
        raw.decode()
        expected: set[object] = {None, "in use"}
    except UnicodeDecodeError:
        expected = {102}
    error = _SHARED.run(initialize(_SHARED.owner.pubkey(), raw), _SHARED.owner).error
    number = None if error is None else error["InstructionError"][1]["Custom"]
    assert ("in use" if number == 0 else number) in expected


def _u64(value: int) -> bytes:
    return struct.pack("<Q", value)
