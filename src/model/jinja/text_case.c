/* Case and character classes of texts: utf8proc knows one-to-one case and categories; what one
 * character becomes several of (SpecialCasing.txt of Unicode 14, unconditional lines) is here. */
#include "model/jinja/text.h"

#include <utf8proc.h>

struct special_case {
    uint32_t point;
    uint32_t upper[3], title[3]; /* ends at 0 */
};

/* Sorted by point. */
static const struct special_case special_cases[] = {
    {0x00df, {0x0053, 0x0053}, {0x0053, 0x0073}},
    {0x0149, {0x02bc, 0x004e}, {0x02bc, 0x004e}},
    {0x01f0, {0x004a, 0x030c}, {0x004a, 0x030c}},
    {0x0390, {0x0399, 0x0308, 0x0301}, {0x0399, 0x0308, 0x0301}},
    {0x03b0, {0x03a5, 0x0308, 0x0301}, {0x03a5, 0x0308, 0x0301}},
    {0x0587, {0x0535, 0x0552}, {0x0535, 0x0582}},
    {0x1e96, {0x0048, 0x0331}, {0x0048, 0x0331}},
    {0x1e97, {0x0054, 0x0308}, {0x0054, 0x0308}},
    {0x1e98, {0x0057, 0x030a}, {0x0057, 0x030a}},
    {0x1e99, {0x0059, 0x030a}, {0x0059, 0x030a}},
    {0x1e9a, {0x0041, 0x02be}, {0x0041, 0x02be}},
    {0x1f50, {0x03a5, 0x0313}, {0x03a5, 0x0313}},
    {0x1f52, {0x03a5, 0x0313, 0x0300}, {0x03a5, 0x0313, 0x0300}},
    {0x1f54, {0x03a5, 0x0313, 0x0301}, {0x03a5, 0x0313, 0x0301}},
    {0x1f56, {0x03a5, 0x0313, 0x0342}, {0x03a5, 0x0313, 0x0342}},
    {0x1f80, {0x1f08, 0x0399}, {0x1f88}},
    {0x1f81, {0x1f09, 0x0399}, {0x1f89}},
    {0x1f82, {0x1f0a, 0x0399}, {0x1f8a}},
    {0x1f83, {0x1f0b, 0x0399}, {0x1f8b}},
    {0x1f84, {0x1f0c, 0x0399}, {0x1f8c}},
    {0x1f85, {0x1f0d, 0x0399}, {0x1f8d}},
    {0x1f86, {0x1f0e, 0x0399}, {0x1f8e}},
    {0x1f87, {0x1f0f, 0x0399}, {0x1f8f}},
    {0x1f88, {0x1f08, 0x0399}, {0x1f88}},
    {0x1f89, {0x1f09, 0x0399}, {0x1f89}},
    {0x1f8a, {0x1f0a, 0x0399}, {0x1f8a}},
    {0x1f8b, {0x1f0b, 0x0399}, {0x1f8b}},
    {0x1f8c, {0x1f0c, 0x0399}, {0x1f8c}},
    {0x1f8d, {0x1f0d, 0x0399}, {0x1f8d}},
    {0x1f8e, {0x1f0e, 0x0399}, {0x1f8e}},
    {0x1f8f, {0x1f0f, 0x0399}, {0x1f8f}},
    {0x1f90, {0x1f28, 0x0399}, {0x1f98}},
    {0x1f91, {0x1f29, 0x0399}, {0x1f99}},
    {0x1f92, {0x1f2a, 0x0399}, {0x1f9a}},
    {0x1f93, {0x1f2b, 0x0399}, {0x1f9b}},
    {0x1f94, {0x1f2c, 0x0399}, {0x1f9c}},
    {0x1f95, {0x1f2d, 0x0399}, {0x1f9d}},
    {0x1f96, {0x1f2e, 0x0399}, {0x1f9e}},
    {0x1f97, {0x1f2f, 0x0399}, {0x1f9f}},
    {0x1f98, {0x1f28, 0x0399}, {0x1f98}},
    {0x1f99, {0x1f29, 0x0399}, {0x1f99}},
    {0x1f9a, {0x1f2a, 0x0399}, {0x1f9a}},
    {0x1f9b, {0x1f2b, 0x0399}, {0x1f9b}},
    {0x1f9c, {0x1f2c, 0x0399}, {0x1f9c}},
    {0x1f9d, {0x1f2d, 0x0399}, {0x1f9d}},
    {0x1f9e, {0x1f2e, 0x0399}, {0x1f9e}},
    {0x1f9f, {0x1f2f, 0x0399}, {0x1f9f}},
    {0x1fa0, {0x1f68, 0x0399}, {0x1fa8}},
    {0x1fa1, {0x1f69, 0x0399}, {0x1fa9}},
    {0x1fa2, {0x1f6a, 0x0399}, {0x1faa}},
    {0x1fa3, {0x1f6b, 0x0399}, {0x1fab}},
    {0x1fa4, {0x1f6c, 0x0399}, {0x1fac}},
    {0x1fa5, {0x1f6d, 0x0399}, {0x1fad}},
    {0x1fa6, {0x1f6e, 0x0399}, {0x1fae}},
    {0x1fa7, {0x1f6f, 0x0399}, {0x1faf}},
    {0x1fa8, {0x1f68, 0x0399}, {0x1fa8}},
    {0x1fa9, {0x1f69, 0x0399}, {0x1fa9}},
    {0x1faa, {0x1f6a, 0x0399}, {0x1faa}},
    {0x1fab, {0x1f6b, 0x0399}, {0x1fab}},
    {0x1fac, {0x1f6c, 0x0399}, {0x1fac}},
    {0x1fad, {0x1f6d, 0x0399}, {0x1fad}},
    {0x1fae, {0x1f6e, 0x0399}, {0x1fae}},
    {0x1faf, {0x1f6f, 0x0399}, {0x1faf}},
    {0x1fb2, {0x1fba, 0x0399}, {0x1fba, 0x0345}},
    {0x1fb3, {0x0391, 0x0399}, {0x1fbc}},
    {0x1fb4, {0x0386, 0x0399}, {0x0386, 0x0345}},
    {0x1fb6, {0x0391, 0x0342}, {0x0391, 0x0342}},
    {0x1fb7, {0x0391, 0x0342, 0x0399}, {0x0391, 0x0342, 0x0345}},
    {0x1fbc, {0x0391, 0x0399}, {0x1fbc}},
    {0x1fc2, {0x1fca, 0x0399}, {0x1fca, 0x0345}},
    {0x1fc3, {0x0397, 0x0399}, {0x1fcc}},
    {0x1fc4, {0x0389, 0x0399}, {0x0389, 0x0345}},
    {0x1fc6, {0x0397, 0x0342}, {0x0397, 0x0342}},
    {0x1fc7, {0x0397, 0x0342, 0x0399}, {0x0397, 0x0342, 0x0345}},
    {0x1fcc, {0x0397, 0x0399}, {0x1fcc}},
    {0x1fd2, {0x0399, 0x0308, 0x0300}, {0x0399, 0x0308, 0x0300}},
    {0x1fd3, {0x0399, 0x0308, 0x0301}, {0x0399, 0x0308, 0x0301}},
    {0x1fd6, {0x0399, 0x0342}, {0x0399, 0x0342}},
    {0x1fd7, {0x0399, 0x0308, 0x0342}, {0x0399, 0x0308, 0x0342}},
    {0x1fe2, {0x03a5, 0x0308, 0x0300}, {0x03a5, 0x0308, 0x0300}},
    {0x1fe3, {0x03a5, 0x0308, 0x0301}, {0x03a5, 0x0308, 0x0301}},
    {0x1fe4, {0x03a1, 0x0313}, {0x03a1, 0x0313}},
    {0x1fe6, {0x03a5, 0x0342}, {0x03a5, 0x0342}},
    {0x1fe7, {0x03a5, 0x0308, 0x0342}, {0x03a5, 0x0308, 0x0342}},
    {0x1ff2, {0x1ffa, 0x0399}, {0x1ffa, 0x0345}},
    {0x1ff3, {0x03a9, 0x0399}, {0x1ffc}},
    {0x1ff4, {0x038f, 0x0399}, {0x038f, 0x0345}},
    {0x1ff6, {0x03a9, 0x0342}, {0x03a9, 0x0342}},
    {0x1ff7, {0x03a9, 0x0342, 0x0399}, {0x03a9, 0x0342, 0x0345}},
    {0x1ffc, {0x03a9, 0x0399}, {0x1ffc}},
    {0xfb00, {0x0046, 0x0046}, {0x0046, 0x0066}},
    {0xfb01, {0x0046, 0x0049}, {0x0046, 0x0069}},
    {0xfb02, {0x0046, 0x004c}, {0x0046, 0x006c}},
    {0xfb03, {0x0046, 0x0046, 0x0049}, {0x0046, 0x0066, 0x0069}},
    {0xfb04, {0x0046, 0x0046, 0x004c}, {0x0046, 0x0066, 0x006c}},
    {0xfb05, {0x0053, 0x0054}, {0x0053, 0x0074}},
    {0xfb06, {0x0053, 0x0054}, {0x0053, 0x0074}},
    {0xfb13, {0x0544, 0x0546}, {0x0544, 0x0576}},
    {0xfb14, {0x0544, 0x0535}, {0x0544, 0x0565}},
    {0xfb15, {0x0544, 0x053b}, {0x0544, 0x056b}},
    {0xfb16, {0x054e, 0x0546}, {0x054e, 0x0576}},
    {0xfb17, {0x0544, 0x053d}, {0x0544, 0x056d}},
};

