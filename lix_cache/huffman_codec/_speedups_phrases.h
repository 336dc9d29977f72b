/* The code of phrases: mode 2 of HCv2. Python: _dictionary.py, _phrases.py. */

#ifndef LIX_PHRASES_H
#define LIX_PHRASES_H

#include <stdlib.h>

#include "_speedups_bits.h"

#define PHRASE_LONGEST 64
#define PHRASE_CODE 24          /* longest code word */
#define PHRASE_LOOKUP 11
#define PHRASE_BLOCK 16384      /* the parse starts over; part of the format's encoder */
#define LANES 4                 /* positions parsed at the same time */
#define PAD 4                   /* what they look at after the block's end */
#define TEXT_SLACK 64           /* a phrase is copied 64 bytes at a time */

/* A unit of the trie says of a node: no phrase ends here 1 bit at 62 | label 9 bits at 53 | code length
   5 bits at 32 | base 23 bits. The child by byte b is at base + b, if the label there is b; no two
   nodes have the same base. */
#define UNIT_NONE ((uint64_t)1 << 62)
#define UNIT_COST (UNIT_NONE | (uint64_t)31 << COST_SHIFT)
#define LABEL_SHIFT 53
#define LABEL_MASK ((uint64_t)511 << LABEL_SHIFT)
#define BASE_MASK (((uint64_t)1 << 23) - 1)
#define END_OF_BLOCK 256u       /* a label that no unit has */
#define NO_CHILDREN 256u        /* the base of leaves: 257 units that stay free */
#define FIRST_BASE 513u
#define FREE (UNIT_NONE | LABEL_MASK | NO_CHILDREN)

/* A choice at a position, the smaller the better: bits from here to the end of the block | 64 - bytes
   of the phrase, 7 bits | its unit, 25 bits. Where there is no such phrase, a bit above all is set: no
   block costs 2^20 bits. */
#define COST_SHIFT 32
#define SIZE_SHIFT 25
#define PLACE_MASK (((uint64_t)1 << SIZE_SHIFT) - 1)

typedef struct {
    uint32_t count;
    /* to decode: phrases in the order of their code words */
    uint32_t limit[PHRASE_CODE + 1];  /* the first PHRASE_CODE bits of longer code words */
    int32_t offset[PHRASE_CODE + 1];  /* place, minus code word */
    uint8_t shortest[1 << PHRASE_LOOKUP]; /* the shortest code that can begin with these bits */
    uint32_t *entry;                  /* place in the text << 7 | length */
    uint8_t *text;
    uint64_t best_bytes, best_bits;   /* the phrase that says most by bit */
    /* to encode */
    uint64_t *unit;
    uint32_t *word;                   /* of the phrase at a unit: code length << 24 | code word */
} dictionary;

static void
table_free(dictionary *t)
{
    if (t) {
        free(t->entry);
        free(t->text);
        free(t->unit);
        free(t->word);
        free(t);
    }
}

/* Codes by length; returns 0 if the lengths do not make a complete code. */
static int
phrase_codes(dictionary *t, const uint8_t *lengths, uint32_t *rank, uint32_t *code)
{
    uint32_t count[PHRASE_CODE + 2] = {0}, at[PHRASE_CODE + 2], i, next = 0, place = 0, prefix;
    unsigned length;
    for (i = 0; i < t->count; i++) {
        if (!lengths[i] || lengths[i] > PHRASE_CODE)
            return 0;
        count[lengths[i]]++;
    }
    for (length = 1; length <= PHRASE_CODE; length++) {
        next <<= 1;
        at[length] = place;
        t->offset[length] = (int32_t)place - (int32_t)next;
        place += count[length];
        next += count[length];
        if (next > (uint32_t)1 << length)
            return 0;
        t->limit[length] = next << (PHRASE_CODE - length);
    }
    if (next != (uint32_t)1 << PHRASE_CODE)
        return 0;
    for (i = 0; i < t->count; i++) {
        rank[i] = at[lengths[i]]++;
        code[i] = (uint32_t)((int32_t)rank[i] - t->offset[lengths[i]]);
    }
    length = 1;
    for (prefix = 0; prefix < 1u << PHRASE_LOOKUP; prefix++) {
        while (prefix << (PHRASE_CODE - PHRASE_LOOKUP) >= t->limit[length])
            length++;
        t->shortest[prefix] = (uint8_t)length;
    }
    return 1;
}

