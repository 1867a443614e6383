"""PgBouncer's settings and what each is called here: one table for the translator and for docs/migration.md.

Every key of the documentation of PgBouncer 1.25, and those of older and newer versions that are known. What
is said of a key is Markdown; the comments in an imported file are made of the same text.
"""

from __future__ import annotations

from typing import Final

import attrs


@attrs.frozen
class Setting:
    """A key of PgBouncer's.

    `here`: what it becomes, empty if it has no equivalent. `remark`: what differs, or why there is none, or
    what does its work. `default`: PgBouncer's, as it spells it. `home`: where a comment on it stands.
    """

    name: str
    here: str = ""
    remark: str = ""
    default: str = ""
    home: tuple[str, ...] = ()


def _none(home: str, remark: str, *names: str) -> tuple[Setting, ...]:
    """Keys without an equivalent, for one reason."""
    return tuple(Setting(name, "", remark, home=tuple(home.split(".")) if home else ()) for name in names)


_LISTEN = "listen"
_TLS_CHOICE = "Python's `ssl` module chooses: TLS 1.2 and 1.3 with the system's ciphers and curves."
_SERVICE_MANAGER = "Logs go to standard error, where the service manager takes them."
_DNS = "Names are looked up by the system's resolver for each new connection."

PGBOUNCER: Final = (
    Setting("listen_addr", "`listen.addresses`", "`*` becomes `0.0.0.0` and `[::]`."),
    Setting("listen_port", "`listen.addresses`", default="6432"),
    Setting(
        "unix_socket_dir",
        "`listen.addresses`, and the host of an origin that names none",
        "`unix:DIRECTORY/.s.PGSQL.PORT`; sockets in the abstract namespace (`@`) are not supported.",
        "/tmp",
    ),
    *_none(_LISTEN, "Everybody may connect to the socket, as to PostgreSQL's; the permissions of its "
        "directory "
           "decide who reaches it.", "unix_socket_mode", "unix_socket_group"),
    Setting("max_client_conn", "`listen.max_clients`", "The default here is 10000.", "100"),
    Setting("client_tls_sslmode", "`listen.tls.mode`", "`prefer` is `allow`; `verify-ca` and `verify-full` "
        "are "
            "`require` with `client_ca`, where a client without a certificate is let in unless its method "
            "is `cert`.",
            "disable"),
    Setting("client_tls_key_file", "`listen.tls.key`"),
    Setting("client_tls_cert_file", "`listen.tls.certificate`"),
    Setting("client_tls_ca_file", "`listen.tls.client_ca`", "Only where certificates of clients are "
        "verified."),
    *_none("listen.tls", _TLS_CHOICE, "client_tls_protocols", "client_tls_ciphers", "client_tls13_ciphers",
           "client_tls_ecdhcurve", "client_tls_dheparams"),
    Setting("tcp_keepalive", "`listen.tcp_keepalive_idle`; `keepalives` of an origin", "On here too by "
        "default, and "
            "a vanished client is noticed after two minutes.", "1"),
    Setting("tcp_keepidle", "`listen.tcp_keepalive_idle`; `keepalives_idle` of an origin"),
    Setting("tcp_keepintvl", "`listen.tcp_keepalive_interval`; `keepalives_interval` of an origin"),
    Setting("tcp_keepcnt", "`listen.tcp_keepalive_count`; `keepalives_count` of an origin"),
    Setting("tcp_user_timeout", "`listen.tcp_user_timeout`; `tcp_user_timeout` of an origin",
            "Milliseconds there, a duration in `[listen]`."),
    *_none(_LISTEN, "`listen.workers` starts the processes and shares the addresses among them.",
        "so_reuseport"),
    *_none(_LISTEN, "With `listen.workers`, cancel requests find their process by themselves.", "peer_id"),
    *_none(_LISTEN, "Nothing to set: sockets are read and written in fair turns, messages of any size pass, "
        "and the "
           "system sizes its buffers.", "pkt_buf", "max_packet_size", "sbuf_loopcnt", "tcp_socket_buffer",
           "tcp_defer_accept", "listen_backlog"),
    Setting("auth_type", "`auth.method`", "`plain` is `password`; `hba` is `auth.rules`; `trust` lets in "
        "whom "
            "`auth_file` names, which takes a rule here; `any` needs an origin with a user; `ldap` and "
            "`pam` have no "
            "equivalent.", "md5"),
    Setting("auth_file", "`[users.NAME]` with `password`", "PostgreSQL's SCRAM secrets and MD5 hashes are "
        "taken as "
            "they are."),
    Setting("auth_hba_file", "`auth.rules`", "`peer`, `ldap` and user name maps have no equivalent; "
        "`sameuser` becomes "
            "one rule for each name."),
    *_none("auth", "User name maps have no equivalent: with `cert`, the common name of a certificate is the "
        "user's "
           "name.", "auth_ident_file"),
    Setting("auth_user", "`auth.query_user`, `auth.query_password`"),
    Setting("auth_query", "`auth.query`", "Its `search_path` is `pg_catalog, pg_temp`: functions need the "
        "name of their "
            "schema.", "a query of `pg_authid`"),
    Setting("auth_dbname", "`auth.query_database`", "The name at the origin, rather than that of a table."),
    *_none("auth", "LDAP has no equivalent.", "auth_ldap_options"),
    *_none("auth", "PAM has no equivalent.", "auth_pam_confdir"),
    *_none("auth", "Secrets are made by PostgreSQL; their number of iterations is part of them.",
        "scram_iterations"),
    Setting("pool_mode", "`databases.NAME.pool_mode`", "The default here is `transaction`. `statement` "
        "becomes "
            "`transaction`: transactions of several statements are then allowed.", "session"),
    Setting("default_pool_size", "`databases.NAME.pool_size`", default="20"),
    Setting("min_pool_size", "`databases.NAME.min_pool_size`", default="0"),
    *_none("databases", "There is no reserve: choose a `pool_size` that is large enough. Who waits is "
        "served in turn.",
           "reserve_pool_size", "reserve_pool_timeout"),
    Setting("max_db_connections", "`databases.NAME.max_servers`", "A pool whose clients wait gets a "
        "connection from "
            "another, instead of waiting for one to time out.", "0"),
    Setting("max_db_client_connections", "`databases.NAME.max_clients`", default="0"),
    Setting("max_user_connections", "`databases.NAME.pool_size`, `users.NAME.pool_size`", "Bounds each "
        "pool; those of "
            "several databases are not added up. `databases.NAME.max_leases_per_user` shares one pool "
            "fairly.", "0"),
    Setting("max_user_client_connections", "`users.NAME.max_clients`", "For each user in the configuration.",
            "0"),
    *_none("databases", "The server connection that was used last is used first.", "server_round_robin"),
    *_none("session", "Not needed: every setting of a client is carried along.", "track_extra_parameters"),
    *_none("session", "Not needed: every parameter is accepted, and takes effect.",
        "ignore_startup_parameters"),
    *_none("session", "Not needed: what a client leaves is found and cleaned up, in both pool modes.",
           "server_reset_query", "server_reset_query_always"),
    *_none("session", "Simple queries cannot be refused.", "disable_pqexec"),
    *_none("session", "The console and the logs name the client's address.", "application_name_add_host"),
    Setting("max_prepared_statements", "`session.server_prepared_statements`", "Always on; the default here "
        "is 500.",
            "200"),
    *_none("databases", "Not needed: a lost server connection is noticed at once, since idle ones are "
        "listened to.",
           "server_check_query", "server_check_delay"),
    *_none("databases", "A connection that has to go is closed between transactions, or at the end of a "
        "session.",
           "server_fast_close"),
    Setting("server_lifetime", "`timeouts.server_lifetime`", "`0`, to use a connection once, becomes `1ms`.",
            "3600"),
    Setting("server_idle_timeout", "`timeouts.server_idle`", default="600"),
    Setting("server_connect_timeout", "`timeouts.server_connect`", default="15"),
    *_none("timeouts", "After a failure connecting is tried again with growing pauses, and clients wait or "
        "get the "
           "cause.", "server_login_retry"),
    Setting("client_login_timeout", "`timeouts.client_login`", "The default here is `15s`.", "60"),
    Setting("query_timeout", "`timeouts.query`", "The statement is cancelled; client and server connection "
        "stay.", "0"),
    Setting("query_wait_timeout", "`timeouts.lease_wait`", "The statement fails; the client stays. The "
        "default here is "
            "`15s`.", "120"),
    Setting("query_wait_notify", "`timeouts.wait_notice`", "Off by default here.", "5"),
    Setting("client_idle_timeout", "`timeouts.client_idle`", default="0"),
    Setting("idle_transaction_timeout", "`timeouts.idle_in_transaction`", "The transaction is rolled back; "
        "the client "
            "stays. The default here is `1min`.", "0"),
    Setting("transaction_timeout", "`timeouts.transaction`", "The transaction is rolled back; the client "
        "stays.", "0"),
    *_none("timeouts", "A cancel request does not wait: a statement that waits is cancelled in the queue. "
           "`timeouts.cancel` is something else, the time to cancel, drain and roll back.",
           "cancel_wait_timeout"),
    *_none("timeouts", "`SUSPEND` waits for what is under way.", "suspend_timeout"),
    *_none("databases", "Pools without clients cost nothing; their server connections end by `server_idle`.",
           "autodb_idle_timeout", "pool_idle_timeout"),
    *_none("databases", _DNS, "dns_max_ttl", "dns_nxdomain_ttl", "dns_zone_check_period", "resolv_conf"),
    Setting("server_tls_sslmode", "`sslmode` of an origin", default="prefer"),
    Setting("server_tls_ca_file", "`sslrootcert` of an origin", "Only with `verify-ca` and `verify-full`: "
        "with it, "
            "`require` would verify too."),
    Setting("server_tls_key_file", "`sslkey` of an origin"),
    Setting("server_tls_cert_file", "`sslcert` of an origin"),
    *_none("databases", _TLS_CHOICE, "server_tls_protocols", "server_tls_ciphers", "server_tls13_ciphers"),
    Setting("admin_users", "`admin.users`", "They log in to the console with their passwords."),
    *_none("admin", "The console has no users who may only look: `/metrics` and the status page are for "
        "them.",
           "stats_users"),
    *_none("admin", "Clients get nothing that PostgreSQL would not send.", "login_notify_message"),
    *_none("", _SERVICE_MANAGER, "logfile", "syslog", "syslog_ident", "syslog_facility"),
    *_none("", "The service manager knows the process.", "pidfile", "service_name", "job_name"),
    *_none("", "The service manager starts the process as the right user.", "user"),
    *_none("", "`trio-pool serve --config` names the file; a reload reads it again.", "conffile"),
    *_none("", "`trio-pool serve --log-level` says how much is logged.", "log_connections",
        "log_disconnections",
           "log_pooler_errors", "verbose"),
    *_none("", "Statistics are in `/metrics` and in the console, not in the log.", "log_stats",
        "stats_period"),
)  # fmt: skip
"""Section [pgbouncer]."""

