/* Boxes, points and angles of kept anchors: edgeface/runtime/decode.py. */
#include "ef_exp.h"
#include "ef_maps.h"
#include "ef_nms.h"

enum { EF_NOT_FINITE = -3, BOX = 4, POINTS = 10, BLOCK = 16 };

EF_API int32_t ef_best_boxes(
    const ef_pyramid *pyramid, const ef_map *maps, int32_t n, const ef_anchor *anchors, const float *logits,
    float iou_threshold, float scale_x, float scale_y, float *boxes, int64_t *kept, float *room);
EF_API int32_t ef_decode_landmarks(
    const ef_pyramid *pyramid, const ef_map *maps, int32_t n, const ef_anchor *anchors, float scale_x, float scale_y,
    float *points);
EF_API void ef_sigmoid(int32_t n, const float *logits, float *out);
EF_API int32_t ef_pose_degrees(
    int32_t n, const float *logits, int32_t bins, float bin_deg, float first_centre_deg, float *degrees);

typedef struct {
    const ef_map *map;
    int64_t at;             /* where the anchor's first channel lies */
    float x, y, side;       /* its centre and side in pixels */
} anchored;

/* Finds a kept anchor in its level's map, `per_anchor` channels each; 0 when it is not inside. */
static int find(
    const ef_pyramid *pyramid, const ef_map *maps, const ef_anchor *kept, int32_t per_anchor, anchored *found)
{
    if (kept->level < 0 || kept->level >= pyramid->levels)
        return 0;
    const ef_map *map = &maps[kept->level];
    if (!map->values || kept->anchor < 0 || kept->anchor >= pyramid->most_anchors
        || (kept->anchor + 1) * per_anchor > map->channels || kept->row < 0 || kept->row >= map->height
        || kept->column < 0 || kept->column >= map->width)
        return 0;
    float stride = pyramid->strides[kept->level];
    found->map = map;
    found->at = ef_place(map, kept->anchor * per_anchor, kept->row, kept->column);
    found->x = ((float)kept->column + 0.5f) * stride;
    found->y = ((float)kept->row + 0.5f) * stride;
    found->side = pyramid->sides[kept->level * pyramid->most_anchors + kept->anchor];
    return 1;
}

/* Decodes the boxes of n kept anchors, whose maps are (4 A, H, W), and suppresses by their logits. The indices of those
 * that stay go to `kept` and their boxes, divided by the scales, to `boxes` (n, 4), best first; returns their number.
 * EF_REFUSED when an anchor is outside its map, EF_NOT_FINITE when a box is. Room for 11 n values.
 */
int32_t ef_best_boxes(
    const ef_pyramid *pyramid, const ef_map *maps, int32_t n, const ef_anchor *anchors, const float *logits,
    float iou_threshold, float scale_x, float scale_y, float *boxes, int64_t *kept, float *room)
{
    float *all = room, *columns = all + BOX * (int64_t)n;
    int32_t *order = (int32_t *)(columns + 5 * (int64_t)n), *spare = order + n;
    int finite = 1;
    for (int32_t i = 0; i < n; i++) {
        anchored a;
        if (!find(pyramid, maps, &anchors[i], BOX, &a))
            return EF_REFUSED;
        float v[BOX];
        for (int32_t k = 0; k < BOX; k++)
            v[k] = ef_value(a.map, a.at + k * a.map->step_c);
        float half_w = ef_exp(v[2] * pyramid->variance_side) * a.side / 2.0f;
        float half_h = ef_exp(v[3] * pyramid->variance_side) * a.side / 2.0f;
        float x = a.x + v[0] * pyramid->variance_centre * a.side;
        float y = a.y + v[1] * pyramid->variance_centre * a.side;
        float *box = all + BOX * (int64_t)i;
        box[0] = x - half_w, box[1] = y - half_h, box[2] = x + half_w, box[3] = y + half_h;
        for (int32_t k = 0; k < BOX; k++)
            finite &= box[k] - box[k] == 0.0f;
    }
    if (!finite)
        return EF_NOT_FINITE;
    int32_t count = ef_nms(n, all, logits, iou_threshold, columns, order, spare, kept);
    for (int32_t i = 0; i < count; i++)
        for (int32_t k = 0; k < BOX; k++)
            boxes[BOX * (int64_t)i + k] = all[BOX * kept[i] + k] / (k % 2 ? scale_y : scale_x);
    return count;
}

/* Decodes five points (n, 5, 2) of kept anchors, whose maps are (10 A, H, W), divided by the scales; EF_REFUSED when an
 * anchor is outside its map. */
int32_t ef_decode_landmarks(
    const ef_pyramid *pyramid, const ef_map *maps, int32_t n, const ef_anchor *anchors, float scale_x, float scale_y,
    float *points)
{
    for (int32_t i = 0; i < n; i++) {
        anchored a;
        if (!find(pyramid, maps, &anchors[i], POINTS, &a))
            return EF_REFUSED;
        for (int32_t k = 0; k < POINTS; k++) {
            float offset = ef_value(a.map, a.at + k * a.map->step_c);
            float at = (k % 2 ? a.y : a.x) + offset * pyramid->variance_centre * a.side;
            points[POINTS * (int64_t)i + k] = at / (k % 2 ? scale_y : scale_x);
        }
    }
    return EF_DONE;
}

void ef_sigmoid(int32_t n, const float *logits, float *out)
{
    for (int32_t i = 0; i < n; i++)
        out[i] = ef_sigmoid_of(logits[i]);
}

/* Angles (n, 3) in degrees from logits (3, bins, n): the mean of the bins' centres by the softmax of their logits. */
int32_t ef_pose_degrees(
    int32_t n, const float *logits, int32_t bins, float bin_deg, float first_centre_deg, float *degrees)
{
    if (bins < 1)
        return EF_REFUSED;
    for (int32_t angle = 0; angle < 3; angle++)
        for (int32_t i = 0; i < n; i++) {
            const float *bin = logits + (int64_t)angle * bins * n + i;
            float most = bin[0];
            for (int32_t b = 1; b < bins; b++)
                most = bin[(int64_t)b * n] > most ? bin[(int64_t)b * n] : most;
            float total = 0.0f, weighted = 0.0f;
            for (int32_t start = 0; start < bins; start += BLOCK) {
                /* The exponentials side by side, in vectors; the sums one after the other, because order counts. */
                float weights[BLOCK];
                int32_t count = ef_min(BLOCK, bins - start);
                for (int32_t b = 0; b < BLOCK; b++)
                    weights[b] = b < count ? bin[(int64_t)(start + b) * n] - most : 0.0f;
                for (int32_t b = 0; b < BLOCK; b++)
                    weights[b] = ef_exp(weights[b]);
                for (int32_t b = 0; b < count; b++) {
                    total += weights[b];
                    weighted += weights[b] * (float)(start + b);
                }
            }
            degrees[3 * (int64_t)i + angle] = weighted / total * bin_deg + first_centre_deg;
        }
    return EF_DONE;
}
