/* The letterbox, by the specification at the top of edgeface/runtime/preprocess.py: row by row, so that a picture's rows
 * are read once and all that lies between them and the result stays in the cache.
 *
 * On x86 this file is compiled twice, for every processor and (ef_letterbox_avx2.c) for those with AVX2.
 */
#include "ef_colour.h"
#include "ef_formats.h"
#include "ef_rows.h"

/* As the outputs in edgeface/runtime/preprocess.py. */
enum { EF_PLANES, EF_SIGNED_PIXELS, EF_PIXELS };

enum { EF_NO_ROW = -1 };

typedef struct {
    int32_t format;
    const uint8_t *first, *second;              /* pixels or luma; chroma of NV12 */
    int64_t first_step, second_step;            /* bytes from row to row */
    int32_t width, height, box_w, box_h, chroma_box_w, chroma_box_h, new_w, new_h;
    int32_t output, frame_w, frame_h;
    void *out;
    float mean, scale;
    uint8_t *scratch;
} ef_letterbox_call;

/* Channels of one geometry, and the rows that lie between them and the target. */
typedef struct {
    const uint8_t *from;
    int64_t row_step;
    int32_t step, channels, apart;              /* bytes from pixel to pixel, and from channel to channel */
    int32_t width, height, box_w, box_h, boxed_w, boxed_h, new_w, new_h;
    uint16_t *sums, *planar_sums;               /* a row of boxes' columns, as the picture lies and planar */
    uint8_t *boxed;                             /* planar row of means */
    uint16_t *across[2];                        /* two such rows resized along x ... */
    int32_t across_row[2];                      /* ... and which they are */
    int32_t *left;
    uint16_t *weight;
    uint16_t *order;                            /* for ef_across, which may do without */
    int groups;
    uint8_t *out;                               /* planar row of the target */
} ef_plane;

static uint8_t *ef_carve(uint8_t *base, int64_t *used, int64_t bytes)
{
    uint8_t *here = base ? base + *used : NULL;
    *used += (bytes + 63) & ~(int64_t)63;
    return here;
}

static inline int ef_resizes(const ef_plane *p) { return p->boxed_w != p->new_w || p->boxed_h != p->new_h; }

/* Gives a plane its scratch, counting on from `used`. Without a base it only counts. */
static void ef_place(ef_plane *p, uint8_t *base, int64_t *used)
{
    int64_t n = p->channels;
    p->boxed_w = p->width / p->box_w;
    p->boxed_h = p->height / p->box_h;
    if (p->box_w > 1 || p->box_h > 1) {
        p->sums = (uint16_t *)ef_carve(base, used, 2 * EF_ROW((int64_t)p->step * p->width));
        p->planar_sums = (uint16_t *)ef_carve(base, used, 2 * n * EF_ROW(p->width));
    }
    p->out = ef_carve(base, used, n * EF_ROW(p->new_w));
    if (ef_resizes(p)) {
        p->boxed = ef_carve(base, used, n * EF_ROW(p->boxed_w));
        p->across[0] = (uint16_t *)ef_carve(base, used, 2 * n * EF_ROW(p->new_w));
        p->across[1] = (uint16_t *)ef_carve(base, used, 2 * n * EF_ROW(p->new_w));
        p->left = (int32_t *)ef_carve(base, used, 4 * EF_ROW(p->new_w));
        p->weight = (uint16_t *)ef_carve(base, used, 2 * EF_ROW(p->new_w));
        p->order = (uint16_t *)ef_carve(base, used, 2 * EF_ROW(p->new_w));
    }
}

/* The picture's planes; how many there are, 0 for an unknown format. */
static int32_t ef_planes_of(const ef_letterbox_call *c, ef_plane planes[2])
{
    memset(planes, 0, 2 * sizeof *planes);
    int32_t step = ef_pixel_step(c->format);
    planes[0] = (ef_plane){.from = c->first, .row_step = c->first_step, .step = step, .channels = step == 3 ? 3 : 1,
                           .apart = 1, .width = c->width, .height = c->height, .box_w = c->box_w, .box_h = c->box_h,
                           .new_w = c->new_w, .new_h = c->new_h};
    planes[1] = (ef_plane){.channels = 2, .width = c->width / 2, .box_w = c->chroma_box_w, .box_h = c->chroma_box_h,
                           .new_w = c->new_w, .new_h = c->new_h};
    switch (c->format) {
    case EF_BGR: case EF_RGB: case EF_GREY:
        return 1;
    case EF_NV12:
        planes[1].from = c->second, planes[1].row_step = c->second_step;
        planes[1].step = 2, planes[1].apart = 1, planes[1].height = c->height / 2;
        return 2;
    case EF_YUYV:
        planes[1].from = c->first ? c->first + 1 : NULL, planes[1].row_step = c->first_step;
        planes[1].step = 4, planes[1].apart = 2, planes[1].height = c->height;
        return 2;
    default:
        return 0;
    }
}

