/* The letterbox, by the specification at the top of edgeface/runtime/preprocess.py: row by row, so that a picture's rows
 * are read once and all that lies between them and the result stays in the cache.
 *
 * On x86 this file is compiled twice, for every processor and (ef_letterbox_avx2.c) for those with AVX2.
 */
#include "ef_colour.h"
#include "ef_emit.h"
#include "ef_formats.h"
#include "ef_resize.h"

typedef struct {
    int32_t format;
    const uint8_t *first, *second;              /* pixels or luma; chroma of NV12 */
    int64_t first_step, second_step;            /* bytes from row to row */
    int32_t width, height, box_w, box_h, chroma_box_w, chroma_box_h, new_w, new_h;
    int32_t frame_w, frame_h;
    ef_sink sink;
    uint8_t *scratch;
} ef_letterbox_call;

/* Channels of one geometry, and the rows that lie between them and the target. */
typedef struct {
    const uint8_t *from;
    int64_t row_step;
    int32_t step, channels, apart;              /* bytes from pixel to pixel, and from channel to channel */
    int32_t width, height, box_w, box_h;
    uint16_t *sums, *planar_sums;               /* a row of boxes' columns, as the picture lies and planar */
    ef_resizer resizer;                         /* of the means of boxes */
    uint8_t *out;                               /* planar row of the target */
} ef_plane;

/* Gives a plane its scratch, counting on from `used`. */
static void ef_place(ef_plane *p, const ef_letterbox_call *c, uint8_t *base, int64_t *used)
{
    int64_t n = p->channels;
    p->resizer = (ef_resizer){.channels = p->channels, .from_w = p->width / p->box_w, .from_h = p->height / p->box_h,
                              .to_w = c->new_w, .to_h = c->new_h};
    if (p->box_w > 1 || p->box_h > 1) {
        p->sums = (uint16_t *)ef_carve(base, used, 2 * EF_ROW((int64_t)p->step * p->width));
        p->planar_sums = (uint16_t *)ef_carve(base, used, 2 * n * EF_ROW(p->width));
    }
    p->out = ef_carve(base, used, n * EF_ROW(c->new_w));
    if (ef_resizes(&p->resizer))
        ef_place_resizer(&p->resizer, p->resizer.from_w, base, used);
}

/* The picture's planes; how many there are, 0 for an unknown format. */
static int32_t ef_planes_of(const ef_letterbox_call *c, ef_plane planes[2])
{
    memset(planes, 0, 2 * sizeof *planes);
    int32_t step = ef_pixel_step(c->format);
    planes[0] = (ef_plane){.from = c->first, .row_step = c->first_step, .step = step, .channels = step == 3 ? 3 : 1,
                           .apart = 1, .width = c->width, .height = c->height, .box_w = c->box_w, .box_h = c->box_h};
    planes[1] = (ef_plane){.channels = 2, .width = c->width / 2, .box_w = c->chroma_box_w, .box_h = c->chroma_box_h};
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
        ef_place(&planes[i], c, base, &used);
    *bgr = ef_carve(base, &used, 3 * EF_ROW(c->new_w));
    return used;
}

/* Means of boxes of any size, pixel by pixel: only for pictures a thousand times larger than the target. */
static void ef_boxes_any(const ef_plane *p, const uint8_t *row, uint8_t *to)
{
    uint64_t area = (uint64_t)p->box_w * (uint64_t)p->box_h;
    int32_t n = p->resizer.from_w;
    for (int32_t c = 0; c < p->channels; c++)
        for (int32_t x = 0; x < n; x++) {
            uint64_t sum = area / 2;
            for (int32_t j = 0; j < p->box_h; j++) {
                const uint8_t *at = row + j * p->row_step + (int64_t)x * p->box_w * p->step + c * p->apart;
                for (int32_t i = 0; i < p->box_w; i++)
                    sum += at[(int64_t)i * p->step];
            }
            to[c * EF_ROW(n) + x] = (uint8_t)(sum / area);
        }
}

/* Planar row y of the averaged picture. */
static void ef_boxed_row(const void *plane, int32_t y, uint8_t *to)
{
    const ef_plane *p = plane;
    int32_t n = p->resizer.from_w;
    const uint8_t *row = p->from + (int64_t)y * p->box_h * p->row_step;
    if (p->box_w == 1 && p->box_h == 1) {
        ef_unpack(n, row, p->step, p->channels, p->apart, to, EF_ROW(n));
        return;
    }
    if (p->box_w > EF_BOX_MAX || p->box_h > EF_BOX_MAX) {
        ef_boxes_any(p, row, to);
        return;
    }
    if (p->box_w == 2 && p->box_h == 2 && p->step <= 3 && p->apart == 1) {
        ef_halve(n, row, row + p->row_step, p->step, p->channels, to);
        return;
    }
    int32_t covered = n * p->box_w;
    int64_t span = (int64_t)(covered - 1) * p->step + (int64_t)(p->channels - 1) * p->apart + 1;
    ef_add_rows(span, row, p->row_step, p->box_h, p->sums);
    const uint16_t *sums = p->sums;
    int64_t sums_row = 0;
    if (p->step > 1) {
        sums_row = EF_ROW(covered);
        ef_unpack_sums(covered, p->sums, p->step, p->channels, p->apart, p->planar_sums, sums_row);
        sums = p->planar_sums;
    }
    for (int32_t c = 0; c < p->channels; c++)
        ef_box_means(n, sums + c * sums_row, p->box_w, p->box_h, to + c * EF_ROW(n));
}

