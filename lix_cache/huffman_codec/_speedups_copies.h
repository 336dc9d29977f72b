/* Phrases and copies: mode 3 of HCv2. Python: _copies.py. */

#ifndef LIX_COPIES_H
#define LIX_COPIES_H

#include "_speedups_phrases.h"

#define COPY_FLAG 6u             /* 110 */
#define COPY_SHORTEST 3
#define COPY_LONGEST 1022
#define COPY_FARTHEST 65535
#define COPY_TRIES 64
#define COPY_LONG_ENOUGH 128
#define COPY_EVERY_LENGTH 32
#define MOST_BYTES_A_BYTE 512
/* So many positions are in the index of earlier places at most; then the window alone stays. */
#define INDEX_POSITIONS (4 * 65536)
#define NOWHERE UINT32_MAX

static const uint8_t class_bits[16] = {3, 2, 2, 3, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 13};
static const uint16_t class_word[16] = {4,     0,      1,      5,      6,       0xE,     0x1E,    0x3E,
                                        0x7E,  0xFE,   0x1FE,  0x3FE,  0x7FE,   0xFFE,   0x1FFE,  0x1FFF};

/* The number of binary digits. */
INLINE unsigned
digits_of(uint64_t value)
{
#if defined(__GNUC__) || defined(__clang__)
    return value ? 64u - (unsigned)__builtin_clzll(value) : 0;
#else
    unsigned n = 0;
    while (value) {
        value >>= 1;
        n++;
    }
    return n;
#endif
}

INLINE unsigned
farthest_digits(size_t at)
{
    return digits_of(at < COPY_FARTHEST ? at : COPY_FARTHEST);
}

/* A length + 1 of 3 digits and more: its digits less 3 as ones and, but for the last class, a zero;
   then the digits but the first. */
INLINE unsigned
length_bits(unsigned length)
{
    unsigned digits = digits_of(length + 1u);
    return digits - 3 + (digits < 10) + digits - 1;
}

/* ------------------------------------------------------------------ whether there is much to copy */

#define REPEATS_REACH 16384
#define PLACE_FACTOR 0x9E3779B97F4A7C15u
#define PLACE_BITS 14

/* At how many places the next eight bytes stood before; less those whose room another place took. */
static size_t
repeats_in(const uint8_t *data, size_t n)
{
    uint16_t room[1 << PLACE_BITS] = {0};
    size_t at, repeats = 0;
    if (n > REPEATS_REACH)
        n = REPEATS_REACH;
    /* Room that is free says 0, and so does that of the first place: no other has its bytes and not its room. */
    for (at = 1; at + 8 <= n; at++) {
        uint64_t eight = load_be64(data + at);
        uint16_t *slot = room + (eight * PLACE_FACTOR >> (64 - PLACE_BITS));
        repeats += load_be64(data + *slot) == eight;
        *slot = (uint16_t)at;
    }
    return repeats;
}

/* ------------------------------------------------------------------ where three bytes stood before */

/* ``before`` of a position, both counted from ``base``, is the last one before it with the same three
   bytes. ``key`` and ``last`` are a table of all three bytes that were met. */
typedef struct {
    uint32_t *key, *last, *before;
    unsigned shift;
    size_t base, end, room;
} earlier_places;

static void
places_free(earlier_places *e)
{
    free(e->key);
    free(e->last);
    free(e->before);
}

static int
places_init(earlier_places *e, size_t n)
{
    unsigned bits = 4;
    e->room = n < INDEX_POSITIONS ? n : INDEX_POSITIONS;
    while ((size_t)1 << bits < 2 * e->room)
        bits++;
    e->shift = 32 - bits;
    e->base = e->end = 0;
    e->key = calloc((size_t)1 << bits, sizeof *e->key);
    e->last = malloc(((size_t)1 << bits) * sizeof *e->last);
    e->before = malloc((e->room + 1) * sizeof *e->before);
    return e->key && e->last && e->before;
}

/* Have every position of the block that ends at ``stop`` in the index, and the window before it. */
static void
places_fill(earlier_places *e, const uint8_t *data, size_t n, size_t from, size_t stop)
{
    size_t i;
    if (stop - e->base > e->room) {
        e->base = e->end = from > COPY_FARTHEST ? from - COPY_FARTHEST : 0;
        memset(e->key, 0, ((size_t)1 << (32 - e->shift)) * sizeof *e->key);
    }
    for (i = e->end; i < stop; i++) {
        uint32_t three, slot;
        if (n - i < 3) {
            e->before[i - e->base] = NOWHERE;
            continue;
        }
        /* Never 0, which is a free slot. */
        three = (uint32_t)data[i] << 16 | (uint32_t)data[i + 1] << 8 | data[i + 2] | 1u << 24;
        slot = three * 0x9E3779B1u >> e->shift;
        while (e->key[slot] && e->key[slot] != three)
            slot = (slot + 1) & ((1u << (32 - e->shift)) - 1);
        e->before[i - e->base] = e->key[slot] ? e->last[slot] : NOWHERE;
        e->key[slot] = three;
        e->last[slot] = (uint32_t)(i - e->base);
    }
    e->end = stop;
}

