"""WebSocket client on `websockets`. Arguments: HOST:PORT, then the names of cases.

Prints `case NAME ok` or `case NAME: what is wrong`, and exits with 1 if one failed.
"""

import asyncio
import sys
import traceback

import websockets
from websockets.asyncio.client import connect

# Longest time for one case, in seconds.
PATIENCE = 20
# Around the borders of how a length is written, and more than any buffer on the way holds.
SIZES = [0, 1, 125, 126, 127, 65535, 65536, 300_000, 3_000_000]
address = sys.argv[1]


def open_socket(path="/", **more):
    return connect(f"ws://{address}{path}", **{"max_size": 2**25, "open_timeout": PATIENCE, "proxy": None, **more})


def same(found, expected):
    if found != expected:
        raise AssertionError(f"got {str(found)[:200]}, want {str(expected)[:200]}")


async def echoes(compression):
    async with open_socket(compression=compression) as socket:
        for size in SIZES:
            for message in ("ä" * (size // 2), bytes(range(256)) * (size // 256) + bytes(size % 256)):
                await socket.send(message)
                same(await socket.recv(), message)


class Cases:
    async def messages_of_every_length(self):
        await echoes(None)

    async def messages_that_are_compressed(self):
        await echoes("deflate")

    async def fragments_are_one_message(self):
        async with open_socket() as socket:
            await socket.send(str(number) for number in range(1000))
            same(await socket.recv(), "".join(str(number) for number in range(1000)))

    async def many_messages_before_the_first_is_read(self):
        async with open_socket() as socket:
            sending = asyncio.create_task(self.send_all(socket))
            for number in range(5000):
                same(await socket.recv(), f"{number} " + "x" * 500)
            await sending

    async def send_all(self, socket):
        for number in range(5000):
            await socket.send(f"{number} " + "x" * 500)

    async def pings_go_both_ways(self):
        async with open_socket(ping_interval=None) as socket:
            await (await socket.ping(b"from the client"))
            await socket.send("ping")
            same(await socket.recv(), "pong came")

    async def the_client_closes_with_a_code(self):
        async with open_socket() as socket:
            await socket.close(4001, "enough")
            same((socket.close_code, socket.close_reason), (4001, "enough"))
            same((socket.protocol.close_rcvd.code, socket.protocol.close_rcvd_then_sent), (4001, False))

    async def the_server_closes_with_a_code(self):
        async with open_socket() as socket:
            await socket.send("close 4002 no more of this")
            try:
                await socket.recv()
            except websockets.ConnectionClosed:
                pass
            same((socket.close_code, socket.close_reason), (4002, "no more of this"))
            same(socket.protocol.close_rcvd_then_sent, True)

    async def a_subprotocol_is_agreed_on(self):
        async with open_socket(subprotocols=["first", "second"]) as socket:
            same(socket.subprotocol in ("first", "second"), True)
        async with open_socket(subprotocols=["second"]) as socket:
            same(socket.subprotocol, "second")

    async def a_server_may_refuse(self):
        try:
            async with open_socket("/refuse"):
                raise AssertionError("the server took it")
        except websockets.InvalidStatus as refused:
            same(refused.response.status_code, 403)

    async def fifty_at_once(self):
        async def one(number):
            async with open_socket() as socket:
                await socket.send(f"I am {number}")
                same(await socket.recv(), f"I am {number}")

        await asyncio.gather(*(one(number) for number in range(50)))


async def main():
    status = 0
    for name in sys.argv[2:]:
        try:
            await asyncio.wait_for(getattr(Cases(), name)(), PATIENCE)
            print(f"case {name} ok")
        except Exception as error:
            status = 1
            said = str(error) if isinstance(error, AssertionError) else traceback.format_exc()
            print(f"case {name}: {said}")
    return status


sys.exit(asyncio.run(main()))
