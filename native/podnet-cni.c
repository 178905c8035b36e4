/* podnet-cni: the CNI plugin executable that a container runtime calls.
 *
 * It holds no logic: it hands the CNI_* variables and stdin to the node agent over a unix socket and prints the answer.
 * It is C because a runtime starts it for every pod, and a Python interpreter alone would cost ten times as much.
 *
 *   request  NAME=VALUE\0 for each variable that is set, one more \0, the bytes of stdin, shutdown
 *   answer   one byte exit code, the bytes for stdout, close
 *
 * It answers itself when the agent can't: VERSION (needs no agent), error 11 or 50 (no agent), 4 (environment),
 * 5 (stdin), 6 and 7 (configuration). Codes and fields: CNI specification 1.1.0, sections 2 and 5. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#ifndef ANSWER_SECONDS
#define ANSWER_SECONDS 60 /* tests compile with less */
#endif
#define CONNECT_SECONDS (ANSWER_SECONDS < 5 ? ANSWER_SECONDS : 5)
#define MAX_STDIN (1 << 20)
#define MAX_ANSWER (4 << 20)
#define MAX_VALUE 4096
#define NEWEST "1.1.0"

static const char *const VERSIONS[] = {"0.3.1", "0.4.0", "1.0.0", NEWEST, NULL};
static const char *const COMMANDS[] = {"ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION", NULL};
static const char *const VARIABLES[] = {"CNI_COMMAND", "CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS",
                                        "CNI_PATH", "CNI_NETNS_OVERRIDE", NULL};

static char config[MAX_STDIN + 1], answer[MAX_ANSWER], version[16] = NEWEST;
static size_t config_size;

/* Prints a CNI error object and ends. The text must need no JSON escapes: callers pass checked values only. */
static _Noreturn void __attribute__((format(printf, 2, 3))) fail(int code, const char *format, ...)
{
    va_list values;
    va_start(values, format);
    printf("{\"cniVersion\": \"%s\", \"code\": %d, \"msg\": \"", version, code);
    vprintf(format, values);
    printf("\"}\n");
    va_end(values);
    exit(1);
}

static int is_one_of(const char *word, const char *const *words)
{
    for (; *words; words++)
        if (!strcmp(word, *words))
            return 1;
    return 0;
}

/* The end of the string literal that starts at `at` (its closing quote), or NULL when the input ends before. */
static const char *string_end(const char *at, const char *end)
{
    for (at++; at < end && *at != '"'; at++)
        if (*at == '\\')
            at++;
    return at < end ? at : NULL;
}

static const char *skip_space(const char *at, const char *end)
{
    for (; at < end && (*at == ' ' || (*at >= '\t' && *at <= '\r')); at++)
        ;
    return at;
}

/* Copies the string that `key` has in the outermost object of stdin. 1: copied, 0: no such key, -1: the value is not
 * a string of printable ASCII without escapes, or does not fit. A string before a colon is a key: no parser needed. */
static int top_level_string(const char *key, char *out, size_t size)
{
    const char *end = config + config_size;
    int depth = 0;
    for (const char *at = config; at < end; at++) {
        if (*at == '{' || *at == '[')
            depth++;
        else if (*at == '}' || *at == ']')
            depth--;
        if (*at != '"')
            continue;
        const char *name = at + 1, *close = string_end(at, end);
        if (!close)
            return 0;
        at = close;
        const char *colon = skip_space(close + 1, end);
        size_t length = (size_t)(close - name);
        if (depth != 1 || colon == end || *colon != ':' || length != strlen(key) || memcmp(name, key, length))
            continue;
        const char *value = skip_space(colon + 1, end);
        if (value == end || *value != '"' || !(close = string_end(value, end)) || (size_t)(close - value) > size)
            return -1;
        for (value++; value < close; *out++ = *value++)
            if (*value < 0x20 || *value > 0x7e || *value == '\\')
                return -1;
        *out = '\0';
        return 1;
    }
    return 0;
}

