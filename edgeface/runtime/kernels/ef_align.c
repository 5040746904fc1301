/* Crops of faces by a similarity transform, by the specification at the top of edgeface/runtime/align.py. */
#include "ef_colour.h"
#include "ef_formats.h"

enum { EF_CROP_MAX = 4096, EF_MAP = 6, EF_Y_BLACK = 16, EF_UV_BLACK = 128 };

#define EF_MAP_MAX ((int64_t)1 << 44)

/* Samples of one geometry: from[row * row_step + column * step + channel * apart]. */
typedef struct {
    const uint8_t *from;
    int64_t row_step;
    int32_t step, channels, apart, width, height;
    uint8_t black;
} ef_samples;

static inline int32_t ef_weighted(int32_t a, int32_t b, int32_t c, int32_t d, int32_t wx, int32_t wy)
{
    int32_t top = a * (256 - wx) + b * wx, bottom = c * (256 - wx) + d * wx;
    return (top * (256 - wy) + bottom * wy + (1 << 15)) >> 16;
}

static inline int32_t ef_sample(const ef_samples *s, int64_t row, int64_t column, int32_t channel)
{
    if (row < 0 || row >= s->height || column < 0 || column >= s->width)
        return s->black;
    return s->from[row * s->row_step + column * s->step + channel * s->apart];
}

/* The value at a place in 256ths of a pixel, anywhere. */
static inline uint8_t ef_at_edge(const ef_samples *s, int64_t x, int64_t y, int32_t channel)
{
    int64_t column = x >> 8, row = y >> 8;
    return (uint8_t)ef_weighted(
        ef_sample(s, row, column, channel), ef_sample(s, row, column + 1, channel),
        ef_sample(s, row + 1, column, channel), ef_sample(s, row + 1, column + 1, channel), (int32_t)(x & 255),
        (int32_t)(y & 255));
}

static inline int ef_within(const ef_samples *s, int64_t x, int64_t y)
{
    return x >= 0 && y >= 0 && (x >> 8) + 1 < s->width && (y >> 8) + 1 < s->height;
}

/* n samples of crop row Y, planar with n bytes a channel. */
static void ef_sample_row(const ef_samples *s, const int64_t *m, int32_t row, int32_t n, uint8_t *restrict to)
{
    int64_t x = m[1] * row + m[2] + 128, y = m[4] * row + m[5] + 128;
    int64_t last_x = (x + m[0] * (n - 1)) >> 8, last_y = (y + m[3] * (n - 1)) >> 8;
    /* The row is a straight line: what holds at both ends holds between them. */
    int within = ef_within(s, x >> 8, y >> 8) && ef_within(s, last_x, last_y);
    for (int32_t i = 0; i < n; i++, x += m[0], y += m[3]) {
        int64_t px = x >> 8, py = y >> 8;
        if (within) {
            const uint8_t *at = s->from + (py >> 8) * s->row_step + (px >> 8) * s->step;
            int32_t wx = (int32_t)(px & 255), wy = (int32_t)(py & 255);
            for (int32_t c = 0; c < s->channels; c++, at += s->apart)
                to[c * n + i] = (uint8_t)ef_weighted(
                    at[0], at[s->step], at[s->row_step], at[s->row_step + s->step], wx, wy);
        } else {
            for (int32_t c = 0; c < s->channels; c++)
                to[c * n + i] = ef_at_edge(s, px, py, c);
        }
    }
}

static void ef_crop(
    int32_t format, const ef_samples samples[2], const int64_t *maps, int32_t size, uint8_t *restrict out)
{
    uint8_t rows[3 * EF_CROP_MAX], bgr[3 * EF_CROP_MAX];
    for (int32_t y = 0; y < size; y++, out += 3 * size) {
        const uint8_t *b = rows, *g = rows, *r = rows;
        ef_sample_row(&samples[0], maps, y, size, rows);
        if (ef_has_chroma(format)) {
            ef_sample_row(&samples[1], maps + EF_MAP, y, size, rows + size);
            ef_yuv_to_bgr(size, rows, rows + size, rows + 2 * size, bgr, bgr + size, bgr + 2 * size);
            b = bgr, g = bgr + size, r = bgr + 2 * size;
        } else if (format != EF_GREY) {
            b = format == EF_BGR ? rows : rows + 2 * size;
            g = rows + size;
            r = format == EF_BGR ? rows + 2 * size : rows;
        }
        for (int32_t x = 0; x < size; x++) {
            out[3 * x] = b[x];
            out[3 * x + 1] = g[x];
            out[3 * x + 2] = r[x];
        }
    }
}

EF_API int32_t ef_align(
    int32_t format, const uint8_t *first, int64_t first_step, const uint8_t *second, int64_t second_step, int32_t width,
    int32_t height, const int64_t *maps, int64_t count, int32_t size, uint8_t *out);

/* `maps` is (count, 2, 6), `out` uint8 (count, size, size, 3). */
int32_t ef_align(
    int32_t format, const uint8_t *first, int64_t first_step, const uint8_t *second, int64_t second_step, int32_t width,
    int32_t height, const int64_t *maps, int64_t count, int32_t size, uint8_t *out)
{
    if (count < 0 || size < 1 || size > EF_CROP_MAX || !first || (format == EF_NV12 && !second))
        return EF_REFUSED;
    if (!ef_is_format(format) || !ef_fits_format(format, width, height))
        return EF_REFUSED;
    for (int64_t i = 0; i < count * 2 * EF_MAP; i++)
        if (maps[i] <= -EF_MAP_MAX || maps[i] >= EF_MAP_MAX)
            return EF_REFUSED;
    int32_t step = ef_pixel_step(format);
    ef_samples samples[2] = {
        {.from = first, .row_step = first_step, .step = step, .channels = step == 3 ? 3 : 1, .apart = 1, .width = width,
         .height = height, .black = ef_has_chroma(format) ? EF_Y_BLACK : 0},
        {.from = format == EF_NV12 ? second : first + 1, .row_step = format == EF_NV12 ? second_step : first_step,
         .step = format == EF_NV12 ? 2 : 4, .channels = 2, .apart = format == EF_NV12 ? 1 : 2, .width = width / 2,
         .height = format == EF_NV12 ? height / 2 : height, .black = EF_UV_BLACK}};
    for (int64_t i = 0; i < count; i++)
        ef_crop(format, samples, maps + i * 2 * EF_MAP, size, out + i * 3 * (int64_t)size * size);
    return EF_DONE;
}
