/* Statistics of float32 tensors in one pass, for the CPU. Compiled at first use by kernel.py; the eager functions in
 * moments.py, histogram.py and units.py say what each number is, and are what tests hold it to.
 *
 * A tensor is seen as samples x middle x inner, `inner` contiguous; units are `middle` or `inner`. Sums are about a
 * value of each unit. With care they are made in double, without what is not finite. Of many elements it is first tried
 * in brief: eight at a time in float, about the mean of the first ones, and in double from block to block. A block is
 * gone through with care where it holds what is not finite, or squares beyond the range of a float; and all of a tile
 * is, where the mean of a unit lies more than two of its deviations from what it was thought to be. So the variance is
 * good to 1e-6, whatever the values are. No libm, no threads, no memory of its own beyond the stack.
 *
 * Vectors are those of GCC and Clang. A comparison gives -1 where it holds, so counts are subtracted.
 */
#include <stdint.h>
#include <string.h>
#ifdef __AVX__
#include <immintrin.h>
#endif

#define TILE 256 /* units at once where they are contiguous: their accumulators stay in the cache */
#define ROWS 16  /* rows at once: accumulators of eight units stay in registers over them */
#define WIDE 8
#define FIRST 16 /* elements of a unit from which its mean is guessed */
#define MANY 64  /* elements of a unit from which brevity pays */
#define LONG 8   /* counted elements of a row from which octaves are counted row by row */
#define BINS 512
#define INLINE static inline __attribute__((always_inline))

typedef float Floats __attribute__((vector_size(32)));
typedef float Half __attribute__((vector_size(16)));
typedef double Doubles __attribute__((vector_size(32)));
typedef int32_t Ints __attribute__((vector_size(32)));

enum { SAMPLES, MIDDLE, INNER, STRIDE_SAMPLE, STRIDE_MIDDLE, UNIT_DIM, EVERY };
enum { CLOSED_LOW, CLOSED_HIGH, SATURATED_LOW, SATURATED_HIGH, GATE_A, GATE_B, GATE_C, TABLE_LOW, TABLE_HIGH, STEPS, SCALE, OFFSET, PART };
enum { ZEROS, NONFINITE, GATE_N, GATE, GATE_LOW, GATE_HIGH, HEAD };
enum { N, MEAN, M2, LOW, HIGH };
enum { WITH_MOMENTS = 1, WITH_GATE = 2, WITH_OPEN = 4 };
enum { NO_GATE, OPEN_GATE, SQUARE_GATE, TABLE_GATE, PACKED_GATE };

#define INFINITE __builtin_inff()

INLINE Floats load(const float *x) {
    Floats v;
    memcpy(&v, x, sizeof v);
    return v;
}

/* The first `count` of eight floats, `fill` in place of the others. */
INLINE Floats load_some(const float *x, int64_t count, float fill) {
    float v[WIDE];
    for (int k = 0; k < WIDE; k++) v[k] = k < count ? x[k] : fill;
    return load(v);
}

INLINE Floats take(const float *x, int64_t left, float fill) {
    return left >= WIDE ? load(x) : load_some(x, left, fill);
}

INLINE Floats all(float v) { return (Floats){v, v, v, v, v, v, v, v}; }
INLINE Ints is_number(Floats v) { return ((Ints)v & 0x7f800000) != 0x7f800000; }
INLINE Floats choose(Ints where, Floats a, Floats b) { return (Floats)(((Ints)a & where) | ((Ints)b & ~where)); }

/* The lesser and the greater of numbers; a NaN may be lost. */
#ifdef __AVX__
INLINE Floats lesser(Floats a, Floats b) { return (Floats)_mm256_min_ps((__m256)a, (__m256)b); }
INLINE Floats greater(Floats a, Floats b) { return (Floats)_mm256_max_ps((__m256)a, (__m256)b); }
INLINE int any(Ints where) { return _mm256_movemask_ps((__m256)where) != 0; }
#else
INLINE Floats lesser(Floats a, Floats b) { return choose(a < b, a, b); }
INLINE Floats greater(Floats a, Floats b) { return choose(a > b, a, b); }
INLINE int any(Ints where) {
    int32_t found = 0;
    for (int k = 0; k < WIDE; k++) found |= where[k];
    return found != 0;
}
#endif

/* GCC makes four instructions of each conversion where it is not told which one is meant. */
INLINE Doubles widened(Half h) {
#ifdef __AVX__
    return (Doubles)_mm256_cvtps_pd((__m128)h);
#else
    return __builtin_convertvector(h, Doubles);
#endif
}

INLINE Doubles load_half(const float *x) {
    Half h;
    memcpy(&h, x, sizeof h);
    return widened(h);
}

INLINE Doubles low_half(Floats v) {
    Half h;
    memcpy(&h, &v, sizeof h);
    return widened(h);
}

INLINE Doubles high_half(Floats v) {
    Half h;
    memcpy(&h, (const char *)&v + sizeof h, sizeof h);
    return widened(h);
}

INLINE double total(Doubles v) { return (v[0] + v[1]) + (v[2] + v[3]); }

INLINE int64_t count_of(Ints v) {
    int64_t sum = 0;
    for (int k = 0; k < WIDE; k++) sum -= v[k];
    return sum;
}

INLINE int is_finite(float v) {
    uint32_t bits;
    memcpy(&bits, &v, 4);
    return (bits & 0x7f800000u) != 0x7f800000u;
}

