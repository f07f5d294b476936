/* base/bytes.h - little-endian fields in byte buffers, and sizes that cannot overflow.
 *
 * A reader walks bytes from outside: it never passes the end, and after a failed read every later
 * one fails too, so a parser may check once, at the end (reader_ok). A writer fills a fixed buffer
 * in the same way.
 *
 * Threads: any. Memory: neither owns the bytes.
 */
#ifndef BASE_BYTES_H
#define BASE_BYTES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

static inline bool size_add(size_t a, size_t b, size_t *sum_out)
{
    return !__builtin_add_overflow(a, b, sum_out);
}

static inline bool size_mul(size_t a, size_t b, size_t *product_out)
{
    return !__builtin_mul_overflow(a, b, product_out);
}

static inline uint16_t load_u16(const void *from)
{
    const uint8_t *b = from;
    return (uint16_t)(b[0] | b[1] << 8);
}

static inline uint32_t load_u32(const void *from)
{
    const uint8_t *b = from;
    return (uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
}

static inline uint64_t load_u64(const void *from)
{
    const uint8_t *b = from;
    return (uint64_t)load_u32(b) | (uint64_t)load_u32(b + 4) << 32;
}

static inline void store_u16(void *to, uint16_t value)
{
    uint8_t *b = to;
    b[0] = (uint8_t)value;
    b[1] = (uint8_t)(value >> 8);
}

static inline void store_u32(void *to, uint32_t value)
{
    uint8_t *b = to;
    b[0] = (uint8_t)value;
    b[1] = (uint8_t)(value >> 8);
    b[2] = (uint8_t)(value >> 16);
    b[3] = (uint8_t)(value >> 24);
}

static inline void store_u64(void *to, uint64_t value)
{
    uint8_t *b = to;
    store_u32(b, (uint32_t)value);
    store_u32(b + 4, (uint32_t)(value >> 32));
}

struct reader {
    const uint8_t *at;
    size_t left;
    bool failed;
};

static inline struct reader reader_over(const void *data, size_t bytes)
{
    return (struct reader){.at = data, .left = bytes, .failed = false};
}

/* The next bytes bytes, or NULL (and failed) when fewer are left. */
static inline const uint8_t *read_bytes(struct reader *r, size_t bytes)
{
    if (r->failed || bytes > r->left) {
        r->failed = true;
        return NULL;
    }
    const uint8_t *from = r->at;
    r->at += bytes;
    r->left -= bytes;
    return from;
}

static inline uint8_t read_u8(struct reader *r)
{
    const uint8_t *from = read_bytes(r, 1);
    return from != NULL ? *from : 0;
}

static inline uint16_t read_u16(struct reader *r)
{
    const uint8_t *from = read_bytes(r, 2);
    return from != NULL ? load_u16(from) : 0;
}

static inline uint32_t read_u32(struct reader *r)
{
    const uint8_t *from = read_bytes(r, 4);
    return from != NULL ? load_u32(from) : 0;
}

static inline uint64_t read_u64(struct reader *r)
{
    const uint8_t *from = read_bytes(r, 8);
    return from != NULL ? load_u64(from) : 0;
}

static inline float read_f32(struct reader *r)
{
    uint32_t bits = read_u32(r);
    float value;
    memcpy(&value, &bits, sizeof(value));
    return value;
}

static inline bool reader_ok(const struct reader *r)
{
    return !r->failed;
}

struct writer {
    uint8_t *at;
    size_t left;
    bool failed;
};

static inline struct writer writer_over(void *data, size_t bytes)
{
    return (struct writer){.at = data, .left = bytes, .failed = false};
}

static inline void write_bytes(struct writer *w, const void *data, size_t bytes)
{
    if (w->failed || bytes > w->left) {
        w->failed = true;
        return;
    }
    if (bytes > 0)
        memcpy(w->at, data, bytes);
    w->at += bytes;
    w->left -= bytes;
}

static inline void write_u8(struct writer *w, uint8_t value)
{
    write_bytes(w, &value, 1);
}

static inline void write_u16(struct writer *w, uint16_t value)
{
    uint8_t b[2];
    store_u16(b, value);
    write_bytes(w, b, sizeof(b));
}

static inline void write_u32(struct writer *w, uint32_t value)
{
    uint8_t b[4];
    store_u32(b, value);
    write_bytes(w, b, sizeof(b));
}

static inline void write_u64(struct writer *w, uint64_t value)
{
    uint8_t b[8];
    store_u64(b, value);
    write_bytes(w, b, sizeof(b));
}

static inline void write_f32(struct writer *w, float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof(bits));
    write_u32(w, bits);
}

#endif
