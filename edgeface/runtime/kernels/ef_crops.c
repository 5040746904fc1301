/* Square crops at one size, by the specification at the top of edgeface/runtime/crops.py: row by row from the picture into
 * the strip, whatever a square's size and place.
 *
 * On x86 this file is compiled twice, for every processor and (ef_crops_avx2.c) for those with AVX2.
 */
#include "ef_colour.h"
#include "ef_emit.h"
#include "ef_formats.h"
#include "ef_resize.h"

enum { EF_CROP_MAX = 4096, EF_CORNER_MAX = 2 * EF_SIDE_MAX, EF_SQUARE = 3 };

typedef struct {
    int32_t format;
    const uint8_t *first, *second;              /* pixels or luma; chroma of NV12 */
    int64_t first_step, second_step;            /* bytes from row to row */
    int32_t width, height;
    const int64_t *squares;                     /* (count, EF_SQUARE): x, y, side */
    int64_t count;
    int32_t size;
    ef_sink sink;
    uint8_t *scratch;
} ef_crops_call;

/* One square, and the rows that lie between it and the picture. Its boxes lie in columns and rows of boxes. */
typedef struct {
    const ef_crops_call *call;
    int32_t channels;
    int32_t x, y, box, boxes;
    int32_t left, right, top, bottom;           /* pixels of the boxes that the picture has, from the square's corner */
    uint8_t *luma, *chroma[2];                  /* rows of NV12 and YUYV in full width ... */
    uint8_t *pixels;                            /* ... and planar, converted */
    uint16_t *sums, *planar_sums;               /* a row of boxes' columns, as the picture lies and planar */
    uint64_t *totals;                           /* a planar row of large boxes' sums */
} ef_square;

static int64_t ef_scratch_of(const ef_crops_call *c, uint8_t *base, ef_square *s, ef_resizer *r, uint8_t **out)
{
    int64_t used = 0, n = c->format == EF_GREY ? 1 : 3, row = EF_ROW(c->width), most = 2 * (int64_t)c->size;
    *s = (ef_square){.call = c, .channels = (int32_t)n};
    *r = (ef_resizer){.channels = (int32_t)n, .to_w = c->size, .to_h = c->size};
    if (ef_has_chroma(c->format)) {
        s->luma = ef_carve(base, &used, row);
        s->chroma[0] = ef_carve(base, &used, EF_ROW(c->width + 2));
        s->chroma[1] = ef_carve(base, &used, EF_ROW(c->width + 2));
    }
    s->pixels = ef_carve(base, &used, n * row);
    s->sums = (uint16_t *)ef_carve(base, &used, 2 * EF_ROW(n * c->width));
    s->planar_sums = (uint16_t *)ef_carve(base, &used, 2 * n * EF_ROW(c->width + 2 * EF_BOX_MAX));
    s->totals = (uint64_t *)ef_carve(base, &used, 8 * n * most);
    *out = ef_carve(base, &used, n * EF_ROW(c->size));
    ef_place_resizer(r, most, base, &used);
    return used;
}

/* Each of n samples, `step` bytes apart, twice. */
static void ef_repeat(int32_t n, const uint8_t *restrict from, int32_t step, uint8_t *restrict to)
{
    for (int32_t i = 0; i < n; i++)
        to[2 * i] = to[2 * i + 1] = from[(int64_t)i * step];
}

/* n pixels from (x, y) of the picture on: planar, `row` bytes apart. */
static void ef_picture_row(const ef_square *s, int32_t x, int32_t y, int32_t n, uint8_t *to, int64_t row)
{
    const ef_crops_call *c = s->call;
    int32_t step = ef_pixel_step(c->format);
    const uint8_t *from = c->first + y * c->first_step + (int64_t)x * step;
    if (!ef_has_chroma(c->format)) {
        ef_unpack(n, from, step, s->channels, 1, to, row);
        return;
    }
    int32_t halves = (x + n - 1) / 2 - x / 2 + 1, odd = x & 1;
    int32_t nv12 = c->format == EF_NV12, apart = nv12 ? 1 : 2;
    const uint8_t *chroma = nv12 ? c->second + (y / 2) * c->second_step + x / 2 * 2
                                 : c->first + y * c->first_step + x / 2 * 4 + 1;
    for (int32_t k = 0; k < 2; k++)
        ef_repeat(halves, chroma + k * apart, 2 * apart, s->chroma[k]);
    ef_unpack(n, from, step, 1, 1, s->luma, 0);
    ef_yuv_to_bgr(n, s->luma, s->chroma[0] + odd, s->chroma[1] + odd, to, to + row, to + 2 * row);
}

/* Sums of the columns that the picture has in a row of boxes, rows `from` to `to` of the square, missing ones as 128:
 * planar from `lead` on. */