static int64_t ef_scratch_of(const ef_letterbox_call *c, uint8_t *base, ef_plane planes[2], uint8_t **bgr)
{
    int64_t used = 0;
    int32_t count = ef_planes_of(c, planes);
    for (int32_t i = 0; i < count; i++)
        ef_place(&planes[i], base, &used);
    *bgr = ef_carve(base, &used, 3 * EF_ROW(c->new_w));
    return used;
}

/* Means of boxes of any size, pixel by pixel: only for pictures a thousand times larger than the target. */
static void ef_boxes_any(const ef_plane *p, const uint8_t *row, uint8_t *to)
{
    uint64_t area = (uint64_t)p->box_w * (uint64_t)p->box_h;
    for (int32_t c = 0; c < p->channels; c++)
        for (int32_t x = 0; x < p->boxed_w; x++) {
            uint64_t sum = area / 2;
            for (int32_t j = 0; j < p->box_h; j++) {
                const uint8_t *at = row + j * p->row_step + (int64_t)x * p->box_w * p->step + c * p->apart;
                for (int32_t i = 0; i < p->box_w; i++)
                    sum += at[(int64_t)i * p->step];
            }
            to[c * EF_ROW(p->boxed_w) + x] = (uint8_t)(sum / area);
        }
}

/* Planar row y of the averaged picture. */
static void ef_boxed_row(const ef_plane *p, int32_t y, uint8_t *to)
{
    const uint8_t *row = p->from + (int64_t)y * p->box_h * p->row_step;
    if (p->box_w == 1 && p->box_h == 1) {
        ef_unpack(p->boxed_w, row, p->step, p->channels, p->apart, to);
        return;
    }
    if (p->box_w > EF_BOX_MAX || p->box_h > EF_BOX_MAX) {
        ef_boxes_any(p, row, to);
        return;
    }
    if (p->box_w == 2 && p->box_h == 2 && p->step <= 3 && p->apart == 1) {
        ef_halve(p->boxed_w, row, row + p->row_step, p->step, p->channels, to);
        return;
    }
    int32_t covered = p->boxed_w * p->box_w;
    int64_t span = (int64_t)(covered - 1) * p->step + (int64_t)(p->channels - 1) * p->apart + 1;
    ef_add_rows(span, row, p->row_step, p->box_h, p->sums);
    const uint16_t *sums = p->sums;
    int64_t sums_row = 0;
    if (p->step > 1) {
        ef_unpack_sums(covered, p->sums, p->step, p->channels, p->apart, p->planar_sums);
        sums = p->planar_sums;
        sums_row = EF_ROW(covered);
    }
    for (int32_t c = 0; c < p->channels; c++)
        ef_box_means(p->boxed_w, sums + c * sums_row, p->box_w, p->box_h, to + c * EF_ROW(p->boxed_w));
}

/* Fills in the taps along x, and how a vector gathers a group of them where its pixels lie within one. */
static void ef_prepare(ef_plane *p)
{
    p->across_row[0] = p->across_row[1] = EF_NO_ROW;
    if (!ef_resizes(p))
        return;
    p->groups = 1;
    for (int32_t x = 0; x < p->new_w; x++) {
        ef_tap tap = ef_tap_of(p->boxed_w, p->new_w, x);
        p->left[x] = tap.left;
        p->weight[x] = (uint16_t)tap.weight;
        int32_t offset = tap.left - p->left[x & ~(EF_GROUP - 1)];
        p->order[x] = (uint16_t)(EF_ZERO << 8 | offset);
        if (offset > 15)
            p->groups = 0;
    }
}

/* Row `row` of the averaged picture, resized along x. A row is kept until its place is needed for another than `other`. */
static const uint16_t *ef_across_row(ef_plane *p, int32_t row, int32_t other)
{
    int32_t i = p->across_row[0] == row ? 0 : 1;
    if (p->across_row[i] != row) {
        i = p->across_row[0] == other ? 1 : 0;
        ef_boxed_row(p, row, p->boxed);
        for (int32_t c = 0; c < p->channels; c++)
            ef_across(p->new_w, p->boxed + c * EF_ROW(p->boxed_w), p->left, p->weight,
                      p->groups ? p->order : NULL, p->across[i] + c * EF_ROW(p->new_w));
        p->across_row[i] = row;
    }
    return p->across[i];
}

