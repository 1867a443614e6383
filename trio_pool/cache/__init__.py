"""The query cache: what may be kept, for how long it holds, and what ends it. Pure: no sockets, no clock.

It must never know a client or a server, nor how a question is sent.
"""
