/* Rows of pixels: taking channels apart, summing boxes, resizing, putting channels together again.
 *
 * "Planar" rows lie channel by channel, EF_ROW(n) bytes or values apart; the slack behind each lets vectors read past
 * its end.
 */
#ifndef EF_ROWS_H
#define EF_ROWS_H

#include "ef_common.h"

#include <string.h>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

enum { EF_SLACK = 32, EF_GROUP = 8 };

#define EF_ROW(n) ((((int64_t)(n) + 15) & ~(int64_t)15) + EF_SLACK)

/* The largest box side whose column sums, and n = 257 * 257 pixels' sums, fit the types below. */
enum { EF_BOX_MAX = 257 };

typedef struct {
    int32_t left;       /* of source pixels left and left + 1 ... */
    int32_t weight;     /* ... the second's weight in 256ths; 0 where there is no second */
} ef_tap;

/* Where target pixel i of `target` falls on `source` pixels. Divided twice, as OpenCV does: the double rounding can move
 * a weight by 1. */
static inline ef_tap ef_tap_of(int32_t source, int32_t target, int32_t i)
{
    double step = 1.0 / ((double)target / (double)source);
    double position = ((double)i + 0.5) * step - 0.5;
    double first = __builtin_floor(position);
    ef_tap tap = {0, 0};
    if (first < 0.0)
        return tap;
    if (first >= (double)(source - 1)) {
        tap.left = source - 1;
        return tap;
    }
    tap.left = (int32_t)first;
    tap.weight = (int32_t)__builtin_rint((position - first) * 256.0);
    return tap;
}

#if defined(__AVX2__)
/* 16 pixels of 3 interleaved bytes (48 bytes) as 3 x 16 planar ones. */
static inline void ef_load3(const uint8_t *p, __m128i out[3])
{
    __m128i s0 = _mm_loadu_si128((const __m128i *)p), s1 = _mm_loadu_si128((const __m128i *)(p + 16)),
            s2 = _mm_loadu_si128((const __m128i *)(p + 32));
#define EF_THREE(a, b, c) \
    _mm_or_si128(_mm_or_si128(_mm_shuffle_epi8(s0, a), _mm_shuffle_epi8(s1, b)), _mm_shuffle_epi8(s2, c))
    out[0] = EF_THREE(
        _mm_setr_epi8(0, 3, 6, 9, 12, 15, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1),
        _mm_setr_epi8(-1, -1, -1, -1, -1, -1, 2, 5, 8, 11, 14, -1, -1, -1, -1, -1),
        _mm_setr_epi8(-1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, 1, 4, 7, 10, 13));
    out[1] = EF_THREE(
        _mm_setr_epi8(1, 4, 7, 10, 13, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1),
        _mm_setr_epi8(-1, -1, -1, -1, -1, 0, 3, 6, 9, 12, 15, -1, -1, -1, -1, -1),
        _mm_setr_epi8(-1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, 2, 5, 8, 11, 14));
    out[2] = EF_THREE(
        _mm_setr_epi8(2, 5, 8, 11, 14, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1),
        _mm_setr_epi8(-1, -1, -1, -1, -1, 1, 4, 7, 10, 13, -1, -1, -1, -1, -1, -1),
        _mm_setr_epi8(-1, -1, -1, -1, -1, -1, -1, -1, -1, -1, 0, 3, 6, 9, 12, 15));
}

