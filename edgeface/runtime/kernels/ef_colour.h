/* From Y, U, V to B, G, R: ITU-R BT.601, limited range, in 2^-20 (the integers that OpenCV uses too). */
#ifndef EF_COLOUR_H
#define EF_COLOUR_H

#include "ef_common.h"

static inline uint8_t ef_byte(int32_t value) { return (uint8_t)ef_min(ef_max(value, 0), 255); }

/* n pixels of planar y, u, v, each uint8, into planar b, g, r. */
static inline void ef_yuv_to_bgr(
    int32_t n, const uint8_t *restrict y, const uint8_t *restrict u, const uint8_t *restrict v,
    uint8_t *restrict b, uint8_t *restrict g, uint8_t *restrict r)
{
    for (int32_t i = 0; i < n; i++) {
        int32_t light = ef_max((int32_t)y[i] - 16, 0) * 1220542 + (1 << 19);
        int32_t blue = (int32_t)u[i] - 128, red = (int32_t)v[i] - 128;
        b[i] = ef_byte((light + 2116026 * blue) >> 20);
        g[i] = ef_byte((light - 409993 * blue - 852492 * red) >> 20);
        r[i] = ef_byte((light + 1673527 * red) >> 20);
    }
}

#endif
