//! Budgets, cursors, determinism, deadlines, cancellation.

use super::*;

#[test]
fn the_same_question_has_the_same_answer_for_any_number_of_threads_warm_or_cold() {
    let keys = Keys::generate();
    let ask = json!({ "limit": 5000, "max_tokens": 20000 });
    let outline = json!({ "max_tokens": 20000 });
    let mut answers = Vec::new();
    for threads in [1, 2, 4, 2, 1] {
        let engine = Engine::new(own_sources(), &keys, clock()).unwrap().with_threads(threads);
        for _ in 0..2 {
            let request = ComplexityRequest::parse(arguments(&ask)).unwrap();
            let functions = engine.complexity(&request, NOBODY).unwrap();
            let request = StructureRequest::parse(arguments(&outline)).unwrap();
            answers.push((functions, engine.structure(&request, NOBODY).unwrap()));
        }
    }
    assert!(answers.windows(2).all(|pair| pair[0] == pair[1]));
}

#[test]
fn a_result_never_exceeds_its_budget_and_uses_it() {
    let engine = engine(own_sources());
    for max_tokens in [200, 500, 1_000, 4_000] {
        let base = json!({ "max_tokens": max_tokens });
        let tree = json!({ "max_tokens": max_tokens, "view": "tree", "depth": 10 });
        let request = ComplexityRequest::parse(arguments(&base)).unwrap();
        let functions = engine.complexity(&ComplexityRequest { limit: 5_000, ..request }, NOBODY);
        let outline = engine.structure(&StructureRequest::parse(arguments(&base)).unwrap(), NOBODY);
        let tree = engine.structure(&StructureRequest::parse(arguments(&tree)).unwrap(), NOBODY);
        for (kind, outcome) in [("functions", functions), ("outline", outline), ("tree", tree)] {
            match outcome {
                Ok(text) => {
                    let used = text.len() as f64 / 2.6;
                    assert!(used <= f64::from(max_tokens), "{kind} {max_tokens}: {used}");
                    let page = serde_json::from_str::<Value>(&text).unwrap()["page"].clone();
                    assert!(page["estimated_tokens"].as_u64().unwrap() <= max_tokens as u64);
                    assert!(page["estimated_tokens"].as_f64().unwrap() >= used);
                    assert!(page["returned"].as_u64().unwrap() > 0);
                    let more = !page["next_cursor"].is_null();
                    assert!(
                        !more || max_tokens < 1_000 || used >= 0.8 * f64::from(max_tokens),
                        "{kind} {used}"
                    );
                }
                Err(AnalysisError::BudgetTooSmall { needed }) => {
                    assert!(needed > max_tokens as u64 && max_tokens == 200, "{kind} {max_tokens} {needed}");
                }
                Err(error) => panic!("{error}"),
            }
        }
    }
}

#[test]
fn the_pages_of_a_cursor_walk_make_up_one_big_page() {
    let engine = engine(own_sources());
    let big = complexity(&engine, json!({ "path": "base", "limit": 5000, "max_tokens": 20000 })).unwrap();
    assert!(big["page"]["next_cursor"].is_null());
    let mut rows = Vec::new();
    let mut ask = json!({ "path": "base", "max_tokens": 600, "limit": 7 });
    loop {
        let page = complexity(&engine, ask.clone()).unwrap();
        rows.extend(page["functions"]["rows"].as_array().unwrap().clone());
        assert_eq!(page["totals"], big["totals"]);
        match page["page"]["next_cursor"].as_str() {
            Some(cursor) => ask["cursor"] = cursor.into(),
            None => break,
        }
    }
    assert_eq!(Value::from(rows), big["functions"]["rows"]);

    let big = structure(&engine, json!({ "view": "tree", "depth": 10, "max_tokens": 20000 })).unwrap();
    let mut lines = Vec::new();
    let mut ask = json!({ "view": "tree", "depth": 10, "max_tokens": 400 });
    loop {
        let page = structure(&engine, ask.clone()).unwrap();
        lines.push(page["text"].as_str().unwrap().to_owned());
        match page["page"]["next_cursor"].as_str() {
            Some(cursor) => ask["cursor"] = cursor.into(),
            None => break,
        }
    }
    assert!(lines.len() > 1);
    assert_eq!(lines.join("\n"), big["text"].as_str().unwrap());
}

#[test]
fn a_cursor_is_stale_when_a_file_has_changed_and_foreign_to_other_arguments() {
    let root = tempfile::tempdir().unwrap();
    write(root.path(), "a.py", "def f(): pass\ndef g(): pass\n");
    let engine = engine(root.path());
    let first = complexity(&engine, json!({ "limit": 1 })).unwrap();
    let cursor = first["page"]["next_cursor"].as_str().unwrap().to_owned();
    let second = complexity(&engine, json!({ "limit": 1, "cursor": cursor })).unwrap();
    assert_eq!(names(&second), ["g"]);
    let other = complexity(&engine, json!({ "limit": 1, "cursor": cursor, "sort": "code" }));
    assert_eq!(other.unwrap_err(), AnalysisError::InvalidCursor);
    let tool = structure(&engine, json!({ "cursor": cursor }));
    assert_eq!(tool.unwrap_err(), AnalysisError::InvalidCursor);
    // The same size and, within the clock's grain, the same time stamp.
    write(root.path(), "a.py", "def f(): pass\ndef h(): pass\n");
    let ask = json!({ "limit": 1, "cursor": cursor });
    let error = complexity(&engine, ask.clone()).unwrap_err();
    assert_eq!(error, AnalysisError::CursorStale);
    assert_eq!(failure(&error, &ask)["arguments"], json!({ "limit": 1 }));
    let fresh = complexity(&engine, json!({})).unwrap();
    assert_eq!(names(&fresh), ["f", "h"]);
    assert_ne!(fresh["snapshot"]["id"], first["snapshot"]["id"]);
}