/* The reverse: 3 x 16 planar bytes as 48 interleaved ones. */
static inline void ef_store3(uint8_t *p, __m128i s0, __m128i s1, __m128i s2)
{
    _mm_storeu_si128((__m128i *)p, EF_THREE(
        _mm_setr_epi8(0, -1, -1, 1, -1, -1, 2, -1, -1, 3, -1, -1, 4, -1, -1, 5),
        _mm_setr_epi8(-1, 0, -1, -1, 1, -1, -1, 2, -1, -1, 3, -1, -1, 4, -1, -1),
        _mm_setr_epi8(-1, -1, 0, -1, -1, 1, -1, -1, 2, -1, -1, 3, -1, -1, 4, -1)));
    _mm_storeu_si128((__m128i *)(p + 16), EF_THREE(
        _mm_setr_epi8(-1, -1, 6, -1, -1, 7, -1, -1, 8, -1, -1, 9, -1, -1, 10, -1),
        _mm_setr_epi8(5, -1, -1, 6, -1, -1, 7, -1, -1, 8, -1, -1, 9, -1, -1, 10),
        _mm_setr_epi8(-1, 5, -1, -1, 6, -1, -1, 7, -1, -1, 8, -1, -1, 9, -1, -1)));
    _mm_storeu_si128((__m128i *)(p + 32), EF_THREE(
        _mm_setr_epi8(-1, 11, -1, -1, 12, -1, -1, 13, -1, -1, 14, -1, -1, 15, -1, -1),
        _mm_setr_epi8(-1, -1, 11, -1, -1, 12, -1, -1, 13, -1, -1, 14, -1, -1, 15, -1),
        _mm_setr_epi8(10, -1, -1, 11, -1, -1, 12, -1, -1, 13, -1, -1, 14, -1, -1, 15)));
#undef EF_THREE
}
#endif

/* n pixels, `step` bytes apart, of channels `apart` bytes from each other: planar. */
static inline void ef_unpack(
    int32_t n, const uint8_t *restrict from, int32_t step, int32_t channels, int32_t apart, uint8_t *restrict to)
{
    int64_t row = EF_ROW(n);
    int32_t i = 0;
    if (step == 1) {
        memcpy(to, from, (size_t)n);
    } else if (step == 2 && channels == 1) {
        for (; i < n; i++)
            to[i] = from[2 * i];
    } else if (step == 2) {
        for (; i < n; i++) {
            to[i] = from[2 * i];
            to[row + i] = from[2 * i + 1];
        }
    } else if (step == 3) {
#if defined(__AVX2__)
        for (; i + 16 <= n; i += 16) {
            __m128i planes[3];
            ef_load3(from + 3 * (int64_t)i, planes);
            for (int32_t c = 0; c < 3; c++)
                _mm_storeu_si128((__m128i *)(to + c * row + i), planes[c]);
        }
#elif EF_NEON
        for (; i + 16 <= n; i += 16) {
            uint8x16x3_t planes = vld3q_u8(from + 3 * (int64_t)i);
            for (int32_t c = 0; c < 3; c++)
                vst1q_u8(to + c * row + i, planes.val[c]);
        }
#endif
        for (; i < n; i++)
            for (int32_t c = 0; c < 3; c++)
                to[c * row + i] = from[3 * (int64_t)i + c];
    } else {
        for (int32_t c = 0; c < channels; c++)
            for (i = 0; i < n; i++)
                to[c * row + i] = from[(int64_t)step * i + c * apart];
    }
}

