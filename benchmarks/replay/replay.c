/* A JSON-RPC server that answers from recorded bytes, so that what is measured is the client.
 *
 *     cc -O2 -pthread -o replay replay.c && ./replay PORT CHAIN.bin CHAIN.idx
 *
 * CHAIN.bin holds JSON values; CHAIN.idx (see chain.py) holds, as little-endian uint64, the number of blocks
 * and the chain id, then for each block offset and length of its five values: the block with its transactions,
 * and with their hashes, its receipts, its logs without the brackets, its traces.
 *
 * One thread a connection, keep-alive, batches. GET /stats tells what was asked for; GET /reset/MS sets that to
 * nothing, and the latency to MS: what each answer waits for, as on a network with that round trip. GET /head/N
 * lets block N be the newest for now. It trusts its client: not for anything but benchmarks on loopback.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { BLOCK, HEADER, RECEIPTS, LOGS, TRACES, KINDS };
enum { MOST_PARTS = 1000, MOST_OWN = 1 << 20 };

typedef struct { uint64_t offset, length; } Slice;

static const char *recorded;
static const Slice *slices; /* KINDS for each block */
static uint64_t recorded_blocks, chain_id;
static _Atomic uint64_t blocks; /* up to the head */
static _Atomic uint64_t requests, items, bytes_out;
static _Atomic long latency_ms;

typedef struct { /* an answer: pieces of the recording, and of own text */
    struct iovec *parts;
    size_t count, room, bytes;
    char own[MOST_OWN];
    size_t used;
} Answer;

static void add(Answer *answer, const void *text, size_t length)
{
    if (answer->count == answer->room) {
        answer->room = answer->room ? 2 * answer->room : 256;
        answer->parts = realloc(answer->parts, answer->room * sizeof *answer->parts);
    }
    answer->parts[answer->count++] = (struct iovec){(void *)text, length};
    answer->bytes += length;
}

static void add_own(Answer *answer, const char *text, size_t length)
{
    if (answer->used + length > MOST_OWN) abort();
    char *place = answer->own + answer->used;
    memcpy(place, text, length);
    answer->used += length;
    add(answer, place, length);
}

static void add_text(Answer *answer, const char *text) { add(answer, text, strlen(text)); }

static void add_slice(Answer *answer, uint64_t block, int kind)
{
    Slice one = slices[block * KINDS + kind];
    add(answer, recorded + one.offset, one.length);
}

/* The value of a key in one flat request; NULL where it has none. */
static const char *value_of(const char *item, const char *end, const char *key)
{
    char quoted[32];
    int length = snprintf(quoted, sizeof quoted, "\"%s\"", key);
    const char *at = memmem(item, end - item, quoted, length);
    if (!at) return NULL;
    for (at += length; at < end && (*at == ':' || *at == ' '); at++) {}
    return at;
}

static int is(const char *value, const char *word) { return value && !strncmp(value, word, strlen(word)); }

static uint64_t quantity(const char *value) { return value && *value == '"' ? strtoull(value + 1, NULL, 16) : 0; }

static void add_result(Answer *answer, const char *item, const char *end)
{
    const char *method = value_of(item, end, "method"), *params = value_of(item, end, "params");
    const char *first = params ? memchr(params, '"', end - params) : NULL;
    char text[64];
    add_text(answer, ",\"result\":");
    if (is(method, "\"eth_chainId\"")) {
        add_own(answer, text, snprintf(text, sizeof text, "\"0x%lx\"", chain_id));
        return;
    }
    if (is(method, "\"eth_blockNumber\"")) {
        add_own(answer, text, snprintf(text, sizeof text, "\"0x%lx\"", (uint64_t)blocks - 1));
        return;
    }
    if (is(method, "\"eth_getLogs\"")) {
        uint64_t from = quantity(value_of(item, end, "fromBlock")), to = quantity(value_of(item, end, "toBlock"));
        add_text(answer, "[");
        for (int more = 0; from <= to && from < blocks; from++) {
            if (!slices[from * KINDS + LOGS].length) continue;
            if (more++) add_text(answer, ",");
            add_slice(answer, from, LOGS);
        }
        add_text(answer, "]");
        return;
    }
    int kind = is(method, "\"eth_getBlockByNumber\"")    ? BLOCK
               : is(method, "\"eth_getBlockReceipts\"") ? RECEIPTS
               : is(method, "\"trace_block\"")          ? TRACES
                                                        : KINDS;
    if (kind == BLOCK && memmem(first, end - first, "false", strlen("false"))) kind = HEADER;
    uint64_t block = is(first, "\"latest\"") ? blocks - 1 : quantity(first);
    if (kind < KINDS && block < blocks)
        add_slice(answer, block, kind);
    else if (kind < KINDS)
        add_text(answer, "null");
    else {
        answer->count--; /* not a result after all */
        add_text(answer, ",\"error\":{\"code\":-32601,\"message\":\"method not found\"}");
    }
}

