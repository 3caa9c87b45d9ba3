//! One file per language with every construct, and what is expected of each.

use std::fmt::Write as _;

use super::*;

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/analysis");

fn vectors(language: Language, source: &[u8]) -> String {
    let facts = facts(language, source);
    let profiles: Vec<Profile> =
        Profile::ALL.into_iter().filter(|profile| profile.covers(language)).collect();
    let mut text = String::new();
    for (at, unit) in facts.units.iter().enumerate() {
        let _ = write!(text, "{} {}-{}\n ", unit.name, unit.start, unit.end);
        for profile in &profiles {
            let (value, modified) = cyclomatic(&facts, *profile)[at];
            let _ = write!(text, " {}={value}/{modified}", profile.name());
        }
        let lines = unit.lines;
        let _ = write!(
            text,
            "\n  cognitive={} nesting={} params={} exits={} statements={} tokens={} code={} comment={} doc={} blank={}\n ",
            unit.cognitive,
            unit.max_nesting,
            unit.params,
            unit.exits,
            unit.statements,
            unit.tokens,
            lines.code,
            lines.comment,
            lines.doc,
            lines.blank
        );
        for construct in Construct::ALL {
            match unit.counts.get(*construct) {
                0 => {}
                count => {
                    let _ = write!(text, " {}={count}", construct.name());
                }
            }
        }
        text.push('\n');
    }
    text
}

fn check(path: &str, actual: &str) {
    let path = format!("{FIXTURES}/{path}.expected");
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(expected == actual, "{path} does not hold; actual:\n{actual}");
}

fn check_vectors(language: Language, name: &str, extension: &str) {
    let source = std::fs::read(format!("{FIXTURES}/vector/{name}.{extension}")).unwrap();
    let actual = vectors(language, &source);
    check(&format!("vector/{name}"), &actual);
    // Line ends are no part of the code.
    let crlf = String::from_utf8(source).unwrap().replace('\n', "\r\n");
    assert_eq!(vectors(language, crlf.as_bytes()), actual);
}

#[test]
fn every_construct_of_python_counts_as_each_profile_says() {
    check_vectors(Language::Python, "python", "py");
}

#[test]
fn every_construct_of_rust_counts_as_each_profile_says() {
    check_vectors(Language::Rust, "rust", "rs");
}

#[test]
fn every_construct_of_go_counts_as_each_profile_says() {
    check_vectors(Language::Go, "go", "go");
}

#[test]
fn every_construct_of_javascript_counts_as_each_profile_says() {
    check_vectors(Language::JavaScript, "javascript", "js");
}

#[test]
fn every_construct_of_typescript_counts_as_each_profile_says() {
    check_vectors(Language::TypeScript, "typescript", "ts");
}

#[test]
fn tsx_reads_what_javascript_and_typescript_read() {
    for (name, extension) in [("javascript", "js"), ("typescript", "ts")] {
        let source = std::fs::read(format!("{FIXTURES}/vector/{name}.{extension}")).unwrap();
        check(&format!("vector/{name}"), &vectors(Language::Tsx, &source));
    }
}

#[test]
fn an_outline_lists_every_symbol_with_its_place_and_signature() {
    let engine = engine(Path::new(FIXTURES));
    for extension in ["py", "rs", "go", "ts", "js"] {
        let path = format!("outline/sample.{extension}");
        let result = structure(&engine, json!({ "path": path, "depth": 10, "max_tokens": 20000 })).unwrap();
        assert_eq!(
            result["symbols"]["columns"],
            json!(["name", "kind", "start", "end", "sel", "visibility", "signature", "doc"])
        );
        let mut actual = String::new();
        for row in result["symbols"]["rows"].as_array().unwrap() {
            let _ = writeln!(actual, "{row}");
        }
        check(&path, &actual);
    }
}

#[test]
fn an_outline_can_be_narrowed() {
    let engine = engine(Path::new(FIXTURES));
    let rows = |arguments: Value| {
        let result = structure(&engine, arguments).unwrap();
        result["symbols"]["rows"].as_array().unwrap().clone()
    };
    let path = "outline/sample.rs";
    let top = rows(json!({ "path": path, "depth": 1 }));
    assert!(top.iter().all(|row| !row[0].as_str().unwrap().contains("::")));
    let traits = rows(json!({ "path": path, "kinds": ["trait"] }));
    assert_eq!(traits.len(), 1);
    let exported = rows(json!({ "path": path, "private": false }));
    assert!(exported.iter().all(|row| row[5] == "public"));
    let bare = rows(json!({ "path": path, "signatures": false, "docs": "none" }));
    assert!(bare.iter().all(|row| row.as_array().unwrap().len() == 6));
    let full = rows(json!({ "path": path, "docs": "full", "kinds": ["struct"] }));
    assert_eq!(full[0][7], "A point\nin the plane.");
}

#[test]
fn a_tree_sums_up_directories() {
    let root = tempfile::tempdir().unwrap();
    write(root.path(), "a.py", "x = 1\n# c\n\n");
    write(root.path(), "sub/b.rs", "fn f() {}\nfn g() {}\n");
    write(root.path(), "sub/deep/c.go", "package c\n");
    let engine = engine(root.path());
    let result = structure(&engine, json!({ "view": "tree", "depth": 1 })).unwrap();
    assert_eq!(
        result["text"],
        "./  3 files  4 code  go 1, python 1, rust 1\n  a.py  1 code\n  sub/  2 files  3 code  go 1, rust 1"
    );
    assert_eq!(result["totals"]["code"], 4);
    // A name cannot make a line of its own.
    let odd = tempfile::tempdir().unwrap();
    write(odd.path(), "we\nird.py", "x = 1\n");
    let result = structure(&super::engine(odd.path()), json!({ "view": "tree" })).unwrap();
    assert_eq!(result["text"], "./  1 files  1 code  python 1\n  we\\nird.py  1 code");
    let result = structure(&engine, json!({ "view": "tree", "path": "sub" })).unwrap();
    assert_eq!(
        result["text"],
        "sub/  2 files  3 code  go 1, rust 1\n  b.rs  2 code\n  sub/deep/  1 files  1 code  go 1\n    c.go  1 code"
    );
}

#[test]
fn rows_are_ordered_filtered_and_limited_as_asked() {
    let engine = engine(Path::new(FIXTURES));
    let result = complexity(
        &engine,
        json!({ "path": "vector/python.py", "sort": "params", "min": { "params": 2 }, "metrics": ["params"] }),
    )
    .unwrap();
    assert_eq!(result["functions"]["columns"], json!(["path", "name", "start", "end", "params"]));
    assert_eq!(names(&result), ["branches", "mixed", "asserting", "factorial"]);
    assert_eq!(result["totals"]["functions"], 15);
    let result =
        complexity(&engine, json!({ "path": "vector/python.py", "sort": "path", "limit": 2 })).unwrap();
    assert_eq!(names(&result), ["branches", "loops"]);
    assert_eq!(result["page"]["truncated_by"], "limit");
    let result = complexity(&engine, json!({ "path": "vector", "profile": "radon" })).unwrap();
    assert_eq!(result["warnings"][0]["code"], "profile_not_for_language");
    assert_eq!(result["warnings"][0]["count"], 4);
}
