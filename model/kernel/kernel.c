/* The integer reader of networks in C, one image at a time.
 *
 * Every function computes bit for bit what the model of its operator in model/operators/ does, as
 * long as the bounds hold that steps.py checks once per node. A step is a function and a struct of
 * its parameters; steps.py reads the fields from this file. Every field has 8 bytes. Tensors are
 * offsets into the workspace: rows of 8-bit codes, or of 16-bit numbers where `wide_*` is 1.
 */

#include <stdint.h>
#include <string.h>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

typedef int64_t i64;
typedef int32_t i32;
typedef int16_t i16;
typedef int8_t i8;
typedef uint64_t u64;
typedef uint32_t u32;
typedef uint16_t u16;
typedef uint8_t u8;
typedef double f64;

#define INLINE static inline __attribute__((always_inline))
#define EACH(i, n) for (i64 i = 0; i < (n); i++)

struct step { void (*run)(const void *fields, char *work); const void *fields; };

void run_steps(const struct step *steps, i64 count, char *work)
{
    EACH(i, count) steps[i].run(steps[i].fields, work);
}

/* Rounding: the sum with 1.5 * 2**52 is an integer, nearest and ties to even, in its low bits. */

#define MAGIC 6755399441055744.0

#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
i64 has_fma(void) { return 1; }
#define MULTIPLY_ADD(a, b, c) __builtin_fma(a, b, c)
#else
i64 has_fma(void) { return 0; }
#define MULTIPLY_ADD(a, b, c) ((a) * (b) + (c))
#endif

INLINE i32 rounded(f64 value, f64 factor)
{
    f64 sum = MULTIPLY_ADD(value, factor, MAGIC);
    i64 bits;
    memcpy(&bits, &sum, 8);
    return (i32)bits;
}

INLINE i32 clamped(i32 value, i32 low, i32 high)
{
    value = value < low ? low : value;
    return value > high ? high : value;
}

INLINE i32 element(const void *row, i64 wide, i64 index)
{
    return wide ? ((const i16 *)row)[index] : ((const i8 *)row)[index];
}

INLINE i64 row_bytes(i64 wide, i64 count) { return count << wide; }

/* Matrix products. An operand's unit is 4 bytes of a row: four 8-bit numbers, the streamed ones
 * unsigned, where the machine multiplies bytes; elsewhere two 16-bit numbers. Stationary rows are
 * packed so that one load has the same unit of LANES rows. */

