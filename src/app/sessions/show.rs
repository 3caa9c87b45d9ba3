//! Answers of the admin listener as people read them.

use std::fmt::Write as _;

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::app::Failure;
use crate::app::text::{Table, duration, moment, printable, size};

/// Any answer, for programs.
pub(super) fn json(value: &Value) -> String {
    format!("{value:#}\n")
}

/// Part of an array that is printed in pieces, one row per line; `first`: it begins here.
pub(super) fn json_rows(rows: &[Value], first: bool) -> String {
    let mut text = String::new();
    for (at, row) in rows.iter().enumerate() {
        text.push_str(if first && at == 0 { "[\n" } else { ",\n" });
        let _ = write!(text, "  {row}");
    }
    text
}

/// A page of sessions; `first`: with its heading.
pub(super) fn sessions(rows: &[Value], first: bool) -> String {
    let mut table = Table::new(&[
        "KEY                   ",
        "LAST USED           ",
        "IDLE LEFT",
        "DEADLINE            ",
        "SIZE      ",
        "FIELDS",
        "PRINCIPAL",
    ]);
    for row in rows {
        table.row([
            text(row, "key"),
            moment(number(row, "last_seen_ms")),
            // As wide as any, so that pages line up.
            format!("{:<9}", duration(number(row, "idle_left_ms"))),
            moment(number(row, "deadline_ms")),
            size(number(row, "bytes")),
            number(row, "fields").to_string(),
            principal(row),
        ]);
    }
    let lines = table.lines("");
    match (first, lines.split_once('\n')) {
        (false, Some((_, rest))) => rest.to_owned(),
        _ => lines,
    }
}

/// One session in detail.
pub(super) fn session(session: &Value) -> String {
    let created = match number(session, "created_ms") {
        0 => "unknown".to_owned(),
        created => moment(created),
    };
    let live = match session.get("live").filter(|live| live.is_object()) {
        Some(live) => {
            format!("in memory, {} streams, {} calls", number(live, "streams"), number(live, "calls"))
        }
        None => "on disk".to_owned(),
    };
    let mut out = facts(&[
        ("key", text(session, "key")),
        ("kind", text(session, "kind")),
        ("principal", principal(session)),
        ("created", created),
        ("last used", moment(number(session, "last_seen_ms"))),
        ("idle left", duration(number(session, "idle_left_ms"))),
        ("deadline", moment(number(session, "deadline_ms"))),
        ("version", text(session, "version")),
        ("size", size(number(session, "bytes"))),
        ("where", live),
    ]);
    if session.get("ended").and_then(Value::as_bool) == Some(true) {
        out.push_str("this session was ended; what is left of it goes at its deadline\n");
    }
    section(&mut out, session, "values", &["NAME", "SIZE", "VERSION"], |value| {
        vec![text(value, "name"), size(number(value, "bytes")), text(value, "version")]
    });
    section(&mut out, session, "fields", &["NAME (READ-ONLY)", "SIZE", "CONTENT"], |field| {
        let content: String = text(field, "text").chars().take(60).collect();
        vec![text(field, "name"), size(number(field, "bytes")), content]
    });
    if let Some(live) = session.get("live") {
        section(&mut out, live, "running", &["CALL", "TOOL", "STATE", "SINCE"], |call| {
            // It is a client's own text.
            let id = call.get("id").map_or_else(String::new, Value::to_string);
            let id: String = id.chars().take(60).collect();
            vec![
                printable(&id).into_owned(),
                text(call, "tool"),
                text(call, "state").replace('_', " "),
                duration(number(call, "seconds") * 1_000),
            ]
        });
    }
    section(&mut out, session, "streams", &["STREAM", "ENTRIES", "SIZE", "LAST", "ENDED"], |stream| {
        let ended = stream.get("ended").and_then(Value::as_bool) == Some(true);
        vec![
            text(stream, "name"),
            number(stream, "entries").to_string(),
            size(number(stream, "bytes")),
            format!("{}-{}", text(stream, "origin"), number(stream, "last")),
            if ended { "yes" } else { "no" }.to_owned(),
        ]
    });
    section(&mut out, session, "runs", &["ORIGIN", "FROM", "TO"], |run| {
        vec![text(run, "origin"), number(run, "base").to_string(), number(run, "high_water").to_string()]
    });
    section(&mut out, session, "locks", &["LOCK", "SCOPE", "FENCE", "UNTIL"], |lock| {
        let until = lock.get("expires_ms").and_then(Value::as_u64).map_or_else(|| "free".to_owned(), moment);
        vec![text(lock, "name"), text(lock, "scope"), number(lock, "fence").to_string(), until]
    });
    section(&mut out, session, "results", &["RESULT", "SIZE", "KEPT UNTIL"], |result| {
        vec![text(result, "name"), size(number(result, "bytes")), moment(number(result, "expires_ms"))]
    });
    out
}

