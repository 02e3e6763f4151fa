/* The job account: 308 bytes, zero padded, at the address derived from ["job", owner, title]. */
#pragma once
#include "borsh.h"
#include "refusals.h"

#define JOB_BYTES 308
#define LONGEST_FIELD 100 /* of title, code CID and result CID; the title's real bound is a seed's 32 bytes */

enum { PENDING = 0, COMPLETED = 1, CANCELLED = 2 };
enum { LAST_JOB_TYPE = 2 }; /* Cron, Api, Manual */

typedef struct {
    const u8 *owner;
    Slice title, code_cid, result_cid;
    i64 start_time, end_time;
    u8 status, job_type;
    u64 cost;
    u8 cost_paid, bump;
} Job;

static const u8 JOB_DISCRIMINATOR[8] = {0x4b, 0x7c, 0x50, 0xcb, 0xa1, 0xb4, 0xca, 0x50};
static const u8 JOB_SEED[3] = {'j', 'o', 'b'};

/* Decode the account, checking what an Anchor account is checked for before any constraint. */
NEVER_INLINE u64 read_job(const Call *call, Job *job) {
    const Account *account = &call->accounts[0];
    if (equal(account->owner, SYSTEM_PROGRAM, 32) && *account->lamports == 0)
        REFUSE_ACCOUNT("job", ACCOUNT_NOT_INITIALIZED, "AccountNotInitialized", "The program expected this account to be already initialized.");
    if (!equal(account->owner, call->program, 32))
        REFUSE_ACCOUNT("job", ACCOUNT_OWNED_BY_WRONG_PROGRAM, "AccountOwnedByWrongProgram", "The given account is owned by a different program than expected.");
    if (account->length < 8)
        REFUSE_ACCOUNT("job", ACCOUNT_DISCRIMINATOR_NOT_FOUND, "AccountDiscriminatorNotFound", "No discriminator was found on the account.");
    if (!equal(account->content, JOB_DISCRIMINATOR, 8))
        REFUSE_ACCOUNT("job", ACCOUNT_DISCRIMINATOR_MISMATCH, "AccountDiscriminatorMismatch", "Account discriminator did not match what was expected.");
    u64 at = 40, length = account->length;
    const u8 *content = account->content;
    int whole = length >= at && read_string(content, length, &at, &job->title) &&
                read_string(content, length, &at, &job->code_cid) && read_string(content, length, &at, &job->result_cid) &&
                length - at >= 28;
    const u8 *rest = content + at;
    if (!whole || rest[16] > CANCELLED || rest[17] > LAST_JOB_TYPE || rest[26] > 1)
        REFUSE_ACCOUNT("job", ACCOUNT_DID_NOT_DESERIALIZE, "AccountDidNotDeserialize", "Failed to deserialize the account.");
    job->owner = content + 8;
    job->start_time = (i64)read_u64(rest);
    job->end_time = (i64)read_u64(rest + 8);
    job->status = rest[16];
    job->job_type = rest[17];
    job->cost = read_u64(rest + 18);
    job->cost_paid = rest[26];
    job->bump = rest[27];
    return 0;
}

/* The constraints on an existing job account: writable, and at the address that its own fields derive. */
NEVER_INLINE u64 check_job(const Call *call, const Job *job) {
    if (!call->accounts[0].writable) REFUSE_ACCOUNT("job", CONSTRAINT_MUT, "ConstraintMut", "A mut constraint was violated.");
    Slice seeds[4] = {{JOB_SEED, 3}, {job->owner, 32}, job->title, {&job->bump, 1}};
    if (sol_create_program_address(seeds, 4, call->program, HEAP->address) || !equal(HEAP->address, call->accounts[0].address, 32))
        REFUSE_ACCOUNT("job", CONSTRAINT_SEEDS, "ConstraintSeeds", "A seeds constraint was violated.");
    return 0;
}

/* Encode the job into its account. What does not fit is refused; shorter content leaves the old tail,
   which only ever was padding because the strings never shrink. */
NEVER_INLINE u64 write_job(Account *account, const Job *job) {
    u8 *image = HEAP->image; /* built aside: the job's strings point into the account itself */
    u8 *at = write_bytes(image, JOB_DISCRIMINATOR, 8);
    at = write_bytes(at, job->owner, 32);
    at = write_string(at, &job->title);
    at = write_string(at, &job->code_cid);
    at = write_string(at, &job->result_cid);
    at = write_u64(at, (u64)job->start_time);
    at = write_u64(at, (u64)job->end_time);
    *at++ = job->status;
    *at++ = job->job_type;
    at = write_u64(at, job->cost);
    *at++ = job->cost_paid;
    *at++ = job->bump;
    u64 length = (u64)(at - image);
    if (length > account->length)
        REFUSE_ACCOUNT("job", ACCOUNT_DID_NOT_SERIALIZE, "AccountDidNotSerialize", "Failed to serialize the account.");
    write_bytes(account->content, image, length);
    return 0;
}
