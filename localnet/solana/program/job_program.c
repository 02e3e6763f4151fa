/* A job program with CloudMesh's interface: post a job, complete it, cancel it, mark it paid.
   Instructions, accounts, events and error numbers are the protocol's; anybody may complete any job. */
#include "job_account.h"

/* ---- events: base64 after "Program data:" in the log; each begins with its discriminator and the job ---- */

NEVER_INLINE u8 *begin_event(const u8 *discriminator, const Account *job) {
    return write_bytes(write_bytes(HEAP->event, discriminator, 8), job->address, 32);
}

NEVER_INLINE void emit_event(const u8 *end) {
    Slice field = {HEAP->event, (u64)(end - HEAP->event)};
    sol_log_data(&field, 1);
}

/* ---- initialize_job ---- */

NEVER_INLINE void invoke_system(const Call *call, u64 input_length, u64 meta_count, const SignerSeeds *signer) {
    Instruction instruction = {SYSTEM_PROGRAM, HEAP->metas, meta_count, HEAP->system_input, input_length};
    sol_invoke_signed_c(&instruction, call->accounts, call->account_count, signer, 1); /* a failure ends the program */
}

ALWAYS_INLINE AccountMeta writable_signer(const Account *account) { return (AccountMeta){account->address, 1, 1}; }

/* Make the account at the derived address. Somebody may have sent lamports there beforehand, and then the
   system program refuses to create it: it is topped up, sized and assigned in three steps instead. */
NEVER_INLINE void create_job_account(const Call *call, const SignerSeeds *signer) {
    enum { CREATE_ACCOUNT = 0, ASSIGN = 1, TRANSFER = 2, ALLOCATE = 8 };
    const Account *job = &call->accounts[0], *owner = &call->accounts[1];
    u64 needed = rent_exempt_lamports(JOB_BYTES), present = *job->lamports;
    if (present == 0) {
        u8 *at = write_u32(HEAP->system_input, CREATE_ACCOUNT);
        write_bytes(write_u64(write_u64(at, needed), JOB_BYTES), call->program, 32);
        HEAP->metas[0] = writable_signer(owner);
        HEAP->metas[1] = writable_signer(job);
        invoke_system(call, 52, 2, signer);
        return;
    }
    if (present < needed) {
        write_u64(write_u32(HEAP->system_input, TRANSFER), needed - present);
        HEAP->metas[0] = writable_signer(owner);
        HEAP->metas[1] = (AccountMeta){job->address, 1, 0};
        invoke_system(call, 12, 2, signer);
    }
    HEAP->metas[0] = writable_signer(job);
    write_u64(write_u32(HEAP->system_input, ALLOCATE), JOB_BYTES);
    invoke_system(call, 12, 1, signer);
    write_bytes(write_u32(HEAP->system_input, ASSIGN), call->program, 32);
    invoke_system(call, 36, 1, signer);
}

NEVER_INLINE u64 initialize_job(Call *call, const u8 *arguments, u64 length) {
    LOG("Instruction: InitializeJob");
    Slice title, code_cid;
    u64 at = 0;
    if (!read_string(arguments, length, &at, &title) || !read_string(arguments, length, &at, &code_cid) || at == length ||
        arguments[at] > LAST_JOB_TYPE)
        REFUSE(INSTRUCTION_DID_NOT_DESERIALIZE, "InstructionDidNotDeserialize", "The program could not deserialize the given instruction.");
    if (call->account_count < 3) REFUSE(ACCOUNT_NOT_ENOUGH_KEYS, "AccountNotEnoughKeys", "Not enough account keys given to the instruction.");
    Account *account = &call->accounts[0], *owner = &call->accounts[1];
    if (!owner->signer) REFUSE_ACCOUNT("owner", ACCOUNT_NOT_SIGNER, "AccountNotSigner", "The given account did not sign.");
    if (!equal(call->accounts[2].address, SYSTEM_PROGRAM, 32))
        REFUSE_ACCOUNT("system_program", INVALID_PROGRAM_ID, "InvalidProgramId", "Program ID was not as expected.");

    Slice seeds[4] = {{JOB_SEED, 3}, {owner->address, 32}, title, {&HEAP->bump, 1}};
    /* The runtime itself ends the program here when the title is longer than a seed may be. */
    if (sol_try_find_program_address(seeds, 3, call->program, HEAP->address, &HEAP->bump) ||
        !equal(HEAP->address, account->address, 32))
        REFUSE_ACCOUNT("job", CONSTRAINT_SEEDS, "ConstraintSeeds", "A seeds constraint was violated.");
    SignerSeeds signer = {seeds, 4};
    create_job_account(call, &signer);
    account->length = JOB_BYTES;
    if (!owner->writable) REFUSE_ACCOUNT("owner", CONSTRAINT_MUT, "ConstraintMut", "A mut constraint was violated.");

    if (title.length == 0 || title.length > LONGEST_FIELD) REFUSE(INVALID_TITLE, "InvalidTitle", "Title must be between 1 and 100 characters.");
    if (code_cid.length == 0 || code_cid.length > LONGEST_FIELD) REFUSE(INVALID_CID, "InvalidCID", "CID must be between 1 and 100 characters.");

    static const u8 JOB_CREATED[8] = {0x30, 0x6e, 0xa2, 0xb1, 0x43, 0x4a, 0x9f, 0x83};
    emit_event(write_string(write_bytes(begin_event(JOB_CREATED, account), owner->address, 32), &title));
    Job job = {.owner = owner->address, .title = title, .code_cid = code_cid, .result_cid = {JOB_SEED, 0},
               .start_time = unix_time(), .status = PENDING, .job_type = arguments[at], .bump = HEAP->bump};
    return write_job(account, &job);
}

