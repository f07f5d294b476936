"""Hosts made of network namespaces, and baton processes in them. Needs root.

    with Network(["router", "prefill", "decode"]) as net:
        net.enter("router")            # this process, and what it starts, is on that host now
        net.start("decode", [binary, "decode", ...])

Every host has two links, each to a switch of its own: `control` (10.201.1.N, fd00:201:1::N) and `data`
(10.201.2.N, fd00:201:2::N), N = 1 for the first host. A link can be cut, joined and throttled. Nothing
of the machine's own network is touched; names hold the process id, and all of it goes at the end.
"""
import atexit
import ctypes
import json
import os
import re
import shutil
import signal
import subprocess
import sys

from baton import Process

CLONE_NEWNET = 0x40000000
LINKS = {"control": 1, "data": 2}
SKIPPED = 77


def ip(*args):
    done = subprocess.run(["ip", *args], stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if done.returncode != 0:
        raise OSError(f"ip {' '.join(args)}: {done.stderr.decode().strip()}")
    return done.stdout.decode()


def skip_unless_possible():
    """Exit with the status that means `skipped`, and a line that says why."""
    why = None
    if os.geteuid() != 0:
        why = "network namespaces need root"
    elif not shutil.which("ip") or not shutil.which("tc"):
        why = "ip and tc are not installed (package iproute2)"
    else:
        probe = f"baton-{os.getpid()}-probe"
        try:
            ip("netns", "add", probe)
            ip("netns", "del", probe)
        except OSError as problem:
            why = f"this machine allows no network namespaces ({problem})"
    if why:
        print(f"skip  {why}")
        sys.exit(SKIPPED)


def remove_leftovers():
    """Of runs that were killed."""
    for name in re.findall(r"^(baton-(\d+)-\w+)", ip("netns", "list"), re.MULTILINE):
        if not os.path.exists(f"/proc/{name[1]}"):
            ip("netns", "del", name[0])


class Network:
    def __init__(self, hosts):
        self.hosts = hosts
        self.processes = []
        self.prefix = f"baton-{os.getpid()}-"
        self.home = os.open("/proc/self/ns/net", os.O_RDONLY)

    # -- making and removing

    def __enter__(self):
        remove_leftovers()
        atexit.register(self.remove)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
        try:
            self.make()
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(self, kind, *_):
        self.remove(show=kind is not None)

    def make(self):
        hub = self.prefix + "hub"
        ip("netns", "add", hub)
        for link in LINKS:
            ip("-n", hub, "link", "add", link, "type", "bridge")
            ip("-n", hub, "link", "set", link, "up")
        for number, host in enumerate(self.hosts, 1):
            space = self.prefix + host
            ip("netns", "add", space)
            ip("-n", space, "link", "set", "lo", "up")
            for link, net in LINKS.items():
                ip("-n", hub, "link", "add", f"{link}{number}", "type", "veth", "peer", "name", link,
                   "netns", space)
                ip("-n", hub, "link", "set", f"{link}{number}", "master", link, "up")
                ip("-n", space, "addr", "add", f"10.201.{net}.{number}/24", "dev", link)
                ip("-n", space, "addr", "add", f"fd00:201:{net}::{number}/64", "dev", link, "nodad")
                ip("-n", space, "link", "set", link, "up")

    def remove(self, show=False):
        for process in self.processes:
            process.process.kill()
            process.process.wait()
            if show:
                sys.stderr.write(f"---- {process.name}\n{process.log()[-6000:]}\n")
            process.discard()
        self.processes = []
        if self.home < 0:
            return
        self.setns(self.home)
        os.close(self.home)
        self.home = -1
        for name in re.findall(rf"^{self.prefix}\w+", ip("netns", "list"), re.MULTILINE):
            ip("netns", "del", name)

    # -- hosts

    @staticmethod
    def setns(fd):
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(fd, CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "setns")

    def enter(self, host):
        """This thread, and every thread and process that it starts, is on that host now."""
        with open(f"/run/netns/{self.prefix}{host}", "rb") as space:
            self.setns(space.fileno())

    def address(self, host, link="data", v6=False):
        number = self.hosts.index(host) + 1
        return f"fd00:201:{LINKS[link]}::{number}" if v6 else f"10.201.{LINKS[link]}.{number}"

    def start(self, host, args):
        """On that host: other file systems too, so that nothing but the network connects them."""
        process = Process(host, ["ip", "netns", "exec", self.prefix + host, *args])
        self.processes.append(process)
        return process

    def stop(self, process, code=0):
        got = process.stop()
        self.processes.remove(process)
        log = process.log()
        process.discard()
        assert got == code, f"{process.name} ended with {got}:\n{log[-4000:]}"
        assert "Sanitizer" not in log, log[-8000:]

    # -- links

    def cut(self, host, link="data"):
        """As if the cable was pulled: neither side sees its own port go down."""
        ip("-n", self.prefix + "hub", "link", "set", f"{link}{self.hosts.index(host) + 1}", "nomaster")

    def join(self, host, link="data"):
        ip("-n", self.prefix + "hub", "link", "set", f"{link}{self.hosts.index(host) + 1}", "master",
           link)

    def port(self, host, link, up):
        """The host's own port goes down, which it sees; or up again."""
        ip("-n", self.prefix + host, "link", "set", link, "up" if up else "down")

    def firewall(self, host, other, up=True):
        """What the host sends to the other one is dropped, on every link, so that neither can connect
        to the other; up=False: no longer."""
        for link in LINKS:
            for v6, bits in ((False, 32), (True, 128)):
                ip("-n", self.prefix + host, "-6" if v6 else "-4", "route", "add" if up else "del",
                   "blackhole", f"{self.address(other, link, v6)}/{bits}")

    def sent(self, host, link="data"):
        """Bytes that the host has sent over the link."""
        shown = ip("-n", self.prefix + host, "-json", "-statistics", "link", "show", "dev", link)
        return json.loads(shown)[0]["stats64"]["tx"]["bytes"]

    def throttle(self, host, bytes_per_s, link="data"):
        """What the host sends; None: no limit."""
        tc = ["tc", "-n", self.prefix + host, "qdisc"]
        if bytes_per_s is None:
            subprocess.run([*tc, "del", "dev", link, "root"], check=True)
            return
        subprocess.run([*tc, "replace", "dev", link, "root", "tbf", "rate",
                        f"{int(bytes_per_s * 8)}bit", "burst", "16kb", "latency", "100ms"], check=True)