/* Planar row y of the target, in p->out. */
static void ef_target_row(ef_plane *p, int32_t y)
{
    if (!ef_resizes(p)) {
        ef_boxed_row(p, y, p->out);
        return;
    }
    ef_tap tap = ef_tap_of(p->boxed_h, p->new_h, y);
    int32_t below = tap.weight ? tap.left + 1 : tap.left;
    const uint16_t *top = ef_across_row(p, tap.left, below);
    const uint16_t *bottom = ef_across_row(p, below, tap.left);
    for (int32_t c = 0; c < p->channels; c++)
        ef_blend(p->new_w, top + c * EF_ROW(p->new_w), bottom + c * EF_ROW(p->new_w), (uint32_t)tap.weight,
                 p->out + c * EF_ROW(p->new_w));
}

static void ef_fill(float *to, int64_t n, float value)
{
    for (int64_t i = 0; i < n; i++)
        to[i] = value;
}

static void ef_emit_planes(const ef_letterbox_call *c, int32_t y, const uint8_t *const rows[3])
{
    int64_t area = (int64_t)c->frame_w * c->frame_h;
    float *to = (float *)c->out + (int64_t)y * c->frame_w;
    for (int32_t k = 0; k < 3; k++, to += area) {
        ef_normalise(c->new_w, rows[k], c->mean, c->scale, to);
        ef_fill(to + c->new_w, c->frame_w - c->new_w, (128.0f - c->mean) * c->scale);
    }
}

static void ef_emit_pixels(const ef_letterbox_call *c, int32_t y, const uint8_t *const rows[3])
{
    uint8_t flip = c->output == EF_SIGNED_PIXELS ? 0x80 : 0;
    uint8_t *to = (uint8_t *)c->out + (int64_t)y * c->frame_w * 3;
    ef_interleave(c->new_w, rows[0], rows[1], rows[2], flip, to);
    memset(to + (int64_t)c->new_w * 3, 128 ^ flip, (size_t)(c->frame_w - c->new_w) * 3);
}

static void ef_emit_below(const ef_letterbox_call *c)
{
    int64_t done = (int64_t)c->new_h * c->frame_w, rest = (int64_t)(c->frame_h - c->new_h) * c->frame_w;
    if (c->output != EF_PLANES) {
        memset((uint8_t *)c->out + done * 3, c->output == EF_SIGNED_PIXELS ? 0 : 128, (size_t)rest * 3);
        return;
    }
    for (int32_t k = 0; k < 3; k++)
        ef_fill((float *)c->out + k * (done + rest) + done, rest, (128.0f - c->mean) * c->scale);
}

/* Interleaved rows that are copied as they are need not be taken apart. */
static void ef_copy_pixels(const ef_letterbox_call *c)
{
    uint8_t flip = c->output == EF_SIGNED_PIXELS ? 0x80 : 0;
    for (int32_t y = 0; y < c->new_h; y++) {
        const uint8_t *restrict from = c->first + y * c->first_step;
        uint8_t *restrict to = (uint8_t *)c->out + (int64_t)y * c->frame_w * 3;
        int64_t n = (int64_t)c->new_w * 3;
        for (int64_t i = 0; i < n; i++)
            to[i] = from[i] ^ flip;
        memset(to + n, 128 ^ flip, (size_t)(c->frame_w - c->new_w) * 3);
    }
    ef_emit_below(c);
}

#ifndef EF_LETTERBOX
#define EF_LETTERBOX ef_letterbox_any
#endif

void EF_LETTERBOX(const ef_letterbox_call *c);

void EF_LETTERBOX(const ef_letterbox_call *c)
{
    ef_plane planes[2];
    uint8_t *bgr;
    ef_scratch_of(c, c->scratch, planes, &bgr);
    int yuv = ef_has_chroma(c->format);
    if (c->format == EF_BGR && c->output != EF_PLANES && c->box_w == 1 && c->box_h == 1
        && !ef_resizes(&planes[0])) {
        ef_copy_pixels(c);
        return;
    }
    ef_prepare(&planes[0]);
    if (yuv)
        ef_prepare(&planes[1]);
    int64_t row = EF_ROW(c->new_w);
    for (int32_t y = 0; y < c->new_h; y++) {
        ef_target_row(&planes[0], y);
        const uint8_t *one = planes[0].out;
        const uint8_t *rows[3] = {one, one, one};
        if (yuv) {
            ef_target_row(&planes[1], y);
            ef_yuv_to_bgr(c->new_w, one, planes[1].out, planes[1].out + row, bgr, bgr + row, bgr + 2 * row);
            rows[0] = bgr, rows[1] = bgr + row, rows[2] = bgr + 2 * row;
        } else if (c->format != EF_GREY) {
            rows[0] = c->format == EF_BGR ? one : one + 2 * row;
            rows[1] = one + row;
            rows[2] = c->format == EF_BGR ? one + 2 * row : one;
        }
        if (c->output == EF_PLANES)
            ef_emit_planes(c, y, rows);
        else
            ef_emit_pixels(c, y, rows);
    }
    ef_emit_below(c);
}

