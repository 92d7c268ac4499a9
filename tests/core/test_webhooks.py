"""Which URLs a webhook may have, and which addresses may be connected to."""

import ipaddress

import msgspec
import pytest

from salver.core.errors import InvalidRequest, InvalidSettings, WebhookNotAllowed
from salver.core.webhooks import (
    BEFORE_STEP,
    AllowList,
    Target,
    Webhook,
    check_webhooks,
    path_of,
    read_allow_list,
    target_of,
)

HOOK = Webhook("desk", "https://desk.example/x", (BEFORE_STEP,))
ALLOWED = read_allow_list("desk.example", "")


@pytest.mark.parametrize(
    ("url", "target", "path"),
    [
        ("https://Desk.Example", ("https", "desk.example", 443), "/"),
        ("http://desk.example:8080/a?b=c", ("http", "desk.example", 8080), "/a?b=c"),
        ("HTTPS://10.0.0.1/x", ("https", "10.0.0.1", 443), "/x"),
        ("https://[2001:DB8::1]:444/", ("https", "2001:db8::1", 444), "/"),
        ("https://[::ffff:127.0.0.1]/", ("https", "::ffff:7f00:1", 443), "/"),
        ("http://desk.example?x", ("http", "desk.example", 80), "/?x"),
    ],
)
def test_where_a_url_leads(url: str, target: tuple[str, str, int], path: str) -> None:
    """Scheme, host and port are told in one spelling each."""
    assert tuple(target_of(url)) == target
    assert path_of(url) == path


@pytest.mark.parametrize(
    "url",
    [
        "",
        "desk.example/x",
        "ftp://desk.example/",
        "file://localhost/etc/passwd",
        "gopher://desk.example/",
        "https:///x",
        "https://",
        "https://user@desk.example/",
        "https://user:password@desk.example/",
        "https://desk.example@127.0.0.1/",
        "https://desk.example#@127.0.0.1/",
        "https://desk.example/#fragment",
        "https://desk.example\\@127.0.0.1/",
        "https://desk.example:0/",
        "https://desk.example:/",
        "https://desk.example:65536/",
        "https://desk.example:-1/",
        "https://desk.example:80 80/",
        "https://desk.example.:443/",
        "https://desk..example/",
        "https://2130706433/",
        "https://0x7f000001/",
        "https://0x7f.0.0.1/",
        "https://017700000001/",
        "https://0177.0.0.1/",
        "https://127.1/",
        "https://127.0.0.1.1/",
        "https://1.2.3.0x4/",
        "https://[::1%25lo]/",
        "https://[::1%lo]/",
        "https://::1/",
        "https://[desk.example]/",
        "https://[127.0.0.1]/",
        "https://dеsk.example/",  # a Cyrillic letter
        "https://des\N{KELVIN SIGN}.example/",
        "https://desk.example/\N{LATIN SMALL LETTER LONG S}",
        "https://①②⑦.0.0.1/",
        "https://desk.example/\r\nHost: x",
        "https://desk.example/\tx",
        "https://desk%2eexample/",
        "https://" + "a." * 130 + "example/",
        "https://desk.example/" + "x" * 2048,
    ],
)
def test_what_could_be_read_in_two_ways_is_refused(url: str) -> None:
    """Users, fragments, numbers for addresses, odd hosts and ports are no webhook's."""
    with pytest.raises(InvalidRequest):
        target_of(url)


@pytest.mark.parametrize(
    "change",
    [
        {"name": "no/name"},
        {"on": ()},
        {"on": ("before_step", "before_step")},
        {"on": ("never",)},
        {"timeout_s": 0.0},
        {"timeout_s": float("nan")},
        {"timeout_s": 61.0},
        {"attempts": 0},
        {"attempts": 21},
        {"budget_s": 0.5},
        {"budget_s": float("inf")},
    ],
)
def test_what_a_webhook_cannot_mean_is_refused(change: dict[str, object]) -> None:
    """Every number has its bounds, and events their names."""
    check_webhooks((HOOK,), ALLOWED)
    with pytest.raises(InvalidRequest if "name" not in change else Exception):
        check_webhooks((msgspec.structs.replace(HOOK, **change),), ALLOWED)