static void add_item(Answer *answer, const char *item, const char *end)
{
    const char *id = value_of(item, end, "id");
    size_t length = id ? strcspn(id, ",}") : 0;
    items++;
    add_text(answer, "{\"jsonrpc\":\"2.0\",\"id\":");
    id ? add(answer, id, length) : add_text(answer, "null");
    add_result(answer, item, end);
    add_text(answer, "}");
}

static void answer_request(Answer *answer, const char *body, const char *end)
{
    requests++;
    if (*body != '[') {
        add_item(answer, body, end);
        return;
    }
    add_text(answer, "[");
    int depth = 0, more = 0;
    for (const char *at = body + 1, *item = at; at < end; at++) { /* strings of requests hold no braces */
        if (*at == '{' && !depth++) item = at;
        if (*at == '}' && !--depth) {
            if (more++) add_text(answer, ",");
            add_item(answer, item, at + 1);
        }
    }
    add_text(answer, "]");
}

static int send_all(int socket, Answer *answer)
{
    struct iovec *part = answer->parts, *end = part + answer->count;
    while (part < end) {
        ssize_t sent = writev(socket, part, end - part > MOST_PARTS ? MOST_PARTS : end - part);
        if (sent < 0) return -1;
        bytes_out += sent;
        for (; part < end && (size_t)sent >= part->iov_len; part++) sent -= part->iov_len;
        if (part < end) {
            part->iov_base = (char *)part->iov_base + sent;
            part->iov_len -= sent;
        }
    }
    return 0;
}

static void answer_get(Answer *answer, const char *path)
{
    char text[128];
    if (is(path, "/reset/")) {
        latency_ms = atol(path + strlen("/reset/"));
        requests = items = bytes_out = 0;
    }
    if (is(path, "/head/")) {
        uint64_t wanted = strtoull(path + strlen("/head/"), NULL, 10) + 1;
        blocks = wanted < recorded_blocks ? wanted : recorded_blocks;
    }
    add_own(answer, text, snprintf(text, sizeof text, "{\"requests\":%lu,\"items\":%lu,\"bytes\":%lu}",
                                   requests, items, bytes_out));
}

/* Answer the request that begins at `in`; its length, 0 where it is not whole yet, -1 where nobody listens. */
static ssize_t answer_one(int socket, Answer *answer, const char *in, size_t length)
{
    const char *head_end = memmem(in, length, "\r\n\r\n", 4);
    if (!head_end) return 0;
    const char *body = head_end + 4;
    size_t size = 0;
    for (const char *line = in; line < head_end; line = (const char *)memchr(line, '\n', body - line) + 1)
        if (!strncasecmp(line, "content-length:", 15)) size = strtoul(line + 15, NULL, 10);
    if (body + size > in + length) return 0;
    answer->count = answer->bytes = answer->used = 0;
    char head[128];
    add(answer, head, 0);
    if (is(in, "GET "))
        answer_get(answer, in + 4);
    else {
        answer_request(answer, body, body + size);
        long wait = latency_ms;
        nanosleep(&(struct timespec){wait / 1000, wait % 1000 * 1000000}, NULL);
    }
    answer->parts[0].iov_len = snprintf(head, sizeof head,
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %zu\r\n\r\n", answer->bytes);
    return send_all(socket, answer) ? -1 : body + size - in;
}

static void *serve(void *argument)
{
    int socket = (int)(intptr_t)argument;
    Answer *answer = calloc(1, sizeof *answer);
    size_t room = 1 << 16, length = 0;
    char *in = malloc(room + 1);
    for (;;) {
        ssize_t got = recv(socket, in + length, room - length, 0), done = 0;
        if (got <= 0) break;
        in[length += got] = 0;
        while (length && (done = answer_one(socket, answer, in, length)) > 0) memmove(in, in + done, length -= done);
        if (done < 0) break;
        if (length == room) in = realloc(in, (room *= 2) + 1);
    }
    close(socket);
    free(in);
    free(answer->parts);
    free(answer);
    return NULL;
}

static const void *mapped(const char *path)
{
    int file = open(path, O_RDONLY);
    struct stat status;
    if (file < 0 || fstat(file, &status)) {
        perror(path);
        exit(1);
    }
    return mmap(NULL, status.st_size, PROT_READ, MAP_SHARED | MAP_POPULATE, file, 0);
}

int main(int count, char **arguments)
{
    if (count != 4) {
        fprintf(stderr, "usage: replay PORT CHAIN.bin CHAIN.idx\n");
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    recorded = mapped(arguments[2]);
    const uint64_t *index = mapped(arguments[3]);
    blocks = recorded_blocks = index[0];
    chain_id = index[1];
    slices = (const Slice *)(index + 2);
    int listening = socket(AF_INET, SOCK_STREAM, 0), on = 1;
    setsockopt(listening, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons(atoi(arguments[1])),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (bind(listening, (struct sockaddr *)&address, sizeof address) || listen(listening, 1024)) {
        perror("replay");
        return 1;
    }
    for (;;) {
        int socket = accept(listening, NULL, NULL);
        if (socket < 0) continue;
        setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        pthread_t thread;
        if (pthread_create(&thread, NULL, serve, (void *)(intptr_t)socket)) close(socket);
        else pthread_detach(thread);
    }
}
