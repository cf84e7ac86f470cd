/* Reads JSON-RPC replies into Arrow buffers, as tables of keys and columns that Python passes say.
 *
 * It takes the usual only, and declines everything else: escapes and bytes above 127 in strings, errors, nulls in place of
 * results, repeated keys, numbers and hex that do not fit, JSON that is not well-formed. Whatever it declines is
 * read by pure.py, the authority on results and messages; what it takes must come out the same.
 *
 * Every read is checked against the end of the reply, every allocation against its failure. No Python API: it is loaded
 * with ctypes, which lets go of the interpreter's lock.
 */
#include <math.h>
#if defined(__linux__)
#include <malloc.h>
#endif
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#if defined(_WIN32)
#define EXPORT __declspec(dllexport)
#else
#define EXPORT __attribute__((visibility("default")))
#endif

#define MAX_DEPTH 64
#define MAX_DIGITS 4000
#define MAX_UNKNOWN 64

enum { DONE = 0, DECLINED = 1 };
enum { QUANTITY, WORD, AMOUNT, DATA, FLAG, TEXT, TOPICS };
enum { FIELD, GROUP, LEAVES, ROWS, IGNORED };

/* One key of an object. A group's own keys are a table of their own. */
typedef struct {
    const char *name;
    int32_t length;
    int32_t action;
    int32_t kind;     /* FIELD, LEAVES */
    int32_t column;   /* first column that it fills */
    int32_t size;     /* exact bytes of DATA, or -1 */
    int32_t required;
    int32_t layout;   /* ROWS: of the items; GROUP: its table */
    int32_t bare;     /* ROWS: key of the items' table that an item which is no object stands for, or -1;
                         LEAVES: the items' column */
} Key;

typedef struct {
    const Key *keys;
    int32_t count;
    int32_t keeps_extra;
    int32_t first_column; /* a layout's columns; none of a group's table */
    int32_t columns;
    int32_t first_key;    /* the keys of the tables before it, and one more for each */
    int32_t owner;        /* the table whose rows this one fills: itself, or of a group the one around it */
} Table;

/* What a column holds: fixed 8 bytes, bits, bytes with offsets, or only offsets (lists). */
enum { FIXED, BITS, BYTES, LISTS };

typedef struct {
    int64_t form;
    int64_t count, nulls;
    uint8_t *valid;       /* bits; NULL while all are */
    int64_t valid_room;   /* bytes */
    int64_t *offsets;     /* count + 1, BYTES and LISTS */
    int64_t offsets_room; /* bytes */
    uint8_t *data;
    int64_t size, room;   /* bytes; of FIXED 8 a value */
} Column;

typedef struct {
    int64_t table, row;
    int64_t key, key_length, value, value_length; /* places in the reply */
} Extra;

typedef struct {
    const Table *tables;
    int32_t table_count;
    int32_t is_list;
    int32_t column_count;
    int32_t key_count;    /* of all tables, and one more for each */
    const int32_t *forms;
} Shape;

typedef struct {
    Column *columns;
    int32_t column_count;
    int32_t table_count;
    int64_t *rows;        /* of each table; of a group's, one more than the row that had it last */
    int32_t *last;        /* of each table: the key found last, counted from 1; 0 at the start of an object */
    int32_t *follows;     /* of each table, from first_key on: which key came after each one the last time */
    int64_t *list_ends;   /* of the results, where the shape is a list */
    int64_t *calls;       /* which call each result answers */
    int64_t results;
    Extra *extras;
    int64_t extra_count, extra_room;
} Filled;

typedef struct {
    const uint8_t *begin, *at, *end;
    int32_t depth;
} Reader;

/* ---------------------------------------------------------------- columns */

static int grow(void **memory, int64_t *room, int64_t needed) {
    if (needed <= *room) return DONE;
    int64_t wanted = *room < 256 ? 256 : *room;
    while (wanted < needed) wanted *= 2;
    void *grown = realloc(*memory, (size_t)wanted);
    if (grown == NULL) return DECLINED;
    *memory = grown;
    *room = wanted;
    return DONE;
}

/* Clear the bits from one place to before another. */
static void clear(uint8_t *bits, int64_t from, int64_t to) {
    if (from & 7)
        bits[from >> 3] &= (uint8_t)((1u << (from & 7)) - 1);
    else
        bits[from >> 3] = 0;
    memset(bits + (from >> 3) + 1, 0, (size_t)((to >> 3) - (from >> 3)));
}

/* Add nulls until there are so many values. Columns are filled up only when a value comes, or at the end: most keys
 * of most layouts never do. */
static int pad(Column *column, int64_t count) {
    int64_t old = column->count;
    if (count <= old) return DONE;
    int is_first = column->valid == NULL;
    if (grow((void **)&column->valid, &column->valid_room, (count >> 3) + 1)) return DECLINED;
    if (is_first) memset(column->valid, 0xff, (size_t)((old >> 3) + 1));
    clear(column->valid, old, count);
    if (column->form == FIXED) {
        if (grow((void **)&column->data, &column->room, count * 8)) return DECLINED;
        memset(column->data + old * 8, 0, (size_t)(count - old) * 8);
        column->size = count * 8;
    } else if (column->form == BITS) {
        if (grow((void **)&column->data, &column->room, (count >> 3) + 1)) return DECLINED;
        clear(column->data, old, count);
    } else {
        if (grow((void **)&column->offsets, &column->offsets_room, (count + 1) * 8)) return DECLINED;
        if (old == 0) column->offsets[0] = 0;
        for (int64_t at = old; at < count; at++) column->offsets[at + 1] = column->size;
    }
    column->nulls += count - old;
    column->count = count;
    return DONE;
}

