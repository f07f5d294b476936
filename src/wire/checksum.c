#include "wire/checksum.h"

#include <string.h>

#include "base/bytes.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

/* Both sums without a multiplication per word: words are taken in rows of ROW_WORDS lanes, and each
 * lane keeps a (sum of its mixed words) and s (sum of a before each row). After K rows
 *     s[l] = sum over k of (K - 1 - k) * m[k][l],   so   sum of k * m = (K - 1) * a - s. */
#define ROW_WORDS 16u
#define ROW_BYTES (8 * ROW_WORDS)
/* Copies from here on are written past the cache: the next reader is another thread, later. */
#define STREAM_BYTES_MIN 4096u

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "rows are loaded as they lie in memory");

static inline uint64_t word_mixed(uint64_t w)
{
    return w ^ (w >> 32);
}

static struct checksum checksum_lanes(const uint64_t a[ROW_WORDS], const uint64_t s[ROW_WORDS],
                                      uint64_t rows)
{
    struct checksum sum = {0, 0};
    for (uint64_t lane = 0; lane < ROW_WORDS; lane++) {
        sum.a += a[lane];
        sum.b += ROW_WORDS * ((rows - 1) * a[lane] - s[lane]) + (lane + 1) * a[lane];
    }
    return sum;
}

/* to may be NULL: only sum. */
static struct checksum checksum_rows_plain(uint8_t *to, const uint8_t *from, size_t rows)
{
    uint64_t a[ROW_WORDS] = {0}, s[ROW_WORDS] = {0}, w[ROW_WORDS];
    for (size_t row = 0; row < rows; row++) {
        memcpy(w, from + row * ROW_BYTES, ROW_BYTES);
        if (to != NULL)
            memcpy(to + row * ROW_BYTES, w, ROW_BYTES);
        for (uint32_t lane = 0; lane < ROW_WORDS; lane++) {
            s[lane] += a[lane];
            a[lane] += word_mixed(w[lane]);
        }
    }
    return checksum_lanes(a, s, rows);
}

#if defined(__x86_64__)

enum landing { LAND_NOWHERE, LAND_CACHED, LAND_STREAMED };

#define AVX2_STEP(i)                                                                               \
    do {                                                                                           \
        __m256i w = _mm256_loadu_si256((const __m256i *)(const void *)from + (i));                 \
        if (landing == LAND_STREAMED)                                                              \
            _mm256_stream_si256((__m256i *)(void *)to + (i), w);                                   \
        else if (landing == LAND_CACHED)                                                           \
            _mm256_storeu_si256((__m256i *)(void *)to + (i), w);                                   \
        s##i = _mm256_add_epi64(s##i, a##i);                                                       \
        w = _mm256_xor_si256(w, _mm256_srli_epi64(w, 32));                                         \
        a##i = _mm256_add_epi64(a##i, w);                                                          \
    } while (0)

__attribute__((target("avx2"), always_inline)) static inline struct checksum
checksum_rows_avx2(uint8_t *to, const uint8_t *from, size_t rows, enum landing landing)
{
    __m256i a0 = _mm256_setzero_si256(), a1 = a0, a2 = a0, a3 = a0;
    __m256i s0 = a0, s1 = a0, s2 = a0, s3 = a0;
    for (size_t row = 0; row < rows; row++) {
        AVX2_STEP(0);
        AVX2_STEP(1);
        AVX2_STEP(2);
        AVX2_STEP(3);
        from += ROW_BYTES;
        if (landing != LAND_NOWHERE)
            to += ROW_BYTES;
    }
    uint64_t a[ROW_WORDS], s[ROW_WORDS];
    _mm256_storeu_si256((__m256i *)(void *)a + 0, a0);
    _mm256_storeu_si256((__m256i *)(void *)a + 1, a1);
    _mm256_storeu_si256((__m256i *)(void *)a + 2, a2);
    _mm256_storeu_si256((__m256i *)(void *)a + 3, a3);
    _mm256_storeu_si256((__m256i *)(void *)s + 0, s0);
    _mm256_storeu_si256((__m256i *)(void *)s + 1, s1);
    _mm256_storeu_si256((__m256i *)(void *)s + 2, s2);
    _mm256_storeu_si256((__m256i *)(void *)s + 3, s3);
    if (landing == LAND_STREAMED)
        _mm_sfence();
    return checksum_lanes(a, s, rows);
}

__attribute__((target("avx2"))) static struct checksum sum_avx2(const uint8_t *from, size_t rows)
{
    return checksum_rows_avx2(NULL, from, rows, LAND_NOWHERE);
}

__attribute__((target("avx2"))) static struct checksum cached_avx2(uint8_t *to, const uint8_t *from,
                                                                   size_t rows)
{
    return checksum_rows_avx2(to, from, rows, LAND_CACHED);
}

__attribute__((target("avx2"))) static struct checksum
streamed_avx2(uint8_t *to, const uint8_t *from, size_t rows)
{
    return checksum_rows_avx2(to, from, rows, LAND_STREAMED);
}

static struct checksum checksum_rows(uint8_t *to, const uint8_t *from, size_t rows)
{
    if (!__builtin_cpu_supports("avx2"))
        return checksum_rows_plain(to, from, rows);
    if (to == NULL)
        return sum_avx2(from, rows);
    if (rows * ROW_BYTES >= STREAM_BYTES_MIN && (uintptr_t)to % 32 == 0)
        return streamed_avx2(to, from, rows);
    return cached_avx2(to, from, rows);
}

#else

static struct checksum checksum_rows(uint8_t *to, const uint8_t *from, size_t rows)
{
    return checksum_rows_plain(to, from, rows);
}

#endif

static struct checksum checksum_land(uint8_t *to, const uint8_t *from, size_t bytes)
{
    size_t rows = bytes / ROW_BYTES;
    struct checksum sum = checksum_rows(to, from, rows);
    uint64_t position = rows * ROW_WORDS;
    for (size_t at = rows * ROW_BYTES; at < bytes; at += 8) {
        uint8_t word[8] = {0};
        size_t count = bytes - at < 8 ? bytes - at : 8;
        memcpy(word, from + at, count);
        if (to != NULL)
            memcpy(to + at, word, count);
        uint64_t m = word_mixed(load_u64(word));
        sum.a += m;
        sum.b += ++position * m;
    }
    return sum;
}

struct checksum checksum_of(const void *data, size_t bytes)
{
    return checksum_land(NULL, data, bytes);
}

struct checksum land_copy(void *to, const void *from, size_t bytes)
{
    return checksum_land(to, from, bytes);
}

struct checksum checksum_join(struct checksum first, uint64_t first_words, struct checksum rest)
{
    return (struct checksum){.a = first.a + rest.a, .b = first.b + rest.b + first_words * rest.a};
}