/* Where 64 bits of a bitmap begin anywhere in it. */
INLINE uint64_t
bits_at(const uint64_t *map, size_t at)
{
    uint64_t low = map[at >> 6] >> (at & 63);
    return at & 63 ? low | map[(at >> 6) + 1] << (64 - (at & 63)) : low;
}

INLINE unsigned
lowest_bit(uint64_t bits)
{
    unsigned n = 0;
#if defined(__GNUC__) || defined(__clang__)
    n = (unsigned)__builtin_ctzll(bits);
#else
    while (!(bits & 1)) {
        bits >>= 1;
        n++;
    }
#endif
    return n;
}

/* The free places of the trie while it is laid out. */
typedef struct {
    uint64_t *taken, *based;
    size_t room;
    size_t hint[4]; /* by number of children, the first block of 64 that is tried */
} places;

/* A base for these children, or 0. */
static size_t
find_base(places *p, const uint8_t *bytes, unsigned children)
{
    /* How far the first block stays behind: what was full is not tried for ever. A unit that stays
       free costs cache, not much; a search, time. */
    static const uint8_t behind[4] = {0, 2, 8, 24};
    unsigned kind = children == 1 ? 0 : children <= 3 ? 1 : children <= 10 ? 2 : 3, i;
    size_t block, base;
    for (block = p->hint[kind];; block++) {
        uint64_t fits;
        if (block * 64 + 64 + 256 + 64 >= p->room || block * 64 + 64 + 256 > BASE_MASK)
            return 0; /* more than half of the units free: no table comes near it */
        fits = ~p->based[block];
        for (i = 0; fits && i < children; i++)
            fits &= ~bits_at(p->taken, block * 64 + bytes[i]);
        if (fits) {
            base = block * 64 + lowest_bit(fits);
            break;
        }
    }
    if (block > p->hint[kind] + behind[kind])
        p->hint[kind] = block - behind[kind];
    p->based[base >> 6] |= (uint64_t)1 << (base & 63);
    return base;
}

/* A node whose children have no place yet: phrases left to right - 1 go through it. */
typedef struct {
    uint32_t left, right, place;
    unsigned depth;
} open_node;

/* Lay the trie of all phrases out as units. It has so many nodes; the phrases stand in ``text`` one
   after the other, the last up to start[count]. */
