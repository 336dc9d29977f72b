/* Bits, most significant first: reading, writing, and what a file of C needs for it. */

#ifndef LIX_BITS_H
#define LIX_BITS_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__GNUC__) || defined(__clang__)
#define LIKELY(x) __builtin_expect(!!(x), 1)
#define UNLIKELY(x) __builtin_expect(!!(x), 0)
#define INLINE static inline __attribute__((always_inline))
#else
#define LIKELY(x) (x)
#define UNLIKELY(x) (x)
#define INLINE static inline
#endif

/* Compilers know these two for the single instruction that they are. */
INLINE uint64_t
load_be64(const uint8_t *p)
{
    return (uint64_t)p[0] << 56 | (uint64_t)p[1] << 48 | (uint64_t)p[2] << 40 | (uint64_t)p[3] << 32 |
           (uint64_t)p[4] << 24 | (uint64_t)p[5] << 16 | (uint64_t)p[6] << 8 | (uint64_t)p[7];
}

INLINE void
store_be64(uint8_t *p, uint64_t value)
{
    p[0] = (uint8_t)(value >> 56);
    p[1] = (uint8_t)(value >> 48);
    p[2] = (uint8_t)(value >> 40);
    p[3] = (uint8_t)(value >> 32);
    p[4] = (uint8_t)(value >> 24);
    p[5] = (uint8_t)(value >> 16);
    p[6] = (uint8_t)(value >> 8);
    p[7] = (uint8_t)value;
}

/* The next bits stand at the top of the window; ``held`` of them are there. After the end
   of the input zeros follow; ``used`` says afterwards whether any of them was taken. */
typedef struct {
    const uint8_t *start, *p, *end;
    uint64_t window;
    unsigned held;
    uint64_t beyond; /* bits of zeros that were added after the end */
} reader;

INLINE void
reader_init(reader *r, const uint8_t *p, size_t size)
{
    r->start = r->p = p;
    r->end = p + size;
    r->window = 0;
    r->held = 0;
    r->beyond = 0;
}

/* Fill up to at least 56 bits; at least 8 bytes must be left. */
INLINE void
refill_fast(reader *r)
{
    r->window |= load_be64(r->p) >> r->held;
    r->p += (63 - r->held) >> 3;
    r->held |= 56;
}

/* The same anywhere. */
INLINE void
refill(reader *r)
{
    if (LIKELY(r->end - r->p >= 8)) {
        refill_fast(r);
        return;
    }
    /* The fast way leaves a part of the next byte below the bits that count. */
    r->window &= r->held ? ~(uint64_t)0 << (64 - r->held) : 0;
    while (r->held <= 56) {
        if (r->p < r->end)
            r->window |= (uint64_t)*r->p++ << (56 - r->held);
        else
            r->beyond += 8;
        r->held += 8;
    }
}

INLINE void
skip(reader *r, unsigned bits)
{
    r->window <<= bits;
    r->held -= bits;
}

INLINE uint64_t
reader_used(const reader *r)
{
    return (uint64_t)(r->p - r->start) * 8 + r->beyond - r->held;
}

/* Say whether all but less than a byte was used, and that rest is zero. */
static int
reader_finished(const reader *r)
{
    uint64_t total = (uint64_t)(r->end - r->start) * 8, used = reader_used(r);
    unsigned left;
    if (used > total || total - used >= 8)
        return 0;
    left = (unsigned)(total - used);
    return left == 0 || (r->end[-1] & ((1u << left) - 1)) == 0;
}

/* Bits wait at the bottom of ``bits``; whole bytes leave when there is time. */
typedef struct {
    uint8_t *p, *end;
    uint64_t bits;
    unsigned held;
} writer;

INLINE void
writer_init(writer *w, uint8_t *p, size_t size)
{
    w->p = p;
    w->end = p + size;
    w->bits = 0;
    w->held = 0;
}

/* At most 57 bits between two flushes. */
INLINE void
put(writer *w, uint64_t word, unsigned length)
{
    w->bits = w->bits << length | word;
    w->held += length;
}

INLINE void
flush(writer *w)
{
    uint64_t top;
    if (w->held < 8)
        return;
    top = w->bits << (64 - w->held);
    if (LIKELY(w->end - w->p >= 8)) {
        store_be64(w->p, top);
        w->p += w->held >> 3;
        w->held &= 7;
        return;
    }
    while (w->held >= 8 && w->p < w->end) {
        *w->p++ = (uint8_t)(top >> 56);
        top <<= 8;
        w->held -= 8;
    }
}

/* Fill the last byte with zeros. */
static void
writer_finish(writer *w)
{
    flush(w);
    if (w->held && w->p < w->end)
        *w->p++ = (uint8_t)(w->bits << (8 - w->held));
    w->held = 0;
}

#endif
