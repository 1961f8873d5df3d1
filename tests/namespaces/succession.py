#!/usr/bin/env python3
"""Clients, and a server, of the check with ten hand-overs (tests/namespaces/succession). Each client goes on until the file STOP is there, prints
what it did and its longest wait, and exits with 1 if anything failed.

    succession.py serve ADDRESS                     A gRPC server: what comes on a stream goes back.
    succession.py calls HOST:PORT COUNT STOP        COUNT clients of it, each with one stream after the other on a connection that it keeps.
    succession.py requests HOST:PORT COUNT STOP     COUNT clients of HTTP/1.1, each on a connection that it keeps until it is told to come back.
    succession.py names SERVER NAME STOP            Asks mesh DNS for the address of NAME, over UDP, without asking again.
"""

import asyncio
import os
import socket
import struct
import sys
import time

# Longest time for one answer, in seconds.
PATIENCE = 10
# Pauses: between two words on a stream, two requests on a connection, two questions to mesh DNS.
BETWEEN_WORDS = 0.05
BETWEEN_REQUESTS = 0.2
BETWEEN_QUESTIONS = 0.01
# Words of one stream, so that it lasts two seconds.
WORDS = 40


class Tally:
    """What came of everything."""

    def __init__(self, what, stop):
        self.what = what
        self.stop = stop
        self.done = 0
        self.longest = 0.0
        self.connections = 0
        self.failures = []

    def goes_on(self):
        return not os.path.exists(self.stop)

    async def within(self, what):
        """Waits for what is to come, and takes down how long that took."""
        begun = time.monotonic()
        result = await asyncio.wait_for(what, PATIENCE)
        self.longest = max(self.longest, time.monotonic() - begun)
        return result

    def failed(self, error):
        self.failures.append(f"{type(error).__name__}: {error}")

    def report(self):
        on = f" on {self.connections} connections" if self.connections else ""
        print(f"{self.done} {self.what}{on}, longest wait {self.longest * 1000:.0f} ms, {len(self.failures)} failed")
        for failure in self.failures[:5]:
            print(f"  {failure[:300]}")
        return 1 if self.failures or not self.done else 0


async def repeat(tally, count, turn):
    """Has `count` clients take turns of their own until the end."""

    async def client(number):
        state = {}
        while tally.goes_on():
            try:
                await turn(number, state)
            except Exception as error:
                tally.failed(error)
                state.clear()
                await asyncio.sleep(BETWEEN_REQUESTS)
        return state

    return await asyncio.gather(*(client(number) for number in range(count)))


async def serve(address):
    import grpc

    async def talk(words, _):
        async for word in words:
            yield word

    server = grpc.aio.server()
    methods = {"Talk": grpc.stream_stream_rpc_method_handler(talk)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("Calls", methods),))
    server.add_insecure_port(address)
    await server.start()
    await server.wait_for_termination()


async def calls(target, count, stop):
    import grpc

    tally = Tally("gRPC streams", stop)
    # Without it all of a process share one connection.
    options = [("grpc.use_local_subchannel_pool", 1)]

    async def stream(number, state):
        if "channel" not in state:
            state["channel"] = grpc.aio.insecure_channel(target, options=options)
        call = state["channel"].stream_stream("/Calls/Talk")()
        for word in range(WORDS):
            said = f"{number} {tally.done} {word}".encode()
            await call.write(said)
            heard = await tally.within(call.read())
            if heard != said:
                raise ValueError(f"{heard!r} in the place of {said!r}")
            if not tally.goes_on():
                break
            await asyncio.sleep(BETWEEN_WORDS)
        await call.done_writing()
        if await tally.within(call.read()) is not grpc.aio.EOF or await call.code() != grpc.StatusCode.OK:
            raise ValueError(f"the stream ended with {await call.code()}")
        tally.done += 1

    await repeat(tally, count, stream)
    return tally.report()


async def ask(reader, writer, host):
    """One request; says whether the connection is to be used again."""
    writer.write(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")
    if not head[0].startswith("http/1.1 200 "):
        raise ValueError(head[0])
    length = next(int(field.split(":")[1]) for field in head if field.startswith("content-length:"))
    await reader.readexactly(length)
    return "connection: close" not in head


async def requests(target, count, stop):
    tally = Tally("requests", stop)
    host, port = target.rsplit(":", 1)

    async def request(_, state):
        if "wire" not in state:
            tally.connections += 1
            state["wire"] = await tally.within(asyncio.open_connection(host, int(port)))
        reader, writer = state["wire"]
        again = await tally.within(ask(reader, writer, host))
        tally.done += 1
        if not again:
            writer.close()
            del state["wire"]
        await asyncio.sleep(BETWEEN_REQUESTS)

    await repeat(tally, count, request)
    return tally.report()


def question(number, name):
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return struct.pack(">HHHHHH", number, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">HH", 1, 1)


async def names(server, name, stop):
    tally = Tally("answers of mesh DNS", stop)
    loop = asyncio.get_running_loop()

    async def look_up(_, __):
        number = tally.done % 65536
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
            asking.setblocking(False)
            asking.connect((server, 53))
            await loop.sock_sendall(asking, question(number, name))
            answer = await tally.within(loop.sock_recv(asking, 4096))
        heard, flags, _, addresses = struct.unpack(">HHHH", answer[:8])
        if heard != number or flags & 0xF or addresses != 1:
            raise ValueError(f"the answer is {answer!r}")
        tally.done += 1
        await asyncio.sleep(BETWEEN_QUESTIONS)

    await repeat(tally, 1, look_up)
    return tally.report()


def main():
    match sys.argv[1:]:
        case ["serve", address]:
            return asyncio.run(serve(address))
        case ["calls", target, count, stop]:
            return asyncio.run(calls(target, int(count), stop))
        case ["requests", target, count, stop]:
            return asyncio.run(requests(target, int(count), stop))
        case ["names", server, name, stop]:
            return asyncio.run(names(server, name, stop))
    sys.exit(__doc__)


if __name__ == "__main__":
    sys.exit(main())
