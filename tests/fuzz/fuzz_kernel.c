/* Gives mutated replies to the compiled decoder; see fuzz_kernel.py, which builds it with sanitizers. */

#include "../../trace_dagster/chain/decoding/_kernel.c"

enum { MOST_CHANGES = 5, LONGEST_PIECE = 64, ROOM = 4096 };

typedef struct {
    const uint8_t *reply;
    int64_t size;
    const Shape *const *shapes;
    int32_t shape_count;
    const int32_t *shape_of;
    int64_t calls;
} Seed;

static const char *const PIECES[] = {
    "null", "\"\"", "{}", "[]", "1e5", "-1", "\\u0041", "\\ud800", ",", ":", "[", "{", "}", "]", "\"", "\\", "0x",
    "0xffffffffffffffffff", "18446744073709551616", "true", "false", "\xc3\x28", "\xf4\x90\x80\x80", "\"x\":1,",
    "\"result\":", "\"error\":{\"code\":1},", "\"id\":0,", " \n\t"};

static uint64_t state;

static uint64_t draw(uint64_t below) { /* xorshift64* */
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    return below ? (state * 0x2545f4914f6cdd1dULL >> 16) % below : 0;
}

static int64_t replace(uint8_t *text, int64_t size, int64_t at, int64_t cut, const void *piece, int64_t length) {
    uint8_t held[LONGEST_PIECE]; /* the piece may be a part of the text */
    memcpy(held, piece, (size_t)length);
    memmove(text + at + length, text + at + cut, (size_t)(size - at - cut));
    memcpy(text + at, held, (size_t)length);
    return size - cut + length;
}

/* Change a text that has ROOM bytes more than `size`; return its new size. */
static int64_t mutate(uint8_t *text, int64_t size, const Seed *other) {
    for (uint64_t left = 1 + draw(MOST_CHANGES); left && size; left--) {
        int64_t at = (int64_t)draw((uint64_t)size), rest = size - at;
        int64_t some = 1 + (int64_t)draw((uint64_t)(rest < LONGEST_PIECE ? rest : LONGEST_PIECE));
        if (some > rest) some = rest;
        const char *piece = PIECES[draw(sizeof PIECES / sizeof *PIECES)];
        int64_t from = (int64_t)draw((uint64_t)(other->size - LONGEST_PIECE));
        switch (draw(8)) {
            case 0: text[at] = (uint8_t)draw(256); break;
            case 1: text[at] ^= (uint8_t)(1u << draw(8)); break;
            case 2: text[at] = (uint8_t)"\"\\{}[],:0x19afnt -+.eE\0\xff"[draw(24)]; break;
            case 3: size = replace(text, size, at, some, "", 0); break;
            case 4: size = replace(text, size, at, 0, text + at, some); break;
            case 5: size = replace(text, size, at, 0, piece, (int64_t)strlen(piece)); break;
            case 6: size = replace(text, size, at, some, other->reply + from, 1 + (int64_t)draw(LONGEST_PIECE)); break;
            default: if (draw(4) == 0) size = at; /* cut off, as connections are */
        }
    }
    return size;
}

/* Read everything that Arrow would; the sanitizer watches. Returns -1 where columns contradict themselves. */
static int64_t read_all(const Filled *filled) {
    int64_t sum = 0;
    for (int32_t at = 0; at < filled->column_count; at++) {
        const Column *one = &filled->columns[at];
        int64_t nulls = 0;
        for (int64_t row = 0; row < one->count; row++) {
            nulls += !is_valid(one->valid, row);
            if (one->form == BITS) sum += one->data[row >> 3] >> (row & 7) & 1;
            if (one->form == BYTES || one->form == LISTS) {
                if (one->offsets[row] < 0 || one->offsets[row + 1] < one->offsets[row]) return -1;
                if (one->form == BYTES && one->offsets[row + 1] > one->size) return -1;
            }
        }
        if (nulls != one->nulls) return -1;
        if (one->form == FIXED && one->size != 8 * one->count) return -1;
        if (one->form == FIXED || one->form == BYTES)
            for (int64_t byte = 0; byte < one->size; byte++) sum += one->data[byte];
    }
    return sum & INT32_MAX;
}

/* Decode so many mutated replies; return how many were taken, or -1 where the kernel contradicts itself. */
EXPORT int64_t fuzz(const Seed *seeds, int64_t count, int64_t executions, uint64_t start) {
    state = start | 1;
    int64_t taken = 0;
    for (int64_t done = 0; done < executions; done++) {
        const Seed *seed = &seeds[draw((uint64_t)count)], *other = &seeds[draw((uint64_t)count)];
        uint8_t *text = malloc((size_t)seed->size + ROOM);
        memcpy(text, seed->reply, (size_t)seed->size);
        int64_t size = mutate(text, seed->size, other);
        uint8_t *exact = malloc((size_t)size + !size); /* its end is the end of what may be read */
        memcpy(exact, text, (size_t)size);
        free(text);
#ifdef READ_TOO_FAR /* to see that this is found */
        size += 8;
#endif
        Filled *filled = trace_decode(exact, size, seed->shapes, seed->shape_count, seed->shape_of, seed->calls);
        if (filled != NULL) {
            taken++;
            for (int32_t shape = 0; shape < seed->shape_count; shape++)
                if (read_all(&filled[shape]) < 0) return -1;
            trace_free(filled, seed->shape_count);
        }
        free(exact);
    }
    return taken;
}