/// A session that was made, or was there.
pub(super) fn created(told: &Value) -> String {
    match told.get("session_id") {
        Some(_) => facts(&[
            ("key", text(told, "key")),
            ("deadline", moment(number(told, "deadline_ms"))),
            ("session id", text(told, "session_id")),
        ]),
        None => format!("{}: is there already, version {}\n", text(told, "key"), text(told, "version")),
    }
}

/// A page of values that lost; `first`: with its heading.
pub(super) fn conflicts(rows: &[Value], first: bool) -> String {
    let mut table = Table::new(&[
        "NOTICED             ",
        "KEY                   ",
        "WRITTEN             ",
        "BY      ",
        "LOST TO ",
        "NAME",
        "VALUE",
    ]);
    for row in rows {
        let lost_to = row.get("lost_to").cloned().unwrap_or_default();
        let value = match (row.get("text").and_then(Value::as_str), text(row, "lost").as_str()) {
            (Some(value), _) if value.chars().count() <= 60 => value.to_owned(),
            (_, "removal") => "(a removal)".to_owned(),
            (_, "sealed") => "(its key is gone)".to_owned(),
            // Whole with --json.
            _ => match row.get("bytes").and_then(Value::as_u64) {
                Some(bytes) => format!("({})", size(bytes)),
                None => "(not shown)".to_owned(),
            },
        };
        table.row([
            moment(number(row, "at_ms")),
            text(row, "key"),
            moment(number(row, "written_ms")),
            text(row, "origin"),
            text(&lost_to, "origin"),
            text(row, "name"),
            value,
        ]);
    }
    let lines = table.lines("");
    match (first, lines.split_once('\n')) {
        (false, Some((_, rest))) => rest.to_owned(),
        _ => lines,
    }
}

/// What became of a value or a session.
pub(super) fn change(told: &Value) -> String {
    match told.get("version") {
        Some(_) => format!("{}: version {}\n", text(told, "key"), text(told, "version")),
        None => format!("{}: ended\n", text(told, "key")),
    }
}

/// How long a session has.
pub(super) fn ttl(told: &Value) -> String {
    facts(&[
        ("idle left", duration(number(told, "idle_left_ms"))),
        ("left", duration(number(told, "left_ms"))),
        ("deadline", moment(number(told, "deadline_ms"))),
    ])
}

/// A lock, with the token that its holder needs.
pub(super) fn lock(told: &Value) -> String {
    if told.get("released").is_some() {
        return format!("{}: released\n", printable(&text(told, "name")));
    }
    facts(&[
        ("token", text(told, "token")),
        ("scope", among(told)),
        ("fence", number(told, "fence").to_string()),
        ("until", moment(number(told, "expires_ms"))),
        ("count on", duration(number(told, "valid_ms"))),
    ])
}

/// How a lock stands.
pub(super) fn lock_state(told: &Value) -> String {
    let until = told.get("expires_ms").and_then(Value::as_u64).map_or_else(|| "free".to_owned(), moment);
    let mut rows = vec![
        ("lock", text(told, "name")),
        ("scope", among(told)),
        ("fence", number(told, "fence").to_string()),
        ("until", until),
    ];
    if told.get("session").is_some_and(Value::is_string) {
        rows.push(("session", text(told, "session")));
    }
    facts(&rows)
}

/// Among whom a lock has one holder.
fn among(lock: &Value) -> String {
    match text(lock, "scope").as_str() {
        "global" => "global: one holder among all instances".to_owned(),
        _ => "instance: no other instance sees it".to_owned(),
    }
}

/// A session that was put in.
pub(super) fn imported(told: &Value) -> String {
    format!("{}: imported, version {}\n", text(told, "key"), text(told, "version"))
}

