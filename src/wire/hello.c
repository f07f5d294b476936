#include "wire/hello.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "base/bytes.h"
#include "base/dtype.h"
#include "base/error.h"

uint64_t hello_incarnation_random(void)
{
    uint64_t number = 0;
    while (number == 0) {
        if (getrandom(&number, sizeof(number), 0) != (ssize_t)sizeof(number))
            number = 0;
    }
    return number;
}

const char *hello_role_name(uint32_t role)
{
    static const char *const names[] = {"unknown",   "router", "prefill", "decode",
                                        "colocated", "store",  "operator"};
    return names[role < sizeof(names) / sizeof(names[0]) ? role : 0];
}

static void hello_text_write(struct writer *w, const char *text, size_t field_bytes)
{
    size_t bytes = strnlen(text, field_bytes - 1);
    write_bytes(w, text, bytes);
    for (; bytes < field_bytes; bytes++)
        write_u8(w, 0);
}

/* Peers choose these bytes and people read them: nothing but printable ASCII gets through. */
static void hello_text_read(struct reader *r, char *text, size_t field_bytes)
{
    const uint8_t *from = read_bytes(r, field_bytes);
    if (from == NULL)
        return;
    memcpy(text, from, field_bytes);
    text[field_bytes - 1] = '\0';
    for (char *c = text; *c != '\0'; c++) {
        if (*c < 0x20 || *c > 0x7e)
            *c = '?';
    }
}

uint32_t hello_write(const struct hello *hello, uint8_t payload[HELLO_PAYLOAD_BYTES_MAX])
{
    struct writer w = writer_over(payload, HELLO_PAYLOAD_BYTES_MAX);
    write_u32(&w, HELLO_MAGIC);
    write_u32(&w, WIRE_VERSION);
    write_u32(&w, hello->parts);
    write_bytes(&w, hello->fingerprint, HELLO_HASH_BYTES);
    write_bytes(&w, hello->layout_hash, HELLO_HASH_BYTES);
    hello_text_write(&w, hello->numerics_class, HELLO_CLASS_BYTES);
    write_u32(&w, hello->kv_dtype);
    write_u32(&w, hello->block_tokens);
    write_u32(&w, hello->rank);
    write_u32(&w, hello->ranks);
    write_u32(&w, hello->role);
    write_u32(&w, hello->auth);
    write_u64(&w, hello->incarnation);
    hello_text_write(&w, hello->name, HELLO_NAME_BYTES);
    write_bytes(&w, hello->nonce, HELLO_NONCE_BYTES);
    return (uint32_t)(HELLO_PAYLOAD_BYTES_MAX - w.left);
}

static void hello_hash_read(struct reader *r, uint8_t *hash, size_t bytes)
{
    const uint8_t *from = read_bytes(r, bytes);
    if (from != NULL)
        memcpy(hash, from, bytes);
}

status hello_read(const uint8_t *payload, uint32_t payload_bytes, struct hello *hello_out)
{
    struct reader r = reader_over(payload, payload_bytes);
    uint32_t magic = read_u32(&r);
    uint32_t version = read_u32(&r);
    if (!reader_ok(&r) || magic != HELLO_MAGIC)
        return error_set(ERR_BAD_INPUT, "expected a baton process, found something else: the first "
                                        "frame is no HELLO; check the address");
    if (version != WIRE_VERSION)
        return error_set(ERR_REFUSED,
                         "wire version: ours is %u, the peer's is %u; run the same "
                         "release of baton on both sides",
                         WIRE_VERSION, version);
    struct hello hello;
    memset(&hello, 0, sizeof(hello));
    hello.parts = read_u32(&r);
    hello_hash_read(&r, hello.fingerprint, HELLO_HASH_BYTES);
    hello_hash_read(&r, hello.layout_hash, HELLO_HASH_BYTES);
    hello_text_read(&r, hello.numerics_class, HELLO_CLASS_BYTES);
    hello.kv_dtype = read_u32(&r);
    hello.block_tokens = read_u32(&r);
    hello.rank = read_u32(&r);
    hello.ranks = read_u32(&r);
    hello.role = read_u32(&r);
    hello.auth = read_u32(&r);
    hello.incarnation = read_u64(&r);
    hello_text_read(&r, hello.name, HELLO_NAME_BYTES);
    hello_hash_read(&r, hello.nonce, HELLO_NONCE_BYTES);
    if (!reader_ok(&r) || r.left != 0)
        return error_set(ERR_BAD_INPUT, "a HELLO of version %u has another length than %u bytes",
                         version, payload_bytes);
    if (hello.role < HELLO_ROUTER || hello.role > HELLO_OPERATOR || hello.incarnation == 0 ||
        hello.ranks == 0 || hello.ranks > UINT16_MAX || hello.rank >= hello.ranks)
        return error_set(ERR_BAD_INPUT,
                         "a HELLO with role %u, incarnation %" PRIu64 ", rank %u of %u "
                         "is out of range",
                         hello.role, hello.incarnation, hello.rank, hello.ranks);
    *hello_out = hello;
    return OK;
}

