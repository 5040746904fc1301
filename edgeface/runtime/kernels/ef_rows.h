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

enum { EF_SLACK = 32, EF_GROUP = 8, EF_ZERO = 0x80 };

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
/* Of 48 interleaved bytes, three vectors s0, s1, s2, byte i of vector k belongs to channel (k + i) % 3. So a channel's
 * bytes are chosen by i % 3, one vector after another, and then put in order; two groups of 48 at once. */
#define EF_TWICE(...) _mm256_setr_epi8(__VA_ARGS__, __VA_ARGS__)
#define EF_FIRST EF_TWICE(-1, 0, 0, -1, 0, 0, -1, 0, 0, -1, 0, 0, -1, 0, 0, -1)
#define EF_SECOND EF_TWICE(0, -1, 0, 0, -1, 0, 0, -1, 0, 0, -1, 0, 0, -1, 0, 0)

/* a where i % 3 is 0, b where it is 1, c where it is 2. */
static inline __m256i ef_by_thirds(__m256i a, __m256i b, __m256i c)
{
    return _mm256_blendv_epi8(_mm256_blendv_epi8(c, b, EF_SECOND), a, EF_FIRST);
}

static inline __m256i ef_load_two(const uint8_t *p, const uint8_t *q)
{
    return _mm256_inserti128_si256(
        _mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)p)), _mm_loadu_si128((const __m128i *)q), 1);
}

/* 16 pixels of 3 interleaved bytes at p, and 16 at q: planar, those of q in the upper halves. */
static inline void ef_load3(const uint8_t *p, const uint8_t *q, __m256i out[3])
{
    __m256i s0 = ef_load_two(p, q), s1 = ef_load_two(p + 16, q + 16), s2 = ef_load_two(p + 32, q + 32);
    out[0] = _mm256_shuffle_epi8(
        ef_by_thirds(s0, s2, s1), EF_TWICE(0, 3, 6, 9, 12, 15, 2, 5, 8, 11, 14, 1, 4, 7, 10, 13));
    out[1] = _mm256_shuffle_epi8(
        ef_by_thirds(s1, s0, s2), EF_TWICE(1, 4, 7, 10, 13, 0, 3, 6, 9, 12, 15, 2, 5, 8, 11, 14));
    out[2] = _mm256_shuffle_epi8(
        ef_by_thirds(s2, s1, s0), EF_TWICE(2, 5, 8, 11, 14, 1, 4, 7, 10, 13, 0, 3, 6, 9, 12, 15));
}

/* The reverse, for 32 pixels in a row. */
static inline void ef_store3(uint8_t *p, __m256i b, __m256i g, __m256i r)
{
    b = _mm256_shuffle_epi8(b, EF_TWICE(0, 11, 6, 1, 12, 7, 2, 13, 8, 3, 14, 9, 4, 15, 10, 5));
    g = _mm256_shuffle_epi8(g, EF_TWICE(5, 0, 11, 6, 1, 12, 7, 2, 13, 8, 3, 14, 9, 4, 15, 10));
    r = _mm256_shuffle_epi8(r, EF_TWICE(10, 5, 0, 11, 6, 1, 12, 7, 2, 13, 8, 3, 14, 9, 4, 15));
    __m256i s0 = ef_by_thirds(b, g, r), s1 = ef_by_thirds(g, r, b), s2 = ef_by_thirds(r, b, g);
    _mm256_storeu_si256((__m256i *)p, _mm256_permute2x128_si256(s0, s1, 0x20));
    _mm256_storeu_si256((__m256i *)(p + 32), _mm256_permute2x128_si256(s2, s0, 0x30));
    _mm256_storeu_si256((__m256i *)(p + 64), _mm256_permute2x128_si256(s1, s2, 0x31));
}

/* Sums of neighbours in bytes of two rows, and their means of four. */
static inline __m256i ef_means_of_four(__m256i a, __m256i b)
{
    const __m256i ones = _mm256_set1_epi8(1);
    __m256i sums = _mm256_add_epi16(_mm256_maddubs_epi16(a, ones), _mm256_maddubs_epi16(b, ones));
    return _mm256_srli_epi16(_mm256_add_epi16(sums, _mm256_set1_epi16(2)), 2);
}
#endif