static int
lay_out(dictionary *t, size_t nodes, const uint8_t *lengths, const uint32_t *code, const uint8_t *text,
        const uint32_t *start)
{
    places p = {NULL, NULL, nodes * 2 + FIRST_BASE + 1024, {0}};
    size_t words = p.room / 64 + 8, top = 0, open = 0, i;
    uint64_t *unit = malloc(p.room * sizeof *unit);
    /* On a path there are 64 nodes at most, each with 255 siblings that wait. */
    open_node *stack = malloc((PHRASE_LONGEST * 255 + 2) * sizeof *stack);
    int done = 0;
    p.taken = calloc(words, 8);
    p.based = calloc(words, 8);
    /* Untouched, the rest of it takes no memory. */
    t->word = calloc(p.room, sizeof *t->word);
    if (!unit || !stack || !p.taken || !p.based || !t->word)
        goto out;
    for (i = 0; i < FIRST_BASE; i++) {
        p.taken[i >> 6] |= (uint64_t)1 << (i & 63);
        p.based[i >> 6] |= (uint64_t)1 << (i & 63);
    }
    for (i = 0; i < 4; i++)
        p.hint[i] = FIRST_BASE / 64;
    for (; top < FIRST_BASE; top++)
        unit[top] = FREE;
    stack[open++] = (open_node){0, t->count, NO_CHILDREN, 0};
    while (open) {
        open_node here = stack[--open];
        uint8_t bytes[256];
        uint32_t from[257], phrase = here.left;
        unsigned children = 0, k;
        size_t base = 0;
        if (here.right - here.left == 1) {
            /* The rest of one phrase, which is most of the nodes. */
            const uint8_t *p_text = text + start[phrase];
            unsigned length = start[phrase + 1] - start[phrase], depth = here.depth;
            size_t at = here.place;
            for (; depth < length; depth++) {
                base = find_base(&p, p_text + depth, 1);
                if (!base)
                    goto out;
                unit[at] ^= NO_CHILDREN ^ base;
                for (; top < base + 257; top++)
                    unit[top] = FREE;
                at = base + p_text[depth];
                p.taken[at >> 6] |= (uint64_t)1 << (at & 63);
                unit[at] = (uint64_t)p_text[depth] << LABEL_SHIFT | UNIT_NONE | NO_CHILDREN;
            }
            unit[at] ^= UNIT_NONE | (uint64_t)lengths[phrase] << COST_SHIFT;
            t->word[at] = (uint32_t)lengths[phrase] << 24 | code[phrase];
            continue;
        }
        /* Phrases are in ascending order: the first of a node is its own, if it has one. */
        for (; phrase < here.right; phrase++) {
            uint8_t byte;
            if (start[phrase + 1] - start[phrase] == here.depth)
                continue;
            byte = text[start[phrase] + here.depth];
            if (!children || byte != bytes[children - 1]) {
                from[children] = phrase;
                bytes[children++] = byte;
            }
        }
        from[children] = here.right;
        if (!children)
            continue;
        if (here.depth) {
            base = find_base(&p, bytes, children);
            if (!base)
                goto out;
            unit[here.place] ^= NO_CHILDREN ^ base;
        }
        for (; top < base + 257; top++)
            unit[top] = FREE;
        for (k = children; k-- > 0;) {
            size_t at = base + bytes[k];
            unsigned length;
            phrase = from[k];
            length = start[phrase + 1] - start[phrase];
            p.taken[at >> 6] |= (uint64_t)1 << (at & 63);
            unit[at] = (uint64_t)bytes[k] << LABEL_SHIFT | NO_CHILDREN;
            if (length == here.depth + 1) {
                unit[at] |= (uint64_t)lengths[phrase] << COST_SHIFT;
                t->word[at] = (uint32_t)lengths[phrase] << 24 | code[phrase];
            } else
                unit[at] |= UNIT_NONE;
            if (from[k + 1] - phrase > 1 || length > here.depth + 1)
                stack[open++] = (open_node){phrase, from[k + 1], (uint32_t)at, here.depth + 1};
        }
    }
    t->unit = unit;
    unit = NULL;
    done = 1;
out:
    free(unit);
    free(stack);
    free(p.taken);
    free(p.based);
    return done;
}

/* Returns NULL with *memory set where there is too little, and with it clear where the bytes are
   not a table; Python says what is wrong with them. */
static dictionary *
table_new(const uint8_t *raw, size_t size, uint32_t count, int *memory)
{
    dictionary *t;
    uint32_t *rank = NULL, *code = NULL, *start = NULL, i, singles = 0, place = 0;
    const uint8_t *lengths, *end, *p = raw;
    uint8_t *text = NULL, *to;
    size_t nodes = 1;
    int good = 0;
    *memory = 0;
    if (count < 256 || count > 65536 || size < count || size > (size_t)1 << 24)
        return NULL;
    lengths = end = raw + size - count;
    t = calloc(1, sizeof *t);
    rank = malloc(count * sizeof *rank);
    code = malloc(count * sizeof *code);
    start = malloc((count + 1) * sizeof *start);
    text = malloc((size_t)count * PHRASE_LONGEST);
    if (t)
        t->entry = malloc(count * sizeof *t->entry);
    if (!t || !rank || !code || !start || !text || !t->entry) {
        *memory = 1;
        goto out;
    }
    t->count = count;
    if (!phrase_codes(t, lengths, rank, code))
        goto out;
    for (i = 0, to = text; i < count; i++) {
        const uint8_t *before = i ? text + start[i - 1] : text;
        size_t shared, length, same, old = (size_t)(to - before);
        start[i] = (uint32_t)(to - text);
        if (end - p < 2)
            goto out;
        shared = p[0];
        length = shared + p[1];
        p += 2;
        if (shared > old || length == 0 || length > PHRASE_LONGEST || (size_t)(end - p) < length - shared)
            goto out;
        memcpy(to, before, shared);
        memcpy(to + shared, p, length - shared);
        p += length - shared;
        /* A file may share less than it could. */
        for (same = shared; same < old && same < length && before[same] == to[same];)
            same++;
        if (i && (same == length || (same < old && before[same] > to[same])))
            goto out; /* not above the one before */
        to += length;
        singles += length == 1;
        nodes += length - same;
        t->entry[rank[i]] = (uint32_t)length;
        if (length * t->best_bits >= lengths[i] * t->best_bytes) {
            t->best_bytes = length;
            t->best_bits = lengths[i];
        }
    }
    start[count] = (uint32_t)(to - text);
    if (p != end || singles != 256)
        goto out;
    t->text = calloc(start[count] + TEXT_SLACK, 1);
    if (!t->text || !lay_out(t, nodes, lengths, code, text, start)) {
        *memory = 1;
        goto out;
    }
    /* To decode, the texts of short code words stand together. */
    for (i = 0; i < count; i++) {
        uint32_t length = t->entry[i];
        t->entry[i] = place << 7 | length;
        place += length;
    }
    for (i = 0; i < count; i++)
        memcpy(t->text + (t->entry[rank[i]] >> 7), text + start[i], start[i + 1] - start[i]);
    good = 1;
out:
    free(rank);
    free(code);
    free(start);
    free(text);
    if (!good) {
        table_free(t);
        return NULL;
    }
    return t;
}

