/* backend/cpu/angles.h - cosines and sines of rotary positions.
 *
 *     angle(position, i) = position * theta^(-2i / dims) / factor[i]       i = 0 .. dims / 2 - 1
 *
 * Computed in double by basic operations alone, not by the system's libm, so that every machine has
 * the same bits; the error stays below 1e-9 up to a million positions, then it is rounded to float.
 *
 * Threads: any, after open. Memory: frequencies belong to the caller.
 * Source:  Su et al., RoFormer (2021).
 */
#ifndef BACKEND_CPU_ANGLES_H
#define BACKEND_CPU_ANGLES_H

#include <stdint.h>

/* dims / 2 frequencies; factors may be NULL. */
void angles_frequencies(float theta, uint32_t dims, const float *factors, double *frequencies_out);

/* count cosines and sines of position * frequencies. */
void angles_at(uint32_t position, const double *frequencies, uint32_t count, float *cosines_out,
               float *sines_out);

#endif