DATABASES: Final = (
    Setting("host", "the host of `origin`", "Without one, the Unix socket in `unix_socket_dir`."),
    Setting("port", "the port of `origin`", default="5432"),
    Setting("dbname", "the path of `origin`", default="the name of the entry"),
    Setting("user", "the user of `origin`", "Without one, each client's user has a pool of its own, as in "
        "PgBouncer."),
    Setting("password", "`databases.NAME.password`", "Without one, that of the user in `auth_file`."),
    Setting("pool_mode", "`databases.NAME.pool_mode`"),
    Setting("pool_size", "`databases.NAME.pool_size`"),
    Setting("min_pool_size", "`databases.NAME.min_pool_size`"),
    *_none("databases", "There is no reserve: choose a `pool_size` that is large enough.",
        "reserve_pool_size",
           "reserve_pool"),
    Setting("max_db_connections", "`databases.NAME.max_servers`", "Where all clients share a pool, "
        "`pool_size`."),
    Setting("max_db_client_connections", "`databases.NAME.max_clients`"),
    Setting("server_lifetime", "`databases.NAME.timeouts.server_lifetime`"),
    Setting("query_wait_timeout", "`databases.NAME.timeouts.lease_wait`"),
    Setting("client_encoding", "`options=-c client_encoding=...` of `origin`"),
    Setting("datestyle", "`options=-c datestyle=...` of `origin`"),
    Setting("timezone", "`options=-c timezone=...` of `origin`"),
    Setting("application_name", "`application_name` of `origin`"),
    Setting("load_balance_hosts", "`load_balance_hosts` of `origin`", "`round-robin` becomes `random`.",
            "round-robin"),
    Setting("target_session_attrs", "`target_session_attrs` of `origin`", default="any"),
    Setting("auth_user", "`auth.query_user`", "One for all databases."),
    Setting("auth_dbname", "`auth.query_database`", "One for all databases."),
    *_none("databases", "`auth.query` is one for all databases.", "auth_query"),
    *_none("databases", "Nothing runs at the start of a server connection: give the role or the database "
        "what it needs "
           "with `ALTER ROLE ... SET`, or the origin `options=-c name=value`.", "connect_query"),
)  # fmt: skip
"""Section [databases], in a connection string."""