/* Count one value more, whose data is there. */
static int mark(Column *column) {
    int64_t at = column->count++;
    if (column->valid != NULL) {
        if (grow((void **)&column->valid, &column->valid_room, (at >> 3) + 1)) return DECLINED;
        if ((at & 7) == 0) column->valid[at >> 3] = 0;
        column->valid[at >> 3] |= (uint8_t)(1u << (at & 7));
    }
    if (column->form == BYTES || column->form == LISTS) {
        if (grow((void **)&column->offsets, &column->offsets_room, (at + 2) * 8)) return DECLINED;
        if (at == 0) column->offsets[0] = 0;
        column->offsets[at + 1] = column->size;
    }
    return DONE;
}

static int add_fixed(Column *column, uint64_t value) {
    if (grow((void **)&column->data, &column->room, column->size + 8)) return DECLINED;
    memcpy(column->data + column->size, &value, 8);
    column->size += 8;
    return mark(column);
}

static int add_bit(Column *column, int value) {
    int64_t at = column->count;
    if (grow((void **)&column->data, &column->room, (at >> 3) + 1)) return DECLINED;
    if ((at & 7) == 0) column->data[at >> 3] = 0;
    if (value) column->data[at >> 3] |= (uint8_t)(1u << (at & 7));
    return mark(column);
}

static int add_bytes(Column *column, const uint8_t *bytes, int64_t size) {
    if (grow((void **)&column->data, &column->room, column->size + size)) return DECLINED;
    if (size) memcpy(column->data + column->size, bytes, (size_t)size);
    column->size += size;
    return mark(column);
}

/* ---------------------------------------------------------------- JSON */

static void skip_space(Reader *in) {
    while (in->at < in->end && (*in->at == ' ' || *in->at == '\n' || *in->at == '\r' || *in->at == '\t')) in->at++;
}

static int take(Reader *in, uint8_t wanted) {
    skip_space(in);
    if (in->at >= in->end || *in->at != wanted) return DECLINED;
    in->at++;
    return DONE;
}

/* The next character that is no space, or 0 at the end. */
static uint8_t peek(Reader *in) {
    skip_space(in);
    return in->at < in->end ? *in->at : 0;
}

static int take_word(Reader *in, const char *word, int length) {
    if (in->end - in->at < length || memcmp(in->at, word, (size_t)length)) return DECLINED;
    in->at += length;
    return DONE;
}

/* A string of printable ASCII without escapes, and what is between its quotes. */
static int take_string(Reader *in, const uint8_t **text, int64_t *length) {
    if (take(in, '"')) return DECLINED;
    const uint8_t *begin = in->at, *at = in->at;
    while (at < in->end && *at != '"') {
        if (*at < 0x20 || *at >= 0x80 || *at == '\\') return DECLINED;
        at++;
    }
    if (at >= in->end) return DECLINED;
    *text = begin;
    *length = at - begin;
    in->at = at + 1;
    return DONE;
}

static int is_digit(uint8_t character) { return character >= '0' && character <= '9'; }

static int skip_number(Reader *in) {
    const uint8_t *begin = in->at;
    if (in->at < in->end && *in->at == '-') in->at++;
    if (in->at >= in->end || !is_digit(*in->at)) return DECLINED;
    if (*in->at == '0') {
        in->at++;
    } else {
        while (in->at < in->end && is_digit(*in->at)) in->at++;
    }
    if (in->at < in->end && *in->at == '.') {
        in->at++;
        if (in->at >= in->end || !is_digit(*in->at)) return DECLINED;
        while (in->at < in->end && is_digit(*in->at)) in->at++;
    }
    if (in->at < in->end && (*in->at == 'e' || *in->at == 'E')) {
        in->at++;
        if (in->at < in->end && (*in->at == '+' || *in->at == '-')) in->at++;
        if (in->at >= in->end || !is_digit(*in->at)) return DECLINED;
        while (in->at < in->end && is_digit(*in->at)) in->at++;
    }
    return in->at - begin > MAX_DIGITS ? DECLINED : DONE;
}

static int skip_value(Reader *in) {
    const uint8_t *text;
    int64_t length;
    int status = DECLINED;
    switch (peek(in)) {
    case '"':
        return take_string(in, &text, &length);
    case 't':
        return take_word(in, "true", 4);
    case 'f':
        return take_word(in, "false", 5);
    case 'n':
        return take_word(in, "null", 4);
    case '{':
        if (++in->depth > MAX_DEPTH) return DECLINED;
        in->at++;
        if (peek(in) == '}') {
            in->at++;
            status = DONE;
        } else {
            for (;;) {
                if (take_string(in, &text, &length) || take(in, ':') || skip_value(in)) return DECLINED;
                uint8_t next = peek(in);
                if (next != ',' && next != '}') return DECLINED;
                in->at++;
                if (next == '}') break;
            }
            status = DONE;
        }
        in->depth--;
        return status;
    case '[':
        if (++in->depth > MAX_DEPTH) return DECLINED;
        in->at++;
        if (peek(in) == ']') {
            in->at++;
            status = DONE;
        } else {
            for (;;) {
                if (skip_value(in)) return DECLINED;
                uint8_t next = peek(in);
                if (next != ',' && next != ']') return DECLINED;
                in->at++;
                if (next == ']') break;
            }
            status = DONE;
        }
        in->depth--;
        return status;
    default:
        return skip_number(in);
    }
}

