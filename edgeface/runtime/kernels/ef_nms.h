/* Greedy suppression, which boxes that are decoded here need as well as boxes that come from elsewhere. */
#ifndef EF_NMS_H
#define EF_NMS_H

#include "ef_common.h"

EF_API int32_t ef_nms(
    int32_t n, const float *boxes, const float *scores, float iou_threshold, float *columns, int32_t *order,
    int32_t *spare, int64_t *kept);

#endif
