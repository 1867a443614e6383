"""Pure machines: sessions, reply queue, statements, settings, authentication.

No sockets, no Trio, no clock.
"""
