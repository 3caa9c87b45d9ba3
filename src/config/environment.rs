//! Settings from environment variables: `OUTLAST_SECTION__KEY`.

use toml::Value;

use super::error::{Problem, Source};
use super::shape::{Kind, Shape, nearest};

/// What every variable of ours begins with.
pub(super) const PREFIX: &str = "OUTLAST_";

/// One variable as a setting.
#[derive(Debug)]
pub(super) struct Setting {
    /// The keys down to the value.
    pub(super) keys: Vec<String>,
    /// The value.
    pub(super) value: Value,
}

/// Reads one variable. `servers`: the names of hosted servers that are configured already; a variable may name them
/// in capitals and with `_` for `-`.
pub(super) fn read(
    variable: &str,
    text: &str,
    shape: &Shape,
    servers: &[String],
) -> Result<Setting, Problem> {
    let fail = |message: String| Problem::at(Source::Variable(variable.to_owned()), message);
    let mut keys: Vec<String> = Vec::new();
    let mut here = shape;
    let mut segments = variable.strip_prefix(PREFIX).unwrap_or(variable).split("__");
    while let Some(segment) = segments.next() {
        here = match here {
            Shape::Table(known) => {
                let key = segment.to_lowercase();
                let Some(below) = known.get(&key) else {
                    return Err(fail(unknown(&keys, &key, known.keys().map(String::as_str), shape)));
                };
                keys.push(key);
                below
            }
            Shape::Map(inner) if matches!(**inner, Shape::Leaf(_)) => {
                // The names of a child's variables may hold `__` themselves.
                let name = segments.by_ref().fold(segment.to_owned(), |name, more| format!("{name}__{more}"));
                keys.push(name);
                inner
            }
            Shape::Map(inner) => {
                let name = segment.to_lowercase();
                let same = |known: &&String| known.to_lowercase().replace('-', "_") == name;
                keys.push(servers.iter().find(same).cloned().unwrap_or(name));
                inner
            }
            Shape::Leaf(_) | Shape::List(_) => {
                return Err(fail(format!("unknown setting: `{}` has no parts", keys.join("."))));
            }
        };
    }
    let value = match here {
        Shape::Leaf(Kind::Text) => Value::String(text.to_owned()),
        Shape::Leaf(kind) => parse(text)
            .filter(|value| is(*kind, value))
            .ok_or_else(|| fail(format!("want {}, not {text:?}", kind.wanted())))?,
        Shape::List(_) => parse(text).filter(Value::is_array).ok_or_else(|| {
            fail(r#"want a TOML list such as [{ principal = "alice", sha256 = "…" }]"#.to_owned())
        })?,
        Shape::Table(known) => {
            let names: Vec<String> =
                known.keys().map(|key| format!("{variable}__{}", key.to_uppercase())).collect();
            return Err(fail(format!("names a section; its settings are {}", names.join(", "))));
        }
        Shape::Map(_) => return Err(fail(format!("names a section; want {variable}__NAME"))),
    };
    Ok(Setting { keys, value })
}

fn unknown<'a>(
    above: &[String],
    key: &str,
    siblings: impl Iterator<Item = &'a str>,
    shape: &Shape,
) -> String {
    let hint = nearest(key, siblings).map(|near| {
        let mut path = above.to_vec();
        path.push(near.to_owned());
        path
    });
    // `OUTLAST_SERVER_LISTEN`, or a section left out: compare with every whole name.
    let hint = hint.or_else(|| {
        let typed = above.iter().map(String::as_str).chain([key]).collect::<Vec<_>>().join("_");
        let paths = shape.paths();
        let flat: Vec<String> = paths.iter().map(|path| path.replace('.', "_")).collect();
        let near = nearest(&typed, flat.iter().map(String::as_str));
        let at = flat.iter().position(|path| Some(path.as_str()) == near);
        let path = at.and_then(|at| paths.get(at).cloned()).or_else(|| shape.elsewhere(key))?;
        Some(path.split('.').map(str::to_owned).collect())
    });
    match hint {
        Some(path) => format!("unknown setting; did you mean {PREFIX}{}?", path.join("__").to_uppercase()),
        None => "unknown setting; `outlast config show` lists them all".to_owned(),
    }
}