static utf8proc_category_t point_category(uint32_t point)
{
    return utf8proc_category((utf8proc_int32_t)point);
}

bool point_is_space(uint32_t point)
{
    return (point >= 0x09 && point <= 0x0d) || (point >= 0x1c && point <= 0x20) || point == 0x85 ||
           point == 0xa0 || point == 0x1680 || (point >= 0x2000 && point <= 0x200a) ||
           point == 0x2028 || point == 0x2029 || point == 0x202f || point == 0x205f ||
           point == 0x3000;
}

bool point_is_line_end(uint32_t point)
{
    return (point >= 0x0a && point <= 0x0d) || (point >= 0x1c && point <= 0x1e) || point == 0x85 ||
           point == 0x2028 || point == 0x2029;
}

bool point_is_printable(uint32_t point)
{
    utf8proc_category_t category = point_category(point);
    return point == ' ' || (category != UTF8PROC_CATEGORY_CN && category < UTF8PROC_CATEGORY_ZS);
}

bool point_is_upper(uint32_t point)
{
    return utf8proc_isupper((utf8proc_int32_t)point) != 0;
}

bool point_is_lower(uint32_t point)
{
    return utf8proc_islower((utf8proc_int32_t)point) != 0;
}

bool point_is_title(uint32_t point)
{
    return point_category(point) == UTF8PROC_CATEGORY_LT;
}

