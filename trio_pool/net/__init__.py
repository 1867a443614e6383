"""Sockets: the poller, transports, listeners, the lives of clients and servers."""
