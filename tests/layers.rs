//! The architecture as a test: who may know whom, and in which file a library may be used.
//!
//! Every path that begins at the crate's root (`crate::…`, `use crate::{…}`, `super::super::…`, `outlast::…`) is read
//! out of `src`; comments, strings and characters are not code. A path that points up or sideways fails, with its file
//! and line.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fmt;
use std::fs;
use std::path::Path;

/// From the bottom up; those of one line are siblings and do not know each other.
const LAYERS: &[&[&str]] = &[
    &["base"],
    &["config", "telemetry"],
    &["rpc"],
    &["mcp"],
    &["state", "analysis"],
    &["store", "auth", "tools"],
    &["engine"],
    &["edge"],
    &["app"],
];

/// Layers that may use less than everything below them.
const NARROW: &[(&str, &[&str])] = &[("analysis", &["base"])];

/// Libraries that have one place: everything else goes through what stands there.
const PLACES: &[(&str, &str)] = &[
    ("sled", "src/store/sled"),
    ("redis", "src/store/redis"),
    ("rustls", "src/store/redis/"),
    ("tokio_rustls", "src/store/redis/"),
    ("jsonschema", "src/tools/schema"),
    ("rmcp", "src/tools/upstream"),
    ("dashmap", "src/base/table"),
    ("hyper", "src/edge/"),
    ("hyper_util", "src/edge/"),
    ("prometheus_client", "src/telemetry/"),
    ("clap", "src/app/"),
    ("anyhow", "src/app/"),
    ("sd_notify", "src/app/"),
];

#[test]
fn every_path_in_src_points_down() {
    let sources = sources();
    assert!(sources.len() > 20, "src was not found");
    let found: Vec<Finding> = sources.iter().flat_map(|(file, text)| judge_paths(file, text)).collect();
    assert!(found.is_empty(), "{}", lines(&found));
}

#[test]
fn every_library_stays_in_its_place() {
    let found: Vec<Finding> = sources().iter().flat_map(|(file, text)| judge_libraries(file, text)).collect();
    assert!(found.is_empty(), "{}", lines(&found));
}

/// What is written to Redis is a join or an append of a script: it may be repeated and may come
/// late.
#[test]
fn only_one_file_writes_to_redis() {
    let writes = [
        "SET", "HSET", "XADD", "DEL", "INCR", "EXPIRE", "PEXPIRE", "EVAL", "EVALSHA", "XTRIM", "LPUSH",
        "SADD",
    ];
    let files: Vec<(String, String)> = sources()
        .into_iter()
        .filter(|(file, _)| file.starts_with("src/store/redis/") && !file.contains("/tests/"))
        .collect();
    assert!(files.iter().any(|(file, text)| file.ends_with("/script.rs") && text.contains("\"EVALSHA\"")));
    for (file, text) in files.iter().filter(|(file, _)| !file.ends_with("/script.rs")) {
        for command in writes {
            assert!(
                !text.contains(&format!("\"{command}\"")),
                "{file} writes {command}: let script.rs do it"
            );
        }
    }
}

#[test]
fn every_folder_of_src_is_a_layer() {
    for (file, _) in sources() {
        let layer = layer_of(&file);
        assert!(layer.is_none_or(|layer| rank(layer).is_some()), "{file}: add its layer to LAYERS");
    }
}

#[test]
fn paths_that_point_up_or_sideways_are_found() {
    for (file, text, line, target) in [
        ("src/store/mod.rs", "use crate::engine::Engine;", 1, "engine"),
        ("src/store/mod.rs", "\nuse crate::{base::ids, auth::Principal};", 2, "auth"),
        ("src/store/mod.rs", "use crate::{\n    base::{ids, clock},\n    tools,\n};", 3, "tools"),
        ("src/store/mod.rs", "fn f() { let x: crate :: edge :: App; }", 1, "edge"),
        ("src/state/doc.rs", "use super::super::store::Store;", 1, "store"),
        ("src/state/mod.rs", "use super::store::Store;", 1, "store"),
        ("src/state/log.rs", "mod inner { use super::super::super::engine::X; }", 1, "engine"),
        ("src/state/mod.rs", "pub(in crate::app) fn f() {}", 1, "app"),
        ("src/analysis/mod.rs", "use crate::config::Config;", 1, "config"),
        ("src/state/mod.rs", "use crate::analysis::Facts;", 1, "analysis"),
        ("src/config/mod.rs", "use crate::telemetry::log;", 1, "telemetry"),
        ("src/rpc/mod.rs", "use crate::*;", 1, "*"),
        ("src/rpc/mod.rs", "use crate::nothing::X;", 1, "nothing"),
        ("src/rpc/mod.rs", "macro_rules! m { () => { $crate::app::x() } }", 1, "app"),
        ("src/rpc/mod.rs", "fn f<'a>(x: &'a str) { let c = '\"'; crate::app::f(\"\\\"\") }", 1, "app"),
    ] {
        let found = judge_paths(file, text);
        assert_eq!(found.len(), 1, "{text}: {}", lines(&found));
        assert_eq!((found[0].line, found[0].target.as_str()), (line, target), "{text}");
        assert!(found[0].to_string().starts_with(&format!("{file}:{line}: ")), "{}", found[0]);
    }
}

