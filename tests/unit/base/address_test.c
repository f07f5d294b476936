/* Addresses: every form, the refusals, and sockets that replace only what is theirs to replace. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/address.h"
#include "base/error.h"

static void test_parse(void **state)
{
    (void)state;
    struct address address;
    assert_int_equal(address_parse("127.0.0.1:8000", 0, &address), OK);
    const struct sockaddr_in *in = (const struct sockaddr_in *)&address.socket_address;
    assert_int_equal(in->sin_family, AF_INET);
    assert_int_equal(ntohs(in->sin_port), 8000);
    assert_int_equal(ntohl(in->sin_addr.s_addr), 0x7f000001);
    assert_string_equal(address.text, "127.0.0.1:8000");
    assert_true(address_is_loopback(&address));
    assert_false(address_is_unix(&address));

    assert_int_equal(address_parse("127.1.2.3", 81, &address), OK);
    assert_int_equal(ntohs(in->sin_port), 81);
    assert_true(address_is_loopback(&address));
    assert_int_equal(address_parse("0.0.0.0:0", 81, &address), OK);
    assert_int_equal(ntohs(in->sin_port), 0);
    assert_false(address_is_loopback(&address));
    assert_int_equal(address_parse("10.0.0.1:65535", 0, &address), OK);
    assert_false(address_is_loopback(&address));

    assert_int_equal(address_parse("[::1]:9", 0, &address), OK);
    assert_int_equal(address.socket_address.ss_family, AF_INET6);
    assert_true(address_is_loopback(&address));
    assert_int_equal(address_parse("[::]", 9, &address), OK);
    assert_false(address_is_loopback(&address));
    assert_int_equal(address_parse("unix:/run/a:b", 0, &address), OK);
    assert_true(address_is_unix(&address));
    assert_true(address_is_loopback(&address));
}

static void test_refusals(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "",
        ":80",
        "127.0.0.1",
        "127.0.0.1:",
        "127.0.0.1:x",
        "127.0.0.1:80x",
        "127.0.0.1:-1",
        "127.0.0.1:+1",
        "127.0.0.1:65536",
        "127.0.0.1:00000000000000000000080",
        "127.0.0.1: 80",
        "::1:8000",
        "fe80::1:8000",
        "[::1:8000",
        "[::1]8000",
        "[]:80",
        "unix:",
        "no-such-host.invalid:80",
    };
    char text[300];
    struct address address;
    memset(&address, 0x55, sizeof(address));
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        error_set(OK, "%s", "");
        if (address_parse(bad[i], 0, &address) != ERR_BAD_INPUT || error_text()[0] == '\0')
            fail_msg("\"%s\" was taken", bad[i]);
    }
    memset(text, 'a', sizeof(text));
    text[sizeof(text) - 1] = '\0';
    assert_int_equal(address_parse(text, 80, &address), ERR_BAD_INPUT);
    memcpy(text, "unix:/", 6);
    text[5 + 109] = '\0';
    assert_int_equal(address_parse(text, 80, &address), ERR_BAD_INPUT);
    assert_int_equal(((const unsigned char *)&address)[0], 0x55); /* outputs only on success */
}

/* Connect to where listener listens, and send a byte through. */
static void assert_reachable(int listener)
{
    struct address there;
    int client;
    char byte = 0;
    assert_int_equal(address_of_socket(listener, &there), OK);
    assert_int_equal(address_connect(&there, &client), OK);
    struct pollfd wait = {.fd = listener, .events = POLLIN};
    assert_int_equal(poll(&wait, 1, 5000), 1);
    int server = accept(listener, NULL, NULL);
    assert_true(server >= 0);
    wait = (struct pollfd){.fd = client, .events = POLLOUT};
    assert_int_equal(poll(&wait, 1, 5000), 1);
    assert_int_equal(write(client, "x", 1), 1);
    assert_int_equal(read(server, &byte, 1), 1);
    assert_int_equal(byte, 'x');
    close(client);
    close(server);
}

