#include "base/cpus.h"

#include <errno.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"

void cpus_allowed(struct cpus *cpus_out)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    cpus_out->count = 0;
    if (sched_getaffinity(0, sizeof(set), &set) != 0)
        CPU_SET(0, &set);
    for (uint32_t id = 0; id < CPUS_MAX; id++) {
        if (CPU_ISSET(id, &set))
            cpus_out->ids[cpus_out->count++] = id;
    }
}

/* One number at *at, moved past it. */
static bool cpus_number(const char **at, uint32_t *number_out)
{
    if (**at < '0' || **at > '9')
        return false;
    char *end;
    unsigned long number = strtoul(*at, &end, 10);
    if (number >= CPUS_MAX)
        return false;
    *at = end;
    *number_out = (uint32_t)number;
    return true;
}

/* The numbers of a list, as flags. */
static bool cpus_flags(const char *text, bool wanted[CPUS_MAX])
{
    const char *at = text;
    for (;;) {
        uint32_t first, last;
        if (!cpus_number(&at, &first))
            return false;
        last = first;
        if (*at == '-') {
            at++;
            if (!cpus_number(&at, &last) || last < first)
                return false;
        }
        for (uint32_t id = first; id <= last; id++)
            wanted[id] = true;
        if (*at == '\0')
            return true;
        if (*at++ != ',')
            return false;
    }
}

status cpus_list(const char *text, struct cpus *cpus_out)
{
    bool wanted[CPUS_MAX] = {false};
    if (text[0] != '\0' && !cpus_flags(text, wanted))
        return error_set(ERR_BAD_INPUT, "expected a list of numbers such as 0-3,8, found \"%s\"",
                         text);
    cpus_out->count = 0;
    for (uint32_t id = 0; id < CPUS_MAX; id++) {
        if (wanted[id])
            cpus_out->ids[cpus_out->count++] = id;
    }
    return OK;
}

status cpus_parse(const char *text, struct cpus *cpus_out)
{
    bool wanted[CPUS_MAX] = {false};
    if (!cpus_flags(text, wanted))
        return error_set(ERR_BAD_INPUT, "expected a list of cores such as 0-3,8, found \"%s\"",
                         text);

    struct cpus allowed;
    cpus_allowed(&allowed);
    struct cpus cpus = {.count = 0};
    for (uint32_t i = 0; i < allowed.count; i++) {
        if (wanted[allowed.ids[i]]) {
            wanted[allowed.ids[i]] = false;
            cpus.ids[cpus.count++] = allowed.ids[i];
        }
    }
    for (uint32_t id = 0; id < CPUS_MAX; id++) {
        if (wanted[id])
            return error_set(ERR_BAD_INPUT,
                             "core %u of \"%s\" is not one this process may use "
                             "(see taskset -p)",
                             id, text);
    }
    *cpus_out = cpus;
    return OK;
}

void cpus_format(const struct cpus *cpus, char *text, size_t bytes)
{
    size_t used = 0;
    text[0] = '\0';
    for (uint32_t i = 0; i < cpus->count && used < bytes; i++) {
        uint32_t last = i;
        while (last + 1 < cpus->count && cpus->ids[last + 1] == cpus->ids[last] + 1)
            last++;
        int more = last > i ? snprintf(text + used, bytes - used, "%s%u-%u", used > 0 ? "," : "",
                                       cpus->ids[i], cpus->ids[last])
                            : snprintf(text + used, bytes - used, "%s%u", used > 0 ? "," : "",
                                       cpus->ids[i]);
        used += (size_t)more;
        i = last;
    }
}

void cpus_share(const struct cpus *cpus, uint32_t part, uint32_t parts, struct cpus *share_out)
{
    share_out->count = 0;
    if (cpus->count < parts) {
        share_out->ids[share_out->count++] = cpus->ids[part % cpus->count];
        return;
    }
    uint32_t first = (uint32_t)((uint64_t)cpus->count * part / parts);
    uint32_t end = (uint32_t)((uint64_t)cpus->count * (part + 1) / parts);
    while (first < end)
        share_out->ids[share_out->count++] = cpus->ids[first++];
}

status cpus_bind(const struct cpus *cpus)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    for (uint32_t i = 0; i < cpus->count; i++)
        CPU_SET(cpus->ids[i], &set);
    if (sched_setaffinity(0, sizeof(set), &set) != 0)
        return error_set(ERR_IO, "cannot bind to the given cores: %s", strerror(errno));
    return OK;
}
