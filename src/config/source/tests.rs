use std::fs;

use secrecy::ExposeSecret as _;

use super::super::redact;
use super::*;

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn with(self, name: &str, text: &str) -> Self {
        fs::write(self.0.path().join(name), text).unwrap();
        self
    }

    fn inputs(&self, environment: &[(&str, &str)]) -> Inputs {
        let mut all = vec![("HOME".into(), "/home/a".into())];
        all.extend(environment.iter().map(|(name, text)| (OsString::from(name), OsString::from(text))));
        Inputs { environment: all, current_dir: self.0.path().to_owned(), ..Inputs::default() }
    }
}

fn flag(name: &'static str, key: &'static str, value: &str) -> Flag {
    Flag { name, key, value: Value::from(value) }
}

#[test]
fn flags_go_over_the_environment_and_the_environment_over_the_file() {
    let place = Place::new().with(
        "config.toml",
        "[server]\nlisten = \"127.0.0.1:1\"\ndrain_seconds = 5\n[log]\nlevel = \"debug\"\n",
    );
    let mut inputs =
        place.inputs(&[("OUTLAST_SERVER__LISTEN", "127.0.0.1:2"), ("OUTLAST_LOG__LEVEL", "warn")]);
    inputs.flags.push(flag("--listen", "server.listen", "127.0.0.1:3"));
    let loaded = inputs.load().unwrap();
    assert_eq!(loaded.config.server.listen, "127.0.0.1:3");
    assert_eq!(loaded.config.log.level, "warn");
    assert_eq!(loaded.config.server.drain_seconds, 5);
    assert_eq!(loaded.source_of("server.listen").to_string(), "--listen");
    assert_eq!(loaded.source_of("log.level").to_string(), "OUTLAST_LOG__LEVEL");
    assert_eq!(loaded.source_of("server.drain_seconds").to_string(), "config.toml:3:17");
    assert_eq!(loaded.source_of("streams.retry_ms").to_string(), "default");
}

#[test]
fn an_error_names_where_its_value_came_from() {
    let place = Place::new().with("config.toml", "[server]\nmax_connections = 0\n");
    let shown = place.inputs(&[]).load().unwrap_err().to_string();
    assert!(
        shown.starts_with(
            "config.toml:2:19: `server.max_connections` is 0; want 1 to 1000000\n  2 | max_conn"
        ),
        "{shown}"
    );

    let shown =
        Place::new().inputs(&[("OUTLAST_SERVER__MAX_CONNECTIONS", "0")]).load().unwrap_err().to_string();
    assert!(shown.starts_with("OUTLAST_SERVER__MAX_CONNECTIONS: `server.max_connections` is 0"), "{shown}");

    let place = Place::new();
    for (value, part) in [("lokal", "--mode: "), ("canary", "--mode: modes `shadow` and `canary` come later")]
    {
        let mut inputs = place.inputs(&[]);
        inputs.flags.push(flag("--mode", "mode", value));
        let shown = inputs.load().unwrap_err().to_string();
        assert!(shown.starts_with(part), "{shown}");
    }
}

#[test]
fn all_wrong_variables_are_named_at_once() {
    let shown = Place::new().inputs(&[("OUTLAST_MOED", "x"), ("OUTLAST_LOG__LEVL", "x")]).load().unwrap_err();
    assert_eq!(shown.problems.len(), 2, "{shown}");
}

#[test]
fn a_named_file_must_be_there_and_an_unnamed_one_need_not() {
    let place = Place::new();
    assert!(place.inputs(&[]).load().is_ok());
    let missing = Inputs { file: Some("no.toml".into()), ..place.inputs(&[]) };
    let shown = missing.load().unwrap_err().to_string();
    assert!(shown.starts_with("no.toml: the configuration cannot be read"), "{shown}");
}