/* n pixels, `step` bytes apart, of channels `apart` bytes from each other: planar, `row` bytes apart. */
static inline void ef_unpack(
    int32_t n, const uint8_t *restrict from, int32_t step, int32_t channels, int32_t apart, uint8_t *restrict to,
    int64_t row)
{
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
        for (; i + 32 <= n; i += 32) {
            const uint8_t *at = from + 3 * (int64_t)i;
            __m256i planes[3];
            ef_load3(at, at + 48, planes);
            for (int32_t c = 0; c < 3; c++)
                _mm256_storeu_si256((__m256i *)(to + c * row + i), planes[c]);
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
        for (; i + 32 <= n; i += 32) {
            const uint8_t *p = a + 6 * (int64_t)i, *q = b + 6 * (int64_t)i;
            __m256i a0[3], a1[3], b0[3], b1[3];
            ef_load3(p, p + 96, a0);
            ef_load3(p + 48, p + 144, a1);
            ef_load3(q, q + 96, b0);
            ef_load3(q + 48, q + 144, b1);
            for (int32_t c = 0; c < 3; c++)
                _mm256_storeu_si256((__m256i *)(to + c * row + i), _mm256_packus_epi16(
                    ef_means_of_four(a0[c], b0[c]), ef_means_of_four(a1[c], b1[c])));
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
    int32_t n, const uint16_t *restrict from, int32_t step, int32_t channels, int32_t apart, uint16_t *restrict to,
    int64_t row)
{
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

/* Targets of one row by bilinear weights from a planar row, in 256ths: at most 255 * 256, which uint16 holds, and in
 * which the difference may wrap. `order` has, for each target, how far left[i] lies from that of its group's first, and
 * EF_ZERO above it; it is NULL when one lies more than a vector away. */
static inline void ef_across(
    int32_t n, const uint8_t *restrict from, const int32_t *restrict left, const uint16_t *restrict weight,
    const uint16_t *restrict order, uint16_t *restrict to)
{
    int32_t i = 0;
    if (order) {
#if defined(__AVX2__)
        for (; i + 2 * EF_GROUP <= n; i += 2 * EF_GROUP) {
            const uint8_t *p = from + left[i], *q = from + left[i + EF_GROUP];
            __m256i gather = _mm256_loadu_si256((const __m256i *)(order + i));
            __m256i a = _mm256_shuffle_epi8(ef_load_two(p, q), gather);
            __m256i b = _mm256_shuffle_epi8(ef_load_two(p + 1, q + 1), gather);
            __m256i w = _mm256_loadu_si256((const __m256i *)(weight + i));
            __m256i more = _mm256_mullo_epi16(_mm256_sub_epi16(b, a), w);
            _mm256_storeu_si256((__m256i *)(to + i), _mm256_add_epi16(_mm256_slli_epi16(a, 8), more));
        }
#elif EF_NEON
        for (; i + EF_GROUP <= n; i += EF_GROUP) {
            uint8x8_t gather = vmovn_u16(vld1q_u16(order + i));
            uint8x8_t a = vqtbl1_u8(vld1q_u8(from + left[i]), gather);
            uint8x8_t b = vqtbl1_u8(vld1q_u8(from + left[i] + 1), gather);
            uint16x8_t more = vmulq_u16(vsubl_u8(b, a), vld1q_u16(weight + i));
            vst1q_u16(to + i, vaddq_u16(vshlq_n_u16(vmovl_u8(a), 8), more));
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
#if defined(__AVX2__)
    /* The multiplication is signed: 2^15 is taken from all values, and 2^15 * 256 added to the sums. */
    const __m256i flip = _mm256_set1_epi16(INT16_MIN), both = _mm256_set1_epi32((int32_t)(weight << 16 | rest));
    const __m256i half = _mm256_set1_epi32((1 << 23) + (1 << 15));
    for (; i + 16 <= n; i += 16) {
        __m256i t = _mm256_xor_si256(_mm256_loadu_si256((const __m256i *)(top + i)), flip);
        __m256i b = _mm256_xor_si256(_mm256_loadu_si256((const __m256i *)(bottom + i)), flip);
        __m256i low = _mm256_add_epi32(_mm256_madd_epi16(_mm256_unpacklo_epi16(t, b), both), half);
        __m256i high = _mm256_add_epi32(_mm256_madd_epi16(_mm256_unpackhi_epi16(t, b), both), half);
        __m256i means = _mm256_packus_epi32(_mm256_srli_epi32(low, 16), _mm256_srli_epi32(high, 16));
        means = _mm256_permute4x64_epi64(_mm256_packus_epi16(means, means), 0x08);
        _mm_storeu_si128((__m128i *)(to + i), _mm256_castsi256_si128(means));
    }
#elif EF_NEON
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
    const __m256i flips = _mm256_set1_epi8((char)flip);
    for (; i + 32 <= n; i += 32)
        ef_store3(to + 3 * (int64_t)i, _mm256_xor_si256(_mm256_loadu_si256((const __m256i *)(b + i)), flips),
                  _mm256_xor_si256(_mm256_loadu_si256((const __m256i *)(g + i)), flips),
                  _mm256_xor_si256(_mm256_loadu_si256((const __m256i *)(r + i)), flips));
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