/* Gates and saturated ends of one run of elements. */
typedef struct {
    double n, gate, low, high;
} Gates;

INLINE Ints closed(Floats v, const float *facts) { return (v <= facts[CLOSED_LOW]) | (v >= facts[CLOSED_HIGH]); }

static void open_gates(const float *x, int64_t count, const float *facts, Gates *to) {
    Ints open = {0}, fine = {0};
    int64_t i = 0;
    for (; i + WIDE <= count; i += WIDE) {
        const Floats v = load(x + i);
        const Ints ok = is_number(v);
        fine += ok, open += ok & ~closed(v, facts);
    }
    if (i < count) {
        const Floats v = load_some(x + i, count - i, INFINITE);
        const Ints ok = is_number(v);
        fine += ok, open += ok & ~closed(v, facts);
    }
    to->n += count_of(fine), to->gate += count_of(open);
}

INLINE Floats square_of(Floats v, const float *facts) {
    return facts[GATE_A] + v * (facts[GATE_B] + facts[GATE_C] * v);
}

INLINE void square_one(Floats v, const float *facts, Doubles *sum, Ints *fine) {
    const Ints ok = is_number(v);
    const Floats gate = (Floats)((Ints)square_of(v, facts) & ok);
    sum[0] += low_half(gate), sum[1] += high_half(gate);
    *fine += ok;
}

/* Of eight vectors the sum is made in float; where it is no number, something in them was not. */
static void square_gates(const float *x, int64_t count, const float *facts, Gates *to) {
    Doubles sum[2] = {{0}, {0}};
    Ints fine = {0};
    int64_t i = 0;
    for (; i + 8 * WIDE <= count; i += 8 * WIDE) {
        Floats some[2] = {{0}, {0}};
        for (int k = 0; k < 8; k += 2) {
            some[0] += square_of(load(x + i + k * WIDE), facts);
            some[1] += square_of(load(x + i + (k + 1) * WIDE), facts);
        }
        const Floats gates = some[0] + some[1];
        if (any(~is_number(gates)))
            for (int k = 0; k < 8; k++) square_one(load(x + i + k * WIDE), facts, sum, &fine);
        else
            sum[0] += low_half(gates), sum[1] += high_half(gates), fine -= 8;
    }
    for (; i + WIDE <= count; i += WIDE) square_one(load(x + i), facts, sum, &fine);
    if (i < count) square_one(load_some(x + i, count - i, INFINITE), facts, sum, &fine);
    to->n += count_of(fine), to->gate += total(sum[0] + sum[1]);
}

INLINE Floats read_at(const float *table, Ints at) {
#ifdef __AVX2__
    return (Floats)_mm256_i32gather_ps(table, (__m256i)at, 4);
#else
    Floats found;
    for (int k = 0; k < WIDE; k++) found[k] = table[at[k]];
    return found;
#endif
}

/* Linear between the entries of the table and flat beyond it, without the sign. */
INLINE void table_one(Floats v, const float *facts, const float *table, Doubles *sum, Ints *fine) {
    const Floats low = all(facts[TABLE_LOW]), high = all(facts[TABLE_HIGH]);
    const Ints ok = is_number(v), last = (Ints){0} + ((int32_t)facts[STEPS] - 1);
    const Floats steps = all(facts[STEPS] / (facts[TABLE_HIGH] - facts[TABLE_LOW]));
    const Floats at = (lesser(choose(v > low, v, low), high) - low) * steps;
    const Ints floor = __builtin_convertvector(at, Ints), left = (floor & (floor < last)) | (last & ~(floor < last));
    const Floats here = read_at(table, left), next = read_at(table + 1, left);
    const Floats gate = here + (at - __builtin_convertvector(left, Floats)) * (next - here);
    const Floats clean = (Floats)((Ints)gate & ok & 0x7fffffff);
    sum[0] += low_half(clean), sum[1] += high_half(clean);
    *fine += ok;
}

static void table_gates(const float *x, int64_t count, const float *facts, const float *table, Gates *to) {
    Doubles sum[2] = {{0}, {0}};
    Ints fine = {0};
    int64_t i = 0;
    for (; i + WIDE <= count; i += WIDE) table_one(load(x + i), facts, table, sum, &fine);
    if (i < count) table_one(load_some(x + i, count - i, INFINITE), facts, table, sum, &fine);
    to->n += count_of(fine), to->gate += total(sum[0] + sum[1]);
}

/* Where in the table: the order of what is compared matters, a NaN becomes its beginning. */
INLINE Floats place_of(Floats v, const float *facts) {
    return lesser(greater(v * facts[SCALE] + facts[OFFSET], all(0)), all(facts[STEPS]));
}

/* An entry and how far the next one is from it in one word, 20 bits and 12, in parts of 1 / PART. Without the sign. */
INLINE Floats unpacked(Floats at, Ints floor, Ints word) {
    const Floats here = __builtin_convertvector(word >> 12, Floats);
    const Floats step = __builtin_convertvector((Ints)(word << 20) >> 20, Floats);
    const Floats gate = here + (at - __builtin_convertvector(floor, Floats)) * step;
    return (Floats)((Ints)gate & 0x7fffffff);
}

