/* Greedy suppression: edgeface/runtime/nms.py.
 *
 * A box is held against the better ones that stay, and only against those that lie near it and are of about its size:
 * two boxes overlap by more than t only where each side of one is at least t times the other's, and where their centres
 * are at most (1 - t) times the larger side apart. Those that stay overlap one another little, so that a cell of their
 * own size holds few of them, however many boxes there are.
 */
#include <math.h>
#include <string.h>

#include "ef_nms.h"

enum { BUCKETS = 4096, LEVELS = 64, NOBODY = -1, BOX = 4 };

/* Below it a size fits too many others for cells to help. */
static const float LEAST_THRESHOLD = 0.05f;
/* What rounding may add to any bound, relatively. */
static const float SLACK = 1e-4f;
/* A cell's place must fit an integer. */
static const float FARTHEST = 1e6f;

typedef struct {
    float *x1, *y1, *x2, *y2, *area;    /* those that stay come first, in their order */
    int32_t count;                      /* how many stay */
    float threshold;
    int32_t *next;                      /* the next in a bucket, by place among those that stay */
    int32_t heads[BUCKETS];
    int32_t at_level[LEVELS];           /* how many of those that stay are of each size */
    int32_t loose;                      /* the first of those that lie in no cell */
} field;

/* As numpy.maximum(value, 0): a NaN stays one. */
static inline float at_least_zero(float value) { return value > 0.0f || value != value ? value : 0.0f; }

/* In the order of numpy.argsort(-scores): the largest first, NaNs last. */
static inline int is_after(float a, float b) { return a < b || (a != a && b == b); }

/* Indices by falling score, equal ones in their order: merged from runs of doubling length. */
static int32_t *sorted(int32_t n, const float *scores, int32_t *order, int32_t *spare)
{
    for (int32_t i = 0; i < n; i++)
        order[i] = i;
    for (int64_t run = 1; run < n; run *= 2) {
        for (int64_t start = 0; start < n; start += 2 * run) {
            int64_t a = start, a_end = start + run < n ? start + run : n;
            int64_t b = a_end, b_end = start + 2 * run < n ? start + 2 * run : n;
            for (int64_t to = start; to < b_end; to++)
                spare[to] = b >= b_end || (a < a_end && !is_after(scores[order[a]], scores[order[b]])) ? order[a++]
                                                                                                      : order[b++];
        }
        int32_t *swap = order;
        order = spare;
        spare = swap;
    }
    return order;
}

/* Whether box `i` overlaps `best`, one that stays, by more than the threshold. */
static inline int overlaps(const field *f, int32_t best, int32_t i)
{
    float width = (f->x2[best] < f->x2[i] ? f->x2[best] : f->x2[i]) - (f->x1[best] > f->x1[i] ? f->x1[best] : f->x1[i]);
    float height = (f->y2[best] < f->y2[i] ? f->y2[best] : f->y2[i]) - (f->y1[best] > f->y1[i] ? f->y1[best] : f->y1[i]);
    float overlap = 0.0f;
    if (width > 0.0f && height > 0.0f) {
        /* A box with a NaN has a NaN for its area, and so overlaps nothing. */
        float shared = width * height, together = f->area[best] + f->area[i] - shared;
        if (together > 0.0f)
            overlap = shared / together;
    }
    return !(overlap <= f->threshold);
}

static int overlaps_any(const field *f, int32_t i)
{
    for (int32_t best = 0; best < f->count; best++)
        if (overlaps(f, best, i))
            return 1;
    return 0;
}

/* The level of a size: sides from 2^(level - LEVELS / 2) to twice that. Outside 0 to LEVELS - 1 there are none. */
static inline int32_t level_of(float side)
{
    int exponent;
    frexpf(side, &exponent);
    return exponent - 1 + LEVELS / 2;
}

static inline float cell_side(int32_t level) { return ldexpf(1.0f, level + 1 - LEVELS / 2); }

static inline uint32_t bucket_of(int32_t level, int32_t column, int32_t row)
{
    uint32_t hash = (uint32_t)column * 0x9E3779B1u ^ (uint32_t)row * 0x85EBCA77u ^ (uint32_t)level * 0xC2B2AE3Du;
    return (hash ^ hash >> 15) % BUCKETS;
}

/* The cell of a box's centre at a level; 0 where it has none. */
static inline int cell_of(float centre, float side, float *cell)
{
    *cell = floorf(centre / side);
    return fabsf(*cell) < FARTHEST;
}

