//! Arguments that clients of 2026-07-28 repeat in headers: `x-mcp-header` in a tool's `inputSchema` (MCP 2026-07-28,
//! transports, custom headers from tool parameters).

use std::collections::HashSet;

use http::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::mcp::header::{decode, encode};
use crate::rpc::error::{HEADER_MISMATCH, RpcError};
use crate::rpc::object::{Change, Object};
use crate::tools::answer::raw;

const ANNOTATION: &str = "x-mcp-header";
const PREFIX: &str = "mcp-param-";
/// Integers that every JSON reader keeps.
const EXACT: f64 = 9_007_199_254_740_991.0;

/// The arguments of one tool that are repeated in headers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderParams(Vec<Param>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Param {
    header: HeaderName,
    /// The way to it from `arguments`.
    path: Vec<String>,
}

impl HeaderParams {
    /// Reads the annotations of a tool's `inputSchema`.
    ///
    /// # Errors
    /// What is wrong with one of them: clients do not take a tool that has such a one.
    pub fn read(schema: &RawValue) -> Result<Self, String> {
        if !schema.get().contains(ANNOTATION) {
            return Ok(Self::default());
        }
        let mut params = Vec::new();
        collect(schema, &mut Vec::new(), true, &mut params)?;
        let mut names = HashSet::new();
        match params.iter().find(|param| !names.insert(&param.header)) {
            Some(twice) => Err(format!("two arguments have the header {}", twice.header)),
            None => Ok(Self(params)),
        }
    }

    /// Whether the headers of a request say what its body says. `params` are those of `tools/call`.
    ///
    /// # Errors
    /// -32020, to be answered 400.
    pub fn check(&self, headers: &HeaderMap, params: Option<&RawValue>) -> Result<(), RpcError> {
        if self.0.is_empty() {
            return Ok(());
        }
        let arguments = params.and_then(|params| Object::parse(params.get()).ok()?.get("arguments"));
        for param in &self.0 {
            param.check(headers, arguments).map_err(|why| {
                RpcError::new(HEADER_MISMATCH, format!("the header {} {why}", param.header))
            })?;
        }
        Ok(())
    }

    /// The headers that repeat the arguments of `params`, those of `tools/call`.
    pub(in crate::tools) fn repeat(&self, params: &RawValue) -> Vec<(HeaderName, HeaderValue)> {
        if self.0.is_empty() {
            return Vec::new();
        }
        let arguments = Object::parse(params.get()).ok().and_then(|params| params.get("arguments"));
        self.0.iter().filter_map(|param| Some((param.header.clone(), param.value(arguments)?))).collect()
    }
}

impl Param {
    /// What the header is to say; none where there is nothing to repeat, or nothing that a header could.
    fn value(&self, arguments: Option<&RawValue>) -> Option<HeaderValue> {
        let json = self.argument(arguments)?;
        let text = match json.as_bytes().first()? {
            b'{' | b'[' => return None,
            b'"' => serde_json::from_str::<String>(json).ok()?,
            _ => json.to_owned(),
        };
        HeaderValue::from_str(&encode(&text)).ok()
    }

    fn argument<'a>(&self, arguments: Option<&'a RawValue>) -> Option<&'a str> {
        let mut value = arguments;
        for name in &self.path {
            value = value.and_then(|value| Object::parse(value.get()).ok()?.get(name));
        }
        value.map(RawValue::get).filter(|json| *json != "null")
    }

    fn check(&self, headers: &HeaderMap, arguments: Option<&RawValue>) -> Result<(), String> {
        let value = self.argument(arguments);
        let mut sent = headers.get_all(&self.header).iter();
        let header = sent.next();
        if sent.next().is_some() {
            return Err("was sent more than once".into());
        }
        let (header, value) = match (header, value) {
            (None, None) => return Ok(()),
            (Some(_), None) => return Err(format!("is there, and the argument {} is not", self.shown())),
            // Of what no header can repeat, the tool says that it is wrong.
            (_, Some(json)) if json.starts_with(['{', '[']) => return Ok(()),
            (None, Some(_)) => return Err(format!("is missing: it repeats the argument {}", self.shown())),
            (Some(header), Some(value)) => (header, value),
        };
        let text = header.to_str().map_err(|_| "has characters that are not ASCII".to_owned())?;
        let said = decode(text.trim_matches([' ', '\t']), "Mcp-Param-*")
            .map_err(|_| "is marked as Base64 and is none".to_owned())?;
        let same = if value.starts_with('"') {
            serde_json::from_str::<String>(value).is_ok_and(|text| text == said)
        } else {
            value == said || are_one_number(value, &said)
        };
        if same { Ok(()) } else { Err(format!("and the argument {} differ", self.shown())) }
    }

    fn shown(&self) -> String {
        format!("{:?}", self.path.join("."))
    }
}