INLINE void packed_one(Floats v, const float *facts, const float *table, Doubles *sum, Ints *fine) {
    const Floats at = place_of(v, facts);
    const Ints ok = is_number(v), floor = __builtin_convertvector(at, Ints);
    const Floats gate = (Floats)((Ints)unpacked(at, floor, (Ints)read_at(table, floor)) & ok);
    sum[0] += low_half(gate), sum[1] += high_half(gate);
    *fine += ok;
}

static __attribute__((noinline)) void packed_with_care(const float *const *x, const float *facts, const float *table,
                                                       Doubles *sum, Ints *fine) {
    for (int k = 0; k < 8; k++) packed_one(load(x[k]), facts, table, sum, fine);
}

/* Eight vectors, four side by side, since each waits long for the table. 0 times what is not finite is no number. */
INLINE void packed_eight(const float *const *x, const float *facts, const float *table, Doubles *sum, Ints *fine) {
    Floats some[2] = {{0}, {0}}, none[2] = {{0}, {0}};
    for (int j = 0; j < 8; j += 4) {
        Floats at[4];
        Ints floor[4], word[4];
        for (int k = 0; k < 4; k++) {
            const Floats v = load(x[j + k]);
            none[k % 2] += v * 0.0f, at[k] = place_of(v, facts), floor[k] = __builtin_convertvector(at[k], Ints);
        }
        for (int k = 0; k < 4; k++) word[k] = (Ints)read_at(table, floor[k]);
        for (int k = 0; k < 4; k++) some[k % 2] += unpacked(at[k], floor[k], word[k]);
    }
    const Floats gates = some[0] + some[1];
    if (any(~is_number(none[0] + none[1])))
        packed_with_care(x, facts, table, sum, fine);
    else
        sum[0] += low_half(gates), sum[1] += high_half(gates), *fine -= 8;
}

/* As table_gates, with one read of the table for two; in parts of 1 / PART. Vectors of several rows make eight. */
static void packed_gates(const float *const *rows, int n, int64_t count, const float *facts, const float *table,
                         Gates *to) {
    Doubles sum[2] = {{0}, {0}};
    Ints fine = {0};
    const float *held[8];
    int holds = 0;
    for (int r = 0; r < n; r++) {
        int64_t i = 0;
        for (; i + WIDE <= count; i += WIDE) {
            held[holds++] = rows[r] + i;
            if (holds == 8) packed_eight(held, facts, table, sum, &fine), holds = 0;
        }
        if (i < count) packed_one(load_some(rows[r] + i, count - i, INFINITE), facts, table, sum, &fine);
    }
    for (int k = 0; k < holds; k++) packed_one(load(held[k]), facts, table, sum, &fine);
    to->n += count_of(fine), to->gate += total(sum[0] + sum[1]);
}

static void saturated(const float *x, int64_t count, const float *facts, Gates *to) {
    Ints low = {0}, high = {0};
    int64_t i = 0;
    for (; i + WIDE <= count; i += WIDE) {
        const Floats v = load(x + i);
        low += v <= facts[SATURATED_LOW], high += v >= facts[SATURATED_HIGH];
    }
    if (i < count) {
        const Floats v = load_some(x + i, count - i, __builtin_nanf(""));
        low += v <= facts[SATURATED_LOW], high += v >= facts[SATURATED_HIGH];
    }
    to->low += count_of(low), to->high += count_of(high);
}

INLINE int has_ends(const float *facts) {
    return facts[SATURATED_LOW] == facts[SATURATED_LOW] || facts[SATURATED_HIGH] == facts[SATURATED_HIGH];
}

static void add_gates(const float *const *rows, int n, int64_t count, int form, const float *facts, const float *table,
                      Gates *to) {
    if (form == PACKED_GATE) packed_gates(rows, n, count, facts, table, to);
    for (int r = 0; r < n; r++) {
        if (form == SQUARE_GATE)
            square_gates(rows[r], count, facts, to);
        else if (form == TABLE_GATE)
            table_gates(rows[r], count, facts, table, to);
        else if (form != PACKED_GATE)
            open_gates(rows[r], count, facts, to);
        if (has_ends(facts)) saturated(rows[r], count, facts, to);
    }
}

INLINE uint32_t octave(const float *x) {
    uint32_t bits;
    memcpy(&bits, x, 4);
    return bits >> 23;
}

/* Counts of sign and exponent of every EVERY-th element in the order of the dimensions, while what was read is still in
 * the cache. Four tables: the same octave twice in a row would wait for itself. */
typedef struct {
    uint32_t part[4][BINS + 1];
    int64_t every;
} Octaves;

/* Of `count` elements in a row, the first of which lies `off` behind one that is counted. The last up to three are
 * counted without branches, which would be guessed wrong in most rows: what is not there falls into a bin of its own. */
INLINE void count_octaves(const float *x, int64_t off, int64_t count, Octaves *to) {
    const int64_t every = to->every;
    int64_t i = off ? every - off : 0;
    for (; i + 3 * every < count; i += 4 * every)
        for (int k = 0; k < 4; k++) to->part[k][octave(x + i + k * every)]++;
    for (int k = 0; k < 3; k++, i += every) to->part[k][i < count ? octave(x + (i < count ? i : 0)) : BINS]++;
}

/* How far behind a counted element the next row begins, `by` elements (of a turn) after one that begins `off` behind. */
INLINE int64_t turned(int64_t off, int64_t by, int64_t every) { return off + by - (off + by >= every ? every : 0); }

