"""gRPC client of the interoperability cases, on grpcio. Arguments: HOST:PORT, then the names of cases. With TLS="NAME CA CERT KEY" it asks for NAME
over TLS.

Prints `case NAME ok` or `case NAME: what is wrong`, and exits with 1 if one failed.
"""

import os
import sys
import threading
import time
import traceback
from pathlib import Path

import grpc

sys.path.append(str(Path(__file__).parent))
messages, services = grpc.protos_and_services("testing.proto")

LONGEST_MESSAGE = 16 * 1024 * 1024
# Longest time for one call, in seconds, where a case is not about that.
PATIENCE = 20
INITIAL = ("x-grpc-test-echo-initial", "test_initial_metadata_value")
TRAILING = ("x-grpc-test-echo-trailing-bin", b"\xab\xab\xab")
SIZES = [(31415, 27182), (9, 8), (2653, 1828), (58979, 45904)]
WHITESPACE = "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n"


def same(found, expected):
    assert found == expected, f"got {found!r}, want {expected!r}"


def payload(size):
    return messages.Payload(body=bytes(size))


def simple(**more):
    return messages.SimpleRequest(response_size=314159, payload=payload(271828), **more)


def duplex(size, sent):
    return messages.StreamingOutputCallRequest(response_parameters=[{"size": size}], payload=payload(sent))


def duplex_then_nothing(size, sent):
    """The same, whose second answer never comes: so the server is busy with it when the call is taken back, and sees that."""
    return messages.StreamingOutputCallRequest(response_parameters=[{"size": size}, {"size": 1, "interval_us": 60_000_000}], payload=payload(sent))


def fails_with(code, call):
    try:
        call()
    except grpc.RpcError as error:
        same(error.code(), code)
        return error
    raise AssertionError(f"the call succeeded, and should have ended with {code}")


class Fed:
    """Requests that are sent one by one, when the case says so."""

    def __init__(self):
        self.waiting = []
        self.changed = threading.Condition()
        self.is_over = False

    def send(self, request):
        with self.changed:
            self.waiting.append(request)
            self.changed.notify()

    def close(self):
        with self.changed:
            self.is_over = True
            self.changed.notify()

    def __iter__(self):
        return self

    def __next__(self):
        with self.changed:
            self.changed.wait_for(lambda: self.waiting or self.is_over)
            if self.waiting:
                return self.waiting.pop(0)
            raise StopIteration


