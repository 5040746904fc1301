/* Rotations of a head from points of its face, by the specification in edgeface/runtime/pose_fit.py. */
#include <math.h>

#include "ef_common.h"

enum { EF_MOST_POINTS = 68, EF_STEPS = 8 };

static const double EF_DAMPING = 1e-6, EF_FLAT = 1e-9, EF_MOST_TURN = 0.5;

/* The points of one face about their centre, of length 1 together; 0 where they are no such. */
static int ef_centred(int32_t points, const float *from, double seen[][2])
{
    double x = 0, y = 0, square = 0;
    for (int32_t p = 0; p < points; p++) {
        x += (double)from[2 * p];
        y += (double)from[2 * p + 1];
    }
    x /= points, y /= points;
    for (int32_t p = 0; p < points; p++) {
        seen[p][0] = (double)from[2 * p] - x;
        seen[p][1] = (double)from[2 * p + 1] - y;
        square += seen[p][0] * seen[p][0] + seen[p][1] * seen[p][1];
    }
    if (!(square > 0) || !isfinite(square))
        return 0;
    double size = sqrt(square);
    for (int32_t p = 0; p < points; p++)
        seen[p][0] /= size, seen[p][1] /= size;
    return 1;
}

static void ef_turned(const double r[9], const double m[3], double out[3])
{
    for (int i = 0; i < 3; i++)
        out[i] = r[3 * i] * m[0] + r[3 * i + 1] * m[1] + r[3 * i + 2] * m[2];
}

/* The rotation nearest to the best affine camera. */
static void ef_first_rotation(int32_t points, double seen[][2], const double *inverse, double r[9])
{
    double a[6] = {0};
    for (int32_t p = 0; p < points; p++)
        for (int i = 0; i < 2; i++)
            for (int j = 0; j < 3; j++)
                a[3 * i + j] += seen[p][i] * inverse[3 * p + j];
    double s00 = a[0] * a[0] + a[1] * a[1] + a[2] * a[2];
    double s01 = a[0] * a[3] + a[1] * a[4] + a[2] * a[5];
    double s11 = a[3] * a[3] + a[4] * a[4] + a[5] * a[5];
    double square = s00 * s11 - s01 * s01, trace = s00 + s11;
    if (!(square > EF_FLAT * trace * trace)) {
        for (int i = 0; i < 9; i++)
            r[i] = i % 4 == 0;
        return;
    }
    double det = sqrt(square), t = sqrt(trace + 2 * det), by = t * det;
    for (int j = 0; j < 3; j++) {
        r[j] = ((s11 + det) * a[j] - s01 * a[3 + j]) / by;
        r[3 + j] = ((s00 + det) * a[3 + j] - s01 * a[j]) / by;
    }
    r[6] = r[1] * r[5] - r[2] * r[4];
    r[7] = r[2] * r[3] - r[0] * r[5];
    r[8] = r[0] * r[4] - r[1] * r[3];
}

/* x of n x = g, with n symmetric and positive definite: L D L'. */
static void ef_solve(double n[4][4], const double g[4], double x[4])
{
    double l[4][4], d[4];
    for (int i = 0; i < 4; i++) {
        for (int j = 0; j <= i; j++) {
            double v = n[i][j];
            for (int k = 0; k < j; k++)
                v -= l[i][k] * l[j][k] * d[k];
            if (j < i)
                l[i][j] = v / d[j];
            else
                d[i] = v;
        }
    }
    for (int i = 0; i < 4; i++) {
        x[i] = g[i];
        for (int k = 0; k < i; k++)
            x[i] -= l[i][k] * x[k];
    }
    for (int i = 0; i < 4; i++)
        x[i] /= d[i];
    for (int i = 3; i >= 0; i--)
        for (int k = i + 1; k < 4; k++)
            x[i] -= l[k][i] * x[k];
}

static double ef_clipped(double turn)
{
    return turn > EF_MOST_TURN ? EF_MOST_TURN : turn < -EF_MOST_TURN ? -EF_MOST_TURN : turn;
}

/* r turned further by Cayley's rotation about w. */
static void ef_turn(double r[9], const double w[3])
{
    double x = ef_clipped(w[0]) / 2, y = ef_clipped(w[1]) / 2, z = ef_clipped(w[2]) / 2;
    double square = x * x + y * y + z * z, by = 1 + square, same = 1 - square;
    double c[9] = {
        (same + 2 * x * x) / by, (2 * x * y - 2 * z) / by, (2 * x * z + 2 * y) / by,
        (2 * x * y + 2 * z) / by, (same + 2 * y * y) / by, (2 * y * z - 2 * x) / by,
        (2 * x * z - 2 * y) / by, (2 * y * z + 2 * x) / by, (same + 2 * z * z) / by};
    double old[9];
    for (int i = 0; i < 9; i++)
        old[i] = r[i];
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < 3; j++)
            r[3 * i + j] = c[3 * i] * old[j] + c[3 * i + 1] * old[3 + j] + c[3 * i + 2] * old[6 + j];
}

static void ef_fit(int32_t points, double seen[][2], const double *model, const double *inverse, double r[9])
{
    ef_first_rotation(points, seen, inverse, r);
    double both = 0, own = 0, at[3];
    for (int32_t p = 0; p < points; p++) {
        ef_turned(r, model + 3 * p, at);
        both += seen[p][0] * at[0] + seen[p][1] * at[1];
        own += at[0] * at[0] + at[1] * at[1];
    }
    double scale = both / own;
    for (int step = 0; step < EF_STEPS; step++) {
        double n[4][4] = {{0}}, g[4] = {0}, by[4];
        for (int32_t p = 0; p < points; p++) {
            ef_turned(r, model + 3 * p, at);
            double z = scale * at[2], x = scale * at[0], y = scale * at[1];
            /* d/dw of exp([w]x) X at 0, seen from the front, and d/dscale. */
            double rows[2][4] = {{0, z, -y, at[0]}, {-z, 0, x, at[1]}};
            double left[2] = {seen[p][0] - x, seen[p][1] - y};
            for (int i = 0; i < 2; i++)
                for (int j = 0; j < 4; j++) {
                    g[j] += rows[i][j] * left[i];
                    for (int k = 0; k <= j; k++)
                        n[j][k] += rows[i][j] * rows[i][k];
                }
        }
        for (int j = 0; j < 4; j++)
            n[j][j] += EF_DAMPING;
        ef_solve(n, g, by);
        ef_turn(r, by);
        scale += by[3];
    }
}

EF_API int32_t ef_fit_pose(
    int32_t faces, int32_t points, const float *from, const double *model, const double *inverse, double *rotations);

/* `from` is (faces, points, 2), `model` and `inverse` (points, 3), `rotations` (faces, 9): NaN for a face without any. */
int32_t ef_fit_pose(
    int32_t faces, int32_t points, const float *from, const double *model, const double *inverse, double *rotations)
{
    if (faces < 0 || points < 3 || points > EF_MOST_POINTS)
        return EF_REFUSED;
    double seen[EF_MOST_POINTS][2];
    for (int64_t i = 0; i < faces; i++) {
        double *r = rotations + 9 * i;
        if (ef_centred(points, from + 2 * i * points, seen))
            ef_fit(points, seen, model, inverse, r);
        else
            for (int j = 0; j < 9; j++)
                r[j] = NAN;
    }
    return EF_DONE;
}
