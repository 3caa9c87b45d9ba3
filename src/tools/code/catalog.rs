//! How the code tools are listed. The schemas promise what is built and nothing else.

use serde_json::value::to_raw_value;
use serde_json::{Value, json};

use crate::analysis::engine::{COMPLEXITY, STRUCTURE};
use crate::rpc::error::RpcError;
use crate::tools::Tool;

const STRUCTURE_ABOUT: &str = "Use this instead of grep and reading whole files to learn what a file or directory \
    contains. Lists functions, classes, types, fields and constants with exact line ranges, signatures and the first \
    line of documentation (view=outline), or directories with files, lines of code and languages (view=tree). Reads \
    Rust, Python, JavaScript, TypeScript and Go; always as the files are now. The result fits max_tokens; \
    page.next_cursor leads to the rest.";

const COMPLEXITY_ABOUT: &str = "Use this instead of reading files one by one to find the functions that are hard to \
    follow, test or change. Ranks every function of a file or directory by cyclomatic or cognitive complexity, \
    nesting, parameters, size and more, with exact line ranges; profile follows the rules of lizard, radon, mccabe, \
    ESLint or gocyclo. Reads Rust, Python, JavaScript, TypeScript and Go; always as the files are now. The result \
    fits max_tokens; page.next_cursor leads to the rest.";

/// The tools in the order in which they are listed.
pub(super) fn tools() -> Result<Vec<Tool>, RpcError> {
    Ok(vec![
        tool(
            STRUCTURE,
            "Code structure",
            STRUCTURE_ABOUT,
            include_str!("schemas/code_structure.input.json"),
            include_str!("schemas/code_structure.output.json"),
        )?,
        tool(
            COMPLEXITY,
            "Code complexity",
            COMPLEXITY_ABOUT,
            include_str!("schemas/code_complexity.input.json"),
            include_str!("schemas/code_complexity.output.json"),
        )?,
    ])
}

fn tool(name: &str, title: &str, about: &str, input: &str, output: &str) -> Result<Tool, RpcError> {
    let unreadable = |error: serde_json::Error| RpcError::internal(format!("the schema of {name}: {error}"));
    let input: Value = serde_json::from_str(input).map_err(unreadable)?;
    let output: Value = serde_json::from_str(output).map_err(unreadable)?;
    let listed = json!({
        "name": name,
        "title": title,
        "description": about,
        "inputSchema": input,
        "outputSchema": output,
        "annotations": {
            "title": title,
            "readOnlyHint": true,
            "destructiveHint": false,
            "idempotentHint": true,
            "openWorldHint": false,
        },
    });
    Ok(Tool { name: name.to_owned(), json: to_raw_value(&listed).map_err(unreadable)?, resumable: false })
}
