/* The code of bytes: HCv1 and mode 1 of HCv2. Python: _native.py, _bytecode.py, _table.py. */

#ifndef LIX_BYTES_H
#define LIX_BYTES_H

#include "_speedups_bits.h"

#define BYTE_LONGEST 12          /* mode 1; and the width of every look-up */
#define V1_LONGEST 56            /* longer ones, which no input makes, are Python's */
#define FOUR_STREAMS_FROM 4096
#define PAIRS_FROM 4096          /* below, a table of pairs takes longer than it saves */

typedef struct {
    uint64_t code[256];
    uint8_t length[256]; /* 0: no code word */
    uint8_t order[256];  /* canonical */
    int symbols;
    unsigned longest;
} byte_code;

static void
count_bytes(const uint8_t *data, size_t size, uint64_t counts[256])
{
    /* Four tables: a byte that repeats does not wait for its own last increment. */
    uint32_t part[4][256];
    if (size < 1024) {
        while (size--)
            counts[*data++]++;
        return;
    }
    while (size) {
        size_t some = size < ((size_t)1 << 30) ? size : ((size_t)1 << 30), i = 0;
        memset(part, 0, sizeof part);
        for (; i + 4 <= some; i += 4) {
            part[0][data[i]]++;
            part[1][data[i + 1]]++;
            part[2][data[i + 2]]++;
            part[3][data[i + 3]]++;
        }
        for (; i < some; i++)
            part[0][data[i]]++;
        for (i = 0; i < 256; i++)
            counts[i] += (uint64_t)part[0][i] + part[1][i] + part[2][i] + part[3][i];
        data += some;
        size -= some;
    }
}

/* The symbols that occur, by (count, symbol). */
static int
sort_symbols(const uint64_t counts[256], const uint8_t present[256], uint8_t sorted[256])
{
    int n = 0, symbol, i;
    for (symbol = 0; symbol < 256; symbol++) {
        if (!present[symbol])
            continue;
        for (i = n++; i > 0 && counts[sorted[i - 1]] > counts[symbol]; i--)
            sorted[i] = sorted[i - 1];
        sorted[i] = (uint8_t)symbol;
    }
    return n;
}

/* Huffman's lengths. Inner nodes are made in the order of their weight, so two queues do what
   the heap does in Python; of equal weights a symbol goes first. */
static unsigned
huffman_lengths(const uint64_t counts[256], const uint8_t sorted[256], int n, uint8_t length[256])
{
    uint64_t weight[256];
    uint16_t parent[512]; /* of symbols by rank, then of inner nodes */
    uint8_t depth[256];
    int leaf = 0, inner = 0, made, i, side;
    unsigned longest = 0;
    if (n == 1) {
        length[sorted[0]] = 1;
        return 1;
    }
    for (made = 0; made < n - 1; made++) {
        weight[made] = 0;
        for (side = 0; side < 2; side++) {
            if (leaf < n && (inner == made || counts[sorted[leaf]] <= weight[inner])) {
                weight[made] += counts[sorted[leaf]];
                parent[leaf++] = (uint16_t)made;
            } else {
                weight[made] += weight[inner];
                parent[256 + inner++] = (uint16_t)made;
            }
        }
    }
    depth[n - 2] = 0;
    for (i = n - 3; i >= 0; i--)
        depth[i] = (uint8_t)(depth[parent[256 + i]] + 1);
    for (i = 0; i < n; i++) {
        unsigned own = depth[parent[i]] + 1u;
        length[sorted[i]] = (uint8_t)own;
        if (own > longest)
            longest = own;
    }
    return longest;
}

/* Package-merge, as in _table.py. */
static void
limit_lengths(const uint64_t counts[256], const uint8_t sorted[256], int n, uint8_t length[256])
{
    uint64_t items[512], next[512];
    uint8_t own[BYTE_LONGEST][512];
    int level, i, size = n, take = 2 * n - 2;
    for (i = 0; i < n; i++) {
        items[i] = counts[sorted[i]];
        own[0][i] = 1;
        length[sorted[i]] = 0;
    }
    for (level = 1; level < BYTE_LONGEST; level++) {
        int pairs = size / 2, leaf = 0, pair = 0;
        size = n + pairs;
        for (i = 0; i < size; i++) {
            uint64_t both = pair < pairs ? items[2 * pair] + items[2 * pair + 1] : 0;
            if (leaf < n && (pair == pairs || counts[sorted[leaf]] <= both)) {
                next[i] = counts[sorted[leaf++]];
                own[level][i] = 1;
            } else {
                next[i] = both;
                own[level][i] = 0;
                pair++;
            }
        }
        memcpy(items, next, (size_t)size * sizeof items[0]);
    }
    for (level = BYTE_LONGEST - 1; level >= 0; level--) {
        int taken = 0;
        for (i = 0; i < take; i++)
            taken += own[level][i];
        for (i = 0; i < taken; i++)
            length[sorted[i]]++;
        take = 2 * (take - taken);
    }
}

