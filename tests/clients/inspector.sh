#!/usr/bin/env bash
# The MCP Inspector's command line: lists the tools and calls some.
# usage: inspector.sh http://127.0.0.1:PORT/mcp   (in a directory where the Inspector is installed)
set -euo pipefail

url=${1:?usage: inspector.sh URL}
failed=0

# check NAME PATTERN ARGUMENT…: the Inspector's output with these arguments contains a line with the pattern.
check() {
    local name=$1 pattern=$2 output
    shift 2
    if output=$(timeout 30 node node_modules/.bin/mcp-inspector --cli "$url" --transport http "$@" 2>&1) &&
        grep -qF -- "$pattern" <<<"$output"; then
        echo "ok    Inspector: $name"
    else
        failed=1
        echo "FAIL  Inspector: $name: $(tr '\n' ' ' <<<"$output" | head -c 400)"
    fi
}

check "lists the tools" '"name": "echo"' --method tools/list
check "echo returns the message" '"text": "hello there"' \
    --method tools/call --tool-name echo --tool-arg 'message=hello there'
check "numbers arrive as numbers" '"text": "7"' --method tools/call --tool-name counter --tool-arg by=7
check "lists and gets prompts" 'This is a simple prompt for testing.' \
    --method prompts/get --prompt-name test_simple_prompt
check "lists and reads resources" 'This is the content of the static text resource.' \
    --method resources/read --uri test://static-text
exit "$failed"