static Octaves *begin_octaves(Octaves *to, int64_t every) {
    memset(to->part, 0, sizeof to->part);
    to->every = every;
    return to;
}

static void end_octaves(const Octaves *from, int64_t *counts) {
    for (int b = 0; b < BINS; b++)
        counts[b] = (int64_t)from->part[0][b] + from->part[1][b] + from->part[2][b] + from->part[3][b];
}

/* Sums of eight lanes about a value of each; `bad` and `zeros` are counts below 0. */
typedef struct {
    Doubles sum[2], squares[2];
    Floats low, high;
    Ints bad, zeros;
} Lanes;

INLINE void begin(Lanes *to) {
    memset(to, 0, sizeof *to);
    to->low = all(INFINITE), to->high = all(-INFINITE);
}

/* What is not finite counts as the shift: it moves no sum, and neither end, since the shift is a value of the unit. */
INLINE void add(Floats v, Floats shift, Doubles shift_low, Doubles shift_high, Lanes *to) {
    const Ints fine = is_number(v);
    const Floats clean = choose(fine, v, shift);
    const Doubles a = low_half(clean) - shift_low, b = high_half(clean) - shift_high;
    to->sum[0] += a, to->sum[1] += b;
    to->squares[0] += a * a, to->squares[1] += b * b;
    to->low = choose(clean < to->low, clean, to->low);
    to->high = choose(clean > to->high, clean, to->high);
    to->bad += ~fine;
    to->zeros += v == 0;
}

/* ROWS vectors of eight lanes, in float; whether that was good enough, and if so they have been added. */
INLINE int add_in_brief(const float *const *rows, int64_t j, Floats shift, Lanes *to) {
    Floats sum[2] = {{0}, {0}}, squares[2] = {{0}, {0}}, low = all(INFINITE), high = all(-INFINITE);
    Ints zeros[2] = {{0}, {0}};
    for (int r = 0; r < ROWS; r += 2) {
        const Floats a = load(rows[r] + j), b = load(rows[r + 1] + j), c = a - shift, d = b - shift;
        low = lesser(low, lesser(a, b)), high = greater(high, greater(a, b));
        zeros[0] += a == 0, zeros[1] += b == 0;
        sum[0] += c, sum[1] += d;
        squares[0] += c * c, squares[1] += d * d;
    }
    const Floats s = sum[0] + sum[1], q = squares[0] + squares[1];
    if (any(~is_number(q) | ((q < 1e-28f) & (low != high)))) return 0;
    to->sum[0] += low_half(s), to->sum[1] += high_half(s);
    to->squares[0] += low_half(q), to->squares[1] += high_half(q);
    to->low = lesser(to->low, low), to->high = greater(to->high, high);
    to->zeros += zeros[0] + zeros[1];
    return 1;
}

/* Whether sums about a shift tell the variance of what was added in brief. */
INLINE int is_near(double n, double sum, double squares) {
    const double square_of_mean = n > 0 ? sum * (sum / n) : 0;
    return square_of_mean <= 4 * (squares - square_of_mean);
}

static void end_unit(double n, double shift, double sum, double squares, double low, double high, int64_t units,
                     double *unit) {
    const double by = n > 0 ? n : 1, m2 = squares - sum * (sum / by);
    unit[N * units] = n;
    unit[MEAN * units] = n > 0 ? shift + sum / by : 0;
    unit[M2 * units] = m2 > 0 ? m2 : 0;
    unit[LOW * units] = n > 0 ? low : INFINITE;
    unit[HIGH * units] = n > 0 ? high : -INFINITE;
}

/* Units contiguous: one tile of them over all rows. */
typedef struct {
    Lanes lanes[TILE / WIDE];
    Ints shut[TILE / WIDE], opened[TILE / WIDE];
    float shift[TILE];
    int64_t bad[TILE], zeros[TILE], open[TILE];
    int brief;
} Tile;

INLINE const float *row_of(const float *x, const int64_t *g, int64_t row) {
    if (g[MIDDLE] == 1) return x + row * g[STRIDE_SAMPLE]; /* a division takes as long as a row of 64 elements */
    return x + row / g[MIDDLE] * g[STRIDE_SAMPLE] + row % g[MIDDLE] * g[STRIDE_MIDDLE];
}

static void add_rows(const float *const *rows, int count, int64_t width, Tile *t) {
    for (int64_t j = 0; j < width; j += WIDE) {
        Lanes lanes = t->lanes[j / WIDE];
        const Floats shift = load(t->shift + j);
        const Doubles low = low_half(shift), high = high_half(shift);
        if (width - j < WIDE)
            for (int r = 0; r < count; r++) add(load_some(rows[r] + j, width - j, INFINITE), shift, low, high, &lanes);
        else if (!t->brief || count < ROWS || !add_in_brief(rows, j, shift, &lanes))
            for (int r = 0; r < count; r++) add(load(rows[r] + j), shift, low, high, &lanes);
        t->lanes[j / WIDE] = lanes;
    }
}

