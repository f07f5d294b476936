#include "model/jinja/lexer.h"

#include <stdio.h>
#include <string.h>

#include "model/jinja/number.h"

#define BRACKETS_DEEP 256

struct lexer {
    struct machine *m;
    const char *source; /* newlines are \n only */
    size_t bytes, at;
    bool line_starting; /* the last thing read ended a line, or nothing was read */
    struct tokens list;
    size_t room;
    char brackets[BRACKETS_DEEP]; /* the closing ones that are awaited */
    size_t bracket_count;
};

static struct token *lexer_add(struct lexer *l, enum token_kind kind)
{
    l->list.tokens =
        machine_grow(l->m, l->list.tokens, l->list.count, &l->room, sizeof(struct token));
    struct token *token = &l->list.tokens[l->list.count++];
    *token = (struct token){.kind = kind, .line = l->m->line};
    return token;
}

/* Go on to at, counting the lines passed. */
static void lexer_advance(struct lexer *l, size_t to)
{
    for (; l->at < to; l->at++)
        l->m->line += l->source[l->at] == '\n';
}

static bool lexer_sees(const struct lexer *l, size_t at, const char *what)
{
    size_t bytes = strlen(what);
    return l->bytes - at >= bytes && memcmp(l->source + at, what, bytes) == 0;
}

static size_t skip_space(const struct lexer *l, size_t at)
{
    while (at < l->bytes) {
        size_t next = at;
        if (!point_is_space(text_next(l->source, &next)))
            break;
        at = next;
    }
    return at;
}

/* The end of a closing tag (close is "%}", "}}" or "#}") at at with its sign and the white space it
 * takes, or 0 when there is none. signs: the signs that may stand before it. */
static size_t close_end(const struct lexer *l, size_t at, const char *close, const char *signs)
{
    if (at < l->bytes && l->source[at] == '-' && lexer_sees(l, at + 1, close))
        return skip_space(l, at + 3);
    if (at < l->bytes && l->source[at] == '+' && strchr(signs, '+') != NULL &&
        lexer_sees(l, at + 1, close))
        return at + 3;
    if (!lexer_sees(l, at, close))
        return 0;
    at += 2;
    /* trim_blocks; after }} and the opening raw tag the newline stays. */
    if (strchr(signs, 'n') != NULL && at < l->bytes && l->source[at] == '\n')
        at++;
    return at;
}

/* The data from .. to before a tag, less what the tag's sign or lstrip_blocks takes. */
static void lexer_add_data(struct lexer *l, size_t from, size_t to, char sign, bool is_print)
{
    size_t end = to;
    if (sign == '-') {
        const struct text *data = text_over(l->m, l->source + from, to - from);
        end = from + text_strip(l->m, data, NULL, TEXT_STRIP_RIGHT)->bytes;
    } else if (sign != '+' && !is_print) {
        size_t start = to;
        while (start > from && l->source[start - 1] != '\n')
            start--;
        if ((start > from || l->line_starting) && skip_space(l, start) >= to)
            end = start;
    }
    if (end > from)
        lexer_add(l, TOKEN_DATA)->text = text_over(l->m, l->source + from, end - from);
    lexer_advance(l, to);
}

static void lexer_close(struct lexer *l, size_t to)
{
    l->line_starting = to > l->at && l->source[to - 1] == '\n';
    lexer_advance(l, to);
}

static void read_comment(struct lexer *l)
{
    uint32_t line = l->m->line;
    if (l->at == l->bytes)
        return; /* opened by the very last bytes: Jinja lets that pass */
    for (size_t at = l->at; at < l->bytes; at++) {
        size_t end = close_end(l, at, "#}", "+-n");
        if (end != 0) {
            lexer_close(l, end);
            return;
        }
    }
    l->m->line = line;
    machine_fail(l->m, ERR_BAD_INPUT, "a comment is never closed: expected '#}'");
}

/* Where an opening raw tag that starts at at ({% and the sign are passed) ends, or 0. */
static size_t raw_begin_end(const struct lexer *l, size_t at)
{
    at = skip_space(l, at);
    if (!lexer_sees(l, at, "raw"))
        return 0;
    return close_end(l, skip_space(l, at + 3), "%}", "-");
}