#[test]
fn paths_that_point_down_comments_and_strings_are_left_alone() {
    for (file, text) in [
        ("src/store/mod.rs", "use crate::{base::ids, config, state::doc::Doc, store::record};"),
        ("src/analysis/mod.rs", "use crate::base::limits; use crate::analysis::walk;"),
        ("src/store/mod.rs", "// use crate::engine;\n/* crate::edge /* crate::app */ crate::app */"),
        (
            "src/store/mod.rs",
            "const A: &str = \"crate::engine\"; const B: &str = r#\"\"crate::edge\"#; const C: u8 = b'\"';",
        ),
        ("src/store/mod.rs", "/// [`crate::engine::Engine`]\npub(crate) fn f() {}"),
        ("src/store/sled.rs", "mod tests { use super::super::StoreError; use super::*; }"),
        ("src/lib.rs", "pub use crate::app::cli;"),
        ("src/main.rs", "fn main() { outlast::app::cli::main() }"),
    ] {
        let found = judge_paths(file, text);
        assert!(found.is_empty(), "{text}: {}", lines(&found));
    }
}

#[test]
fn a_library_out_of_its_place_is_found() {
    for (file, text, library) in [
        ("src/engine/mod.rs", "use sled::Db;", "sled"),
        ("src/engine/mod.rs", "use ::sled::Db;", "sled"),
        ("src/store/mod.rs", "use sled;", "sled"),
        ("src/store/mod.rs", "pub mod sled;\nfn f(x: ::sled::Db) {}", "sled"),
        ("src/engine/mod.rs", "fn f() -> Result<hyper::Response<()>, hyper_util::X> {}", "hyper"),
        ("src/engine/mod.rs", "use {bytes::Bytes, dashmap::DashMap};", "dashmap"),
        ("src/engine/mod.rs", "extern crate redis;", "redis"),
    ] {
        let found = judge_libraries(file, text);
        assert!(found.iter().any(|finding| finding.target == library), "{text}: {}", lines(&found));
    }
}

#[test]
fn a_library_in_its_place_and_modules_of_its_name_are_left_alone() {
    for (file, text) in [
        ("src/store/sled.rs", "use sled::Db; fn f() { ::sled::open(\"x\") }"),
        ("src/store/sled/tests.rs", "use sled::Db;"),
        (
            "src/store/mod.rs",
            "pub mod sled;\nuse self::sled::SledDisk; fn f() { sled::open(); crate::store::sled::open() }",
        ),
        ("src/edge/http/serve.rs", "use hyper::server::conn::http1;"),
        (
            "src/engine/mod.rs",
            "// sled::Db\nconst X: &str = \"hyper::Body\"; fn f(sled: u8) { let redis = sled; }",
        ),
    ] {
        let found = judge_libraries(file, text);
        assert!(found.is_empty(), "{text}: {}", lines(&found));
    }
}

/// Something that stands where it must not.
struct Finding {
    file: String,
    line: usize,
    target: String,
    reason: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.reason)
    }
}

fn lines(found: &[Finding]) -> String {
    found.iter().map(|finding| format!("\n{finding}")).collect()
}

