/* Pixel formats, as FORMATS in edgeface/frames.py orders them. */
#ifndef EF_FORMATS_H
#define EF_FORMATS_H

#include "ef_common.h"

enum { EF_BGR, EF_RGB, EF_GREY, EF_NV12, EF_YUYV };

/* Sides up to here leave room for every product of sizes that is formed. */
enum { EF_SIDE_MAX = 1 << 24 };

#define EF_AREA_MAX ((int64_t)EF_SIDE_MAX * EF_SIDE_MAX)

static inline int ef_is_format(int32_t format) { return format >= EF_BGR && format <= EF_YUYV; }

static inline int ef_has_chroma(int32_t format) { return format == EF_NV12 || format == EF_YUYV; }

/* Bytes from pixel to pixel, or from luma to luma. */
static inline int32_t ef_pixel_step(int32_t format)
{
    return format == EF_YUYV ? 2 : format == EF_BGR || format == EF_RGB ? 3 : 1;
}

/* Rows b, g and r of what was taken from a picture of that format, planar and `row` bytes apart; converted Y, U and V lie
 * as BGR does. */
static inline void ef_bgr_rows(int32_t format, const uint8_t *planar, int64_t row, const uint8_t *rows[3])
{
    int64_t blue = format == EF_RGB ? 2 : 0, green = format == EF_GREY ? 0 : 1;
    rows[0] = planar + blue * row;
    rows[1] = planar + green * row;
    rows[2] = planar + (2 * green - blue) * row;
}

static inline int ef_fits_format(int32_t format, int32_t width, int32_t height)
{
    return width >= 1 && height >= 1 && width <= EF_SIDE_MAX && height <= EF_SIDE_MAX
        && !(ef_has_chroma(format) && width % 2) && !(format == EF_NV12 && height % 2);
}

#endif