/* Sums about the first finite value of each unit; of many rows in brief about the mean of the first ones. */
static void begin_tile(const float *x, const int64_t *g, int64_t width, int brief, Tile *t) {
    memset(t, 0, sizeof *t);
    const int64_t rows = g[SAMPLES] * g[MIDDLE];
    for (int64_t j = 0; j < TILE; j += WIDE) begin(&t->lanes[j / WIDE]);
    for (int64_t j = 0; j < width; j++)
        for (int64_t r = 0; r < rows; r++) {
            const float v = row_of(x, g, r)[j];
            if (is_finite(v)) {
                t->shift[j] = v;
                break;
            }
        }
    if (!brief || rows < MANY) return;
    const float *first[FIRST];
    for (int r = 0; r < FIRST; r++) first[r] = row_of(x, g, r);
    add_rows(first, FIRST, width, t);
    for (int64_t j = 0; j < width; j += WIDE) {
        const Lanes *l = &t->lanes[j / WIDE];
        for (int k = 0; k < WIDE; k++) {
            const int fine = FIRST + l->bad[k];
            if (fine) t->shift[j + k] = (float)(t->shift[j + k] + l->sum[k / 4][k % 4] / fine);
        }
        begin(&t->lanes[j / WIDE]);
    }
    t->brief = 1;
}

/* Rows whose sample ends with them are counted where not all of the sample's were closed. `gates`: of open ones. */
static void add_open(const float *const *rows, const int *ends, int count, int64_t width, const float *facts, Tile *t,
                     Gates *gates) {
    Ints passed = {0}, fine = {0};
    for (int64_t j = 0; j < width; j += WIDE) {
        Ints shut = t->shut[j / WIDE], opened = t->opened[j / WIDE];
        for (int r = 0; r < count; r++) {
            const Floats v = take(rows[r] + j, width - j, INFINITE);
            const Ints now = closed(v, facts), ok = is_number(v);
            passed += ok & ~now, fine += ok;
            shut &= now;
            if (ends[r]) opened += ~shut, shut = (Ints){0} == 0;
        }
        t->shut[j / WIDE] = shut, t->opened[j / WIDE] = opened;
    }
    if (gates) gates->gate += count_of(passed), gates->n += count_of(fine);
}

/* Counts of 32 bits do not grow beyond a block of rows. */
static void settle(int64_t width, Tile *t) {
    for (int64_t j = 0; j < width; j += WIDE) {
        const int64_t some = width - j < WIDE ? width - j : WIDE;
        Lanes *lanes = &t->lanes[j / WIDE];
        for (int64_t k = 0; k < some; k++) {
            t->bad[j + k] -= lanes->bad[k], t->zeros[j + k] -= lanes->zeros[k];
            t->open[j + k] -= t->opened[j / WIDE][k];
        }
        lanes->bad = lanes->zeros = t->opened[j / WIDE] = (Ints){0};
    }
}

/* Where results go: HEAD sums, columns of one number a unit, openings of each unit; octaves, if they are wanted. */
typedef struct {
    double *sums, *columns, *open;
    Octaves *octaves;
} Out;

static void end_tile(const int64_t *g, int64_t from, int64_t width, int parts, Out *out, Tile *t) {
    const int64_t units = g[INNER], rows = g[SAMPLES] * g[MIDDLE];
    for (int64_t j = 0; j < width; j++) {
        const Lanes *lanes = &t->lanes[j / WIDE];
        const int k = j % WIDE, half = k / 4, at = k % 4;
        if (parts & WITH_MOMENTS) {
            end_unit((double)(rows - t->bad[j]), t->shift[j], lanes->sum[half][at], lanes->squares[half][at],
                     lanes->low[k], lanes->high[k], units, out->columns + from + j);
            out->sums[NONFINITE] += (double)t->bad[j], out->sums[ZEROS] += (double)t->zeros[j];
        }
        if (parts & WITH_OPEN) out->open[from + j] = (double)t->open[j];
    }
}

/* Whether brevity has told the variance of every unit. */
static int is_good(const int64_t *g, int64_t width, const Tile *t) {
    const double rows = (double)(g[SAMPLES] * g[MIDDLE]);
    for (int64_t j = 0; j < width; j++) {
        const Lanes *l = &t->lanes[j / WIDE];
        const int half = j % WIDE / 4, at = j % 4;
        if (!is_near(rows - (double)t->bad[j], l->sum[half][at], l->squares[half][at])) return 0;
    }
    return 1;
}

/* Whether zero is what is closed of an output that has nothing below: moments then tell the rest. */
INLINE int zero_closes(int parts, int form, const float *facts) {
    const int asked = (parts & WITH_MOMENTS) && (parts & (WITH_GATE | WITH_OPEN));
    return asked && (!(parts & WITH_GATE) || form == OPEN_GATE) && facts[CLOSED_LOW] == 0 &&
           facts[CLOSED_HIGH] != facts[CLOSED_HIGH] && !has_ends(facts);
}

/* Openings and gates from the zeros of each unit, each row a sample; 0 where there is anything below 0 or not finite. */
static int tell_from_zeros(const int64_t *g, int64_t width, Tile *t, Gates *gates) {
    const int64_t rows = g[SAMPLES] * g[MIDDLE];
    for (int64_t j = 0; j < width; j++)
        if (t->bad[j] || !(t->lanes[j / WIDE].low[j % WIDE] >= 0)) return 0;
    for (int64_t j = 0; j < width; j++) t->open[j] = rows - t->zeros[j], gates->gate += (double)t->open[j];
    gates->n += (double)(rows * width);
    return 1;
}

