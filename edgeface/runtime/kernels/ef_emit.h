/* Rows of pixels on their way into what a net takes. */
#ifndef EF_EMIT_H
#define EF_EMIT_H

#include "ef_rows.h"

/* As the outputs in edgeface/runtime/kernels/pictures.py: float32 planes, int8 pixels and uint8 pixels. */
enum { EF_PLANES, EF_SIGNED_PIXELS, EF_PIXELS };

enum { EF_PADDING = 128 };

/* Where rows go: planes of float32 `area` values apart, or interleaved bytes; rows are `step` pixels apart. */
typedef struct {
    int32_t output;
    void *out;
    int64_t step, area;
    float mean, scale;
} ef_sink;

static inline int ef_is_output(int32_t output) { return output >= EF_PLANES && output <= EF_PIXELS; }

/* What turns a byte into one of EF_SIGNED_PIXELS or EF_PIXELS. */
static inline uint8_t ef_flip(const ef_sink *s) { return s->output == EF_SIGNED_PIXELS ? 0x80 : 0; }

/* n pixels of planar b, g, r at the beginning of row y. */
static inline void ef_emit(const ef_sink *s, int64_t y, int32_t n, const uint8_t *const rows[3])
{
    if (s->output != EF_PLANES) {
        ef_interleave(n, rows[0], rows[1], rows[2], ef_flip(s), (uint8_t *)s->out + y * s->step * 3);
        return;
    }
    for (int32_t k = 0; k < 3; k++)
        ef_normalise(n, rows[k], s->mean, s->scale, (float *)s->out + k * s->area + y * s->step);
}

/* n pixels of padding from column x on in row y. */
static inline void ef_emit_padding(const ef_sink *s, int64_t y, int32_t x, int32_t n)
{
    if (s->output != EF_PLANES) {
        memset((uint8_t *)s->out + (y * s->step + x) * 3, EF_PADDING ^ ef_flip(s), (size_t)n * 3);
        return;
    }
    float value = ((float)EF_PADDING - s->mean) * s->scale;
    for (int32_t k = 0; k < 3; k++) {
        float *to = (float *)s->out + k * s->area + y * s->step + x;
        for (int32_t i = 0; i < n; i++)
            to[i] = value;
    }
}

#endif
