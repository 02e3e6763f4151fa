/* Every way this program says no: the numbers and names are the protocol's (Anchor's below 6000). */
#pragma once
#include "solana.h"

#define INSTRUCTION_FALLBACK_NOT_FOUND 101
#define INSTRUCTION_DID_NOT_DESERIALIZE 102
#define CONSTRAINT_MUT 2000
#define CONSTRAINT_SEEDS 2006
#define ACCOUNT_DISCRIMINATOR_NOT_FOUND 3001
#define ACCOUNT_DISCRIMINATOR_MISMATCH 3002
#define ACCOUNT_DID_NOT_DESERIALIZE 3003
#define ACCOUNT_DID_NOT_SERIALIZE 3004
#define ACCOUNT_NOT_ENOUGH_KEYS 3005
#define ACCOUNT_OWNED_BY_WRONG_PROGRAM 3007
#define INVALID_PROGRAM_ID 3008
#define ACCOUNT_NOT_SIGNER 3010
#define ACCOUNT_NOT_INITIALIZED 3012
#define INVALID_TITLE 6000
#define INVALID_CID 6001
#define INVALID_COST 6002
#define JOB_ALREADY_COMPLETED 6003
#define JOB_CANCELLED 6004
#define JOB_ALREADY_CANCELLED 6005
#define ALREADY_PAID 6007
#define UNAUTHORIZED 6008

#define DIGITS_(number) #number
#define DIGITS(number) DIGITS_(number)

/* Log the refusal the way Anchor's clients parse it, and leave the function with its number. */
#define REFUSE(number, name, text) \
    do { \
        LOG("AnchorError occurred. Error Code: " name ". Error Number: " DIGITS(number) ". Error Message: " text); \
        return number; \
    } while (0)
#define REFUSE_ACCOUNT(account, number, name, text) \
    do { \
        LOG("AnchorError caused by account: " account ". Error Code: " name ". Error Number: " DIGITS(number) \
            ". Error Message: " text); \
        return number; \
    } while (0)