class Cases:
    def __init__(self, channel):
        self.test = services.TestServiceStub(channel)
        self.observer = services.ObserverStub(channel)
        self.none = services.UnimplementedServiceStub(channel)

    # --- as the list has them ---

    def empty_unary(self):
        same(self.test.EmptyCall(messages.Empty(), timeout=PATIENCE), messages.Empty())

    def large_unary(self):
        same(self.test.UnaryCall(simple(), timeout=PATIENCE).payload.body, bytes(314159))

    def client_compressed_unary(self):
        for compression in (grpc.Compression.Gzip, grpc.Compression.NoCompression):
            answer = self.test.UnaryCall(simple(), compression=compression, timeout=PATIENCE)
            same(answer.payload.body, bytes(314159))

    # Both servers compress their answers.
    server_compressed_unary = large_unary

    def client_streaming(self, **more):
        requests = [messages.StreamingInputCallRequest(payload=payload(size)) for size in (27182, 8, 1828, 45904)]
        answer = self.test.StreamingInputCall(iter(requests), timeout=PATIENCE, **more)
        same(answer.aggregated_payload_size, 74922)

    def client_compressed_streaming(self):
        self.client_streaming(compression=grpc.Compression.Gzip)

    def server_streaming(self):
        sizes = [31415, 9, 2653, 58979]
        request = messages.StreamingOutputCallRequest(response_parameters=[{"size": size} for size in sizes])
        answers = self.test.StreamingOutputCall(request, timeout=PATIENCE)
        same([len(answer.payload.body) for answer in answers], sizes)

    server_compressed_streaming = server_streaming

    def ping_pong(self):
        fed = Fed()
        answers = self.test.FullDuplexCall(fed, timeout=PATIENCE)
        for size, sent in SIZES:
            fed.send(duplex(size, sent))
            same(len(next(answers).payload.body), size)
        fed.close()
        same(list(answers), [])

    def empty_stream(self):
        same(list(self.test.FullDuplexCall(iter([]), timeout=PATIENCE)), [])

    def custom_metadata(self):
        metadata = [INITIAL, TRAILING]
        _, unary = self.test.UnaryCall.with_call(simple(), metadata=metadata, timeout=PATIENCE)
        stream = self.test.FullDuplexCall(iter([duplex(314159, 271828)]), metadata=metadata, timeout=PATIENCE)
        same(len(list(stream)), 1)
        for call in (unary, stream):
            assert INITIAL in [tuple(one) for one in call.initial_metadata()], call.initial_metadata()
            assert TRAILING in [tuple(one) for one in call.trailing_metadata()], call.trailing_metadata()

    def status_code_and_message(self, message="test status message"):
        status = messages.EchoStatus(code=2, message=message)
        unary = messages.SimpleRequest(response_status=status)
        stream = messages.StreamingOutputCallRequest(response_status=status)
        for call in (
            lambda: self.test.UnaryCall(unary, timeout=PATIENCE),
            lambda: list(self.test.FullDuplexCall(iter([stream]), timeout=PATIENCE)),
        ):
            same(fails_with(grpc.StatusCode.UNKNOWN, call).details(), message)

    def special_status_message(self):
        self.status_code_and_message(WHITESPACE)

    def unimplemented_method(self):
        fails_with(grpc.StatusCode.UNIMPLEMENTED, lambda: self.test.UnimplementedCall(messages.Empty(), timeout=PATIENCE))

    def unimplemented_service(self):
        fails_with(grpc.StatusCode.UNIMPLEMENTED, lambda: self.none.UnimplementedCall(messages.Empty(), timeout=PATIENCE))

    def cancel_after_begin(self):
        fed = Fed()
        call = self.test.StreamingInputCall.future(fed, timeout=PATIENCE)
        call.cancel()
        same(call.code(), grpc.StatusCode.CANCELLED)
        fed.close()

    def cancel_after_first_response(self):
        before = self.seen().cancelled
        fed = Fed()
        answers = self.test.FullDuplexCall(fed, timeout=PATIENCE)
        fed.send(duplex_then_nothing(31415, 27182))
        next(answers)
        answers.cancel()
        fails_with(grpc.StatusCode.CANCELLED, lambda: next(answers))
        fed.close()
        self.until_cancelled(before)

    def timeout_on_sleeping_server(self):
        fed = Fed()
        fed.send(messages.StreamingOutputCallRequest(payload=payload(27182)))
        fails_with(grpc.StatusCode.DEADLINE_EXCEEDED, lambda: list(self.test.FullDuplexCall(fed, timeout=0.001)))
        fed.close()

    def concurrent_large_unary(self):
        calls = [self.test.UnaryCall.future(simple(), timeout=PATIENCE) for _ in range(100)]
        for call in calls:
            same(len(call.result().payload.body), 314159)

    # --- besides ---

    def seen(self, **more):
        return self.observer.Observe(messages.Empty(), **{"timeout": PATIENCE, **more})

    def until_cancelled(self, before):
        end = time.monotonic() + PATIENCE
        while self.seen().cancelled == before:
            assert time.monotonic() < end, "the server was never told that the call was taken back"
            time.sleep(0.02)

    def a_deadline_is_told_to_the_server(self):
        left = self.seen(timeout=7).left_ms
        # Either side rounds up.
        assert 5000 < left <= 7100, f"{left} ms are left of 7 s"
        same(self.observer.Observe(messages.Empty()).left_ms, 0)

    def a_deadline_ends_a_call_at_the_server(self):
        before = self.seen().cancelled
        fed = Fed()
        fed.send(duplex_then_nothing(9, 8))
        answers = self.test.FullDuplexCall(fed, timeout=0.5)
        same(len(next(answers).payload.body), 9)
        fails_with(grpc.StatusCode.DEADLINE_EXCEEDED, lambda: next(answers))
        fed.close()
        self.until_cancelled(before)

    def metadata_arrives_as_it_was_sent(self):
        sent = [
            ("x-text", "one"),
            ("x-text", "two, and three"),
            ("x-visible", "~!@#$%^&*()_+{}|:\"<>?`-=[]\\;',./ 09azAZ"),
            # grpcio refuses from 8 KiB on, at random; what the gateway adds counts too.
            ("x-long", "v" * 5000),
            ("x-every-bin", bytes(range(256))),
            ("x-empty-bin", b""),
            ("authorization", "Bearer abc.def"),
        ]
        found = self.seen(metadata=sent).metadata
        for name, value in sent:
            line = f"{name}: {value.hex() if isinstance(value, bytes) else value}"
            # One of several of a name may be joined to the other.
            joined = f"{name}: one, two, and three"
            assert line in found or joined in found, f"{line} is not in {list(found)}"

    def large_messages_go_both_ways(self):
        size = 8 * 1024 * 1024
        request = messages.SimpleRequest(response_size=size, payload=payload(size))
        same(len(self.test.UnaryCall(request, timeout=PATIENCE).payload.body), size)

    def status_details_arrive(self):
        sent = messages.StatusDetails(code=9, message="not yet", details=[{"type_url": "type.googleapis.com/x", "value": bytes(range(256))}])
        error = fails_with(grpc.StatusCode.FAILED_PRECONDITION, lambda: self.observer.Fail(sent, timeout=PATIENCE))
        same(error.details(), "not yet")
        details = dict(error.trailing_metadata())["grpc-status-details-bin"]
        same(messages.StatusDetails.FromString(details), sent)

    def a_slow_stream_is_not_held_back(self):
        request = messages.StreamingOutputCallRequest(response_parameters=[{"size": 9, "interval_us": 200_000} for _ in range(3)])
        begun = time.monotonic()
        waits = []
        for _ in self.test.StreamingOutputCall(request, timeout=PATIENCE):
            waits.append(time.monotonic() - begun)
        assert len(waits) == 3 and waits[0] < 0.5 and waits[2] - waits[0] > 0.3, f"messages came after {waits}"


def open_channel(target):
    options = [("grpc.max_receive_message_length", LONGEST_MESSAGE), ("grpc.enable_retries", 0)]
    if "TLS" not in os.environ:
        return grpc.insecure_channel(target, options=options)
    name, *files = os.environ["TLS"].split()
    authority, certificate, key = (Path(file).read_bytes() for file in files)
    options += [("grpc.ssl_target_name_override", name), ("grpc.default_authority", name)]
    return grpc.secure_channel(target, grpc.ssl_channel_credentials(authority, key, certificate), options=options)


def main():
    with open_channel(sys.argv[1]) as channel:
        cases = Cases(channel)
        status = 0
        for name in sys.argv[2:]:
            try:
                getattr(cases, name)()
                print(f"case {name} ok")
            except Exception as error:
                status = 1
                said = str(error) if isinstance(error, AssertionError) else traceback.format_exc()
                print(f"case {name}: {said}")
    return status


sys.exit(main())