/// How the server is.
pub(super) fn status(status: &Value) -> String {
    let engine = status.get("engine").cloned().unwrap_or_default();
    let admin = status.get("admin").and_then(Value::as_str).unwrap_or("none");
    let mut out = facts(&[
        ("status", text(status, "status")),
        ("version", text(status, "version")),
        ("mode", text(status, "mode")),
        ("data", text(status, "data_dir")),
        ("admin", admin.to_owned()),
        (
            "sessions",
            format!("{}, {} in memory", number(&engine, "sessions"), number(&engine, "sessions_loaded")),
        ),
        ("streams", number(&engine, "streams").to_string()),
        ("calls", number(&engine, "calls").to_string()),
        ("locks", locks(status.get("locks").unwrap_or(&Value::Null))),
        ("cache", status.get("cache").map(cache).unwrap_or_default()),
    ]);
    if let Some(checks) = status.get("checks").and_then(Value::as_object) {
        out.push('\n');
        let rows: Vec<(&str, String)> = checks
            .iter()
            .map(|(name, outcome)| (name.as_str(), outcome.as_str().unwrap_or_default().to_owned()))
            .collect();
        out.push_str(&facts(&rows));
    }
    section(
        &mut out,
        status,
        "servers",
        &["SERVER", "STATE", "CHILDREN", "CALLS", "MEMORY", "STARTED", "DIED", "TOOLS"],
        |server| {
            vec![
                text(server, "server"),
                text(server, "state"),
                match server.get("remote") {
                    Some(_) => "remote".to_owned(),
                    None => format!("{} of {}", number(server, "children"), number(server, "max_children")),
                },
                number(server, "calls").to_string(),
                size(number(server, "memory_bytes")),
                number(server, "started").to_string(),
                number(server, "died").to_string(),
                number(server, "tools").to_string(),
            ]
        },
    );
    for server in status.get("servers").and_then(Value::as_array).into_iter().flatten() {
        let why = match (text(server, "parked"), text(server, "listing")) {
            (parked, _) if !parked.is_empty() => {
                format!("not started for {} s: {parked}", number(server, "parked_seconds"))
            }
            _ if server.pointer("/remote/refused").is_some_and(Value::is_string) => {
                let remote = server.get("remote").cloned().unwrap_or_default();
                format!(
                    "not called for {} s: {}",
                    number(&remote, "refused_seconds"),
                    text(&remote, "refused")
                )
            }
            (_, listing) if !listing.is_empty() => format!("its tools cannot be listed: {listing}"),
            _ => continue,
        };
        let _ = writeln!(out, "\n{}:", printable(&text(server, "server")));
        why.lines().for_each(|line| {
            let _ = writeln!(out, "  {}", printable(line));
        });
    }
    if let Some(redis) = status.get("redis").filter(|redis| redis.is_object()) {
        links(&mut out, redis);
    }
    out
}

/// How many locks are held, and how many could not be given.
fn locks(counts: &Value) -> String {
    let held = format!("{} here, {} among all", number(counts, "instance"), number(counts, "global"));
    match number(counts, "refused_instance") + number(counts, "refused_global") {
        0 => held,
        refused => format!("{held}, {refused} refused"),
    }
}

/// The cache of results in a line.
pub(in crate::app) fn cache(stats: &Value) -> String {
    if number(stats, "max_bytes") == 0 {
        return "off".to_owned();
    }
    let rate = stats.get("hit_rate").and_then(Value::as_f64).unwrap_or_default() * 100.0;
    format!("{} results, {}, {rate:.0} % hits", number(stats, "entries"), size(number(stats, "bytes")))
}