/* All rows of a tile, as many at once as stay in the cache. `off`: how far its first element lies behind a counted one. */
static void add_tile(const float *x, const int64_t *g, int64_t width, int parts, int form, const float *facts,
                     const float *table, Tile *t, Gates *gates, Octaves *octaves, int64_t off) {
    const int64_t all_rows = g[SAMPLES] * g[MIDDLE], by = g[INNER] % g[EVERY];
    const int at_once = (parts & WITH_OPEN) && (parts & WITH_GATE) && form == OPEN_GATE && !has_ends(facts);
    for (int64_t first = 0, since = 0; first < all_rows; first += ROWS) {
        const float *rows[ROWS];
        int ends[ROWS];
        const int count = (int)(all_rows - first < ROWS ? all_rows - first : ROWS);
        for (int r = 0; r < count; r++) {
            rows[r] = row_of(x, g, first + r);
            ends[r] = g[MIDDLE] == 1 || (first + r + 1) % g[MIDDLE] == 0;
        }
        if (parts & WITH_MOMENTS) add_rows(rows, count, width, t);
        for (int r = 0; r < count && octaves; r++, off = turned(off, by, g[EVERY]))
            count_octaves(rows[r], off, width, octaves);
        if (parts & WITH_OPEN) add_open(rows, ends, count, width, facts, t, at_once ? gates : 0);
        if ((parts & WITH_GATE) && !at_once) add_gates(rows, count, width, form, facts, table, gates);
        if ((since += count) >= 1 << 30) settle(width, t), since = 0;
    }
    settle(width, t);
}

/* `again`: in brief was not good enough. Octaves have been counted then. */
static int try_tile(const float *x, const int64_t *g, int64_t from, int again, int parts, int form, const float *facts,
                    const float *table, Out *out, Gates *to) {
    Tile t;
    Gates found = {0, 0, 0, 0};
    const int64_t width = g[INNER] - from < TILE ? g[INNER] - from : TILE;
    const int told = g[MIDDLE] == 1 && zero_closes(parts, form, facts), now = told ? WITH_MOMENTS : parts;
    x += from;
    begin_tile(x, g, parts & WITH_MOMENTS ? width : 0, !again, &t);
    memset(t.shut, 0xff, sizeof t.shut);
    add_tile(x, g, width, now, form, facts, table, &t, &found, again ? 0 : out->octaves, from % g[EVERY]);
    if (t.brief && !is_good(g, width, &t)) return 0;
    if (told && !tell_from_zeros(g, width, &t, &found))
        add_tile(x, g, width, parts & ~WITH_MOMENTS, form, facts, table, &t, &found, 0, 0);
    end_tile(g, from, width, parts, out, &t);
    to->n += found.n, to->gate += found.gate, to->low += found.low, to->high += found.high;
    return 1;
}

static void reduce_tile(const float *x, const int64_t *g, int64_t from, int parts, int form, const float *facts,
                        const float *table, Out *out, Gates *gates) {
    if (!try_tile(x, g, from, 0, parts, form, facts, table, out, gates))
        try_tile(x, g, from, 1, parts, form, facts, table, out, gates);
}

/* Units are the middle dimension: each row of `inner` elements is of one unit. */
static int all_closed(const float *x, int64_t count, const float *facts) {
    const float fill = facts[CLOSED_LOW] == facts[CLOSED_LOW] ? -INFINITE : INFINITE; /* closed, at the end that closes */
    for (int64_t i = 0; i < count; i += 4 * WIDE) {
        Ints open = {0};
        for (int64_t k = i; k < count && k < i + 4 * WIDE; k += WIDE)
            open |= ~closed(take(x + k, count - k, fill), facts);
        if (count_of(open)) return 0;
    }
    return 1;
}

static float first_finite(const float *x, const int64_t *g) {
    for (int64_t s = 0; s < g[SAMPLES]; s++)
        for (int64_t i = 0; i < g[INNER]; i++)
            if (is_finite(x[s * g[STRIDE_SAMPLE] + i])) return x[s * g[STRIDE_SAMPLE] + i];
    return 0;
}

/* Its least value. */
static float end_rows(const int64_t *g, float shift, const Lanes *l, int64_t bad, double *unit) {
    float low = INFINITE, high = -INFINITE;
    for (int k = 0; k < WIDE; k++) low = l->low[k] < low ? l->low[k] : low, high = l->high[k] > high ? l->high[k] : high;
    end_unit((double)(g[SAMPLES] * g[INNER] - bad), shift, total(l->sum[0] + l->sum[1]),
             total(l->squares[0] + l->squares[1]), low, high, g[MIDDLE], unit);
    return low;
}

