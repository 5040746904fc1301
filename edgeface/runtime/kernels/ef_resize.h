/* Planes resized by bilinear weights, row by row: each source row is made once, when it is needed. */
#ifndef EF_RESIZE_H
#define EF_RESIZE_H

#include "ef_rows.h"

enum { EF_NO_ROW = -1 };

/* Writes planar row y of `source`. */
typedef void ef_make_row(const void *source, int32_t y, uint8_t *to);

typedef struct {
    int32_t channels, from_w, from_h, to_w, to_h;
    uint8_t *row;                               /* planar source row */
    uint16_t *across[2];                        /* two such rows resized along x ... */
    int32_t across_row[2];                      /* ... and which they are */
    int32_t *left;
    uint16_t *weight;
    uint16_t *order;                            /* for ef_across, which may do without */
    int groups;
} ef_resizer;

/* The next `bytes` of scratch, counting on from `used`. Without a base it only counts. */
static inline uint8_t *ef_carve(uint8_t *base, int64_t *used, int64_t bytes)
{
    uint8_t *here = base ? base + *used : NULL;
    *used += (bytes + 63) & ~(int64_t)63;
    return here;
}

static inline int ef_resizes(const ef_resizer *r) { return r->from_w != r->to_w || r->from_h != r->to_h; }

/* Gives a resizer its scratch, enough for sources up to `most_w` wide. */
static inline void ef_place_resizer(ef_resizer *r, int64_t most_w, uint8_t *base, int64_t *used)
{
    int64_t n = r->channels, row = EF_ROW(r->to_w);
    r->row = ef_carve(base, used, n * EF_ROW(most_w));
    r->across[0] = (uint16_t *)ef_carve(base, used, 2 * n * row);
    r->across[1] = (uint16_t *)ef_carve(base, used, 2 * n * row);
    r->left = (int32_t *)ef_carve(base, used, 4 * row);
    r->weight = (uint16_t *)ef_carve(base, used, 2 * row);
    r->order = (uint16_t *)ef_carve(base, used, 2 * row);
}

/* Fills in the taps along x, and how a vector gathers a group of them where its pixels lie within one. */
static inline void ef_take_taps(ef_resizer *r)
{
    r->groups = 1;
    for (int32_t x = 0; x < r->to_w; x++) {
        ef_tap tap = ef_tap_of(r->from_w, r->to_w, x);
        r->left[x] = tap.left;
        r->weight[x] = (uint16_t)tap.weight;
        int32_t offset = tap.left - r->left[x & ~(EF_GROUP - 1)];
        r->order[x] = (uint16_t)(EF_ZERO << 8 | offset);
        if (offset > 15)
            r->groups = 0;
    }
}

/* Before the first row of a source. */
static inline void ef_forget_rows(ef_resizer *r) { r->across_row[0] = r->across_row[1] = EF_NO_ROW; }

/* Source row `row`, resized along x. A row is kept until its place is needed for another than `other`. */
static inline const uint16_t *ef_across_row(
    ef_resizer *r, ef_make_row *make, const void *source, int32_t row, int32_t other)
{
    int32_t i = r->across_row[0] == row ? 0 : 1;
    if (r->across_row[i] != row) {
        i = r->across_row[0] == other ? 1 : 0;
        make(source, row, r->row);
        for (int32_t c = 0; c < r->channels; c++)
            ef_across(r->to_w, r->row + c * EF_ROW(r->from_w), r->left, r->weight, r->groups ? r->order : NULL,
                      r->across[i] + c * EF_ROW(r->to_w));
        r->across_row[i] = row;
    }
    return r->across[i];
}

/* Planar row y of the target. */
static inline void ef_resized_row(ef_resizer *r, ef_make_row *make, const void *source, int32_t y, uint8_t *to)
{
    if (!ef_resizes(r)) {
        make(source, y, to);
        return;
    }
    ef_tap tap = ef_tap_of(r->from_h, r->to_h, y);
    int32_t below = tap.weight ? tap.left + 1 : tap.left;
    const uint16_t *top = ef_across_row(r, make, source, tap.left, below);
    const uint16_t *bottom = ef_across_row(r, make, source, below, tap.left);
    for (int32_t c = 0; c < r->channels; c++)
        ef_blend(r->to_w, top + c * EF_ROW(r->to_w), bottom + c * EF_ROW(r->to_w), (uint32_t)tap.weight,
                 to + c * EF_ROW(r->to_w));
}

#endif