bool point_is_alpha(uint32_t point)
{
    utf8proc_category_t category = point_category(point);
    return category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LO;
}

bool point_is_decimal(uint32_t point)
{
    return point_category(point) == UTF8PROC_CATEGORY_ND;
}

bool point_is_digit(uint32_t point)
{
    return point_is_decimal(point) || point == 0xb2 || point == 0xb3 || point == 0xb9 ||
           point == 0x2070 || (point >= 0x2074 && point <= 0x2079) ||
           (point >= 0x2080 && point <= 0x2089);
}

bool point_is_numeric(uint32_t point)
{
    utf8proc_category_t category = point_category(point);
    return category >= UTF8PROC_CATEGORY_ND && category <= UTF8PROC_CATEGORY_NO;
}

bool point_is_alnum(uint32_t point)
{
    return point_is_alpha(point) || point_is_numeric(point);
}

static const struct special_case *special_case_find(uint32_t point)
{
    size_t low = 0, high = sizeof(special_cases) / sizeof(special_cases[0]);
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (special_cases[middle].point == point)
            return &special_cases[middle];
        if (special_cases[middle].point < point)
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}

static size_t put_points(char *to, const uint32_t *points)
{
    size_t used = 0;
    for (size_t i = 0; i < 3 && points[i] != 0; i++)
        used += text_append(to + used, points[i]);
    return used;
}