/// `42.0` is `42` (the specification's own example).
fn are_one_number(one: &str, other: &str) -> bool {
    let number = |text: &str| text.parse::<f64>().ok().filter(|number| number.abs() <= EXACT);
    number(one).zip(number(other)).is_some_and(|(one, other)| one == other)
}

/// A schema without its annotations.
pub(super) fn without_annotations(schema: &RawValue) -> Box<RawValue> {
    raw(strip(schema.get()))
}

fn strip(json: &str) -> String {
    let Ok(object) = Object::parse(json) else { return json.to_owned() };
    object.with(|key, value| match keyword(key) {
        Keyword::Annotation => Change::Drop,
        Keyword::Data => Change::Keep,
        Keyword::Schemas => match Object::parse(value.get()) {
            Ok(named) => Change::Set(named.with(|_, schema| Change::Set(strip(schema.get())))),
            Err(_) => Change::Keep,
        },
        Keyword::Other if value.get().starts_with('{') => Change::Set(strip(value.get())),
        Keyword::Other if value.get().starts_with('[') => {
            match serde_json::from_str::<Vec<&RawValue>>(value.get()) {
                Ok(items) => {
                    let items: Vec<String> = items.into_iter().map(|item| strip(item.get())).collect();
                    Change::Set(format!("[{}]", items.join(",")))
                }
                Err(_) => Change::Keep,
            }
        }
        Keyword::Other => Change::Keep,
    })
}

/// What stands under a key of a schema.
enum Keyword {
    Annotation,
    /// Values, which are no schemas whatever they look like.
    Data,
    /// Names to schemas.
    Schemas,
    Other,
}

fn keyword(key: &str) -> Keyword {
    match key {
        ANNOTATION => Keyword::Annotation,
        "default" | "const" | "enum" | "examples" => Keyword::Data,
        "properties" | "patternProperties" | "$defs" | "definitions" | "dependentSchemas" => Keyword::Schemas,
        _ => Keyword::Other,
    }
}

/// `plain`: `schema` is reached from the root by `properties` alone.
fn collect(
    schema: &RawValue,
    path: &mut Vec<String>,
    plain: bool,
    params: &mut Vec<Param>,
) -> Result<(), String> {
    // A schema may also be `true`; and what is in a list of schemas may be anything.
    let Ok(object) = Object::parse(schema.get()) else { return Ok(()) };
    let mut inner = Vec::new();
    object.with(|key, value| {
        inner.push((key.to_owned(), value));
        Change::Keep
    });
    for (key, value) in inner {
        match keyword(&key) {
            Keyword::Annotation if plain && !path.is_empty() => params.push(annotated(&object, path, value)?),
            Keyword::Annotation => {
                return Err(
                    "it stands where no argument can be repeated: only on properties of properties".into()
                );
            }
            Keyword::Data => {}
            Keyword::Schemas => {
                let Ok(named) = Object::parse(value.get()) else { continue };
                let mut schemas = Vec::new();
                named.with(|name, schema| {
                    schemas.push((name.to_owned(), schema));
                    Change::Keep
                });
                for (name, schema) in schemas {
                    path.push(name);
                    collect(schema, path, plain && key == "properties", params)?;
                    path.pop();
                }
            }
            Keyword::Other => match serde_json::from_str::<Vec<&RawValue>>(value.get()) {
                Ok(items) => {
                    for item in items {
                        collect(item, path, false, params)?;
                    }
                }
                Err(_) => collect(value, path, false, params)?,
            },
        }
    }
    Ok(())
}