/* ---- the instructions on an existing job ---- */

/* Both accounts in the order an Anchor program looks at them: job decoded, signer, then the job's constraints. */
NEVER_INLINE u64 open_job(Call *call, Job *job) {
    if (call->account_count < 2) REFUSE(ACCOUNT_NOT_ENOUGH_KEYS, "AccountNotEnoughKeys", "Not enough account keys given to the instruction.");
    u64 refusal = read_job(call, job);
    if (refusal) return refusal;
    if (!call->accounts[1].signer) REFUSE(ACCOUNT_NOT_SIGNER, "AccountNotSigner", "The given account did not sign.");
    return check_job(call, job);
}

NEVER_INLINE u64 open_own_job(Call *call, Job *job) {
    u64 refusal = open_job(call, job);
    if (refusal) return refusal;
    if (!equal(job->owner, call->accounts[1].address, 32))
        REFUSE(UNAUTHORIZED, "Unauthorized", "Unauthorized: Only owner can perform this action.");
    return 0;
}

NEVER_INLINE u64 complete_job(Call *call, const u8 *arguments, u64 length) {
    LOG("Instruction: CompleteJob");
    Slice result_cid;
    u64 at = 0;
    if (!read_string(arguments, length, &at, &result_cid) || length - at < 8)
        REFUSE(INSTRUCTION_DID_NOT_DESERIALIZE, "InstructionDidNotDeserialize", "The program could not deserialize the given instruction.");
    u64 cost = read_u64(arguments + at);
    Job job;
    u64 refusal = open_job(call, &job);
    if (refusal) return refusal;
    if (result_cid.length == 0 || result_cid.length > LONGEST_FIELD)
        REFUSE(INVALID_CID, "InvalidCID", "CID must be between 1 and 100 characters.");
    if (cost == 0) REFUSE(INVALID_COST, "InvalidCost", "Cost must be greater than 0.");
    if (job.status == COMPLETED) REFUSE(JOB_ALREADY_COMPLETED, "JobAlreadyCompleted", "Job is already completed.");
    if (job.status == CANCELLED) REFUSE(JOB_CANCELLED, "JobCancelled", "Job has been cancelled.");

    job.result_cid = result_cid;
    job.end_time = unix_time();
    job.cost = cost;
    job.status = COMPLETED;
    static const u8 JOB_COMPLETED[8] = {0xb0, 0xcf, 0xf6, 0x73, 0x5f, 0xb3, 0x09, 0x84};
    u8 *end = write_string(begin_event(JOB_COMPLETED, &call->accounts[0]), &result_cid);
    emit_event(write_u64(write_u64(end, (u64)job.end_time), cost));
    return write_job(&call->accounts[0], &job);
}

NEVER_INLINE u64 cancel_job(Call *call) {
    LOG("Instruction: CancelJob");
    Job job;
    u64 refusal = open_own_job(call, &job);
    if (refusal) return refusal;
    if (job.status == COMPLETED) REFUSE(JOB_ALREADY_COMPLETED, "JobAlreadyCompleted", "Job is already completed.");
    if (job.status == CANCELLED) REFUSE(JOB_ALREADY_CANCELLED, "JobAlreadyCancelled", "Job is already cancelled.");

    job.status = CANCELLED;
    job.end_time = unix_time();
    static const u8 JOB_WAS_CANCELLED[8] = {0xcb, 0x54, 0x8f, 0x82, 0x30, 0x86, 0x4a, 0xbf};
    emit_event(write_u64(begin_event(JOB_WAS_CANCELLED, &call->accounts[0]), (u64)job.end_time));
    return write_job(&call->accounts[0], &job);
}

NEVER_INLINE u64 mark_payment(Call *call) {
    LOG("Instruction: MarkPayment");
    Job job;
    u64 refusal = open_own_job(call, &job);
    if (refusal) return refusal;
    if (job.cost_paid) REFUSE(ALREADY_PAID, "AlreadyPaid", "Payment already marked as paid.");

    job.cost_paid = 1; /* a mere mark, on a job in any state: no lamports move */
    static const u8 PAYMENT_MARKED[8] = {0x46, 0x08, 0xac, 0x4b, 0x6a, 0xaa, 0xfb, 0xea};
    emit_event(write_u64(begin_event(PAYMENT_MARKED, &call->accounts[0]), job.cost));
    return write_job(&call->accounts[0], &job);
}

u64 entrypoint(u8 *input) {
    static const u8 INITIALIZE_JOB[8] = {0x89, 0x16, 0x8a, 0x29, 0x4c, 0xd0, 0x72, 0x32};
    static const u8 COMPLETE_JOB[8] = {0xdd, 0xd8, 0xe1, 0x48, 0x65, 0xfa, 0x03, 0x0b};
    static const u8 CANCEL_JOB[8] = {0x7e, 0xf1, 0x9b, 0xf1, 0x32, 0xec, 0x53, 0x76};
    static const u8 MARK_PAYMENT[8] = {0xa4, 0x5e, 0xc3, 0xb9, 0x50, 0x2c, 0xe9, 0xf3};
    Call *call = parse_call(input);
    if (call->input_length >= 8) {
        const u8 *arguments = call->input + 8;
        u64 length = call->input_length - 8;
        if (equal(call->input, INITIALIZE_JOB, 8)) return initialize_job(call, arguments, length);
        if (equal(call->input, COMPLETE_JOB, 8)) return complete_job(call, arguments, length);
        if (equal(call->input, CANCEL_JOB, 8)) return cancel_job(call);
        if (equal(call->input, MARK_PAYMENT, 8)) return mark_payment(call);
    }
    REFUSE(INSTRUCTION_FALLBACK_NOT_FOUND, "InstructionFallbackNotFound", "Fallback functions are not supported.");
}