/* ---------------------------------------------------------------- values */

static const int8_t NIBBLES[256] = {
    ['0'] = 1, ['1'] = 2, ['2'] = 3, ['3'] = 4, ['4'] = 5, ['5'] = 6, ['6'] = 7, ['7'] = 8, ['8'] = 9, ['9'] = 10,
    ['a'] = 11, ['b'] = 12, ['c'] = 13, ['d'] = 14, ['e'] = 15, ['f'] = 16,
    ['A'] = 11, ['B'] = 12, ['C'] = 13, ['D'] = 14, ['E'] = 15, ['F'] = 16};

/* The value of a hex digit, or -1. */
static int nibble(uint8_t character) { return NIBBLES[character] - 1; }

/* Write size bytes of 2 * size hex digits. */
static int read_hex(const uint8_t *digits, int64_t size, uint8_t *bytes) {
    int64_t at = 0;
#if defined(__SSE2__)
    const __m128i zero_digit = _mm_set1_epi8('0'), letter = _mm_set1_epi8('a'), case_bit = _mm_set1_epi8(0x20);
    const __m128i nine = _mm_set1_epi8(9), five = _mm_set1_epi8(5), ten = _mm_set1_epi8(10);
    const __m128i low = _mm_set1_epi16(0x00ff), high_nibble = _mm_set1_epi16(0x00f0);
    for (; at + 8 <= size; at += 8) {
        __m128i text = _mm_loadu_si128((const __m128i *)(digits + 2 * at));
        __m128i digit = _mm_sub_epi8(text, zero_digit);
        __m128i is_decimal = _mm_cmpeq_epi8(_mm_min_epu8(digit, nine), digit);
        __m128i place = _mm_sub_epi8(_mm_or_si128(text, case_bit), letter);
        __m128i is_letter = _mm_cmpeq_epi8(_mm_min_epu8(place, five), place);
        if (_mm_movemask_epi8(_mm_or_si128(is_decimal, is_letter)) != 0xffff) return DECLINED;
        __m128i value = _mm_or_si128(
            _mm_and_si128(is_decimal, digit), _mm_and_si128(is_letter, _mm_add_epi8(place, ten)));
        __m128i first = _mm_and_si128(_mm_slli_epi16(value, 4), high_nibble);
        __m128i both = _mm_and_si128(_mm_or_si128(first, _mm_srli_epi16(value, 8)), low);
        _mm_storel_epi64((__m128i *)(bytes + at), _mm_packus_epi16(both, both));
    }
#endif
    for (; at < size; at++) {
        int first = nibble(digits[2 * at]), second = nibble(digits[2 * at + 1]);
        if (first < 0 || second < 0) return DECLINED;
        bytes[at] = (uint8_t)(first << 4 | second);
    }
    return DONE;
}

/* The text between the quotes of a string that begins with 0x, without that. */
static int take_hex(Reader *in, const uint8_t **digits, int64_t *length) {
    if (take(in, '"') || take_word(in, "0x", 2)) return DECLINED;
    const uint8_t *quote = memchr(in->at, '"', (size_t)(in->end - in->at));
    if (quote == NULL) return DECLINED;
    *digits = in->at;
    *length = quote - in->at;
    in->at = quote + 1;
    return DONE;
}

static int add_data(Reader *in, Column *column, int32_t size) {
    const uint8_t *digits;
    int64_t length;
    if (take_hex(in, &digits, &length) || (length & 1) || (size >= 0 && length != 2 * (int64_t)size)) return DECLINED;
    int64_t bytes = length / 2;
    if (grow((void **)&column->data, &column->room, column->size + bytes)) return DECLINED;
    if (read_hex(digits, bytes, column->data + column->size)) return DECLINED;
    column->size += bytes;
    return mark(column);
}

/* Four words of a number of up to 64 hex digits, the most significant first. */
static int read_word(Reader *in, uint64_t words[4]) {
    memset(words, 0, 32);
    if (peek(in) != '"') { /* a JSON number */
        uint64_t value = 0;
        const uint8_t *begin = in->at;
        while (in->at < in->end && is_digit(*in->at)) {
            if (in->at - begin >= 19) return DECLINED;
            value = value * 10 + (uint64_t)(*in->at++ - '0');
        }
        int64_t digits = in->at - begin;
        if (digits == 0 || (digits > 1 && *begin == '0')) return DECLINED;
        if (in->at < in->end && (*in->at == '.' || *in->at == 'e' || *in->at == 'E')) return DECLINED;
        words[3] = value;
        return DONE;
    }
    const uint8_t *digits;
    int64_t length;
    if (take_hex(in, &digits, &length)) return DECLINED;
    while (length > 0 && *digits == '0') {
        digits++;
        length--;
    }
    if (length > 64) return DECLINED;
    for (int64_t at = 0; at < length; at++) {
        int value = nibble(digits[at]);
        if (value < 0) return DECLINED;
        int64_t place = length - 1 - at;
        words[3 - place / 16] |= (uint64_t)value << (4 * (place % 16));
    }
    return DONE;
}

