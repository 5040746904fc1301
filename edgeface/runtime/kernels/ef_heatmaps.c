/* Points from heatmaps by the specification in edgeface/runtime/decode/heatmaps.py. */
#include <math.h>

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

/* One point's map (h, w) out of its shuffle^2 channels. */
static void unshuffled(const ef_map *map, int32_t point, int32_t u, float *to)
{
    int32_t w = map->width * u;
    for (int32_t i = 0; i < u; i++)
        for (int32_t j = 0; j < u; j++)
            for (int32_t y = 0; y < map->height; y++) {
                int64_t at = ef_place(map, (point * u + i) * u + j, y, 0), step = map->step_x;
                float *row = to + (int64_t)(y * u + i) * w + j;
                if (map->is_int8)
                    for (int32_t x = 0; x < map->width; x++)
                        row[x * u] = (float)((const int8_t *)map->values)[at + x * step] * map->scale;
                else
                    for (int32_t x = 0; x < map->width; x++)
                        row[x * u] = ((const float *)map->values)[at + x * step];
            }
}

/* A point's map (h, w) with the largest value of each row, and between which of its columns the finer ones lie. */
typedef struct {
    const float *map, *most;
    const ef_between *columns;      /* w * factor */
    float *row;                     /* room for w */
    int32_t h, w, factor;
} ef_heatmap;

/* A finer row before its columns are made finer. */
static void blend(const ef_heatmap *of, ef_between at)
{
    const float *above = of->map + (int64_t)at.low * of->w, *below = of->map + (int64_t)at.high * of->w;
    for (int32_t x = 0; x < of->w; x++)
        of->row[x] = above[x] * at.low_weight + below[x] * at.high_weight;
}

static inline float finer(const ef_heatmap *of, int32_t x)
{
    const ef_between *on = &of->columns[x];
    return of->row[on->low] * on->low_weight + of->row[on->high] * on->high_weight;
}

typedef struct {
    float value;
    int32_t row, column;
} ef_peak;

/* The better one of a peak and of the finer row `y`, of equal ones the first. No finer value is over the largest of the
 * two rows it lies between but for rounding, which `slack` is more than, so that most rows need no look. */
static void look_at(const ef_heatmap *of, int32_t y, float slack, ef_peak *best)
{
    ef_between at = between(y, of->h, of->factor);
    if (of->most[at.low] + slack < best->value && of->most[at.high] + slack < best->value)
        return;
    blend(of, at);
    for (int32_t x = 0; x < of->w * of->factor; x++) {
        float value = finer(of, x);
        if (value > best->value || (value == best->value && y < best->row))
            *best = (ef_peak){value, y, x};
    }
}

/* From the row of the highest cell on, so that the peak is soon as high as it gets. */
static ef_peak peak_of(const ef_heatmap *of, int32_t row, float slack)
{
    int32_t rows = of->h * of->factor, first = row * of->factor;
    ef_peak best = {-FLT_MAX, rows, 0};
    for (int32_t y = first; y < rows; y++)
        look_at(of, y, slack, &best);
    for (int32_t y = first - 1; y >= 0; y--)
        look_at(of, y, slack, &best);
    return best;
}

static void place(const ef_heatmap *of, const ef_peak *best, int32_t reach, float *out)
{
    int32_t h = of->h * of->factor, w = of->w * of->factor;
    float total = 0.0f, across = 0.0f, down = 0.0f;
    for (int32_t y = ef_max(best->row - reach, 0); y <= ef_min(best->row + reach, h - 1); y++) {
        blend(of, between(y, of->h, of->factor));
        for (int32_t x = ef_max(best->column - reach, 0); x <= ef_min(best->column + reach, w - 1); x++) {
            float weight = ef_exp(finer(of, x) - best->value);
            total += weight;
            across += weight * (float)(x - best->column);
            down += weight * (float)(y - best->row);
        }
    }
    out[0] = ((float)best->column + across / total + 0.5f) / (float)w;
    out[1] = ((float)best->row + down / total + 0.5f) / (float)h;
}

/* The row with the highest value, the largest value of each, and of all the largest without its sign, which is at least
 * infinite where one is not finite: without their sign floats are ordered as their bits are. */
static int32_t highest_row(const float *map, int32_t h, int32_t w, float *most, uint32_t *largest_bits)
{
    uint32_t largest = 0;
    for (int32_t i = 0; i < h * w; i++) {
        uint32_t bits = ef_bits(map[i]) & 0x7fffffffu;
        largest = bits > largest ? bits : largest;
    }
    int32_t best = 0;
    for (int32_t y = 0; y < h; y++, map += w) {
        most[y] = map[0];
        for (int32_t x = 1; x < w; x++)
            most[y] = map[x] > most[y] ? map[x] : most[y];
        best = most[y] > most[best] ? y : best;
    }
    *largest_bits = largest;
    return best;
}

/* Points (n, 2) from 0 to 1 of maps (n * shuffle^2, h, w). Room, in floats: w * shuffle * (1 + h * shuffle + 4 *
 * upsample) + h * shuffle. */
int32_t ef_heatmap_points(
    const ef_map *map, int32_t points, int32_t shuffle, int32_t upsample, int32_t reach, float *room, float *out)
{
    if (points < 0 || shuffle < 1 || upsample < 1 || reach < 0 || map->height < 1 || map->width < 1 ||
        map->channels != points * shuffle * shuffle)
        return EF_REFUSED;
    int32_t h = map->height * shuffle, w = map->width * shuffle;
    ef_between *columns = (ef_between *)room;
    float *row = room + 4 * (int64_t)w * upsample, *most = row + w, *coarse = most + h;
    ef_heatmap of = {coarse, most, columns, row, h, w, upsample};
    for (int32_t x = 0; x < w * upsample; x++)
        columns[x] = between(x, w, upsample);
    for (int32_t k = 0; k < points; k++) {
        uint32_t largest;
        unshuffled(map, k, shuffle, coarse);
        int32_t highest = highest_row(coarse, h, w, most, &largest);
        if (largest >= ef_bits(INFINITY))
            return EF_NOT_FINITE;
        ef_peak best = peak_of(&of, highest, ef_from_bits(largest) * 1e-6f);
        place(&of, &best, reach, out + 2 * (int64_t)k);
    }
    return EF_DONE;
}
