"""Which addresses State Stores may lead to (docs/failure-modes.md#24-forbidden-addresses)."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from shared.errors import StateStoreNotReady
from shared.writers.network import check_address

REFUSED = {
    "loopback": "127.0.0.1",
    "all-of-loopback": "127.255.3.4",
    "loopback-v6": "::1",
    "link-local": "169.254.1.1",
    "metadata": "169.254.169.254",
    "lambda-runtime": "169.254.100.1",
    "link-local-v6": "fe80::1",
    "link-local-v6-with-zone": "fe80::1%eth0",
    "metadata-v6": "fd00:ec2::254",
    "azure": "168.63.129.16",
    "alibaba": "100.100.100.200",
    "oracle": "192.0.0.192",
    "unspecified": "0.0.0.0",
    "unspecified-v6": "::",
    "multicast": "224.0.0.1",
    "multicast-v6": "ff02::1",
    "mapped-loopback": "::ffff:127.0.0.1",
    "mapped-metadata": "::ffff:169.254.169.254",
}
ALLOWED = {"public": "93.184.216.34", "private": "10.0.0.7", "private-2": "192.168.1.1", "public-v6": "2606:4700::1"}


@pytest.mark.parametrize("address", REFUSED.values(), ids=REFUSED)
def test_addresses_of_the_function_itself_are_refused_with_a_way_out(address: str) -> None:
    with pytest.raises(StateStoreNotReady, match="LANDFALL_ALLOWED_NETWORKS") as caught:
        check_address(address, "store.example", ())
    assert "store.example" in str(caught.value)


@pytest.mark.parametrize("address", ALLOWED.values(), ids=ALLOWED)
def test_other_addresses_are_used(address: str) -> None:
    check_address(address, "store.example", ())


@pytest.mark.parametrize(
    ("address", "network", "passes"),
    [
        pytest.param("127.0.0.1", "127.0.0.0/8", True, id="named-network"),
        pytest.param("::ffff:127.0.0.1", "127.0.0.0/8", True, id="mapped-into-it"),
        pytest.param("169.254.169.254", "127.0.0.0/8", False, id="another-network"),
        pytest.param("::1", "127.0.0.0/8", False, id="another-family"),
        pytest.param("fd00:ec2::254", "fd00:ec2::254/128", True, id="one-address"),
    ],
)
def test_an_operator_allows_networks_one_by_one(address: str, network: str, passes: bool) -> None:
    if passes:
        check_address(address, "store.example", [ip_network(network)])
        return
    with pytest.raises(StateStoreNotReady):
        check_address(address, "store.example", [ip_network(network)])
