"""The roles that the tests of session state log in as and become, and a pooler's databases for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.support.pooler import ORIGIN_PASSWORD_VARIABLE
from tests.support.target import DATABASE, PASSWORD, USER

if TYPE_CHECKING:
    from trio_pool.cli.postgres import LocalPostgres

# The application, one with settings of its own, a superuser, one whose settings change.
ROLES = (USER, "lily", "boss", "mona")

# What the application may become: ada and bob.
SET_UP = f"""
    create role ada;
    create role bob;
    grant ada, bob to {USER};
    alter role ada set work_mem = '5MB';
    create role lily login password '{{password}}';
    grant ada, bob to lily;
    alter role lily set work_mem = '7MB';
    alter role lily set search_path = 'lily', 'public';
    alter role lily set datestyle = 'German';
    alter role lily in database {DATABASE} set statement_timeout = '70s';
    alter role lily set app.tenant = 'of lily';
    create role boss superuser login password '{{password}}';
    create role mona login password '{{password}}';
"""


def create_roles(pg: LocalPostgres) -> None:
    """Create them, unless they exist."""
    if not pg.run_sql("select 1 from pg_roles where rolname = 'boss'").strip():
        pg.run_sql(SET_UP.format(password=PASSWORD.replace("'", "''")))


def edge_configuration(origin_port: int, pool_size: int, lease_wait: str) -> dict[str, Any]:
    """The same databases at an edge of a pooler that has them."""
    return {
        "users": {role: {"password": PASSWORD} for role in ROLES},
        "databases": {
            role: {
                "origin": f"trio-pool://{role}@127.0.0.1:{origin_port}/{role}?sslmode=disable",
                "password_env": ORIGIN_PASSWORD_VARIABLE,
                "pool_size": pool_size,
            }
            for role in ROLES
        },
        "timeouts": {"lease_wait": lease_wait},
    }


def configuration(pg: LocalPostgres, pool_size: int, lease_wait: str) -> dict[str, Any]:
    """A database for each role, named like it: a pool logs in as the role that its clients log in as."""
    return {
        "users": {role: {"password": PASSWORD} for role in ROLES},
        "databases": {
            role: {
                "origin": f"postgresql://{role}@{pg.host}:{pg.port}/{DATABASE}?sslmode=disable",
                "password_env": ORIGIN_PASSWORD_VARIABLE,
                "pool_size": pool_size,
            }
            for role in ROLES
        },
        "timeouts": {"lease_wait": lease_wait},
    }