/* ------------------------------------------------------------------ encoding */

/* A choice: a phrase's unit; or COPY, distance, length. */
#define COPY_CHOICE ((uint32_t)1 << 31)

typedef struct {
    uint32_t *bits;    /* from each position to the end of the block */
    uint32_t *choice;
    uint8_t *size;     /* of a phrase */
    uint16_t *length;  /* of a copy */
    earlier_places earlier;
} copy_parse;

static void
copy_parse_free(copy_parse *q)
{
    free(q->bits);
    free(q->choice);
    free(q->size);
    free(q->length);
    places_free(&q->earlier);
}

static int
copy_parse_init(copy_parse *q, size_t n)
{
    size_t block = n < PHRASE_BLOCK ? n : PHRASE_BLOCK;
    q->bits = malloc((block + 1) * sizeof *q->bits);
    q->choice = malloc((block + 1) * sizeof *q->choice);
    q->size = malloc(block + 1);
    q->length = malloc((block + 1) * sizeof *q->length);
    return places_init(&q->earlier, n) && q->bits && q->choice && q->size && q->length;
}

/* For how many bytes two places agree. */
INLINE size_t
agree(const uint8_t *a, const uint8_t *b, size_t room)
{
    size_t m = 0;
    while (m + 8 <= room) {
        uint64_t difference = load_be64(a + m) ^ load_be64(b + m);
        if (difference)
            return m + (64 - digits_of(difference)) / 8;
        m += 8;
    }
    while (m < room && a[m] == b[m])
        m++;
    return m;
}

/* Whether mode 3 puts a 1 before a code word. */
INLINE uint32_t
flagged(uint32_t word)
{
    unsigned length = word >> 24;
    return length > 1 && (word & 0xFFFFFF) >> (length - 2) == 3;
}

/* Fill in what is best at every position of the block data[from:stop]; returns the bits of the whole. */
static uint64_t
parse_copies(const dictionary *t, copy_parse *q, const uint8_t *data, size_t n, size_t from, size_t stop)
{
    size_t i;
    places_fill(&q->earlier, data, n, from, stop);
    q->bits[stop - from] = 0;
    for (i = stop; i-- > from;) {
        uint32_t *after = q->bits + (i - from), best = UINT32_MAX, choice = 0;
        const uint32_t *before = q->earlier.before;
        uint64_t u = t->unit[data[i]];
        size_t place = data[i], room = stop - i, k, reached = COPY_SHORTEST - 1;
        size_t source = before[i - q->earlier.base];
        unsigned tries = COPY_TRIES, far = farthest_digits(i);
        uint8_t size = 0;
        uint16_t length = 0;
        for (k = 1;; k++) {
            if (!(u & UNIT_NONE)) {
                uint32_t total = (uint32_t)(u >> COST_SHIFT & 31) + flagged(t->word[place]) + after[k];
                /* Of equal ones the longest. */
                if (total <= best) {
                    best = total;
                    choice = (uint32_t)place;
                    size = (uint8_t)k;
                }
            }
            if (k == room)
                break;
            place = (size_t)(u & BASE_MASK) + data[i + k];
            u = t->unit[place];
            if ((u & LABEL_MASK) != (uint64_t)data[i + k] << LABEL_SHIFT)
                break;
        }
        if (room > COPY_LONGEST)
            room = COPY_LONGEST;
        while (source != NOWHERE && tries-- && reached < room && reached < COPY_LONG_ENOUGH) {
            const uint8_t *a = data + q->earlier.base + source, *b = data + i;
            size_t distance = (size_t)(b - a);
            if (distance > COPY_FARTHEST)
                break;
            if (a[reached] == b[reached]) {
                size_t m = agree(a, b, room), every = m < COPY_EVERY_LENGTH ? m : COPY_EVERY_LENGTH;
                unsigned digits = digits_of(distance);
                uint32_t price = 3 + class_bits[far - digits] + digits - 1;
                for (k = reached < every ? reached + 1 : reached < m ? m : m + 1; k <= m;
                     k = k < every ? k + 1 : k < m ? m : m + 1) {
                    uint32_t total = price + length_bits((unsigned)k) + after[k];
                    if (total < best) {
                        best = total;
                        choice = COPY_CHOICE | (uint32_t)distance;
                        length = (uint16_t)k;
                    }
                }
                if (m > reached)
                    reached = m;
            }
            source = before[source];
        }
        after[0] = best;
        q->choice[i - from] = choice;
        q->size[i - from] = size;
        q->length[i - from] = length;
    }
    return q->bits[0];
}

