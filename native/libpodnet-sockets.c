/* Sockets that outlive the process which made them, for daemons that know nothing of it; kernel/daemons.py preloads it.
 *
 * PODNET_SOCKETS lists what clients send to, with the inherited descriptor or -1: "udp/10.96.0.10/53=7,tcp/...=-1".
 * bind() to one of these takes over the descriptor, so that a successor shares the very same socket and what is queued
 * in it. The first poll() that waits for clients tells PODNET_READY, a pipe. On the signal PODNET_DRAIN the sockets are
 * hidden from poll() from then on: what is under way is answered, children finish, and then, at the latest after
 * DRAIN_SECONDS, the process ends. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef DRAIN_SECONDS
#define DRAIN_SECONDS 5
#endif

enum { MOST = 1024, LOOK_MS = 50, QUEUE_BYTES = 4 << 20 };

static char clients[MOST]; /* descriptors that clients send to */
static char kept[MOST];    /* inherited, and not taken over yet: programs close what they do not know */
static volatile sig_atomic_t draining;
static int ready = -1;
static pid_t self;
static struct timespec begun;
static int (*real_bind)(int, const struct sockaddr *, socklen_t);
static int (*real_close)(int);
static int (*real_poll)(struct pollfd *, nfds_t, int);

static void drain(int number)
{
    (void)number;
    draining = 1;
}

static int is(const char *table, int fd)
{
    return fd >= 0 && fd < MOST && table[fd];
}

static void mark(char *table, int fd, char value)
{
    if (fd >= 0 && fd < MOST)
        table[fd] = value;
}

__attribute__((constructor)) static void begin(void)
{
    const char *signal = getenv("PODNET_DRAIN"), *pipe = getenv("PODNET_READY"), *list = getenv("PODNET_SOCKETS");
    real_bind = dlsym(RTLD_NEXT, "bind");
    real_close = dlsym(RTLD_NEXT, "close");
    real_poll = dlsym(RTLD_NEXT, "poll");
    self = getpid();
    if (signal)
        sigaction(atoi(signal), &(struct sigaction){.sa_handler = drain}, NULL);
    if (pipe)
        mark(kept, ready = atoi(pipe), 1);
    for (; list && (list = strchr(list, '=')); list++)
        mark(kept, atoi(list + 1), 1);
}

/* What PODNET_SOCKETS says of this address: 0 not there, 1 and the descriptor, which may be -1. */
static int listed(int fd, const struct sockaddr *address, int *there)
{
    char text[INET6_ADDRSTRLEN], wanted[128];
    const struct sockaddr_in *v4 = (const void *)address;
    const struct sockaddr_in6 *v6 = (const void *)address;
    int type = 0, family = address->sa_family;
    const char *list = getenv("PODNET_SOCKETS");
    if (family != AF_INET && family != AF_INET6)
        return 0;
    getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &(socklen_t){sizeof type});
    inet_ntop(family, family == AF_INET6 ? (const void *)&v6->sin6_addr : &v4->sin_addr, text, sizeof text);
    int length = snprintf(wanted, sizeof wanted, "%s/%s/%d=", type == SOCK_STREAM ? "tcp" : "udp", text,
                          ntohs(v4->sin_port)); /* where IPv6 has it too */
    for (; list; list = (list = strchr(list, ',')) ? list + 1 : NULL)
        if (!strncmp(list, wanted, length)) {
            *there = atoi(list + length);
            return 1;
        }
    return 0;
}

int bind(int fd, const struct sockaddr *address, socklen_t length)
{
    int there = -1, ours = address && listed(fd, address, &there), result;
    if (is(kept, there)) {
        result = dup2(there, fd) < 0 ? -1 : 0;
        mark(kept, there, 0);
        real_close(there);
    } else
        result = real_bind(fd, address, length);
    if (ours && !result) {
        mark(clients, fd, 1);
        setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &(int){QUEUE_BYTES}, sizeof(int)); /* waits there for a successor */
    }
    return result;
}

int close(int fd)
{
    return is(kept, fd) ? 0 : real_close(fd);
}

static void tell_ready(const struct pollfd *fds, nfds_t count)
{
    for (nfds_t i = 0; ready >= 0 && i < count; i++)
        if (is(clients, fds[i].fd) && write(ready, "1", 1) == 1) {
            mark(kept, ready, 0);
            real_close(ready);
            ready = -1;
        }
}

/* How many milliseconds may be waited before the next look; ends the process when nothing is under way any more. */
static int until_the_end(const struct pollfd *fds, nfds_t count)
{
    struct timespec now;
    int busy = waitid(P_ALL, 0, &(siginfo_t){0}, WEXITED | WNOHANG | WNOWAIT) == 0;
    clock_gettime(CLOCK_MONOTONIC, &now);
    if (!begun.tv_sec)
        begun = now;
    for (nfds_t i = 0; i < count && !busy; i++) {
        int family = 0;
        getsockopt(fds[i].fd, SOL_SOCKET, SO_DOMAIN, &family, &(socklen_t){sizeof family});
        busy = (family == AF_INET || family == AF_INET6) && !is(clients, fds[i].fd);
    }
    long passed = (now.tv_sec - begun.tv_sec) * 1000 + (now.tv_nsec - begun.tv_nsec) / 1000000;
    if (!busy || passed >= DRAIN_SECONDS * 1000)
        _exit(0);
    return LOOK_MS;
}

int poll(struct pollfd *fds, nfds_t count, int timeout)
{
    int hidden[MOST];
    tell_ready(fds, count);
    if (!draining || getpid() != self || count > MOST)
        return real_poll(fds, count, timeout);
    int most = until_the_end(fds, count);
    for (nfds_t i = 0; i < count; i++) {
        hidden[i] = fds[i].fd;
        if (is(clients, fds[i].fd))
            fds[i].fd = -1;
    }
    int found = real_poll(fds, count, timeout < 0 || timeout > most ? most : timeout), number = errno;
    for (nfds_t i = 0; i < count; i++)
        fds[i].fd = hidden[i]; /* the kernel reports nothing of a negative one */
    errno = number;
    return found;
}
