#!/usr/bin/env python3
"""The official Python SDK: revision 2026-07-28 pinned, found by itself, and the handshake of 2025-11-25."""

import asyncio
import sys
import warnings
from collections.abc import Awaitable, Callable

import mcp_types as types
from mcp import Client, MCPDeprecationWarning, MCPError
from mcp.client.streamable_http import streamable_http_client

MODERN = "2026-07-28"
LEGACY = "2025-11-25"
DEADLINE_SECONDS = 20
TOOLS = {"echo", "sleep", "counter", "ask", "emit", "fill"}

failed = 0


async def check(client: str, name: str, body: Callable[[], Awaitable[None]]) -> None:
    """Runs `body` as a check of this name; a check that fails does not keep the next from running."""
    global failed
    try:
        await asyncio.wait_for(body(), DEADLINE_SECONDS)
        print(f"ok    {client}: {name}")
    except Exception as error:
        failed += 1
        told = " ".join(str(error).split()) or type(error).__name__
        print(f"FAIL  {client}: {name}: {told}")


def text_of(result: types.CallToolResult) -> str:
    """The text of a tool result that is no error."""
    text = "\n".join(getattr(block, "text", f"[{block.type}]") for block in result.content)
    assert not result.is_error, text
    return text


async def elicited(_context: object, _params: types.ElicitRequestParams) -> types.ElicitResult:
    return types.ElicitResult(action="accept", content={"answer": "blue"})


async def run(url: str, mode: str, revision: str, name: str) -> None:
    emitted: list[int] = []

    async def logged(params: types.LoggingMessageNotificationParams) -> None:
        if params.logger == "emit":
            emitted.append(params.data["n"])

    transport = streamable_http_client(url)
    client = Client(
        transport, mode=mode, elicitation_callback=elicited, logging_callback=logged, log_level="info"
    )

    async def connects() -> None:
        assert client.protocol_version == revision, client.protocol_version

    async def lists() -> None:
        missing = TOOLS - {tool.name for tool in (await client.list_tools()).tools}
        assert not missing, f"missing: {missing}"

    async def echoes() -> None:
        message = 'häh? "quoted" \U0001f980\n'
        assert text_of(await client.call_tool("echo", {"message": message})) == message

    async def reports() -> None:
        seen: list[float] = []

        async def progressed(progress: float, total: float | None, _message: str | None) -> None:
            assert total == 450, total
            seen.append(progress)

        await client.call_tool("sleep", {"ms": 450}, progress_callback=progressed)
        assert len(seen) >= 2 and seen == sorted(set(seen)), seen

    async def asks() -> None:
        assert text_of(await client.call_tool("ask", {"message": "Which color?"})) == "blue"

    async def counts() -> None:
        first = (await client.call_tool("counter", {"by": 5})).structured_content or {}
        again = {"handle": first["handle"]} if revision == MODERN else {}
        second = (await client.call_tool("counter", {"by": 2, **again})).structured_content or {}
        assert second["value"] == first["value"] + 2, (first, second)

    async def logs() -> None:
        if revision == LEGACY:
            await client.set_logging_level("info")
        text_of(await client.call_tool("emit", {"count": 20, "interval_ms": 10}))
        assert emitted == list(range(1, 21)), emitted

    async def prompts() -> None:
        assert "test_simple_prompt" in {prompt.name for prompt in (await client.list_prompts()).prompts}
        assert len((await client.get_prompt("test_simple_prompt")).messages) == 1

    async def resources() -> None:
        uri = "test://static-text"
        assert uri in {str(resource.uri) for resource in (await client.list_resources()).resources}
        assert len((await client.read_resource(uri)).contents) == 1

    async def completes() -> None:
        reference = types.PromptReference(type="ref/prompt", name="test_prompt_with_arguments")
        result = await client.complete(reference, {"name": "arg1", "value": "par"})
        assert isinstance(result.completion.values, list)

    async def errs() -> None:
        try:
            await client.call_tool("no_such_tool", {})
        except MCPError as error:
            assert error.code == -32602, error.code
        else:
            raise AssertionError("an unknown tool was called")
        assert (await client.call_tool("echo", {})).is_error

    checks = {
        "connects": connects,
        "lists the tools": lists,
        "echo returns the message": echoes,
        "sleep reports progress": reports,
        "ask is answered": asks,
        "counter counts": counts,
        "emit's messages come once each, in order": logs,
        "lists and gets prompts": prompts,
        "lists and reads resources": resources,
        "completes an argument": completes,
        "an unknown tool and a missing argument are errors": errs,
    }
    async with client:
        for promise, body in checks.items():
            await check(name, promise, body)


async def main() -> int:
    if len(sys.argv) != 2:
        print("usage: python_client.py http://127.0.0.1:PORT/mcp", file=sys.stderr)
        return 2
    for mode, revision in ((MODERN, MODERN), ("auto", MODERN), ("legacy", LEGACY)):
        name = f"Python SDK, {mode if mode != 'legacy' else LEGACY}"

        async def connected(mode: str = mode, revision: str = revision, name: str = name) -> None:
            await run(sys.argv[1], mode, revision, name)

        try:
            await connected()
        except Exception as error:
            global failed
            failed += 1
            print(f"FAIL  {name}: connection: {' '.join(str(error).split())}")
    return 1 if failed else 0


if __name__ == "__main__":
    # Logging is on its way out of the protocol; until then it is to work.
    warnings.simplefilter("ignore", MCPDeprecationWarning)
    sys.exit(asyncio.run(main()))
