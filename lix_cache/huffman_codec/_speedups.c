/* What touches every byte, in C. The Python code beside it is the specification, gives the same
   bytes and the same errors, and is used where this file could not be compiled.

   _native.py, _table.py   encode_v1, decode_v1               _speedups_bytes.h
   _bytecode.py            encode_bytecode, decode_bytecode   _speedups_bytes.h
   _phrases.py             encode_phrases, decode_phrases     _speedups_phrases.h
   _copies.py              encode_copies, decode_copies       _speedups_copies.h
   _copies.py              count_repeats                      _speedups_copies.h
   _dictionary.py        compile_table                      _speedups_phrases.h

   Where a header, a table or a number is wrong, a function returns None, and the Python function
   is asked, which says what is wrong before it decodes anything. */

#define PY_SSIZE_T_CLEAN
#ifndef Py_GIL_DISABLED
#define Py_LIMITED_API 0x030A0000
#endif
#include <Python.h>

#include "_speedups_bits.h"
#include "_speedups_bytes.h"
#include "_speedups_copies.h"
#include "_speedups_phrases.h"

/* From here on other threads run meanwhile; below, changing threads takes longer than the work. */
#define RELEASE_FROM 32768
/* Looking for phrases and copies takes so many times as long a byte as the rest does. */
#define SLOWNESS 16
#define CAPSULE "lix_cache.huffman_codec._speedups.table"

#define MAYBE_RELEASE(size)                                                           \
    PyThreadState *released = (size) >= RELEASE_FROM ? PyEval_SaveThread() : NULL
#define MAYBE_ACQUIRE()                    \
    do {                                   \
        if (released)                      \
            PyEval_RestoreThread(released); \
    } while (0)

static PyObject *
codec_error(const char *format, ...)
{
    PyObject *module = PyImport_ImportModule("lix_cache.errors"), *type, *text;
    va_list arguments;
    if (!module)
        return NULL;
    type = PyObject_GetAttrString(module, "CodecError");
    Py_DECREF(module);
    if (!type)
        return NULL;
    va_start(arguments, format);
    text = PyUnicode_FromFormatV(format, arguments);
    va_end(arguments);
    if (text) {
        PyErr_SetObject(type, text);
        Py_DECREF(text);
    }
    Py_DECREF(type);
    return NULL;
}

/* The bytes of a bytes object, which is what the Python code passes. */
static int
get_bytes(PyObject *object, const uint8_t **data, size_t *size)
{
    char *start;
    Py_ssize_t length;
    if (PyBytes_AsStringAndSize(object, &start, &length) < 0)
        return -1;
    *data = (const uint8_t *)start;
    *size = (size_t)length;
    return 0;
}

static int
check_count(Py_ssize_t given, Py_ssize_t wanted)
{
    if (given == wanted)
        return 0;
    PyErr_Format(PyExc_TypeError, "%zd arguments expected, got %zd", wanted, given);
    return -1;
}

static uint32_t
load_le32(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static void
store_le32(uint8_t *p, uint32_t value)
{
    p[0] = (uint8_t)value;
    p[1] = (uint8_t)(value >> 8);
    p[2] = (uint8_t)(value >> 16);
    p[3] = (uint8_t)(value >> 24);
}

/* ------------------------------------------------------------------ HCv1 */

static PyObject *
encode_v1(PyObject *Py_UNUSED(module), PyObject *argument)
{
    const uint8_t *data;
    size_t size, head, body, i;
    uint64_t counts[256] = {0}, bits;
    uint8_t present[256], *out;
    byte_code code;
    PyObject *result;
    if (get_bytes(argument, &data, &size) < 0)
        return NULL;
    if (size == 0)
        return PyBytes_FromStringAndSize("HCv1\0\0\0\0\0\0", 10);
    if ((uint64_t)size > 0xFFFFFFFFu)
        return codec_error("HCv1 can hold 4294967295 bytes, got %zd", (Py_ssize_t)size);
    {
        MAYBE_RELEASE(size);
        count_bytes(data, size, counts);
        for (i = 0; i < 256; i++)
            present[i] = counts[i] > 0;
        make_code(&code, counts, present, 255);
        MAYBE_ACQUIRE();
    }
    bits = bits_of(&code, counts);
    head = 14 + 2 * (size_t)code.symbols;
    body = (size_t)((bits + 7) / 8);
    result = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(head + body));
    if (!result)
        return NULL;
    out = (uint8_t *)PyBytes_AsString(result);
    memcpy(out, "HCv1", 4);
    store_le32(out + 4, (uint32_t)size);
    out[8] = (uint8_t)code.symbols;
    out[9] = (uint8_t)(code.symbols >> 8);
    for (i = 0; i < (size_t)code.symbols; i++) {
        out[10 + 2 * i] = code.order[i];
        out[11 + 2 * i] = code.length[code.order[i]];
    }
    store_le32(out + head - 4, (uint32_t)(-bits & 7));
    {
        MAYBE_RELEASE(size);
        write_symbols(&code, data, size, out + head, body);
        MAYBE_ACQUIRE();
    }
    return result;
}

