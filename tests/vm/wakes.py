#!/usr/bin/env python3
"""Says whether this kernel wakes who polls a listener that gets the connections of one that was closed.

Without any of baton: two listeners of one SO_REUSEPORT group, and net.ipv4.tcp_migrate_req (Linux 5.14),
by which connections move where no program says so.
"""

import pathlib
import select
import socket
import sys

MIGRATE = pathlib.Path("/proc/sys/net/ipv4/tcp_migrate_req")
# So many that some wait at either listener.
CLIENTS = 32


def listen(port):
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen()
    listener.setblocking(False)
    return listener


def accept_all(listener):
    accepted = []
    try:
        while True:
            accepted.append(listener.accept())
    except BlockingIOError:
        return accepted


def main():
    closing = listen(0)
    port = closing.getsockname()[1]
    staying = listen(port)
    clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(CLIENTS)]
    poll = select.epoll()
    poll.register(staying, select.EPOLLIN | select.EPOLLET)
    own = accept_all(staying)
    while poll.poll(0):
        pass
    closing.close()
    woken = poll.poll(1)
    moved = accept_all(staying)
    if not moved and len(own) < len(clients):
        print("this kernel moves none")
    elif len(own) + len(moved) < len(clients) or not moved:
        sys.exit(f"of {len(clients)} connections {len(own)} came and {len(moved)} moved")
    else:
        print("who gets them is woken" if woken else "who gets them is not woken by this kernel")


if MIGRATE.exists():
    before = MIGRATE.read_text()
    MIGRATE.write_text("1")
    try:
        main()
    finally:
        MIGRATE.write_text(before)
else:
    main()