/* All rows of a unit about a shift. `brief`: where that is good enough. Vectors of several rows make a block. */
static void add_unit(const float *x, const int64_t *g, int64_t unit, float about, int brief, Lanes *lanes, int64_t *bad,
                     int64_t *zeros, Octaves *octaves) {
    const Floats shift = all(about);
    const Doubles low = low_half(shift), high = high_half(shift);
    const int64_t count = g[INNER], rest = count % WIDE, by = g[MIDDLE] * count % g[EVERY];
    const float *block[ROWS];
    int64_t off = unit * count % g[EVERY];
    int held = 0;
    begin(lanes);
    *bad = *zeros = 0;
    for (int64_t s = 0; s < g[SAMPLES]; s++) {
        const float *row = x + s * g[STRIDE_SAMPLE];
        for (int64_t i = 0; i + WIDE <= count; i += WIDE) {
            block[held++] = row + i;
            const int last = s + 1 == g[SAMPLES] && i + 2 * WIDE > count;
            if (held < ROWS && !last) continue;
            if (!brief || held < ROWS || !add_in_brief(block, 0, shift, lanes))
                for (int r = 0; r < held; r++) add(load(block[r]), shift, low, high, lanes);
            held = 0;
        }
        if (octaves) count_octaves(row, off, count, octaves), off = turned(off, by, g[EVERY]);
        if (rest) {
            add(load_some(row + count - rest, rest, INFINITE), shift, low, high, lanes);
            *bad -= WIDE - rest;
        }
        if (s % (1 << 10) && s + 1 < g[SAMPLES] && count < 1 << 20) continue; /* counts of 32 bits stay small */
        *bad += count_of(lanes->bad), *zeros += count_of(lanes->zeros);
        lanes->bad = lanes->zeros = (Ints){0};
    }
}

/* The mean of the first elements of the first row, without what is not finite; else the first that is finite. */
static float guessed(const float *x, const int64_t *g) {
    double sum = 0;
    int fine = 0;
    for (int64_t i = 0; i < g[INNER] && i < FIRST; i++)
        if (is_finite(x[i])) sum += x[i], fine++;
    return fine ? (float)(sum / fine) : first_finite(x, g);
}

static void reduce_rows(const float *x, const int64_t *g, int64_t unit, int parts, int form, const float *facts,
                        const float *table, Out *out, Gates *gates) {
    const int64_t count = g[INNER], n = g[SAMPLES] * count;
    int64_t open = 0, bad = 0, zeros = 0;
    Octaves *octaves = out->octaves; /* of the first time */
    x += unit * g[STRIDE_MIDDLE];
    if (parts & WITH_MOMENTS) {
        Lanes lanes;
        float about = 0;
        int good = 0;
        if (n >= MANY * WIDE) {
            about = guessed(x, g);
            add_unit(x, g, unit, about, 1, &lanes, &bad, &zeros, octaves), octaves = 0;
            good = is_near((double)(n - bad), total(lanes.sum[0] + lanes.sum[1]),
                           total(lanes.squares[0] + lanes.squares[1]));
        }
        if (!good) {
            about = first_finite(x, g);
            add_unit(x, g, unit, about, 0, &lanes, &bad, &zeros, octaves);
        }
        const float least = end_rows(g, about, &lanes, bad, out->columns + unit);
        out->sums[NONFINITE] += (double)bad, out->sums[ZEROS] += (double)zeros;
        if (zero_closes(parts, form, facts) && !bad && least >= 0) {
            gates->n += (double)n, gates->gate += (double)(n - zeros), parts &= ~WITH_GATE;
            if ((parts & WITH_OPEN) && (zeros == 0 || zeros == n))
                out->open[unit] = zeros ? 0 : (double)g[SAMPLES], parts &= ~WITH_OPEN;
        }
    }
    for (int64_t s = 0; s < g[SAMPLES] && (parts & (WITH_GATE | WITH_OPEN)); s += ROWS) {
        const float *rows[ROWS];
        const int some = (int)(g[SAMPLES] - s < ROWS ? g[SAMPLES] - s : ROWS);
        for (int r = 0; r < some; r++) rows[r] = x + (s + r) * g[STRIDE_SAMPLE];
        if (parts & WITH_GATE) add_gates(rows, some, count, form, facts, table, gates);
        for (int r = 0; r < some && parts & WITH_OPEN; r++) open += !all_closed(rows[r], count, facts);
    }
    if (parts & WITH_OPEN) out->open[unit] = (double)open;
}

static void octaves_alone(const float *x, const int64_t *g, int64_t *counts) {
    const int64_t n = g[SAMPLES] * g[MIDDLE] * g[INNER];
    Octaves counted, *to = begin_octaves(&counted, g[EVERY]);
    if ((g[SAMPLES] == 1 || g[STRIDE_SAMPLE] == g[MIDDLE] * g[INNER]) && (g[MIDDLE] == 1 || g[STRIDE_MIDDLE] == g[INNER]))
        count_octaves(x, 0, n, to);
    else
        for (int64_t i = 0; i < n; i += to->every) to->part[0][octave(row_of(x, g, i / g[INNER]) + i % g[INNER])]++;
    end_octaves(to, counts);
}

/* `parts`: what is asked for, octaves where there is memory for them; memory for anything else may be missing. An end that is NaN: none. */
void actdiag_reduce(const float *x, const int64_t *g, int parts, int form, const float *facts, const float *table,
                    double *sums, double *columns, double *open, int64_t *octaves) {
    Gates gates = {0, 0, 0, 0};
    Octaves counted;
    const int at_once = octaves && parts & WITH_MOMENTS && g[INNER] >= LONG * g[EVERY];
    Out out = {sums, columns, open, at_once ? begin_octaves(&counted, g[EVERY]) : 0};
    if (sums) memset(sums, 0, HEAD * sizeof *sums);
    if (g[UNIT_DIM] == 2)
        for (int64_t from = 0; from < g[INNER]; from += TILE)
            reduce_tile(x, g, from, parts, form, facts, table, &out, &gates);
    else
        for (int64_t unit = 0; unit < g[MIDDLE]; unit++)
            reduce_rows(x, g, unit, parts, form, facts, table, &out, &gates);
    if (at_once)
        end_octaves(&counted, octaves);
    else if (octaves)
        octaves_alone(x, g, octaves);
    if (!(parts & WITH_GATE)) return;
    if (form == PACKED_GATE) gates.gate /= facts[PART];
    sums[GATE_N] = gates.n, sums[GATE] = form == NO_GATE ? 0 : gates.gate;
    sums[GATE_LOW] = gates.low, sums[GATE_HIGH] = gates.high;
}

