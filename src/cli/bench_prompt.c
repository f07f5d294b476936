#include "cli/bench_prompt.h"

/* Special tokens and single bytes are among the first ids of a vocabulary, or the last. */
#define SPECIAL_TOKENS 1000

#define WORD_COUNT 128

static const char *const words[WORD_COUNT] = {
    "time",     "year",    "people",   "way",    "day",     "man",      "thing",   "woman",
    "life",     "child",   "world",    "school", "state",   "family",   "student", "group",
    "country",  "problem", "hand",     "part",   "place",   "case",     "week",    "company",
    "system",   "program", "question", "work",   "number",  "night",    "point",   "home",
    "water",    "room",    "mother",   "area",   "money",   "story",    "fact",    "month",
    "lot",      "right",   "study",    "book",   "eye",     "job",      "word",    "business",
    "issue",    "side",    "kind",     "head",   "house",   "service",  "friend",  "father",
    "power",    "hour",    "game",     "line",   "end",     "member",   "law",     "car",
    "city",     "name",    "team",     "minute", "idea",    "body",     "back",    "parent",
    "face",     "others",  "level",    "office", "door",    "health",   "person",  "art",
    "war",      "history", "party",    "result", "change",  "morning",  "reason",  "research",
    "girl",     "guy",     "moment",   "air",    "teacher", "force",    "foot",    "boy",
    "age",      "policy",  "music",    "market", "sense",   "nation",   "plan",    "college",
    "interest", "death",   "effect",   "use",    "class",   "control",  "field",   "role",
    "effort",   "rate",    "heart",    "drug",   "show",    "leader",   "light",   "voice",
    "wife",     "police",  "mind",     "price",  "report",  "decision", "son",     "view",
};

uint64_t bench_random_next(struct bench_random *random)
{
    uint64_t z = random->state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

double bench_random_unit(struct bench_random *random)
{
    return (double)((bench_random_next(random) >> 11) + 1) * 0x1p-53;
}

/* Two rounds, so that neighbouring ids of neighbouring seeds have nothing in common. */
static struct bench_random piece_random(uint64_t seed, uint64_t id)
{
    struct bench_random outer = {.state = seed};
    struct bench_random inner = {.state = bench_random_next(&outer) ^ id};
    return (struct bench_random){.state = bench_random_next(&inner)};
}

void prompt_write(struct text *to, const struct prompt_kind *kind,
                  const struct prompt_piece *pieces, size_t piece_count)
{
    const char *separator = "";
    uint32_t least = kind->vocabulary > 2 * SPECIAL_TOKENS ? SPECIAL_TOKENS : kind->vocabulary / 2;
    text_put(to, kind->as_text ? "\"" : "[");
    for (size_t i = 0; i < piece_count; i++) {
        struct bench_random random = piece_random(kind->seed, pieces[i].id);
        for (uint32_t k = 0; k < pieces[i].tokens; k++) {
            uint64_t number = bench_random_next(&random);
            text_put(to, separator);
            if (kind->as_text) {
                text_put(to, words[number % WORD_COUNT]);
                separator = " ";
            } else {
                text_format(to, "%u", (unsigned)(least + number % (kind->vocabulary - least)));
                separator = ",";
            }
        }
    }
    text_put(to, kind->as_text ? "\"" : "]");
}
