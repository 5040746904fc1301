/* What a net per face sees of a map: patches at points, and aligned regions: edgeface/runtime/roi.py. */
#include "ef_maps.h"

EF_API int32_t ef_gather_patches(
    const ef_map *map, int32_t points, const int64_t *row, const int64_t *column, int32_t patch, float *out);

/* Where one sample lies along one axis: between `low` and `high`, nearer to the one with the larger weight. */
typedef struct {
    int32_t low, high;      /* low is -1 for a sample outside the map, which counts as 0 */
    float low_weight, high_weight;
} ef_sample;

EF_API int32_t ef_roi_align(
    const ef_map *map, int32_t regions, const float *boxes, float spatial_scale, int32_t out_h, int32_t out_w,
    int32_t sampling, ef_sample *samples, float *out);

/* patch x patch values round each of `points` positions, zero outside: (C, patch, patch * points). */
int32_t ef_gather_patches(
    const ef_map *map, int32_t points, const int64_t *row, const int64_t *column, int32_t patch, float *out)
{
    if (patch < 1 || points < 0)
        return EF_REFUSED;
    int64_t length = (int64_t)patch * points;
    for (int32_t i = 0; i < points; i++) {
        if (row[i] < 0 || row[i] >= map->height || column[i] < 0 || column[i] >= map->width)
            return EF_REFUSED;
        int64_t top = row[i] - patch / 2, left = column[i] - patch / 2;
        /* The part of the patch that is on the map. */
        int64_t y0 = top < 0 ? -top : 0, y1 = map->height - top < patch ? map->height - top : patch;
        int64_t x0 = left < 0 ? -left : 0, x1 = map->width - left < patch ? map->width - left : patch;
        for (int32_t c = 0; c < map->channels; c++) {
            float *to = out + c * patch * length + (int64_t)i * patch;
            for (int64_t y = 0; y < patch; y++, to += length) {
                int64_t end = y >= y0 && y < y1 ? x1 : 0, x = 0;
                for (; x < x0 && x < end; x++)
                    to[x] = 0.0f;
                if (x < end) {
                    int64_t at = ef_place(map, c, top + y, left + x);
                    for (; x < end; x++, at += map->step_x)
                        to[x] = ef_value(map, at);
                }
                for (; x < patch; x++)
                    to[x] = 0.0f;
            }
        }
    }
    return EF_DONE;
}

/* `bins` bins of `sampling` samples each from `start` on; the samples of one axis of one region. */
static void place_samples(
    float start, float end, int32_t bins, int32_t sampling, int32_t length, ef_sample *samples)
{
    float bin = (end - start) / (float)bins;
    for (int32_t b = 0; b < bins; b++)
        for (int32_t i = 0; i < sampling; i++) {
            float at = start + (float)b * bin + ((float)i + 0.5f) * bin / (float)sampling;
            ef_sample *s = samples++;
            if (!(at >= -1.0f && at <= (float)length)) {
                *s = (ef_sample){-1, -1, 0.0f, 0.0f};
                continue;
            }
            at = at > 0.0f ? at : 0.0f;
            s->low = ef_min((int32_t)at, length - 1);
            s->high = ef_min(s->low + 1, length - 1);
            s->high_weight = s->high == s->low ? 0.0f : at - (float)s->low;
            s->low_weight = 1.0f - s->high_weight;
        }
}

/* Averages over out_h x out_w bins of regions (n, 4): (n, C, out_h, out_w). Room: `samples` for (out_h + out_w) *
 * sampling. */
int32_t ef_roi_align(
    const ef_map *map, int32_t regions, const float *boxes, float spatial_scale, int32_t out_h, int32_t out_w,
    int32_t sampling, ef_sample *samples, float *out)
{
    if (regions < 0 || out_h < 1 || out_w < 1 || sampling < 1 || map->height < 1 || map->width < 1)
        return EF_REFUSED;
    ef_sample *across = samples + (int64_t)out_h * sampling;
    float count = (float)sampling * (float)sampling;
    for (int32_t n = 0; n < regions; n++) {
        const float *box = boxes + 4 * (int64_t)n;
        place_samples(box[1] * spatial_scale - 0.5f, box[3] * spatial_scale - 0.5f, out_h, sampling, map->height, samples);
        place_samples(box[0] * spatial_scale - 0.5f, box[2] * spatial_scale - 0.5f, out_w, sampling, map->width, across);
        for (int32_t c = 0; c < map->channels; c++)
            for (int32_t by = 0; by < out_h; by++)
                for (int32_t bx = 0; bx < out_w; bx++) {
                    float sum = 0.0f;
                    for (int32_t iy = 0; iy < sampling; iy++)
                        for (int32_t ix = 0; ix < sampling; ix++) {
                            const ef_sample *y = &samples[by * sampling + iy], *x = &across[bx * sampling + ix];
                            if (y->low < 0 || x->low < 0)
                                continue;
                            float v1 = ef_value(map, ef_place(map, c, y->low, x->low));
                            float v2 = ef_value(map, ef_place(map, c, y->low, x->high));
                            float v3 = ef_value(map, ef_place(map, c, y->high, x->low));
                            float v4 = ef_value(map, ef_place(map, c, y->high, x->high));
                            sum += y->low_weight * x->low_weight * v1 + y->low_weight * x->high_weight * v2
                                + y->high_weight * x->low_weight * v3 + y->high_weight * x->high_weight * v4;
                        }
                    *out++ = sum / count;
                }
    }
    return EF_DONE;
}