/* Squares of contiguous elements in double, and how many are 0: four sums, since one would wait for itself. */
static double square_up(const float *x, int64_t n, int64_t *zeros) {
    Doubles sum[4] = {{0}, {0}, {0}, {0}};
    for (int64_t from = 0; from < n; from += 1 << 20) {
        const int64_t end = n - from < 1 << 20 ? n : from + (1 << 20);
        Ints none[2] = {{0}, {0}};
        int64_t i = from;
        for (; i + 2 * WIDE <= end; i += 2 * WIDE) {
            const Floats v = load(x + i), w = load(x + i + WIDE);
            const Doubles a = load_half(x + i), b = load_half(x + i + 4);
            const Doubles c = load_half(x + i + 8), d = load_half(x + i + 12);
            sum[0] += a * a, sum[1] += b * b, sum[2] += c * c, sum[3] += d * d;
            none[0] += v == 0, none[1] += w == 0;
        }
        for (; i < end; i++) sum[0][0] += (double)x[i] * x[i], *zeros += x[i] == 0;
        *zeros += count_of(none[0] + none[1]);
    }
    return total((sum[0] + sum[1]) + (sum[2] + sum[3]));
}

/* The same of the finite ones alone; how many those are. */
static int64_t square_up_finite(const float *x, int64_t n, double *squares, int64_t *zeros) {
    int64_t fine = 0;
    for (int64_t i = 0; i < n; i++)
        if (is_finite(x[i])) *squares += (double)x[i] * x[i], *zeros += x[i] == 0, fine++;
    return fine;
}

/* Finite elements, their squares, zeros and non-finite ones of n contiguous elements; octaves of every `every`-th. */
void actdiag_gradient(const float *x, int64_t n, double *out, int64_t every, int64_t *octaves) {
    double squares = 0;
    Octaves counted, *to = octaves ? begin_octaves(&counted, every) : 0;
    int64_t fine = 0, zeros = 0;
    for (int64_t from = 0; from < n; from += 1 << 12) {
        const int64_t count = n - from < 1 << 12 ? n - from : 1 << 12;
        int64_t none = 0;
        const double sum = square_up(x + from, count, &none);
        if (sum < __builtin_inf()) /* the square of a float is no infinite double, so nothing else was in it */
            squares += sum, zeros += none, fine += count;
        else
            fine += square_up_finite(x + from, count, &squares, &zeros);
        if (to) count_octaves(x + from, from % every, count, to);
    }
    if (to) end_octaves(to, octaves);
    out[0] = (double)fine, out[1] = squares, out[2] = (double)zeros, out[3] = (double)(n - fine);
}

/* Squares and zeros of `count` contiguous tensors; NaN and infinity go through. */
void actdiag_squares(const float *const *tensors, const int64_t *sizes, int64_t count, double *squares, double *zeros) {
    for (int64_t t = 0; t < count; t++) {
        int64_t none = 0;
        squares[t] = square_up(tensors[t], sizes[t], &none), zeros[t] = (double)none;
    }
}

/* Copies of `count` contiguous tensors, and their squares, made of each part while it is in the cache. */
void actdiag_keep(const float *const *tensors, float *const *copies, const int64_t *sizes, int64_t count,
                  double *squares) {
    for (int64_t t = 0; t < count; t++) {
        double sum = 0;
        for (int64_t from = 0; from < sizes[t]; from += 1 << 12) {
            const int64_t some = sizes[t] - from < 1 << 12 ? sizes[t] - from : 1 << 12;
            int64_t none = 0;
            memcpy(copies[t] + from, tensors[t] + from, (size_t)some * sizeof(float));
            sum += square_up(copies[t] + from, some, &none);
        }
        squares[t] = sum;
    }
}

/* Squares of what `count` flat tensors have moved by, and of where they were. Those after lie at a stride. */
void actdiag_updates(const float *const *after, const int64_t *strides, const float *const *before, const int64_t *sizes,
                     int64_t count, double *moves, double *bases) {
    for (int64_t t = 0; t < count; t++) {
        Doubles moved[2] = {{0}, {0}}, base[2] = {{0}, {0}};
        double rest[2] = {0, 0};
        int64_t i = 0;
        for (; strides[t] == 1 && i + WIDE <= sizes[t]; i += WIDE) {
            const Floats was = load(before[t] + i), by = load(after[t] + i) - was;
            const Doubles a = low_half(by), b = high_half(by);
            const Doubles c = load_half(before[t] + i), d = load_half(before[t] + i + 4);
            moved[0] += a * a, moved[1] += b * b, base[0] += c * c, base[1] += d * d;
        }
        for (; i < sizes[t]; i++) {
            const float was = before[t][i], by = after[t][i * strides[t]] - was;
            rest[0] += (double)by * by, rest[1] += (double)was * was;
        }
        moves[t] = total(moved[0] + moved[1]) + rest[0], bases[t] = total(base[0] + base[1]) + rest[1];
    }
}
