/* The anchors whose score reaches a threshold: edgeface/runtime/decode.py, keep_anchors. */
#include "ef_exp.h"
#include "ef_maps.h"

enum { EF_NO_NUMBER = -2, BLOCK = 16, DIGIT_BITS = 11, DIGITS = 1 << DIGIT_BITS };

typedef struct {
    float threshold;
    int32_t limit, capacity;
    ef_anchor *anchors;
    float *logits;
    int64_t found;
    /* Of more than `limit` anchors those stay whose key is above `cut`, and `ties` of those that have it. */
    int64_t ties;
    uint32_t cut, cut_bits;     /* cut_bits: how many of its upper bits are known */
    uint32_t counts[DIGITS];    /* anchors by the next bits of their key, among those that share the known ones */
} search;

typedef void on_anchor(search *s, float logit, int32_t level, int32_t anchor, int32_t row, int32_t column);

EF_API int32_t ef_keep_anchors(
    int32_t levels, const ef_map *scores, float threshold, int32_t limit, int32_t capacity, ef_anchor *anchors,
    float *logits);

/* Whether one of 16 values is not below the threshold; a NaN is not. */
static inline int any_float(const float *v, float threshold)
{
#if EF_NEON
    float32x4_t t = vdupq_n_f32(threshold);
    uint32x4_t below = vandq_u32(
        vandq_u32(vcltq_f32(vld1q_f32(v), t), vcltq_f32(vld1q_f32(v + 4), t)),
        vandq_u32(vcltq_f32(vld1q_f32(v + 8), t), vcltq_f32(vld1q_f32(v + 12), t)));
    return vminvq_u32(below) == 0;
#else
    uint32_t below = 1;
    for (int32_t i = 0; i < BLOCK; i++)
        below &= v[i] < threshold;
    return !below;
#endif
}

static inline int any_int8(const int8_t *v, int8_t lowest)
{
#if EF_NEON
    return vmaxvq_s8(vld1q_s8(v)) >= lowest;
#else
    int8_t most = v[0];
    for (int32_t i = 1; i < BLOCK; i++)
        most = v[i] > most ? v[i] : most;
    return most >= lowest;
#endif
}