/// Every source file with its path from the repository's root.
fn sources() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut folders = vec![root.join("src")];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
                found.push((name, fs::read_to_string(&path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

/// The layer of a file; none for `lib.rs` and `main.rs`, which stand above all.
fn layer_of(file: &str) -> Option<&str> {
    let inside = file.strip_prefix("src/")?;
    let layer = inside.split_once('/').map_or_else(|| inside.trim_end_matches(".rs"), |(layer, _)| layer);
    (layer != "lib" && layer != "main").then_some(layer)
}

fn rank(layer: &str) -> Option<usize> {
    LAYERS.iter().position(|siblings| siblings.contains(&layer))
}

fn judge_paths(file: &str, text: &str) -> Vec<Finding> {
    let Some(own) = layer_of(file) else { return Vec::new() };
    let tokens = tokens(text);
    let mut found = Vec::new();
    for (line, target) in roots(file, &tokens) {
        let reason = if target == own {
            continue;
        } else if target == "*" {
            format!("`{own}` takes everything of the crate's root")
        } else {
            match (rank(own), rank(&target)) {
                (_, None) => format!("`{own}` uses `{target}`, which is no layer"),
                (None, _) => format!("`{own}` is no layer"),
                (Some(here), Some(there)) if there > here => {
                    format!("`{own}` uses `{target}`, which is above it")
                }
                (Some(here), Some(there)) if there == here => {
                    format!("`{own}` uses `{target}`, which is its sibling")
                }
                _ => match NARROW.iter().find(|(layer, _)| *layer == own) {
                    Some((_, only)) if !only.contains(&target.as_str()) => {
                        format!("`{own}` uses `{target}`, and may use {} alone", only.join(", "))
                    }
                    _ => continue,
                },
            }
        };
        found.push(Finding { file: file.to_owned(), line, target, reason });
    }
    found
}

/// What is named directly below the crate's root, with its line.
fn roots(file: &str, tokens: &[Token]) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut modules = Modules::of(file);
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        modules.step(tokens, at);
        let starts = at == 0 || !is(tokens, at - 1, "::") || is(tokens, at.wrapping_sub(2), "$");
        let path_end = match token.text.as_str() {
            "crate" | "outlast" if starts => Some(at + 1),
            "super" if starts => modules.above_root(tokens, at),
            _ => None,
        };
        if let Some(end) = path_end
            && is(tokens, end, "::")
        {
            names_below(tokens, end + 1, &mut found);
        }
        at += 1;
    }
    found
}

/// The first segment at `at`, or the first segments of a group.
fn names_below(tokens: &[Token], at: usize, found: &mut Vec<(usize, String)>) {
    let Some(token) = tokens.get(at) else { return };
    if token.text != "{" {
        found.push((token.line, token.text.clone()));
        return;
    }
    let mut depth = 0;
    for (at, token) in tokens.iter().enumerate().skip(at) {
        match token.text.as_str() {
            "{" => depth += 1,
            "}" => depth -= 1,
            "self" => {}
            name if depth == 1 && name != "," && (is(tokens, at - 1, "{") || is(tokens, at - 1, ",")) => {
                found.push((token.line, name.to_owned()));
            }
            _ => {}
        }
        if depth == 0 {
            return;
        }
    }
}

/// How deep below the crate's root the code at a place is.
struct Modules {
    file: usize,
    /// For each open brace whether it is a module's.
    braces: Vec<bool>,
}

impl Modules {
    fn of(file: &str) -> Self {
        let inside = file.trim_start_matches("src/").trim_end_matches(".rs");
        let inside = inside.strip_suffix("/mod").unwrap_or(inside);
        Self { file: inside.split('/').count(), braces: Vec::new() }
    }

    fn step(&mut self, tokens: &[Token], at: usize) {
        if is(tokens, at, "{") {
            self.braces.push(at >= 2 && is(tokens, at - 2, "mod"));
        } else if is(tokens, at, "}") {
            self.braces.pop();
        }
    }

    /// Where a chain of `super` ends, when it reaches the crate's root.
    fn above_root(&self, tokens: &[Token], at: usize) -> Option<usize> {
        let depth = self.file + self.braces.iter().filter(|module| **module).count();
        let end = at + 2 * depth - 1;
        let chain = (0..depth).all(|step| {
            is(tokens, at + 2 * step, "super") && (step == 0 || is(tokens, at + 2 * step - 1, "::"))
        });
        chain.then_some(end)
    }
}

fn judge_libraries(file: &str, text: &str) -> Vec<Finding> {
    let tokens = tokens(text);
    let mut found = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        let Some((library, place)) = PLACES.iter().find(|(library, _)| *library == token.text) else {
            continue;
        };
        // What a test is checked with does not leave the test.
        if file.starts_with(place) || file.ends_with("/tests.rs") {
            continue;
        }
        let before =
            |back: usize| at.checked_sub(back).and_then(|at| tokens.get(at)).map(|token| token.text.as_str());
        let from_root = before(1) == Some("::") && !before(2).is_some_and(is_name_or_close);
        let own_module = (0..tokens.len()).any(|at| is(&tokens, at, "mod") && is(&tokens, at + 1, library));
        let first = before(1) != Some("::") && !own_module;
        let path = is(&tokens, at + 1, "::");
        let imported =
            matches!(before(1), Some("use")) || (before(1) == Some("crate") && before(2) == Some("extern"));
        if (from_root && path) || (first && (path || imported)) {
            let reason = format!("`{library}` is used outside {place}*");
            found.push(Finding {
                file: file.to_owned(),
                line: token.line,
                target: (*library).to_owned(),
                reason,
            });
        }
    }
    found
}