#if defined(__AVX512VNNI__) && defined(__AVX512BW__) && !defined(NARROW)
#define LANES 16
#define TILE 6
#define GROUP 4
#define BYTES 1
typedef __m512i vec;
#define spread(unit) _mm512_set1_epi32(unit)
/* Not the intrinsics: with them, gcc 12 keeps accumulators in memory. */
INLINE vec dot_bytes(vec acc, vec x, vec w)
{
    __asm__("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(x), "v"(w));
    return acc;
}
INLINE vec dot_words(vec acc, vec x, vec w)
{
    __asm__("vpdpwssd %2, %1, %0" : "+v"(acc) : "v"(x), "v"(w));
    return acc;
}
#elif defined(__AVX512BW__) && !defined(NARROW)
#define LANES 16
#define TILE 6
#define GROUP 4
#define BYTES 0
typedef __m512i vec;
#define spread(unit) _mm512_set1_epi32(unit)
#define dot_words(acc, x, w) _mm512_add_epi32(acc, _mm512_madd_epi16(x, w))
#elif (defined(__AVXVNNI__) || defined(__AVX512VNNI__)) && !defined(WORDS)
#define LANES 8
#define TILE 6
#define GROUP 2
#define BYTES 1
typedef __m256i vec;
#define spread(unit) _mm256_set1_epi32(unit)
#ifdef __AVXVNNI__
#define SHORT "%{vex%} "
#else
#define SHORT
#endif
INLINE vec dot_bytes(vec acc, vec x, vec w)
{
    __asm__(SHORT "vpdpbusd %2, %1, %0" : "+x"(acc) : "x"(x), "x"(w));
    return acc;
}
INLINE vec dot_words(vec acc, vec x, vec w)
{
    __asm__(SHORT "vpdpwssd %2, %1, %0" : "+x"(acc) : "x"(x), "x"(w));
    return acc;
}
#elif defined(__AVX2__)
#define LANES 8
#define TILE 5 /* with 6 rows, one of 16 registers would be missing */
#define GROUP 2
#define BYTES 0
typedef __m256i vec;
#define spread(unit) _mm256_set1_epi32(unit)
#define dot_words(acc, x, w) _mm256_add_epi32(acc, _mm256_madd_epi16(x, w))
#else
#define LANES 4
#define TILE 4
#define GROUP 2
#define BYTES 0
typedef i32 vec __attribute__((vector_size(16)));
INLINE vec spread(i32 unit) { return (vec){unit, unit, unit, unit}; }
INLINE vec dot_words(vec acc, vec x, vec w)
{
    return acc + (x << 16 >> 16) * (w << 16 >> 16) + (x >> 16) * (w >> 16);
}
#endif
#if !BYTES
#define dot_bytes dot_words /* never called */
#endif

#define SPAN (LANES * GROUP)
#define PLACE(words) ((words) ? 2 : 4) /* numbers in a unit */

INLINE i64 up(i64 value, i64 step) { return (value + step - 1) / step * step; }

INLINE i64 words_of(i64 wide) { return wide || !BYTES; }

INLINE i64 units_of(i64 count, i64 words) { return up(count, PLACE(words)) / PLACE(words); }

/* Bytes of `channels` packed rows of `inputs` numbers, for streamed ones of that width. */
i64 packed_bytes(i64 channels, i64 inputs, i64 wide)
{
    return up(channels, LANES) * units_of(inputs, words_of(wide)) * 4;
}

/* One unit of a row whose numbers are `along` apart. */
INLINE u32 unit_of(const i8 *row, i64 along, i64 count, i64 words)
{
    u32 unit = 0;
    if (words) {
        if (count > 0) unit = (u16)row[0];
        if (count > 1) unit |= (u32)(u16)row[along] << 16;
    } else EACH(place, count < 4 ? count : 4) unit |= (u32)(u8)row[place * along] << 8 * place;
    return unit;
}

/* Pack element (n, k) = source[n * across + k * along], one of both steps being 1. */
INLINE void pack_units(u32 *packed, const i8 *source, i64 channels, i64 inputs, i64 across,
                       i64 along, i64 words)
{
    i64 units = units_of(inputs, words), place = PLACE(words);
    for (i64 first = 0; first < channels; first += SPAN) {
        i64 left = channels - first, here = left < SPAN ? left : SPAN, width = up(here, LANES);
        u32 *block = packed + first * units;
        EACH(u, units) {
            i64 count = inputs - u * place;
            const i8 *from = source + first * across + u * place * along;
            u32 *to = block + u * width;
            if (count < place)
                EACH(lane, here) to[lane] = unit_of(from + lane * across, along, count, words);
            else
                EACH(lane, here) to[lane] = unit_of(from + lane * across, along, place, words);
            for (i64 lane = here; lane < width; lane++) to[lane] = 0;
        }
    }
}

/* Pack rows, and start the sums of each. A streamed 8-bit code is one of itself and 128, which
 * `start` takes back, unless numbers are from 0 on already (`natural`) or are words. */
static void pack(char *packed, i32 *start, const i8 *source, i64 channels, i64 inputs, i64 across,
                 i64 along, i64 words, i64 natural)
{
    u32 *to = (u32 *)packed;
    if (along == 1 && words) pack_units(to, source, channels, inputs, across, 1, 1);
    else if (along == 1) pack_units(to, source, channels, inputs, across, 1, 0);
    else if (words) pack_units(to, source, channels, inputs, 1, along, 1);
    else pack_units(to, source, channels, inputs, 1, along, 0);
    EACH(n, up(channels, LANES)) {
        i32 sum = 0;
        if (!natural && !words && n < channels)
            EACH(k, inputs) sum += source[n * across + k * along];
        start[n] = -128 * sum;
    }
}

/* Pack the weights of a layer, and add its biases to the starts. */
void pack_weights(char *packed, i32 *start, const i8 *weights, const i32 *bias, i64 channels,
                  i64 inputs, i64 wide)
{
    i64 words = words_of(wide);
    pack(packed, start, weights, channels, inputs, inputs, 1, words, 0);
    EACH(n, channels) start[n] = (i32)((u32)start[n] + (u32)bias[n]);
}

/* Copy rows so that whole units follow each other, as numbers that the machine multiplies. Those
 * from 0 on (`natural`) need all of their bits: wide ones become smaller by 2**15. */
static void stream_rows(char *to, const char *from, i64 rows, i64 count, i64 stride, i64 wide,
                        i64 natural)
{
    i64 words = words_of(wide), bytes = units_of(count, words) * 4;
    EACH(row, rows) {
        const char *in = from + row * row_bytes(wide, stride);
        char *out = to + row * bytes;
        memset(out + bytes - 4, 0, 4);
        if (wide && natural) EACH(i, count) ((u16 *)out)[i] = ((const u16 *)in)[i] ^ 0x8000;
        else if (wide) memcpy(out, in, 2 * count);
        else if (!words) EACH(i, count) out[i] = (char)(natural ? in[i] : in[i] ^ 0x80);
        else if (natural) EACH(i, count) ((i16 *)out)[i] = ((const u8 *)in)[i];
        else EACH(i, count) ((i16 *)out)[i] = ((const i8 *)in)[i];
    }
}

/* Rows of attention are this many numbers apart, so that vectors need not stop at their end. */
#define KEYS_STEP 16

i64 keys_step(void) { return KEYS_STEP; }

/* What becomes of the sums: rescaled, with another branch added, saturated and stored. */
struct finish {
    char *y;
    i64 stride, wide;
    i32 low, high;
    const f64 *mult;      /* a channel's, or */
    const f64 *row_mult;  /* a row's */
    const char *residual;
    i64 residual_stride, wide_residual;
    f64 residual_mult;
    i64 has_room; /* behind a row, for whole vectors */
};

INLINE void store(char *y, i64 wide, i64 index, i32 value)
{
    if (wide) ((i16 *)y)[index] = (i16)value;
    else ((i8 *)y)[index] = (i8)value;
}

INLINE void finish_plain(const i32 *acc, const f64 *mult, char *y, i64 wide, i64 count, i32 low,
                         i32 high)
{
    EACH(j, count) store(y, wide, j, clamped(rounded(acc[j], mult[j]), low, high));
}

INLINE void finish_added(const i32 *acc, const f64 *mult, char *y, i64 wide, i64 count, i32 low,
                         i32 high, const char *residual, i64 wide_residual, f64 residual_mult)
{
    EACH(j, count) {
        i32 sum = rounded(acc[j], mult[j])
            + rounded(element(residual, wide_residual, j), residual_mult);
        store(y, wide, j, clamped(sum, low, high));
    }
}

static __attribute__((noinline)) void finish_row(const struct finish *f, const i32 *acc, i64 row, i64 first, i64 count)
{
    char *y = f->y + row_bytes(f->wide, row * f->stride + first);
    f64 same[SPAN];
    const f64 *mult = f->mult + first;
    if (f->has_room) count = up(count, LANES);
    if (f->row_mult) {
        EACH(j, SPAN) same[j] = f->row_mult[row];
        mult = same;
    }
    if (!f->residual) {
        if (f->wide) finish_plain(acc, mult, y, 1, count, f->low, f->high);
        else finish_plain(acc, mult, y, 0, count, f->low, f->high);
        return;
    }
    const char *r = f->residual + row_bytes(f->wide_residual, row * f->residual_stride + first);
    if (f->wide && f->wide_residual)
        finish_added(acc, mult, y, 1, count, f->low, f->high, r, 1, f->residual_mult);
    else if (f->wide)
        finish_added(acc, mult, y, 1, count, f->low, f->high, r, 0, f->residual_mult);
    else if (f->wide_residual)
        finish_added(acc, mult, y, 0, count, f->low, f->high, r, 1, f->residual_mult);
    else
        finish_added(acc, mult, y, 0, count, f->low, f->high, r, 0, f->residual_mult);
}

/* Accumulators have names of their own: compilers keep an array of so many in memory. */
#define EACH_ROW(do) do(0) do(1) do(2) do(3) do(4) do(5)
#define BEGIN(i) vec a##i##0 = s0, a##i##1 = s1, a##i##2 = s2, a##i##3 = s3;
#define ADD(i, j) if (width > j) a##i##j = words ? dot_words(a##i##j, same, w##j) \
                                                : dot_bytes(a##i##j, same, w##j);
#define ADD_UNIT(i) \
    if (height > i) { \
        vec same = spread(unit_at(x + (i * units + u) * 4)); \
        ADD(i, 0) ADD(i, 1) ADD(i, 2) ADD(i, 3) \
    }
#define END(i, j) \
    if (height > i && width > j) memcpy(out + (i * width + j) * LANES, &a##i##j, sizeof(vec));
#define END_ROW(i) END(i, 0) END(i, 1) END(i, 2) END(i, 3)

INLINE i32 unit_at(const char *x)
{
    i32 unit;
    memcpy(&unit, x, 4);
    return unit;
}

INLINE vec vec_at(const void *from)
{
    vec value;
    memcpy(&value, from, sizeof value);
    return value;
}

/* Sums of up to 6 rows and 4 vectors of channels, in registers. */
INLINE void tile(const i64 height, const i64 width, const i64 words, const char *x, i64 units,
                 const char *w, const i32 *start, i32 *out)
{
    vec s0 = vec_at(start), s1 = width > 1 ? vec_at(start + LANES) : s0,
        s2 = width > 2 ? vec_at(start + 2 * LANES) : s0,
        s3 = width > 3 ? vec_at(start + 3 * LANES) : s0;
    EACH_ROW(BEGIN)
    EACH(u, units) {
        const char *at = w + u * width * sizeof(vec);
        vec w0 = vec_at(at), w1 = width > 1 ? vec_at(at + sizeof(vec)) : w0,
            w2 = width > 2 ? vec_at(at + 2 * sizeof(vec)) : w0,
            w3 = width > 3 ? vec_at(at + 3 * sizeof(vec)) : w0;
        EACH_ROW(ADD_UNIT)
    }
    EACH_ROW(END_ROW)
}

/* Run down the rows for one block of channels; the last tile overlaps the one before it. */
INLINE void column(const i64 width, const i64 words, const char *x, i64 rows, i64 units,
                   const char *w, const i32 *start, const struct finish *f, i64 first, i64 count)
{
    i32 out[TILE * SPAN];
    i64 height = rows < TILE ? 1 : TILE;
    for (i64 row = 0; row < rows; row += height) {
        if (row + height > rows) row = rows - height;
        const char *from = x + row * units * 4;
        if (height == TILE) tile(TILE, width, words, from, units, w, start, out);
        else tile(1, width, words, from, units, w, start, out);
        EACH(i, height) finish_row(f, out + i * width * LANES, row + i, first, count);
    }
}

#define COLUMN(width, words) \
    column(width, words, x, rows, units, block, start + first, f, first, count)

/* Multiply streamed rows with packed ones. */
static void product(const char *x, i64 rows, i64 inputs, const char *packed, const i32 *start,
                    i64 channels, i64 wide, const struct finish *f)
{
    i64 words = words_of(wide), units = units_of(inputs, words);
    for (i64 first = 0; first < channels; first += SPAN) {
        const char *block = packed + first * units * 4;
        i64 left = channels - first, count = left < SPAN ? left : SPAN;
        switch (up(count, LANES) / LANES * 2 + words) {
        case 2: COLUMN(1, 0); break;
        case 3: COLUMN(1, 1); break;
        case 4: COLUMN(2, 0); break;
        case 5: COLUMN(2, 1); break;
#if GROUP > 2
        case 6: COLUMN(3, 0); break;
        case 7: COLUMN(3, 1); break;
        case 8: COLUMN(4, 0); break;
        case 9: COLUMN(4, 1); break;
#endif
        }
    }
}

struct linear {
    i64 x, wide_x, y, wide_y, rows, inputs, channels, scratch;
    const i8 *weights;
    const i32 *start;
    const f64 *mult;
    i64 low, high;
    i64 has_residual, residual, wide_residual;
    f64 residual_mult;
};

void linear(const void *fields, char *work)
{
    const struct linear *p = fields;
    struct finish f = {work + p->y, p->channels, p->wide_y, p->low, p->high, p->mult, 0,
                       p->has_residual ? work + p->residual : 0, p->channels, p->wide_residual,
                       p->residual_mult, 0};
    char *x = work + p->scratch;
    stream_rows(x, work + p->x, p->rows, p->inputs, p->inputs, p->wide_x, 0);
    product(x, p->rows, p->inputs, (const char *)p->weights, p->start, p->channels, p->wide_x, &f);
}

/* The scratch memory of products between tensors: rows, packed rows, their starts, multipliers. */
struct room { char *x, *packed; i32 *start; f64 *mult; };

INLINE struct room room(char *at, i64 rows, i64 inputs, i64 channels, i64 wide)
{
    struct room r;
    r.x = at;
    r.packed = r.x + up(rows * units_of(inputs, words_of(wide)) * 4, 64);
    r.start = (i32 *)(r.packed + up(packed_bytes(channels, inputs, wide), 64));
    r.mult = (f64 *)(r.start + up(channels, LANES));
    return r;
}

i64 room_bytes(i64 rows, i64 inputs, i64 channels, i64 wide)
{
    struct room r = room(0, rows, inputs, channels, wide);
    return (char *)(r.mult + up(rows > channels ? rows : channels, SPAN)) - (char *)0;
}

struct scores {
    i64 query, query_stride, query_channel, key, key_stride, key_channel, y;
    i64 heads, head_dim, rows, keys, count, scratch;
    const i64 *spans; /* (first row, rows, keys) of every sequence */
    f64 mult;
    i64 low, high, has_bias;
    const i16 *bias;
    f64 bias_mult;
};

void scores(const void *fields, char *work)
{
    const struct scores *p = fields;
    const i64 stride = up(p->keys, KEYS_STEP);
    EACH(head, p->heads) EACH(s, p->count) {
        const i64 *span = p->spans + 3 * s, first = span[0], rows = span[1], keys = span[2];
        struct room r = room(work + p->scratch, rows, p->head_dim, keys, 0);
        const char *query = work + p->query + first * p->query_stride + p->query_channel
            + head * p->head_dim;
        const i8 *key = (const i8 *)work + p->key + first * p->key_stride + p->key_channel
            + head * p->head_dim;
        i64 row = head * p->rows + first;
        char *y = work + p->y + row * stride;
        stream_rows(r.x, query, rows, p->head_dim, p->query_stride, 0, 0);
        pack(r.packed, r.start, key, keys, p->head_dim, p->key_stride, 1, words_of(0), 0);
        EACH(i, up(keys, SPAN)) r.mult[i] = p->mult;
        struct finish f = {y, stride, 0, p->low, p->high, r.mult, 0,
                           p->has_bias ? (const char *)(p->bias + row * p->keys) : 0, p->keys, 1,
                           p->bias_mult, !p->has_bias};
        product(r.x, rows, p->head_dim, r.packed, r.start, keys, 0, &f);
        EACH(i, rows) memset(y + i * stride + keys, 0, p->keys - keys);
    }
}

struct context {
    i64 attention, wide_attention, value, value_stride, value_channel, y;
    i64 heads, head_dim, rows, keys, count, scratch;
    const i64 *spans;
    f64 mult;
    i64 low, high, is_deferred, numerator, top;
};

/* Rescaling of rows of exponentials: by one division each. */
static void row_factors(const struct context *p, f64 *mult, const char *codes, i64 rows, i64 keys,
                        i64 stride)
{
    EACH(row, rows) {
        u32 sum = 0;
        if (p->wide_attention) EACH(j, keys) sum += ((const u16 *)codes)[row * stride + j];
        else EACH(j, keys) sum += ((const u8 *)codes)[row * stride + j];
        i64 factor = sum ? p->numerator / sum : p->top;
        mult[row] = (f64)(factor < p->top ? factor : p->top) * p->mult;
    }
}

/* Start sums with what wide exponentials lack in their stream. */
static void give_back(i32 *start, const i8 *value, i64 keys, i64 channels, i64 stride)
{
    EACH(k, keys) EACH(n, channels) start[n] += value[k * stride + n];
    EACH(n, channels) start[n] = (i32)((u32)start[n] << 15);
}

void context(const void *fields, char *work)
{
    const struct context *p = fields;
    i64 channels = p->heads * p->head_dim, wide = p->wide_attention;
    const i64 stride = up(p->keys, KEYS_STEP);
    EACH(head, p->heads) EACH(s, p->count) {
        const i64 *span = p->spans + 3 * s, first = span[0], rows = span[1], keys = span[2];
        struct room r = room(work + p->scratch, rows, keys, p->head_dim, wide);
        const char *a = work + p->attention + row_bytes(wide, (head * p->rows + first) * stride);
        const i8 *value = (const i8 *)work + p->value + first * p->value_stride + p->value_channel
            + head * p->head_dim;
        stream_rows(r.x, a, rows, keys, stride, wide, !wide || p->is_deferred);
        pack(r.packed, r.start, value, p->head_dim, keys, 1, p->value_stride, words_of(wide), 1);
        if (p->is_deferred && wide) give_back(r.start, value, keys, p->head_dim, p->value_stride);
        if (p->is_deferred) row_factors(p, r.mult, a, rows, keys, stride);
        else EACH(i, up(p->head_dim, SPAN)) r.mult[i] = p->mult;
        struct finish f = {work + p->y + first * channels + head * p->head_dim, channels, 0,
                           p->low, p->high, r.mult, p->is_deferred ? r.mult : 0, 0, 0, 0, 0, 0};
        product(r.x, rows, keys, r.packed, r.start, p->head_dim, wide, &f);
    }
}

/* For every row of attention: its place, and the keys that it attends to. */
#define EACH_ATTENTION_ROW(at, keys_here) \
    const i64 stride = up(p->keys, KEYS_STEP); \
    EACH(head, p->heads) EACH(s, p->count) \
        for (i64 keys_here = p->runs[3 * s + 2], \
                 at = (head * p->rows + p->runs[3 * s]) * stride, \
                 end = at + p->runs[3 * s + 1] * stride; at < end; at += stride)

/* Zeros for the keys that a row does not attend to. */
#define CLEAR_BEHIND(y, wide) \
    memset((y) + row_bytes(wide, keys), 0, row_bytes(wide, p->keys - keys))

INLINE i32 maximum(const i8 *x, i64 count)
{
    i8 top = -128;
    EACH(j, count) top = x[j] > top ? x[j] : top;
    return top;
}

struct shiftmax {
    i64 x, y, wide_y, heads, rows, keys, count, scratch;
    const i64 *runs;
    i64 unit, octaves, reciprocal, reciprocal_shift, output_shift, top;
};

#define MAX31 0x7fffffff

/* ShiftExp of the distances to a row's maximum, in place. */
INLINE void shift_exp(i32 *distance, i64 count, i32 unit, i32 octaves, i32 reciprocal, i32 by)
{
    const i32 lowest = -unit * octaves;
    EACH(j, count) {
        i32 d = distance[j], s = d + (d >> 1) - (d >> 4);
        s = s > lowest ? s : lowest;
        i32 q = -s * reciprocal >> by;
        distance[j] = (i32)((u32)(s + unit * q + 2 * unit) << (octaves - q) >> 1);
    }
}

void shiftmax(const void *fields, char *work)
{
    const struct shiftmax *p = fields;
    i32 *exp = (i32 *)(work + p->scratch);
    EACH_ATTENTION_ROW(at, keys) {
        const i8 *x = (const i8 *)work + p->x + at;
        char *y = work + p->y + row_bytes(p->wide_y, at);
        const i64 whole = up(keys, KEYS_STEP);
        const i32 highest = maximum(x, keys);
        EACH(j, whole) exp[j] = x[j] < highest ? x[j] - highest : 0; /* 0 behind the keys, too */
        shift_exp(exp, whole, p->unit, p->octaves, p->reciprocal, p->reciprocal_shift);
        for (i64 j = keys; j < whole; j++) exp[j] = 0;
        i64 sum = 0;
        EACH(j, whole) sum += exp[j];
        const i32 factor = MAX31 / (i32)(sum < MAX31 ? sum : MAX31), shift = p->output_shift,
            top = p->top;
        EACH(j, whole) exp[j] = clamped(exp[j] * factor >> shift, 0, top);
        if (p->wide_y) EACH(j, whole) ((i16 *)y)[j] = (i16)exp[j];
        else EACH(j, whole) ((i8 *)y)[j] = (i8)exp[j];
        CLEAR_BEHIND(y, p->wide_y);
    }
}

/* y[j] = table[x[j] ^ mask]: any function of a byte. */
static void look_up(u8 *y, const u8 *x, i64 count, const u8 *table, u8 mask)
{
    i64 done = 0;
#if defined(__AVX512VBMI__)
    __m512i part[4], flip = _mm512_set1_epi8((char)mask);
    EACH(i, 4) part[i] = _mm512_loadu_si512(table + 64 * i);
    for (; done + 64 <= count; done += 64) {
        __m512i at = _mm512_xor_si512(_mm512_loadu_si512(x + done), flip);
        __m512i low = _mm512_permutex2var_epi8(part[0], at, part[1]);
        __m512i high = _mm512_permutex2var_epi8(part[2], at, part[3]);
        _mm512_storeu_si512(y + done, _mm512_mask_mov_epi8(low, _mm512_movepi8_mask(at), high));
    }
#endif
    for (; done < count; done++) y[done] = table[x[done] ^ mask];
}

struct exponentials {
    i64 x, y, heads, rows, keys, count, scratch;
    const i64 *runs;
    const u8 *table;
};

void exponentials(const void *fields, char *work)
{
    const struct exponentials *p = fields;
    u8 *below = (u8 *)work + p->scratch;
    EACH_ATTENTION_ROW(at, keys) {
        const i8 *x = (const i8 *)work + p->x + at;
        i32 highest = maximum(x, keys);
        EACH(j, keys) below[j] = (u8)(highest - x[j]);
        look_up((u8 *)work + p->y + at, below, keys, p->table, 0);
        CLEAR_BEHIND(work + p->y + at, 0);
    }
}

struct normalised {
    i64 x, y, heads, rows, keys, count, scratch;
    const i64 *runs;
    const u16 *table;
};

/* y[j] = table[x[j]]: vectors are fastest at tables of bytes, and other code at one of both. */
INLINE void look_up_wide(u16 *y, const u8 *x, i64 count, const u16 *table, u8 *scratch)
{
#if defined(__AVX512VBMI__)
    u8 low[256], high[256], *lows = scratch, *highs = scratch + up(count, KEYS_STEP);
    EACH(i, 256) low[i] = (u8)table[i];
    EACH(i, 256) high[i] = (u8)(table[i] >> 8);
    look_up(lows, x, count, low, 0);
    look_up(highs, x, count, high, 0);
    EACH(j, count) y[j] = (u16)(lows[j] | highs[j] << 8);
#else
    (void)scratch;
    EACH(j, count) y[j] = table[x[j]];
#endif
}

/* Exponentials of 16 bits, shifted so that a row adds up to 2**16, or a rounding more, at most. */
void normalised(const void *fields, char *work)
{
    const struct normalised *p = fields;
    u8 *below = (u8 *)work + p->scratch;
    EACH_ATTENTION_ROW(at, keys) {
        const i8 *x = (const i8 *)work + p->x + at;
        u16 *y = (u16 *)(work + p->y) + at;
        i32 highest = maximum(x, keys);
        EACH(j, keys) below[j] = (u8)(highest - x[j]);
        look_up_wide(y, below, keys, p->table, below + up(keys, KEYS_STEP));
        u32 sum = 0, shift = 0;
        EACH(j, keys) sum += y[j];
        while (sum > (u64)1 << (16 + shift)) shift++;
        const u32 half = 1 << shift >> 1;
        EACH(j, keys) y[j] = (u16)((y[j] + half) >> shift);
        CLEAR_BEHIND((char *)y, 1);
    }
}

struct table {
    i64 x, y, rows, channels, by_maximum;
    const u8 *table;
};

void table(const void *fields, char *work)
{
    const struct table *p = fields;
    EACH(row, p->rows) {
        const i8 *x = (const i8 *)work + p->x + row * p->channels;
        const u8 *of = p->table;
        if (p->by_maximum) of += 256 * (maximum(x, p->channels) + 128);
        look_up((u8 *)work + p->y + row * p->channels, (const u8 *)x, p->channels, of, 0x80);
    }
}

struct norm {
    i64 x, wide_x, y, wide_y, rows, groups, channels, leading_one;
    const f64 *bias;
    const f64 *mult;
    i64 low, high;
};

#define TOGETHER 8
#define ITERATIONS 10

INLINE f64 whole(f64 value) { return __builtin_floor(value); }

INLINE void moments(const char *x, i64 wide, i64 channels, i32 *mean, f64 *variance)
{
    i32 sum = 0;
    EACH(j, channels) sum += element(x, wide, j);
    i64 down = sum >= 0 ? sum / channels : -((channels - 1 - sum) / channels);
    i64 twice = 2 * (sum - down * channels);
    const i32 middle = (i32)(down + (twice > channels || (twice == channels && (down & 1))));
    u64 squares = 0;
    EACH(j, channels) {
        u32 distance = (u32)(element(x, wide, j) - middle);
        squares += (u64)(distance * distance);
    }
    *mean = middle;
    *variance = (f64)squares;
}

/* V and all iterates are integers below 2**53, and so is V / k far enough from the next one. */
INLINE void roots(const f64 *variance, f64 *root, i64 leading_one)
{
    EACH(i, TOGETHER) {
        u64 v = (u64)variance[i];
        root[i] = leading_one ? (f64)((u64)1 << (v ? (65 - __builtin_clzll(v)) / 2 : 0)) : 65536;
    }
    EACH(step, ITERATIONS) EACH(i, TOGETHER) {
        f64 next = whole((root[i] + whole(variance[i] / root[i])) * 0.5);
        root[i] = next > 1 ? next : 1;
    }
}

INLINE void normed(const char *x, i64 wide_x, char *y, i64 wide_y, i64 channels, f64 mean,
                   f64 half_factor, const f64 *bias, const f64 *mult, i32 low, i32 high)
{
    EACH(j, channels) {
        f64 value = whole((element(x, wide_x, j) - mean) * half_factor) + bias[j];
        store(y, wide_y, j, clamped(rounded(value, mult[j]), low, high));
    }
}

void norm(const void *fields, char *work)
{
    const struct norm *p = fields;
    i64 parts = p->rows * p->groups;
    for (i64 first = 0; first < parts; first += TOGETHER) {
        i64 count = parts - first < TOGETHER ? parts - first : TOGETHER;
        i32 mean[TOGETHER];
        f64 variance[TOGETHER] = {0}, root[TOGETHER];
        const char *x = work + p->x + row_bytes(p->wide_x, first * p->channels);
        char *y = work + p->y + row_bytes(p->wide_y, first * p->channels);
        i64 step = row_bytes(p->wide_x, p->channels), out = row_bytes(p->wide_y, p->channels);
        EACH(i, count) {
            if (p->wide_x) moments(x + i * step, 1, p->channels, mean + i, variance + i);
            else moments(x + i * step, 0, p->channels, mean + i, variance + i);
        }
        roots(variance, root, p->leading_one);
        EACH(i, count) {
            f64 half = (f64)(MAX31 / (i64)root[i]) * 0.5;
            i64 group = (first + i) % p->groups * p->channels;
            const f64 *bias = p->bias + group, *mult = p->mult + group;
            if (p->wide_x && !p->wide_y)
                normed(x + i * step, 1, y + i * out, 0, p->channels, mean[i], half, bias, mult,
                       p->low, p->high);
            else
                normed(x + i * step, p->wide_x, y + i * out, p->wide_y, p->channels, mean[i], half,
                       bias, mult, p->low, p->high);
        }
    }
}

struct normalised_norm {
    i64 x, wide_x, y, wide_y, rows, groups, channels, epsilon, fraction, numerator;
    const f64 *bias;
    const f64 *mult;
    i64 low, high;
};

/* A number's shift and factor, see normalised_root in model/operators/layernorm.py. */
INLINE i64 normalised_root(u64 v, i64 numerator, i64 *factor)
{
    if (!v) return *factor = 0;
    i64 shift = 8 - (63 - __builtin_clzll(v)) / 4;
    u64 normal = shift < 0 ? v >> -4 * shift : v << 4 * shift;
    *factor = numerator / (i64)__builtin_sqrt((f64)normal); /* below 2**36: no root is rounded up */
    return shift;
}

/* Sums wrap at 64 bits, which the sum of squares of distances to the mean does not reach. */
INLINE void normalised_row(const struct normalised_norm *p, const char *x, const i64 wide_x,
                           char *y, const i64 wide_y, i64 group)
{
    const i64 channels = p->channels;
    i32 sum = 0;
    u64 squares = 0;
    EACH(j, channels) sum += element(x, wide_x, j);
    EACH(j, channels) squares += (u32)(element(x, wide_x, j) * element(x, wide_x, j));
    const i64 twice = 2 * ((i64)sum * (1 << p->fraction)) + channels;
    const i64 down = twice >= 0 ? twice / (2 * channels) : -((2 * channels - 1 - twice)
                                                           / (2 * channels));
    const u64 variance = (squares << 2 * p->fraction)
        - ((u64)(2 * down) << p->fraction) * (u64)(i64)sum + (u64)channels * (u64)(down * down)
        + (u64)p->epsilon;
    i64 factor;
    const i64 shift = normalised_root(variance, p->numerator, &factor);
    const f64 mean = (f64)down, unit = (f64)(1 << p->fraction), part = (f64)factor / 32,
        before = shift < -1 ? 1.0 / (f64)(1 << -2 * (shift + 1)) : (f64)(1 << 2 * (shift + 1));
    const f64 *bias = p->bias + group * channels, *mult = p->mult + group * channels;
    const i32 low = (i32)p->low, high = (i32)p->high;
    EACH(j, channels) {
        f64 scaled = whole((element(x, wide_x, j) * unit - mean) * before);
        store(y, wide_y, j, clamped(rounded(whole(scaled * part) + bias[j], mult[j]), low, high));
    }
}

void normalised_norm(const void *fields, char *work)
{
    const struct normalised_norm *p = fields;
    EACH(row, p->rows * p->groups) {
        const char *x = work + p->x + row_bytes(p->wide_x, row * p->channels);
        char *y = work + p->y + row_bytes(p->wide_y, row * p->channels);
        if (p->wide_x && !p->wide_y) normalised_row(p, x, 1, y, 0, row % p->groups);
        else normalised_row(p, x, p->wide_x, y, p->wide_y, row % p->groups);
    }
}

struct add {
    i64 x, wide_x, other, wide_other, y, wide_y, elements;
    f64 mult, other_mult;
    i64 low, high;
};

void add(const void *fields, char *work)
{
    const struct add *p = fields;
    EACH(i, p->elements) {
        i32 sum = rounded(element(work + p->x, p->wide_x, i), p->mult)
            + rounded(element(work + p->other, p->wide_other, i), p->other_mult);
        store(work + p->y, p->wide_y, i, clamped(sum, (i32)p->low, (i32)p->high));
    }
}

struct mean {
    i64 x, wide_x, y, wide_y, groups, rows, channels;
    f64 mult;
    i64 low, high;
};

void mean(const void *fields, char *work)
{
    const struct mean *p = fields;
    EACH(group, p->groups) EACH(c, p->channels) {
        i32 sum = 0;
        EACH(row, p->rows)
            sum += element(work + p->x, p->wide_x, (group * p->rows + row) * p->channels + c);
        store(work + p->y, p->wide_y, group * p->channels + c,
              clamped(rounded(sum, p->mult), (i32)p->low, (i32)p->high));
    }
}

/* Copies of (to, from, bytes). */
struct rows {
    i64 count;
    const i64 *copies;
};

void rows(const void *fields, char *work)
{
    const struct rows *p = fields;
    EACH(i, p->count) memcpy(work + p->copies[3 * i], work + p->copies[3 * i + 1],
                             p->copies[3 * i + 2]);
}