static void read_config(void)
{
    ssize_t n;
    while ((n = read(0, config + config_size, sizeof config - config_size)) != 0) {
        if (n < 0 && errno != EINTR)
            fail(5, "stdin can not be read: %s", strerror(errno));
        config_size += n > 0 ? (size_t)n : 0;
        if (config_size > MAX_STDIN)
            fail(6, "the network configuration on stdin is longer than 1 MiB");
    }
    char text[sizeof version];
    if (top_level_string("cniVersion", text, sizeof text) == 1 && *text && !text[strspn(text, "0123456789.")])
        strcpy(version, text);
}

/* Writes the variables that are set as the request's head; returns its size. */
static size_t write_head(char *head)
{
    size_t size = 0;
    for (const char *const *name = VARIABLES; *name; name++) {
        const char *value = getenv(*name);
        if (!value)
            continue;
        if (strlen(value) > MAX_VALUE)
            fail(4, "%s is longer than %d bytes", *name, MAX_VALUE);
        for (const unsigned char *c = (const unsigned char *)value; *c; c++)
            if (*c < 0x20 || *c == 0x7f)
                fail(4, "%s contains a control character", *name);
        size += (size_t)sprintf(head + size, "%s=%s", *name, value) + 1;
    }
    head[size++] = '\0';
    return size;
}

/* A failed send is no failure yet: an agent that refuses a request early may have answered already. */
static void send_all(int fd, const char *bytes, size_t size)
{
    for (ssize_t n; size && (n = send(fd, bytes, size, MSG_NOSIGNAL)) > 0; size -= (size_t)n)
        bytes += n;
}

/* Asks the agent; returns the size of its answer, 0 when there is none within the time. */
static size_t ask(const char *path, const char *head, size_t head_size)
{
    struct sockaddr_un agent = {.sun_family = AF_UNIX};
    struct timeval to_connect = {.tv_sec = CONNECT_SECONDS}, to_answer = {.tv_sec = ANSWER_SECONDS};
    strcpy(agent.sun_path, path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &to_connect, sizeof to_connect);
    if (fd < 0 || connect(fd, (struct sockaddr *)&agent, sizeof agent))
        return 0;
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &to_answer, sizeof to_answer);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &to_answer, sizeof to_answer);
    send_all(fd, head, head_size);
    send_all(fd, config, config_size);
    shutdown(fd, SHUT_WR);
    size_t size = 0;
    ssize_t n;
    while (size < sizeof answer && (n = recv(fd, answer + size, sizeof answer - size, 0)) != 0) {
        if (n < 0 && errno != EINTR)
            return 0;
        size += n > 0 ? (size_t)n : 0;
    }
    return size < sizeof answer ? size : 0;
}

int main(void)
{
    static char head[8 * (MAX_VALUE + 32)];
    char path[sizeof ((struct sockaddr_un *)0)->sun_path] = "/run/podnet/cni.sock";
    const char *command = getenv("CNI_COMMAND");
    if (!command && isatty(0)) {
        puts("podnet-cni: the CNI plugin of podnet (specification 0.3.1 to " NEWEST "); container runtimes call it");
        return 0;
    }
    if (!command || !is_one_of(command, COMMANDS))
        fail(4, "CNI_COMMAND must be ADD, DEL, CHECK, GC, STATUS or VERSION");
    read_config();
    if (!strcmp(command, "VERSION")) {
        printf("{\"cniVersion\": \"%s\", \"supportedVersions\": [\"0.3.1\", \"0.4.0\", \"1.0.0\", \"" NEWEST "\"]}\n",
               is_one_of(version, VERSIONS) ? version : NEWEST);
        return 0;
    }
    size_t head_size = write_head(head);
    if (top_level_string("agentSocket", path, sizeof path) < 0 || path[0] != '/')
        fail(7, "agentSocket must be an absolute path of at most %zu plain characters", sizeof path - 1);
    size_t size = ask(path, head, head_size);
    if (!size)
        fail(strcmp(command, "STATUS") ? 11 : 50,
             "no answer from the podnet agent at %s: start it on this node (podnet agent), then try again", path);
    if (fwrite(answer + 1, 1, size - 1, stdout) != size - 1 || fflush(stdout))
        return 5;
    return (unsigned char)answer[0];
}
