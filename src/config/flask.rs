//! The environment variables of the Flask bridge, for those who come from it: below everything else that can be said.

use secrecy::SecretString;
use toml::Value;

use super::error::{Problem, Source};
use crate::base::percent::encode;

/// One variable as a setting.
#[derive(Debug)]
pub(super) struct Setting {
    /// The keys down to the value.
    pub(super) keys: Vec<String>,
    /// The value.
    pub(super) value: Value,
    /// The variable that says it.
    pub(super) variable: &'static str,
}

/// What the variables say.
#[derive(Debug, Default)]
pub(super) struct Read {
    /// Settings.
    pub(super) settings: Vec<Setting>,
    /// What should be said but does not stop the start.
    pub(super) warnings: Vec<String>,
}

type Variables<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The port on which the Flask bridge listens where nobody says one.
const PORT: u16 = 33_000;

impl Read {
    fn set(&mut self, key: &str, value: impl Into<Value>, variable: &'static str) {
        let keys = key.split('.').map(str::to_owned).collect();
        self.settings.push(Setting { keys, value: value.into(), variable });
    }
}

/// Reads the variables. `servers`: the names of hosted servers.
///
/// # Errors
/// A number that is none.
pub(super) fn read(variables: Variables<'_>, servers: &[String]) -> Result<Read, Problem> {
    let mut read = Read::default();
    let host = text(variables, "MCP_CLIENT_HOST");
    let port = number(variables, "MCP_CLIENT_PORT", 65_535)?;
    if host.is_some() || port.is_some() {
        let variable = if port.is_some() { "MCP_CLIENT_PORT" } else { "MCP_CLIENT_HOST" };
        // Not on every address, as Flask does: who wants that says so.
        let host = host.unwrap_or_else(|| "127.0.0.1".to_owned());
        let port = port.unwrap_or_else(|| i64::from(PORT));
        let bare = host.contains(':') && !host.starts_with('[');
        let address = if bare { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        read.set("server.listen", address, variable);
    }
    for (key, names) in [
        ("sessions.idle_ttl_seconds", &["MCP_SESSION_IDLE_TTL"][..]),
        ("tools.call_timeout_seconds", &["MCP_TOOL_CALL_TIMEOUT", "MCP_REQUEST_TIMEOUT"]),
        ("bridge.validate_timeout_seconds", &["MCP_API_VALIDATION_TIMEOUT"]),
    ] {
        for name in names {
            if let Some(value) = number(variables, name, i64::MAX)? {
                read.set(key, value, name);
                if key == "tools.call_timeout_seconds" {
                    // It has one time for all tools.
                    read.set("tools.short_timeout_seconds", value, name);
                }
                break;
            }
        }
    }
    let start = number(variables, "MCP_SESSION_START_TIMEOUT", i64::MAX)?;
    let list = number(variables, "MCP_TOOL_LIST_TIMEOUT", i64::MAX)?;
    if let Some(longest) = start.max(list) {
        let variable = if start >= list { "MCP_SESSION_START_TIMEOUT" } else { "MCP_TOOL_LIST_TIMEOUT" };
        for server in servers {
            let keys = vec!["servers".into(), server.clone(), "start_timeout_seconds".into()];
            read.settings.push(Setting { keys, value: longest.into(), variable });
        }
    }
    if let Some(names) = text(variables, "MCP_SENSITIVE_PARAMS") {
        let names: Vec<String> =
            names.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect();
        read.set("bridge.sensitive", names, "MCP_SENSITIVE_PARAMS");
    }
    if let Some(level) = text(variables, "MCP_LOG_LEVEL") {
        let level = level.to_lowercase();
        let level = match level.as_str() {
            "warning" => "warn",
            "critical" | "fatal" => "error",
            "notset" => "trace",
            other => other,
        };
        read.set("log.level", level, "MCP_LOG_LEVEL");
    }
    let skipped = text(variables, "MCP_SKIP_VALIDATION")
        .is_some_and(|text| ["true", "1", "yes"].contains(&text.to_lowercase().as_str()));
    if let Some(base) = text(variables, "INSIGHT_DIGGER_API_URL").filter(|_| !skipped) {
        let url = format!("{}/settings/validate", base.trim_end_matches('/'));
        read.set("bridge.validate_url", url, "INSIGHT_DIGGER_API_URL");
    }
    if text(variables, "MCP_LOG_FILE").is_some() {
        read.warnings.push("MCP_LOG_FILE: logs go to stderr or to the journal; it is ignored".into());
    }
    Ok(read)
}

/// Where the Flask bridge keeps its sessions, by its own variables.
#[derive(Clone, Debug)]
pub struct FlaskRedis {
    /// `redis://…`
    pub url: SecretString,
    /// Until a connection stands, seconds.
    pub connect_timeout_seconds: u64,
    /// Until a command is answered, seconds.
    pub answer_timeout_seconds: u64,
    /// What its keys begin with, before the colon.
    pub prefix: String,
}

/// Where the Flask bridge keeps its sessions: `REDIS_HOST`, `REDIS_PORT`, `REDIS_DB`, `REDIS_PASSWORD`,
/// `REDIS_CONNECT_TIMEOUT`, `REDIS_SOCKET_TIMEOUT`, `MCP_SESSION_KEY_PREFIX`, and its defaults.
///
/// # Errors
/// A number that is none.
pub fn flask_redis(variables: &dyn Fn(&str) -> Option<String>) -> Result<FlaskRedis, Problem> {
    let seconds = |name| {
        number(variables, name, 3_600).map(|seconds| seconds.and_then(|seconds| seconds.try_into().ok()))
    };
    let host = text(variables, "REDIS_HOST").unwrap_or_else(|| "localhost".to_owned());
    let host = if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host };
    let port = number(variables, "REDIS_PORT", 65_535)?.unwrap_or(6_379);
    let database = text(variables, "REDIS_DB").map_or(Ok(0), |text| {
        let wrong = || Problem::at(Source::Variable("REDIS_DB".into()), "want a whole number such as 0");
        text.parse::<u32>().map_err(|_| wrong())
    })?;
    let password = text(variables, "REDIS_PASSWORD");
    let login = password.map_or_else(String::new, |password| format!(":{}@", encode(&password)));
    Ok(FlaskRedis {
        url: format!("redis://{login}{host}:{port}/{database}").into(),
        connect_timeout_seconds: seconds("REDIS_CONNECT_TIMEOUT")?.unwrap_or(5),
        answer_timeout_seconds: seconds("REDIS_SOCKET_TIMEOUT")?.unwrap_or(5),
        prefix: text(variables, "MCP_SESSION_KEY_PREFIX").unwrap_or_else(|| "mcp_session".to_owned()),
    })
}

