"""What `[tunnel]` and `via=tunnel` may say."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.edge.tunnelled import NAME, Papers, edge_config
from trio_pool.config import Config, ConfigurationError, parse, parse_origin
from trio_pool.net.tunnel import unusable

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture
def papers(tmp_path: Path) -> Papers:
    return Papers(tmp_path)


def test_the_documented_configurations_are_right(papers: Papers) -> None:
    """Both files of docs/tunnel.md are accepted, and one names what the other connects to."""
    for name in ("edge.crt", "edge.key", "frankfurt.crt", "frankfurt.key", "ca.crt"):
        (papers.directory / name).touch()
    texts = re.findall(r"```toml\n(.*?)```", (ROOT / "docs" / "tunnel.md").read_text(), re.DOTALL)
    environ = {"ALICE_PASSWORD": "a", "EDGE_PASSWORD": "e", "APP_PASSWORD": "p"}
    edge, origin = (parse(text, environ=environ, base=papers.directory) for text in texts)
    assert edge.tunnel.listen is not None
    assert edge.databases["app"].origin.hosts[0][0] in edge.tunnel.listen.origins
    assert origin.listen.addresses == ()
    assert [edge.port for edge in origin.tunnel.dial["edges"].edges] == [edge.tunnel.listen.address.port]


def test_the_documented_commands_make_certificates(tmp_path: Path) -> None:
    """Those of docs/tunnel.md make files that the documented configurations can use, and that match."""
    openssl = shutil.which("openssl")
    if openssl is None or "OpenSSL 3" not in subprocess.check_output([openssl, "version"], text=True):
        pytest.skip("there is no OpenSSL 3")
    text = (ROOT / "docs" / "tunnel.md").read_text()
    (script,) = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    subprocess.run(["sh", "-euc", script], cwd=tmp_path, check=True, capture_output=True)
    environ = {"ALICE_PASSWORD": "a", "EDGE_PASSWORD": "e", "APP_PASSWORD": "p"}
    for each in re.findall(r"```toml\n(.*?)```", text, re.DOTALL):
        assert list(unusable(parse(each, environ=environ, base=tmp_path).tunnel)) == []
    for name in ("edge.crt", "frankfurt.crt"):
        subprocess.run([openssl, "verify", "-CAfile", "ca.crt", name], cwd=tmp_path, check=True)


def test_an_origin_by_tunnel_is_spelled_as_written() -> None:
    """The URL comes back as it was, without a port, which it has no use for."""
    url = "trio-pool://app@frankfurt,paris/db?via=tunnel"
    assert str(parse_origin(url, Path())) == url


def without_listener(data: dict[str, Any]) -> str:
    del data["tunnel"]
    return "the origin is reached by tunnels, and nothing listens for them"


def stranger(data: dict[str, Any]) -> str:
    data["tunnel"]["listen"]["origins"] = ["berlin"]
    return f'"{NAME}" is no origin that may come by a tunnel'


def nobody(data: dict[str, Any]) -> str:
    data["tunnel"]["listen"]["origins"] = []
    return "is empty, so no origin may connect"


def several_workers(data: dict[str, Any]) -> str:
    data["listen"]["workers"] = 2
    return "each tunnel leads to one process, so several workers cannot share them"


def taken(data: dict[str, Any]) -> str:
    data["listen"]["addresses"] = ["127.0.0.1:7432"]
    data["tunnel"]["listen"]["address"] = "127.0.0.1:7432"
    return '"127.0.0.1:7432" is taken already'


def no_file(data: dict[str, Any]) -> str:
    data["tunnel"]["listen"]["client_ca"] = "nowhere.crt"
    return "there is no file"


def no_authority(data: dict[str, Any]) -> str:
    del data["tunnel"]["listen"]["client_ca"]
    return "is missing"


def no_edge(data: dict[str, Any]) -> str:
    listen = data["tunnel"]["listen"]
    data["tunnel"]["dial"] = {
        "nowhere": {"edges": [], "certificate": listen["certificate"], "ca": listen["client_ca"]}
    }
    return "is empty"


def no_ping(data: dict[str, Any]) -> str:
    data["tunnel"]["listen"]["ping"] = "0"
    return "0 is no length of time"


def tls_parameter(data: dict[str, Any]) -> str:
    data["databases"]["app"]["origin"] += "&sslmode=require"
    return "the origin has the parameter sslmode, which has no use with via=tunnel"


def other_way(data: dict[str, Any]) -> str:
    data["databases"]["app"]["origin"] = "trio-pool://app@frankfurt/app?via=pigeon"
    return "the origin has an unknown via"


def no_address(data: dict[str, Any]) -> str:
    data["listen"]["addresses"] = []
    return "is empty"


@pytest.mark.parametrize(
    "spoil",
    [
        without_listener, stranger, nobody, several_workers, taken, no_file, no_authority, no_edge, no_ping,
        tls_parameter, other_way, no_address,
    ],
)  # fmt: skip
def test_a_contradiction_is_found(papers: Papers, spoil: Callable[[dict[str, Any]], str]) -> None:
    """What cannot work is refused when the file is read, in one problem."""
    data = edge_config(papers.listen())
    Config.from_dict(data)
    expected = spoil(data)
    with pytest.raises(ConfigurationError) as raised:
        Config.from_dict(data)
    (problem,) = raised.value.problems
    assert problem.what.startswith(expected)