/* The table of a stream; 0 if it is not one, or one whose codes are too long for this file. */
static int
read_v1_table(const uint8_t *pairs, int symbols, byte_code *code)
{
    uint64_t kraft = 0;
    int i, before = -1;
    memset(code->length, 0, sizeof code->length);
    for (i = 0; i < symbols; i++) {
        int symbol = pairs[2 * i], length = pairs[2 * i + 1];
        if (!length || length > V1_LONGEST || code->length[symbol] || (length << 8 | symbol) <= before)
            return 0;
        before = length << 8 | symbol;
        code->length[symbol] = (uint8_t)length;
        /* At most 256 times 2^55. */
        kraft += (uint64_t)1 << (V1_LONGEST - length);
        if (kraft > (uint64_t)1 << V1_LONGEST)
            return 0;
    }
    if (symbols > 1 && kraft != (uint64_t)1 << V1_LONGEST)
        return 0;
    assign_codes(code);
    return 1;
}

static PyObject *
decode_v1(PyObject *Py_UNUSED(module), PyObject *argument)
{
    const uint8_t *data, *body;
    size_t size, wanted, take, got, start;
    uint64_t total, used;
    unsigned symbols, padding;
    int bad;
    byte_code code;
    byte_decoder decoder;
    reader r;
    PyObject *result;
    if (get_bytes(argument, &data, &size) < 0)
        return NULL;
    if (size < 14 || memcmp(data, "HCv1", 4) != 0)
        Py_RETURN_NONE;
    wanted = load_le32(data + 4);
    symbols = (unsigned)data[8] | (unsigned)data[9] << 8;
    start = 14 + 2 * (size_t)symbols;
    if (!wanted || !symbols || symbols > 256 || size < start)
        Py_RETURN_NONE;
    if (!read_v1_table(data + 10, (int)symbols, &code))
        Py_RETURN_NONE;
    padding = data[start - 4];
    body = data + start;
    total = (uint64_t)(size - start) * 8;
    if (load_le32(data + start - 4) > 7 || padding > total)
        Py_RETURN_NONE;
    /* No code word is shorter than a bit: checked before anything is allocated. */
    take = wanted <= total ? wanted : (size_t)total;
    if (wanted > total && symbols > 1)
        /* A complete code: every bit means something, so this is all that is wrong. */
        return codec_error("not a valid HCv1 stream: the declared length is more than its bits can hold");
    result = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)take);
    if (!result)
        return NULL;
    {
        uint8_t *out = (uint8_t *)PyBytes_AsString(result);
        MAYBE_RELEASE(take);
        make_decoder(&decoder, &code, take);
        reader_init(&r, body, size - start);
        got = read_symbols(&decoder, &r, out, take, &bad);
        used = reader_used(&r);
        MAYBE_ACQUIRE();
    }
    if (!bad && got == wanted && used == total - padding && (!padding || !(data[size - 1] & ((1u << padding) - 1))))
        return result;
    Py_DECREF(result);
    if (bad)
        return codec_error("not a valid HCv1 stream: no code word at bit %llu", (unsigned long long)used);
    if (wanted > total)
        return codec_error("not a valid HCv1 stream: the declared length is more than its bits can hold");
    if (got < wanted)
        return codec_error("not a valid HCv1 stream: %zd of %zd bytes are there", (Py_ssize_t)got,
                           (Py_ssize_t)wanted);
    if (used != total - padding)
        return codec_error("not a valid HCv1 stream: its code words take %llu bits, not %llu",
                           (unsigned long long)used, (unsigned long long)(total - padding));
    return codec_error("not a valid HCv1 stream: padding bits are not zero");
}