static size_t put_upper(char *to, uint32_t point)
{
    const struct special_case *special = point < 0x80 ? NULL : special_case_find(point);
    if (special != NULL)
        return put_points(to, special->upper);
    return text_append(to, (uint32_t)utf8proc_toupper((utf8proc_int32_t)point));
}

static size_t put_title(char *to, uint32_t point)
{
    const struct special_case *special = point < 0x80 ? NULL : special_case_find(point);
    if (special != NULL)
        return put_points(to, special->title);
    return text_append(to, (uint32_t)utf8proc_totitle((utf8proc_int32_t)point));
}

/* Skipped when looking around a sigma: marks, modifiers and the punctuation inside words. */
static bool point_is_case_ignorable(uint32_t point)
{
    utf8proc_category_t category = point_category(point);
    return category == UTF8PROC_CATEGORY_MN || category == UTF8PROC_CATEGORY_ME ||
           category == UTF8PROC_CATEGORY_CF || category == UTF8PROC_CATEGORY_LM ||
           category == UTF8PROC_CATEGORY_SK || point == '\'' || point == '.' || point == ':' ||
           point == 0xb7 || point == 0x2018 || point == 0x2019 || point == 0x2024 ||
           point == 0x2027;
}

static bool point_is_cased(uint32_t point)
{
    return point_is_upper(point) || point_is_lower(point) || point_is_title(point);
}

/* A sigma that ends a word: a cased letter before it and none after. */
static bool sigma_is_final(struct machine *m, const struct text *text, size_t at, size_t after)
{
    bool before = false;
    for (size_t from = at; from > 0 && !before;) {
        machine_spend(m, 1);
        do
            from--;
        while (((unsigned char)text->data[from] & 0xc0) == 0x80);
        size_t next = from;
        uint32_t point = text_next(text->data, &next);
        if (point_is_case_ignorable(point))
            continue;
        before = point_is_cased(point);
        break;
    }
    while (before && after < text->bytes) {
        machine_spend(m, 1);
        uint32_t point = text_next(text->data, &after);
        if (!point_is_case_ignorable(point))
            return !point_is_cased(point);
    }
    return before;
}

static size_t put_lower(struct machine *m, char *to, const struct text *text, size_t at,
                        size_t after, uint32_t point)
{
    if (point == 0x130) {
        size_t used = text_append(to, 'i');
        return used + text_append(to + used, 0x307);
    }
    if (point == 0x3a3)
        return text_append(to, sigma_is_final(m, text, at, after) ? 0x3c2 : 0x3c3);
    return text_append(to, (uint32_t)utf8proc_tolower((utf8proc_int32_t)point));
}

const struct text *text_to_case(struct machine *m, const struct text *text, enum text_case to)
{
    /* At most three points of three bytes for one of two, or three for one byte. */
    char *data = machine_take_array(m, text->bytes, 6);
    machine_spend(m, text->bytes / 4);
    size_t used = 0;
    bool in_word = false;
    for (size_t at = 0; at < text->bytes;) {
        size_t from = at;
        uint32_t point = text_next(text->data, &at);
        enum text_case now = to;
        if (to == TEXT_CAPITALIZE)
            now = from == 0 ? TEXT_TITLE : TEXT_LOWER;
        else if (to == TEXT_TITLE)
            now = in_word ? TEXT_LOWER : TEXT_TITLE;
        else if (to == TEXT_SWAP)
            now = point_is_upper(point) ? TEXT_LOWER : TEXT_UPPER;
        in_word = point_is_cased(point);
        if (now == TEXT_UPPER)
            used += put_upper(data + used, point);
        else if (now == TEXT_TITLE)
            used += put_title(data + used, point);
        else
            used += put_lower(m, data + used, text, from, at, point);
    }
    return text_marked(m, text_over(m, data, used), text->markup);
}
