"""One attempt goes to the very address that was checked, signed, and trusts no answer."""

import asyncio
import hashlib
import hmac
import re
import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509

from salver.control.webhooks.attempt import FAILED, NO, OK, Attempt
from salver.control.webhooks.resolver import Resolver
from salver.control.webhooks.sender import Sender, trusting
from salver.core.clock import ManualClock
from salver.core.errors import InvalidSettings
from salver.core.webhooks import BEFORE_STEP, AllowList, Webhook, read_allow_list
from salver.registry.records import Delivery
from tests.certificates import Authority
from tests.control.receiver import Receiver, Reply, Told

BODY = b'{"id":"d1","event":"before_step"}'
SECRET = b"one"
LOOPBACK = "127.0.0.0/8, ::1/128"


class Names:
    """A resolver with a table, which tells how often it was asked."""

    def __init__(self, *answers: list[str]) -> None:
        self._answers = list(answers)
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> list[str]:
        """Return the next answer, the last again and again."""
        self.asked.append(host)
        return self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]


def delivery(url: str, timeout_s: float = 5.0) -> Delivery:
    """Return something to be told."""
    hook = Webhook("desk", url, (BEFORE_STEP,), timeout_s)
    return Delivery("d1", "e", 1, 1, BEFORE_STEP, hook, BODY)


def send(
    url: str,
    allowed: AllowList,
    names: Names | Resolver | None = None,
    context: ssl.SSLContext | None = None,
    timeout_s: float = 5.0,
) -> Attempt:
    """Make one attempt."""
    resolve = names or Names(["127.0.0.1"])
    sender = Sender(allowed, [SECRET], context or trusting(""), resolve, ManualClock())

    async def run() -> Attempt:
        return await sender(delivery(url, timeout_s))

    return asyncio.run(run())


def local(port: int) -> AllowList:
    """Return what allows a name at a port, and that it leads here."""
    return read_allow_list(f"desk.example:{port}", LOOPBACK)


def test_what_is_sent_is_signed() -> None:
    """Time and body are signed with the secret; id and event are headers, and the path is kept."""
    with Receiver() as receiver:
        url = f"http://desk.example:{receiver.port}/hook?key=1"
        assert send(url, local(receiver.port)) == Attempt(OK, 200)
    (told,) = receiver.told
    assert (told.path, told.body) == ("/hook?key=1", BODY)
    assert told.headers["host"] == f"desk.example:{receiver.port}"
    assert told.headers["x-salver-delivery"] == "d1"
    assert told.headers["x-salver-event"] == BEFORE_STEP
    assert told.headers["content-type"] == "application/json"
    found = re.fullmatch(r"t=(\d+),v1=([0-9a-f]{64})", told.headers["x-salver-signature"])
    assert found is not None
    expected = hmac.new(SECRET, found[1].encode() + b"." + BODY, hashlib.sha256).hexdigest()
    assert found[2] == expected
    assert int(found[1]) == ManualClock().unix_ns() // 10**9


def test_the_snippet_of_the_docs_verifies_it() -> None:
    """What receivers are told to do takes what is sent, and nothing that was changed."""
    page = (Path(__file__).parents[2] / "docs" / "webhooks.md").read_text()
    found = re.search(r"```python\n(.*?)```", page, re.DOTALL)
    assert found is not None
    scope: dict[str, Callable[..., bool]] = {}
    exec(found[1], scope)
    with Receiver() as receiver:
        send(f"http://desk.example:{receiver.port}/", local(receiver.port))
    header, body = receiver.told[0].headers["x-salver-signature"], receiver.told[0].body
    now_s = ManualClock().unix_ns() / 1e9
    is_ours = scope["is_ours"]
    assert is_ours(SECRET, header, body, now_s)
    assert is_ours(SECRET, f"{header},v1={'0' * 64}", body, now_s)
    assert not is_ours(b"other", header, body, now_s)
    assert not is_ours(SECRET, header, body + b" ", now_s)
    assert not is_ours(SECRET, header.replace("t=1", "t=2"), body, now_s)
    assert not is_ours(SECRET, header, body, now_s + 600)
    for broken in ("", "t=", "v1=", "t=x,v1=y", "t=1", header.replace("v1", "v2")):
        assert not is_ours(SECRET, broken, body, now_s)


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (200, OK), (204, OK), (299, OK), (400, NO), (401, NO), (403, NO), (404, NO), (409, NO),
        (410, NO), (422, NO), (408, FAILED), (425, FAILED), (429, FAILED), (500, FAILED),
        (502, FAILED), (503, FAILED), (304, NO), (599, FAILED),
    ],
)  # fmt: skip
def test_what_answers_mean(status: int, outcome: str) -> None:
    """2xx is yes; what may pass is asked again; the rest is no."""
    with Receiver(lambda _n, _t: Reply(status)) as receiver:
        attempt = send(f"http://desk.example:{receiver.port}/", local(receiver.port))
    assert (attempt.outcome, attempt.status) == (outcome, status)