USERS: Final = (
    Setting("pool_size", "`users.NAME.pool_size`", "Of pools that are the user's own; where an origin names "
        "the user, "
            "`databases.NAME.pool_size`."),
    *_none("users", "There is no reserve: choose a `pool_size` that is large enough.", "reserve_pool_size"),
    Setting("pool_mode", "`databases.NAME.pool_mode`", "Where an origin names the user; otherwise a "
        "database has one "
            "mode for all users: give it a second name with the other mode."),
    Setting("max_user_connections", "`users.NAME.pool_size`", "Bounds each pool; those of several databases "
        "are not "
            "added up."),
    Setting("max_user_client_connections", "`users.NAME.max_clients`"),
    Setting("query_timeout", "`users.NAME.timeouts.query`"),
    Setting("query_wait_timeout", "`users.NAME.timeouts.lease_wait`"),
    Setting("idle_transaction_timeout", "`users.NAME.timeouts.idle_in_transaction`"),
    Setting("transaction_timeout", "`users.NAME.timeouts.transaction`"),
    Setting("client_idle_timeout", "`users.NAME.timeouts.client_idle`"),
)  # fmt: skip
"""Section [users]."""

PEERS: Final = _none(_LISTEN, "With `listen.workers`, cancel requests find their process by themselves.",
                     "host",
                     "port",
                     "pool_size")  # fmt: skip
"""Section [peers]."""

SECTIONS: Final = {"pgbouncer": PGBOUNCER, "databases": DATABASES, "users": USERS, "peers": PEERS}


def setting(section: str, name: str) -> Setting | None:
    """What is known of a key, None for one that nobody knows."""
    return next((one for one in SECTIONS.get(section, ()) if one.name == name), None)