static void ef_prepare(ef_plane *p)
{
    ef_forget_rows(&p->resizer);
    if (ef_resizes(&p->resizer))
        ef_take_taps(&p->resizer);
}

/* Interleaved rows that are copied as they are need not be taken apart. */
static int ef_copies(const ef_letterbox_call *c, const ef_plane *p)
{
    return c->format == EF_BGR && c->sink.output != EF_PLANES && p->box_w == 1 && p->box_h == 1
        && !ef_resizes(&p->resizer);
}

static void ef_copy_row(const ef_letterbox_call *c, int32_t y)
{
    uint8_t flip = ef_flip(&c->sink);
    const uint8_t *restrict from = c->first + y * c->first_step;
    uint8_t *restrict to = (uint8_t *)c->sink.out + y * c->sink.step * 3;
    int64_t n = (int64_t)c->new_w * 3;
    for (int64_t i = 0; i < n; i++)
        to[i] = from[i] ^ flip;
}

/* Row y of the target; `bgr` is room for one of NV12 and YUYV. */
static void ef_fit_row(const ef_letterbox_call *c, ef_plane planes[2], int32_t y, uint8_t *bgr)
{
    int64_t row = EF_ROW(c->new_w);
    const uint8_t *made = planes[0].out, *chroma = planes[1].out, *rows[3];
    ef_resized_row(&planes[0].resizer, ef_boxed_row, &planes[0], y, planes[0].out);
    if (ef_has_chroma(c->format)) {
        ef_resized_row(&planes[1].resizer, ef_boxed_row, &planes[1], y, planes[1].out);
        ef_yuv_to_bgr(c->new_w, made, chroma, chroma + row, bgr, bgr + row, bgr + 2 * row);
        made = bgr;
    }
    ef_bgr_rows(c->format, made, row, rows);
    ef_emit(&c->sink, y, c->new_w, rows);
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
    int copies = ef_copies(c, &planes[0]);
    ef_prepare(&planes[0]);
    if (ef_has_chroma(c->format))
        ef_prepare(&planes[1]);
    for (int32_t y = 0; y < c->frame_h; y++) {
        int32_t filled = y < c->new_h ? c->new_w : 0;
        if (filled && copies)
            ef_copy_row(c, y);
        else if (filled)
            ef_fit_row(c, planes, y, bgr);
        ef_emit_padding(&c->sink, y, filled, c->frame_w - filled);
    }
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
    int32_t new_h, int32_t output, void *out, int64_t out_step, int64_t out_area, int32_t frame_w, int32_t frame_h,
    float mean, float scale, uint8_t *scratch, int64_t scratch_bytes);

/* Whether all numbers are such that no product below overflows and no index leaves its array. */
static int ef_sound(const ef_letterbox_call *c)
{
    int chroma = ef_has_chroma(c->format);
    if (!ef_is_format(c->format) || !ef_is_output(c->sink.output))
        return 0;
    if (!ef_fits_format(c->format, c->width, c->height))
        return 0;
    if (c->new_w < 1 || c->new_h < 1 || c->new_w > c->frame_w || c->new_h > c->frame_h)
        return 0;
    if (c->frame_w > EF_SIDE_MAX || c->frame_h > EF_SIDE_MAX)
        return 0;
    if (c->sink.step < c->frame_w || c->sink.step > EF_SIDE_MAX || c->sink.area > EF_AREA_MAX
        || c->sink.area < c->sink.step * (c->frame_h - 1) + c->frame_w)
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
                              .new_h = new_h, .frame_w = new_w, .frame_h = new_h,
                              .sink = {.step = new_w, .area = (int64_t)new_w * new_h}};
    ef_plane planes[2];
    uint8_t *bgr;
    return ef_sound(&call) ? ef_scratch_of(&call, NULL, planes, &bgr) + 64 : EF_REFUSED;
}

/* `out` is float32 (3, frame_h, frame_w) for EF_PLANES, else 8-bit (frame_h, frame_w, 3), in B, G, R, of which rows are
 * `out_step` and planes `out_area` pixels apart: it may be a part of something larger. `first` and `second` are read
 * within their rows of `width` pixels alone. */
int32_t ef_letterbox(
    int32_t format, const uint8_t *first, int64_t first_step, const uint8_t *second, int64_t second_step, int32_t width,
    int32_t height, int32_t box_w, int32_t box_h, int32_t chroma_box_w, int32_t chroma_box_h, int32_t new_w,
    int32_t new_h, int32_t output, void *out, int64_t out_step, int64_t out_area, int32_t frame_w, int32_t frame_h,
    float mean, float scale, uint8_t *scratch, int64_t scratch_bytes)
{
    ef_letterbox_call call = {
        .format = format, .first = first, .second = second, .first_step = first_step, .second_step = second_step,
        .width = width, .height = height, .box_w = box_w, .box_h = box_h, .chroma_box_w = chroma_box_w,
        .chroma_box_h = chroma_box_h, .new_w = new_w, .new_h = new_h, .frame_w = frame_w, .frame_h = frame_h,
        .sink = {.output = output, .out = out, .step = out_step, .area = out_area, .mean = mean, .scale = scale}};
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