fn text(variables: Variables<'_>, name: &str) -> Option<String> {
    let text = variables(name)?.trim().to_owned();
    // Kubernetes sets NAME_PORT for every service there is; that is nobody's wish.
    (!text.is_empty() && !text.starts_with("tcp://")).then_some(text)
}

fn number(variables: Variables<'_>, name: &str, most: i64) -> Result<Option<i64>, Problem> {
    let Some(text) = text(variables, name) else { return Ok(None) };
    match text.parse() {
        Ok(number) if (1..=most).contains(&number) => Ok(Some(number)),
        _ => Err(Problem::at(
            Source::Variable(name.to_owned()),
            format!("want a whole number above 0, not {text:?}"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;

    fn settings(variables: &[(&str, &str)]) -> Result<Vec<(String, String)>, String> {
        let find = |name: &str| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, text)| (*text).to_owned())
        };
        let read = read(&find, &["fs".to_owned()]).map_err(|problem| problem.to_string())?;
        let shown = |setting: Setting| (setting.keys.join("."), setting.value.to_string());
        Ok(read.settings.into_iter().map(shown).collect())
    }

    #[test]
    fn each_variable_becomes_its_setting() {
        for (name, text, key, value) in [
            ("MCP_CLIENT_PORT", "33000", "server.listen", "\"127.0.0.1:33000\""),
            ("MCP_CLIENT_HOST", "0.0.0.0", "server.listen", "\"0.0.0.0:33000\""),
            ("MCP_CLIENT_HOST", "::1", "server.listen", "\"[::1]:33000\""),
            ("MCP_SESSION_IDLE_TTL", "60", "sessions.idle_ttl_seconds", "60"),
            ("MCP_SESSION_START_TIMEOUT", "7", "servers.fs.start_timeout_seconds", "7"),
            ("MCP_TOOL_LIST_TIMEOUT", "8", "servers.fs.start_timeout_seconds", "8"),
            ("MCP_SENSITIVE_PARAMS", "apiUrl, key,", "bridge.sensitive", "[\"apiUrl\", \"key\"]"),
            ("MCP_LOG_LEVEL", "WARNING", "log.level", "\"warn\""),
            ("MCP_API_VALIDATION_TIMEOUT", "3", "bridge.validate_timeout_seconds", "3"),
            (
                "INSIGHT_DIGGER_API_URL",
                "https://h/api/",
                "bridge.validate_url",
                "\"https://h/api/settings/validate\"",
            ),
        ] {
            assert_eq!(settings(&[(name, text)]), Ok(vec![(key.to_owned(), value.to_owned())]), "{name}");
        }
        let both = [("MCP_TOOL_CALL_TIMEOUT", "310"), ("MCP_REQUEST_TIMEOUT", "300")];
        let times = |seconds: &str| {
            ["tools.call_timeout_seconds", "tools.short_timeout_seconds"]
                .map(|key| (key.to_owned(), seconds.to_owned()))
        };
        assert_eq!(settings(&both).unwrap(), times("310"));
        assert_eq!(settings(&[("MCP_REQUEST_TIMEOUT", "300")]).unwrap(), times("300"));
        let skipped = [("INSIGHT_DIGGER_API_URL", "https://h"), ("MCP_SKIP_VALIDATION", "TRUE")];
        assert_eq!(settings(&skipped), Ok(Vec::new()));
    }

    #[test]
    fn what_is_empty_or_set_by_kubernetes_is_passed_over_and_nonsense_is_named() {
        for text in ["", "  ", "tcp://10.0.0.1:80"] {
            assert_eq!(settings(&[("MCP_CLIENT_PORT", text)]), Ok(Vec::new()));
        }
        for (name, text) in
            [("MCP_CLIENT_PORT", "many"), ("MCP_CLIENT_PORT", "70000"), ("MCP_SESSION_IDLE_TTL", "0")]
        {
            let shown = settings(&[(name, text)]).unwrap_err();
            assert!(shown.starts_with(&format!("{name}: want a whole number")), "{shown}");
        }
    }

    #[test]
    fn the_place_of_its_sessions_is_put_together() {
        let place = |variables: &[(&str, &str)]| {
            let find = |name: &str| {
                variables.iter().find(|(known, _)| *known == name).map(|(_, text)| (*text).to_owned())
            };
            flask_redis(&find)
        };
        let default = place(&[]).unwrap();
        assert_eq!(default.url.expose_secret(), "redis://localhost:6379/0");
        assert_eq!((default.connect_timeout_seconds, default.prefix.as_str()), (5, "mcp_session"));
        let all = [
            ("REDIS_HOST", "h"),
            ("REDIS_PORT", "1"),
            ("REDIS_DB", "2"),
            ("REDIS_PASSWORD", "p@/:w"),
            ("REDIS_SOCKET_TIMEOUT", "9"),
            ("MCP_SESSION_KEY_PREFIX", "x"),
        ];
        let all = place(&all).unwrap();
        assert_eq!(all.url.expose_secret(), "redis://:p%40%2F%3Aw@h:1/2");
        assert_eq!((all.answer_timeout_seconds, all.prefix.as_str()), (9, "x"));
        assert!(place(&[("REDIS_DB", "a")]).unwrap_err().to_string().starts_with("REDIS_DB: "));
        assert_eq!(
            place(&[("REDIS_PORT", "tcp://10.0.0.1:6379")]).unwrap().url.expose_secret(),
            "redis://localhost:6379/0"
        );
    }
}