static void read_raw(struct lexer *l)
{
    uint32_t line = l->m->line;
    if (l->at == l->bytes)
        return; /* as for comments */
    for (size_t at = l->at; at < l->bytes; at++) {
        if (!lexer_sees(l, at, "{%"))
            continue;
        size_t word = at + 2;
        char sign = word < l->bytes ? l->source[word] : '\0';
        word += sign == '-' || sign == '+';
        word = skip_space(l, word);
        if (!lexer_sees(l, word, "endraw"))
            continue;
        size_t end = close_end(l, skip_space(l, word + 6), "%}", "+-n");
        if (end == 0)
            continue;
        lexer_add_data(l, l->at, at, sign, false);
        lexer_close(l, end);
        return;
    }
    l->m->line = line;
    machine_fail(l->m, ERR_BAD_INPUT, "a raw block is never closed: expected 'endraw'");
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool is_word(char c)
{
    return is_digit(c) || c == '_' || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

/* Past digits with single underscores between them; from when there are none. */
static size_t skip_digits(const struct lexer *l, size_t from)
{
    size_t at = from;
    while (at < l->bytes &&
           (is_digit(l->source[at]) || (l->source[at] == '_' && at > from && at + 1 < l->bytes &&
                                        is_digit(l->source[at + 1]) && l->source[at - 1] != '_')))
        at++;
    return at;
}

/* The end of a float that starts at the lexer's place, or 0. */
static size_t real_end(const struct lexer *l)
{
    if (l->at > 0 && l->source[l->at - 1] == '.')
        return 0;
    size_t whole = skip_digits(l, l->at), end = whole;
    if (whole == l->at)
        return 0;
    if (end < l->bytes && l->source[end] == '.') {
        size_t fraction = skip_digits(l, end + 1);
        if (fraction > end + 1)
            end = fraction;
    }
    if (end < l->bytes && (l->source[end] | 0x20) == 'e') {
        size_t digits = end + 1;
        digits += digits < l->bytes && (l->source[digits] == '+' || l->source[digits] == '-');
        size_t exponent = skip_digits(l, digits);
        if (exponent > digits)
            end = exponent;
    }
    return end > whole ? end : 0;
}

static size_t integer_end(const struct lexer *l)
{
    size_t at = l->at;
    if (l->source[at] == '0') {
        char mark = at + 1 < l->bytes ? (char)(l->source[at + 1] | 0x20) : '\0';
        const char *digits = mark == 'x'   ? "0123456789abcdefABCDEF_"
                             : mark == 'o' ? "01234567_"
                             : mark == 'b' ? "01_"
                                           : NULL;
        if (digits != NULL) {
            size_t end = at + 2;
            while (end < l->bytes && l->source[end] != '\0' &&
                   strchr(digits, l->source[end]) != NULL)
                end++;
            if (end > at + 2)
                return end;
        }
        while (at < l->bytes && l->source[at] == '0')
            at++;
        return at;
    }
    return skip_digits(l, at);
}

static void read_number(struct lexer *l)
{
    size_t end = real_end(l);
    bool real = end != 0;
    if (!real)
        end = integer_end(l);
    const struct text *text = text_over(l->m, l->source + l->at, end - l->at);
    struct token *token = lexer_add(l, real ? TOKEN_REAL : TOKEN_INTEGER);
    bool ok =
        real ? real_parse(l->m, text, &token->real) : integer_parse(l->m, text, 0, &token->integer);
    if (!ok)
        machine_fail(l->m, ERR_BAD_INPUT, "not a number");
    lexer_advance(l, end);
}

static bool read_hex(const struct text *in, size_t at, size_t digits, uint32_t *point_out)
{
    uint32_t point = 0;
    for (size_t i = 0; i < digits; i++) {
        char c = at + i < in->bytes ? in->data[at + i] : '\0';
        char low = (char)(c | 0x20);
        if (!is_digit(c) && !(low >= 'a' && low <= 'f'))
            return false;
        point = point << 4 | (uint32_t)(is_digit(c) ? c - '0' : low - 'a' + 10);
    }
    *point_out = point;
    return true;
}

/* One escape whose backslash is at *at, as Python's unicode-escape codec reads it. */
static size_t read_escape(struct machine *m, const struct text *in, size_t *at, char *to)
{
    static const char letters[] = "a\ab\bf\fn\nr\rt\tv\v\\\\''\"\"";
    size_t from = *at + 1;
    char c = in->data[from]; /* the closing quote is beyond: a backslash never ends a string */
    for (size_t i = 0; i < sizeof(letters) - 1; i += 2) {
        if (c == letters[i]) {
            to[0] = letters[i + 1];
            *at = from + 1;
            return 1;
        }
    }
    uint32_t point = 0;
    size_t digits = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    if (c == '\n') {
        *at = from + 1;
        return 0;
    }
    if (digits > 0) {
        if (!read_hex(in, from + 1, digits, &point))
            machine_fail(m, ERR_BAD_INPUT, "a string has a broken \\%c escape", c);
        if ((point >= 0xd800 && point < 0xe000) || point > 0x10ffff)
            machine_fail(m, ERR_UNSUPPORTED, "a string has an escape that is no character");
        *at = from + 1 + digits;
        return text_append(to, point);
    }
    if (c >= '0' && c <= '7') {
        size_t end = from;
        while (end < in->bytes && end < from + 3 && in->data[end] >= '0' && in->data[end] <= '7')
            point = point << 3 | (uint32_t)(in->data[end++] - '0');
        *at = end;
        return text_append(to, point);
    }
    if (c == 'N')
        machine_fail(m, ERR_UNSUPPORTED, "named characters (\\N{...}) in strings are not built");
    if ((unsigned char)c >= 0x80) {
        /* The codec sees the character as an escape already, and the backslash before it as an
         * escaped one. */
        *at = from;
        point = text_next(in->data, at);
        return (size_t)snprintf(to, 12,
                                point < 0x100     ? "\\x%02x"
                                : point < 0x10000 ? "\\u%04x"
                                                  : "\\U%08x",
                                point);
    }
    to[0] = '\\';
    to[1] = c;
    *at = from + 1;
    return 2;
}

static void read_string(struct lexer *l)
{
    char quote = l->source[l->at];
    size_t from = l->at + 1, end = from;
    while (end < l->bytes && l->source[end] != quote)
        end += l->source[end] == '\\' ? 2 : 1;
    if (end >= l->bytes)
        machine_fail(l->m, ERR_BAD_INPUT, "a string is never closed: expected %c", quote);
    const struct text *raw = text_over(l->m, l->source + from, end - from);
    struct token *token = lexer_add(l, TOKEN_STRING);
    if (memchr(raw->data, '\\', raw->bytes) == NULL) {
        token->text = raw;
    } else {
        /* No escape becomes longer than three times its source. */
        char *data = machine_take(l->m, raw->bytes * 3 + 16);
        size_t used = 0;
        for (size_t at = 0; at < raw->bytes;) {
            if (raw->data[at] == '\\')
                used += read_escape(l->m, raw, &at, data + used);
            else
                data[used++] = raw->data[at++];
        }
        token->text = text_over(l->m, data, used);
    }
    lexer_advance(l, end + 1);
}

static void read_operator(struct lexer *l)
{
    static const char twos[] = "//D**P==E!=N>=G<=L";
    char c = l->source[l->at];
    size_t size = 1;
    for (size_t i = 0; i < sizeof(twos) - 1; i += 3) {
        if (l->bytes - l->at >= 2 && c == twos[i] && l->source[l->at + 1] == twos[i + 1]) {
            c = twos[i + 2];
            size = 2;
            break;
        }
    }
    if (size == 1 && (c == '\0' || strchr("+-/*%~[](){}><=.:|,;", c) == NULL))
        machine_fail(l->m, ERR_BAD_INPUT, "unexpected character '%c' in a tag",
                     c >= 0x20 && c < 0x7f ? c : '?');
    if (c == '(' || c == '[' || c == '{') {
        if (l->bracket_count == BRACKETS_DEEP)
            machine_fail(l->m, ERR_FULL, "brackets nested more than %d deep", BRACKETS_DEEP);
        l->brackets[l->bracket_count++] = c == '(' ? ')' : c == '[' ? ']' : '}';
    } else if (c == ')' || c == ']' || c == '}') {
        if (l->bracket_count == 0 || l->brackets[--l->bracket_count] != c)
            machine_fail(l->m, ERR_BAD_INPUT, "unexpected '%c': no bracket is open for it", c);
    }
    lexer_add(l, TOKEN_OPERATOR)->operator= c;
    lexer_advance(l, l->at + size);
}

/* The inside of {{ }} or {% %} up to and with its end. */
static void read_tag(struct lexer *l, bool is_print)
{
    uint32_t line = l->m->line;
    l->bracket_count = 0;
    while (l->at < l->bytes) {
        machine_spend(l->m, 1);
        size_t end = 0;
        if (l->bracket_count == 0)
            end = is_print ? close_end(l, l->at, "}}", "-") : close_end(l, l->at, "%}", "+-n");
        if (end != 0) {
            lexer_add(l, is_print ? TOKEN_PRINT_END : TOKEN_BLOCK_END);
            lexer_close(l, end);
            return;
        }
        char c = l->source[l->at];
        size_t after = skip_space(l, l->at);
        if (after > l->at) {
            lexer_advance(l, after);
        } else if (is_digit(c)) {
            read_number(l);
        } else if (is_word(c)) {
            size_t to = l->at;
            while (to < l->bytes && is_word(l->source[to]))
                to++;
            lexer_add(l, TOKEN_NAME)->text = text_over(l->m, l->source + l->at, to - l->at);
            lexer_advance(l, to);
        } else if (c == '\'' || c == '"') {
            read_string(l);
        } else if ((unsigned char)c >= 0x80) {
            machine_fail(l->m, ERR_UNSUPPORTED, "names beyond ASCII are not built");
        } else {
            read_operator(l);
        }
    }
    l->m->line = line;
    machine_fail(l->m, ERR_BAD_INPUT, "a tag is never closed: expected '%s'",
                 is_print ? "}}" : "%}");
}

/* Data up to the next tag, and that tag. */
static void read_root(struct lexer *l)
{
    size_t open = l->at;
    while (open < l->bytes && !(l->source[open] == '{' && open + 1 < l->bytes &&
                                (l->source[open + 1] == '{' || l->source[open + 1] == '%' ||
                                 l->source[open + 1] == '#')))
        open++;
    if (open == l->bytes) {
        if (open > l->at)
            lexer_add(l, TOKEN_DATA)->text = text_over(l->m, l->source + l->at, open - l->at);
        lexer_advance(l, open);
        return;
    }
    char kind = l->source[open + 1];
    size_t inside = open + 2;
    char sign = inside < l->bytes ? l->source[inside] : '\0';
    inside += sign == '-' || sign == '+';
    lexer_add_data(l, l->at, open, sign, kind == '{');
    size_t raw = kind == '%' ? raw_begin_end(l, inside) : 0;
    if (raw != 0) {
        lexer_close(l, raw);
        read_raw(l);
    } else if (kind == '#') {
        lexer_advance(l, inside);
        read_comment(l);
    } else {
        lexer_add(l, kind == '{' ? TOKEN_PRINT_BEGIN : TOKEN_BLOCK_BEGIN);
        lexer_advance(l, inside);
        read_tag(l, kind == '{');
    }
}

/* \r\n and \r become \n; one newline at the end goes. */
static const char *newlines_settle(struct machine *m, const char *source, size_t *bytes)
{
    char *settled = machine_take(m, *bytes + 1);
    size_t used = 0;
    for (size_t i = 0; i < *bytes; i++) {
        if (source[i] == '\r') {
            settled[used++] = '\n';
            i += i + 1 < *bytes && source[i + 1] == '\n';
        } else {
            settled[used++] = source[i];
        }
    }
    if (used > 0 && settled[used - 1] == '\n')
        used--;
    *bytes = used;
    return settled;
}

struct tokens lexer_read(struct machine *m, const char *source, size_t bytes)
{
    struct lexer *l = machine_take(m, sizeof(*l));
    l->m = m;
    l->bytes = bytes;
    l->source = newlines_settle(m, source, &l->bytes);
    l->line_starting = true;
    m->line = 1;
    while (l->at < l->bytes)
        read_root(l);
    lexer_add(l, TOKEN_END);
    return l->list;
}

const char *token_describe(struct machine *m, const struct token *token)
{
    static const char *const names[] = {
        [TOKEN_END] = "the end of the template",
        [TOKEN_DATA] = "text",
        [TOKEN_PRINT_BEGIN] = "'{{'",
        [TOKEN_PRINT_END] = "'}}'",
        [TOKEN_BLOCK_BEGIN] = "'{%'",
        [TOKEN_BLOCK_END] = "'%}'",
        [TOKEN_STRING] = "a string",
        [TOKEN_INTEGER] = "an integer",
        [TOKEN_REAL] = "a number",
    };
    if (token->kind != TOKEN_NAME && token->kind != TOKEN_OPERATOR)
        return names[token->kind];
    char *name = machine_take(m, 80);
    if (token->kind == TOKEN_NAME) {
        int bytes = (int)(token->text->bytes < 70 ? token->text->bytes : 70);
        snprintf(name, 80, "'%.*s'", bytes, token->text->data);
    } else {
        char c = token->operator;
        const char *two = c == 'D'   ? "//"
                          : c == 'P' ? "**"
                          : c == 'E' ? "=="
                          : c == 'N' ? "!="
                          : c == 'G' ? ">="
                          : c == 'L' ? "<="
                                     : NULL;
        if (two == NULL)
            snprintf(name, 80, "'%c'", c);
        else
            snprintf(name, 80, "'%s'", two);
    }
    return name;
}