def test_names_are_told_apart_and_there_are_not_too_many() -> None:
    """A second webhook of the same name could hide the first."""
    with pytest.raises(InvalidRequest, match="two webhooks"):
        check_webhooks((HOOK, HOOK), ALLOWED)
    many = tuple(msgspec.structs.replace(HOOK, name=f"n{n}") for n in range(9))
    with pytest.raises(InvalidRequest, match="at most 8"):
        check_webhooks(many, ALLOWED)


def test_hosts_are_allowed_by_name_and_port() -> None:
    """None is by default; the error names the setting. Without a port the scheme's own is meant."""
    with pytest.raises(WebhookNotAllowed, match=r"control\.webhook_hosts"):
        check_webhooks((HOOK,), AllowList())
    allowed = read_allow_list(" Desk.example, chat.example:8443,10.0.0.1, 2001:db8::1 ,", "")
    good = ["https://desk.example", "http://desk.example/", "https://chat.example:8443/x"]
    for url in [*good, "https://10.0.0.1/", "https://[2001:db8::1]/"]:
        check_webhooks((msgspec.structs.replace(HOOK, url=url),), allowed)
    bad = ["https://desk.example:8443/", "https://chat.example/", "https://a.desk.example/"]
    for url in [*bad, "https://desk.example.evil.example/", "http://desk.example:443/"]:
        with pytest.raises(WebhookNotAllowed):
            check_webhooks((msgspec.structs.replace(HOOK, url=url),), allowed)


@pytest.mark.parametrize(
    ("hosts", "networks"),
    [
        ("https://desk.example", ""),
        ("desk.example/x", ""),
        ("*.example", ""),
        ("desk.example:x", ""),
        ("127.1", ""),
        ("", "10.0.0.1/8"),
        ("", "private"),
        (",".join(f"h{n}.example" for n in range(300)), ""),
    ],
)
def test_settings_that_are_no_hosts_and_networks_are_refused(hosts: str, networks: str) -> None:
    """They are told where control starts."""
    with pytest.raises(InvalidSettings, match=r"control\.webhook_"):
        read_allow_list(hosts, networks)


NOT_PUBLIC = [
    "127.0.0.1", "127.9.9.9", "0.0.0.0", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1",
    "169.254.169.254", "100.64.0.1", "192.0.0.1", "192.0.2.1", "198.18.0.1", "198.51.100.1",
    "203.0.113.1", "224.0.0.1", "240.0.0.1", "255.255.255.255",
    "::", "::1", "fe80::1", "fc00::1", "fd00:ec2::254", "ff02::1", "2001:db8::1", "100::1",
    "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "::10.0.0.1",
    "2002:7f00:1::", "2002:a9fe:a9fe::1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::1", "fec0::1",
]  # fmt: skip


@pytest.mark.parametrize("text", NOT_PUBLIC)
def test_addresses_that_are_not_public_are_refused(text: str) -> None:
    """Also those that stand for one: mapped, compatible, tunnelled and translated addresses."""
    address = ipaddress.ip_address(text)
    target = Target("https", "desk.example", 443)
    assert not ALLOWED.may_reach(address, target)
    network = ipaddress.ip_network(f"{text}/{address.max_prefixlen}")
    assert AllowList(frozenset(), (network,)).may_reach(address, target)
    named = AllowList(frozenset({(str(address), None)}))
    assert named.may_reach(address, target)
    assert not named.may_reach(address, Target("https", "desk.example", 8443))


@pytest.mark.parametrize(
    "text", ["8.8.8.8", "93.184.216.34", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]
)
def test_public_addresses_are_connected_to(text: str) -> None:
    """Whatever their form."""
    address = ipaddress.ip_address(text)
    assert ALLOWED.may_reach(address, Target("https", "desk.example", 443))