static void ef_column_sums(const ef_square *s, int32_t from, int32_t to, int32_t lead, int64_t row)
{
    const ef_crops_call *c = s->call;
    int32_t n = s->right - s->left, x = s->x + s->left, step = ef_pixel_step(c->format);
    uint16_t *planar = s->planar_sums + lead;
    if (ef_has_chroma(c->format)) {
        int64_t pixels_row = EF_ROW(n);
        for (int32_t j = from; j < to; j++) {
            ef_picture_row(s, x, s->y + j, n, s->pixels, pixels_row);
            for (int32_t k = 0; k < 3; k++) {
                const uint8_t *restrict add = s->pixels + k * pixels_row;
                uint16_t *restrict sums = planar + k * row;
                if (j == from)
                    ef_add_rows(n, add, 0, 1, sums);
                else
                    for (int32_t i = 0; i < n; i++)
                        sums[i] = (uint16_t)(sums[i] + add[i]);
            }
        }
    } else {
        const uint8_t *pixels = c->first + (int64_t)(s->y + from) * c->first_step + (int64_t)x * step;
        ef_add_rows((int64_t)n * step, pixels, c->first_step, to - from, step == 1 ? planar : s->sums);
        if (step == 3)
            ef_unpack_sums(n, s->sums, 3, 3, 1, planar, row);
    }
    uint16_t missing = (uint16_t)(EF_PADDING * (s->box - (to - from)));
    if (missing)
        for (int32_t k = 0; k < s->channels; k++)
            for (int32_t i = 0; i < n; i++)
                planar[k * row + i] = (uint16_t)(planar[k * row + i] + missing);
}

/* Means of boxes `first` to `last` of a row of boxes, where column sums fit their type. */
static void ef_small_boxes(
    const ef_square *s, int32_t from, int32_t to, int32_t first, int32_t last, uint8_t *means, int64_t means_row)
{
    int32_t lead = s->left - first * s->box, n = s->right - s->left, covered = (last - first) * s->box;
    int64_t row = EF_ROW(covered);
    ef_column_sums(s, from, to, lead, row);
    uint16_t outside = (uint16_t)(EF_PADDING * s->box);
    for (int32_t k = 0; k < s->channels; k++) {
        uint16_t *sums = s->planar_sums + k * row;
        for (int32_t i = 0; i < lead; i++)
            sums[i] = outside;
        for (int32_t i = lead + n; i < covered; i++)
            sums[i] = outside;
        ef_box_means(last - first, sums, s->box, s->box, means + k * means_row + first);
    }
}

/* The same for boxes of any size, pixel by pixel: only for squares many times larger than the crop. */
static void ef_large_boxes(
    const ef_square *s, int32_t from, int32_t to, int32_t first, int32_t last, uint8_t *means, int64_t means_row)
{
    int32_t n = s->right - s->left, count = last - first;
    int64_t row = EF_ROW(n);
    uint64_t area = (uint64_t)s->box * (uint64_t)s->box;
    /* Of all pixels at first; those of the picture then take the place of as many. */
    for (int32_t i = 0; i < count * s->channels; i++)
        s->totals[i] = area * EF_PADDING + area / 2;
    for (int32_t j = from; j < to; j++) {
        ef_picture_row(s, s->x + s->left, s->y + j, n, s->pixels, row);
        for (int32_t k = 0; k < s->channels; k++)
            for (int32_t i = first; i < last; i++) {
                int32_t begin = ef_max(i * s->box, s->left), end = ef_min((i + 1) * s->box, s->right);
                uint64_t sum = 0;
                for (int32_t x = begin; x < end; x++)
                    sum += s->pixels[k * row + x - s->left];
                s->totals[k * count + i - first] += sum - (uint64_t)(end - begin) * EF_PADDING;
            }
    }
    for (int32_t k = 0; k < s->channels; k++)
        for (int32_t i = 0; i < count; i++)
            means[k * means_row + first + i] = (uint8_t)(s->totals[k * count + i] / area);
}

/* Planar row y of the square's boxes. */
static void ef_boxed_row(const void *square, int32_t y, uint8_t *to)
{
    const ef_square *s = square;
    int64_t row = EF_ROW(s->boxes);
    int32_t box = s->box, from = ef_max(y * box, s->top), end = ef_min((y + 1) * box, s->bottom);
    if (from >= end || s->left >= s->right) {
        memset(to, EF_PADDING, (size_t)(s->channels * row));
        return;
    }
    int32_t first = s->left / box, last = (s->right + box - 1) / box;
    if (first > 0 || last < s->boxes)
        for (int32_t k = 0; k < s->channels; k++) {
            memset(to + k * row, EF_PADDING, (size_t)first);
            memset(to + k * row + last, EF_PADDING, (size_t)(s->boxes - last));
        }
    const ef_crops_call *c = s->call;
    if (box == 1) {
        ef_picture_row(s, s->x + first, s->y + y, last - first, to + first, row);
    } else if (box == 2 && end - from == 2 && s->right - s->left == 2 * s->boxes && !ef_has_chroma(c->format)) {
        int32_t step = ef_pixel_step(c->format);
        const uint8_t *pixels = c->first + (int64_t)(s->y + from) * c->first_step + (int64_t)s->x * step;
        ef_halve(s->boxes, pixels, pixels + c->first_step, step, s->channels, to);
    } else if (box <= EF_BOX_MAX) {
        ef_small_boxes(s, from, end, first, last, to, row);
    } else {
        ef_large_boxes(s, from, end, first, last, to, row);
    }
}