#[test]
fn servers_of_a_json_file_join_those_of_the_configuration() {
    let place = Place::new()
        .with("config.toml", "[servers.a]\ncommand = \"x\"\ncwd = \"sub\"\n")
        .with("m.json", r#"{"mcpServers": {"b-c": {"command": "y"}}}"#)
        .with("again.json", r#"{"mcpServers": {"a": {"command": "z"}}}"#)
        .with("url.json", r#"{"mcpServers": {"u": {"url": "http://h/mcp"}}}"#);
    let mut inputs = place.inputs(&[("OUTLAST_SERVERS__B_C__LIFETIME", "pool")]);
    inputs.mcp_json = vec!["m.json".into()];
    let loaded = inputs.load().unwrap();
    assert_eq!(loaded.config.servers["a"].cwd, place.0.path().join("sub"));
    assert_eq!(loaded.config.servers["b-c"].command, "y");
    assert_eq!(loaded.config.servers["b-c"].lifetime, super::super::Lifetime::Pool);
    assert_eq!(loaded.source_of("servers.b-c.command").to_string(), "m.json");

    inputs.mcp_json.push("again.json".into());
    let shown = inputs.load().unwrap_err().to_string();
    assert_eq!(
        shown,
        "again.json: the server `a` is configured already, at config.toml:1:10; rename one of the two"
    );
    inputs.mcp_json = vec!["m.json".into(), "m.json".into()];
    assert!(
        inputs.load().unwrap_err().to_string().contains("the server `b-c` is configured already, at m.json")
    );
    let mut inputs = place.inputs(&[]);
    inputs.mcp_json = vec!["url.json".into()];
    assert_eq!(inputs.load().unwrap().config.servers["u"].url, "http://h/mcp");
}

#[test]
fn the_data_directory_is_found_in_order() {
    let place = Place::new();
    let dir = |environment: &[(&str, &str)]| place.inputs(environment).load().unwrap().config.store.data_dir;
    assert_eq!(dir(&[]), Path::new("/home/a/.local/state/outlast"));
    assert_eq!(dir(&[("XDG_STATE_HOME", "/x")]), Path::new("/x/outlast"));
    assert_eq!(dir(&[("XDG_STATE_HOME", "/x"), ("STATE_DIRECTORY", "/s:/t")]), Path::new("/s"));
    assert_eq!(dir(&[("STATE_DIRECTORY", "/s"), ("OUTLAST_STORE__DATA_DIR", "d")]), place.0.path().join("d"));

    let nowhere = Inputs { environment: Vec::new(), ..place.inputs(&[]) };
    assert!(nowhere.load().unwrap_err().to_string().contains("--data-dir"));
    let mut ephemeral = nowhere;
    ephemeral.flags.push(Flag { name: "--ephemeral", key: "store.ephemeral", value: true.into() });
    assert!(ephemeral.load().is_ok());
}

#[test]
fn what_is_shown_has_sources_and_no_secrets() {
    let hash = "ab".repeat(32);
    let place = Place::new().with(
        "config.toml",
        &format!(
            "[[auth.tokens]]\nprincipal = \"alice\"\nsha256 = \"{hash}\"\n[servers.a]\ncommand = \"x\"\n\
             args = [\"--api-key\", \"hush\"]\nenv = {{ KEY = \"hush\" }}\n"
        ),
    );
    let loaded = place.inputs(&[("OUTLAST_LOG__LEVEL", "warn")]).load().unwrap();
    let shown = redact::show(&loaded);
    assert!(!shown.contains("hush") && !shown.contains(&hash), "{shown}");
    for part in [
        "mode = \"local\"  # default",
        "level = \"warn\"  # OUTLAST_LOG__LEVEL",
        "command = \"x\"  # config.toml:5:11",
        "[servers.a.env]\nKEY = \"[secret]\"  # config.toml:7:15",
        "data_dir = \"/home/a/.local/state/outlast\"  # HOME",
    ] {
        assert!(shown.contains(part), "{part} in\n{shown}");
    }
    assert!(toml::from_str::<Table>(&shown).is_ok(), "{shown}");
}

#[test]
fn an_error_about_a_secret_does_not_print_it() {
    let place = Place::new().with("config.toml", "[redis]\nurl = \"redis://:hush@h:x\"\n");
    let shown = place.inputs(&[]).load().unwrap_err().to_string();
    assert!(!shown.contains("hush") && shown.contains("config.toml:2:7"), "{shown}");
}

#[test]
fn an_address_of_redis_means_its_mode_unless_one_is_named() {
    let place = Place::new();
    let loaded = place.inputs(&[("OUTLAST_REDIS__URL", "redis://h")]).load().unwrap();
    assert_eq!(loaded.config.mode, crate::config::Mode::Redis);
    assert_eq!(loaded.source_of("mode").to_string(), "OUTLAST_REDIS__URL");
    let loaded =
        place.inputs(&[("OUTLAST_REDIS__URL", "redis://h"), ("OUTLAST_MODE", "local")]).load().unwrap();
    assert_eq!(loaded.config.mode, crate::config::Mode::Local);
}

#[test]
fn changed_keys_see_secrets_too() {
    let load = |text: &str| Place::new().with("config.toml", text).inputs(&[]).load().unwrap();
    let before = load("[servers.a]\ncommand = \"x\"\nenv = { K = \"1\" }\n[log]\nlevel = \"info\"\n");
    let after = load("[servers.a]\ncommand = \"x\"\nenv = { K = \"2\" }\n[log]\nlevel = \"warn\"\n");
    assert_eq!(before.changed_keys(&after), ["log.level", "servers.a.env.K"]);
    assert!(before.changed_keys(&before).is_empty());
}

/// Lines of config.toml that begin with `#` and no space are settings without a default: put to use, they must be
/// all the keys there are.
#[test]
fn the_reference_file_holds_every_key_with_its_default() {
    let text = include_str!("../../../config.toml");
    let parsed: Config = toml::from_str(text).unwrap();
    assert_eq!(Table::try_from(&parsed).unwrap(), Table::try_from(Config::default()).unwrap());

    let uncommented: String = text
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(setting) if !setting.starts_with(' ') => format!("{setting}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    let shape = Shape::of_config();
    let file = File::parse(Path::new("config.toml"), uncommented, &shape).unwrap();
    for path in shape.paths() {
        let section = path.strip_suffix(".NAME").unwrap_or(&path);
        assert!(file.values.contains_key(&path) || file.sections.contains_key(section), "{path} is missing");
    }
    let server: super::super::HostedServer =
        Config::deserialize(file.table).unwrap().servers.remove("NAME").unwrap();
    let default = super::super::HostedServer::default();
    assert_eq!(
        (server.lifetime, server.max_children, server.pool_size, server.start_timeout_seconds),
        (default.lifetime, default.max_children, default.pool_size, default.start_timeout_seconds)
    );
    assert_eq!(
        (server.call_timeout_seconds, server.idle_seconds),
        (default.call_timeout_seconds, default.idle_seconds)
    );
    assert!(server.env.values().all(|value| !value.expose_secret().is_empty()));
}

#[test]
fn the_variables_of_the_flask_bridge_are_below_everything_else() {
    let variables = [
        ("MCP_CLIENT_PORT", "33000"),
        ("MCP_SESSION_IDLE_TTL", "60"),
        ("MCP_SESSION_START_TIMEOUT", "9"),
        ("MCP_LOG_LEVEL", "DEBUG"),
        ("OUTLAST_LOG__LEVEL", "warn"),
    ];
    let file = "[sessions]\nidle_ttl_seconds = 5\n[servers.a]\ncommand = \"x\"\n";
    let loaded = Place::new().with("config.toml", file).inputs(&variables).load().unwrap();
    assert_eq!(loaded.config.server.listen, "127.0.0.1:33000");
    assert_eq!(loaded.source_of("server.listen").to_string(), "MCP_CLIENT_PORT");
    assert_eq!((loaded.config.sessions.idle_ttl_seconds, loaded.config.log.level.as_str()), (5, "warn"));
    assert_eq!(loaded.config.servers["a"].start_timeout_seconds, 9);

    let shown = Place::new().inputs(&[("MCP_CLIENT_HOST", "0.0.0.0")]).load().unwrap_err().to_string();
    assert!(shown.starts_with("MCP_CLIENT_HOST: 0.0.0.0:33000 can be reached"), "{shown}");
}

#[test]
fn the_redis_of_the_flask_bridge_is_taken_by_who_wants_one_and_names_no_other() {
    let redis = [("REDIS_HOST", "h"), ("REDIS_PORT", "7"), ("REDIS_PASSWORD", "p/w")];
    let url = |more: &[(&str, &str)]| {
        let all = [&redis[..], more].concat();
        let loaded = Place::new().inputs(&all).load().unwrap();
        (loaded.config.mode, loaded.config.redis.url.expose_secret().to_owned())
    };
    assert_eq!(url(&[]), (Mode::Local, String::new()));
    assert_eq!(url(&[("OUTLAST_MODE", "redis")]), (Mode::Redis, "redis://:p%2Fw@h:7/0".to_owned()));
    let other = [("OUTLAST_MODE", "redis"), ("OUTLAST_REDIS__URL", "redis://other")];
    assert_eq!(url(&other), (Mode::Redis, "redis://other".to_owned()));
}