fn annotated(schema: &Object<'_>, path: &[String], name: &RawValue) -> Result<Param, String> {
    #[derive(Deserialize)]
    struct Name(String);
    let shown = path.join(".");
    let Ok(Name(name)) = serde_json::from_str(name.get()) else {
        return Err(format!("that of {shown:?} is no string"));
    };
    // An empty name would make the prefix alone, which is a token.
    let header = match HeaderName::from_bytes(format!("{PREFIX}{name}").as_bytes()) {
        Ok(header) if !name.is_empty() => header,
        _ => return Err(format!("that of {shown:?} cannot be part of a header's name")),
    };
    match schema.get("type").map(RawValue::get) {
        Some("\"string\"" | "\"integer\"" | "\"boolean\"") => Ok(Param { header, path: path.to_vec() }),
        _ => Err(format!("{shown:?} has one: want the type string, integer or boolean")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(schema: &str) -> Result<HeaderParams, String> {
        HeaderParams::read(&raw(schema.into()))
    }

    fn check(arguments: &str, headers: &[(&str, &str)]) -> Result<(), i32> {
        let params = read(
            r#"{"type":"object","properties":{"region":{"type":"string","x-mcp-header":"Region"},"n":{"type":"integer","x-mcp-header":"N"},
            "deep":{"type":"object","properties":{"on":{"type":"boolean","x-mcp-header":"Deep-On"}}}}}"#,
        )
        .unwrap();
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        }
        let body = raw(format!("{{\"name\":\"x\",\"arguments\":{arguments}}}"));
        params.check(&map, Some(&body)).map_err(|error| error.code)
    }

    #[test]
    fn what_the_body_says_the_headers_must_say() {
        for (arguments, headers) in [
            ("{}", &[][..]),
            (r#"{"region":null,"other":1}"#, &[]),
            (r#"{"region":"eu"}"#, &[("Mcp-Param-Region", " eu ")]),
            (r#"{"region":"\u00e9"}"#, &[("mcp-param-region", "=?base64?w6k=?=")]),
            (r#"{"region":"=?base64?w6k="}"#, &[("mcp-param-region", "=?base64?w6k=")]),
            (r#"{"n":42}"#, &[("Mcp-Param-N", "42.0")]),
            (r#"{"n":4.2e1}"#, &[("Mcp-Param-N", "42")]),
            (r#"{"n":9007199254740993}"#, &[("Mcp-Param-N", "9007199254740993")]),
            (r#"{"deep":{"on":true}}"#, &[("Mcp-Param-Deep-On", "true")]),
            (r#"{"deep":5}"#, &[]),
            (r#"{"region":["eu"]}"#, &[]),
            ("{}", &[("Mcp-Param-Unknown", "=?base64?!?=")]),
        ] {
            assert_eq!(check(arguments, headers), Ok(()), "{arguments} {headers:?}");
        }
        for (arguments, headers) in [
            (r#"{"region":"eu"}"#, &[][..]),
            (r#"{"region":"eu"}"#, &[("Mcp-Param-Region", "EU")]),
            (r#"{"region":"eu"}"#, &[("Mcp-Param-Region", "=?base64?ZXU?=")]),
            (r#"{"region":"eu"}"#, &[("Mcp-Param-Region", "eu"), ("Mcp-Param-Region", "eu")]),
            (r#"{"n":42}"#, &[("Mcp-Param-N", "43")]),
            (r#"{"n":9007199254740993}"#, &[("Mcp-Param-N", "9007199254740992")]),
            (r#"{"deep":{"on":true}}"#, &[("Mcp-Param-Deep-On", "True")]),
            ("{}", &[("Mcp-Param-Region", "eu")]),
        ] {
            assert_eq!(check(arguments, headers), Err(HEADER_MISMATCH), "{arguments} {headers:?}");
        }
    }

    #[test]
    fn annotations_that_clients_refuse_are_refused() {
        let property = |schema: &str| format!("{{\"properties\":{{\"a\":{schema}}}}}");
        for bad in [
            property(r#"{"type":"number","x-mcp-header":"A"}"#),
            property(r#"{"type":["string","null"],"x-mcp-header":"A"}"#),
            property(r#"{"x-mcp-header":"A"}"#),
            property(r#"{"type":"string","x-mcp-header":""}"#),
            property(r#"{"type":"string","x-mcp-header":"a b"}"#),
            property(r#"{"type":"string","x-mcp-header":1}"#),
            property(r#"{"type":"array","items":{"type":"string","x-mcp-header":"A"}}"#),
            property(r#"{"anyOf":[{"type":"string","x-mcp-header":"A"}]}"#),
            r#"{"properties":{"a":{"type":"string","x-mcp-header":"A"},"b":{"type":"string","x-mcp-header":"a"}}}"#
                .into(),
            r#"{"$defs":{"d":{"type":"string","x-mcp-header":"A"}}}"#.into(),
            r#"{"type":"object","x-mcp-header":"A"}"#.into(),
        ] {
            assert!(read(&bad).is_err(), "{bad}");
            let stripped = without_annotations(&raw(bad.clone()));
            assert!(!stripped.get().contains(ANNOTATION), "{stripped}");
            assert_eq!(read(stripped.get()), Ok(HeaderParams::default()));
        }
        for good in [
            "true",
            "{}",
            r#"{"properties":{"x-mcp-header":{"type":"string","default":{"x-mcp-header":1}}}}"#,
        ] {
            assert_eq!(read(good), Ok(HeaderParams::default()), "{good}");
            assert_eq!(without_annotations(&raw(good.into())).get(), good);
        }
    }
}