def test_of_a_long_answer_a_line_is_kept() -> None:
    """It is cut, has no control characters and inflates nothing; the pause is bounded."""
    body = b"not \x1b[31mtoday\r\n\x00" + b"x" * 10_000_000

    def answer(_number: int, _told: Told) -> Reply:
        return Reply(503, body, {"retry-after": "99999999", "content-encoding": "gzip"})

    with Receiver(answer) as receiver:
        attempt = send(f"http://desk.example:{receiver.port}/", local(receiver.port))
    assert attempt.reason.startswith("503: not [31mtoday xxx")
    assert len(attempt.reason) < 250
    assert attempt.reason.isprintable()
    assert attempt.wait_s == 3600.0


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(status: int) -> None:
    """Not even to a host that is allowed."""
    with Receiver() as other:
        where = {"location": f"http://127.0.0.1:{other.port}/admin"}
        with Receiver(lambda _n, _t: Reply(status, headers=where)) as receiver:
            allowed = read_allow_list(
                f"desk.example:{receiver.port},127.0.0.1:{other.port}", LOOPBACK
            )
            attempt = send(f"http://desk.example:{receiver.port}/", allowed)
    assert (attempt.outcome, attempt.status) == (NO, status)
    assert "redirect" in attempt.reason
    assert other.told == []


@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1"],
        ["169.254.169.254"],
        ["::1"],
        ["::ffff:127.0.0.1"],
        ["93.184.216.34", "127.0.0.1"],
        ["fe80::1%lo"],
        ["10.0.0.1"],
    ],
)
def test_a_name_that_leads_inside_is_not_called(addresses: list[str]) -> None:
    """One address that is not public makes the whole answer suspect; the error says what to do."""
    with Receiver() as receiver:
        allowed = read_allow_list(f"desk.example:{receiver.port}", "")
        names = Names(addresses)
        attempt = send(f"http://desk.example:{receiver.port}/", allowed, names)
    assert attempt.outcome == NO
    assert "control.webhook_networks" in attempt.reason
    assert receiver.told == []


def test_a_name_is_looked_up_once_for_an_attempt() -> None:
    """What is connected to is what was checked: a second answer, to another place, is not asked."""
    with Receiver() as first, Receiver(host="127.0.0.2") as second:
        names = Names(["127.0.0.1"], ["127.0.0.2"])
        allowed = local(first.port)
        assert send(f"http://desk.example:{first.port}/", allowed, names).outcome == OK
        assert names.asked == ["desk.example"]
        assert (len(first.told), second.told) == (1, [])


def test_a_rebinding_name_is_checked_at_each_attempt() -> None:
    """A name that was public and turns inside afterwards is not called any more."""
    with Receiver() as receiver:
        allowed = read_allow_list(f"desk.example:{receiver.port}", "127.0.0.2/32")
        names = Names(["127.0.0.2"], ["127.0.0.1"])
        url = f"http://desk.example:{receiver.port}/"
        assert send(url, allowed, names).outcome == FAILED
        assert send(url, allowed, names).outcome == NO
    assert receiver.told == []


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:{port}/",
        "http://[::ffff:127.0.0.1]:{port}/",
        "http://2130706433:{port}/",
        "http://0x7f.1:{port}/",
        "http://127.1:{port}/",
        "http://localhost:{port}/",
        "http://desk.example@127.0.0.1:{port}/",
        "http://desk.example:{port}@127.0.0.1:{port}/",
        "http://desk.example:80/",
        "https://desk.example/",
        "http://desk.example:{other}/",
    ],
)
def test_what_is_not_on_the_list_is_not_called(url: str) -> None:
    """Neither other spellings of an address nor other ports, though such networks are allowed."""
    with Receiver() as receiver:
        filled = url.format(port=receiver.port, other=receiver.port + 1)
        attempt = send(filled, local(receiver.port))
    assert attempt.outcome == NO
    assert receiver.told == []


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_an_address_on_the_list_is_called(host: str) -> None:
    """Whoever names a loopback address means it, at that port alone."""
    with Receiver(host=host) as receiver:
        shown = f"[{host}]" if ":" in host else host
        allowed = read_allow_list(f"{shown}:{receiver.port}", "")
        assert send(f"http://{shown}:{receiver.port}/", allowed).outcome == OK
        assert receiver.told[0].headers["host"] == f"{shown}:{receiver.port}"


def test_the_next_address_is_tried_when_one_is_dead() -> None:
    """A host with several addresses is told by whichever can be connected to."""
    with Receiver() as receiver:
        names = Names(["127.0.0.9", "127.0.0.1"])
        url = f"http://desk.example:{receiver.port}/"
        assert send(url, local(receiver.port), names).outcome == OK
    assert len(receiver.told) == 1