static void test_tcp(void **state)
{
    (void)state;
    struct address address;
    struct address bound;
    int fd = -1;
    int second = -1;
    assert_int_equal(address_parse("127.0.0.1:0", 0, &address), OK);
    assert_int_equal(address_listen(&address, &fd), OK);
    assert_true(fcntl(fd, F_GETFL) & O_NONBLOCK);
    assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
    assert_reachable(fd);
    assert_int_equal(address_of_socket(fd, &bound), OK);
    assert_int_equal(strncmp(bound.text, "127.0.0.1:", 10), 0);
    assert_string_not_equal(bound.text, "127.0.0.1:0");
    assert_int_equal(address_listen(&bound, &second), ERR_IO);
    assert_non_null(strstr(error_text(), "in use"));
    assert_non_null(strstr(error_text(), bound.text));
    assert_int_equal(second, -1);
    close(fd);
}

static void test_unix(void **state)
{
    (void)state;
    char folder[] = "/tmp/address_testXXXXXX";
    char path[64];
    char text[80];
    struct address address;
    int fd = -1;
    int second = -1;
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof(path), "%s/socket", folder);
    snprintf(text, sizeof(text), "unix:%s", path);
    assert_int_equal(address_parse(text, 0, &address), OK);
    assert_int_equal(address_connect(&address, &second), ERR_IO);
    assert_int_equal(address_listen(&address, &fd), OK);
    assert_reachable(fd);
    assert_int_equal(address_listen(&address, &second), ERR_IO); /* it is alive: not replaced */
    int probe = accept(fd, NULL, NULL);                          /* how it was found to be alive */
    close(probe);
    assert_reachable(fd);
    close(fd);
    assert_int_equal(access(path, F_OK), 0);
    assert_int_equal(address_listen(&address, &fd), OK); /* nobody listens: replaced */
    assert_reachable(fd);
    close(fd);
    unlink(path);

    int file = open(path, O_CREAT | O_WRONLY, 0600); /* somebody's file, not a socket */
    close(file);
    assert_int_equal(address_listen(&address, &fd), ERR_IO);
    struct stat left;
    assert_int_equal(stat(path, &left), 0);
    assert_true(S_ISREG(left.st_mode));
    unlink(path);
    rmdir(folder);
}

static void test_numeric(void **state)
{
    (void)state;
    struct address address;
    /* A name would be looked up by address_parse. */
    assert_int_equal(address_parse_numeric("localhost:80", &address), ERR_BAD_INPUT);
    assert_int_equal(address_parse_numeric("10.0.0.1", &address), ERR_BAD_INPUT);
    assert_int_equal(address_parse_numeric("10.0.0.1:7100", &address), OK);
    assert_int_equal(address_port(&address), 7100);
    assert_false(address_is_wildcard(&address));
    assert_int_equal(address_parse("127.0.0.1", 99, &address), OK);
    assert_int_equal(address_write_numeric(&address), OK);
    assert_string_equal(address.text, "127.0.0.1:99");
    assert_int_equal(address_parse_numeric("[0:0::1]:5", &address), OK);
    assert_int_equal(address_write_numeric(&address), OK);
    assert_string_equal(address.text, "[::1]:5");
    assert_int_equal(address_port(&address), 5);
    assert_int_equal(address_parse_numeric("0.0.0.0:1", &address), OK);
    assert_true(address_is_wildcard(&address));
    assert_int_equal(address_parse_numeric("[::]:1", &address), OK);
    assert_true(address_is_wildcard(&address));
    assert_int_equal(address_parse_numeric("unix:/tmp/x", &address), OK);
    assert_false(address_is_wildcard(&address));
    assert_int_equal(address_port(&address), 0);
    assert_int_equal(address_write_numeric(&address), OK);
    assert_string_equal(address.text, "unix:/tmp/x");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parse), cmocka_unit_test(test_refusals), cmocka_unit_test(test_tcp),
        cmocka_unit_test(test_unix),  cmocka_unit_test(test_numeric),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
