"""gRPC server of the interoperability cases, on grpcio. Argument: the port, on loopback."""

import asyncio
import sys
from contextlib import contextmanager
from pathlib import Path

import grpc

sys.path.append(str(Path(__file__).parent))
messages, services = grpc.protos_and_services("testing.proto")

LONGEST_MESSAGE = 16 * 1024 * 1024
cancelled = 0


@contextmanager
def watched():
    """Counts the call if its client takes it back, or its time is up, before it is answered."""
    global cancelled
    try:
        yield
    except asyncio.CancelledError:
        cancelled += 1
        raise


async def echo_metadata(context):
    for name, value in context.invocation_metadata():
        if name == "x-grpc-test-echo-initial":
            await context.send_initial_metadata([(name, value)])
        if name == "x-grpc-test-echo-trailing-bin":
            context.set_trailing_metadata([(name, value)])


async def echo_status(request, context):
    status = request.response_status
    if status.code:
        code = next(code for code in grpc.StatusCode if code.value[0] == status.code)
        await context.abort(code, status.message)


def payload(size):
    return messages.Payload(body=bytes(size))


async def outputs(request):
    for parameters in request.response_parameters:
        await asyncio.sleep(parameters.interval_us / 1e6)
        yield messages.StreamingOutputCallResponse(payload=payload(parameters.size))


class TestService(services.TestServiceServicer):
    async def EmptyCall(self, request, context):
        return messages.Empty()

    async def UnaryCall(self, request, context):
        await echo_metadata(context)
        await echo_status(request, context)
        return messages.SimpleResponse(payload=payload(request.response_size))

    async def StreamingOutputCall(self, request, context):
        async for answer in outputs(request):
            yield answer

    async def StreamingInputCall(self, requests, context):
        with watched():
            size = 0
            async for request in requests:
                size += len(request.payload.body)
            return messages.StreamingInputCallResponse(aggregated_payload_size=size)

    async def FullDuplexCall(self, requests, context):
        await echo_metadata(context)
        with watched():
            async for request in requests:
                await echo_status(request, context)
                async for answer in outputs(request):
                    await context.write(answer)


def field(name, value):
    return f"{name}: {value.hex() if isinstance(value, bytes) else value}"


class Observer(services.ObserverServicer):
    async def Observe(self, request, context):
        left = context.time_remaining()
        return messages.Seen(
            cancelled=cancelled,
            left_ms=int(left * 1000) if left is not None and left < 1e6 else 0,
            metadata=[field(*one) for one in context.invocation_metadata()],
        )

    async def Fail(self, request, context):
        context.set_trailing_metadata([("grpc-status-details-bin", request.SerializeToString())])
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, request.message)


async def main():
    server = grpc.aio.server(
        compression=grpc.Compression.Gzip,
        options=[("grpc.max_receive_message_length", LONGEST_MESSAGE), ("grpc.max_send_message_length", LONGEST_MESSAGE)],
    )
    services.add_TestServiceServicer_to_server(TestService(), server)
    services.add_ObserverServicer_to_server(Observer(), server)
    server.add_insecure_port(f"127.0.0.1:{sys.argv[1]}")
    await server.start()
    await server.wait_for_termination()


asyncio.run(main())