/* From lengths to canonical order and code words. The lengths must make a code. */
static void
assign_codes(byte_code *c)
{
    int count[256] = {0}, at[257], symbol, i;
    uint64_t code = 0;
    unsigned before = 0;
    c->symbols = 0;
    c->longest = 0;
    for (symbol = 0; symbol < 256; symbol++) {
        if (c->length[symbol]) {
            count[c->length[symbol]]++;
            c->symbols++;
            if (c->length[symbol] > c->longest)
                c->longest = c->length[symbol];
        }
    }
    at[1] = 0;
    for (i = 1; i < 256; i++)
        at[i + 1] = at[i] + count[i];
    for (symbol = 0; symbol < 256; symbol++)
        if (c->length[symbol])
            c->order[at[c->length[symbol]]++] = (uint8_t)symbol;
    for (i = 0; i < c->symbols; i++) {
        unsigned length = c->length[c->order[i]];
        code <<= length - before;
        c->code[c->order[i]] = code++;
        before = length;
    }
}

static void
make_code(byte_code *c, const uint64_t counts[256], const uint8_t present[256], unsigned limit)
{
    uint8_t sorted[256];
    int n = sort_symbols(counts, present, sorted);
    memset(c->length, 0, sizeof c->length);
    if (huffman_lengths(counts, sorted, n, c->length) > limit)
        limit_lengths(counts, sorted, n, c->length);
    assign_codes(c);
}

static uint64_t
bits_of(const byte_code *c, const uint64_t counts[256])
{
    uint64_t bits = 0;
    int i;
    for (i = 0; i < 256; i++)
        bits += counts[i] * c->length[i];
    return bits;
}

/* ``size`` is exactly what the code words take. */
static void
write_symbols(const byte_code *c, const uint8_t *data, size_t n, uint8_t *out, size_t size)
{
    writer w;
    size_t i = 0;
    writer_init(&w, out, size);
    if (c->longest <= 24) {
        uint32_t word[256]; /* code << 5 | length: one look-up */
        int symbol;
        for (symbol = 0; symbol < 256; symbol++)
            word[symbol] = c->length[symbol] ? (uint32_t)(c->code[symbol] << 5 | c->length[symbol]) : 0;
        for (; c->longest <= 14 && i + 4 <= n; i += 4) {
            uint32_t v = word[data[i]], x = word[data[i + 1]], y = word[data[i + 2]], z = word[data[i + 3]];
            uint64_t vx = (uint64_t)(v >> 5) << (x & 31) | x >> 5, yz = (uint64_t)(y >> 5) << (z & 31) | z >> 5;
            unsigned lower = (y & 31) + (z & 31);
            put(&w, vx << lower | yz, (v & 31) + (x & 31) + lower);
            flush(&w);
        }
        for (; i + 2 <= n; i += 2) {
            uint32_t v = word[data[i]], x = word[data[i + 1]];
            put(&w, (uint64_t)(v >> 5) << (x & 31) | x >> 5, (v & 31) + (x & 31));
            flush(&w);
        }
    }
    for (; i < n; i++) {
        put(&w, c->code[data[i]], c->length[data[i]]);
        flush(&w);
    }
    writer_finish(&w);
}

/* No window is above it, and none that means a longer code is equal to it. */
#define ALL UINT64_MAX

typedef struct {
    uint16_t one[1 << BYTE_LONGEST];   /* length << 8 | symbol; 0: longer, or no code word */
    uint32_t two[1 << BYTE_LONGEST];   /* number << 24 | length << 16 | second << 8 | first */
    uint64_t limit[V1_LONGEST + 1];    /* first window of a longer code, or ALL */
    int64_t offset[V1_LONGEST + 1];    /* place in the order, minus the code word */
    const byte_code *code;
    int pairs;
} byte_decoder;