static void
write_copies(const dictionary *t, const copy_parse *q, size_t from, size_t stop, writer *w)
{
    size_t i = from;
    while (i < stop) {
        uint32_t choice = q->choice[i - from];
        if (choice & COPY_CHOICE) {
            uint32_t distance = choice & 0xFFFF, length = q->length[i - from];
            unsigned digits = digits_of(length + 1u), kind;
            /* Ones, a zero but in the last class, and the digits of the length but the first. */
            put(w, COPY_FLAG, 3);
            if (digits < 10)
                put(w, ((uint64_t)1 << (digits - 2)) - 2, digits - 2);
            else
                put(w, 127, 7);
            put(w, (length + 1u) & ((1u << (digits - 1)) - 1), digits - 1);
            digits = digits_of(distance);
            kind = farthest_digits(i) - digits;
            put(w, class_word[kind], class_bits[kind]);
            put(w, distance & ((1u << (digits - 1)) - 1), digits - 1);
            i += length;
        } else {
            uint32_t word = t->word[choice], extra = flagged(word);
            put(w, (word & 0xFFFFFF) | (uint64_t)extra << (word >> 24), (word >> 24) + extra);
            i += q->size[i - from];
        }
        flush(w);
    }
}

/* ------------------------------------------------------------------ decoding */

/* One copy, whose bits are all in the window; *distance is 0 where there is none such. */
INLINE unsigned
read_copy(reader *r, size_t done, size_t *distance)
{
    unsigned ones, length, digits, kind;
    uint64_t top;
    skip(r, 3);
    top = ~r->window >> 57;
    ones = top ? 7 - digits_of(top) : 7;
    skip(r, ones < 7 ? ones + 1 : 7);
    length = (unsigned)(r->window >> (62 - ones) | (uint64_t)1 << (ones + 2)) - 1;
    skip(r, ones + 2);
    top = r->window >> 61;
    if (top == 7) {
        top = (~r->window << 3) >> 54;
        ones = top ? 10 - digits_of(top) : 10;
        kind = 5 + ones;
    } else
        kind = top < 2 ? 1 : top < 4 ? 2 : top == 4 ? 0 : (unsigned)top - 2;
    skip(r, class_bits[kind]);
    digits = farthest_digits(done);
    if (digits <= kind) {
        *distance = 0;
        return length;
    }
    digits -= kind;
    *distance = (size_t)1 << (digits - 1);
    if (digits > 1) {
        *distance |= (size_t)(r->window >> (65 - digits));
        skip(r, digits - 1);
    }
    return length;
}

INLINE void
copy_bytes(uint8_t *out, size_t distance, size_t length)
{
    const uint8_t *from = out - distance;
    /* What it reads may be what it has just written. */
    while (length--)
        *out++ = *from++;
}

/* Decode n bytes. *done is what was decoded before the trouble. */
static outcome
read_copies(const dictionary *t, const uint8_t *bits, size_t size, uint8_t *out, size_t n, size_t *done)
{
    uint8_t *const first = out, *const end = out + n;
    const uint64_t total = (uint64_t)size * 8;
    reader r;
    reader_init(&r, bits, size);
    while (r.end - r.p >= 8 && end - out >= PHRASE_LONGEST + COPY_LONGEST) {
        refill_fast(&r);
        if (r.window >> 61 == COPY_FLAG) {
            size_t distance;
            unsigned length = read_copy(&r, (size_t)(out - first), &distance);
            if (!distance || distance > (size_t)(out - first))
                return REACHES_BACK;
            if (distance >= 16) {
                const uint8_t *from = out - distance;
                unsigned i;
                for (i = 0; i < length; i += 16)
                    memcpy(out + i, from + i, 16);
            } else
                copy_bytes(out, distance, length);
            out += length;
        } else {
            uint32_t entry, length;
            const uint8_t *text;
            if (r.window >> 61 == 7)
                skip(&r, 1);
            entry = read_phrase(t, &r);
            length = entry & 127;
            text = t->text + (entry >> 7);
            memcpy(out, text, 16);
            if (UNLIKELY(length > 16))
                memcpy(out + 16, text + 16, PHRASE_LONGEST - 16);
            out += length;
        }
    }
    while (out < end) {
        size_t distance = 1, length;
        uint32_t entry = 0;
        int copy;
        refill(&r);
        copy = r.window >> 61 == COPY_FLAG;
        if (copy)
            length = read_copy(&r, (size_t)(out - first), &distance);
        else {
            if (r.window >> 61 == 7)
                skip(&r, 1);
            entry = read_phrase(t, &r);
            length = entry & 127;
        }
        if (reader_used(&r) > total) {
            *done = (size_t)(out - first);
            return ENDS_EARLY;
        }
        if (copy && (!distance || distance > (size_t)(out - first)))
            return REACHES_BACK;
        if (length > (size_t)(end - out))
            return REACHES_PAST;
        if (copy)
            copy_bytes(out, distance, length);
        else
            memcpy(out, t->text + (entry >> 7), length);
        out += length;
    }
    return reader_finished(&r) ? DECODED : LEFT_OVER;
}

#endif