/* ------------------------------------------------------------------ mode 1 */

static size_t
varint_size(size_t value)
{
    size_t size = 1;
    while (value > 0x7F) {
        value >>= 7;
        size++;
    }
    return size;
}

static uint8_t *
write_varint(uint8_t *out, size_t value)
{
    while (value > 0x7F) {
        *out++ = (uint8_t)(value | 0x80);
        value >>= 7;
    }
    *out++ = (uint8_t)value;
    return out;
}

static PyObject *
encode_bytecode(PyObject *Py_UNUSED(module), PyObject *const *arguments, Py_ssize_t given)
{
    const uint8_t *data;
    size_t size, limit, parts, quarter, table_size, total, i, part;
    size_t part_size[4], part_bytes[4];
    uint64_t counts[4][256], all[256];
    uint8_t present[256], table[260], *out;
    byte_code code;
    int symbols = 0;
    PyObject *result;
    if (check_count(given, 2) < 0 || get_bytes(arguments[0], &data, &size) < 0)
        return NULL;
    limit = PyLong_AsSize_t(arguments[1]);
    if (limit == (size_t)-1 && PyErr_Occurred())
        return NULL;
    if (!size)
        Py_RETURN_NONE;
    parts = size < FOUR_STREAMS_FROM ? 1 : 4;
    quarter = parts == 1 ? size : (size + 3) / 4;
    {
        MAYBE_RELEASE(size);
        memset(counts, 0, sizeof counts);
        for (part = 0; part < parts; part++) {
            part_size[part] = part + 1 < parts ? quarter : size - part * quarter;
            count_bytes(data + part * quarter, part_size[part], counts[part]);
        }
        for (i = 0; i < 256; i++) {
            all[i] = counts[0][i] + counts[1][i] + counts[2][i] + counts[3][i];
            present[i] = all[i] > 0;
            symbols += present[i];
        }
        MAYBE_ACQUIRE();
    }
    if (least_bits(all, size) / 8 >= limit)
        Py_RETURN_NONE;
    if (symbols == 1)
        present[data[0] ^ 1] = 1;
    make_code(&code, all, present, BYTE_LONGEST);
    table_size = write_table(code.length, table);
    total = table_size;
    for (part = 0; part < parts; part++) {
        part_bytes[part] = (size_t)((bits_of(&code, counts[part]) + 7) / 8);
        total += part_bytes[part] + (part + 1 < parts ? varint_size(part_bytes[part]) : 0);
    }
    if (total >= limit)
        Py_RETURN_NONE;
    result = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)total);
    if (!result)
        return NULL;
    out = (uint8_t *)PyBytes_AsString(result);
    memcpy(out, table, table_size);
    out += table_size;
    for (part = 0; part + 1 < parts; part++)
        out = write_varint(out, part_bytes[part]);
    {
        MAYBE_RELEASE(size);
        for (part = 0; part < parts; part++) {
            write_symbols(&code, data + part * quarter, part_size[part], out, part_bytes[part]);
            out += part_bytes[part];
        }
        MAYBE_ACQUIRE();
    }
    return result;
}

/* Returns the size of the number, or 0 if it is not one. */
static size_t
read_varint(const uint8_t *data, size_t size, uint64_t *value)
{
    size_t i;
    *value = 0;
    for (i = 0; i < size && i < 9; i++) {
        *value |= (uint64_t)(data[i] & 0x7F) << (7 * i);
        if (data[i] < 0x80)
            return data[i] || !i ? i + 1 : 0;
    }
    return 0;
}