static void big_endian(const uint64_t words[4], uint8_t bytes[32]) {
    for (int at = 0; at < 32; at++) bytes[at] = (uint8_t)(words[at / 8] >> (8 * (7 - at % 8)));
}

static int64_t decimal(const uint64_t given[4], uint8_t text[80]) {
    uint64_t words[4];
    memcpy(words, given, 32);
    int64_t at = 80;
    do {
        uint64_t rest = 0; /* long division by 10^9, in halves of words */
        for (int word = 0; word < 4; word++) {
            uint64_t high = (rest << 32) | (words[word] >> 32);
            uint64_t high_digit = high / 1000000000u;
            rest = high % 1000000000u;
            uint64_t low = (rest << 32) | (words[word] & 0xffffffffu);
            words[word] = high_digit << 32 | low / 1000000000u;
            rest = low % 1000000000u;
        }
        int more = (words[0] | words[1] | words[2] | words[3]) != 0;
        for (int digit = 0; digit < 9 && (more || rest || (digit == 0 && at == 80)); digit++) {
            text[--at] = (uint8_t)('0' + rest % 10);
            rest /= 10;
        }
        if (!more) break;
    } while (1);
    memmove(text, text + at, (size_t)(80 - at));
    return 80 - at;
}

static double rounded(const uint64_t words[4]) {
    int first = 0;
    while (first < 3 && words[first] == 0) first++;
    if (first == 3) return (double)words[3];
    int shift = 0;
    while (!(words[first] << shift >> 63)) shift++;
    uint64_t top = words[first] << shift, below = words[first + 1];
    uint64_t lost = 0;
    if (shift) {
        top |= below >> (64 - shift);
        lost = below << shift;
    } else {
        lost = below;
    }
    for (int word = first + 2; word < 4; word++) lost |= words[word];
    return ldexp((double)(top | (lost != 0)), 64 * (3 - first) - shift);
}

static int take_null(Reader *in) {
    if (peek(in) != 'n') return DECLINED;
    return take_word(in, "null", 4);
}

static int note(Filled *filled, const Reader *in, int32_t table_number, int64_t row, const uint8_t *key,
                int64_t key_length, const uint8_t *value) {
    if (grow((void **)&filled->extras, &filled->extra_room, (filled->extra_count + 1) * (int64_t)sizeof(Extra)))
        return DECLINED;
    Extra *extra = &filled->extras[filled->extra_count++];
    extra->table = table_number;
    extra->row = row;
    extra->key = key - in->begin;
    extra->key_length = key_length;
    extra->value = value - in->begin;
    extra->value_length = in->at - value;
    return DONE;
}

/* A quantity of up to 16 digits, as nearly all are; otherwise nothing is read. */
static int read_short(Reader *in, uint64_t *value) {
    const uint8_t *at = in->at, *end = in->end;
    if (end - at < 21 || at[0] != '"' || at[1] != '0' || at[2] != 'x') return DECLINED;
    uint64_t found = 0;
    at += 3;
    for (int digits = 0; digits < 17; digits++) {
        if (*at == '"') {
            in->at = at + 1;
            *value = found;
            return DONE;
        }
        int digit = nibble(*at++);
        if (digit < 0 || digits == 16) return DECLINED;
        found = found << 4 | (uint64_t)digit;
    }
    return DECLINED;
}

/* Add a value to a column, or to the several that its kind has, of which there are rows values. */
static int add_value(Reader *in, Column *columns, int32_t kind, int32_t size, int64_t rows, int *overflows) {
    uint64_t words[4];
    uint8_t bytes[80];
    const uint8_t *text;
    int64_t length;
    switch (kind) {
    case QUANTITY:
        if (pad(columns, rows)) return DECLINED;
        if (!read_short(in, &words[3])) return add_fixed(columns, words[3]);
        if (read_word(in, words)) return DECLINED;
        if (words[0] | words[1] | words[2]) {
            *overflows = 1;
            return pad(columns, rows + 1);
        }
        return add_fixed(columns, words[3]);
    case WORD:
        if (pad(columns, rows) || read_word(in, words)) return DECLINED;
        big_endian(words, bytes);
        return add_bytes(columns, bytes, 32);
    case AMOUNT:
        if (pad(columns, rows) || pad(columns + 1, rows) || pad(columns + 2, rows)) return DECLINED;
        if (read_word(in, words)) return DECLINED;
        big_endian(words, bytes);
        if (add_bytes(columns, bytes, 32)) return DECLINED;
        length = decimal(words, bytes);
        if (add_bytes(columns + 1, bytes, length)) return DECLINED;
        double value = rounded(words);
        uint64_t raw;
        memcpy(&raw, &value, 8);
        return add_fixed(columns + 2, raw);
    case DATA:
        return pad(columns, rows) ? DECLINED : add_data(in, columns, size);
    case FLAG:
        if (pad(columns, rows)) return DECLINED;
        if (peek(in) == 't') return take_word(in, "true", 4) ? DECLINED : add_bit(columns, 1);
        if (peek(in) == 'f') return take_word(in, "false", 5) ? DECLINED : add_bit(columns, 0);
        if (read_word(in, words) || words[0] | words[1] | words[2] || words[3] > 1) return DECLINED;
        return add_bit(columns, (int)words[3]);
    case TEXT:
        if (pad(columns, rows) || take_string(in, &text, &length)) return DECLINED;
        return add_bytes(columns, text, length);
    default: /* TOPICS */
        if (take(in, '[')) return DECLINED;
        int given = 0;
        if (peek(in) == ']') {
            in->at++;
        } else {
            for (;;) {
                if (given == 4 || pad(columns + given, rows) || add_data(in, columns + given, 32)) return DECLINED;
                given++;
                uint8_t next = peek(in);
                if (next != ',' && next != ']') return DECLINED;
                in->at++;
                if (next == ']') break;
            }
        }
        return pad(columns, rows + 1); /* no topics: seen nevertheless */
    }
}

