/* Borsh strings: u32 little-endian length, then that many bytes of UTF-8. */
#pragma once
#include "solana.h"

/* Rust's String refuses overlong forms, surrogates and anything above U+10FFFF; so do we. */
NEVER_INLINE int is_utf8(const u8 *text, u64 length) {
    static const u32 smallest[4] = {0, 0x80, 0x800, 0x10000};
    for (u64 i = 0; i < length;) {
        u8 lead = text[i++];
        if (lead < 0x80) continue;
        u64 following = (lead & 0xe0) == 0xc0 ? 1 : (lead & 0xf0) == 0xe0 ? 2 : (lead & 0xf8) == 0xf0 ? 3 : 0;
        if (following == 0 || following > length - i) return 0;
        u32 point = lead & (0x3f >> following);
        for (u64 end = i + following; i < end; i++) {
            if ((text[i] & 0xc0) != 0x80) return 0;
            point = point << 6 | (text[i] & 0x3f);
        }
        if (point < smallest[following] || point > 0x10ffff || (point >> 11) == 0x1b) return 0;
    }
    return 1;
}

/* Read the string at *at and move *at behind it; false if it is cut off or no UTF-8. */
NEVER_INLINE int read_string(const u8 *bytes, u64 length, u64 *at, Slice *text) {
    if (*at > length || length - *at < 4) return 0;
    u64 size = read_u32(bytes + *at);
    u64 start = *at + 4;
    if (size > length - start || !is_utf8(bytes + start, size)) return 0;
    text->bytes = bytes + start;
    text->length = size;
    *at = start + size;
    return 1;
}

NEVER_INLINE u8 *write_string(u8 *at, const Slice *text) {
    return write_bytes(write_u32(at, (u32)text->length), text->bytes, text->length);
}
