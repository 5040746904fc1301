/* Pixel formats, as FORMATS in edgeface/frames.py orders them. */
#ifndef EF_FORMATS_H
#define EF_FORMATS_H

#include "ef_common.h"

enum { EF_BGR, EF_RGB, EF_GREY, EF_NV12, EF_YUYV };

/* Sides up to here leave room for every product of sizes that is formed. */
enum { EF_SIDE_MAX = 1 << 24 };

static inline int ef_is_format(int32_t format) { return format >= EF_BGR && format <= EF_YUYV; }

static inline int ef_has_chroma(int32_t format) { return format == EF_NV12 || format == EF_YUYV; }

/* Bytes from pixel to pixel, or from luma to luma. */
static inline int32_t ef_pixel_step(int32_t format)
{
    return format == EF_YUYV ? 2 : format == EF_BGR || format == EF_RGB ? 3 : 1;
}

static inline int ef_fits_format(int32_t format, int32_t width, int32_t height)
{
    return width >= 1 && height >= 1 && width <= EF_SIDE_MAX && height <= EF_SIDE_MAX
        && !(ef_has_chroma(format) && width % 2) && !(format == EF_NV12 && height % 2);
}

#endif
