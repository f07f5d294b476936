#include "model/jinja/number.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

size_t real_print(double real, char to[NUMBER_BYTES])
{
    if (isnan(real))
        return (size_t)snprintf(to, NUMBER_BYTES, "nan");
    if (isinf(real))
        return (size_t)snprintf(to, NUMBER_BYTES, real < 0 ? "-inf" : "inf");
    char digits[NUMBER_BYTES];
    int precision = 0;
    do
        snprintf(digits, sizeof(digits), "%.*e", precision++, real);
    while (precision < 17 && strtod(digits, NULL) != real);
    int exponent = atoi(strchr(digits, 'e') + 1);
    if (exponent >= -4 && exponent < 16) {
        int decimals = precision - 1 - exponent;
        return (size_t)snprintf(to, NUMBER_BYTES, "%.*f", decimals > 0 ? decimals : 1, real);
    }
    return (size_t)snprintf(to, NUMBER_BYTES, "%s", digits);
}

/* The text without white space around it and underscores between digits; false when an underscore
 * is anywhere else. */
static bool number_clean(struct machine *m, const struct text *text, char **clean_out)
{
    const struct text *bare = text_strip(m, text, NULL, TEXT_STRIP_BOTH);
    char *clean = machine_take(m, bare->bytes + 1);
    size_t used = 0;
    for (size_t i = 0; i < bare->bytes; i++) {
        char c = bare->data[i];
        if (c == '\0' || (unsigned char)c >= 0x80)
            return false;
        if (c == '_') {
            bool between = i > 0 && i + 1 < bare->bytes && bare->data[i - 1] != '_' &&
                           strchr("+-.eE", bare->data[i - 1]) == NULL;
            if (!between)
                return false;
            continue;
        }
        clean[used++] = c;
    }
    clean[used] = '\0';
    *clean_out = clean;
    return used > 0;
}

static int digit_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c = (char)(c | 0x20);
    return c >= 'a' && c <= 'z' ? c - 'a' + 10 : 99;
}

/* Skip 0x, 0o, 0b when the base allows it; base 0 becomes the base that is found. */
static const char *base_prefix(const char *at, int *base)
{
    int found = 10;
    if (at[0] == '0' && at[1] != '\0') {
        char mark = (char)(at[1] | 0x20);
        found = mark == 'x' ? 16 : mark == 'o' ? 8 : mark == 'b' ? 2 : 10;
    }
    if (found != 10 && (*base == 0 || *base == found)) {
        *base = found;
        return at + 2;
    }
    if (*base == 0)
        *base = 10;
    return at;
}

bool integer_parse(struct machine *m, const struct text *text, int base, int64_t *integer_out)
{
    char *clean;
    if (!number_clean(m, text, &clean))
        return false;
    bool negative = *clean == '-';
    const char *at = clean + (*clean == '-' || *clean == '+');
    bool from_prefix = base == 0;
    at = base_prefix(at, &base);
    if (*at == '\0')
        return false;
    if (from_prefix && base == 10 && at[0] == '0' && strspn(at, "0") != strlen(at))
        return false;
    int64_t sum = 0;
    for (const char *c = at; *c != '\0'; c++)
        if (digit_value(*c) >= base)
            return false;
    for (; *at != '\0'; at++)
        if (__builtin_mul_overflow(sum, base, &sum) ||
            __builtin_sub_overflow(sum, digit_value(*at), &sum))
            machine_fail(m, ERR_BAD_INPUT, "integer of more than 64 bits");
    if (!negative && __builtin_sub_overflow((int64_t)0, sum, &sum))
        machine_fail(m, ERR_BAD_INPUT, "integer of more than 64 bits");
    *integer_out = sum;
    return true;
}

bool real_parse(struct machine *m, const struct text *text, double *real_out)
{
    char *clean;
    if (!number_clean(m, text, &clean))
        return false;
    /* strtod also reads hexadecimal and nan(...), which Python does not. */
    if (strpbrk(clean, "xX(") != NULL)
        return false;
    char *end;
    *real_out = strtod(clean, &end);
    return *end == '\0';
}

int64_t real_truncate(struct machine *m, double real)
{
    if (!(fabs(real) < 9.2e18))
        machine_fail(m, ERR_BAD_INPUT, "cannot convert a float of this size to an integer");
    return (int64_t)real;
}