static void
make_decoder(byte_decoder *d, const byte_code *c, size_t n)
{
    const unsigned width = BYTE_LONGEST;
    unsigned at = 0, length, i;
    int place = 0, k;
    uint64_t next = 0;
    for (k = 0; k < c->symbols && c->length[c->order[k]] <= width; k++) {
        unsigned own = c->length[c->order[k]], times = 1u << (width - own);
        uint16_t entry = (uint16_t)(own << 8 | c->order[k]);
        for (i = 0; i < times; i++)
            d->one[at + i] = entry;
        at += times;
    }
    memset(d->one + at, 0, ((1u << width) - at) * sizeof d->one[0]);
    for (length = 1; length <= c->longest && length <= V1_LONGEST; length++) {
        next <<= 1;
        d->offset[length] = place - (int64_t)next;
        while (place < c->symbols && c->length[c->order[place]] == length) {
            place++;
            next++;
        }
        d->limit[length] = next >> length ? ALL : next << (64 - length);
    }
    d->code = c;
    d->pairs = n >= PAIRS_FROM;
    if (!d->pairs)
        return;
    for (i = 0; i < 1u << width; i++) {
        uint16_t a = d->one[i], b = d->one[i << (a >> 8) & ((1u << width) - 1)];
        unsigned la = a >> 8, lb = b >> 8;
        if (!la)
            d->two[i] = 0;
        else if (!lb || la + lb > width)
            d->two[i] = 1u << 24 | la << 16 | (a & 255u);
        else
            d->two[i] = 2u << 24 | (la + lb) << 16 | (b & 255u) << 8 | (a & 255u);
    }
}

/* One symbol; its length, or 0 if there is no such code word. */
INLINE unsigned
read_symbol(const byte_decoder *d, reader *r, uint8_t *out)
{
    uint16_t entry;
    unsigned length;
    refill(r);
    entry = d->one[r->window >> (64 - BYTE_LONGEST)];
    length = entry >> 8;
    if (LIKELY(length)) {
        *out = (uint8_t)entry;
        skip(r, length);
        return length;
    }
    if (d->code->longest <= BYTE_LONGEST)
        return 0;
    for (length = BYTE_LONGEST + 1; length < d->code->longest; length++)
        if (r->window < d->limit[length] || d->limit[length] == ALL)
            break;
    if (r->window >= d->limit[length] && d->limit[length] != ALL)
        return 0;
    *out = d->code->order[(int64_t)(r->window >> (64 - length)) + d->offset[length]];
    skip(r, length);
    return length;
}

/* Eight symbols or less by four look-ups; needs 8 bytes of input and of room. */
INLINE uint8_t *
read_pairs(const byte_decoder *d, reader *r, uint8_t *out)
{
    int i;
    refill_fast(r);
    for (i = 0; i < 4; i++) {
        uint32_t entry = d->two[r->window >> (64 - BYTE_LONGEST)];
        out[0] = (uint8_t)entry;
        out[1] = (uint8_t)(entry >> 8);
        out += entry >> 24;
        skip(r, entry >> 16 & 255);
    }
    return out;
}

/* Decode at most n symbols, none of which reaches past the end; say how many. ``bad`` is set
   where there is no such code word. */
static size_t
read_symbols(const byte_decoder *d, reader *r, uint8_t *out, size_t n, int *bad)
{
    uint8_t *const first = out, *const end = out + n;
    const uint64_t total = (uint64_t)(r->end - r->start) * 8;
    *bad = 0;
    while (out < end) {
        reader before;
        if (d->pairs) {
            while (r->end - r->p >= 8 && end - out >= 8) {
                uint8_t *next = read_pairs(d, r, out);
                /* Only a long code word, or none, makes no progress at the end of the four. */
                if (UNLIKELY(next - out < 4)) {
                    out = next;
                    break;
                }
                out = next;
            }
            if (out == end)
                break;
        }
        before = *r;
        if (!read_symbol(d, r, out)) {
            *bad = 1;
            break;
        }
        if (reader_used(r) > total) {
            *r = before;
            break;
        }
        out++;
    }
    return (size_t)(out - first);
}