/* ------------------------------------------------------------------ encoding */

typedef struct {
    uint16_t *data;    /* the block, and a label that matches nothing */
    uint64_t *after;   /* of the best parse from each position, the cost; and the bytes to the end of
                          the block, which make the sizes of phrases, as far as it matters here */
    uint32_t *choice;  /* its first phrase: the rest of the choice */
} parse;

static void
parse_free(parse *q)
{
    free(q->data);
    free(q->after);
    free(q->choice);
}

static int
parse_init(parse *q, size_t n)
{
    if (n > PHRASE_BLOCK)
        n = PHRASE_BLOCK;
    q->data = malloc((n + LANES + PAD) * sizeof *q->data);
    q->after = malloc((n + LANES + PAD) * sizeof *q->after);
    q->choice = malloc((n + LANES + PAD) * sizeof *q->choice);
    return q->data && q->after && q->choice;
}

INLINE uint64_t
least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* Go on by a byte. Whether there is such a child is not waited for: from a wrong unit the steps go on
   among other units, and ``wrong``, once it is not zero, stays so. Returns all of the choice but
   the cost of what comes after it and the phrase's size. */
INLINE uint64_t
step(const uint64_t *unit, uint64_t *u, uint64_t byte, uint64_t *wrong)
{
    uint64_t place = (*u & BASE_MASK) + byte;
    *u = unit[place];
    *wrong |= (*u ^ byte << LABEL_SHIFT) & LABEL_MASK;
    return (*u & UNIT_COST) + place + *wrong;
}

/* Fill in the best parse from every position; returns the bits of the whole.

   From the end to the beginning, four positions at a time: their steps through the trie do not
   wait for each other, and there is one branch that cannot be foreseen for four of them. Phrases
   of 1 to 3 bytes may end within the four, so they are looked at when the rest is known. */