/// A clock on which every look costs 10 ms.
#[derive(Default)]
struct Hurrying(AtomicU64);

impl Clock for Hurrying {
    fn now_ms(&self) -> u64 {
        self.monotonic_ms()
    }

    fn monotonic_ms(&self) -> u64 {
        self.0.fetch_add(10, Ordering::SeqCst)
    }
}

#[test]
fn at_the_deadline_what_is_ready_is_returned() {
    let root = tempfile::tempdir().unwrap();
    for at in 0..50 {
        write(root.path(), &format!("f{at:02}.py"), format!("def f{at}(): pass\n"));
    }
    let engine = Engine::new(root.path(), &Keys::generate(), Arc::new(Hurrying::default())).unwrap();
    let result = complexity(&engine, json!({ "deadline_ms": 1500, "max_tokens": 20000 })).unwrap();
    let skipped = result["coverage"]["skipped"]["deadline"].as_u64().unwrap();
    assert!(skipped > 0 && skipped < 50, "{skipped}");
    assert_eq!(result["page"]["truncated_by"], "deadline");
    assert!(result["page"]["next_cursor"].is_null());
    assert_eq!(names(&result).len() as u64, 50 - skipped);
    assert_eq!(result["next"][0]["arguments"]["deadline_ms"], 6000);
    let rest = complexity(&engine, json!({ "deadline_ms": 600000, "max_tokens": 20000 })).unwrap();
    assert_eq!(names(&rest).len(), 50);
}

#[test]
fn a_cancelled_call_ends_and_leaves_good_facts_behind() {
    let keys = Keys::generate();
    let engine = Engine::new(own_sources(), &keys, clock()).unwrap().with_threads(2);
    let ask = json!({ "max_tokens": 20000 });
    let request = ComplexityRequest::parse(arguments(&ask)).unwrap();
    for after in [0, 1, 60, 200] {
        let asked = AtomicUsize::new(0);
        let cancelled = || asked.fetch_add(1, Ordering::SeqCst) >= after;
        let watch = Watch { cancelled: &cancelled, progress: &|_| {} };
        assert_eq!(engine.complexity(&request, watch).unwrap_err(), AnalysisError::Cancelled);
    }
    let fresh = Engine::new(own_sources(), &keys, clock()).unwrap();
    assert_eq!(engine.complexity(&request, NOBODY).unwrap(), fresh.complexity(&request, NOBODY).unwrap());
}

#[test]
fn progress_ends_at_its_total() {
    let engine = engine(own_sources()).with_threads(1);
    let request = ComplexityRequest::parse(arguments(&json!({}))).unwrap();
    for warm in [false, true] {
        let seen: Mutex<Vec<Progress>> = Mutex::default();
        let progress = |next: Progress| seen.lock().unwrap().push(next);
        engine.complexity(&request, Watch { cancelled: &|| false, progress: &progress }).unwrap();
        let seen = seen.into_inner().unwrap();
        assert!(seen.windows(2).all(|pair| pair[0].done <= pair[1].done));
        let last = seen.last().unwrap();
        assert_eq!(last.done, last.total);
        assert_eq!(warm, !last.message.ends_with("cached 0"));
        assert!(last.message.starts_with("parse "));
    }
}

#[test]
fn a_mistake_in_an_argument_is_named() {
    let of = |arguments: Value| match ComplexityRequest::parse(arguments.as_object().unwrap()) {
        Err(AnalysisError::InvalidArgument { field, message }) => (field, message),
        other => panic!("{other:?}"),
    };
    for (arguments, field) in [
        (json!({ "pth": "." }), "pth"),
        (json!({ "path": 1 }), "path"),
        (json!({ "path": "x".repeat(5000) }), "path"),
        (json!({ "max_tokens": 199 }), "max_tokens"),
        (json!({ "max_tokens": 20001 }), "max_tokens"),
        (json!({ "max_tokens": 1.5 }), "max_tokens"),
        (json!({ "max_tokens": -1 }), "max_tokens"),
        (json!({ "max_tokens": 1e300 }), "max_tokens"),
        (json!({ "limit": "1" }), "limit"),
        (json!({ "languages": ["cobol"] }), "languages"),
        (json!({ "languages": "rust" }), "languages"),
        (json!({ "include": [1] }), "include"),
        (json!({ "exclude": vec!["x"; 65] }), "exclude"),
        (json!({ "metrics": ["lines", "lines"] }), "metrics"),
        (json!({ "view": "hotspots" }), "view"),
        (json!({ "profile": "pmd" }), "profile"),
        (json!({ "min": { "size": 1 } }), "min"),
        (json!({ "min": { "lines": "1" } }), "min.lines"),
        (json!({ "min": [] }), "min"),
        (json!({ "respect_ignore": "yes" }), "respect_ignore"),
    ] {
        let (named, message) = of(arguments.clone());
        assert_eq!(named, field, "{arguments}");
        assert!(!message.is_empty());
    }
    let map = StructureRequest::parse(arguments(&json!({ "view": "map" }))).unwrap_err();
    assert!(map.message().contains("outline, tree"));
}
