/* Points from heatmaps by the specification in edgeface/runtime/decode/heatmaps.py. */
#include "ef_exp.h"
#include "ef_maps.h"

enum { EF_NOT_FINITE = -3 };

EF_API int32_t ef_heatmap_points(
    const ef_map *map, int32_t points, int32_t shuffle, int32_t upsample, int32_t reach, float *room, float *out);

/* Where a finer cell lies between two of `length`. */
typedef struct {
    int32_t low, high;
    float low_weight, high_weight;
} ef_between;

static ef_between between(int32_t cell, int32_t length, int32_t factor)
{
    float at = ((float)cell + 0.5f) / (float)factor - 0.5f;
    at = at > 0.0f ? at : 0.0f;
    int32_t low = (int32_t)at;
    float high_weight = at - (float)low;
    return (ef_between){low, ef_min(low + 1, length - 1), 1.0f - high_weight, high_weight};
}

/* One point's map (h, w) out of its shuffle^2 channels; whether all of it is finite. */
static int unshuffled(const ef_map *map, int32_t point, int32_t u, float *to)
{
    float odd = 0.0f;       /* becomes NaN with the first value that is not finite */
    for (int32_t y = 0; y < map->height; y++)
        for (int32_t i = 0; i < u; i++)
            for (int32_t x = 0; x < map->width; x++)
                for (int32_t j = 0; j < u; j++) {
                    float value = ef_value(map, ef_place(map, (point * u + i) * u + j, y, x));
                    odd += value - value;
                    *to++ = value;
                }
    return odd == 0.0f;
}

/* (h, w) to (h * factor, w * factor). Room: `row` for w. */
static void enlarged(const float *from, int32_t h, int32_t w, int32_t factor, float *row, float *to)
{
    for (int32_t y = 0; y < h * factor; y++) {
        ef_between at = between(y, h, factor);
        const float *above = from + (int64_t)at.low * w, *below = from + (int64_t)at.high * w;
        for (int32_t x = 0; x < w; x++)
            row[x] = above[x] * at.low_weight + below[x] * at.high_weight;
        for (int32_t x = 0; x < w * factor; x++) {
            ef_between on = between(x, w, factor);
            *to++ = row[on.low] * on.low_weight + row[on.high] * on.high_weight;
        }
    }
}

static void peak(const float *map, int32_t h, int32_t w, int32_t reach, float *out)
{
    int32_t best = 0;
    for (int32_t i = 1; i < h * w; i++)
        best = map[i] > map[best] ? i : best;
    int32_t row = best / w, column = best % w;
    float total = 0.0f, across = 0.0f, down = 0.0f;
    for (int32_t y = ef_max(row - reach, 0); y <= ef_min(row + reach, h - 1); y++)
        for (int32_t x = ef_max(column - reach, 0); x <= ef_min(column + reach, w - 1); x++) {
            float weight = ef_exp(map[(int64_t)y * w + x] - map[best]);
            total += weight;
            across += weight * (float)(x - column);
            down += weight * (float)(y - row);
        }
    out[0] = ((float)column + across / total + 0.5f) / (float)w;
    out[1] = ((float)row + down / total + 0.5f) / (float)h;
}

/* Points (n, 2) from 0 to 1 of maps (n * shuffle^2, h, w). Room: for w * shuffle * (1 + h * shuffle * (1 + upsample^2))
 * floats. */
int32_t ef_heatmap_points(
    const ef_map *map, int32_t points, int32_t shuffle, int32_t upsample, int32_t reach, float *room, float *out)
{
    if (points < 0 || shuffle < 1 || upsample < 1 || reach < 0 || map->height < 1 || map->width < 1 ||
        map->channels != points * shuffle * shuffle)
        return EF_REFUSED;
    int32_t h = map->height * shuffle, w = map->width * shuffle;
    float *coarse = room + w, *fine = coarse + (int64_t)h * w;
    for (int32_t k = 0; k < points; k++) {
        if (!unshuffled(map, k, shuffle, coarse))
            return EF_NOT_FINITE;
        enlarged(coarse, h, w, upsample, room, fine);
        peak(fine, h * upsample, w * upsample, reach, out + 2 * (int64_t)k);
    }
    return EF_DONE;
}
