"""The addresses that a server listens on."""

from __future__ import annotations

import asyncio
import errno
import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from llamaherd.server import ServerSettings
from llamaherd.server.access import connection_listener
from llamaherd.server.access.connection_listener import listen
from llamaherd.server.common.limits import Limits
from serving import serve
from wire import GET, App, Client, listening


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


BOTH = ["127.0.0.1", "::1"] if has_ipv6() else ["127.0.0.1"]
needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no ::1")


def addresses(host: str, port: int) -> list[tuple[str, int]]:
    sockets = listen(host, port)
    found = [made.getsockname()[:2] for made in sockets]
    for made in sockets:
        made.close()
    return found


def free_port() -> int:
    return addresses("localhost", 0)[0][1]


def test_the_default_is_both_loopback_addresses_with_one_port() -> None:
    assert ServerSettings().host == "localhost"
    (port,) = {port for _, port in addresses("localhost", 0)}
    assert addresses("localhost", port) == [(host, port) for host in BOTH]


@pytest.mark.parametrize("host", ["127.0.0.1", pytest.param("::1", marks=needs_ipv6)])
def test_an_address_is_only_itself(host: str) -> None:
    port = free_port()
    assert addresses(host, port) == [(host, port)]


@pytest.mark.parametrize("number", connection_listener._NO_IPV6)
@pytest.mark.parametrize("when", ["socket", "bind"])
def test_without_ipv6_the_other_address_is_enough(
    monkeypatch: pytest.MonkeyPatch, number: int, when: str
) -> None:
    class NoIpv6(socket.socket):
        def __init__(self, family: int = -1, *arguments: Any, **options: Any) -> None:
            if family == socket.AF_INET6 and when == "socket":
                raise OSError(number, "no IPv6")
            super().__init__(family, *arguments, **options)

        def bind(self, address: Any) -> None:
            if self.family == socket.AF_INET6:
                raise OSError(number, "no IPv6")
            super().bind(address)

    monkeypatch.setattr(socket, "socket", NoIpv6)
    assert [host for host, _ in addresses("localhost", 0)] == ["127.0.0.1"]


@needs_ipv6
def test_a_port_in_use_on_one_of_the_two_is_an_error() -> None:
    for host in BOTH:
        port = free_port()
        (taken,) = listen(host, port)
        with taken, pytest.raises(OSError, match="in use") as refused:
            listen("localhost", port)
        assert refused.value.errno == errno.EADDRINUSE


@needs_ipv6
def test_a_free_port_is_free_on_both(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = listen("::1", 0)[0]
    wanted = iter([taken.getsockname()[1], 0])
    made = connection_listener._open

    def first_the_taken_one(family: int, address: tuple[Any, ...]) -> socket.socket:
        if family == socket.AF_INET and address[1] == 0:
            address = (address[0], next(wanted))
        return made(family, address)

    monkeypatch.setattr(connection_listener, "_open", first_the_taken_one)
    with taken:
        found = addresses("localhost", 0)
    assert [host for host, _ in found] == BOTH
    assert len({port for _, port in found}) == 1


def test_a_host_that_is_no_name_is_an_error() -> None:
    for host in ("a" * 70, "\udcff", "no-such-host.invalid"):
        with pytest.raises(OSError):  # noqa: PT011
            listen(host, 0)


@needs_ipv6
def test_the_limit_of_connections_is_that_of_both_together(
    run_on_loop: Callable[[Any], None],
) -> None:
    limits = Limits(max_connections=4, reserved_connections=1)

    async def main() -> None:
        app = App()
        async with listening(app, limits, host="localhost") as (_, port):
            busy = [await Client.connect((BOTH[i % 2], port), GET % b"wait") for i in range(4)]
            while app.n_begun < 4:
                await asyncio.sleep(0.01)
            for host in BOTH:
                client = await Client.connect((host, port), GET % b"v1/models")
                status, _, _ = await client.answer()
                assert status == 503
                client = await Client.connect((host, port), GET % b"health")
                assert (await client.answer())[0] == 200
            app.go.set()
            for client in busy:
                assert (await client.answer())[0] == 200
            for host in BOTH:
                client = await Client.connect((host, port), GET % b"v1/models")
                assert (await client.answer())[0] == 200

    run_on_loop(main())


@pytest.fixture(params=[(), ("--host", "127.0.0.1")], ids=["default", "127.0.0.1"])
def url_and_hosts(
    request: pytest.FixtureRequest, model_path: Path
) -> Iterator[tuple[str, set[str]]]:
    options = ("--n-ctx", "512", *request.param)
    with serve(model_path, options=options) as served:
        yield served.url, {"127.0.0.1"} if request.param else set(BOTH)


def test_a_server_answers_on_its_addresses_under_each_of_their_names(
    url_and_hosts: tuple[str, set[str]],
) -> None:
    url, hosts = url_and_hosts
    port = urlsplit(url).port
    assert re.fullmatch(r"http://(localhost|127\.0\.0\.1):\d+", url)
    assert httpx.get(url + "/health", timeout=30).status_code == 200
    for host in BOTH:
        shown = f"[{host}]" if ":" in host else host
        address = f"http://{shown}:{port}"
        if host not in hosts:
            with pytest.raises(httpx.ConnectError):
                httpx.get(address + "/v1/models", timeout=30)
            continue
        for name in (shown, "localhost", "[::1]", "127.0.0.1"):
            headers = {"host": f"{name}:{port}", "origin": f"http://{name}:{port}"}
            answer = httpx.get(address + "/v1/models", headers=headers, timeout=30)
            assert answer.status_code == 200, (host, name)
        foreign = {"host": f"{shown}:{port}", "origin": "http://[::2]"}
        assert httpx.get(address + "/v1/models", headers=foreign, timeout=30).status_code == 403
