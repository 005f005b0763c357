"""Which addresses the writers may talk to; asked after every look-up, so a name cannot lie about where it leads."""

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

from shared.errors import StateStoreNotReady

# Metadata services that no general rule covers: AWS over IPv6, Azure's wire server, Alibaba, Oracle.
_METADATA: Final = tuple(
    ip_network(n) for n in ("fd00:ec2::254/128", "168.63.129.16/32", "100.100.100.200/32", "192.0.0.192/32")
)


def check_address(address: str, host: str, allowed: Iterable[IPv4Network | IPv6Network]) -> None:
    """Refuse to connect to the function's own host, its metadata service and its like.

    See docs/failure-modes.md#24-forbidden-addresses.

    Args:
        address: what `host` resolved to, the address that is about to be connected to.
        host: as the State Store names it, for the message.
        allowed: networks that the operator allows although they are refused.

    Raises:
        StateStoreNotReady: the address is refused; the sentence says how an operator allows it.
    """
    ip = ip_address(address.partition("%")[0])
    if isinstance(ip, IPv6Address) and ip.ipv4_mapped:
        ip = ip.ipv4_mapped
    if any(ip in network for network in allowed):
        return
    refused = ip.is_loopback or ip.is_link_local or ip.is_unspecified or ip.is_multicast
    if refused or any(ip in network for network in _METADATA):
        raise StateStoreNotReady(
            f"{host} leads to {ip}, which State Stores may not use: choose another endpoint,"
            f" or let the operator add {ip} to LANDFALL_ALLOWED_NETWORKS"
        )