/* The smallest integer whose value reaches the threshold; 128 when none does. */
static int32_t lowest_integer(float scale, float threshold)
{
    int32_t low = -128, high = 128;
    while (low < high) {
        int32_t middle = (low + high) >> 1;
        if ((float)middle * scale >= threshold)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

/* One value; 0 when it is not a number. */
static inline int look(
    search *s, on_anchor *tell, const ef_map *map, int64_t at, int32_t level, int32_t anchor, int32_t row,
    int32_t column)
{
    float logit = ef_value(map, at);
    if (logit >= s->threshold)
        tell(s, logit, level, anchor, row, column);
    return logit == logit;
}

/* Tells of every anchor of a level that reaches the threshold, by row, column, anchor; 0 when a score is no number. */
static int scan(search *s, on_anchor *tell, const ef_map *map, int32_t level)
{
    int32_t lowest = map->is_int8 ? lowest_integer(map->scale, s->threshold) : 0;
    if (lowest > 127)
        return 1;
    const float *floats = map->values;
    const int8_t *integers = map->values;
    int32_t anchors = map->channels, width = map->width;
    if (map->step_c == 1 && map->step_x == anchors) {
        int64_t row_length = (int64_t)width * anchors;
        for (int32_t y = 0; y < map->height; y++) {
            int64_t at = y * map->step_y;
            for (int64_t i = 0; i < row_length; i += BLOCK) {
                int64_t end = i + BLOCK < row_length ? i + BLOCK : row_length;
                if (end == i + BLOCK
                    && !(map->is_int8 ? any_int8(integers + at + i, (int8_t)lowest)
                                      : any_float(floats + at + i, s->threshold)))
                    continue;
                for (int64_t j = i; j < end; j++)
                    if (!look(s, tell, map, at + j, level, (int32_t)(j % anchors), y, (int32_t)(j / anchors)))
                        return 0;
            }
        }
        return 1;
    }
    int in_rows = map->step_x == 1;
    for (int32_t y = 0; y < map->height; y++) {
        for (int32_t x = 0; x < width; x += BLOCK) {
            int32_t end = ef_min(x + BLOCK, width);
            if (in_rows && end == x + BLOCK) {
                int any = 0;
                for (int32_t a = 0; a < anchors && !any; a++) {
                    int64_t at = ef_place(map, a, y, x);
                    any = map->is_int8 ? any_int8(integers + at, (int8_t)lowest)
                                       : any_float(floats + at, s->threshold);
                }
                if (!any)
                    continue;
            }
            for (int32_t column = x; column < end; column++)
                for (int32_t a = 0; a < anchors; a++)
                    if (!look(s, tell, map, ef_place(map, a, y, column), level, a, y, column))
                        return 0;
        }
    }
    return 1;
}

static void write(search *s, float logit, int32_t level, int32_t anchor, int32_t row, int32_t column)
{
    if (s->found < s->capacity) {
        s->anchors[s->found] = (ef_anchor){level, anchor, row, column};
        s->logits[s->found] = logit;
    }
    s->found++;
}

/* Unsigned integers in the order of the floats; both zeros are one. */
static inline uint32_t key_of(float value)
{
    uint32_t bits = value == 0.0f ? 0 : ef_bits(value);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

static void count(search *s, float logit, int32_t level, int32_t anchor, int32_t row, int32_t column)
{
    (void)level, (void)anchor, (void)row, (void)column;
    uint32_t key = key_of(logit), known = s->cut_bits;
    if (known && (key ^ s->cut) >> (32 - known))
        return;
    uint32_t rest = 32 - known, digit = rest < DIGIT_BITS ? rest : DIGIT_BITS;
    s->counts[(key >> (rest - digit)) & ((1u << digit) - 1)]++;
}

static void write_best(search *s, float logit, int32_t level, int32_t anchor, int32_t row, int32_t column)
{
    uint32_t key = key_of(logit);
    if (key > s->cut || (key == s->cut && s->ties-- > 0))
        write(s, logit, level, anchor, row, column);
}

/* Finds the key of the limit-th best anchor, digit by digit from the top, with memory that does not grow with them. */
static void find_cut(search *s, int32_t levels, const ef_map *scores)
{
    s->ties = s->limit;
    while (s->cut_bits < 32) {
        uint32_t rest = 32 - s->cut_bits, digit = rest < DIGIT_BITS ? rest : DIGIT_BITS;
        memset(s->counts, 0, sizeof s->counts);
        for (int32_t i = 0; i < levels; i++)
            scan(s, count, &scores[i], i);
        uint32_t d = (1u << digit) - 1;
        for (; d > 0 && s->counts[d] < s->ties; d--)
            s->ties -= s->counts[d];
        s->cut |= d << (rest - digit);
        s->cut_bits += digit;
    }
}

/* Writes the anchors whose logit is at least `threshold`, by level, row, column and anchor, at most `limit` of them: the
 * best, and of equal ones the first.
 *
 * The outputs have room for `capacity`. Returns how many anchors there are to write; when that is more than `capacity`,
 * the call must be made again with more room. EF_NO_NUMBER when a score is not a number.
 */
int32_t ef_keep_anchors(
    int32_t levels, const ef_map *scores, float threshold, int32_t limit, int32_t capacity, ef_anchor *anchors,
    float *logits)
{
    if (limit < 1 || capacity < 1)
        return EF_REFUSED;
    search s;
    s.threshold = threshold, s.limit = limit, s.capacity = ef_min(capacity, limit);
    s.anchors = anchors, s.logits = logits;
    s.found = 0, s.cut = 0, s.cut_bits = 0;
    for (int32_t i = 0; i < levels; i++)
        if (!scan(&s, write, &scores[i], i))
            return EF_NO_NUMBER;
    if (s.found <= limit)
        return (int32_t)s.found;
    if (s.capacity < limit)
        return limit;
    find_cut(&s, levels, scores);
    s.found = 0;
    for (int32_t i = 0; i < levels; i++)
        scan(&s, write_best, &scores[i], i);
    return (int32_t)s.found;
}
