/* Statistics of float32 tensors in one pass, for the CPU. Compiled at first use by kernel.py; the eager functions in
 * moments.py, histogram.py and units.py say what each number is, and are what tests hold it to.
 *
 * A tensor is seen as samples x middle x inner, `inner` contiguous; units are `middle` or `inner`. Sums are about the
 * first finite value of each unit, in double: with n elements the variance is then good to about n * 1e-16. No libm,
 * no threads, no memory of its own beyond the stack; the order of additions depends on the shape alone.
 *
 * Vectors are those of GCC and Clang. A comparison gives -1 where it holds, so counts are subtracted.
 */
#include <stdint.h>
#include <string.h>

#define TILE 256 /* units at once where they are contiguous: their accumulators stay in the cache */
#define ROWS 16  /* rows at once: accumulators of eight units stay in registers over them */
#define WIDE 8
#define BINS 512
#define INLINE static inline __attribute__((always_inline))

typedef float Floats __attribute__((vector_size(32)));
typedef float Half __attribute__((vector_size(16)));
typedef double Doubles __attribute__((vector_size(32)));
typedef int32_t Ints __attribute__((vector_size(32)));

enum { SAMPLES, MIDDLE, INNER, STRIDE_SAMPLE, STRIDE_MIDDLE, UNIT_DIM, EVERY };
enum { CLOSED_LOW, CLOSED_HIGH, SATURATED_LOW, SATURATED_HIGH, GATE_A, GATE_B, GATE_C, TABLE_LOW, TABLE_HIGH, STEPS };
enum { ZEROS, NONFINITE, GATE_N, GATE, GATE_LOW, GATE_HIGH, HEAD };
enum { N, MEAN, M2, LOW, HIGH };
enum { WITH_MOMENTS = 1, WITH_GATE = 2, WITH_OPEN = 4 };
enum { NO_GATE, OPEN_GATE, SQUARE_GATE, TABLE_GATE };

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

INLINE Floats all(float v) { return (Floats){v, v, v, v, v, v, v, v}; }
INLINE Ints is_number(Floats v) { return ((Ints)v & 0x7f800000) != 0x7f800000; }
INLINE Floats choose(Ints where, Floats a, Floats b) { return (Floats)(((Ints)a & where) | ((Ints)b & ~where)); }

INLINE Doubles low_half(Floats v) {
    Half h;
    memcpy(&h, &v, sizeof h);
    return __builtin_convertvector(h, Doubles);
}