fn is_name_or_close(text: &str) -> bool {
    text == ">"
        || text.starts_with(|c: char| c.is_alphanumeric() || c == '_')
            && !matches!(
                text,
                "use" | "return" | "as" | "in" | "for" | "impl" | "dyn" | "mut" | "const" | "where"
            )
}

fn is(tokens: &[Token], at: usize, text: &str) -> bool {
    tokens.get(at).is_some_and(|token| token.text == text)
}

/// A name, `::`, or one other character of code.
#[derive(Debug)]
struct Token {
    line: usize,
    text: String,
}

/// The code of a source text without comments, strings, characters and lifetimes.
fn tokens(text: &str) -> Vec<Token> {
    let characters: Vec<char> = text.chars().collect();
    let mut found = Vec::new();
    let (mut at, mut line) = (0, 1);
    while let Some(&character) = characters.get(at) {
        let rest = &characters[at..];
        let skipped = skip(rest);
        let length = if skipped > 0 {
            skipped
        } else if character.is_alphanumeric() || character == '_' {
            let length = rest.iter().take_while(|c| c.is_alphanumeric() || **c == '_').count();
            found.push(Token { line, text: rest[..length].iter().collect() });
            length
        } else if rest.starts_with(&[':', ':']) {
            found.push(Token { line, text: "::".to_owned() });
            2
        } else {
            if !character.is_whitespace() {
                found.push(Token { line, text: character.to_string() });
            }
            1
        };
        line += rest[..length].iter().filter(|c| **c == '\n').count();
        at += length;
    }
    found
}

/// How many characters at the beginning are a comment, a string, a character or a lifetime.
fn skip(rest: &[char]) -> usize {
    match rest {
        ['/', '/', ..] => rest.iter().take_while(|c| **c != '\n').count(),
        ['/', '*', ..] => block_comment(rest),
        ['"', ..] => string(rest, 0),
        ['b' | 'c', '"', ..] => string(rest, 1),
        ['r', '"' | '#', ..] => raw_string(rest, 1),
        ['b' | 'c', 'r', '"' | '#', ..] => raw_string(rest, 2),
        ['b', '\'', ..] => 1 + skip(&rest[1..]),
        ['\'', '\\', _, ..] => 3 + rest[3..].iter().take_while(|c| **c != '\'').count() + 1,
        ['\'', _, '\'', ..] => 3,
        ['\'', ..] => 1 + rest[1..].iter().take_while(|c| c.is_alphanumeric() || **c == '_').count(),
        _ => 0,
    }
}

fn block_comment(rest: &[char]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        match &rest[at..] {
            ['/', '*', ..] => (depth, at) = (depth + 1, at + 2),
            ['*', '/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

fn string(rest: &[char], prefix: usize) -> usize {
    let mut at = prefix + 1;
    while let Some(character) = rest.get(at) {
        match character {
            '\\' => at += 2,
            '"' => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// Nothing is skipped for a raw name such as `r#type`.
fn raw_string(rest: &[char], prefix: usize) -> usize {
    let hashes = rest[prefix..].iter().take_while(|c| **c == '#').count();
    if rest.get(prefix + hashes) != Some(&'"') {
        return 0;
    }
    let mut close = vec!['"'];
    close.extend(std::iter::repeat_n('#', hashes));
    let start = prefix + hashes + 1;
    let end = rest[start..].windows(close.len()).position(|window| window == close);
    end.map_or(rest.len(), |end| start + end + close.len())
}