/* Four parts at the same time: their look-ups do not wait for each other. */
static void
read_four(const byte_decoder *d, reader r[4], uint8_t *out[4], uint8_t *const end[4])
{
    reader a = r[0], b = r[1], c = r[2], e = r[3];
    uint8_t *pa = out[0], *pb = out[1], *pc = out[2], *pe = out[3];
    while (a.end - a.p >= 8 && b.end - b.p >= 8 && c.end - c.p >= 8 && e.end - e.p >= 8 && end[0] - pa >= 8 &&
           end[1] - pb >= 8 && end[2] - pc >= 8 && end[3] - pe >= 8) {
        pa = read_pairs(d, &a, pa);
        pb = read_pairs(d, &b, pb);
        pc = read_pairs(d, &c, pc);
        pe = read_pairs(d, &e, pe);
    }
    r[0] = a, r[1] = b, r[2] = c, r[3] = e;
    out[0] = pa, out[1] = pb, out[2] = pc, out[3] = pe;
}

/* The table of mode 1: at most 2 nibbles a symbol. Returns its size in bytes. */
static size_t
write_table(const uint8_t length[256], uint8_t out[256])
{
    uint8_t nibbles[520];
    int end = 256, symbol = 0, last = 0;
    size_t n = 0, i;
    while (end && !length[end - 1])
        end--;
    while (symbol < end) {
        int own = length[symbol], run = 1;
        while (symbol + run < end && length[symbol + run] == own)
            run++;
        if (!own) {
            if (run == 1)
                nibbles[n++] = 0;
            else if (run <= 17) {
                nibbles[n++] = 13;
                nibbles[n++] = (uint8_t)(run - 2);
            } else {
                nibbles[n++] = 14;
                nibbles[n++] = (uint8_t)((run - 18) >> 4);
                nibbles[n++] = (uint8_t)((run - 18) & 15);
            }
        } else if (own == last && run >= 3) {
            if (run > 18)
                run = 18;
            nibbles[n++] = 15;
            nibbles[n++] = (uint8_t)(run - 3);
        } else {
            nibbles[n++] = (uint8_t)own;
            last = own;
            run = 1;
        }
        symbol += run;
    }
    if (n & 1)
        nibbles[n++] = 0;
    for (i = 0; i < n; i += 2)
        out[i / 2] = (uint8_t)(nibbles[i] << 4 | nibbles[i + 1]);
    return n / 2;
}

/* Returns the size of the table, or 0 if it is not one. */
static size_t
read_table(const uint8_t *data, size_t size, uint8_t length[256])
{
    size_t at = 0;
    int symbol = 0, last = 0;
    int32_t room = 1 << BYTE_LONGEST;
#define NIBBLE(to)                                           \
    do {                                                     \
        if (at >> 1 >= size)                                 \
            return 0;                                        \
        (to) = data[at >> 1] >> (at & 1 ? 0 : 4) & 15;       \
        at++;                                                \
    } while (0)
    memset(length, 0, 256);
    while (room > 0) {
        int kind, run = 1, more;
        NIBBLE(kind);
        if (kind == 13) {
            NIBBLE(more);
            run = 2 + more;
        } else if (kind == 14) {
            NIBBLE(more);
            run = 18 + 16 * more;
            NIBBLE(more);
            run += more;
        } else if (kind == 15) {
            NIBBLE(more);
            run = 3 + more;
        } else if (kind)
            last = kind;
        if (symbol + run > 256 || (kind == 15 && !last))
            return 0;
        if (kind == 15 || (kind && kind <= BYTE_LONGEST)) {
            memset(length + symbol, last, (size_t)run);
            room -= run << (BYTE_LONGEST - last);
        }
        symbol += run;
    }
    if (room < 0)
        return 0;
    if (at & 1) {
        int rest;
        NIBBLE(rest);
        if (rest)
            return 0;
    }
#undef NIBBLE
    return at >> 1;
}

/* No code takes fewer bits than this: n log n - sum of c log c, rounded down by the line
   below the logarithm between two powers of two. */
static uint64_t
least_bits(const uint64_t counts[256], uint64_t n)
{
    uint64_t sum = 0;
    int i;
    if (n >> 40)
        return 0;
    for (i = 0; i < 256; i++) {
        uint64_t ratio, power = 0, c = counts[i];
        if (!c)
            continue;
        ratio = (n << 10) / c;
        while (ratio >> (power + 11))
            power++;
        /* In 1/1024 of a bit: power, and what is above it. */
        sum += (c * ((power << 10) + (((ratio << 10) >> (power + 10)) - 1024)));
        if (sum >> 62)
            return 0;
    }
    return sum >> 10;
}

#endif
