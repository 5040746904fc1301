/* exp and the logistic function in float32 by one specification, edgeface/runtime/exponential.py: +, -, *, / and integer
 * assembly of exponents, so that every processor and NumPy give the same bits. */
#ifndef EF_EXP_H
#define EF_EXP_H

#include "ef_common.h"

#include <string.h>

static inline uint32_t ef_bits(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline float ef_from_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline float ef_exp(float x)
{
    const float shift = 12582912.0f;        /* 1.5 * 2^23: what is added to it is rounded to an integer */
    x = x > 89.0f ? 89.0f : x;
    x = x < -104.0f ? -104.0f : x;
    float moved = x * 1.44269502f + shift;
    float n = moved - shift;
    float r = (x - n * 0.693359375f) - n * -2.12194442e-4f;
    float p = 1.98756912e-4f;
    p = p * r + 1.39819994e-3f;
    p = p * r + 8.33345205e-3f;
    p = p * r + 4.16657962e-2f;
    p = p * r + 1.66666657e-1f;
    p = p * r + 5.00000012e-1f;
    p = ((p * r) * r + r) + 1.0f;
    /* 2^n in two halves, because n reaches from -150 to 128. Unsigned: what a NaN leaves here is any bits. */
    uint32_t whole = ef_bits(moved) - ef_bits(shift) + 256u;
    uint32_t half = whole >> 1;
    return (p * ef_from_bits((half - 1u) << 23)) * ef_from_bits((whole - half - 1u) << 23);
}

/* Where x is negative both exponentials are of numbers up to 0, so that none overflows. */
static inline float ef_sigmoid_of(float x)
{
    float small = ef_exp(x >= 0.0f ? -x : x);
    return x >= 0.0f ? 1.0f / (1.0f + small) : small / (1.0f + small);
}

#endif
