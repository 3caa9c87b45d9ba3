//! The engine over real directories: what is counted, what is listed, what is refused, and that the same question has
//! the same answer.

use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::{Map, Value, json};

use super::complexity::cyclomatic;
use super::engine::{Engine, failure};
use super::error::AnalysisError;
use super::extract::extract;
use super::facts::FileFacts;
use super::language::Language;
use super::parse::Parsers;
use super::request::{ComplexityRequest, StructureRequest};
use super::scan::{Progress, Watch};
use super::vector::{Construct, Profile};
use crate::base::clock::{Clock, SharedClock, SystemClock};
use crate::base::seal::Keys;

mod confinement;
mod content;
mod fixtures;
mod paging;

const NOBODY: Watch<'static> = Watch { cancelled: &|| false, progress: &|_| {} };

fn clock() -> SharedClock {
    Arc::new(SystemClock::default())
}

fn engine(root: &Path) -> Engine {
    Engine::new(root, &Keys::generate(), clock()).unwrap()
}

/// This crate's own sources: a real tree.
fn own_sources() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src"))
}

fn arguments(arguments: &Value) -> &Map<String, Value> {
    arguments.as_object().unwrap()
}

fn complexity(engine: &Engine, of: Value) -> Result<Value, AnalysisError> {
    let request = ComplexityRequest::parse(arguments(&of))?;
    engine.complexity(&request, NOBODY).map(|text| serde_json::from_str(&text).unwrap())
}

fn structure(engine: &Engine, of: Value) -> Result<Value, AnalysisError> {
    let request = StructureRequest::parse(arguments(&of))?;
    engine.structure(&request, NOBODY).map(|text| serde_json::from_str(&text).unwrap())
}

/// Names of the functions found, in the order of the file.
fn names(result: &Value) -> Vec<String> {
    let rows = result["functions"]["rows"].as_array().unwrap();
    rows.iter().map(|row| row[1].as_str().unwrap().to_owned()).collect()
}

fn write(root: &Path, path: &str, content: impl AsRef<[u8]>) {
    let path = root.join(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, content).unwrap();
}

fn facts(language: Language, source: &[u8]) -> FileFacts {
    let tree = Parsers::default().parse(language, source, clock().as_ref(), u64::MAX, &|| false).unwrap();
    extract(language, &tree, source, &|| false).unwrap()
}
