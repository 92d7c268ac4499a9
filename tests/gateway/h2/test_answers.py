"""What an answer says beside its fields: the size of the table, and that a stream is over."""

import socket
import struct

import h2.config
import h2.connection
import h2.events
import h2.settings
import pytest
from hpack import Decoder

from salver.gateway.h2 import frames as f
from salver.gateway.h2.connection import Http2Connection
from salver.gateway.h2.headers import status
from salver.gateway.h2.stream import Stream
from tests.gateway.h2.inmemory import BLOCK, GREETING, Application, Ours
from tests.gateway.h2.wire import GET_LIVE
from tests.gateway.inprocess import RunningServer

NO_TABLE = b"\x20"


def sizes(*values: int) -> bytes:
    """Return SETTINGS with table sizes, one after the other."""
    payload = b"".join([struct.pack(">HI", f.HEADER_TABLE_SIZE, value) for value in values])
    return f.frame(f.SETTINGS, 0, 0, payload)


def asked(ours: Ours, stream: int) -> bytes:
    """Ask a question and return the header block of its answer."""
    ours.feed(f.frame(f.HEADERS, f.END_HEADERS | f.END_STREAM, stream, BLOCK))
    (block,) = [frame.payload for frame in ours.said() if frame.kind == f.HEADERS]
    return block


@pytest.mark.parametrize("path", [b"/v2/health/live", b"/no/such/path"])
@pytest.mark.parametrize("size", [0, 100, 4096, 65_536])
def test_a_client_may_choose_the_size_of_its_table(
    server: RunningServer, size: int, path: bytes
) -> None:
    """The client's own library decodes our answers, though it insists on hearing of a small table.

    RFC 9113, 4.3.1, and RFC 7541, 4.2: a size below the usual must be answered by a change of the
    table at the beginning of the next header block.
    """
    configuration = h2.config.H2Configuration(client_side=True, header_encoding=None)
    client = h2.connection.H2Connection(configuration)
    client.local_settings = h2.settings.Settings(
        client=True, initial_values={h2.settings.SettingCodes.HEADER_TABLE_SIZE: size}
    )
    client.decoder.max_allowed_table_size = size
    client.initiate_connection()
    ended = 0
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connected:
        for stream in (1, 3, 5):
            fields = {**GET_LIVE, b":path": path}
            client.send_headers(stream, list(fields.items()), end_stream=True)
            connected.sendall(client.data_to_send())
            while ended < stream:
                for event in client.receive_data(connected.recv(65_536)):
                    if isinstance(event, h2.events.StreamEnded):
                        ended = event.stream_id
                connected.sendall(client.data_to_send())


def test_a_change_of_the_table_is_said_once() -> None:
    """It stands before the first block behind the acknowledgement, not before each, nor unasked."""
    ours = Ours()
    ours.feed(GREETING)
    plain = asked(ours, 1)
    assert plain[:1] != NO_TABLE
    # The least of several sizes counts, and the change is no larger than any of them.
    for stream, values in ((3, (100,)), (7, (0, 4096)), (11, (4096, 17))):
        ours.feed(sizes(*values))
        assert [frame.flags for frame in ours.said() if frame.kind == f.SETTINGS] == [f.ACK]
        changed = asked(ours, stream)
        assert changed == NO_TABLE + plain
        decoder = Decoder()
        decoder.max_allowed_table_size = min(values)
        assert decoder.decode(changed) == Decoder().decode(plain)
        assert asked(ours, stream + 2) == plain
    ours.feed(sizes(4096) + sizes(65_536))
    assert asked(ours, 15) == plain


class Early(Application):
    """Answers before the request has ended, with more than the window."""

    def begin(self, connection: Http2Connection, stream: Stream) -> None:
        """Answer."""
        connection.answer(stream, status(413), (bytes(f.DEFAULT_WINDOW + 10),))


@pytest.mark.parametrize("ends", [True, False])
def test_a_request_may_end_behind_its_answer(*, ends: bool) -> None:
    """Who has sent everything while the answer waited is not told to stop (8.1); others are."""
    ours = Ours(Early())
    ours.feed(GREETING + f.frame(f.HEADERS, f.END_HEADERS, 1, BLOCK))
    ours.feed(f.frame(f.DATA, f.END_STREAM if ends else 0, 1, b"x" * 100))
    assert not [frame for frame in ours.said() if frame.stream and frame.flags & f.END_STREAM]
    ours.feed(f.window_update(1, 100) + f.window_update(0, 100))
    said = [frame for frame in ours.said() if frame.stream == 1]
    assert said[-1 if ends else -2].flags & f.END_STREAM
    resets = [frame.payload for frame in said if frame.kind == f.RST_STREAM]
    assert resets == ([] if ends else [struct.pack(">I", f.NO_ERROR)])
    assert ours.fault() is None


def test_nothing_comes_behind_the_end_of_a_request() -> None:
    """DATA behind the end is a fault of the stream (5.1), though its answer still waits."""
    ours = Ours(Early())
    ours.feed(GREETING + f.frame(f.HEADERS, f.END_HEADERS, 1, BLOCK))
    ours.feed(f.frame(f.DATA, f.END_STREAM, 1, b"x") + f.frame(f.DATA, 0, 1, b"x"))
    resets = [frame.payload for frame in ours.said() if frame.kind == f.RST_STREAM]
    assert resets == [struct.pack(">I", f.STREAM_CLOSED)]
    assert ours.fault() is None