static uint64_t
parse_block(const dictionary *t, parse *q, const uint8_t *data, size_t n)
{
    const uint64_t *unit = t->unit;
    uint64_t bits = 0;
    size_t i;
    for (i = 0; i < n; i++)
        q->data[i] = data[i];
    for (; i < n + LANES + PAD; i++) {
        q->data[i] = END_OF_BLOCK;
        q->after[i] = (uint64_t)(n + LANES + PAD - i) << SIZE_SHIFT;
    }
    for (i = n; i > 0;) {
        uint64_t u[LANES], wrong[LANES], one[LANES], two[LANES], three[LANES], best[LANES], alive;
        /* The first of the block may be fewer: the others are looked at again, for nothing. */
        size_t lanes = i < LANES ? i : LANES, k, l;
        const uint16_t *at;
        uint64_t *after;
        i -= lanes;
        at = q->data + i;
        after = q->after + i;
        for (l = 0; l < LANES; l++) {
            u[l] = unit[at[l]]; /* the root's base is 0, and it has all children */
            wrong[l] = 0;
            one[l] = (u[l] & UNIT_COST) + at[l];
            two[l] = step(unit, &u[l], at[l + 1], &wrong[l]);
            three[l] = step(unit, &u[l], at[l + 2], &wrong[l]);
            best[l] = UINT64_MAX;
        }
        for (k = 3;; k++) {
            alive = 0;
            for (l = 0; l < LANES; l++) {
                best[l] = least(best[l], step(unit, &u[l], at[l + k], &wrong[l]) + after[l + k + 1]);
                alive |= wrong[l] - 1;
            }
            if (!(alive >> 63))
                break;
        }
        for (l = lanes; l-- > 0;) {
            uint64_t to_end = (uint64_t)(n + LANES + PAD - i - l) << SIZE_SHIFT;
            best[l] = least(best[l], after[l + 3] + three[l]);
            best[l] = least(best[l], after[l + 2] + two[l]);
            best[l] = least(best[l], after[l + 1] + one[l]);
            /* What is left of both lengths to the end is the phrase's. */
            best[l] += ((uint64_t)PHRASE_LONGEST << SIZE_SHIFT) - to_end;
            bits = best[l] >> COST_SHIFT;
            after[l] = (bits << COST_SHIFT) + to_end;
            q->choice[i + l] = (uint32_t)best[l];
        }
    }
    return bits;
}

static void
write_block(const dictionary *t, const parse *q, size_t n, writer *w)
{
    size_t i = 0;
    while (i < n) {
        uint32_t choice = q->choice[i], word = t->word[choice & PLACE_MASK];
        put(w, word & 0xFFFFFF, word >> 24);
        i += PHRASE_LONGEST - (choice >> SIZE_SHIFT);
        if (i < n) {
            choice = q->choice[i];
            word = t->word[choice & PLACE_MASK];
            put(w, word & 0xFFFFFF, word >> 24);
            i += PHRASE_LONGEST - (choice >> SIZE_SHIFT);
        }
        flush(w);
    }
}

/* ------------------------------------------------------------------ decoding */

typedef enum { DECODED, ENDS_EARLY, REACHES_PAST, REACHES_BACK, LEFT_OVER } outcome;

INLINE uint32_t
read_phrase(const dictionary *t, reader *r)
{
    uint32_t ahead = (uint32_t)(r->window >> (64 - PHRASE_CODE));
    unsigned length = t->shortest[ahead >> (PHRASE_CODE - PHRASE_LOOKUP)];
    /* Seldom: code words are in the order of their lengths, so only where one length ends and
       the next begins do the first bits leave it open. */
    while (UNLIKELY(ahead >= t->limit[length]))
        length++;
    skip(r, length);
    return t->entry[(int32_t)(ahead >> (PHRASE_CODE - length)) + t->offset[length]];
}

/* Decode n bytes. *done is what was decoded before the trouble. */
static outcome
read_phrases(const dictionary *t, const uint8_t *bits, size_t size, uint8_t *out, size_t n, size_t *done)
{
    uint8_t *const first = out, *const end = out + n;
    reader r;
    const uint64_t total = (uint64_t)size * 8;
    reader_init(&r, bits, size);
    while (r.end - r.p >= 8 && end - out >= 2 * PHRASE_LONGEST) {
        int i;
        refill_fast(&r);
        for (i = 0; i < 2; i++) {
            uint32_t entry = read_phrase(t, &r), length = entry & 127;
            const uint8_t *text = t->text + (entry >> 7);
            memcpy(out, text, 16);
            if (UNLIKELY(length > 16))
                memcpy(out + 16, text + 16, PHRASE_LONGEST - 16);
            out += length;
        }
    }
    while (out < end) {
        uint32_t entry, length;
        refill(&r);
        entry = read_phrase(t, &r);
        length = entry & 127;
        if (reader_used(&r) > total) {
            *done = (size_t)(out - first);
            return ENDS_EARLY;
        }
        if (length > (size_t)(end - out))
            return REACHES_PAST;
        if (end - out >= 16 && length <= 16)
            memcpy(out, t->text + (entry >> 7), 16);
        else
            memcpy(out, t->text + (entry >> 7), length);
        out += length;
    }
    return reader_finished(&r) ? DECODED : LEFT_OVER;
}

#endif