static int read_object(Reader *in, const Shape *shape, Filled *filled, int32_t table_number);

static int end_row(const Shape *shape, Filled *filled, int32_t table_number) {
    const Table *table = &shape->tables[table_number];
    int64_t row = filled->rows[table_number]++;
    for (int32_t at = 0; at < table->count && table->keys[at].action != IGNORED; at++) {
        const Key *key = &table->keys[at];
        if (key->required && filled->columns[key->column].count == row) return DECLINED;
    }
    return DONE;
}

static int read_row(Reader *in, const Shape *shape, Filled *filled, int32_t table_number) {
    if (read_object(in, shape, filled, table_number)) return DECLINED;
    return end_row(shape, filled, table_number);
}

static int read_items(Reader *in, const Shape *shape, Filled *filled, const Key *key, int64_t row) {
    Column *list = &filled->columns[key->column];
    if (pad(list, row) || take(in, '[')) return DECLINED;
    if (++in->depth > MAX_DEPTH) return DECLINED;
    int64_t count = 0;
    int overflows = 0;
    if (peek(in) == ']') {
        in->at++;
    } else {
        for (;;) {
            if (key->action == LEAVES) {
                Column *items = &filled->columns[key->bare];
                if (add_value(in, items, key->kind, key->size, items->count, &overflows) || overflows) return DECLINED;
            } else if (peek(in) == '{') {
                if (read_row(in, shape, filled, key->layout)) return DECLINED;
            } else {
                if (key->bare < 0) return DECLINED;
                const Key *bare = &shape->tables[key->layout].keys[key->bare];
                if (peek(in) != '"') return DECLINED;
                Column *column = &filled->columns[bare->column];
                int64_t rows = filled->rows[key->layout];
                if (add_value(in, column, bare->kind, bare->size, rows, &overflows) || overflows) return DECLINED;
                if (end_row(shape, filled, key->layout)) return DECLINED;
            }
            count++;
            uint8_t next = peek(in);
            if (next != ',' && next != ']') return DECLINED;
            in->at++;
            if (next == ']') break;
        }
    }
    in->depth--;
    list->size += count;
    return mark(list);
}

/* One known key's value, into the row that is begun. */
static int read_member(Reader *in, const Shape *shape, Filled *filled, int32_t table_number, const Key *key,
                       const uint8_t *name, int64_t length) {
    const Table *table = &shape->tables[table_number];
    int64_t row = filled->rows[table->owner];
    if (key->action == IGNORED) return skip_value(in);
    if (key->action == GROUP) {
        if (filled->rows[key->layout] == row + 1) return DECLINED; /* the key is repeated */
        filled->rows[key->layout] = row + 1;
        if (!take_null(in)) return DONE;
        return read_object(in, shape, filled, key->layout);
    }
    if (filled->columns[key->column].count > row) return DECLINED; /* the key is repeated */
    if (peek(in) == 'n') {
        if (key->required || take_null(in)) return DECLINED;
        return DONE; /* pad() adds the null */
    }
    if (key->action != FIELD) return read_items(in, shape, filled, key, row);
    const uint8_t *value = in->at;
    int overflows = 0;
    if (add_value(in, &filled->columns[key->column], key->kind, key->size, row, &overflows)) return DECLINED;
    if (!overflows) return DONE;
    if (key->required || !shape->tables[table->owner].keeps_extra) return DECLINED;
    return note(filled, in, table_number, row, name, length, value);
}

/* The key of that name, or NULL. What follows it the next time is sought where it was found. */
static const Key *find(const Table *table, Filled *filled, int32_t table_number, const uint8_t *name, int64_t length) {
    int32_t *last = &filled->last[table_number];
    for (int32_t at = 0; at < table->count; at++) {
        const Key *key = &table->keys[at];
        if (key->length == length && !memcmp(key->name, name, (size_t)length)) {
            filled->follows[table->first_key + *last] = at;
            *last = at + 1;
            return key;
        }
    }
    return NULL;
}

/* The key that came next the last time, if it does so again: objects of a kind mostly have one order. */
static const Key *expected(Reader *in, const Table *table, Filled *filled, int32_t table_number, const uint8_t **name,
                           int64_t *length) {
    const uint8_t *at = in->at;
    int32_t *last = &filled->last[table_number];
    int32_t next = filled->follows[table->first_key + *last];
    if (next >= table->count) return NULL;
    const Key *key = &table->keys[next];
    if (in->end - at < key->length + 3 || at[0] != '"' || at[key->length + 1] != '"' || at[key->length + 2] != ':' ||
        memcmp(at + 1, key->name, (size_t)key->length))
        return NULL;
    *name = at + 1;
    *length = key->length;
    in->at = at + key->length + 3;
    *last = next + 1;
    return key;
}

