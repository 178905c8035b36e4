/* podnet-shim: the parent of one process of a lab, be it a container or one of podnet's own programs.
 *
 *   podnet-shim [-k] [-n NETNS] [-h HOSTNAME] [-b SOURCE=TARGET]... [-w DIR] -p PID -l LOG -e EXIT -- COMMAND ARG...
 *
 * It returns when COMMAND runs (exit 0) or could not be started (exit 1, the reason on stderr). What stays is a small
 * process that copies the command's output to LOG and writes EXIT when it ends, so neither output nor exit code depends
 * on the life of whoever asked (as conmon and containerd-shim do for their engines).
 *
 *   -k     keep what the command leaves behind in sessions of its own; without it everything is killed when it ends
 *   -n     enter this network namespace
 *   -h     own UTS namespace with this name
 *   -b     own mount namespace with one file bound over another, and a /sys that shows the new network
 *   PID    "child shim\n"; of several starts one makes it; locked (flock) for as long as this process lives, so "locked"
 *          means "runs", whatever became of the numbers
 *   LOG    CRI format: `2006-01-02T15:04:05.000000000Z stdout F text`; P marks a part of a longer line; past 10 MB the
 *          file becomes LOG.1
 *   EXIT   "code nanoseconds\n" by rename, after the last line of output; 128 + signal for a signal, as a shell does
 *
 * The command leads a session and group of its own, which is killed when it ends; the command dies with this process. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <mntent.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef MAX_LOG
#define MAX_LOG (10 << 20) /* tests compile with less */
#endif
#define MAX_LINE 16384 /* where containerd cuts a line */
#define MAX_BINDS 64

struct stream {
    const char *name;
    int fd;
    size_t used;
    char line[MAX_LINE];
};

static struct stream streams[2] = {{.name = "stdout"}, {.name = "stderr"}};
static char *netns, *hostname, *binds[MAX_BINDS], *workdir, *pid_path, *log_path, *exit_path;
static char path[4096];
static int keep, bind_count, status_fd, log_fd = -1;
static off_t log_size;

/* In one write, which dprintf does not promise: a reader sees all of it or nothing. */
static void __attribute__((format(printf, 2, 3))) say(int fd, const char *format, ...)
{
    static char text[2 * sizeof path];
    va_list values;
    va_start(values, format);
    int size = vsnprintf(text, sizeof text, format, values);
    va_end(values);
    if (write(fd, text, size < (int)sizeof text ? size : (int)sizeof text - 1) < 0)
        _exit(127);
}

/* A negative result: tells the waiting caller why nothing runs, and ends. */
static void must(long result, const char *what, const char *which)
{
    if (result >= 0)
        return;
    say(status_fd, "%s %s: %s", what, which, strerror(errno));
    _exit(127);
}

/* Files bound over others, and a /sys of the new network. A mount namespace is a copy of all mounts: a copied nsfs mount
 * would keep some other pod's network alive. A target that this machine lacks is skipped, making it would change it. */
static void make_mounts(void)
{
    must(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL), "make private", "/");
    for (int i = 0; i < bind_count; i++) {
        char *target = strchr(binds[i], '=');
        *target++ = 0;
        must(mount(binds[i], target, NULL, MS_BIND, NULL) && errno != ENOENT ? -1 : 0, "bind a file to", target);
    }
    FILE *mounts = setmntent("/proc/self/mounts", "re");
    for (struct mntent *entry; mounts && (entry = getmntent(mounts));)
        if (!strcmp(entry->mnt_type, "nsfs"))
            umount2(entry->mnt_dir, MNT_DETACH);
    if (netns && !umount2("/sys", MNT_DETACH))
        must(mount("sysfs", "/sys", "sysfs", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL), "mount", "/sys");
}

static void enter_namespaces(void)
{
    int fd = netns ? open(netns, O_RDONLY | O_CLOEXEC) : 0;
    must(fd, "open network namespace", netns);
    must(netns ? setns(fd, CLONE_NEWNET) : 0, "enter network namespace", netns);
    must(unshare((bind_count ? CLONE_NEWNS : 0) | (hostname ? CLONE_NEWUTS : 0)), "make", "namespaces");
    must(hostname ? sethostname(hostname, strlen(hostname)) : 0, "set hostname", hostname);
    if (bind_count)
        make_mounts();
}

static void open_log(void)
{
    struct stat stat;
    log_fd = open(log_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0640);
    log_size = fstat(log_fd, &stat) ? 0 : stat.st_size;
}

static void rotate_log(void)
{
    snprintf(path, sizeof path, "%s.1", log_path);
    rename(log_path, path);
    close(log_fd);
    open_log();
}

static void write_line(const struct stream *stream, const char *text, size_t size, char tag)
{
    static char entry[MAX_LINE + 80];
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    size_t used = strftime(entry, 32, "%Y-%m-%dT%H:%M:%S", gmtime(&now.tv_sec));
    used += snprintf(entry + used, 48, ".%09ldZ %s %c ", now.tv_nsec, stream->name, tag);
    memcpy(entry + used, text, size);
    used += size;
    entry[used++] = '\n';
    if (log_size && log_size + (off_t)used > MAX_LOG)
        rotate_log();
    ssize_t written = write(log_fd, entry, used); /* a full disk loses lines, not the container */
    log_size += written > 0 ? written : 0;
}