/* Whether a box of positive, finite area overlaps one of those that stay too much, looking only where it can. */
static int overlaps_near(const field *f, int32_t i)
{
    float width = f->x2[i] - f->x1[i], height = f->y2[i] - f->y1[i];
    float least = f->threshold < 1.0f ? f->threshold * (1.0f - SLACK) : 1.0f - SLACK;
    float x = (f->x1[i] + f->x2[i]) / 2.0f, y = (f->y1[i] + f->y2[i]) / 2.0f;
    float slack = SLACK * (width + height) + 1e-6f * (fabsf(x) + fabsf(y));
    int32_t lowest = level_of(width * least), highest = level_of(width / least);
    if (lowest < 0 || highest >= LEVELS)
        return overlaps_any(f, i);
    for (int32_t level = lowest; level <= highest; level++) {
        if (!f->at_level[level])
            continue;
        float side = cell_side(level);
        float reach_x = (1.0f - least) * (width > side ? width : side) + slack;
        float reach_y = (1.0f - least) * height / least + slack;
        float left, right, top, bottom;
        if (!cell_of(x - reach_x, side, &left) || !cell_of(x + reach_x, side, &right)
            || !cell_of(y - reach_y, side, &top) || !cell_of(y + reach_y, side, &bottom)
            || (right - left + 1.0f) * (bottom - top + 1.0f) > (float)f->count)
            return overlaps_any(f, i);
        for (int32_t row = (int32_t)top; row <= (int32_t)bottom; row++)
            for (int32_t column = (int32_t)left; column <= (int32_t)right; column++)
                for (int32_t best = f->heads[bucket_of(level, column, row)]; best != NOBODY; best = f->next[best])
                    if (overlaps(f, best, i))
                        return 1;
    }
    for (int32_t best = f->loose; best != NOBODY; best = f->next[best])
        if (overlaps(f, best, i))
            return 1;
    return 0;
}

/* Puts the last of those that stay into its cell, or among the loose ones. */
static void place(field *f)
{
    int32_t best = f->count - 1, level = level_of(f->x2[best] - f->x1[best]);
    float column, row;
    int32_t *head = &f->loose;
    if (level >= 0 && level < LEVELS && cell_of((f->x1[best] + f->x2[best]) / 2.0f, cell_side(level), &column)
        && cell_of((f->y1[best] + f->y2[best]) / 2.0f, cell_side(level), &row)) {
        head = &f->heads[bucket_of(level, (int32_t)column, (int32_t)row)];
        f->at_level[level]++;
    }
    f->next[best] = *head;
    *head = best;
}

/* Greedy suppression of n boxes (n, 4): writes the indices of those that stay to `kept`, best first, and returns their
 * number. Room: `columns` for 5 n values, `order`, `spare` and `kept` for n.
 */
int32_t ef_nms(
    int32_t n, const float *boxes, const float *scores, float iou_threshold, float *columns, int32_t *order,
    int32_t *spare, int64_t *kept)
{
    if (n < 0)
        return EF_REFUSED;
    int32_t *by_score = sorted(n, scores, order, spare);
    field f;
    f.next = by_score == order ? spare : order;
    f.x1 = columns, f.y1 = f.x1 + n, f.x2 = f.y1 + n, f.y2 = f.x2 + n, f.area = f.y2 + n;
    f.count = 0, f.threshold = iou_threshold, f.loose = NOBODY;
    memset(f.heads, NOBODY, sizeof f.heads);
    memset(f.at_level, 0, sizeof f.at_level);
    int in_cells = iou_threshold >= LEAST_THRESHOLD;
    for (int32_t i = 0; i < n; i++) {
        const float *box = boxes + BOX * (int64_t)by_score[i];
        int32_t to = f.count;       /* its place if it stays; those before have been seen */
        f.x1[to] = box[0], f.y1[to] = box[1], f.x2[to] = box[2], f.y2[to] = box[3];
        f.area[to] = at_least_zero(box[2] - box[0]) * at_least_zero(box[3] - box[1]);
        int alone = in_cells && !(f.area[to] > 0.0f && f.area[to] < INFINITY);
        if (!alone && (in_cells ? overlaps_near(&f, to) : overlaps_any(&f, to)))
            continue;
        kept[f.count++] = by_score[i];
        if (in_cells && !alone)
            place(&f);
    }
    return f.count;
}