/* The members of an object; its row is ended by the caller. */
static int read_object(Reader *in, const Shape *shape, Filled *filled, int32_t table_number) {
    const Table *table = &shape->tables[table_number];
    const uint8_t *name;
    int64_t length;
    int unknown = 0;
    if (take(in, '{') || ++in->depth > MAX_DEPTH) return DECLINED;
    filled->last[table_number] = 0;
    int64_t first_extra = filled->extra_count;
    if (peek(in) == '}') {
        in->at++;
        in->depth--;
        return DONE;
    }
    for (;;) {
        const Key *key = expected(in, table, filled, table_number, &name, &length);
        if (key == NULL) {
            if (take_string(in, &name, &length) || take(in, ':')) return DECLINED;
            key = find(table, filled, table_number, name, length);
        }
        if (key != NULL) {
            if (read_member(in, shape, filled, table_number, key, name, length)) return DECLINED;
        } else {
            skip_space(in);
            const uint8_t *value = in->at;
            if (skip_value(in)) return DECLINED;
            if (shape->tables[table->owner].keeps_extra) {
                int64_t row = filled->rows[table->owner];
                if (++unknown > MAX_UNKNOWN) return DECLINED;
                for (int64_t at = first_extra; at < filled->extra_count; at++) {
                    const Extra *extra = &filled->extras[at];
                    if (extra->table == table_number && extra->row == row && extra->key_length == length &&
                        !memcmp(in->begin + extra->key, name, (size_t)length))
                        return DECLINED; /* the key is repeated */
                }
                if (note(filled, in, table_number, row, name, length, value)) return DECLINED;
            }
        }
        uint8_t next = peek(in);
        if (next != ',' && next != '}') return DECLINED;
        in->at++;
        if (next == '}') break;
    }
    in->depth--;
    return DONE;
}

static int read_result(Reader *in, const Shape *shape, Filled *filled, int64_t call) {
    filled->calls[filled->results] = call;
    if (shape->is_list) {
        if (take(in, '[')) return DECLINED;
        if (peek(in) == ']') {
            in->at++;
        } else {
            for (;;) {
                if (read_row(in, shape, filled, 0)) return DECLINED;
                uint8_t next = peek(in);
                if (next != ',' && next != ']') return DECLINED;
                in->at++;
                if (next == ']') break;
            }
        }
        filled->list_ends[filled->results] = filled->rows[0];
    } else if (read_row(in, shape, filled, 0)) {
        return DECLINED;
    }
    filled->results++;
    return DONE;
}

/* One answer: {"id": ..., "result": ...}, its members in any order. */
static int read_answer(Reader *in, const Shape *const *shapes, const int32_t *shape_of, int64_t calls, Filled *filled,
                       uint8_t *answered) {
    const uint8_t *name, *result = NULL;
    int64_t length, id = -1;
    int has_result = 0;
    if (take(in, '{') || peek(in) == '}') return DECLINED;
    for (;;) {
        if (take_string(in, &name, &length) || take(in, ':')) return DECLINED;
        if (length == 2 && !memcmp(name, "id", 2)) {
            uint64_t words[4];
            if (id >= 0 || peek(in) == '"' || read_word(in, words) || words[3] >= (uint64_t)calls) return DECLINED;
            id = (int64_t)words[3];
            if (answered[id]) return DECLINED;
            answered[id] = 1;
        } else if (length == 6 && !memcmp(name, "result", 6)) {
            if (has_result) return DECLINED;
            has_result = 1;
            if (id >= 0) {
                if (read_result(in, shapes[shape_of[id]], &filled[shape_of[id]], id)) return DECLINED;
            } else {
                skip_space(in);
                result = in->at;
                if (skip_value(in)) return DECLINED;
            }
        } else if (length == 5 && !memcmp(name, "error", 5)) {
            return DECLINED;
        } else if (skip_value(in)) {
            return DECLINED;
        }
        uint8_t next = peek(in);
        if (next != ',' && next != '}') return DECLINED;
        in->at++;
        if (next == '}') break;
    }
    if (id < 0 || !has_result) return DECLINED;
    if (result != NULL) {
        Reader again = {in->begin, result, in->end, 0};
        if (read_result(&again, shapes[shape_of[id]], &filled[shape_of[id]], id)) return DECLINED;
    }
    return DONE;
}

/* ---------------------------------------------------------------- entry points */

EXPORT void trace_free(Filled *filled, int32_t count) {
    if (filled == NULL) return;
    for (int32_t shape = 0; shape < count; shape++) {
        Filled *one = &filled[shape];
        for (int32_t at = 0; one->columns != NULL && at < one->column_count; at++) {
            free(one->columns[at].valid);
            free(one->columns[at].offsets);
            free(one->columns[at].data);
        }
        free(one->columns);
        free(one->rows);
        free(one->last);
        free(one->follows);
        free(one->list_ends);
        free(one->calls);
        free(one->extras);
    }
    free(filled);
}