/* Takes what is there; returns 0 at the end of the stream. */
static int copy_lines(struct stream *stream)
{
    ssize_t got = read(stream->fd, stream->line + stream->used, MAX_LINE - stream->used);
    if (got < 0)
        return errno == EINTR;
    char *at = stream->line, *end;
    stream->used += got;
    for (; (end = memchr(at, '\n', stream->used)); at = end + 1) {
        write_line(stream, at, end - at, 'F');
        stream->used -= end - at + 1;
    }
    memmove(stream->line, at, stream->used);
    if (stream->used && (stream->used == MAX_LINE || !got)) {
        write_line(stream, stream->line, stream->used, got ? 'P' : 'F');
        stream->used = 0;
    }
    return got > 0;
}

/* Copies output until the child ended (`child_fd` >= 0), then (-1) what is left: a survivor may hold the pipes open. */
static void copy_output(int child_fd)
{
    struct pollfd polls[3] = {{streams[0].fd, POLLIN, 0}, {streams[1].fd, POLLIN, 0}, {child_fd, POLLIN, 0}};
    while (!polls[2].revents && poll(polls, 3, child_fd < 0 ? 0 : -1))
        for (int i = 0; i < 2; i++)
            if (polls[i].revents && !copy_lines(&streams[i]))
                streams[i].fd = polls[i].fd = -1;
}

/* Everything the command left behind is now a child of ours (PR_SET_CHILD_SUBREAPER). */
static void kill_orphans(void)
{
    FILE *children;
    int orphan;
    do {
        children = fopen("/proc/thread-self/children", "re");
        while (children && fscanf(children, "%d", &orphan) == 1)
            kill(orphan, SIGKILL);
        if (children)
            fclose(children);
    } while (waitpid(-1, NULL, children ? 0 : WNOHANG) > 0);
}

static void write_exit(int code)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    snprintf(path, sizeof path, "%s.new", exit_path);
    say(open(path, O_WRONLY | O_CREAT | O_TRUNC, 0640), "%d %lld%09ld\n", code, (long long)now.tv_sec, now.tv_nsec);
    rename(path, exit_path);
}

static pid_t start(char **command)
{
    int pipes[2][2];
    pid_t shim = getpid();
    must(pipe2(pipes[0], O_CLOEXEC) | pipe2(pipes[1], O_CLOEXEC), "make", "pipes");
    pid_t child = fork();
    must(child, "fork", "the command");
    if (!child) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        must(getppid() == shim ? 0 : -1, "lost", "the parent");
        setsid();
        dup2(pipes[0][1], 1);
        dup2(pipes[1][1], 2);
        must(workdir ? chdir(workdir) : 0, "enter directory", workdir);
        must(execvp(command[0], command), "exec", command[0]);
    }
    for (int i = 0; i < 2; i++)
        close(pipes[i][1]), streams[i].fd = pipes[i][0];
    return child;
}

/* Makes the PID file, already locked when it appears. */
static int claim(void)
{
    snprintf(path, sizeof path, "%s.%d", pid_path, getpid());
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0640);
    must(fd, "make", path);
    must(flock(fd, LOCK_EX), "lock", path);
    int taken = link(path, pid_path);
    unlink(path);
    must(taken, "claim", pid_path);
    return fd;
}

static void supervise(char **command)
{
    siginfo_t ended;
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    int pid_fd = claim();
    open_log();
    must(log_fd, "open", log_path);
    for (int fd = 0; fd < 3; fd++)
        dup2(null, fd);
    setsid();
    prctl(PR_SET_CHILD_SUBREAPER, !keep);
    enter_namespaces();
    pid_t child = start(command);
    int child_fd = syscall(SYS_pidfd_open, child, 0);
    must(child_fd, "watch", command[0]);
    say(pid_fd, "%d %d\n", child, getpid());
    close(status_fd);
    copy_output(child_fd);
    waitid(P_PID, child, &ended, WEXITED | WNOWAIT);
    kill(-child, SIGKILL); /* before the number can be given to someone else */
    kill_orphans();
    copy_output(-1);
    write_exit(ended.si_code == CLD_EXITED ? ended.si_status : 128 + ended.si_status);
}

static int parse(int count, char **arguments)
{
    char **const places[] = {&netns, &hostname, &workdir, &pid_path, &log_path, &exit_path};
    static const char letters[] = "nhwple";
    int option;
    while ((option = getopt(count, arguments, "+kn:h:b:w:p:l:e:")) != -1)
        if (option == 'k')
            keep = 1;
        else if (strchr(letters, option))
            *places[strchr(letters, option) - letters] = optarg;
        else if (option == 'b' && bind_count < MAX_BINDS && strchr(optarg, '='))
            binds[bind_count++] = optarg;
        else
            return 0;
    return optind < count && pid_path && log_path && exit_path;
}

int main(int count, char **arguments)
{
    int pipes[2];
    if (!parse(count, arguments) || pipe2(pipes, O_CLOEXEC)) {
        fputs("usage: podnet-shim [-k] [-n NS] [-h NAME] [-b FILE=TARGET]... [-w DIR] -p PID -l LOG -e EXIT -- CMD\n", stderr);
        return 2;
    }
    status_fd = pipes[1];
    pid_t shim = fork();
    if (!shim) {
        supervise(arguments + optind);
        return 0;
    }
    close(status_fd);
    ssize_t size = shim < 0 ? -1 : read(pipes[0], path, sizeof path);
    if (size > 0) {
        fprintf(stderr, "%.*s\n", (int)size, path);
        waitpid(shim, NULL, 0); /* a failed start has ended when it is reported */
    }
    return size != 0;
}