/* Means of 2 x 2 boxes, n of them, of the rows `a` and `b`, of 3 interleaved channels or of one: planar. */
static inline void ef_halve(
    int32_t n, const uint8_t *restrict a, const uint8_t *restrict b, int32_t step, int32_t channels,
    uint8_t *restrict to)
{
    int64_t row = EF_ROW(n);
    int32_t i = 0;
    if (step == 3) {
#if defined(__AVX2__)
        const __m128i ones = _mm_set1_epi8(1), two = _mm_set1_epi16(2);
        for (; i + 16 <= n; i += 16) {
            __m128i a0[3], a1[3], b0[3], b1[3];
            ef_load3(a + 6 * (int64_t)i, a0);
            ef_load3(a + 6 * (int64_t)i + 48, a1);
            ef_load3(b + 6 * (int64_t)i, b0);
            ef_load3(b + 6 * (int64_t)i + 48, b1);
            for (int32_t c = 0; c < 3; c++) {
                __m128i low = _mm_add_epi16(_mm_maddubs_epi16(a0[c], ones), _mm_maddubs_epi16(b0[c], ones));
                __m128i high = _mm_add_epi16(_mm_maddubs_epi16(a1[c], ones), _mm_maddubs_epi16(b1[c], ones));
                low = _mm_srli_epi16(_mm_add_epi16(low, two), 2);
                high = _mm_srli_epi16(_mm_add_epi16(high, two), 2);
                _mm_storeu_si128((__m128i *)(to + c * row + i), _mm_packus_epi16(low, high));
            }
        }
#elif EF_NEON
        for (; i + 16 <= n; i += 16) {
            uint8x16x3_t a0 = vld3q_u8(a + 6 * (int64_t)i), a1 = vld3q_u8(a + 6 * (int64_t)i + 48);
            uint8x16x3_t b0 = vld3q_u8(b + 6 * (int64_t)i), b1 = vld3q_u8(b + 6 * (int64_t)i + 48);
            for (int32_t c = 0; c < 3; c++) {
                uint16x8_t low = vpadalq_u8(vpaddlq_u8(a0.val[c]), b0.val[c]);
                uint16x8_t high = vpadalq_u8(vpaddlq_u8(a1.val[c]), b1.val[c]);
                vst1q_u8(to + c * row + i, vcombine_u8(vrshrn_n_u16(low, 2), vrshrn_n_u16(high, 2)));
            }
        }
#endif
    } else if (step == 1) {
#if EF_NEON
        for (; i + 8 <= n; i += 8) {
            uint16x8_t sums = vpadalq_u8(vpaddlq_u8(vld1q_u8(a + 2 * i)), vld1q_u8(b + 2 * i));
            vst1_u8(to + i, vrshrn_n_u16(sums, 2));
        }
#endif
        for (; i < n; i++)
            to[i] = (uint8_t)((a[2 * i] + a[2 * i + 1] + b[2 * i] + b[2 * i + 1] + 2) >> 2);
    } else if (step == 2 && channels == 1) {
        for (; i < n; i++)
            to[i] = (uint8_t)((a[4 * i] + a[4 * i + 2] + b[4 * i] + b[4 * i + 2] + 2) >> 2);
    }
    for (; i < n; i++)
        for (int32_t c = 0; c < channels; c++) {
            int64_t at = 2 * (int64_t)step * i + c;
            to[c * row + i] = (uint8_t)((a[at] + a[at + step] + b[at] + b[at + step] + 2) >> 2);
        }
}

/* sums[i] = the sum over `rows` rows (1 to EF_BOX_MAX), `row_step` bytes apart, of from[i]. */
static inline void ef_add_rows(
    int64_t n, const uint8_t *restrict from, int64_t row_step, int32_t rows, uint16_t *restrict sums)
{
    const uint8_t *a = from;
    if (rows >= 3) {
        const uint8_t *b = a + row_step, *c = b + row_step;
        for (int64_t i = 0; i < n; i++)
            sums[i] = (uint16_t)(a[i] + b[i] + c[i]);
        a = c + row_step, rows -= 3;
    } else if (rows == 2) {
        const uint8_t *b = a + row_step;
        for (int64_t i = 0; i < n; i++)
            sums[i] = (uint16_t)(a[i] + b[i]);
        return;
    } else {
        for (int64_t i = 0; i < n; i++)
            sums[i] = a[i];
        return;
    }
    for (; rows >= 2; rows -= 2, a += 2 * row_step) {
        const uint8_t *b = a + row_step;
        for (int64_t i = 0; i < n; i++)
            sums[i] = (uint16_t)(sums[i] + a[i] + b[i]);
    }
    if (rows)
        for (int64_t i = 0; i < n; i++)
            sums[i] = (uint16_t)(sums[i] + a[i]);
}