/* What of the square's boxes, `covered` pixels from `corner` on, lies within a picture's side: *begin to *end. */
static void ef_overlap(int32_t corner, int32_t covered, int32_t side, int32_t *begin, int32_t *end)
{
    *begin = ef_min(ef_max(-corner, 0), covered);
    *end = ef_max(ef_min(side - corner, covered), *begin);
}

#ifndef EF_CROPS
#define EF_CROPS ef_crops_any
#endif

void EF_CROPS(const ef_crops_call *c);

void EF_CROPS(const ef_crops_call *c)
{
    ef_square s;
    ef_resizer r;
    uint8_t *out;
    ef_scratch_of(c, c->scratch, &s, &r, &out);
    for (int64_t i = 0; i < c->count; i++) {
        const int64_t *square = c->squares + EF_SQUARE * i;
        int32_t side = (int32_t)square[2], known = r.from_w;
        s.x = (int32_t)square[0], s.y = (int32_t)square[1];
        s.box = ef_max(1, side / c->size);
        s.boxes = side / s.box;
        ef_overlap(s.x, s.boxes * s.box, c->width, &s.left, &s.right);
        ef_overlap(s.y, s.boxes * s.box, c->height, &s.top, &s.bottom);
        r.from_w = r.from_h = s.boxes;
        if (ef_resizes(&r) && s.boxes != known)
            ef_take_taps(&r);
        ef_forget_rows(&r);
        for (int32_t y = 0; y < c->size; y++) {
            const uint8_t *rows[3];
            ef_resized_row(&r, ef_boxed_row, &s, y, out);
            ef_bgr_rows(c->format, out, EF_ROW(c->size), rows);
            ef_emit(&c->sink, i * c->size + y, c->size, rows);
        }
    }
}

#ifndef EF_VARIANT
#if defined(EF_WITH_AVX2)
void ef_crops_avx2(const ef_crops_call *c);
#endif

EF_API int64_t ef_crops_scratch(int32_t format, int32_t width, int32_t height, int32_t size);

EF_API int32_t ef_crops(
    int32_t format, const uint8_t *first, int64_t first_step, const uint8_t *second, int64_t second_step, int32_t width,
    int32_t height, const int64_t *squares, int64_t count, int32_t size, int32_t output, void *out, float mean,
    float scale, uint8_t *scratch, int64_t scratch_bytes);

/* Bytes of scratch that ef_crops needs, or EF_REFUSED. */
int64_t ef_crops_scratch(int32_t format, int32_t width, int32_t height, int32_t size)
{
    if (!ef_is_format(format) || !ef_fits_format(format, width, height) || size < 1 || size > EF_CROP_MAX)
        return EF_REFUSED;
    ef_crops_call call = {.format = format, .width = width, .height = height, .size = size};
    ef_square s;
    ef_resizer r;
    uint8_t *out;
    return ef_scratch_of(&call, NULL, &s, &r, &out) + 64;
}

static int ef_within(int64_t value, int64_t least, int64_t most) { return value >= least && value <= most; }

/* `squares` is (count, 3), `out` float32 (3, size * count, size) for EF_PLANES, else 8-bit (size * count, size, 3), in
 * B, G, R. */
int32_t ef_crops(
    int32_t format, const uint8_t *first, int64_t first_step, const uint8_t *second, int64_t second_step, int32_t width,
    int32_t height, const int64_t *squares, int64_t count, int32_t size, int32_t output, void *out, float mean,
    float scale, uint8_t *scratch, int64_t scratch_bytes)
{
    int64_t needed = ef_crops_scratch(format, width, height, size);
    if (needed < 0 || scratch_bytes < needed || !ef_is_output(output) || count < 0 || count > EF_SIDE_MAX)
        return EF_REFUSED;
    if (!first || !squares || !out || !scratch || (format == EF_NV12 && !second))
        return EF_REFUSED;
    for (const int64_t *s = squares; s < squares + EF_SQUARE * count; s += EF_SQUARE)
        if (!ef_within(s[0], -EF_CORNER_MAX, EF_CORNER_MAX) || !ef_within(s[1], -EF_CORNER_MAX, EF_CORNER_MAX)
            || !ef_within(s[2], 1, EF_SIDE_MAX))
            return EF_REFUSED;
    ef_crops_call call = {
        .format = format, .first = first, .second = second, .first_step = first_step, .second_step = second_step,
        .width = width, .height = height, .squares = squares, .count = count, .size = size,
        .sink = {.output = output, .out = out, .step = size, .area = count * size * size, .mean = mean, .scale = scale},
        .scratch = scratch + (-(uintptr_t)scratch & 63)};
#if defined(EF_WITH_AVX2)
    if (__builtin_cpu_supports("avx2")) {
        ef_crops_avx2(&call);
        return EF_DONE;
    }
#endif
    ef_crops_any(&call);
    return EF_DONE;
}
#endif
