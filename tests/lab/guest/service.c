/* service.c - the lab guest's TCP service: a counter that answers as redis does
 *
 * It speaks just enough of the redis protocol (inline commands; PING, SET, MSET, GET, GETDEL, MGET, INCR, EXISTS, INFO,
 * QUIT) for the demo's client, oracle and memory checker, in a few hundred kilobytes: a guest of 96 MB has no room for the
 * real one. SUSPENDS is its own: how often the guest was suspended and went on, by its kernel's log.
 * Arguments KEY=VALUE are stored at the start. One process, poll(); a reply is sent before the next command is read.
 *
 * This program runs inside the lab's guest only.
 */
#define _GNU_SOURCE
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/klog.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#define PORT 6379
#define KEYS_MAX 64
#define NAME_MAX_BYTES 64
#define VALUE_MAX_BYTES 256
#define CLIENTS_MAX 32
#define LINE_MAX_BYTES 1024
#define WORDS_MAX 32
#define REPLY_MAX_BYTES 4096

struct entry {
	char name[NAME_MAX_BYTES];
	char value[VALUE_MAX_BYTES];
};

struct client {
	int fd;
	size_t have;
	char line[LINE_MAX_BYTES];
};

struct reply {
	size_t n;
	char text[REPLY_MAX_BYTES];
};

#define LOG_READ_ALL 3 /* syslog(2) has no names for a program */
#define LOG_SIZE 10

static struct entry entries[KEYS_MAX];
static struct client clients[CLIENTS_MAX];
static char run_id[33];

static struct entry *find(const char *name)
{
	for (size_t i = 0; i < KEYS_MAX; i++)
		if (entries[i].name[0] && strcmp(entries[i].name, name) == 0)
			return &entries[i];
	return NULL;
}

static bool set(const char *name, const char *value)
{
	struct entry *e = find(name);

	for (size_t i = 0; !e && i < KEYS_MAX; i++)
		if (!entries[i].name[0])
			e = &entries[i];
	if (!e || !name[0] || strlen(name) >= sizeof(e->name) || strlen(value) >= sizeof(e->value))
		return false;
	strcpy(e->name, name);
	strcpy(e->value, value);
	return true;
}

static void add(struct reply *r, const char *format, const char *text, long long number)
{
	int n = text ? snprintf(r->text + r->n, sizeof(r->text) - r->n, format, number, text)
		     : snprintf(r->text + r->n, sizeof(r->text) - r->n, format, number);

	if (n > 0 && (size_t)n < sizeof(r->text) - r->n)
		r->n += (size_t)n;
}

static void add_value(struct reply *r, const char *name)
{
	const struct entry *e = find(name);

	if (e)
		add(r, "$%lld\r\n%s\r\n", e->value, (long long)strlen(e->value));
	else
		add(r, "$%lld\r\n", NULL, -1);
}

static void forget_key(const char *name)
{
	for (size_t i = 0; i < KEYS_MAX; i++)
		if (strcmp(entries[i].name, name) == 0)
			entries[i].name[0] = '\0';
}

static void incr(struct reply *r, const char *name)
{
	const struct entry *e = find(name);
	long long value = (e ? atoll(e->value) : 0) + 1;
	char text[32];

	snprintf(text, sizeof(text), "%lld", value);
	if (set(name, text))
		add(r, ":%lld\r\n", NULL, value);
	else
		add(r, "-ERR no room for this key (limit %lld)\r\n", NULL, KEYS_MAX);
}

static void set_pairs(struct reply *r, char **words, int n)
{
	bool ok = n % 2 == 1;

	for (int i = 1; ok && i + 1 < n; i += 2)
		ok = set(words[i], words[i + 1]);
	add(r, ok ? "+OK\r\n" : "-ERR not stored (%lld words)\r\n", NULL, n);
}

static void info(struct reply *r)
{
	char text[128];

	snprintf(text, sizeof(text), "# Server\r\nrun_id:%s\r\n", run_id);
	add(r, "$%lld\r\n%s\r\n", text, (long long)strlen(text));
}

static long long count(const char *text, const char *what)
{
	long long n = 0;

	while ((text = strstr(text, what)) != NULL) {
		text += strlen(what);
		n++;
	}
	return n;
}

/* Nobody looks on while they are counted: the kernel notes each of them anyway. A log that has lost its beginning counts nothing. */
static void suspends(struct reply *r)
{
	int size = klogctl(LOG_SIZE, NULL, 0), n = -1;
	char *text = size > 0 ? malloc((size_t)size + 1) : NULL;

	if (text)
		n = klogctl(LOG_READ_ALL, text, size);
	if (n >= 0)
		text[n] = '\0';
	if (n >= 0 && strstr(text, "Linux version "))
		add(r, ":%lld\r\n", NULL, count(text, "Restarting tasks"));
	else
		add(r, "-ERR the kernel's log of %lld bytes is not whole\r\n", NULL, size);
	free(text);
}

