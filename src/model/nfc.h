/* model/nfc.h - text to Unicode's composed form, for the tokenizers that were trained on it (Qwen).
 *
 *     "e" U+0301  ->  U+00E9
 *
 * Bytes that are not valid UTF-8 stay as they are; text on either side of them does not combine.
 * So does a character with more than NFC_MARKS_MAX combining marks: no language has one, and the
 * time to sort them grows with their square.
 *
 * The `tokenizers` package has tables of an older Unicode: about fifty marks assigned since
 * (U+07FD, U+0C3C, ...) stay where they stand there, and are put in order here.
 *
 * Threads: any. Source: Unicode Standard Annex 15; utf8proc has the tables (Unicode 15 in 2.8).
 */
#ifndef MODEL_NFC_H
#define MODEL_NFC_H

#include <stdbool.h>
#include <stddef.h>

#include "base/status.h"

#define NFC_MARKS_MAX 64

/* True when a quick look says that text is composed already; nearly all text is. */
bool nfc_is_sure(const char *text, size_t bytes);

/* Into memory from malloc. Errors: ERR_NO_MEMORY. */
status nfc_compose(const char *text, size_t bytes, char **composed_out, size_t *bytes_out);

#endif