INLINE Doubles high_half(Floats v) {
    Half h;
    memcpy(&h, (const char *)&v + sizeof h, sizeof h);
    return __builtin_convertvector(h, Doubles);
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

INLINE void square_one(Floats v, const float *facts, Doubles *sum, Ints *fine) {
    const Ints ok = is_number(v);
    const Floats clean = (Floats)((Ints)v & ok);
    const Doubles a = low_half(clean), b = high_half(clean);
    sum[0] += a * (facts[GATE_B] + facts[GATE_C] * a), sum[1] += b * (facts[GATE_B] + facts[GATE_C] * b);
    *fine += ok;
}

static void square_gates(const float *x, int64_t count, const float *facts, Gates *to) {
    Doubles sum[2] = {{0}, {0}};
    Ints fine = {0};
    int64_t i = 0;
    for (; i + WIDE <= count; i += WIDE) square_one(load(x + i), facts, sum, &fine);
    if (i < count) square_one(load_some(x + i, count - i, INFINITE), facts, sum, &fine);
    to->n += count_of(fine), to->gate += (double)count_of(fine) * facts[GATE_A] + total(sum[0] + sum[1]);
}

/* Linear between the entries of the table and flat beyond it, without the sign. */
INLINE void table_one(Floats v, const float *facts, const float *table, Doubles *sum, Ints *fine) {
    const Floats low = all(facts[TABLE_LOW]), high = all(facts[TABLE_HIGH]);
    const Ints ok = is_number(v), last = (Ints){0} + ((int32_t)facts[STEPS] - 1);
    const Floats above = choose(v > low, v, low), inside = choose(above < high, above, high);
    const Floats at = (inside - low) * (facts[STEPS] / (facts[TABLE_HIGH] - facts[TABLE_LOW]));
    const Ints floor = __builtin_convertvector(at, Ints), left = (floor & (floor < last)) | (last & ~(floor < last));
    Floats here, next;
    for (int k = 0; k < WIDE; k++) here[k] = table[left[k]], next[k] = table[left[k] + 1];
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

static void add_gates(const float *x, int64_t count, int form, const float *facts, const float *table, Gates *to) {
    if (form == SQUARE_GATE)
        square_gates(x, count, facts, to);
    else if (form == TABLE_GATE)
        table_gates(x, count, facts, table, to);
    else
        open_gates(x, count, facts, to);
    if (has_ends(facts)) saturated(x, count, facts, to);
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
    int64_t bad[TILE], open[TILE];
} Tile;

INLINE const float *row_of(const float *x, const int64_t *g, int64_t row) {
    return x + row / g[MIDDLE] * g[STRIDE_SAMPLE] + row % g[MIDDLE] * g[STRIDE_MIDDLE];
}

static void begin_tile(const float *x, const int64_t *g, int64_t width, Tile *t) {
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
}

INLINE Floats take(const float *x, int64_t left, float fill) {
    return left >= WIDE ? load(x) : load_some(x, left, fill);
}

static void add_rows(const float *const *rows, int count, int64_t width, Tile *t) {
    for (int64_t j = 0; j < width; j += WIDE) {
        Lanes lanes = t->lanes[j / WIDE];
        const Floats shift = load(t->shift + j);
        const Doubles low = low_half(shift), high = high_half(shift);
        if (width - j >= WIDE)
            for (int r = 0; r < count; r++) add(load(rows[r] + j), shift, low, high, &lanes);
        else
            for (int r = 0; r < count; r++) add(load_some(rows[r] + j, width - j, INFINITE), shift, low, high, &lanes);
        t->lanes[j / WIDE] = lanes;
    }
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
static void settle(int64_t width, double *zeros, Tile *t) {
    for (int64_t j = 0; j < width; j += WIDE) {
        const int64_t some = width - j < WIDE ? width - j : WIDE;
        Lanes *lanes = &t->lanes[j / WIDE];
        for (int64_t k = 0; k < some; k++) {
            t->bad[j + k] -= lanes->bad[k], t->open[j + k] -= t->opened[j / WIDE][k];
            *zeros -= lanes->zeros[k];
        }
        lanes->bad = lanes->zeros = t->opened[j / WIDE] = (Ints){0};
    }
}

/* Where results go: HEAD sums, columns of one number a unit, openings of each unit. */
typedef struct {
    double *sums, *columns, *open;
} Out;

static void end_tile(const int64_t *g, int64_t from, int64_t width, int parts, Out *out, Tile *t) {
    const int64_t units = g[INNER], rows = g[SAMPLES] * g[MIDDLE];
    for (int64_t j = 0; j < width; j++) {
        const Lanes *lanes = &t->lanes[j / WIDE];
        const int k = j % WIDE, half = k / 4, at = k % 4;
        if (parts & WITH_MOMENTS) {
            end_unit((double)(rows - t->bad[j]), t->shift[j], lanes->sum[half][at], lanes->squares[half][at],
                     lanes->low[k], lanes->high[k], units, out->columns + from + j);
            out->sums[NONFINITE] += (double)t->bad[j];
        }
        if (parts & WITH_OPEN) out->open[from + j] = (double)t->open[j];
    }
}

static void reduce_tile(const float *x, const int64_t *g, int64_t from, int parts, int form, const float *facts,
                        const float *table, Out *out, Gates *gates) {
    double zeros = 0;
    Tile t;
    const int64_t width = g[INNER] - from < TILE ? g[INNER] - from : TILE, all_rows = g[SAMPLES] * g[MIDDLE];
    const int at_once = (parts & WITH_OPEN) && (parts & WITH_GATE) && form == OPEN_GATE && !has_ends(facts);
    x += from;
    begin_tile(x, g, parts & WITH_MOMENTS ? width : 0, &t);
    memset(t.shut, 0xff, sizeof t.shut);
    for (int64_t first = 0, since = 0; first < all_rows; first += ROWS) {
        const float *rows[ROWS];
        int ends[ROWS];
        const int count = (int)(all_rows - first < ROWS ? all_rows - first : ROWS);
        for (int r = 0; r < count; r++) {
            rows[r] = row_of(x, g, first + r);
            ends[r] = (first + r + 1) % g[MIDDLE] == 0;
        }
        if (parts & WITH_MOMENTS) add_rows(rows, count, width, &t);
        if (parts & WITH_OPEN) add_open(rows, ends, count, width, facts, &t, at_once ? gates : 0);
        if ((parts & WITH_GATE) && !at_once)
            for (int r = 0; r < count; r++) add_gates(rows[r], width, form, facts, table, gates);
        if ((since += count) >= 1 << 30) settle(width, &zeros, &t), since = 0;
    }
    settle(width, &zeros, &t);
    if (parts & WITH_MOMENTS) out->sums[ZEROS] += zeros;
    end_tile(g, from, width, parts, out, &t);
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

static void end_rows(const int64_t *g, float shift, const Lanes *l, int64_t bad, double *unit) {
    float low = INFINITE, high = -INFINITE;
    for (int k = 0; k < WIDE; k++) low = l->low[k] < low ? l->low[k] : low, high = l->high[k] > high ? l->high[k] : high;
    end_unit((double)(g[SAMPLES] * g[INNER] - bad), shift, total(l->sum[0] + l->sum[1]),
             total(l->squares[0] + l->squares[1]), low, high, g[MIDDLE], unit);
}

static void reduce_rows(const float *x, const int64_t *g, int64_t unit, int parts, int form, const float *facts,
                        const float *table, Out *out, Gates *gates) {
    Lanes lanes;
    const int64_t count = g[INNER], rest = count % WIDE;
    int64_t open = 0, bad = 0, zeros = 0;
    x += unit * g[STRIDE_MIDDLE];
    begin(&lanes);
    const float about = parts & WITH_MOMENTS ? first_finite(x, g) : 0;
    const Floats shift = all(about);
    const Doubles low = low_half(shift), high = high_half(shift);
    for (int64_t s = 0; s < g[SAMPLES]; s++) {
        const float *row = x + s * g[STRIDE_SAMPLE];
        if (parts & WITH_MOMENTS) {
            for (int64_t i = 0; i + WIDE <= count; i += WIDE) add(load(row + i), shift, low, high, &lanes);
            if (rest) add(load_some(row + count - rest, rest, INFINITE), shift, low, high, &lanes);
            bad += count_of(lanes.bad) - (rest ? WIDE - rest : 0), zeros += count_of(lanes.zeros);
            lanes.bad = lanes.zeros = (Ints){0};
        }
        if (parts & WITH_GATE) add_gates(row, count, form, facts, table, gates);
        if (parts & WITH_OPEN) open += !all_closed(row, count, facts);
    }
    if (parts & WITH_MOMENTS) {
        end_rows(g, about, &lanes, bad, out->columns + unit);
        out->sums[NONFINITE] += (double)bad, out->sums[ZEROS] += (double)zeros;
    }
    if (parts & WITH_OPEN) out->open[unit] = (double)open;
}

/* `parts`: what is asked for; memory for anything else may be missing. An end that is NaN: none. */
void actdiag_reduce(const float *x, const int64_t *g, int parts, int form, const float *facts, const float *table,
                    double *sums, double *columns, double *open) {
    Gates gates = {0, 0, 0, 0};
    Out out = {sums, columns, open};
    if (sums) memset(sums, 0, HEAD * sizeof *sums);
    if (g[UNIT_DIM] == 2)
        for (int64_t from = 0; from < g[INNER]; from += TILE)
            reduce_tile(x, g, from, parts, form, facts, table, &out, &gates);
    else
        for (int64_t unit = 0; unit < g[MIDDLE]; unit++)
            reduce_rows(x, g, unit, parts, form, facts, table, &out, &gates);
    if (!(parts & WITH_GATE)) return;
    sums[GATE_N] = gates.n, sums[GATE] = form == NO_GATE ? 0 : gates.gate;
    sums[GATE_LOW] = gates.low, sums[GATE_HIGH] = gates.high;
}

INLINE uint32_t octave(const float *x) {
    uint32_t bits;
    memcpy(&bits, x, 4);
    return bits >> 23;
}

/* Counts of sign and exponent of every EVERY-th element in the order of the dimensions. Four tables: the same octave
 * twice in a row would wait for itself. */
void actdiag_octaves(const float *x, const int64_t *g, int64_t *counts) {
    uint32_t part[4][BINS];
    const int64_t n = g[SAMPLES] * g[MIDDLE] * g[INNER], every = g[EVERY];
    memset(part, 0, sizeof part);
    if ((g[SAMPLES] == 1 || g[STRIDE_SAMPLE] == g[MIDDLE] * g[INNER]) && (g[MIDDLE] == 1 || g[STRIDE_MIDDLE] == g[INNER])) {
        int64_t i = 0;
        for (; i + 3 * every < n; i += 4 * every)
            for (int k = 0; k < 4; k++) part[k][octave(x + i + k * every)]++;
        for (; i < n; i += every) part[0][octave(x + i)]++;
    } else
        for (int64_t i = 0; i < n; i += every) part[0][octave(row_of(x, g, i / g[INNER]) + i % g[INNER])]++;
    for (int b = 0; b < BINS; b++) counts[b] = (int64_t)part[0][b] + part[1][b] + part[2][b] + part[3][b];
}

/* Finite elements, their squares, zeros and non-finite ones of n contiguous elements. */
void actdiag_gradient(const float *x, int64_t n, double *out) {
    Doubles sum[2] = {{0}, {0}};
    int64_t bad = 0, zeros = 0;
    for (int64_t from = 0; from < n; from += 1 << 20) {
        const int64_t end = n - from < 1 << 20 ? n : from + (1 << 20);
        Ints fine = {0}, none = {0};
        for (int64_t i = from; i < end; i += WIDE) {
            const Floats v = take(x + i, end - i, INFINITE);
            const Ints ok = is_number(v);
            const Floats clean = (Floats)((Ints)v & ok);
            const Doubles a = low_half(clean), b = high_half(clean);
            sum[0] += a * a, sum[1] += b * b;
            fine += ok, none += v == 0;
        }
        bad += end - from - count_of(fine), zeros += count_of(none);
    }
    out[0] = (double)(n - bad), out[1] = total(sum[0] + sum[1]), out[2] = (double)zeros, out[3] = (double)bad;
}

/* Squares and zeros of `count` contiguous tensors; NaN and infinity go through. */
void actdiag_squares(const float *const *tensors, const int64_t *sizes, int64_t count, double *squares, double *zeros) {
    for (int64_t t = 0; t < count; t++) {
        Doubles sum[2] = {{0}, {0}};
        int64_t none = 0;
        for (int64_t from = 0; from < sizes[t]; from += 1 << 20) {
            const int64_t end = sizes[t] - from < 1 << 20 ? sizes[t] : from + (1 << 20);
            Ints zero = {0};
            for (int64_t i = from; i < end; i += WIDE) {
                const Floats v = take(tensors[t] + i, end - i, 0);
                const Doubles a = low_half(v), b = high_half(v);
                sum[0] += a * a, sum[1] += b * b;
                zero += v == 0;
            }
            none += count_of(zero) - (WIDE - (end - from) % WIDE) % WIDE;
        }
        squares[t] = total(sum[0] + sum[1]), zeros[t] = (double)none;
    }
}

/* Squares of what `count` flat tensors have moved by, and of where they were. Those after lie at a stride. */
void actdiag_updates(const float *const *after, const int64_t *strides, const float *const *before, const int64_t *sizes,
                     int64_t count, double *moves, double *bases) {
    for (int64_t t = 0; t < count; t++) {
        Doubles moved[2] = {{0}, {0}}, base[2] = {{0}, {0}};
        for (int64_t i = 0; i < sizes[t]; i += WIDE) {
            const int64_t left = sizes[t] - i;
            const Floats was = take(before[t] + i, left, 0);
            Floats is = was;
            if (strides[t] == 1)
                is = take(after[t] + i, left, 0);
            else
                for (int k = 0; k < WIDE && k < left; k++) is[k] = after[t][(i + k) * strides[t]];
            const Floats by = is - was;
            const Doubles a = low_half(by), b = high_half(by), c = low_half(was), d = high_half(was);
            moved[0] += a * a, moved[1] += b * b, base[0] += c * c, base[1] += d * d;
        }
        moves[t] = total(moved[0] + moved[1]), bases[t] = total(base[0] + base[1]);
    }
}