/* As ef_unpack, for sums. */
static inline void ef_unpack_sums(
    int32_t n, const uint16_t *restrict from, int32_t step, int32_t channels, int32_t apart, uint16_t *restrict to)
{
    int64_t row = EF_ROW(n);
    if (step == 3) {
        for (int32_t i = 0; i < n; i++) {
            to[i] = from[3 * i];
            to[row + i] = from[3 * i + 1];
            to[2 * row + i] = from[3 * i + 2];
        }
        return;
    }
    for (int32_t c = 0; c < channels; c++)
        for (int32_t i = 0; i < n; i++)
            to[c * row + i] = from[(int64_t)step * i + c * apart];
}

/* Means of n boxes of `box_w` neighbours in a row of column sums, each over box_h pixels: (sum + half) / (w * h). */
static inline void ef_box_means(
    int32_t n, const uint16_t *restrict sums, int32_t box_w, int32_t box_h, uint8_t *restrict to)
{
    uint32_t area = (uint32_t)box_w * (uint32_t)box_h, half = area / 2;
    if (area <= 128) {
        /* x / area for x below 2^15 is (x * m) >> s, exactly: m * area - 2^s is at most area, so the product is off by
         * less than 2^s. */
        uint32_t s = 17;
        while ((1u << (s - 16)) <= area)
            s++;
        uint32_t m = (1u << s) / area + 1;
        switch (box_w) {
        case 1:
            for (int32_t i = 0; i < n; i++)
                to[i] = (uint8_t)(((sums[i] + half) * m) >> s);
            return;
        case 2:
            for (int32_t i = 0; i < n; i++)
                to[i] = (uint8_t)(((sums[2 * i] + (uint32_t)sums[2 * i + 1] + half) * m) >> s);
            return;
        case 3:
            for (int32_t i = 0; i < n; i++)
                to[i] = (uint8_t)(
                    ((sums[3 * i] + (uint32_t)sums[3 * i + 1] + (uint32_t)sums[3 * i + 2] + half) * m) >> s);
            return;
        case 4:
            for (int32_t i = 0; i < n; i++)
                to[i] = (uint8_t)(((sums[4 * i] + (uint32_t)sums[4 * i + 1] + (uint32_t)sums[4 * i + 2]
                                    + (uint32_t)sums[4 * i + 3] + half) * m) >> s);
            return;
        default:
            break;
        }
    }
    /* The same for x below 2^25 and areas up to 257 * 257. */
    uint64_t m = ((uint64_t)1 << 43) / area + 1;
    for (int32_t i = 0; i < n; i++) {
        uint32_t sum = half;
        for (int32_t j = 0; j < box_w; j++)
            sum += sums[(int64_t)i * box_w + j];
        to[i] = (uint8_t)((sum * m) >> 43);
    }
}

/* Targets of one row by bilinear weights from a planar row, in 256ths: at most 255 * 256, which uint16 holds.
 * `shuffle` and `base` are those of ef_group_taps, or NULL when a group spans more than a vector. */
static inline void ef_across(
    int32_t n, const uint8_t *restrict from, const int32_t *restrict left, const uint16_t *restrict weight,
    const uint8_t *restrict shuffle, uint16_t *restrict to)
{
    int32_t i = 0;
    if (shuffle) {
#if defined(__AVX2__)
        for (; i + EF_GROUP <= n; i += EF_GROUP) {
            __m128i order = _mm_loadl_epi64((const __m128i *)(shuffle + i));
            __m128i a = _mm_loadu_si128((const __m128i *)(from + left[i]));
            __m128i b = _mm_loadu_si128((const __m128i *)(from + left[i] + 1));
            a = _mm_cvtepu8_epi16(_mm_shuffle_epi8(a, order));
            b = _mm_cvtepu8_epi16(_mm_shuffle_epi8(b, order));
            __m128i w = _mm_loadu_si128((const __m128i *)(weight + i));
            __m128i sum = _mm_add_epi16(_mm_slli_epi16(a, 8), _mm_mullo_epi16(_mm_sub_epi16(b, a), w));
            _mm_storeu_si128((__m128i *)(to + i), sum);
        }
#elif EF_NEON
        for (; i + EF_GROUP <= n; i += EF_GROUP) {
            uint8x8_t order = vld1_u8(shuffle + i);
            uint8x8_t a = vqtbl1_u8(vld1q_u8(from + left[i]), order);
            uint8x8_t b = vqtbl1_u8(vld1q_u8(from + left[i] + 1), order);
            vst1q_u16(to + i, vmlaq_u16(vshlq_n_u16(vmovl_u8(a), 8), vsubl_u8(b, a), vld1q_u16(weight + i)));
        }
#endif
    }
    for (; i < n; i++) {
        int32_t a = from[left[i]], b = from[left[i] + 1];
        to[i] = (uint16_t)((a << 8) + (b - a) * weight[i]);
    }
}