static void hello_hex(const uint8_t *bytes, char text[17])
{
    for (int i = 0; i < 8; i++)
        snprintf(text + 2 * i, 3, "%02x", bytes[i]);
}

static status hello_hash_check(const char *field, const uint8_t *ours, const uint8_t *theirs,
                               const char *name, const char *advice)
{
    if (memcmp(ours, theirs, HELLO_HASH_BYTES) == 0)
        return OK;
    char our_text[17], their_text[17];
    hello_hex(ours, our_text);
    hello_hex(theirs, their_text);
    return error_set(ERR_REFUSED, "%s: ours is %s..., that of \"%s\" is %s...; %s", field, our_text,
                     name, their_text, advice);
}

static const char *hello_dtype_name(uint32_t number)
{
    return dtype_known(number) ? dtype_name((enum dtype)number) : "unknown";
}

static status hello_check_kv(const struct hello *ours, const struct hello *theirs)
{
    /* First, because --kv-dtype follows --kernels when nobody says otherwise. */
    if (strcmp(ours->numerics_class, theirs->numerics_class) != 0)
        return error_set(ERR_REFUSED,
                         "numerics class: ours is \"%s\", that of \"%s\" is \"%s\"; give "
                         "both the same --kernels",
                         ours->numerics_class, theirs->name, theirs->numerics_class);
    if (ours->kv_dtype != theirs->kv_dtype)
        return error_set(ERR_REFUSED,
                         "kv dtype: ours is %s (%u), that of \"%s\" is %s (%u); give both "
                         "the same --kv-dtype",
                         hello_dtype_name(ours->kv_dtype), ours->kv_dtype, theirs->name,
                         hello_dtype_name(theirs->kv_dtype), theirs->kv_dtype);
    if (ours->block_tokens != theirs->block_tokens)
        return error_set(ERR_REFUSED,
                         "block tokens: ours are %u, those of \"%s\" are %u; give both "
                         "the same --block-tokens",
                         ours->block_tokens, theirs->name, theirs->block_tokens);
    if (ours->ranks != theirs->ranks)
        return error_set(ERR_REFUSED,
                         "ranks: ours are %u, those of \"%s\" are %u; a handoff between "
                         "different tensor-parallel layouts is not built",
                         ours->ranks, theirs->name, theirs->ranks);
    return hello_hash_check("block layout", ours->layout_hash, theirs->layout_hash, theirs->name,
                            "run the same release and the same model on both sides");
}

status hello_check(const struct hello *ours, const struct hello *theirs)
{
    uint32_t parts = ours->parts & theirs->parts;
    bool our_key = (ours->auth & HELLO_AUTH_CLUSTER_KEY) != 0;
    bool their_key = (theirs->auth & HELLO_AUTH_CLUSTER_KEY) != 0;
    if (our_key != their_key)
        return error_set(ERR_REFUSED,
                         "cluster key: we %s one, \"%s\" %s; give all processes the same "
                         "--cluster-key",
                         our_key ? "need" : "have no", theirs->name,
                         their_key ? "needs one" : "has none");
    if ((parts & HELLO_HAS_MODEL) != 0) {
        status st = hello_hash_check("model fingerprint", ours->fingerprint, theirs->fingerprint,
                                     theirs->name, "serve the same model file on both sides");
        if (st != OK)
            return st;
    }
    return (parts & HELLO_HAS_KV) != 0 ? hello_check_kv(ours, theirs) : OK;
}