static int prepare(Filled *filled, const Shape *shape, int64_t calls) {
    filled->columns = calloc((size_t)shape->column_count + 1, sizeof(Column));
    filled->rows = calloc((size_t)shape->table_count + 1, sizeof(int64_t));
    filled->last = calloc((size_t)shape->table_count + 1, sizeof(int32_t));
    filled->follows = calloc((size_t)shape->key_count + 1, sizeof(int32_t));
    filled->list_ends = calloc((size_t)calls + 1, sizeof(int64_t));
    filled->calls = calloc((size_t)calls + 1, sizeof(int64_t));
    if (!filled->columns || !filled->rows || !filled->last || !filled->follows || !filled->list_ends || !filled->calls) return DECLINED;
    filled->column_count = shape->column_count;
    filled->table_count = shape->table_count;
    for (int32_t at = 0; at < shape->column_count; at++) filled->columns[at].form = shape->forms[at];
    return DONE;
}

/* Let the allocator keep what is freed, up to 128 MiB: every reply takes and frees megabytes, and fresh pages cost more
 * than reading them. Without effect where the C library is another one. */
EXPORT void trace_keep_memory(void) {
#if defined(__GLIBC__)
    mallopt(M_MMAP_THRESHOLD, 64 << 20);
    mallopt(M_TRIM_THRESHOLD, 128 << 20);
#endif
}

static int fill_up(const Shape *shape, Filled *filled) {
    for (int32_t number = 0; number < shape->table_count; number++) {
        const Table *table = &shape->tables[number];
        for (int32_t at = table->first_column; at < table->first_column + table->columns; at++)
            if (pad(&filled->columns[at], filled->rows[number])) return DECLINED;
    }
    return DONE;
}

/* Read a reply to calls, of which shape_of names each one's shape. Return what each shape got, or NULL. */
EXPORT Filled *trace_decode(const uint8_t *reply, int64_t size, const Shape *const *shapes, int32_t shape_count,
                            const int32_t *shape_of, int64_t calls) {
    Filled *filled = calloc((size_t)shape_count + 1, sizeof(Filled));
    uint8_t *answered = calloc((size_t)calls + 1, 1);
    int status = !filled || !answered;
    for (int32_t shape = 0; !status && shape < shape_count; shape++) status = prepare(&filled[shape], shapes[shape], calls);
    Reader in = {reply, reply, reply + size, 0};
    if (!status && calls == 1) {
        status = read_answer(&in, shapes, shape_of, calls, filled, answered);
    } else if (!status) {
        status = take(&in, '[');
        for (int64_t given = 0; !status && given < calls; given++) {
            status = (given && take(&in, ',')) || read_answer(&in, shapes, shape_of, calls, filled, answered);
        }
        status = status || take(&in, ']');
    }
    status = status || peek(&in) != 0 || in.at < in.end;
    for (int32_t at = 0; !status && at < shape_count; at++) status = fill_up(shapes[at], &filled[at]);
    free(answered);
    if (!status) return filled;
    if (filled) trace_free(filled, shape_count);
    return NULL;
}

/* ---------------------------------------------------------------- measures */

static int is_valid(const uint8_t *valid, int64_t at) { return valid == NULL || (valid[at >> 3] >> (at & 7) & 1); }

EXPORT void trace_zero_bytes(const int64_t *offsets, const uint8_t *data, int64_t count, int64_t *out) {
    for (int64_t row = 0; row < count; row++) {
        int64_t zeros = 0;
        for (int64_t at = offsets[row]; at < offsets[row + 1]; at++) zeros += data[at] == 0;
        out[row] = zeros;
    }
}

static int64_t length_of(uint64_t value) {
    int64_t bytes = 0;
    for (; value; value >>= 8) bytes++;
    return bytes;
}

static int64_t rlp_head(int64_t size) { return size < 56 ? 1 : 1 + length_of((uint64_t)size); }

EXPORT void trace_rlp_of_numbers(const uint64_t *values, int64_t count, int64_t *out) {
    for (int64_t row = 0; row < count; row++) out[row] = values[row] < 128 ? 1 : 1 + length_of(values[row]);
}

/* Of byte strings, or, where is_number is set, of the numbers that they are, big-endian. */
EXPORT void trace_rlp_of_strings(const int64_t *offsets, const uint8_t *data, int64_t count, int32_t is_number, int64_t *out) {
    for (int64_t row = 0; row < count; row++) {
        int64_t begin = offsets[row], end = offsets[row + 1];
        if (is_number)
            while (begin < end && data[begin] == 0) begin++;
        int64_t size = end - begin;
        out[row] = size == 1 && data[begin] < 128 ? 1 : size + rlp_head(size);
    }
}

EXPORT void trace_rlp_of_lists(const int64_t *payload, int64_t count, int64_t *out) {
    for (int64_t row = 0; row < count; row++) out[row] = payload[row] + rlp_head(payload[row] < 0 ? 0 : payload[row]);
}

static const uint64_t ROUNDS[24] = {
    0x0000000000000001, 0x0000000000008082, 0x800000000000808a, 0x8000000080008000, 0x000000000000808b,
    0x0000000080000001, 0x8000000080008081, 0x8000000000008009, 0x000000000000008a, 0x0000000000000088,
    0x0000000080008009, 0x000000008000000a, 0x000000008000808b, 0x800000000000008b, 0x8000000000008089,
    0x8000000000008003, 0x8000000000008002, 0x8000000000000080, 0x000000000000800a, 0x800000008000000a,
    0x8000000080008081, 0x8000000000008080, 0x0000000080000001, 0x8000000080008008};