#ifndef EF_VARIANT
#if defined(EF_WITH_AVX2)
void ef_letterbox_avx2(const ef_letterbox_call *c);
#endif

EF_API int64_t ef_letterbox_scratch(
    int32_t format, int32_t width, int32_t height, int32_t box_w, int32_t box_h, int32_t chroma_box_w,
    int32_t chroma_box_h, int32_t new_w, int32_t new_h);

EF_API int32_t ef_letterbox(
    int32_t format, const uint8_t *first, int64_t first_step, const uint8_t *second, int64_t second_step, int32_t width,
    int32_t height, int32_t box_w, int32_t box_h, int32_t chroma_box_w, int32_t chroma_box_h, int32_t new_w,
    int32_t new_h, int32_t output, void *out, int32_t frame_w, int32_t frame_h, float mean, float scale,
    uint8_t *scratch, int64_t scratch_bytes);

/* Whether all numbers are such that no product below overflows and no index leaves its array. */
static int ef_sound(const ef_letterbox_call *c)
{
    int chroma = ef_has_chroma(c->format);
    if (!ef_is_format(c->format) || c->output < EF_PLANES || c->output > EF_PIXELS)
        return 0;
    if (!ef_fits_format(c->format, c->width, c->height))
        return 0;
    if (c->new_w < 1 || c->new_h < 1 || c->new_w > c->frame_w || c->new_h > c->frame_h)
        return 0;
    if (c->frame_w > EF_SIDE_MAX || c->frame_h > EF_SIDE_MAX)
        return 0;
    if (c->box_w < 1 || c->box_h < 1 || c->box_w > c->width || c->box_h > c->height)
        return 0;
    return !chroma || (c->chroma_box_w >= 1 && c->chroma_box_h >= 1 && c->chroma_box_w <= c->width / 2
                       && c->chroma_box_h <= (c->format == EF_NV12 ? c->height / 2 : c->height));
}

/* Bytes of scratch that ef_letterbox needs, or EF_REFUSED. */
int64_t ef_letterbox_scratch(
    int32_t format, int32_t width, int32_t height, int32_t box_w, int32_t box_h, int32_t chroma_box_w,
    int32_t chroma_box_h, int32_t new_w, int32_t new_h)
{
    ef_letterbox_call call = {.format = format, .width = width, .height = height, .box_w = box_w, .box_h = box_h,
                              .chroma_box_w = chroma_box_w, .chroma_box_h = chroma_box_h, .new_w = new_w,
                              .new_h = new_h, .frame_w = new_w, .frame_h = new_h};
    ef_plane planes[2];
    uint8_t *bgr;
    return ef_sound(&call) ? ef_scratch_of(&call, NULL, planes, &bgr) + 64 : EF_REFUSED;
}

/* `out` is float32 (3, frame_h, frame_w) for EF_PLANES, else 8-bit (frame_h, frame_w, 3), in B, G, R. `first` and
 * `second` are read within their rows of `width` pixels alone. */
int32_t ef_letterbox(
    int32_t format, const uint8_t *first, int64_t first_step, const uint8_t *second, int64_t second_step, int32_t width,
    int32_t height, int32_t box_w, int32_t box_h, int32_t chroma_box_w, int32_t chroma_box_h, int32_t new_w,
    int32_t new_h, int32_t output, void *out, int32_t frame_w, int32_t frame_h, float mean, float scale,
    uint8_t *scratch, int64_t scratch_bytes)
{
    ef_letterbox_call call = {
        .format = format, .first = first, .second = second, .first_step = first_step, .second_step = second_step,
        .width = width, .height = height, .box_w = box_w, .box_h = box_h, .chroma_box_w = chroma_box_w,
        .chroma_box_h = chroma_box_h, .new_w = new_w, .new_h = new_h, .output = output, .frame_w = frame_w,
        .frame_h = frame_h, .out = out, .mean = mean, .scale = scale};
    if (!first || !out || !scratch || (format == EF_NV12 && !second) || !ef_sound(&call))
        return EF_REFUSED;
    int64_t needed = ef_letterbox_scratch(
        format, width, height, box_w, box_h, chroma_box_w, chroma_box_h, new_w, new_h);
    if (scratch_bytes < needed)
        return EF_REFUSED;
    call.scratch = scratch + (-(uintptr_t)scratch & 63);
#if defined(EF_WITH_AVX2)
    if (__builtin_cpu_supports("avx2")) {
        ef_letterbox_avx2(&call);
        return EF_DONE;
    }
#endif
    ef_letterbox_any(&call);
    return EF_DONE;
}
#endif