fn parse(text: &str) -> Option<Value> {
    let mut table: toml::Table = toml::from_str(&format!("value = {}", text.trim())).ok()?;
    // More than one key: the text went on after its value.
    (table.len() == 1).then(|| table.remove("value")).flatten()
}

fn is(kind: Kind, value: &Value) -> bool {
    match kind {
        Kind::Text => value.is_str(),
        Kind::Integer => value.is_integer(),
        Kind::Boolean => value.is_bool(),
        Kind::Texts => value.as_array().is_some_and(|items| items.iter().all(Value::is_str)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setting(variable: &str, text: &str) -> Result<(String, Value), String> {
        read(variable, text, &Shape::of_config(), &["My-Server".to_owned()])
            .map(|setting| (setting.keys.join("."), setting.value))
            .map_err(|problem| problem.to_string())
    }

    #[test]
    fn names_become_key_paths_and_texts_become_values() {
        for (variable, text, path, value) in [
            ("OUTLAST_MODE", "local", "mode", Value::from("local")),
            ("OUTLAST_SERVER__LISTEN", "127.0.0.1:1", "server.listen", Value::from("127.0.0.1:1")),
            ("OUTLAST_SERVER__MAX_CONNECTIONS", " 1_000 ", "server.max_connections", Value::from(1000)),
            ("OUTLAST_TOOLS__CODE", "false", "tools.code", Value::from(false)),
            (
                "OUTLAST_SERVER__ALLOWED_HOSTS",
                r#"["a", "b"]"#,
                "server.allowed_hosts",
                Value::from(vec!["a", "b"]),
            ),
            ("OUTLAST_SERVERS__FS__COMMAND", "true", "servers.fs.command", Value::from("true")),
            ("OUTLAST_SERVERS__MY_SERVER__COMMAND", "x", "servers.My-Server.command", Value::from("x")),
            ("OUTLAST_SERVERS__FS__ENV__Api__KEY", "1", "servers.fs.env.Api__KEY", Value::from("1")),
        ] {
            assert_eq!(setting(variable, text), Ok((path.to_owned(), value)));
        }
    }

    #[test]
    fn an_unknown_name_names_the_nearest_setting() {
        for (variable, part) in [
            ("OUTLAST_SERVER__LISTN", "did you mean OUTLAST_SERVER__LISTEN?"),
            ("OUTLAST_SERVER_LISTEN", "did you mean OUTLAST_SERVER__LISTEN?"),
            ("OUTLAST_LISTEN", "did you mean OUTLAST_SERVER__LISTEN?"),
            ("OUTLAST_SERVERS__FS__COMAND", "did you mean OUTLAST_SERVERS__FS__COMMAND?"),
            ("OUTLAST_COLOUR", "`outlast config show` lists them all"),
            ("OUTLAST_SERVER", "OUTLAST_SERVER__LISTEN"),
            ("OUTLAST_MODE__X", "`mode` has no parts"),
            ("OUTLAST_SERVERS", "OUTLAST_SERVERS__NAME"),
        ] {
            let shown = setting(variable, "x").unwrap_err();
            assert!(shown.starts_with(&format!("{variable}: ")) && shown.contains(part), "{shown}");
        }
    }

    #[test]
    fn a_value_of_the_wrong_kind_says_what_is_wanted() {
        for (variable, text, part) in [
            ("OUTLAST_SERVER__MAX_CONNECTIONS", "many", "want a whole number"),
            ("OUTLAST_SERVER__MAX_CONNECTIONS", "", "want a whole number"),
            ("OUTLAST_SERVER__MAX_CONNECTIONS", "1\nother = 2", "want a whole number"),
            ("OUTLAST_TOOLS__CODE", "yes", "true or false"),
            ("OUTLAST_SERVER__ALLOWED_HOSTS", "a,b", "a list of texts"),
            ("OUTLAST_AUTH__TOKENS", "abc", "a TOML list"),
        ] {
            let shown = setting(variable, text).unwrap_err();
            assert!(shown.contains(part), "{shown}");
        }
    }
}