/* Returns false when the client asked to be let go. */
static bool command(struct reply *r, char *line)
{
	char *words[WORDS_MAX], *save = NULL;
	int n = 0;

	for (char *w = strtok_r(line, " ", &save); w && n < WORDS_MAX; w = strtok_r(NULL, " ", &save))
		words[n++] = w;
	if (n == 0)
		return true;
	if (strcmp(words[0], "QUIT") == 0) {
		add(r, "+OK\r\n", NULL, 0);
		return false;
	}
	if (strcmp(words[0], "PING") == 0) {
		add(r, "+PONG\r\n", NULL, 0);
	} else if (strcmp(words[0], "INFO") == 0) {
		info(r);
	} else if (strcmp(words[0], "SUSPENDS") == 0) {
		suspends(r);
	} else if (n == 2 && strcmp(words[0], "INCR") == 0) {
		incr(r, words[1]);
	} else if (n == 2 && strcmp(words[0], "GET") == 0) {
		add_value(r, words[1]);
	} else if (n == 2 && strcmp(words[0], "GETDEL") == 0) {
		add_value(r, words[1]);
		forget_key(words[1]);
	} else if (n == 2 && strcmp(words[0], "EXISTS") == 0) {
		add(r, ":%lld\r\n", NULL, find(words[1]) != NULL);
	} else if (n >= 3 && (strcmp(words[0], "SET") == 0 || strcmp(words[0], "MSET") == 0)) {
		set_pairs(r, words, n);
	} else if (n >= 2 && strcmp(words[0], "MGET") == 0) {
		add(r, "*%lld\r\n", NULL, n - 1);
		for (int i = 1; i < n; i++)
			add_value(r, words[i]);
	} else {
		add(r, "-ERR unknown command of %lld words\r\n", NULL, n);
	}
	return true;
}

static void forget(struct client *c)
{
	close(c->fd);
	c->fd = -1;
	c->have = 0;
}

static void serve(struct client *c)
{
	ssize_t got = recv(c->fd, c->line + c->have, sizeof(c->line) - c->have, 0);
	char *end;

	if (got <= 0 || c->have + (size_t)got == sizeof(c->line)) {
		forget(c);
		return;
	}
	c->have += (size_t)got;
	while ((end = memchr(c->line, '\n', c->have)) != NULL) {
		size_t used = (size_t)(end - c->line) + 1;
		struct reply r = { 0 };
		bool stay;

		*end = '\0';
		if (used > 1 && end[-1] == '\r')
			end[-1] = '\0';
		stay = command(&r, c->line);
		if ((r.n && send(c->fd, r.text, r.n, MSG_NOSIGNAL) != (ssize_t)r.n) || !stay) {
			forget(c);
			return;
		}
		c->have -= used;
		memmove(c->line, c->line + used, c->have);
	}
}

static void take(int listener)
{
	int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC), one = 1;

	if (fd < 0)
		return;
	(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	for (size_t i = 0; i < CLIENTS_MAX; i++)
		if (clients[i].fd < 0) {
			clients[i].fd = fd;
			return;
		}
	close(fd);
}

static int listen_on(int port)
{
	struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons((unsigned short)port) };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;

	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) < 0 ||
	    bind(fd, (struct sockaddr *)&at, sizeof(at)) < 0 || listen(fd, CLIENTS_MAX) < 0)
		return -1;
	return fd;
}

static void new_run_id(void)
{
	unsigned char bytes[16];

	if (getrandom(bytes, sizeof(bytes), 0) != (ssize_t)sizeof(bytes))
		abort();
	for (size_t i = 0; i < sizeof(bytes); i++)
		snprintf(run_id + 2 * i, 3, "%02x", bytes[i]);
}

int main(int argc, char **argv)
{
	struct pollfd p[CLIENTS_MAX + 1];
	int listener = listen_on(PORT);

	if (listener < 0) {
		perror("service: listen");
		return 1;
	}
	new_run_id();
	for (int i = 1; i < argc; i++) {
		char *value = strchr(argv[i], '=');

		if (value) {
			*value++ = '\0';
			set(argv[i], value);
		}
	}
	for (size_t i = 0; i < CLIENTS_MAX; i++)
		clients[i].fd = -1;
	for (;;) {
		for (size_t i = 0; i < CLIENTS_MAX; i++)
			p[i] = (struct pollfd){ .fd = clients[i].fd, .events = POLLIN };
		p[CLIENTS_MAX] = (struct pollfd){ .fd = listener, .events = POLLIN };
		if (poll(p, CLIENTS_MAX + 1, -1) < 0)
			continue;
		for (size_t i = 0; i < CLIENTS_MAX; i++)
			if (p[i].fd >= 0 && p[i].revents)
				serve(&clients[i]);
		if (p[CLIENTS_MAX].revents)
			take(listener);
	}
}
