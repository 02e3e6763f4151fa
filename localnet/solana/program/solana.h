/* What the Solana runtime gives an SBPF program: types, syscalls, memory. No C library exists here. */
#pragma once

typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long u64;
typedef long i64;

/* The runtime's own layouts; the syscalls read them, so their order is fixed. */
typedef struct { const u8 *bytes; u64 length; } Slice;
typedef struct { const Slice *seeds; u64 count; } SignerSeeds;
typedef struct { const u8 *address; u8 writable, signer; } AccountMeta;
typedef struct { const u8 *program; AccountMeta *metas; u64 meta_count; const u8 *input; u64 input_length; } Instruction;
typedef struct {
    u8 *address;
    u64 *lamports;
    u64 length;
    u8 *content;
    u8 *owner;
    u64 rent_epoch;
    u8 signer, writable, executable;
} Account;

u64 sol_log_(const u8 *text, u64 length);
u64 sol_log_data(const Slice *fields, u64 count);
u64 sol_get_clock_sysvar(u8 *clock);
u64 sol_get_rent_sysvar(u8 *rent);
u64 sol_try_find_program_address(const Slice *seeds, u64 count, const u8 *program, u8 *address, u8 *bump);
u64 sol_create_program_address(const Slice *seeds, u64 count, const u8 *program, u8 *address);
u64 sol_invoke_signed_c(const Instruction *, const Account *accounts, u64 count, const SignerSeeds *signers, u64 signer_count);
u64 sol_memcpy_(u8 *to, const u8 *from, u64 length);
u64 sol_memcmp_(const u8 *left, const u8 *right, u64 length, int *order);

#define ALWAYS_INLINE static inline __attribute__((always_inline))
#define NEVER_INLINE static __attribute__((noinline)) /* a call has its own 512 bytes of stack */

#define MOST_ACCOUNTS 3 /* no instruction of this program looks at more */
#define GROWTH_BYTES 10240 /* room the runtime leaves behind each account's content */
#define NOT_A_DUPLICATE 0xff

typedef struct {
    Account accounts[MOST_ACCOUNTS];
    u64 account_count;
    const u8 *input; /* of the instruction: discriminator, then arguments */
    u64 input_length;
    const u8 *program;
} Call;

/* A program has no writable globals and hardly any stack. Its only scratch memory is a heap that the
   runtime zeroes for every call; this is all that we keep there. */
typedef struct {
    Call call;
    u8 clock[40];
    u8 rent[24];
    u8 address[32];
    u8 bump;
    u8 system_input[56];
    AccountMeta metas[2];
    u8 image[1024]; /* a job account as it will be written */
    u8 event[512];
} Heap;
#define HEAP ((Heap *)0x300000000UL)

static const u8 SYSTEM_PROGRAM[32] = {0};

#define LOG(text) sol_log_((const u8 *)(text), sizeof(text) - 1)

ALWAYS_INLINE u32 read_u32(const u8 *at) { return (u32)at[0] | (u32)at[1] << 8 | (u32)at[2] << 16 | (u32)at[3] << 24; }
ALWAYS_INLINE u64 read_u64(const u8 *at) { return (u64)read_u32(at) | (u64)read_u32(at + 4) << 32; }

ALWAYS_INLINE u8 *write_u32(u8 *at, u32 value) {
    for (int i = 0; i < 4; i++) at[i] = (u8)(value >> (8 * i));
    return at + 4;
}

ALWAYS_INLINE u8 *write_u64(u8 *at, u64 value) {
    for (int i = 0; i < 8; i++) at[i] = (u8)(value >> (8 * i));
    return at + 8;
}

NEVER_INLINE u8 *write_bytes(u8 *at, const u8 *bytes, u64 length) {
    sol_memcpy_(at, bytes, length);
    return at + length;
}

NEVER_INLINE int equal(const u8 *left, const u8 *right, u64 length) {
    int order = 1;
    sol_memcmp_(left, right, length, &order);
    return order == 0;
}

ALWAYS_INLINE i64 unix_time(void) {
    sol_get_clock_sysvar(HEAP->clock);
    return (i64)read_u64(HEAP->clock + 32);
}

/* Lamports that make an account of that size exempt from rent. The threshold is a double of which only
   two values exist: 2.0, or 1.0 where the network has folded the factor into the rate. */
ALWAYS_INLINE u64 rent_exempt_lamports(u64 account_bytes) {
    sol_get_rent_sysvar(HEAP->rent);
    u64 years = read_u64(HEAP->rent + 8) == 0x4000000000000000UL ? 2 : 1;
    return (128 + account_bytes) * read_u64(HEAP->rent) * years;
}

/* Parse what the runtime hands to the entry point: count, accounts, instruction input, program address. */
NEVER_INLINE Call *parse_call(u8 *at) {
    Call *call = &HEAP->call;
    u64 count = read_u64(at);
    at += 8;
    for (u64 i = 0; i < count; i++) {
        u8 first = at[0];
        if (first != NOT_A_DUPLICATE) { /* the same account once more: only the index of the first one is there */
            if (i < MOST_ACCOUNTS && first < MOST_ACCOUNTS) call->accounts[i] = call->accounts[first];
            at += 8;
            continue;
        }
        u64 length = read_u64(at + 80);
        u8 *end = at + 88 + ((length + GROWTH_BYTES + 7) & ~7UL);
        if (i < MOST_ACCOUNTS) {
            Account *account = &call->accounts[i];
            account->signer = at[1];
            account->writable = at[2];
            account->executable = at[3];
            account->address = at + 8;
            account->owner = at + 40;
            account->lamports = (u64 *)(at + 72);
            account->length = length;
            account->content = at + 88;
            account->rent_epoch = read_u64(end);
        }
        at = end + 8;
    }
    call->account_count = count < MOST_ACCOUNTS ? count : MOST_ACCOUNTS;
    call->input_length = read_u64(at);
    call->input = at + 8;
    call->program = call->input + call->input_length;
    return call;
}