static PyObject *
decode_bytecode(PyObject *Py_UNUSED(module), PyObject *const *arguments, Py_ssize_t given)
{
    const uint8_t *data;
    uint8_t *out[4], *end[4];
    size_t size, n, parts, quarter, at, part, failed = 0;
    Py_ssize_t wanted;
    reader r[4];
    byte_code code;
    byte_decoder decoder;
    uint64_t part_bytes[4], left;
    PyObject *result;
    if (check_count(given, 2) < 0 || get_bytes(arguments[0], &data, &size) < 0)
        return NULL;
    wanted = PyLong_AsSsize_t(arguments[1]);
    if (wanted == -1 && PyErr_Occurred())
        return NULL;
    n = (size_t)wanted;
    if (wanted < 0 || n / 8 > size || n > 8 * (uint64_t)size)
        Py_RETURN_NONE;
    at = read_table(data, size, code.length);
    if (!at)
        Py_RETURN_NONE;
    parts = n < FOUR_STREAMS_FROM ? 1 : 4;
    quarter = parts == 1 ? n : (n + 3) / 4;
    for (part = 0; part + 1 < parts; part++) {
        size_t taken = read_varint(data + at, size - at, &part_bytes[part]);
        if (!taken)
            Py_RETURN_NONE;
        at += taken;
    }
    left = size - at;
    for (part = 0; part + 1 < parts; part++) {
        if (part_bytes[part] > left)
            Py_RETURN_NONE;
        left -= part_bytes[part];
    }
    part_bytes[parts - 1] = left;
    assign_codes(&code);
    result = PyBytes_FromStringAndSize(NULL, wanted);
    if (!result)
        return NULL;
    {
        uint8_t *start = (uint8_t *)PyBytes_AsString(result);
        MAYBE_RELEASE(n);
        make_decoder(&decoder, &code, n);
        for (part = 0; part < parts; part++) {
            reader_init(&r[part], data + at, (size_t)part_bytes[part]);
            at += (size_t)part_bytes[part];
            out[part] = start + part * quarter;
            end[part] = part + 1 < parts ? out[part] + quarter : start + n;
        }
        if (parts == 4)
            read_four(&decoder, r, out, end);
        for (part = 0; part < parts && !failed; part++) {
            size_t rest = (size_t)(end[part] - out[part]);
            int bad;
            if (read_symbols(&decoder, &r[part], out[part], rest, &bad) != rest || bad || !reader_finished(&r[part]))
                failed = part + 1;
        }
        MAYBE_ACQUIRE();
    }
    if (!failed)
        return result;
    Py_DECREF(result);
    part = failed - 1;
    n = part + 1 < parts ? quarter : n - part * quarter;
    return codec_error("not a valid HCv2 stream: part %zd of %zd is not code words of %zd bytes",
                       (Py_ssize_t)failed, (Py_ssize_t)parts, (Py_ssize_t)n);
}

/* ------------------------------------------------------------------ mode 2 */

static void
free_capsule(PyObject *capsule)
{
    table_free(PyCapsule_GetPointer(capsule, CAPSULE));
}

static PyObject *
compile_table(PyObject *Py_UNUSED(module), PyObject *const *arguments, Py_ssize_t given)
{
    const uint8_t *raw;
    size_t size, count;
    int memory;
    dictionary *table;
    PyObject *capsule;
    if (check_count(given, 2) < 0 || get_bytes(arguments[0], &raw, &size) < 0)
        return NULL;
    count = PyLong_AsSize_t(arguments[1]);
    if (count == (size_t)-1 && PyErr_Occurred())
        return NULL;
    if (count > 65536)
        Py_RETURN_NONE;
    table = table_new(raw, size, (uint32_t)count, &memory);
    if (!table) {
        if (memory)
            return PyErr_NoMemory();
        Py_RETURN_NONE;
    }
    capsule = PyCapsule_New(table, CAPSULE, free_capsule);
    if (!capsule)
        table_free(table);
    return capsule;
}

/* A dictionary and bytes: what all four below begin with. */
static int
get_table_and_bytes(PyObject *const *arguments, Py_ssize_t given, Py_ssize_t wanted, const dictionary **table,
                    const uint8_t **data, size_t *size)
{
    if (check_count(given, wanted) < 0)
        return -1;
    *table = PyCapsule_GetPointer(arguments[0], CAPSULE);
    return *table ? get_bytes(arguments[1], data, size) : -1;
}

/* Bits that are written block by block. */
typedef struct {
    uint8_t *buffer;
    size_t room;
    uint64_t bits; /* of all blocks up to the one that is written next */
    writer w;
} output;