def test_an_address_that_is_silent_leaves_time_for_the_next() -> None:
    """One that swallows what is sent there, as a broken route does, is no reason to give up."""
    with Receiver() as receiver, socket.socket() as silent:
        silent.bind(("127.0.0.2", receiver.port))
        silent.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:  # what nobody takes fills the queue, and the kernel answers no more
            one.setblocking(False)
            one.connect_ex(("127.0.0.2", receiver.port))
        names = Names(["127.0.0.2", "127.0.0.1"])
        url = f"http://desk.example:{receiver.port}/"
        assert send(url, local(receiver.port), names, timeout_s=2.0).outcome == OK
        for one in waiting:
            one.close()
    assert len(receiver.told) == 1


def test_tls_is_verified_against_the_name(tmp_path: Path) -> None:
    """The address is connected to, the name is asked for and checked, by the authority given."""
    authority, other = Authority(tmp_path), Authority(tmp_path, "other")
    issued = authority.issue("desk", alternatives=(x509.DNSName("desk.example"),))
    wrong = authority.issue("wrong", alternatives=(x509.DNSName("other.example"),))
    for certificate, ca, outcome in (
        (issued, authority.file, OK),
        (issued, other.file, FAILED),
        (wrong, authority.file, FAILED),
    ):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate.certificate, certificate.key)
        with Receiver(context=context) as receiver:
            url = f"https://desk.example:{receiver.port}/"
            attempt = send(url, local(receiver.port), context=trusting(str(ca)))
        assert attempt.outcome == outcome, attempt
        assert receiver.names[0] == "desk.example"
        assert len(receiver.told) == (outcome == OK)
    with pytest.raises(InvalidSettings, match=r"control\.webhook_ca"):
        trusting(str(tmp_path / "none.pem"))


def test_hosts_that_say_nothing_do_not_hold_it_up() -> None:
    """The whole attempt has its time, a drip of headers included; nobody there is a failure too."""
    drips = socket.create_server(("127.0.0.1", 0))

    def drip() -> None:
        connection, _ = drips.accept()
        try:
            connection.sendall(b"HTTP/1.1 200 OK\r\n")
            while True:
                connection.sendall(b"x: y\r\n")
                threading.Event().wait(0.05)
        except OSError:
            connection.close()

    threading.Thread(target=drip, daemon=True).start()
    port = drips.getsockname()[1]
    attempt = send(f"http://desk.example:{port}/", local(port), timeout_s=0.4)
    assert attempt.outcome == FAILED
    drips.close()
    assert send(f"http://desk.example:{port}/", local(port)).outcome == FAILED


def test_what_is_no_http_is_a_failure() -> None:
    """Garbage, and headers without an end, are neither yes nor no."""
    for garbage in (b"\x00\x01garbage\r\n\r\n", b"HTTP/1.1 200 OK\r\nx: " + b"y" * 300_000):
        raw = socket.create_server(("127.0.0.1", 0))

        def answer(raw: socket.socket = raw, garbage: bytes = garbage) -> None:
            connection, _ = raw.accept()
            connection.recv(65536)
            connection.sendall(garbage)
            connection.close()

        threading.Thread(target=answer, daemon=True).start()
        port = raw.getsockname()[1]
        assert send(f"http://desk.example:{port}/", local(port)).outcome == FAILED
        raw.close()


def test_the_machines_own_resolver_is_asked() -> None:
    """A name of this machine is found; one that is none fails without an exception."""
    with Receiver() as receiver:
        allowed = read_allow_list(f"localhost:{receiver.port}", LOOPBACK)
        url = f"http://localhost:{receiver.port}/"
        assert send(url, allowed, Resolver()).outcome == OK
    allowed = read_allow_list("nowhere.invalid", "")
    assert send("https://nowhere.invalid/", allowed, Resolver()).outcome == FAILED


def test_every_secret_of_a_change_signs() -> None:
    """While secrets change, receivers with either one take what is sent."""
    with Receiver() as receiver:
        allowed = read_allow_list(f"127.0.0.1:{receiver.port}", "")
        sender = Sender(allowed, [b"old", b"new"], trusting(""), Resolver(), ManualClock())
        asyncio.run(_sent(sender, delivery(f"http://127.0.0.1:{receiver.port}/")))
    time_s, *parts = receiver.told[0].headers["x-salver-signature"].split(",")
    signed = time_s.removeprefix("t=").encode() + b"." + BODY
    assert parts == [
        f"v1={hmac.new(secret, signed, hashlib.sha256).hexdigest()}" for secret in (b"old", b"new")
    ]


async def _sent(sender: Sender, item: Delivery) -> Attempt:
    return await sender(item)
