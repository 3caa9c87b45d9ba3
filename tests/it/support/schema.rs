//! The official JSON schemas of the revisions: what the server sends has to be as they say.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use jsonschema::Validator;
use serde_json::{Map, Value, json};

/// The schema of one revision.
pub struct Schema {
    revision: String,
    root: Value,
    /// `definitions` or `$defs`.
    place: &'static str,
    validators: HashMap<String, Validator>,
    /// Messages that were held to it.
    pub checked: usize,
}

impl Schema {
    pub fn of(revision: &str) -> Self {
        let path =
            Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/schema/{revision}.json"));
        let root: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let place = if root.get("$defs").is_some() { "$defs" } else { "definitions" };
        Self { revision: revision.to_owned(), root, place, validators: HashMap::new(), checked: 0 }
    }

    /// Holds the answer to a request of this method, or what came on its stream, to the schema.
    pub fn check(&mut self, method: &str, message: &Value) {
        if let Value::Array(all) = message {
            all.iter().for_each(|message| self.check_one(method, message));
        } else {
            self.check_one(method, message);
        }
    }

    fn check_one(&mut self, method: &str, message: &Value) {
        self.checked += 1;
        if let Some(said) = message.get("method") {
            let kind = if message.get("id").is_some() { "JSONRPCRequest" } else { "JSONRPCNotification" };
            self.hold(kind, message);
            let named = self.of_method(said.as_str().unwrap());
            let named = named.unwrap_or_else(|| panic!("{} has no {said}", self.revision));
            self.hold(&named, message);
        } else if let Some(result) = message.get("result") {
            self.hold(self.first_of(&["JSONRPCResultResponse", "JSONRPCResponse"]), message);
            let named = match result["resultType"].as_str() {
                Some("input_required") => "InputRequiredResult".to_owned(),
                _ => self.of_method(method).map_or_else(
                    || panic!("{method}"),
                    |request| {
                        let own = request.replace("Request", "Result");
                        if self.has(&own) { own } else { "EmptyResult".to_owned() }
                    },
                ),
            };
            self.hold(&named, result);
        } else {
            self.check_error(message);
        }
    }

    fn check_error(&mut self, message: &Value) {
        let mut message = message.clone();
        // Transports say since 2025-03-26 that a refused POST may have an error without an id; schemas since 2025-11-25.
        if message.get("id").is_none() && self.revision.as_str() < "2025-11-25" {
            message["id"] = json!("none");
        }
        self.hold(self.first_of(&["JSONRPCErrorResponse", "JSONRPCError"]), &message);
        let code = &message["error"]["code"];
        let named: Vec<(String, bool)> = self
            .definitions()
            .iter()
            .filter(|(name, _)| name.ends_with("Error"))
            .filter_map(|(name, it)| {
                let own = &it["properties"]["code"]["const"] == code;
                let whole = it["properties"]["error"]["allOf"][1]["properties"]["code"]["const"] == *code;
                (own || whole).then(|| (name.clone(), whole))
            })
            .collect();
        for (name, whole) in named {
            self.hold(&name, if whole { &message } else { &message["error"] });
        }
    }

    fn definitions(&self) -> &Map<String, Value> {
        self.root[self.place].as_object().unwrap()
    }

    fn has(&self, name: &str) -> bool {
        self.definitions().contains_key(name)
    }

    fn first_of(&self, names: &[&'static str]) -> &'static str {
        names.iter().find(|name| self.has(name)).unwrap()
    }

    /// The definition of the request or notification of this method.
    fn of_method(&self, method: &str) -> Option<String> {
        let mut found =
            self.definitions().iter().filter(|(_, it)| it["properties"]["method"]["const"] == method);
        found.next().map(|(name, _)| name.clone())
    }

    fn hold(&mut self, name: &str, value: &Value) {
        if !self.validators.contains_key(name) {
            let mut whole = self.root.clone();
            whole["$ref"] = json!(format!("#/{}/{name}", self.place));
            self.validators.insert(name.to_owned(), jsonschema::validator_for(&whole).unwrap());
        }
        let faults: Vec<String> = self.validators[name]
            .iter_errors(value)
            .map(|fault| format!("{}: {fault}", fault.instance_path()))
            .collect();
        assert!(faults.is_empty(), "{} {name}: {}\n{value:#}", self.revision, faults.join("\n"));
    }
}
