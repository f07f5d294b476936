/* backend/cpu/bf16_check.h - do a table's products of bf16 numbers have the bits of the class
 * cpu-bf16? Asked of instructions whose makers define them, before they are used: what a processor
 * does with sums that vanish or nearly vanish is written in its documents and nowhere else.
 *
 * Threads: any. Cost: some milliseconds. Memory: on the stack.
 */
#ifndef BACKEND_CPU_BF16_CHECK_H
#define BACKEND_CPU_BF16_CHECK_H

#include <stdbool.h>

#include "backend/cpu/kernels.h"

bool bf16_check(const struct kernels *kernels);

#endif