static void
output_init(output *o)
{
    o->buffer = NULL;
    o->room = 0;
    o->bits = 0;
    writer_init(&o->w, NULL, 0);
}

/* Returns 0 where there is no memory. */
static int
output_reserve(output *o, int is_last)
{
    size_t used = o->buffer ? (size_t)(o->w.p - o->buffer) : 0, need = (size_t)(o->bits / 8) + 16;
    uint8_t *larger;
    if (need <= o->room)
        return 1;
    o->room = is_last ? need : need + need / 2;
    larger = realloc(o->buffer, o->room);
    if (!larger)
        return 0;
    o->buffer = larger;
    o->w.p = larger + used;
    o->w.end = larger + o->room;
    return 1;
}

static const char *
output_bytes(const output *o)
{
    return o->buffer ? (const char *)o->buffer : "";
}

static Py_ssize_t
output_size(const output *o)
{
    return (Py_ssize_t)((o->bits + 7) / 8);
}

static PyObject *
encode_phrases(PyObject *Py_UNUSED(module), PyObject *const *arguments, Py_ssize_t given)
{
    const dictionary *table;
    const uint8_t *data;
    size_t size, at = 0;
    parse q;
    output o;
    int is_whole = 1;
    PyObject *result = NULL;
    if (get_table_and_bytes(arguments, given, 2, &table, &data, &size) < 0)
        return NULL;
    if (!parse_init(&q, size)) {
        parse_free(&q);
        return PyErr_NoMemory();
    }
    output_init(&o);
    {
        MAYBE_RELEASE(SLOWNESS * size);
        while (at < size && is_whole) {
            size_t n = size - at < PHRASE_BLOCK ? size - at : PHRASE_BLOCK;
            o.bits += parse_block(table, &q, data + at, n);
            is_whole = output_reserve(&o, at + n == size);
            if (is_whole)
                write_block(table, &q, n, &o.w);
            at += n;
        }
        if (is_whole)
            writer_finish(&o.w);
        MAYBE_ACQUIRE();
    }
    if (is_whole)
        result = Py_BuildValue("y#K", output_bytes(&o), output_size(&o), (unsigned long long)o.bits);
    else
        PyErr_NoMemory();
    parse_free(&q);
    free(o.buffer);
    return result;
}

/* What was decoded, or the error that says why not. */
static PyObject *
decoded_or_error(PyObject *result, outcome how, size_t done, Py_ssize_t wanted)
{
    if (how == DECODED)
        return result;
    Py_DECREF(result);
    if (how == ENDS_EARLY)
        return codec_error("not a valid HCv2 stream: its phrases end after %zd of %zd bytes", (Py_ssize_t)done,
                           wanted);
    if (how == REACHES_PAST)
        return codec_error("not a valid HCv2 stream: a phrase reaches past the declared length");
    if (how == REACHES_BACK)
        return codec_error("not a valid HCv2 stream: a copy of what is before the beginning");
    return codec_error("not a valid HCv2 stream: bits are left over after its phrases");
}

/* Whether so many bits may hold so many bytes, and what reads them. */
typedef int fitting(const dictionary *table, size_t size, Py_ssize_t wanted);
typedef outcome reading(const dictionary *table, const uint8_t *bits, size_t size, uint8_t *out, size_t n,
                        size_t *done);

static PyObject *
decode_with(PyObject *const *arguments, Py_ssize_t given, fitting *fits, reading *read)
{
    const dictionary *table;
    const uint8_t *bits;
    size_t size, done = 0;
    Py_ssize_t wanted;
    outcome how;
    PyObject *result;
    if (get_table_and_bytes(arguments, given, 3, &table, &bits, &size) < 0)
        return NULL;
    wanted = PyLong_AsSsize_t(arguments[2]);
    if (wanted == -1 && PyErr_Occurred())
        return NULL;
    if (wanted < 0 || !fits(table, size, wanted))
        return codec_error("not a valid HCv2 stream: the declared length is more than its bits can hold");
    result = PyBytes_FromStringAndSize(NULL, wanted);
    if (!result)
        return NULL;
    {
        uint8_t *out = (uint8_t *)PyBytes_AsString(result);
        MAYBE_RELEASE(wanted);
        how = read(table, bits, size, out, (size_t)wanted, &done);
        MAYBE_ACQUIRE();
    }
    return decoded_or_error(result, how, done, wanted);
}

