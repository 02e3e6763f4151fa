"""What runs on a card, in the C that CUDA and HIP share: the matrices' entries, the rows' digests, and the tree.

Only digests and the few rows that a proof shows leave the card. The tests compile this same text for the CPU.
"""

from __future__ import annotations

THREADS = 128
"""Of a block."""

BYTES_A_BLOCK = 32
"""Of the stream that one step of Philox gives, and one thread writes."""

_PHILOX = r"""
typedef unsigned int u32;
typedef unsigned long long u64;

/* Philox4x64-10 (Salmon et al., 2011) with the counter that NumPy begins with: 1. Each thread makes one step of the
   counter: 32 bytes, of which each becomes an entry. */
extern "C" __global__ void philox_entries(u64 key0, u64 key1, ENTRY *entries, u64 count)
{
    u64 step = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (step * 32 >= count) return;
    u64 c0 = step + 1, c1 = 0, c2 = 0, c3 = 0;
    for (int round = 0; round < 10; ++round) {
        u64 high0 = __umul64hi(0xD2E7470EE14C6C93ULL, c0), low0 = 0xD2E7470EE14C6C93ULL * c0;
        u64 high1 = __umul64hi(0xCA5A826395121157ULL, c2), low1 = 0xCA5A826395121157ULL * c2;
        c0 = high1 ^ c1 ^ key0;
        c1 = low1;
        c2 = high0 ^ c3 ^ key1;
        c3 = low0;
        key0 += 0x9E3779B97F4A7C15ULL;
        key1 += 0xBB67AE8584CAA73BULL;
    }
    u64 words[4] = {c0, c1, c2, c3};
    for (int at = 0; at < 32; ++at) {
        u64 place = step * 32 + at;
        if (place < count) entries[place] = (ENTRY)((int)(words[at >> 3] >> (8 * (at & 7)) & 31) - 16);
    }
}
"""

_SHA256 = r"""
typedef unsigned int u32;
typedef unsigned long long u64;
typedef unsigned char u8;

__device__ static const u32 K[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

__device__ static u32 turned(u32 x, int by) { return x >> by | x << (32 - by); }

__device__ static void begin(u32 *state)
{
    state[0] = 0x6a09e667; state[1] = 0xbb67ae85; state[2] = 0x3c6ef372; state[3] = 0xa54ff53a;
    state[4] = 0x510e527f; state[5] = 0x9b05688c; state[6] = 0x1f83d9ab; state[7] = 0x5be0cd19;
}

/* FIPS 180-4, section 6.2.2; `w` is a ring of the last sixteen words. */
__device__ static void compress(u32 *state, u32 *w)
{
    u32 a = state[0], b = state[1], c = state[2], d = state[3], e = state[4], f = state[5], g = state[6], h = state[7];
    for (int t = 0; t < 64; ++t) {
        if (t >= 16) {
            u32 x = w[(t + 1) & 15], y = w[(t + 14) & 15];
            w[t & 15] += (turned(x, 7) ^ turned(x, 18) ^ x >> 3) + w[(t + 9) & 15];
            w[t & 15] += turned(y, 17) ^ turned(y, 19) ^ y >> 10;
        }
        u32 one = h + (turned(e, 6) ^ turned(e, 11) ^ turned(e, 25)) + ((e & f) ^ (~e & g)) + K[t] + w[t & 15];
        u32 two = (turned(a, 2) ^ turned(a, 13) ^ turned(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
        h = g; g = f; f = e; e = d + one; d = c; c = b; b = a; a = one + two;
    }
    state[0] += a; state[1] += b; state[2] += c; state[3] += d;
    state[4] += e; state[5] += f; state[6] += g; state[7] += h;
}

__device__ static void put(const u32 *state, u8 *digest)
{
    for (int at = 0; at < 32; ++at) digest[at] = (u8)(state[at >> 2] >> (24 - 8 * (at & 3)));
}

/* leaf = SHA-256(0x00, the row's entries as little-endian int32). The first byte shifts all others by one, so that each
   word of the message is made of two entries. One thread hashes one row of the product, whose floats are integers. */
extern "C" __global__ void row_leaves(const float *product, u8 *leaves, u32 n, u32 rows)
{
    u32 row = blockIdx.x * blockDim.x + threadIdx.x;
    if (row >= rows) return;
    const float *values = product + (u64)row * n;
    u32 state[8], w[16], filled = 0, last = 0;
    begin(state);
    for (u32 column = 0; column < n; ++column) {
        u32 v = (u32)(int)values[column];
        w[filled++] = last << 24 | (v & 255) << 16 | (v >> 8 & 255) << 8 | (v >> 16 & 255);
        last = v >> 24;
        if (filled == 16) { compress(state, w); filled = 0; }
    }
    w[filled++] = last << 24 | 0x00800000;
    if (filled > 14) {
        while (filled < 16) w[filled++] = 0;
        compress(state, w);
        filled = 0;
    }
    while (filled < 14) w[filled++] = 0;
    u64 bits = ((u64)n * 4 + 1) * 8;
    w[14] = (u32)(bits >> 32);
    w[15] = (u32)bits;
    compress(state, w);
    put(state, leaves + (u64)row * 32);
}

/* node = SHA-256(0x01, left, right); one thread makes one node of the level above. One without a neighbour goes up. */
extern "C" __global__ void tree_level(const u8 *below, u8 *above, u32 count)
{
    u32 node = blockIdx.x * blockDim.x + threadIdx.x;
    if (node >= (count + 1) / 2) return;
    const u8 *pair = below + (u64)node * 64;
    if (2 * node + 1 == count) {
        for (int at = 0; at < 32; ++at) above[(u64)node * 32 + at] = pair[at];
        return;
    }
    u32 state[8], w[16];
    begin(state);
    u32 word = 1;
    int filled = 0;
    for (int at = 0; at < 64; ++at) {
        word = word << 8 | pair[at];
        if ((at & 3) == 2) {
            w[filled++] = word;
            if (filled == 16) { compress(state, w); filled = 0; }
        }
    }
    w[filled++] = word << 24 | 0x00800000;
    while (filled < 15) w[filled++] = 0;
    w[15] = 65 * 8;
    compress(state, w);
    put(state, above + (u64)node * 32);
}
"""


def philox_source(entry_type: str) -> str:
    """The kernel `philox_entries`, which writes entries of that C type."""
    return f"#define ENTRY {entry_type}\n{_PHILOX}"


SHA256_SOURCE = _SHA256
"""The kernels `row_leaves` and `tree_level`."""
