"""WebSocket server on `websockets`. Argument: the port, on loopback.

Echoes messages. `close CODE REASON` has it close so, `ping` has it send a ping and say when the pong has come, and /refuse is answered with 403.
"""

import asyncio
import sys

import websockets
from websockets.asyncio.server import serve


def refuse(connection, request):
    if request.path == "/refuse":
        return connection.respond(403, "not here\n")


def choose(connection, offered):
    return "second" if "second" in offered else None


async def echo(socket):
    async for message in socket:
        if isinstance(message, str) and message.startswith("close "):
            _, code, reason = message.split(" ", 2)
            await socket.close(int(code), reason)
        elif message == "ping":
            await (await socket.ping(b"from the server"))
            await socket.send("pong came")
        else:
            await socket.send(message)


async def main():
    options = {"max_size": 2**25, "select_subprotocol": choose, "process_request": refuse}
    async with serve(echo, "127.0.0.1", int(sys.argv[1]), **options) as server:
        await server.serve_forever()


asyncio.run(main())