static int
phrases_fit(const dictionary *table, size_t size, Py_ssize_t wanted)
{
    /* A size in memory times 8 times 64 does not overflow 64 bits; what was asked for may. */
    return (uint64_t)wanted <= UINT64_MAX / PHRASE_CODE &&
           (uint64_t)wanted * table->best_bits <= (uint64_t)size * 8 * table->best_bytes;
}

static PyObject *
decode_phrases(PyObject *Py_UNUSED(module), PyObject *const *arguments, Py_ssize_t given)
{
    return decode_with(arguments, given, phrases_fit, read_phrases);
}

/* ------------------------------------------------------------------ mode 3 */

static PyObject *
encode_copies(PyObject *Py_UNUSED(module), PyObject *const *arguments, Py_ssize_t given)
{
    const dictionary *table;
    const uint8_t *data;
    size_t size, at = 0;
    copy_parse q;
    output o;
    int is_whole = 1;
    PyObject *result = NULL;
    if (get_table_and_bytes(arguments, given, 2, &table, &data, &size) < 0)
        return NULL;
    if (!copy_parse_init(&q, size)) {
        copy_parse_free(&q);
        return PyErr_NoMemory();
    }
    output_init(&o);
    {
        MAYBE_RELEASE(SLOWNESS * size);
        while (at < size && is_whole) {
            size_t stop = size - at < PHRASE_BLOCK ? size : at + PHRASE_BLOCK;
            o.bits += parse_copies(table, &q, data, size, at, stop);
            is_whole = output_reserve(&o, stop == size);
            if (is_whole)
                write_copies(table, &q, at, stop, &o.w);
            at = stop;
        }
        if (is_whole)
            writer_finish(&o.w);
        MAYBE_ACQUIRE();
    }
    if (is_whole)
        result = PyBytes_FromStringAndSize(output_bytes(&o), output_size(&o));
    else
        PyErr_NoMemory();
    copy_parse_free(&q);
    free(o.buffer);
    return result;
}

static PyObject *
count_repeats(PyObject *Py_UNUSED(module), PyObject *argument)
{
    const uint8_t *data;
    size_t size;
    if (get_bytes(argument, &data, &size) < 0)
        return NULL;
    return PyLong_FromSize_t(repeats_in(data, size));
}

static int
copies_fit(const dictionary *Py_UNUSED(table), size_t size, Py_ssize_t wanted)
{
    return (uint64_t)wanted <= (uint64_t)size * MOST_BYTES_A_BYTE;
}

static PyObject *
decode_copies(PyObject *Py_UNUSED(module), PyObject *const *arguments, Py_ssize_t given)
{
    return decode_with(arguments, given, copies_fit, read_copies);
}

static PyMethodDef methods[] = {
    {"encode_v1", encode_v1, METH_O, NULL},
    {"decode_v1", decode_v1, METH_O, NULL},
    {"encode_bytecode", (PyCFunction)(void (*)(void))encode_bytecode, METH_FASTCALL, NULL},
    {"decode_bytecode", (PyCFunction)(void (*)(void))decode_bytecode, METH_FASTCALL, NULL},
    {"compile_table", (PyCFunction)(void (*)(void))compile_table, METH_FASTCALL, NULL},
    {"encode_phrases", (PyCFunction)(void (*)(void))encode_phrases, METH_FASTCALL, NULL},
    {"decode_phrases", (PyCFunction)(void (*)(void))decode_phrases, METH_FASTCALL, NULL},
    {"encode_copies", (PyCFunction)(void (*)(void))encode_copies, METH_FASTCALL, NULL},
    {"decode_copies", (PyCFunction)(void (*)(void))decode_copies, METH_FASTCALL, NULL},
    {"count_repeats", count_repeats, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot slots[] = {
#if !defined(Py_LIMITED_API) && PY_VERSION_HEX >= 0x030D0000
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

static struct PyModuleDef definition = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "_speedups",
    .m_doc = "The Huffman codec's inner loops.",
    .m_methods = methods,
    .m_slots = slots,
};

PyMODINIT_FUNC
PyInit__speedups(void)
{
    return PyModuleDef_Init(&definition);
}
