/* base/clock.h - time for deadlines and measures. Threads: any. */
#ifndef BASE_CLOCK_H
#define BASE_CLOCK_H

#include <stdint.h>

/* Nanoseconds of CLOCK_MONOTONIC: for every wait, deadline and duration. The same clock in all
 * processes of one host. */
uint64_t clock_ns(void);

/* Seconds since 1970: only for what people read ("created", log lines). */
uint64_t clock_wall_s(void);

#endif