/* Weighted mean of two such rows: (top * (256 - weight) + bottom * weight + 2^15) >> 16. */
static inline void ef_blend(
    int32_t n, const uint16_t *restrict top, const uint16_t *restrict bottom, uint32_t weight, uint8_t *restrict to)
{
    int32_t i = 0;
    uint32_t rest = 256 - weight;
#if EF_NEON
    for (; i + 8 <= n; i += 8) {
        uint16x8_t t = vld1q_u16(top + i), b = vld1q_u16(bottom + i);
        uint32x4_t low = vmlal_n_u16(vmull_n_u16(vget_low_u16(t), (uint16_t)rest), vget_low_u16(b), (uint16_t)weight);
        uint32x4_t high = vmlal_n_u16(vmull_n_u16(vget_high_u16(t), (uint16_t)rest), vget_high_u16(b), (uint16_t)weight);
        vst1_u8(to + i, vmovn_u16(vcombine_u16(vrshrn_n_u32(low, 16), vrshrn_n_u32(high, 16))));
    }
#endif
    for (; i < n; i++)
        to[i] = (uint8_t)((top[i] * rest + bottom[i] * weight + (1u << 15)) >> 16);
}

/* (value - mean) * scale, each step rounded to float. */
static inline void ef_normalise(int32_t n, const uint8_t *restrict from, float mean, float scale, float *restrict to)
{
    for (int32_t i = 0; i < n; i++)
        to[i] = ((float)from[i] - mean) * scale;
}

/* n pixels of planar b, g, r as interleaved bytes, each exclusive-or `flip`: 0x80 makes int8 of value - 128. */
static inline void ef_interleave(
    int32_t n, const uint8_t *restrict b, const uint8_t *restrict g, const uint8_t *restrict r, uint8_t flip,
    uint8_t *restrict to)
{
    int32_t i = 0;
#if defined(__AVX2__)
    const __m128i flips = _mm_set1_epi8((char)flip);
    for (; i + 16 <= n; i += 16)
        ef_store3(to + 3 * (int64_t)i, _mm_xor_si128(_mm_loadu_si128((const __m128i *)(b + i)), flips),
                  _mm_xor_si128(_mm_loadu_si128((const __m128i *)(g + i)), flips),
                  _mm_xor_si128(_mm_loadu_si128((const __m128i *)(r + i)), flips));
#elif EF_NEON
    const uint8x16_t flips = vdupq_n_u8(flip);
    for (; i + 16 <= n; i += 16) {
        uint8x16x3_t pixels = {{veorq_u8(vld1q_u8(b + i), flips), veorq_u8(vld1q_u8(g + i), flips),
                                veorq_u8(vld1q_u8(r + i), flips)}};
        vst3q_u8(to + 3 * (int64_t)i, pixels);
    }
#endif
    for (; i < n; i++) {
        to[3 * (int64_t)i] = b[i] ^ flip;
        to[3 * (int64_t)i + 1] = g[i] ^ flip;
        to[3 * (int64_t)i + 2] = r[i] ^ flip;
    }
}

#endif
