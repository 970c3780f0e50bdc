/* main.c - runs a fuzz target on files, where libFuzzer is not built in
 *
 * Arguments are files and directories of inputs; those that start with '-' are libFuzzer's and ignored, but for
 * -mutate=N: after each input N mutations of it are tried, from a fixed seed, so that every `make check` also looks a
 * little beyond the corpus.
 */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "fuzz.h"

#define INPUT_MAX (4 * 1024 * 1024)
#define PATH_BYTES 4096

static unsigned mutations;
static unsigned long executions;

static uint64_t next_random(void)
{
	static uint64_t x = 0x2545f4914f6cdd1d;

	x ^= x << 13;
	x ^= x >> 7;
	x ^= x << 17;
	return x;
}

/* A copy of exactly this size, so that a sanitizer sees the first byte beyond. */
static void run_exact(const uint8_t *data, size_t len)
{
	uint8_t *copy = malloc(len ? len : 1);

	if (!copy)
		abort();
	memcpy(copy, data, len);
	(void)LLVMFuzzerTestOneInput(copy, len);
	free(copy);
	executions++;
}

static void run_mutated(const uint8_t *data, size_t len, uint8_t *scratch)
{
	static const uint8_t interesting[] = { 0, 1, 0x7f, 0x80, 0xff };
	size_t n = len;

	memcpy(scratch, data, len);
	if (n && next_random() % 4 == 0)
		n = next_random() % n;
	for (unsigned changes = 1 + next_random() % 4; n && changes; changes--) {
		size_t at = next_random() % n;

		if (next_random() % 2)
			scratch[at] ^= (uint8_t)(1u << next_random() % 8);
		else
			scratch[at] = interesting[next_random() % sizeof(interesting)];
	}
	run_exact(scratch, n);
}

static void run_file(const char *path)
{
	uint8_t *data = malloc(INPUT_MAX), *scratch = malloc(INPUT_MAX);
	FILE *f = fopen(path, "rb");
	size_t len;

	if (!data || !scratch || !f) {
		fprintf(stderr, "%s: cannot read it\n", path);
		exit(2);
	}
	len = fread(data, 1, INPUT_MAX, f);
	(void)fclose(f);
	run_exact(data, len);
	for (unsigned i = 0; i < mutations; i++)
		run_mutated(data, len, scratch);
	free(scratch);
	free(data);
}

static void run_directory(const char *path)
{
	struct dirent **names;
	int n = scandir(path, &names, NULL, alphasort);

	if (n < 0) {
		perror(path);
		exit(2);
	}
	for (int i = 0; i < n; i++) {
		char file[PATH_BYTES];

		if (names[i]->d_name[0] != '.' && snprintf(file, sizeof(file), "%s/%s", path, names[i]->d_name) < PATH_BYTES)
			run_file(file);
		free(names[i]);
	}
	free(names);
}

int main(int argc, char **argv)
{
	for (int i = 1; i < argc; i++) {
		struct stat st;

		if (strncmp(argv[i], "-mutate=", 8) == 0) {
			mutations = (unsigned)strtoul(argv[i] + 8, NULL, 10);
			continue;
		}
		if (argv[i][0] == '-')
			continue;
		if (stat(argv[i], &st) < 0) {
			perror(argv[i]);
			return 2;
		}
		if (S_ISDIR(st.st_mode))
			run_directory(argv[i]);
		else
			run_file(argv[i]);
	}
	printf("%lu executions\n", executions);
	return executions ? 0 : 2;
}