/// The links to Redis, and what is owed over them.
fn links(out: &mut String, redis: &Value) {
    let empty = Vec::new();
    let of = |value: &Value, name: &str| value.get(name).and_then(Value::as_array).cloned();
    let known = redis.get("links").cloned().unwrap_or_default();
    for link in of(&known, "links").as_ref().unwrap_or(&empty) {
        let lease = link.get("lease_age_ms").and_then(Value::as_u64);
        let offset = link.get("clock_offset_ms").and_then(Value::as_i64);
        let _ = write!(
            out,
            "\nshard {}     {} ({}) since {}\n",
            number(link, "shard"),
            printable(&text(link, "state")),
            printable(&text(link, "reason")),
            moment(number(link, "since_ms")),
        );
        let mut rows = vec![
            ("server", format!("{} {} {}", text(link, "address"), text(link, "role"), text(link, "version"))),
            ("run id", text(link, "run_id")),
            ("lease", lease.map_or_else(|| "none".to_owned(), |age| format!("{age} ms old"))),
            (
                "clock",
                offset.map_or_else(|| "not known".to_owned(), |ms| format!("{ms} ms ahead of this one")),
            ),
        ];
        if link.get("problem").is_some_and(Value::is_string) {
            rows.push(("problem", text(link, "problem")));
        }
        for (name, value) in rows {
            let _ = writeln!(out, "  {name:<9} {}", printable(&value));
        }
    }
    for problem in of(&known, "problems").as_ref().unwrap_or(&empty) {
        let _ = writeln!(out, "problem     {}", printable(problem.as_str().unwrap_or_default()));
    }
    let instances = of(&known, "instances").map_or(0, |all| all.len());
    let sharing = redis.get("sharing").cloned().unwrap_or_default();
    let more = if sharing.get("more_on_disk") == Some(&Value::Bool(true)) { " or more" } else { "" };
    let auditing =
        if sharing.get("auditing") == Some(&Value::Bool(true)) { ", an audit goes on" } else { "" };
    out.push('\n');
    out.push_str(&facts(&[
        ("instances", instances.to_string()),
        ("owed", format!("{} sessions{more}", number(&sharing, "dirty_sessions"))),
        (
            "healed",
            format!(
                "{} sessions, {} in audits{auditing}",
                number(&sharing, "healed_sessions"),
                number(&sharing, "audited_sessions")
            ),
        ),
        ("conflicts", number(&sharing, "conflicts").to_string()),
    ]));
    let faults = number(&sharing, "faults");
    if faults > 0 {
        let told = format!("{faults} times Redis had something else under a key of ours: the log says where");
        out.push_str(&facts(&[("faults", told)]));
    }
    if sharing.get("trouble").is_some_and(Value::is_string) {
        out.push_str(&facts(&[("trouble", text(&sharing, "trouble"))]));
    }
}

/// The bytes of a value.
pub(super) fn content(told: &Value) -> Result<Vec<u8>, Failure> {
    if let Some(text) = told.get("text").and_then(Value::as_str) {
        return Ok(text.as_bytes().to_vec());
    }
    let encoded = told.get("base64").and_then(Value::as_str).context("the answer has no value")?;
    Ok(STANDARD.decode(encoded).context("the answer has a broken value")?)
}

fn facts(rows: &[(&str, String)]) -> String {
    let mut out = String::new();
    for (name, value) in rows {
        let _ = writeln!(out, "{name:<10}  {}", printable(value));
    }
    out
}

fn section(
    out: &mut String,
    session: &Value,
    name: &str,
    heading: &[&str],
    row: impl Fn(&Value) -> Vec<String>,
) {
    let rows = session.get(name).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    if rows.is_empty() {
        return;
    }
    let mut table = Table::new(heading);
    rows.iter().for_each(|each| table.row(row(each)));
    out.push('\n');
    out.push_str(&table.lines(""));
}

fn principal(row: &Value) -> String {
    let hash = text(row, "principal");
    match row.get("principal_name").and_then(Value::as_str) {
        Some(name) => format!("{name} ({hash})"),
        None => hash,
    }
}

fn text(value: &Value, name: &str) -> String {
    value.get(name).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn number(value: &Value, name: &str) -> u64 {
    value.get(name).and_then(Value::as_u64).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn pages_line_up_under_one_heading() {
        let row = |bytes: u64, idle: u64| {
            json!({ "key": "A".repeat(22), "last_seen_ms": 0, "idle_left_ms": idle, "deadline_ms": 1, "bytes": bytes,
                    "fields": 1, "principal": "ab", "principal_name": null })
        };
        let first = sessions(&[row(1, 86_399_000)], true);
        let second = sessions(&[row(1_047_552, 5_000), row(0, 0)], false);
        assert_eq!((first.lines().count(), second.lines().count()), (2, 2));
        let places: Vec<usize> =
            first.lines().skip(1).chain(second.lines()).filter_map(|line| line.find(" 1  ")).collect();
        assert!(places.len() == 3 && places.iter().all(|place| *place == places[0]), "{first}{second}");
    }

    #[test]
    fn an_array_is_printed_in_pieces() {
        let rows = [json!({"a": 1}), json!({"b": 2})];
        let text = format!("{}{}\n]\n", json_rows(&rows[..1], true), json_rows(&rows[1..], false));
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), json!(rows));
    }

    #[test]
    fn a_value_comes_out_as_it_is() {
        assert_eq!(content(&json!({ "text": "a\n" })).unwrap(), b"a\n");
        assert_eq!(content(&json!({ "base64": "/wA=" })).unwrap(), b"\xff\x00");
        assert!(content(&json!({})).is_err() && content(&json!({ "base64": "!" })).is_err());
    }
}
