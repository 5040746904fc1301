/* A QEMU plugin that counts how often every block of AArch64 instructions runs inside regions of a program.

   A region is what runs between `hint #0x60` and `hint #0x61`, NOPs on every processor, whose neighbours count as
   outside; regions are numbered in the order in which they begin. Written for plugin API version 1, that of QEMU 6 to
   8.1, whose functions are declared here: distributions ship no header.

   Output, a text file (argument out=PATH): "edgeface-blocks 1"; for each region "region", then "BLOCK EXECUTIONS" lines;
   "strays N", markers that were met where they make no sense; then "block BLOCK WORDS", the instructions in hex in their
   order, for every block that ran in a region; and "end". */
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef uint64_t qemu_plugin_id_t;
typedef struct qemu_info_t qemu_info_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
enum { INLINE_ADD_U64 = 0 };
enum { CB_NO_REGS = 0 };
typedef void (*vcpu_callback)(qemu_plugin_id_t, unsigned);
typedef void (*exec_callback)(unsigned, void *);

size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *);
size_t qemu_plugin_insn_size(const struct qemu_plugin_insn *);
void qemu_plugin_register_vcpu_insn_exec_cb(struct qemu_plugin_insn *, exec_callback, int, void *);
void qemu_plugin_register_vcpu_insn_exec_inline(struct qemu_plugin_insn *, int, void *, uint64_t);
void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t, void (*)(qemu_plugin_id_t, struct qemu_plugin_tb *));
void qemu_plugin_register_vcpu_init_cb(qemu_plugin_id_t, vcpu_callback);
void qemu_plugin_register_atexit_cb(qemu_plugin_id_t, void (*)(qemu_plugin_id_t, void *), void *);

__attribute__((visibility("default"))) int qemu_plugin_version = 1;

#define HINT(n) (0xd503201fu | (uint32_t)(n) << 5)
#define BEGIN HINT(0x60)
#define END HINT(0x61)

typedef struct {
    uint64_t executions, at_begin;
    bool in_regions;
    uint32_t count;
    uint32_t words[];
} block_t;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static block_t **blocks;
static size_t n_blocks, room;
static unsigned n_threads, strays;
static bool inside;
static FILE *out;
static pid_t owner;

static void fail(const char *what)
{
    fprintf(stderr, "edgeface plugin: %s\n", what);
    _exit(70);
}

static void add_atomically(unsigned vcpu, void *counter)
{
    (void)vcpu;
    __atomic_fetch_add((uint64_t *)counter, 1, __ATOMIC_RELAXED);
}

static void begin(unsigned vcpu, void *unused)
{
    (void)vcpu, (void)unused;
    pthread_mutex_lock(&lock);
    strays += inside;
    inside = true;
    for (size_t i = 0; i < n_blocks; i++)
        blocks[i]->at_begin = __atomic_load_n(&blocks[i]->executions, __ATOMIC_RELAXED);
    pthread_mutex_unlock(&lock);
}

static void end(unsigned vcpu, void *unused)
{
    (void)vcpu, (void)unused;
    pthread_mutex_lock(&lock);
    if (!inside) {
        strays++;
    } else {
        inside = false;
        fputs("region\n", out);
        for (size_t i = 0; i < n_blocks; i++) {
            block_t *b = blocks[i];
            uint64_t ran = __atomic_load_n(&b->executions, __ATOMIC_RELAXED) - b->at_begin;
            if (ran) {
                b->in_regions = true;
                fprintf(out, "%zu %llu\n", i, (unsigned long long)ran);
            }
        }
    }
    pthread_mutex_unlock(&lock);
}

static block_t *new_block(size_t most)
{
    block_t *b = calloc(1, sizeof *b + most * sizeof b->words[0]);
    if (!b)
        fail("out of memory");
    pthread_mutex_lock(&lock);
    if (n_blocks == room) {
        room = room ? 2 * room : 4096;
        blocks = realloc(blocks, room * sizeof *blocks);
        if (!blocks)
            fail("out of memory");
    }
    blocks[n_blocks++] = b;
    pthread_mutex_unlock(&lock);
    return b;
}

/* A marker ends a block and belongs to none, so that what stands before and behind it in one translation is counted
   apart, each by its own first instruction. */
static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb *tb)
{
    (void)id;
    size_t n = qemu_plugin_tb_n_insns(tb);
    block_t *b = NULL;
    for (size_t i = 0; i < n; i++) {
        struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(tb, i);
        uint32_t word;
        if (qemu_plugin_insn_size(insn) != sizeof word)
            fail("an instruction that is not of 4 bytes: this counts AArch64 programs");
        memcpy(&word, qemu_plugin_insn_data(insn), sizeof word);
        if (word == BEGIN || word == END) {
            qemu_plugin_register_vcpu_insn_exec_cb(insn, word == BEGIN ? begin : end, CB_NO_REGS, NULL);
            b = NULL;
            continue;
        }
        if (!b) {
            b = new_block(n - i);
            /* QEMU adds inline without a lock. It throws every translation away when the second thread starts. */
            if (__atomic_load_n(&n_threads, __ATOMIC_RELAXED) > 1)
                qemu_plugin_register_vcpu_insn_exec_cb(insn, add_atomically, CB_NO_REGS, &b->executions);
            else
                qemu_plugin_register_vcpu_insn_exec_inline(insn, INLINE_ADD_U64, &b->executions, 1);
        }
        b->words[b->count++] = word;
    }
}

static void thread_starts(qemu_plugin_id_t id, unsigned vcpu)
{
    (void)id, (void)vcpu;
    __atomic_fetch_add(&n_threads, 1, __ATOMIC_RELAXED);
}

static void finish(qemu_plugin_id_t id, void *unused)
{
    (void)id, (void)unused;
    if (getpid() != owner)  /* a fork of the program ends as well */
        return;
    pthread_mutex_lock(&lock);
    fprintf(out, "strays %u\n", strays + inside);
    for (size_t i = 0; i < n_blocks; i++) {
        if (!blocks[i]->in_regions)
            continue;
        fprintf(out, "block %zu ", i);
        for (uint32_t k = 0; k < blocks[i]->count; k++)
            fprintf(out, "%08x", blocks[i]->words[k]);
        fputc('\n', out);
    }
    fputs("end\n", out);
    if (fclose(out))
        fail("cannot write the counts: is the disk full?");
    pthread_mutex_unlock(&lock);
}

__attribute__((visibility("default"))) int qemu_plugin_install(
    qemu_plugin_id_t id, const qemu_info_t *info, int argc, char **argv)
{
    (void)info;
    for (int i = 0; i < argc; i++)
        if (!strncmp(argv[i], "out=", 4))
            out = fopen(argv[i] + 4, "w");
    if (!out) {
        fprintf(stderr, "edgeface plugin: cannot write where out= says\n");
        return 1;
    }
    owner = getpid();
    fputs("edgeface-blocks 1\n", out);
    qemu_plugin_register_vcpu_init_cb(id, thread_starts);
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_atexit_cb(id, finish, NULL);
    return 0;
}