#define TURN(value, by) ((value) << (by) | (value) >> (64 - (by)))

/* Keccak-256 of at most 135 bytes: one block. */
static void keccak(const uint8_t *bytes, int64_t size, uint8_t digest[32]) {
    uint64_t a[25] = {0}, b[25], c[5], d;
    uint8_t block[136] = {0};
    memcpy(block, bytes, (size_t)size);
    block[size] = 1;
    block[135] |= 0x80;
    for (int lane = 0; lane < 17; lane++)
        for (int at = 7; at >= 0; at--) a[lane] = a[lane] << 8 | block[8 * lane + at];
    for (int round = 0; round < 24; round++) {
        for (int x = 0; x < 5; x++) c[x] = a[x] ^ a[x + 5] ^ a[x + 10] ^ a[x + 15] ^ a[x + 20];
#define MIX(x, left, right)        \
    d = c[left] ^ TURN(c[right], 1); \
    a[x] ^= d, a[x + 5] ^= d, a[x + 10] ^= d, a[x + 15] ^= d, a[x + 20] ^= d;
        MIX(0, 4, 1) MIX(1, 0, 2) MIX(2, 1, 3) MIX(3, 2, 4) MIX(4, 3, 0)
        b[0] = a[0];
        b[1] = TURN(a[6], 44), b[2] = TURN(a[12], 43), b[3] = TURN(a[18], 21), b[4] = TURN(a[24], 14);
        b[5] = TURN(a[3], 28), b[6] = TURN(a[9], 20), b[7] = TURN(a[10], 3), b[8] = TURN(a[16], 45);
        b[9] = TURN(a[22], 61), b[10] = TURN(a[1], 1), b[11] = TURN(a[7], 6), b[12] = TURN(a[13], 25);
        b[13] = TURN(a[19], 8), b[14] = TURN(a[20], 18), b[15] = TURN(a[4], 27), b[16] = TURN(a[5], 36);
        b[17] = TURN(a[11], 10), b[18] = TURN(a[17], 15), b[19] = TURN(a[23], 56), b[20] = TURN(a[2], 62);
        b[21] = TURN(a[8], 55), b[22] = TURN(a[14], 39), b[23] = TURN(a[15], 41), b[24] = TURN(a[21], 2);
        for (int y = 0; y < 25; y += 5) {
            a[y] = b[y] ^ (~b[y + 1] & b[y + 2]);
            a[y + 1] = b[y + 1] ^ (~b[y + 2] & b[y + 3]);
            a[y + 2] = b[y + 2] ^ (~b[y + 3] & b[y + 4]);
            a[y + 3] = b[y + 3] ^ (~b[y + 4] & b[y]);
            a[y + 4] = b[y + 4] ^ (~b[y] & b[y + 1]);
        }
        a[0] ^= ROUNDS[round];
    }
    for (int at = 0; at < 32; at++) digest[at] = (uint8_t)(a[at / 8] >> (8 * (at % 8)));
}

#define KNOWN 8192

typedef struct {
    uint8_t length;
    uint8_t value[32];
    uint16_t bits[3];
} Known;

/* The same addresses and topics come again and again, from reply to reply. */
static _Thread_local Known known[KNOWN];

/* The blooms of runs of logs: values of several columns in rows run[i] to run[i + 1]; 0 unless one has not 1 to 32 bytes. */
EXPORT int32_t trace_blooms(const int64_t *const *offsets, const uint8_t *const *data, const uint8_t *const *valid,
                            int32_t columns, const int64_t *runs, int64_t run_count, uint8_t *out) {
    memset(out, 0, (size_t)run_count * 256);
    for (int64_t run = 0; run < run_count; run++) {
        uint8_t *bloom = out + run * 256;
        for (int32_t column = 0; column < columns; column++) {
            for (int64_t row = runs[run]; row < runs[run + 1]; row++) {
                if (!is_valid(valid[column], row)) continue;
                const uint8_t *value = data[column] + offsets[column][row];
                int64_t size = offsets[column][row + 1] - offsets[column][row];
                if (size < 1 || size > 32) return DECLINED;
                uint32_t slot = (uint32_t)size;
                for (int64_t at = size > 8 ? size - 8 : 0; at < size; at++) slot = slot * 31 + value[at];
                for (int64_t at = 0; at < 4 && at < size; at++) slot = slot * 31 + value[at];
                Known *one = &known[slot % KNOWN];
                if (one->length != size || memcmp(one->value, value, (size_t)size)) {
                    uint8_t digest[32];
                    keccak(value, size, digest);
                    one->length = (uint8_t)size;
                    memcpy(one->value, value, (size_t)size);
                    for (int at = 0; at < 3; at++)
                        one->bits[at] = (uint16_t)((digest[2 * at] << 8 | digest[2 * at + 1]) & 2047);
                }
                for (int at = 0; at < 3; at++) bloom[255 - one->bits[at] / 8] |= (uint8_t)(1u << (one->bits[at] % 8));
            }
        }
    }
    return DONE;
}
