#include "backend/cpu/angles.h"

#include <math.h>
#include <stddef.h>

#define LN2 0x1.62e42fefa39efp-1
#define LN2_HIGH 0x1.62e42fee00000p-1
#define LN2_LOW 0x1.a39ef35793c76p-33

/* pi / 2 in three parts; the first two have 33 bits, so their products with n < 2^20 are exact. */
#define HALF_PI_1 0x1.921fb54400000p+0
#define HALF_PI_2 0x1.0b4611a600000p-34
#define HALF_PI_3 0x1.3198a2e037073p-69
#define TWO_OVER_PI 0x1.45f306dc9c883p-1

/* ln x = 2 (s + s^3/3 + s^5/5 + ...) + n ln 2, with s = (m - 1) / (m + 1) and x = m 2^n. */
static double natural_log(double x)
{
    int n;
    double m = frexp(x, &n);
    if (m < 0.70710678118654752) {
        m *= 2;
        n--;
    }
    double s = (m - 1) / (m + 1);
    double square = s * s;
    double sum = 0;
    for (int i = 27; i >= 1; i -= 2)
        sum = sum * square + 1.0 / i;
    return 2 * s * sum + n * LN2;
}

static double exponential(double x)
{
    double n = floor(x / LN2 + 0.5);
    double r = x - n * LN2_HIGH - n * LN2_LOW;
    double sum = 1;
    for (int i = 16; i >= 1; i--)
        sum = 1 + sum * r / i;
    return ldexp(sum, (int)n);
}

void angles_frequencies(float theta, uint32_t dims, const float *factors, double *frequencies_out)
{
    double step = natural_log((double)theta) / (double)dims;
    for (uint32_t i = 0; i < dims / 2; i++) {
        double frequency = exponential(-2.0 * i * step);
        frequencies_out[i] = factors != NULL ? frequency / (double)factors[i] : frequency;
    }
}

static void sine_cosine(double angle, double *sine_out, double *cosine_out)
{
    double n = floor(angle * TWO_OVER_PI + 0.5);
    double r = ((angle - n * HALF_PI_1) - n * HALF_PI_2) - n * HALF_PI_3;
    double square = r * r;
    double sine = 0, cosine = 0;
    for (int i = 18; i >= 2; i -= 2) {
        sine = (sine + 1) * -square / (i * (i + 1));
        cosine = (cosine + 1) * -square / ((i - 1) * i);
    }
    sine = (sine + 1) * r;
    cosine = cosine + 1;
    switch ((uint64_t)n & 3) {
    case 0:
        *sine_out = sine;
        *cosine_out = cosine;
        break;
    case 1:
        *sine_out = cosine;
        *cosine_out = -sine;
        break;
    case 2:
        *sine_out = -sine;
        *cosine_out = -cosine;
        break;
    default:
        *sine_out = -cosine;
        *cosine_out = sine;
        break;
    }
}

void angles_at(uint32_t position, const double *frequencies, uint32_t count, float *cosines_out,
               float *sines_out)
{
    for (uint32_t i = 0; i < count; i++) {
        double sine, cosine;
        sine_cosine((double)position * frequencies[i], &sine, &cosine);
        sines_out[i] = (float)sine;
        cosines_out[i] = (float)cosine;
    }
}