static struct value integer_round(struct machine *m, int64_t value, int64_t digits)
{
    if (digits >= 0)
        return value_int(value);
    if (digits < -18)
        return value_int(0);
    int64_t unit = 1;
    for (; digits < 0; digits++)
        unit *= 10;
    int64_t rest = value % unit, whole = value - rest, half = unit / 2;
    bool odd = (whole / unit) % 2 != 0;
    int64_t away = rest < 0 ? -rest : rest;
    if (away > half || (away == half && odd))
        if (__builtin_add_overflow(whole, rest < 0 ? -unit : unit, &whole))
            machine_fail(m, ERR_BAD_INPUT, "integer of more than 64 bits");
    return value_int(whole);
}

struct value number_round(struct machine *m, struct value value, int64_t digits)
{
    if (value_is_integer(value))
        return integer_round(m, value_integer(value), digits);
    double real = value.as.real;
    if (isnan(real) || isinf(real) || digits > 323)
        return value;
    if (digits < -308)
        return value_float(real * 0.0);
    if (digits < 0) {
        double unit = pow(10.0, (double)-digits);
        return value_float(rint(real / unit) * unit);
    }
    /* printf rounds the exact binary value to even, which is what Python's round does. */
    char text[700];
    snprintf(text, sizeof(text), "%.*f", (int)digits, real);
    return value_float(strtod(text, NULL));
}

_Noreturn static void too_large(struct machine *m)
{
    machine_fail(m, ERR_BAD_INPUT, "integer of more than 64 bits");
}

_Noreturn static void by_zero(struct machine *m)
{
    machine_fail(m, ERR_BAD_INPUT, "division by zero");
}

static struct value integer_power(struct machine *m, int64_t base, int64_t exponent)
{
    if (exponent < 0) {
        if (base == 0)
            by_zero(m);
        return value_float(pow((double)base, (double)exponent));
    }
    int64_t product = 1;
    while (exponent > 0) {
        if ((exponent & 1) != 0 && __builtin_mul_overflow(product, base, &product))
            too_large(m);
        exponent >>= 1;
        if (exponent > 0 && __builtin_mul_overflow(base, base, &base))
            too_large(m);
    }
    return value_int(product);
}

static struct value integers_combine(struct machine *m, char op, int64_t a, int64_t b)
{
    int64_t c = 0;
    bool over = false;
    switch (op) {
    case '+':
        over = __builtin_add_overflow(a, b, &c);
        break;
    case '-':
        over = __builtin_sub_overflow(a, b, &c);
        break;
    case '*':
        over = __builtin_mul_overflow(a, b, &c);
        break;
    case '/':
        if (b == 0)
            by_zero(m);
        return value_float((double)a / (double)b);
    case 'P':
        return integer_power(m, a, b);
    default: /* floor division and its remainder, which has the divisor's sign */
        if (b == 0)
            by_zero(m);
        if (b == -1) {
            over = op == 'D' && __builtin_sub_overflow((int64_t)0, a, &c);
            break;
        }
        c = a % b;
        if (c != 0 && (c < 0) != (b < 0))
            c += b;
        if (op == 'D')
            c = (a - c) / b;
        break;
    }
    if (over)
        too_large(m);
    return value_int(c);
}

static double real_remainder(double a, double b)
{
    double rest = fmod(a, b);
    if (rest < 0 || rest > 0)
        return (rest < 0) != (b < 0) ? rest + b : rest;
    return copysign(0.0, b);
}

struct value number_combine(struct machine *m, char op, struct value a, struct value b)
{
    if (value_is_integer(a) && value_is_integer(b))
        return integers_combine(m, op, value_integer(a), value_integer(b));
    double x = value_real(a), y = value_real(b);
    bool zero = !(y < 0 || y > 0) && !isnan(y);
    switch (op) {
    case '+':
        return value_float(x + y);
    case '-':
        return value_float(x - y);
    case '*':
        return value_float(x * y);
    case 'P':
        if (x < 0 && floor(y) < y)
            machine_fail(m, ERR_UNSUPPORTED, "complex numbers are not built");
        if (!(x < 0 || x > 0) && y < 0)
            by_zero(m);
        double power = pow(x, y);
        if (isinf(power) && !isinf(x) && !isinf(y))
            machine_fail(m, ERR_BAD_INPUT, "result of ** too large");
        return value_float(power);
    default:
        if (zero)
            by_zero(m);
        if (op == '/')
            return value_float(x / y);
        double rest = real_remainder(x, y);
        return value_float(op == '%' ? rest : rint((x - rest) / y));
    }
}
